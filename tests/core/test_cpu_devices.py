"""Simulated devices have threads enough: programs in flight do not wait for each other for ever."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.core import cpu_devices
from jaxssl.core.cpu_devices import ORDER


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({"JAX_NUM_CPU_DEVICES": "64"}, "128"),
        ({"XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=64 --xla_b"}, "128"),
        ({"JAX_NUM_CPU_DEVICES": "64", "PJRT_NPROC": "3"}, "3"),
        ({"JAX_NUM_CPU_DEVICES": "64", "NPROC": "3"}, None),
        ({"JAX_NUM_CPU_DEVICES": "1"}, None),
        ({}, None),
    ],
)
def test_each_simulated_device_gets_two_threads_unless_the_user_says_otherwise(
    given, threads, monkeypatch
):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cpu_devices.make_room()
    assert os.environ.get("PJRT_NPROC") == threads


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"JAX_NUM_CPU_DEVICES": "2"}, f"{ORDER}=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
        (
            {"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": "--xla_a=1"},
            f"--xla_a=1 {ORDER}=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        ),
        ({"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": f"{ORDER}=x"}, f"{ORDER}=x"),
        ({"XLA_FLAGS": "--xla_a=1"}, "--xla_a=1"),
    ],
)
def test_several_devices_get_the_schedule_that_keeps_their_order_unless_the_user_chose_one(
    given, chosen, monkeypatch
):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cpu_devices.make_room()
    assert os.environ["XLA_FLAGS"] == chosen


def test_a_later_jax_is_not_given_a_flag_that_it_may_not_know(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax, "__version_info__", (0, 13, 0))
    cpu_devices.keep_order()
    assert os.environ["XLA_FLAGS"] == ""


def test_the_tests_themselves_run_under_it():
    assert f"{ORDER}=" in os.environ["XLA_FLAGS"]


def test_few_cores_are_no_fewer_threads(monkeypatch):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 40)
    cpu_devices.make_room()
    assert os.environ.pop("PJRT_NPROC") == "40"


def test_many_programs_in_flight_all_end():
    """Two thousand that nobody waits for; with a thread for each device and few cores, XLA ends the
    process here."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    x, weights = (jax.device_put(x, rows) for x in (jnp.ones((64, 256)), jnp.eye(256)))

    @jax.jit
    def step(x, weights):
        for _ in range(3):
            x = jax.lax.with_sharding_constraint(x @ weights, rows)
        return x, weights * 1.0, x.sum()

    for _ in range(2000):
        x, weights, total = step(x, weights)
    assert float(total) == 64 * 256
