"""TPU slices that a program can be compiled for without having one, by their names.

`v5p:4x4x4` is 64 chips of a v5p, `v5p:4x4x4*2` are two such slices. libtpu compiles for slices that
nobody can rent, too, so names are checked against the shapes that there are. libtpu and the
variables of `ENVIRONMENT` must be there before JAX is imported.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxssl.core.errors import UserError, did_you_mean

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # else a second process stops at the first one's lock
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Of a process that compiles for TPUs on a machine without."""


@dataclass(frozen=True)
class Chip:
    """A generation of TPUs.

    Attributes:
      clock: cycles a second: the published peak over what the matrix units do in a cycle.
      peak: FLOPs a second of bfloat16 products.
      memory: bytes, as the compiler has it.
      host: chips of a host, along each axis.
      has_two_cores: which the compiler takes as one device.
      most: chips of the largest slice.
    """

    clock: float
    peak: float
    memory: float
    host: tuple[int, int, int]
    has_two_cores: bool
    most: int


CHIPS = {
    "v4": Chip(1.05e9, 275e12, 30.75 * 2**30, (2, 2, 1), True, 4096),
    "v5e": Chip(1.5e9, 197e12, 15.75 * 2**30, (2, 2, 1), False, 256),
    "v5p": Chip(1.75e9, 459e12, 95.73 * 2**30, (2, 2, 1), True, 6144),
    "v6e": Chip(1.75e9, 918e12, 31.24 * 2**30, (2, 2, 1), False, 256),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""Slices of the generations whose torus is flat."""
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Slices of less than a cube of 4 x 4 x 4; larger ones are made of such cubes."""


@dataclass(frozen=True)
class Topology:
    """A slice, or several that are alike.

    Attributes:
      name: such as `v5p:4x4x4`, of one slice.
      shape: chips along each axis.
      slices: that there are.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    def devices(self) -> Sequence[Any]:
        """Devices to compile for: shapes, without memory.

        Raises:
          UserError: libtpu is not installed.
        """
        from jax.experimental import topologies

        more = {"chip_config_name": "megacore"} if self.chip.has_two_cores else {}
        side = 4 if len(self.shape) == 3 else 16  # from which on the ends are joined
        try:
            found = topologies.get_topology_desc(
                topology_name=self.name,
                platform="tpu",
                num_slices=self.slices,
                chips_per_host_bounds=self.chip.host,
                wrap=tuple(size % side == 0 for size in (*self.shape, 1)[:3]),
                **more,
            )
        except (RuntimeError, ImportError, ValueError) as error:
            raise UserError(
                "nothing compiles for TPUs here",
                where=self.name,
                expected="the package libtpu",
                got=str(error).strip().splitlines()[0][:200],
                fix="pip install 'jaxssl[plan]', in an environment of its own",
            ) from error
        return found.devices


def topology(name: str) -> Topology:
    """The slice of this name.

    Raises:
      UserError: no such generation, or no such slice.
    """
    found = re.fullmatch(r"([^:*]*):?(\d+(?:x\d+)+)?(?:\*([1-9]\d*))?", name)
    generation, sizes, slices = found.groups() if found else (name.partition(":")[0], None, None)
    if generation not in CHIPS:
        raise UserError(
            "there is no such TPU",
            where="topology",
            expected="one of " + ", ".join(CHIPS) + ", and its slice, as in v5p:4x4x4",
            got=name,
            fix=did_you_mean(generation, CHIPS),
        )
    chip = CHIPS[generation]
    shape = tuple(map(int, sizes.split("x"))) if sizes else ()
    is_flat = not chip.has_two_cores
    cubes = len(shape) == 3 and all(n and n % 4 == 0 for n in shape)
    is_cubes = cubes and list(shape) == sorted(shape)
    exists = sizes in FLAT if is_flat else sizes in SMALL or is_cubes
    if not exists or math.prod(shape) > chip.most:
        kinds = ", ".join(FLAT if is_flat else SMALL)
        more = (
            "" if is_flat else f", or multiples of 4 in ascending order, {chip.most} chips at most"
        )
        raise UserError(
            "there is no such slice",
            where="topology",
            expected=f"{generation}: and one of {kinds}{more}, with *2 behind it for two of them",
            got=name,
        )
    return Topology(f"{generation}:{sizes}", chip, shape, int(slices or 1))
