"""Learning rates that fall from the top of a model to its bottom."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from jaxssl.core.layer_names import changed_by, is_stacked, layer_range, stack_of
from jaxssl.core.names import flatten, unflatten

EMBEDDINGS = re.compile("(.*)/(decoder_)?embeddings/")


def depth_factors(
    params: Mapping[str, Any],
    decay: float,
    depths: Mapping[str, int],
    electra_bug: bool = False,
) -> dict[str, Any]:
    """What each parameter's learning rate is multiplied with: a number, or an array over layers.

    decay^0 for heads, pooler and what follows the stack, decay^(n - i) for layer i of n (so the top
    layer has decay^1), decay^(n + 1) for embeddings. With 1 / 2.6 these are ULMFiT's discriminative
    rates (Howard & Ruder, 2018). Adapters have the rate of what they change.

    Args:
      params: the parameters (or shapes) that are trained.
      depths: {stack: its layers}; the embeddings of a network are below its deepest.
      electra_bug: one power more below the heads, as ELECTRA's code has it by mistake
        (google-research/electra, issues 51 and 64): its published rates were tuned with it.
    """
    more = 1 if electra_bug else 0
    networks = set(map(_network, depths))

    def factor(path: str, leaf: Any) -> Any:
        path = changed_by(path)
        found = EMBEDDINGS.match(f"/{path}")
        if found and found[1][1:] in networks:
            stacks = [depth for stack, depth in depths.items() if _network(stack) == found[1][1:]]
            return decay ** (max(stacks) + 1 + more)
        if not is_stacked(path):
            return 1.0
        depth = depths[str(stack_of(path))]
        start, end = layer_range(path) or (0, depth)
        factors = decay ** (depth - jnp.arange(start, end) + more).astype(jnp.float32)
        return factors.reshape(-1, *(1,) * (leaf.ndim - 1))

    return unflatten({path: factor(path, leaf) for path, leaf in flatten(params).items()})


def _network(stack: str) -> str:
    return stack.rpartition("/")[0]


def scale_by_depth(
    decay: float, depths: Mapping[str, int], electra_bug: bool = False
) -> optax.GradientTransformation:
    """Multiplies updates with `depth_factors`; it has no state."""

    def update(updates, state, params=None):
        del params
        factors = flatten(depth_factors(updates, decay, depths, electra_bug))
        scaled = {path: x * factors[path] for path, x in flatten(updates).items()}
        return unflatten(scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
