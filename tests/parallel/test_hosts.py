"""Where the processes find each other: the coordinator's address, and the port to watch them at."""

import dataclasses

import pytest

from jaxssl.core.errors import UserError
from jaxssl.parallel.hosts import DistributedConfig, _find, connect, watch_port

TOGETHER = dict(num_processes=2, process_id=0)


@pytest.mark.parametrize(
    "address",
    [
        *("localhost", "localhost:", ":1234", "localhost:0", "localhost:65536", "localhost:x"),
        *("localhost:999999999999", "http://localhost:1234", "::1:1234", "a host:1234", ""),
    ],
)
def test_an_address_of_the_coordinator_that_is_none_is_refused(address):
    with pytest.raises(UserError, match="host:port, the port 1 to 65535") as raised:
        DistributedConfig(coordinator=address, **TOGETHER)
    assert raised.value.where == "coordinator" and raised.value.got == address


@pytest.mark.parametrize("address", ["localhost:1", "node-1.cluster_a:65534", "[fe80::1%en0]:99"])
def test_the_processes_are_watched_at_the_port_after_the_one_that_is_given(address):
    config = DistributedConfig(coordinator=address, **TOGETHER)
    port = int(address.rpartition(":")[2])
    assert watch_port(config, port) == port + 1
    assert watch_port(dataclasses.replace(config, watch_port=65535), port) == 65535


@pytest.mark.parametrize(
    ("port", "watched", "where"),
    [
        (1234, 65536, "watch_port"),
        (1234, 70000, "watch_port"),
        (1234, 0, "watch_port"),
        (1234, 1234, "coordinator, watch_port"),
        (65535, None, "coordinator, watch_port"),
    ],
)
def test_a_port_that_does_not_exist_or_is_taken_by_the_coordinator_is_refused(port, watched, where):
    with pytest.raises(UserError) as raised:
        DistributedConfig(coordinator=f"localhost:{port}", watch_port=watched, **TOGETHER)
    assert raised.value.where == where


def given_by_slurm(job, monkeypatch):
    """The variables of a task of Slurm."""
    given = {"JOB_ID": job, "STEP_NODELIST": "node[1-2]", "NTASKS": 2, "PROCID": 1, "LOCALID": 0}
    for name, value in {**given, "STEP_NUM_NODES": 2}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def slurm_port(job, monkeypatch):
    """The coordinator's port that JAX finds in a job of Slurm."""
    given_by_slurm(job, monkeypatch)
    address, count, number = _find(DistributedConfig(auto=True))
    assert (count, number) == (2, 1) and address.startswith("node1:")
    return int(address.rpartition(":")[2])


def test_no_job_of_slurm_is_watched_at_a_port_of_another(monkeypatch):
    """JAX chooses 61440 + the job's number modulo 4096: with the next port for ourselves, the last
    had none, and each had that of the next job's coordinator."""
    monkeypatch.delenv("JAX_COORDINATOR_PORT", raising=False)
    ports = [slurm_port(job, monkeypatch) for job in (0, 1, 4094, 4095)]
    assert ports == [61440, 61441, 65534, 65535]
    auto = DistributedConfig(auto=True)
    watched = [watch_port(auto, port) for port in range(61440, 65536)]
    assert len({*watched}) == 4096 and 1024 <= min(watched) <= max(watched) < 61440
    assert [watch_port(auto, port) for port in (8482, 55527)] == [8483, 55528]  # one job a machine
    assert watch_port(DistributedConfig(auto=True, watch_port=99), 61440) == 99


@pytest.mark.parametrize("port", ["70000", "0", "http"])
def test_a_port_of_the_environment_that_does_not_exist_is_refused(port, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_PORT", port)
    given_by_slurm(0, monkeypatch)
    with pytest.raises(UserError, match="could not be joined") as raised:
        connect(DistributedConfig(auto=True, timeout_seconds=1))
    assert f"no port 1 to 65535: node1:{port}" in str(raised.value.got)
