"""Cross entropy, as sums and weights, without ever holding all logits."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float = 0.0,
    smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sums of the cross entropy, in nats, in float32 at least.

    Args:
      logits: [..., V].
      targets: int [...], ids below V.
      weights: float [...]; 0 leaves a position out.
      z_loss: adds `z_loss * log(Z)**2` to each position (PaLM; keeps logits from drifting).
      smoothing: share of the loss that is the mean over all ids (Szegedy et al., 2016).

    Returns:
      The summed loss with both, and the sums {"nll": without them, "correct": positions whose
      target has the largest logit}.
    """
    logits = upcast(logits)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    log_z = jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)) + largest
    at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - at_target
    loss = nll + z_loss * jnp.square(log_z) if z_loss else nll
    if smoothing:
        loss = loss + smoothing * (at_target - jnp.mean(logits, axis=-1))
    correct = (at_target >= largest).astype(logits.dtype)
    sums = {"nll": jnp.sum(nll * weights), "correct": jnp.sum(correct * weights)}
    return jnp.sum(loss * weights), jax.lax.stop_gradient(sums)


Summing = Callable[[Any, Any], tuple[Any, Any, Any]]
"""Of what is the same for all rows, and of rows: sums, a gradient of parameters or None, and
rows."""


class Spread(Protocol):
    """Runs a sum over rows in parts; see `parallel.own_rows.spread`."""

    def __call__(
        self, function: Summing, whole: Any, rows: Any, has_gradient: bool
    ) -> tuple[Any, Any, Any]: ...


def in_one(function: Summing, whole: Any, rows: Any, has_gradient: bool) -> tuple[Any, Any, Any]:
    """All rows at once."""
    del has_gradient
    return function(whole, rows)


def chunked_sum(
    function: Callable[..., tuple[jax.Array, Any]],
    params: Any,
    inputs: Any,
    constants: Any,
    spread: Spread = in_one,
    fixed: Any = None,
) -> tuple[jax.Array, Any]:
    """Sums `function(params, inputs[c], constants[c])` over chunks c, one in memory at a time.

    `function` returns a scalar to be differentiated and auxiliary sums. Where a gradient is
    wanted, it is computed in the same pass, chunk by chunk: nothing is kept and nothing computed
    twice, which saves a quarter of a language model head's arithmetic against `jax.checkpoint` in
    a scan. This is exact because a later cotangent of a scalar only scales the gradient.
    Gradients of `params` add up in float32 at least, if they are cast inside `function`, not
    before.

    Args:
      params: pytree of floating arrays, the same for every chunk.
      inputs: pytree of floating arrays [C, B, ...] that gradients flow to.
      constants: pytree of arrays [C, B, ...] that they do not flow to.
      spread: has each device go through the chunks of its own rows, and adds up once after the
        last; left to itself, XLA adds up the gradient of `params` over the devices in every chunk.
      fixed: pytree of arrays, the same for every chunk, that no gradient flows to and none is made
        of: where given, the last argument of `function`.
    """
    last = () if fixed is None else (fixed,)

    @jax.custom_vjp
    def total(params, inputs, constants, last):
        def scan(whole, rows):
            params, last = whole

            def body(sums, chunk):
                return jax.tree.map(jnp.add, sums, function(params, *chunk, *last)), None

            return jax.lax.scan(body, zeros(params, rows, last), rows)[0], None, None

        return spread(scan, (params, last), (inputs, constants), False)[0]

    def zeros(params, rows, last):

        def one(x):
            return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

        shapes = jax.eval_shape(function, params, *jax.tree.map(one, rows), *last)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def forward(params, inputs, constants, last):
        gradient = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)

        def scan(whole, rows):
            params, last = whole

            def body(carry, chunk):
                value, (dparams, dinputs) = gradient(params, *chunk, *last)
                return jax.tree.map(jnp.add, carry, (value, dparams)), dinputs

            wide = jax.tree.map(lambda x: upcast(jnp.zeros_like(x)), params)
            (sums, dparams), dinputs = jax.lax.scan(body, (zeros(params, rows, last), wide), rows)
            return sums, dparams, dinputs

        sums, dparams, dinputs = spread(scan, (params, last), (inputs, constants), True)
        dparams = jax.tree.map(lambda g, x: g.astype(x.dtype), dparams, params)
        return sums, (dparams, dinputs)

    def backward(gradients, cotangents):
        scaled = jax.tree.map(lambda g: (g * cotangents[0]).astype(g.dtype), gradients)
        return *scaled, None, None

    total.defvjp(forward, backward)
    return total(params, inputs, constants, last)


def filled_chunks(x: jax.Array, chunk: int, shards: int = 1) -> jax.Array:
    """[B, T, ...] as [C, B, P, ...]: the fewest chunks of the sequence of P places each, about
    `chunk` at most. Where they do not divide it, what is short is filled up with zeros: weights,
    too, that are 0.

    Args:
      shards: that the sequence lies in, one after the other: a chunk has as much of each, so that
        all devices work on each chunk. P is a multiple of it.
    """
    B, T = x.shape[:2]
    count = -(-T // chunk)
    if shards == 1:
        return sequence_chunks(_filled(x, 1, -T % count), count)
    x = _filled(x, 1, -T % shards)
    x = x.reshape(B, shards, -1, *x.shape[2:])
    x = _filled(x, 2, -x.shape[2] % count)
    x = x.reshape(B, shards, count, -1, *x.shape[3:])
    return jnp.moveaxis(x, 2, 0).reshape(count, B, -1, *x.shape[4:])


def _filled(x: jax.Array, axis: int, short: int) -> jax.Array:
    """With so many zeros at the end of an axis."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, short)
    return jnp.pad(x, padding) if short else x


def sequence_chunks(x: jax.Array, count: int) -> jax.Array:
    """[B, T, ...] as [C, B, T / C, ...]: chunks of the sequence, with the batch axis whole."""
    B, T = x.shape[:2]
    assert T % count == 0, (T, count)
    return jnp.moveaxis(x.reshape(B, count, T // count, *x.shape[2:]), 1, 0)
