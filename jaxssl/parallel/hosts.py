"""Several processes as one: how they find each other, global arrays from local rows, who speaks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError

FAILED = -2


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of a run find each other. All get the same configuration, but for
    `process_id`, and see the same run directory. As it stands: one process."""

    auto: bool = False
    """Ask the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU), as `jax.distributed` does."""
    coordinator: str | None = None
    """Address of the first process, host:port."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0. The first one prints, and writes what is written once."""
    timeout_seconds: int = 300
    """How long to wait for the others at the start."""

    def __post_init__(self):
        check_at_least(1, self, "num_processes", "timeout_seconds")
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


def connect(config: DistributedConfig) -> None:
    """Joins the other processes; call it before anything asks for devices.

    Raises:
      UserError: they were not found in time, or devices are in use already.
    """
    if not config.auto and config.coordinator is None or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=config.timeout_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "the processes could not be joined",
            where="distributed",
            expected=f"{config.num_processes or 'all'} processes at "
            f"{config.coordinator or 'addresses that the cluster knows'}",
            got=str(error)[:300],
            fix="start all of them, with the same coordinator and each its own process_id",
        ) from error


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
