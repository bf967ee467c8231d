"""A model's parameters as whole arrays on the host, and back as a run has them laid out."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxssl.core.layer_names import canonical, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.layers import unbox


def whole_arrays(params: Any) -> dict[str, np.ndarray]:
    """Parameters by canonical name, the segments of a stack joined."""
    flat = flatten(unbox(params))
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(flat, key=lambda path: layer_range(path) or (0, 0)):
        found.setdefault(canonical(path), []).append(np.asarray(flat[path]))
    return {name: x[0] if len(x) == 1 else np.concatenate(x) for name, x in found.items()}


def laid_out_like(arrays: Mapping[str, np.ndarray], params: Params) -> Params:
    """Whole arrays cut and placed as other parameters of the same names are."""
    placed = {}
    for path, x in flatten(unbox(params)).items():
        layers, whole = layer_range(path), arrays[canonical(path)]
        part = whole if layers is None else whole[layers[0] : layers[1]]
        placed[path] = jax.device_put(part, x.sharding)
    return unflatten(placed)
