"""Averages of models: soups, task arithmetic, TIES, DARE and SLERP, tensor by tensor.

A method is a frozen dataclass over `Average`, registered. It makes one tensor of those of several
models and, where it goes by what training changed, of what they started from. All is computed in
float32, or the tensors' dtype if that is wider.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from jaxssl.core.bounds import check_seed
from jaxssl.core.errors import UserError
from jaxssl.core.registry import register


@dataclass(frozen=True, kw_only=True)
class Average(ABC):
    """A way to make one model of several."""

    needs_base: ClassVar[bool] = False
    """Whether it goes by what training changed."""

    name: str
    """The method."""

    @abstractmethod
    def combine(
        self,
        path: str,
        tensors: Sequence[np.ndarray],
        weights: Sequence[float],
        base: np.ndarray | None,
    ) -> np.ndarray:
        """One tensor of several of one shape.

        Args:
          path: the parameter's.
          weights: of the models.
          base: the tensor that training began with; None where there was none: a head.
        """

    def check(self, num_models: int) -> None:
        """Refuses a number of models; here none. Raises UserError."""
        del num_models


def _share(density: float) -> None:
    if not 0 < density <= 1:
        raise UserError(
            "not a share of what was changed",
            where="density",
            expected="above 0, at most 1",
            got=density,
        )


def mean(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean."""
    total = sum(weights)
    return sum(np.multiply(w / total, x) for w, x in zip(weights, tensors))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Uniform(Average):
    """The mean, weighted if weights are given (Wortsman et al., 2022)."""

    name: Literal["uniform"] = "uniform"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""

    def combine(self, path, tensors, weights, base):
        """The weighted mean."""
        return mean(tensors, weights)


@dataclass(frozen=True, kw_only=True)
class _OfChanges(Average):
    """What goes by the changes since a common start; of a head, which has none, the mean over the
    models of positive weight."""

    needs_base: ClassVar[bool] = True

    def combine(self, path, tensors, weights, base):
        """The start and what `change` makes of the changes."""
        if base is None:
            positive = [max(weight, 0.0) for weight in weights]
            return mean(tensors, positive if sum(positive) else [1.0] * len(tensors))
        return base + self.change(path, [x - base for x in tensors], weights)

    @abstractmethod
    def change(
        self, path: str, changes: Sequence[np.ndarray], weights: Sequence[float]
    ) -> np.ndarray:
        """One change of several."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic(_OfChanges):
    """The weighted sum of the changes (Ilharco et al., 2023); a negative weight unlearns."""

    name: Literal["arithmetic"] = "arithmetic"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""

    def change(self, path, changes, weights):
        """Their weighted sum."""
        return sum(np.multiply(w, x) for w, x in zip(weights, changes))


@dataclass(frozen=True, kw_only=True)
class Ties(_OfChanges):
    """TIES (Yadav et al., 2023): of each change the largest part, and of these the mean of those
    that have the sign of their sum."""

    name: Literal["ties"] = "ties"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    density: float = 0.2
    """Share of each tensor's changes that is kept, the largest."""

    def __post_init__(self):
        _share(self.density)

    def change(self, path, changes, weights):
        """The elected mean."""
        return elected([largest(x, self.density) for x in changes], weights)


@dataclass(frozen=True, kw_only=True)
class Dare(_OfChanges):
    """DARE (Yu et al., 2024): of each change a random part, scaled up for what is left out."""

    name: Literal["dare"] = "dare"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    density: float = 0.5
    """Share that is kept."""
    elect: bool = False
    """Take the mean of those with the sign of their sum, as TIES does, instead of the sum."""
    seed: int = 0
    """Of what is kept."""

    def __post_init__(self):
        _share(self.density)
        check_seed(self)

    def change(self, path, changes, weights):
        """The sum of what is kept, or its elected mean."""
        kept = []
        for number, x in enumerate(changes):
            rng = np.random.default_rng([self.seed, number, zlib.crc32(path.encode())])
            kept.append(np.where(rng.random(x.shape) < self.density, x / self.density, 0))
        if self.elect:
            return elected(kept, weights)
        return sum(np.multiply(w, x) for w, x in zip(weights, kept))


@dataclass(frozen=True, kw_only=True)
class Slerp(Average):
    """Of two models, along the arc between each tensor and the other's (Shoemake, 1985)."""

    name: Literal["slerp"] = "slerp"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    at: float = 0.5
    """Where on the way from the first to the second: 0 to 1."""

    def __post_init__(self):
        if not 0 <= self.at <= 1:
            raise UserError(
                "not a place between two models",
                where="at",
                expected="0 to 1",
                got=self.at,
            )

    def check(self, num_models):
        """Two, no more."""
        if num_models != 2:
            raise UserError(
                "an arc is between two models",
                where="slerp",
                expected="2 runs",
                got=num_models,
            )

    def combine(self, path, tensors, weights, base):
        """The tensor on the arc; on the straight line where both point the same way."""
        first, second = (np.asarray(x, np.float64) for x in tensors)
        lengths = np.linalg.norm(first) * np.linalg.norm(second)
        cosine = float(np.sum(first * second) / lengths) if lengths else 1.0
        if abs(cosine) > 0.9995:
            return (1 - self.at) * first + self.at * second
        angle = np.arccos(cosine)
        parts = np.sin([(1 - self.at) * angle, self.at * angle]) / np.sin(angle)
        return parts[0] * first + parts[1] * second


register(Average, Uniform, Arithmetic, Ties, Dare, Slerp)


def largest(change: np.ndarray, density: float) -> np.ndarray:
    """A change with all but its largest elements 0: floor(density x size) of them stay."""
    count = int(density * change.size)
    flat = np.abs(change).reshape(-1)
    kept = np.zeros(change.size, bool)
    kept[np.argpartition(-flat, max(0, count - 1))[:count]] = True
    return np.where(kept.reshape(change.shape), change, 0)


def elected(changes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """At each element the mean of the weighted changes that have the sign of all changes' sum;
    zeros have none."""
    stacked = np.stack(changes)
    sign = np.where(stacked.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(stacked) == sign
    scaled = np.stack([w * x for w, x in zip(weights, changes)])
    return (scaled * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
