"""The networks of P-tuning (Liu et al., 2021), which compute a prompt [N, E] while it is trained,
as PEFT has them.

`mlp`: W relu(V relu(U e + a) + b) + c over a table e [N, E], each vector by itself.
`lstm`: two layers of LSTMs, each of which reads the vectors before it forwards and backwards, and
W relu(V h + a) + b over what both have given, h [N, 2 I].
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers

Kind = Literal["none", "mlp", "lstm"]
LAYERS = 2
"""Of LSTMs."""
DIRECTIONS = ("forwards", "backwards")
Linear = Callable[[jax.Array, jax.Array], jax.Array]
"""A product of vectors [..., in] and a kernel [in, out]."""


class Parameter(NamedTuple):
    """What one of a network's parameters begins as, the names of its axes, and its shape."""

    initializer: initializers.Initializer
    axes: tuple[str | None, ...]
    shape: tuple[int, ...]


def parameters(kind: Kind, length: int, width: int, inner: int) -> dict[str, Parameter]:
    """All parameters of a network but `last_kernel`, by name.

    Args:
      length: N, how many vectors it gives.
      width: E, their size.
      inner: I, the size of what is between.
    """

    def biased(name: str, drawn: Any, before: int, after: int, axis: str | None = None) -> Any:
        kernel = Parameter(drawn, (axis, None), (before, after))
        return {f"{name}_kernel": kernel, f"{name}_bias": Parameter(zeros, (None,), (after,))}

    zeros, lecun, he = initializers.zeros, initializers.lecun_normal(), initializers.he_normal()
    found = {"table": Parameter(initializers.normal(1.0), (None, "embed"), (length, width))}
    if kind == "mlp":
        found |= biased("first", lecun, width, inner, "embed") | biased("second", he, inner, inner)
    else:
        drawn = _uniform(1 / math.sqrt(inner))
        for layer in range(LAYERS):
            for direction in DIRECTIONS:
                name, before = f"lstm{layer}_{direction}", 2 * inner if layer else width
                found |= biased(name, drawn, before, 4 * inner)
                found[f"{name}_recurrent"] = Parameter(drawn, (None, None), (inner, 4 * inner))
        found |= biased("second", he, 2 * inner, 2 * inner)
    return {**found, "last_bias": Parameter(zeros, ("embed",), (width,))}


def num_read(kind: Kind, inner: int) -> int:
    """The size of what `last_kernel` reads."""
    return inner if kind == "mlp" else 2 * inner


def encoded(kind: Kind, given: Mapping[str, Any], linear: Linear) -> jax.Array:
    """The prompt [N, E] that a network gives."""
    return linear(read(kind, given, linear), given["last_kernel"]) + given["last_bias"]


def read(kind: Kind, given: Mapping[str, Any], linear: Linear) -> jax.Array:
    """What `last_kernel` reads, [N, I] or [N, 2 I]."""
    x: Any = given["table"]
    if kind == "mlp":
        x = jax.nn.relu(linear(x, given["first_kernel"]) + given["first_bias"])
    else:
        for layer in range(LAYERS):
            both = [_lstm(given, f"lstm{layer}_{direction}", x, linear) for direction in DIRECTIONS]
            x = jnp.concatenate(both, -1)
    return jax.nn.relu(linear(x, given["second_kernel"]) + given["second_bias"])


def read_scale(kind: Kind, length: int, width: int, inner: int) -> jax.Array:
    """The root mean square of what `last_kernel` reads at first."""
    if kind == "mlp":
        return jnp.sqrt(0.5)  # He's kernel doubles a mean square of 1/2, of which half is cut
    made = parameters(kind, length, width, inner)
    keys = jax.random.split(jax.random.key(0), len(made))
    drawn = {name: x.initializer(key, x.shape) for key, (name, x) in zip(keys, made.items())}
    return jnp.sqrt(jnp.mean(jnp.square(read(kind, drawn, jnp.matmul))))


def _lstm(given: Mapping[str, Any], name: str, x: jax.Array, linear: Linear) -> jax.Array:
    """The states [N, I] of an LSTM (Hochreiter & Schmidhuber, 1997) with a forget gate, from zero,
    over vectors [N, in]. The four parts of its products are, in torch's order, those of the input
    gate, the forget gate, the candidate and the output gate."""
    recurrent = given[f"{name}_recurrent"]
    read = linear(x, given[f"{name}_kernel"]) + given[f"{name}_bias"]

    def step(carry: tuple[jax.Array, jax.Array], new: jax.Array):
        hidden, cell = carry
        taken, kept, candidate, shown = jnp.split(new + linear(hidden, recurrent), 4)
        cell = jax.nn.sigmoid(kept) * cell + jax.nn.sigmoid(taken) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(shown) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zero = jnp.zeros(recurrent.shape[0], read.dtype)
    _, states = jax.lax.scan(step, (zero, zero), read, reverse=name.endswith("backwards"))
    return states


def _uniform(bound: float) -> initializers.Initializer:
    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
