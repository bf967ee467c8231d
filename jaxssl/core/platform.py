"""Which kind of device a program is traced for.

It is that of the mesh, which may be a plan's on a machine without such devices. What computes
otherwise on a TPU than elsewhere asks here while it is traced; JAX's caches see the answer.
"""

import contextlib
import re
from collections.abc import Iterator

import jax

_IN_FORCE = jax.make_user_context("")


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the layout in force, or of this machine without one."""
    return _IN_FORCE.value or jax.default_backend()


def gpu_generation() -> tuple[int, int] | None:
    """The compute capability of this machine's NVIDIA GPUs, (0, 0) for those of other makers; None
    where it has none, as where steps are planned for another machine."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return None
    told = re.fullmatch(r"(\d+)\.(\d+)", str(device.compute_capability))
    return (int(told[1]), int(told[2])) if told else (0, 0)


@contextlib.contextmanager
def use_platform(name: str) -> Iterator[None]:
    """Puts a platform in force, in this thread, for what is traced inside."""
    with _IN_FORCE(name):
        yield
