"""What every optimizer shares: its learning rate, its weight decay, its clipping."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import optax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.optim.schedules import Linear, Schedule
from jaxssl.optim.weight_decay import NO_DECAY


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """The settings of an optimizer; what it adds to these is its `direction`.

    An update is -rate * (direction(clipped gradients) + weight_decay * parameters): weight decay is
    decoupled from the gradients (Loshchilov & Hutter, 2019). `build.make_optimizer` assembles it.
    """

    name: str
    """The optimizer."""
    learning_rate: float
    """Peak learning rate."""
    schedule: Schedule = Linear()
    """How the learning rate moves."""
    weight_decay: float = 0.0
    """Decay of the weights, times the learning rate, each step."""
    no_decay: tuple[str, ...] = NO_DECAY
    """Patterns of parameters without weight decay; each must match something."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; null does not clip."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below it, 0.65 to 0.95 (or 1 / 2.6:
    ULMFiT's discriminative rates); null is one rate for all."""
    electra_bug: bool = False
    """With `layer_decay`: one power more below the heads, as in ELECTRA's published code."""

    def __post_init__(self):
        check_at_least(0, self, "learning_rate", "weight_decay")
        check_above_zero(self, "clip_norm", "layer_decay")

    @abstractmethod
    def direction(self) -> optax.GradientTransformation:
        """From gradients, in float32 at least, to what the learning rate is multiplied with.

        It points where the gradients point; the sign is turned with the rate.
        """
