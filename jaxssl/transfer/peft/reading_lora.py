"""LoRA out of PEFT's files: the matrices of all layers, whatever their ranks and scales are, and
what they began as."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxssl.checkpoint.hf.directory import HfDirectory
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.lora import Lora, row_lengths
from jaxssl.transfer.peft.modules_there import (
    ByLayer,
    check_complete,
    leaf_of,
    modules_of,
    own_array,
)
from jaxssl.transfer.peft.peft_config import AGAIN, alpha_of, check_meant, is_meant, not_here


@dataclass(frozen=True, eq=False)
class ReadLora:
    """What a file has of one module.

    Attributes:
      arrays: of all layers of one rank, filled up with zeros, which training leaves: where both
        matrices are zero, no gradient reaches either.
      layers: those that the file has; None outside a stack.
      depth: how many there are.
    """

    module: str
    arrays: Mapping[str, np.ndarray]
    rank: int
    alpha: float
    layers: tuple[int, ...] | None = None
    depth: int = 0


def lora_of(given: Mapping[str, Any], read: Sequence[ReadLora]) -> Method:
    """The method with its settings; targets are paths."""
    rank, alpha = int(given.get("r", 8)), float(given.get("lora_alpha", 8))
    start = given.get("init_lora_weights", True)
    layers = sorted({layer for each in read for layer in each.layers or ()})
    is_all = any(each.layers is None for each in read)
    is_all = is_all or len(layers) == max(each.depth for each in read)
    read = sorted(read, key=lambda each: each.module)
    return Lora(
        rank=rank,
        alpha=alpha,
        targets=tuple(each.module for each in read),
        dropout=float(given.get("lora_dropout", 0.0)),
        rank_stabilized=bool(given.get("use_rslora", False)),
        magnitude=bool(given.get("use_dora", False)),
        bias=given.get("bias", "none"),
        initialization=start if start in AGAIN else "uniform",
        layers=None if is_all else tuple(layers),
        rank_by_target={each.module: each.rank for each in read if each.rank != rank},
        alpha_by_target={each.module: each.alpha for each in read if each.alpha != alpha},
    )


def read_lora(
    path: Path,
    given: Mapping[str, Any],
    module: str,
    arrays: Mapping[str, ByLayer],
    base: HfDirectory,
) -> ReadLora:
    """What a file has of a module. Ranks that differ from layer to layer are filled up with zeros;
    where scales do, the second matrices hold the rest."""
    leaf, names = leaf_of(base, module), modules_of(base, module)
    there = {layer for layers in arrays.values() for layer in layers}
    if None not in there:
        there |= {layer for layer, name in names.items() if is_meant(given, name)}
    by_layer = {
        layer: {name: layers[layer] for name, layers in arrays.items() if layer in layers}
        for layer in sorted(there, key=lambda layer: layer or 0)
    }
    for layer, own in by_layer.items():
        check_complete(path, given, {names[layer]: own})
        check_meant(path, given, names[layer], len(own["b"]))
    alphas = {layer: alpha_of(given, names[layer]) for layer in by_layer}
    ranks = {layer: len(own["b"]) for layer, own in by_layer.items()}
    widest = max(ranks, key=lambda layer: ranks[layer])
    rank, alpha = ranks[widest], alphas[widest]
    if None in by_layer:
        return ReadLora(module, by_layer[None], rank, alpha)

    def scale(layer: int | None) -> float:
        root = math.sqrt if given.get("use_rslora") else float
        return alphas[layer] / root(ranks[layer])

    if given.get("init_lora_weights", True) in AGAIN:
        by_layer = _less_first(path, given, module, by_layer, scale, base)
    made = {}
    for layer, own in by_layer.items():
        more, share = rank - ranks[layer], scale(layer) / scale(widest)
        made[layer] = dict(own)
        for a, b in (("a", "b"), ("a0", "b0")):
            if a in own:
                wide = own[b] if share == 1 else own[b] * np.asarray(share, own[b].dtype)
                made[layer][a] = np.pad(own[a], [(0, 0)] * (own[a].ndim - 1) + [(0, more)])
                made[layer][b] = np.pad(wide, [(0, more)] + [(0, 0)] * (wide.ndim - 1))
    nothing = {name: np.zeros_like(x) for name, x in made[widest].items()}
    stacked = {
        name: np.stack([made.get(layer, nothing)[name] for layer in names]) for name in nothing
    }
    if "m" in stacked and len(made) < len(names):
        kernels = own_array(f"{module}/{leaf}", base)
        for layer in names.keys() - made.keys():
            stacked["m"][layer] = row_lengths(jnp.asarray(kernels[layer]), stacked["m"].ndim - 1)
    layers = tuple(layer for layer in made if layer is not None)
    return ReadLora(module, stacked, rank, alpha, layers, len(names))


def _less_first(
    path: Path,
    given: Mapping[str, Any],
    module: str,
    by_layer: Mapping[int | None, Mapping[str, np.ndarray]],
    scale: Callable[[int | None], float],
    base: HfDirectory,
) -> dict[int | None, dict[str, np.ndarray]]:
    """The two matrices of each layer less those that they began with, and these: what PEFT takes
    from the model when it loads the file."""
    leaf = leaf_of(base, module)
    pair = base.pairs[f"{module}/{leaf}"]
    if pair.kind != "linear" or pair.part != (0, 1) or None in by_layer:
        raise not_here(path, "init_lora_weights", f"true, for {module}", given["init_lora_weights"])
    kernels, made = own_array(f"{module}/{leaf}", base), {}
    for layer, own in by_layer.items():
        rank = len(own["b"])
        method = Lora(
            rank=rank, alpha=scale(layer) * rank, initialization=given["init_lora_weights"]
        )
        made[layer] = {}
        for name, x in own.items():
            kernel = jnp.asarray(kernels[layer])
            first = np.asarray(method.begin(f"{name}0", module, kernel, x.shape))
            made[layer] |= {name: x - first, f"{name}0": first}
    return made
