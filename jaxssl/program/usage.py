"""In which dtypes the gradient of each parameter is summed over devices."""

from collections.abc import Iterator

import numpy as np

from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten
from jaxssl.models.heads import TOKENS
from jaxssl.models.model import Model
from jaxssl.parallel.own_rows import is_summed_whole

WIDE = np.dtype("float32")
"""The dtype in which gradients of a language model's head are summed, chunk by chunk and over
devices."""


class Usage:
    """What the parameters of a model are used for, which decides how their gradients are summed."""

    def __init__(self, model: Model):
        everything = model.abstract()
        self._all = flatten(everything)
        self._heads = {
            path: axes
            for network in model.networks.values()
            for head in network.heads
            if head.use or TOKENS in head.reads(network.config)
            for path, axes in flatten(network.head_axes(everything, head.name)).items()
        }

    def sums(self, path: str, own: np.dtype, reduce: np.dtype) -> Iterator[tuple[np.dtype, bool]]:
        """(dtype, whether each device gets all of it) of each sum of a parameter's gradient."""
        if path in self._heads:  # see `parallel.own_rows.spread`
            yield max(own, WIDE, key=lambda kind: kind.itemsize), is_summed_whole(self._heads[path])
        if path not in self._heads or "embeddings" in path.split("/"):
            yield (reduce if self._is_factor(path) else own), False

    def sum_of_all(self, path: str, own: np.dtype, reduce: np.dtype) -> np.dtype:
        """The dtype of one sum of what all its uses give a parameter."""
        return max((kind for kind, _ in self.sums(path, own, reduce)), key=lambda x: x.itemsize)

    def _is_factor(self, path: str) -> bool:
        """Whether it is a kernel or a bias of `ops.linear`: norms have no kernel."""
        parent, _, name = path.rpartition("/")
        has_kernel = name in ("kernel", "bias") and f"{parent}/kernel" in self._all
        return has_kernel or ADAPTERS in path.split("/")
