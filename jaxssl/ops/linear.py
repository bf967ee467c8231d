"""Matrix products with declared compute and reduction dtypes."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.core.platform import platform
from jaxssl.core.precision import Precision
from jaxssl.ops.codes import Coded, values

Product = Callable[[jax.Array, jax.Array], jax.Array]
"""Of inputs and gradients of outputs: the gradient of a kernel."""
Summed = Callable[[Product, jax.Array, jax.Array], jax.Array]
"""How that is summed over devices: a function of the product and its operands. Hashable."""
Gathered = Callable[[Any], Any]
"""How devices that hold parts of an array, or of its codes, get all of it. Hashable."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def linear(
    x: jax.Array,
    kernel: jax.Array | Coded,
    bias: jax.Array | None,
    num_in: int,
    precision: Precision,
    wide: bool = False,
    summed: Summed | None = None,
    gathered: Gathered | None = None,
) -> jax.Array:
    """`x` [..., *in] times `kernel` [*in, *out], plus `bias` [*out]: [..., *out].

    The product runs in `precision.compute`, as exactly as `precision.matmul` says. The gradients of
    kernel and bias are summed in `precision.reduce`: autodiff alone would sum them in the compute
    dtype, across devices too. A kernel in codes is decoded here and has no gradient: what is kept
    for the backward pass are its codes.

    Args:
      num_in: how many trailing axes of `x` are contracted.
      wide: return the sums in float32 at least, not rounded to the compute dtype: for logits.
      summed: how the kernel's gradient is summed over devices; None leaves it to XLA.
      gathered: how codes, or values in the compute dtype, are made whole; None leaves it to XLA,
        which sends values.
    """
    dtype = precision.compute
    out = jnp.promote_types(dtype, jnp.float32) if wide else dtype
    y = lax.dot_general(
        x.astype(dtype),
        _values(kernel, gathered, dtype),
        _contract(x.ndim, num_in),
        precision=precision.products,
        preferred_element_type=jnp.dtype(out),
    )
    return y if bias is None else y + bias.astype(out)


def _values(kernel: jax.Array | Coded, gathered: Gathered | None, dtype: str) -> jax.Array:
    """What is multiplied by, whole where something gathers it: codes, or values in that dtype."""
    kernel = kernel if isinstance(kernel, Coded) else kernel.astype(dtype)
    return values(kernel if gathered is None else gathered(kernel)).astype(dtype)


def _contract(ndim: int, num_in: int):
    return (tuple(range(ndim - num_in, ndim)), tuple(range(num_in))), ((), ())


def _forward(x, kernel, bias, *how):
    return linear(x, kernel, bias, *how), (x, kernel, bias)


def _backward(num_in, precision, wide, summed, gathered, residuals, dy):
    x, kernel, bias = residuals
    dtype, reduce = precision.compute, jnp.dtype(precision.reduce)
    is_coded = isinstance(kernel, Coded)
    shapes, dtypes = (x.shape, kernel.shape), (x.dtype, kernel.dtype)
    kernel = _values(kernel, gathered, dtype)
    x, dy = x.astype(dtype), dy.astype(dtype)
    if platform() == "cpu" and summed is None:
        # In two dimensions: with more, XLA's CPU backend transposes copies of x before it
        # multiplies. Where a kernel lies in shards, the reshaped one would be gathered once more.
        ins, outs = math.prod(kernel.shape[:num_in]), math.prod(kernel.shape[num_in:])
        x, dy = x.reshape(-1, ins), dy.reshape(-1, outs)
        kernel, num_in = kernel.reshape(ins, outs), 1
    leading, num_out = tuple(range(x.ndim - num_in)), kernel.ndim - num_in
    outs = tuple(range(dy.ndim - num_out, dy.ndim))
    of_kernel = tuple(range(num_in, kernel.ndim))
    product = functools.partial(lax.dot_general, precision=precision.products)
    dx = product(dy, kernel, ((outs, of_kernel), ((), ())))

    def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        return product(x, dy, ((leading, leading), ((), ())), preferred_element_type=reduce)

    dkernel = None
    if not is_coded:
        dkernel = kernel_gradient(x, dy) if summed is None else summed(kernel_gradient, x, dy)
        dkernel = dkernel.reshape(shapes[1]).astype(dtypes[1])
    dbias = None
    if bias is not None:
        dbias = jnp.sum(dy, axis=leading, dtype=reduce).reshape(bias.shape).astype(bias.dtype)
    dx = dx.reshape(shapes[0]).astype(dtypes[0])
    return dx, dkernel, dbias


linear.defvjp(_forward, _backward)
