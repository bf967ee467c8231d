"""Counting the arithmetic of a function before it is compiled.

XLA's own count takes the body of a loop once, however often it runs, so that a scanned stack looks
cheap. Here a jaxpr is walked, and the body of a scan counts as often as it runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of the matrix products of `function(*args)`: 2 per multiply-add.

    What no output depends on is not counted, as XLA leaves it out too. Of a `cond` the dearest
    branch counts. Nothing is computed: `args` may be shapes.

    Raises:
      ValueError: a matrix product in a `while` loop, whose length is not known.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(used)


def _count(jaxpr: Any) -> float:
    return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_general(equation)
    inner = [_count(jaxpr) for jaxpr in _jaxprs(params)]
    if not any(inner):
        return 0.0
    if name == "while":
        raise ValueError("the length of a while loop is not known before it runs")
    if name == "scan":
        return params["length"] * sum(inner)
    return max(inner) if name == "cond" else sum(inner)


def _dot_general(equation: Any) -> float:
    """2 x the size of the output x the length that is summed over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                found.append(one)
    return found
