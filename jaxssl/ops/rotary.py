"""Rotary positions (Su et al., 2021) and the ways of stretching them over longer texts.

Frequencies are constants: numpy computes them once, in float32, as the published code does.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.platform import platform


@dataclass(frozen=True, kw_only=True)
class Linear:
    """All frequencies divided by one factor (Chen et al., 2023)."""

    name: Literal["linear"] = "linear"
    """The way of stretching."""
    factor: float
    """How many times longer texts may be."""

    def __post_init__(self):
        check_at_least(1, self, "factor")


@dataclass(frozen=True, kw_only=True)
class Llama3:
    """Low frequencies divided, high ones kept, those between blended, as in Llama 3.1."""

    name: Literal["llama3"] = "llama3"
    """The way of stretching."""
    factor: float = 8.0
    """How many times longer texts may be."""
    low_frequency_factor: float = 1.0
    """Wavelengths above `original_positions` over this are divided."""
    high_frequency_factor: float = 4.0
    """Wavelengths below `original_positions` over this are kept."""
    original_positions: int = 8192
    """The longest text that the model was pretrained on."""

    def __post_init__(self):
        check_at_least(1, self, "factor", "original_positions")
        check_above_zero(self, "low_frequency_factor", "high_frequency_factor")
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise UserError(
                "there are no frequencies between the high and the low ones",
                where="high_frequency_factor",
                expected=f"above low_frequency_factor={self.low_frequency_factor}",
                got=self.high_frequency_factor,
            )


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """Frequencies divided by how often they turn over a text, and sharper attention (Peng et al.,
    2023)."""

    name: Literal["yarn"] = "yarn"
    """The way of stretching."""
    factor: float
    """How many times longer texts may be."""
    original_positions: int
    """The longest text that the model was pretrained on."""
    attention_factor: float | None = None
    """What sines and cosines are multiplied with; null is 0.1 ln(factor) + 1."""
    beta_fast: float = 32.0
    """Frequencies that turn more often over the original text are kept."""
    beta_slow: float = 1.0
    """Those that turn less often are divided."""
    truncate: bool = True
    """Round the bounds between the two to whole dimensions."""

    def __post_init__(self):
        check_at_least(1, self, "factor", "original_positions")
        check_above_zero(self, "beta_fast", "beta_slow", "attention_factor")


Scaling = Linear | Llama3 | Yarn


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of one kind of layer.

    Attributes:
      theta: the base of the frequencies, theta^(-2i / head_dim).
      scaling: how they are stretched.
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None

    def frequencies(self, head_dim: int) -> tuple[np.ndarray, float]:
        """Radians per token, float32 [head_dim / 2], and what sines and cosines are multiplied
        with."""
        exponents = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
        plain = (1 / np.float32(self.theta) ** exponents).astype(np.float32)
        if self.scaling is None:
            return plain, 1.0
        if isinstance(self.scaling, Linear):
            return (plain / np.float32(self.scaling.factor)).astype(np.float32), 1.0
        if isinstance(self.scaling, Llama3):
            return _llama3(plain, self.scaling), 1.0
        return _yarn(plain, self.scaling, self.theta)


def _llama3(plain: np.ndarray, s: Llama3) -> np.ndarray:
    """1 where a wave is short, 1 / factor where it is long, and a line between."""
    rotations = s.original_positions * plain / (2 * math.pi)
    low, high = s.low_frequency_factor, s.high_frequency_factor
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    return (plain * (kept + (1 - kept) / s.factor)).astype(np.float32)


def _yarn(plain: np.ndarray, s: Yarn, theta: float) -> tuple[np.ndarray, float]:
    """1 above `beta_fast` rotations, 1 / factor below `beta_slow`, and a line over dimensions."""
    size = 2 * plain.size

    def dimension(rotations: float) -> float:
        of_wave = math.log(s.original_positions / (rotations * 2 * math.pi))
        return size * of_wave / (2 * math.log(theta))

    low, high = dimension(s.beta_fast), dimension(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    divided = np.clip((np.arange(plain.size) - low) / width, 0, 1)
    scale = s.attention_factor
    if scale is None:
        scale = 0.1 * math.log(s.factor) + 1 if s.factor > 1 else 1.0
    return (plain * (1 - divided + divided / s.factor)).astype(np.float32), scale


def rotations_of(
    positions: jax.Array, frequencies: np.ndarray, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [B, T, D / 2], of `positions` int32 [B, T]."""
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turns [B, T, N, D] by angles [B, T, D / 2]; dimension i goes with i + D / 2, as in Hugging
    Face's weights. In float32 at least, returned in the dtype of `x`."""
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if platform() == "tpu":
        cosine, sine = (jnp.concatenate([each, each], axis=-1) for each in (cosine, sine))
        return (wide * cosine + half_turn(x).astype(wide.dtype) * sine).astype(x.dtype)
    a, b = jnp.split(wide, 2, axis=-1)
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1).astype(x.dtype)


def half_turn(x: jax.Array) -> jax.Array:
    """[..., D] with -x of the second half before the first: exact, as a product with a matrix of 0,
    1 and -1. On a TPU halves would split the 128 lanes, and every array with them."""
    half = x.shape[-1] // 2
    ones = np.eye(half, dtype=np.float32)
    matrix = np.block([[0 * ones, ones], [-ones, 0 * ones]])
    product = jnp.einsum("...d,de->...e", x, matrix.astype(x.dtype), precision="highest")
    return product.astype(x.dtype)
