"""Accumulation that gathers parameters and sums gradients over devices once a step.

Left to XLA, each microbatch gathers what lies in shards, forward and backward, and sums its own
gradients. Here each device that shares the batch has all that others of them hold, goes through its
own rows alone and adds up its gradients; these are summed at the end, into the shards that
parameters lie in. So a step sends as much as one of one microbatch, and less, for the backward pass
gathers nothing. It takes room on each device for the parameters and their gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Batch, Params
from jaxssl.models.layers import is_boxed
from jaxssl.models.model import Model
from jaxssl.parallel.axes import split_by
from jaxssl.parallel.own_rows import on_own_rows
from jaxssl.program.state import abstract_params
from jaxssl.program.usage import Usage

Added = Callable[[Params, Any, Batch], tuple[Any, Params]]
"""Of parameters, others that are not differentiated, and all microbatches: sums of numbers, and of
gradients in float32 at least."""


def summed_once(function: Added, model: Model) -> Added:
    """`function`, called by each device that shares the batch with its rows and whole parameters;
    as it is where no other has rows.

    Gradients are summed over devices in the dtype that `precision.reduce` gives them. A kernel that
    is multiplied in that dtype, too, is gathered in it. Microbatches add up in float32 at least.
    """
    if not split_by("batch"):
        return function
    boxed, usage = flatten(abstract_params(model)), Usage(model)
    names = {path: x.names if is_boxed(x) else () for path, x in boxed.items()}
    reduce = jnp.dtype(model.precision.reduce)

    def called(params: Params, others: Any, parts: Batch) -> tuple[Any, Params]:
        known = flatten(params)
        kinds = {path: usage.sum_of_all(path, x.dtype, reduce) for path, x in known.items()}
        given = {path: x.astype(_used_in(kinds[path], x.dtype, model)) for path, x in known.items()}

        def own(given: Params, others: Any, parts: Batch) -> tuple[Any, dict[str, jax.Array]]:
            numbers, grads = function(given, others, parts)
            return numbers, flatten(grads)

        whole, kept = (unflatten(given), others), {path: names[path] for path in known}
        numbers, grads = on_own_rows(own, whole, parts, kept, kinds)
        return numbers, unflatten(grads)

    return called


def _used_in(summed: np.dtype, own: np.dtype, model: Model) -> np.dtype:
    """The dtype in which a parameter is gathered."""
    is_less = summed == jnp.dtype(model.precision.compute) and summed.itemsize < own.itemsize
    return summed if is_less else own
