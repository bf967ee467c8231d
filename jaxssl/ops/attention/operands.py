"""What attention is computed of: the arrays, and the dropout of its weights.

Shapes: B rows, T queries, S keys, N heads, K heads of keys and values, D width of a head.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax

from jaxssl.ops.attention.pattern import Tokens
from jaxssl.ops.dropout import Bits, dropout, hash_bits


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Operands:
    """Queries, keys and values, and which tokens they are of.

    Attributes:
      q: [B, T, N, D].
      k, v: [B, S, K, D]. Head n of the queries reads head n * K // N of them.
      queries, keys: of a row each.
      bias: added to the scores, broadcastable to [B, N, T, S].
      scale: what scores are multiplied by before that; None is 1 / sqrt(D).
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    queries: Tokens = Tokens()
    keys: Tokens = Tokens()
    bias: jax.Array | None = None
    scale: float | None = field(default=None, metadata={"static": True})


class WeightDropout(NamedTuple):
    """Dropout of attention's weights.

    Attributes:
      key: None in evaluation.
      rows: uint32 [B], the rows' places in the global batch; None: as they come.
    """

    rate: float = 0.0
    key: jax.Array | None = None
    rows: jax.Array | None = None

    @property
    def is_on(self) -> bool:
        """Whether any weight may be dropped."""
        return self.rate > 0 and self.key is not None

    def apply(self, weights: jax.Array, bits: Bits = hash_bits) -> jax.Array:
        """The weights that are left, scaled; see `dropout`."""
        return dropout(weights, self.rate, self.key, self.rows, bits)


NO_DROPOUT = WeightDropout()
