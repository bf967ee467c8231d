"""What goes wrong when JAX looks for devices, in words."""

import os
import traceback

from jaxssl.core.errors import UserError


def backend_mistake(error: BaseException) -> UserError | None:
    """The mistake behind an error of JAX's start, or None if the error is another one.

    With a platform that is not there JAX fails at the first look at its devices, in one of several
    ways, an AssertionError among them.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.replace("\\", "/").endswith("jax/_src/xla_bridge.py"):
        return None
    wanted = os.environ.get("JAX_PLATFORMS")
    lines = str(error).strip().splitlines()
    return UserError(
        "JAX finds no device of the platform that was asked for"
        if wanted
        else "JAX cannot use the devices of this machine",
        where="JAX_PLATFORMS",
        expected="a platform that this machine has and jax is installed for: cpu, cuda or tpu",
        got=f"{wanted or 'unset'}{f' ({lines[0]})' if lines else ''}",
        fix="unset JAX_PLATFORMS, or set JAX_PLATFORMS=cpu; for a GPU or TPU install "
        "'.[cuda13]' or '.[tpu]' and look whether nvidia-smi or the driver sees the device",
    )
