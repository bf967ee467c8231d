"""A learned bias for distances between tokens, shared by the layers of a stack (T5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.models.config import BlockConfig, RelativePositions
from jaxssl.models.layer_context import Context
from jaxssl.models.layers import parameter
from jaxssl.ops.relative import bias_of_rows, bias_of_slots, buckets_of


class RelativeBias(nn.Module):
    """A number for each bucket of distances and each head."""

    config: RelativePositions
    block: BlockConfig

    @nn.compact
    def __call__(self, num_queries: int, context: Context) -> jax.Array:
        """[1 or B, N, T, S] for T queries.

        Without a cache, distances are those of places in the row: positions count by one inside a
        segment, and no token sees another segment. With one, queries are where their positions say.
        """
        c, block = self.config, self.block
        shape = (c.buckets, block.attention.num_heads)
        start = nn.initializers.normal(c.deviation)
        table = parameter(self, "embedding", start, (None, "heads"), shape, block.precision)
        num_keys = num_queries if context.slots is None else context.slots
        # Distances from -num_keys to num_keys - 1, each at its place in a ring.
        ring = (np.arange(2 * num_keys) + num_keys) % (2 * num_keys) - num_keys
        buckets = buckets_of(ring, c.buckets, c.max_distance, c.both_ways)
        of_distance = jnp.take(table, buckets, axis=0).T
        if context.slots is None:
            return bias_of_rows(of_distance, num_queries, num_keys)[None]
        return bias_of_slots(of_distance, context.positions, num_keys)
