"""Counting the arithmetic of a function before it is compiled.

XLA's own count takes the body of a loop once, however often it runs, so that a scanned stack looks
cheap. Here a jaxpr is walked, and the body of a scan counts as often as it runs. Integers that are
known beforehand are followed, so that where layers differ, each counts by its own branch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval

from jaxssl.ops.attention import cudnn

Known = np.ndarray | None
"""The value of a variable, or None where it is not known before the function runs."""
FOLLOWED = 4096
"""Integers of a constant that is followed, at most."""
CUDNN = {cudnn.FORWARD: 2, cudnn.BACKWARD: 5}
"""How many products as large as that of queries and keys cuDNN's attention is: its backward pass
makes the scores again. JAX's primitives have no jaxpr that says so."""


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of the matrix products of `function(*args)`: 2 per multiply-add.

    What no output depends on is not counted, as XLA leaves it out too. Of a `cond` or `switch` the
    branch that is taken counts, where a constant says which, as in a scan over numbered layers;
    else the dearest. Nothing is computed: `args` may be shapes.

    Raises:
      ValueError: a matrix product in a `while` loop, whose length is not known.
    """
    # Inside another function one with options of the compiler is refused.
    is_jitted = isinstance(function, jax.stages.Wrapped)
    closed = function.trace(*args).jaxpr if is_jitted else jax.make_jaxpr(function)(*args)
    used, kept = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    flops, _ = _count(used, [None] * sum(kept), closed.consts)
    return flops


def _count(
    jaxpr: Any, inputs: Sequence[Known], constants: Sequence[Any] = ()
) -> tuple[float, list[Known]]:
    """FLOPs, and what is known of the outputs."""
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= dict(zip(jaxpr.constvars, map(_followed, constants)))

    def read(v):
        return _followed(v.val) if isinstance(v, Literal) else known.get(v)

    flops = 0.0
    for equation in jaxpr.eqns:
        more, outputs = _count_equation(equation, [read(v) for v in equation.invars])
        flops += more
        known |= {v: out for v, out in zip(equation.outvars, outputs) if out is not None}
    return flops, [read(v) for v in jaxpr.outvars]


def _followed(value: Any) -> Known:
    kind = jax.typeof(value)
    is_integer = jnp.issubdtype(kind.dtype, jnp.integer)
    return np.asarray(value) if is_integer and kind.size <= FOLLOWED else None


def _count_equation(equation: Any, inputs: Sequence[Known]) -> tuple[float, Sequence[Known]]:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_general(equation), ()
    if name in CUDNN:
        return CUDNN[name] * _scores(equation), ()
    if name == "clamp" and all(x is not None for x in inputs):
        low, value, high = inputs
        return 0.0, [np.clip(value, low, high)]  # type: ignore[arg-type]
    inner = list(_jaxprs(params))
    if name == "scan":
        return _count_scan(equation, inputs)
    if name == "cond":
        return _count_branches(inner, inputs)
    if name in ("shard_map", "pallas_call"):
        return _times_run(name, params) * _count(
            inner[0][0], [None] * len(inner[0][0].invars), inner[0][1]
        )[0], ()
    if len(inner) == 1 and name != "while" and len(inner[0][0].invars) == len(inputs):
        return _count(inner[0][0], inputs, inner[0][1])
    flops = sum(_count(jaxpr, [None] * len(jaxpr.invars), c)[0] for jaxpr, c in inner)
    if flops and name == "while":
        raise ValueError("the length of a while loop is not known before it runs")
    return flops, ()


def _times_run(name: str, params: dict[str, Any]) -> int:
    """How often the body of a call runs that says its work for a part: a device's shard, or a block
    of a Pallas kernel, also of one in which nothing is seen."""
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    axes = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    return math.prod(params["mesh"].shape[axis] for axis in axes)


def _count_branches(
    branches: Sequence[tuple[Any, Sequence[Any]]], inputs: Sequence[Known]
) -> tuple[float, Sequence[Known]]:
    index, *operands = inputs
    if index is not None:
        jaxpr, constants = branches[int(index)]
        return _count(jaxpr, operands, constants)
    return max(_count(jaxpr, operands, constants)[0] for jaxpr, constants in branches), ()


def _count_scan(equation: Any, inputs: Sequence[Known]) -> tuple[float, list[Known]]:
    """Each iteration by the scanned values that are known, those of equal values once."""
    ((jaxpr, constants),) = _jaxprs(equation.params)
    # How many are carried is told by shapes, for JAX has other names for it: what is
    # scanned has an axis more outside than inside.
    num_carry = _count_alike(equation.outvars, jaxpr.outvars)
    num_whole = _count_alike(equation.invars, jaxpr.invars)
    length, num_consts = equation.params["length"], num_whole - num_carry
    fixed, scanned = inputs[:num_consts], inputs[num_whole:]
    counted: dict[tuple[bytes | None, ...], tuple[float, list[Known]]] = {}
    iterations = []
    for number in range(length):
        own = [None if x is None else x[number] for x in scanned]
        values = tuple(None if x is None else x.tobytes() for x in own)
        if values not in counted:
            counted[values] = _count(jaxpr, [*fixed, *[None] * num_carry, *own], constants)
        iterations.append(counted[values])
    outputs = list(zip(*(known[num_carry:] for _, known in iterations)))
    stacked = [None if any(x is None for x in each) else np.stack(each) for each in outputs]
    return sum(flops for flops, _ in iterations), [*[None] * num_carry, *stacked]


def _count_alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many variables have equally many axes outside of a scan and inside."""
    return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))


def _dot_general(equation: Any) -> float:
    """2 x the size of the output x the length that is summed over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _scores(equation: Any) -> float:
    """FLOPs of the scores of queries [B, T, N, D] and keys [B, S, K, D], all of them."""
    queries, keys = (variable.aval.shape for variable in equation.invars[:2])
    return 2.0 * math.prod(queries) * keys[1]


def _jaxprs(params: dict[str, Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The jaxprs among an equation's parameters, each with its constants."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(one, "jaxpr", one)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr, getattr(one, "consts", ())
