"""Prefix tuning (Li & Liang, 2021): keys and values of each layer that every token sees, besides
those of its document. Nothing has to learn to attend to more: the softmax does.

They have no positions: rotary models do not turn them, and tokens keep the places that they had,
unless the prefix takes the first learned positions, as in PEFT.
Every document of a packed row sees them. Without a projection it is what P-tuning v2 (Liu et al.,
2022) trains.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Site
from jaxssl.models.encoder_decoder import DECODER
from jaxssl.models.layers import Names
from jaxssl.models.model import ModelConfig
from jaxssl.transfer.peft.base import Arrays, Method, product

HEADS: Names = ("kv_heads", "head_dim")
Place = Literal["encoder", "decoder", "cross_attention"]
TANH = 0.39
"""The mean square of tanh of a standard normal."""
PLACES: tuple[Place, ...] = ("encoder", "decoder", "cross_attention")


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """Keys and values before those of attention, in every layer."""

    name: Literal["prefix"] = "prefix"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    length: int = 20
    """How many."""
    where: tuple[Place, ...] = PLACES
    """In which attention, of those that the model has: self-attention of the encoder or the
    decoder, or the decoder's attention to what the encoder made."""
    takes_positions: bool = False
    """Where positions are learned, tokens' begin behind the prefix, as in PEFT: so many fewer are
    left for a text."""
    projection_size: int | None = None
    """Width of a layer that they are computed through while they are trained, a small network of
    each layer of the model by itself; null trains them as they are. A run that is opened has
    computed them already."""
    initial_scale: float = 0.02
    """Standard deviation of the normal that they begin as, about that with a projection."""
    learning_rate_factor: float = 30.0
    """Its learning rate over `optimizer.learning_rate`, which is meant for training everything; a
    projection's layers have a third of it."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "length", "projection_size")
        check_above_zero(self, "initial_scale")
        if not self.where or len({*self.where}) < len(self.where):
            raise UserError(
                "not a choice of attention",
                where="where",
                expected=f"some of {', '.join(PLACES)}, each once",
                got=list(self.where),
            )

    def check(self, model: ModelConfig) -> None:
        """Refuses to take positions that the model has not."""
        if self.takes_positions and not model.body().position_rows:
            raise UserError(
                "the model has no learned positions that a prefix could take",
                where="peft.*.takes_positions",
                expected="false, or a model with learned positions (bert, gpt2, bart, ...)",
                got=f"true, for model.name={model.name}",
            )
        if self.shift >= model.max_positions:
            raise UserError(
                "the prefix leaves no position for a text",
                where="peft.*.length",
                expected=f"below model.max_positions={model.max_positions}",
                got=self.length,
            )

    @property
    def shift(self) -> int:
        """Its length, if it takes positions."""
        return self.length if self.takes_positions else 0

    def placed(self, site: Site, positions: jax.Array) -> jax.Array:
        """Behind the prefix, of the stacks that have one."""
        is_second = site.path.split("/")[-1].startswith("decoder")
        stack = DECODER if is_second else site.module.config.stacks[0].name
        return positions + self.shift if stack in self.where else positions

    def keys_values(
        self, site: Site, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[B, length + S, K, D] each."""
        stack, *_, attention = site.path.split("/")
        if (stack if attention == "attention" else attention) not in self.where:
            return keys, values
        heads = keys.shape[2:]
        if self.projection_size is None:
            lead = self._flat(site, heads)
        else:
            lead = self._projected(site, heads, self.projection_size)

        def longer(lead: jax.Array, x: jax.Array) -> jax.Array:
            lead = jnp.broadcast_to(lead, (len(x), self.length, *heads))
            return jnp.concatenate([lead.astype(x.dtype), x], axis=1)

        return longer(lead[0], keys), longer(lead[1], values)

    def _flat(self, site: Site, heads: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        drawn, shape = initializers.normal(self.initial_scale), (self.length, *heads)
        key, value = (site.parameter(x, drawn, (None, *HEADS), shape) for x in ("key", "value"))
        return key, value

    def _projected(
        self, site: Site, heads: tuple[int, ...], width: int
    ) -> tuple[jax.Array, jax.Array]:
        """W tanh(V e + c) + b of vectors e as wide as the hidden states.

        Li & Liang have one table and one V for all layers, and a W for each. Parameters lie at the
        layer that they change, so here each layer has all of them: the same function of each
        layer, trained by itself.
        """
        size, zeros, p = site.module.config.hidden_size, initializers.zeros, site.parameter
        inner_start = initializers.normal(size**-0.5)
        outer_start = initializers.normal(self.initial_scale / math.sqrt(TANH * width))
        table = p("table", initializers.normal(1.0), (None, "embed"), (self.length, size))
        inner = p("inner_kernel", inner_start, ("embed", None), (size, width))
        bias = p("inner_bias", zeros, (None,), (width,))
        hidden = jnp.tanh(product(site, table, inner, 1) + bias)
        made = []
        for name in ("key", "value"):
            kernel = p(f"{name}_kernel", outer_start, (None, *HEADS), (width, *heads))
            bias = p(f"{name}_bias", zeros, HEADS, heads)
            bias = bias[:, None] if site.is_by_row else bias  # [B, K, D], for each of the length
            made.append(product(site, hidden, kernel, 1) + bias)
        return made[0], made[1]

    # --- Once trained ---

    def rate_factor(self, parameter: str) -> float:
        """Of a projection, its table too, a third: each value moves many keys and values at once.
        (2,000 short reviews and a BERT of 6 layers: accuracy 0.56, which is chance, with the
        whole, 0.75 with a third; 0.73 of plain keys and values.)"""
        del parameter
        return self.learning_rate_factor / (1.0 if self.projection_size is None else 3.0)

    @property
    def folded(self) -> "Prefix":
        """Without the projection."""
        return dataclasses.replace(self, projection_size=None)

    def fold(self, added: Arrays) -> Arrays:
        """The keys and values that a projection gives."""
        if self.projection_size is None:
            return added
        hidden: Any = jnp.tanh(added["table"] @ added["inner_kernel"] + added["inner_bias"])
        return {
            name: jnp.tensordot(hidden, added[f"{name}_kernel"], 1) + added[f"{name}_bias"]
            for name in ("key", "value")
        }
