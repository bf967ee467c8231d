"""How many tokens of each document are chosen.

References: google-research/bert, create_pretraining_data.py (to the nearest, at least one);
facebookresearch/SpanBERT (up); facebookresearch/fairseq, mask_tokens_dataset.py (at random).
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Rounding = Literal["nearest", "up", "random"]
"""To the nearest whole number (half to even) and at least 1, up, or up with the probability of what
is behind the comma, so that the mean is exact."""


@functools.cache
def quota_table(
    longest: int, rate: float, limit: int | None = None, rounding: Rounding = "nearest"
) -> np.ndarray:
    """How many tokens are chosen of a document of each length: int32 [longest + 1]; of `random`
    rounding the most.

    A table, because Python's rounding in double precision is the reference and a device's is not.
    """
    if rounding == "nearest":
        counts = [max(1, round(length * rate)) for length in range(longest + 1)]
    else:
        counts = [math.ceil(round(length * rate, 9)) for length in range(longest + 1)]
    counts[0] = 0
    return np.minimum(np.array(counts, np.int32), limit or longest)


def quotas(
    key: jax.Array,
    lengths: jax.Array,
    rate: jax.Array | float,
    rounding: Rounding,
    limit: int | None,
    most: np.ndarray,
) -> jax.Array:
    """How many tokens are chosen of each document of a row: int32 [D].

    Args:
      key: of the row; `random` rounding draws for each document.
      lengths: int32 [D], of the documents.
      rate: of this row; a number, or traced, where it moves over the run.
      limit: the most of one document.
      most: `quota_table` of the largest rate of the run: there is room for no more.
    """
    if isinstance(rate, float) and rounding != "random":
        return jnp.asarray(quota_table(len(most) - 1, rate, limit, rounding))[lengths]
    exact = lengths.astype(jnp.float32) * rate
    if rounding == "nearest":
        counts = jnp.maximum(1, jnp.round(exact))
    elif rounding == "up":
        counts = jnp.ceil(exact - 1e-3)  # float32: 20 * 0.15 is a little above 3
    else:
        counts = jnp.floor(exact + jax.random.uniform(key, lengths.shape))
    counts = jnp.where(lengths > 0, counts.astype(jnp.int32), 0)
    return jnp.minimum(counts, jnp.asarray(most)[lengths])
