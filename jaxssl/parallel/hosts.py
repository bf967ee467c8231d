"""Several processes as one: how they find each other, global arrays from local rows, who speaks."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxssl.core import cpu_devices
from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.parallel import partners
from jaxssl.parallel.links import Patience, Place

FAILED = -2
PORTS = 65535
"""The last port there is."""
CHOSEN_FROM = 60_000
"""JAX takes the coordinator's port on Slurm and Open MPI by the job's number, 61440 to 65535: the
port after it is that of the next job, which may be on the same machine."""
CHOSEN_LESS = 50_000
"""How far below such a port the others are watched: 11440 to 15535, below the ports that systems
give out themselves."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of a run find each other. All get the same configuration, but for
    `process_id`, and see the same run directory. As it stands: one process."""

    auto: bool = False
    """Ask the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU), as `jax.distributed` does."""
    coordinator: str | None = None
    """Address of the first process, host:port ([host]:port for a host of IPv6)."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0. The first one prints, and writes what is written once."""
    timeout_seconds: int = 300
    """How long to wait for the others at the start."""
    lost_seconds: int = 30
    """How long to wait for a sign of life of another process; then all end with exit code 69."""
    watch_port: int | None = None
    """Port of the first process at which the others are watched; null is the coordinator's + 1, or
    with auto, where the cluster gives the coordinator a port of 60000 or more, that - 50000."""

    def __post_init__(self):
        check_at_least(1, self, "num_processes", "timeout_seconds", "lost_seconds", "watch_port")
        check_at_least(0, self, "process_id")
        given = (self.coordinator, self.num_processes, self.process_id)
        missing = given.count(None)
        if missing not in (0, 3) or (self.auto and not missing):
            raise UserError(
                "the processes are described by halves, or twice",
                where="coordinator, num_processes, process_id, auto",
                expected="the first three, or auto=true, or none of them",
                got=(*given, self.auto),
            )
        if self.process_id is not None and not 0 <= self.process_id < (self.num_processes or 0):
            raise UserError(
                "the process has no place among the others",
                where="process_id",
                expected=f"0 to {(self.num_processes or 0) - 1}, below num_processes",
                got=self.process_id,
            )
        _check_ports(self)


def _check_ports(config: DistributedConfig) -> None:
    """Refuses a coordinator without a host or a port, and ports that do not exist or are one."""
    watch_port = config.watch_port
    if watch_port is not None and watch_port > PORTS:
        raise UserError(
            "there is no such port",
            where="watch_port",
            expected=f"1 to {PORTS}",
            got=watch_port,
            fix="leave it out: it is then chosen by the coordinator's",
        )
    if config.coordinator is None:
        return
    address = config.coordinator
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s/\[\]:]+):([0-9]{1,5})", address)
    port = int(found[2]) if found else 0
    if not 1 <= port <= PORTS:
        raise UserError(
            "the coordinator's address cannot be used",
            where="coordinator",
            expected=f"host:port, the port 1 to {PORTS}",
            got=address,
            fix="write it as in localhost:12345, or [::1]:12345 for a host of IPv6",
        )
    if watch_port == port or (watch_port is None and port == PORTS):
        raise UserError(
            "there is no port left to watch the processes at",
            where="coordinator, watch_port",
            expected=f"two ports, 1 to {PORTS}: without watch_port the one after the coordinator's",
            got=(address, watch_port),
            fix=f"choose another port for the coordinator, {port - 1} say",
        )


def connect(config: DistributedConfig) -> None:
    """Joins the other processes; call it before anything asks for devices.

    Raises:
      UserError: they were not found in time, or devices are in use already.
    """
    if not config.auto and config.coordinator is None or jax.distributed.is_initialized():
        return
    try:
        coordinator, count, number = _find(config)
    except (RuntimeError, ValueError) as error:
        raise _not_joined(config, str(error)) from error
    host, _, port = coordinator.rpartition(":")
    partners.join(
        Place(host.strip("[]"), watch_port(config, int(port)), count, number),
        Patience(config.timeout_seconds, config.lost_seconds),
    )
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        cpu_devices.keep_order()
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator, count, number, initialization_timeout=config.timeout_seconds
        )
    except (RuntimeError, ValueError) as error:
        raise _not_joined(config, str(error)) from error


def watch_port(config: DistributedConfig, port: int) -> int:
    """The port at which the processes are watched: the same in all of them, without talking.

    Args:
      port: the coordinator's.
    """
    if config.watch_port is not None:
        return config.watch_port
    return port - CHOSEN_LESS if config.auto and port >= CHOSEN_FROM else port + 1


def _find(config: DistributedConfig) -> tuple[str, int, int]:
    """The coordinator's address, how many processes there are, and the number of this one."""
    if config.coordinator is not None:
        assert config.num_processes is not None and config.process_id is not None
        return config.coordinator, config.num_processes, config.process_id
    from jax._src.clusters import ClusterEnv  # what jax.distributed asks; nothing public does

    found = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, config.timeout_seconds
    )
    coordinator, count, number, _ = found
    if coordinator is None or count is None or number is None:
        raise ValueError("no cluster that JAX knows: Slurm, Open MPI, Kubernetes, Cloud TPU")
    port = coordinator.rpartition(":")[2]
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= PORTS):
        raise ValueError(f"the cluster's coordinator has no port 1 to {PORTS}: {coordinator}")
    return coordinator, count, number


def _not_joined(config: DistributedConfig, got: str) -> UserError:
    return UserError(
        "the processes could not be joined",
        where="distributed",
        expected=f"{config.num_processes or 'all'} processes at "
        f"{config.coordinator or 'addresses that the cluster knows'}",
        got=got[:300],
        fix="start all of them, with the same coordinator and each its own process_id",
    )


def is_first() -> bool:
    """Whether this process is the one that prints and writes what is written once."""
    return jax.process_index() == 0


def local_places(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The places in a global batch, ascending, whose rows this process's devices hold.

    Not simply a share: processes along the tensor axis hold the same rows, and a mesh may order
    devices otherwise than by process.
    """
    rows = np.arange(batch_size)
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([rows[index] for index in slices]))


def global_batch(
    rows: Mapping[str, np.ndarray], sharding: NamedSharding, batch_size: int
) -> dict[str, jax.Array]:
    """Global arrays laid out by `sharding`, of this process's rows: those at `local_places`."""
    if jax.process_count() == 1:
        return {name: jax.device_put(value, sharding) for name, value in rows.items()}
    places = local_places(sharding, batch_size)

    def assemble(local: np.ndarray) -> jax.Array:
        def part(index):
            first, *_ = np.arange(batch_size)[index[0]]
            start = int(np.searchsorted(places, first))
            return local[start : start + len(range(*index[0].indices(batch_size)))]

        shape = (batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: assemble(value) for name, value in rows.items()}


def agree(flag: bool) -> bool:
    """Whether any process raised the flag; every process must call this together."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def first_decides(decide: Callable[[], int]) -> int:
    """What `decide` returns in the first process (at least -1), in every process.

    All must call this together. If it raises in the first process, it raises in all.
    """
    if jax.process_count() == 1:
        return decide()
    from jax.experimental import multihost_utils

    number, error = FAILED, None
    if is_first():
        try:
            number = decide()
        except Exception as found:
            error = found
    number = int(multihost_utils.broadcast_one_to_all(np.asarray(number)))
    if error is not None:
        raise error
    if number == FAILED:
        raise UserError(
            "the first process failed", where="process 0", got="an error that it reports itself"
        )
    return number


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
