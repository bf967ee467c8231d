"""The modules of a model that PEFT adapts, by their names in its files and here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.directory import HfDirectory
from jaxssl.checkpoint.hf.mapping import layers_of
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
from jaxssl.transfer.peft.files import WEIGHTS

Modules = Mapping[str, Mapping[str, np.ndarray]]
ByLayer = dict[int | None, np.ndarray]
"""Of a parameter; outside a stack the layer is None."""


def leaf_of(base: HfDirectory, module: str) -> str:
    """What a module's parameter is called here."""
    return next(x for x in ("kernel", "embedding") if f"{module}/{x}" in base.pairs)


def modules_of(base: HfDirectory, module: str) -> dict[int | None, str]:
    """{layer: the path there} of a projection or a table."""
    pair = base.pairs[f"{module}/{leaf_of(base, module)}"]
    return {
        layer: base.family.prefix + theirs.removesuffix(".weight")
        for layer, theirs in layers_of(pair, base.config)
    }


def own_array(ours: str, base: HfDirectory) -> np.ndarray:
    """A parameter of the model."""
    shape = flatten(unbox(base.model.abstract()))[ours]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=here)
    return np.array(base.read(ours, wanted))


def check_complete(path: Path, given: Mapping[str, Any], modules: Modules) -> None:
    """Refuses a module that has some of a method's arrays and not all, or of another method."""
    lora = {"a", "b", "m"} if given.get("use_dora") else {"a", "b"}
    known = [lora] if given["peft_type"] == "LORA" else [{"factor"}, {"in_factor"}]
    for module, arrays in modules.items():
        ranks = {0}
        if lora <= {*arrays}:
            ranks = {arrays["a"].shape[-1], arrays["b"].shape[is_stacked(module)]}
        if {*arrays} not in known or len(ranks) > 1:
            raise UserError(
                "an adapter's file lacks a tensor, or has one of another rank or method",
                where=f"{path / WEIGHTS}, {module}",
                expected=" and ".join(sorted(known[0])),
                got=", ".join(f"{name} {list(x.shape)}" for name, x in sorted(arrays.items())),
                fix="copy the adapter again",
            )
