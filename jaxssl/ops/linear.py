"""Matrix products with declared compute and reduction dtypes."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.core.precision import Precision


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def linear(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_in: int, precision: Precision
) -> jax.Array:
    """`x` [..., *in] times `kernel` [*in, *out], plus `bias` [*out]: [..., *out].

    The product runs in `precision.compute`. The gradients of kernel and bias are summed in
    `precision.reduce`: autodiff alone would sum them in the compute dtype, across devices too.

    Args:
      num_in: how many trailing axes of `x` are contracted.
    """
    dtype = precision.compute
    y = lax.dot_general(x.astype(dtype), kernel.astype(dtype), _contract(x.ndim, num_in))
    return y if bias is None else y + bias.astype(dtype)


def _contract(ndim: int, num_in: int):
    return (tuple(range(ndim - num_in, ndim)), tuple(range(num_in))), ((), ())


def _forward(x, kernel, bias, num_in, precision):
    return linear(x, kernel, bias, num_in, precision), (x, kernel, bias)


def _backward(num_in, precision, residuals, dy):
    x, kernel, bias = residuals
    dtype, reduce = precision.compute, jnp.dtype(precision.reduce)
    num_out = kernel.ndim - num_in
    rows = tuple(range(x.ndim - num_in))
    out_of_dy = tuple(range(dy.ndim - num_out, dy.ndim))
    out_of_kernel = tuple(range(num_in, kernel.ndim))
    dx = lax.dot_general(dy, kernel.astype(dtype), ((out_of_dy, out_of_kernel), ((), ())))
    dkernel = lax.dot_general(
        x.astype(dtype), dy, ((rows, rows), ((), ())), preferred_element_type=reduce
    )
    dbias = None
    if bias is not None:
        dbias = jnp.sum(dy, axis=rows, dtype=reduce).astype(bias.dtype)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), dbias


linear.defvjp(_forward, _backward)


def fan_in(shape: tuple[int, ...], num_in: int) -> int:
    """How many inputs feed each output of a kernel of this shape."""
    return math.prod(shape[:num_in])
