"""Methods that train some of the model's own parameters and add none."""

from dataclasses import dataclass
from typing import Literal

from jaxssl.transfer.peft.base import Method


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """All biases (Ben Zaken et al., 2022)."""

    name: Literal["bitfit"] = "bitfit"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Biases."""
        return ("**/bias",)


@dataclass(frozen=True, kw_only=True)
class Norms(Method):
    """Scales and biases of all norms."""

    name: Literal["norms"] = "norms"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Norms."""
        return ("norm/**", "**/norm/**", "**/*_norm/**")
