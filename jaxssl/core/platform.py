"""Which kind of device a program is traced for.

It is that of the mesh, which may be a plan's on a machine without such devices. What computes
otherwise on a TPU than elsewhere asks here while it is traced; JAX's caches see the answer.
"""

import contextlib
from collections.abc import Iterator

import jax

_IN_FORCE = jax.make_user_context("")


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the layout in force, or of this machine without one."""
    return _IN_FORCE.value or jax.default_backend()


@contextlib.contextmanager
def use_platform(name: str) -> Iterator[None]:
    """Puts a platform in force, in this thread, for what is traced inside."""
    with _IN_FORCE(name):
        yield
