"""The loss of a language model by the position of what it predicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective, all_sums
from jaxssl.objectives.combine import Combine

WEIGHTS = ("next_weights", "mask_weights")
"""What objectives weigh predictions with, in a batch: [B, T], or [B, P] at `mask_positions`."""


def language_term(objective: Objective) -> tuple[Objective, int] | None:
    """What of an objective predicts tokens one by one, itself or a term, so that its loss can be
    told by position, and the number of that term; None without any."""
    terms = [term.objective for term in objective.terms] if isinstance(objective, Combine) else []
    found = [x for x in enumerate(terms or [objective]) if x[1].name in ("causal_lm", "masked_lm")]
    return (found[0][1], found[0][0]) if found else None


def make_position_step(
    model: Model,
    objective: Objective,
    vocabulary: Vocabulary,
    edges: tuple[int, ...],
    *,
    seed: int,
) -> Callable[[Params, Batch], dict[str, Any]]:
    """A function `(params, batch) -> {"nats", "tokens"}`, each [K]: the summed loss of the tokens
    whose position in their document lies in [edges[k], edges[k + 1]), and how many they are.

    The objective's own sums are taken K times, each with the weights of the others at 0: K heads
    for one body.

    Args:
      objective: a `language_term`.
      edges: K + 1 of them, ascending.
      seed: of the masks, as in validation.
    """

    def step(params: Params, batch: Batch) -> dict[str, Any]:
        corrupted = {**batch, **objective.corrupt(batch, seed, vocabulary)}
        outputs = objective.forward(model, params, corrupted, None)
        key = next(name for name in WEIGHTS if name in corrupted)
        places = batch["positions"]
        if key == "mask_weights":
            places = jnp.take_along_axis(places, corrupted["mask_positions"], axis=1)
        else:
            places = places + 1  # of the token that is predicted, not of the last one seen

        def one(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            inside = (places >= bounds[0]) & (places < bounds[1])
            weights = jnp.where(inside, corrupted[key], 0.0)
            metrics = all_sums(objective, model, params, outputs, {**corrupted, key: weights})
            return metrics.metrics[f"nll/{objective.name}"]

        nats, tokens = jax.lax.map(one, (jnp.array(edges[:-1]), jnp.array(edges[1:])))
        return {"nats": nats, "tokens": tokens}

    return step
