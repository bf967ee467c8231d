"""Stochastic gradient descent, plain or with momentum."""

from dataclasses import dataclass
from typing import Literal

import optax

from jaxssl.core.bounds import check_share
from jaxssl.core.errors import UserError
from jaxssl.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """Gradient descent with heavy-ball momentum (Polyak, 1964; Sutskever et al., 2013).

    Without weight decay it is `torch.optim.SGD`, whose dampening is 0. With both weight decay and
    momentum it is SGDW (Loshchilov & Hutter, 2019, algorithm 1): the decay does not go through the
    momentum, where PyTorch adds it to the gradient. A decay of PyTorch's is about 1 / (1 -
    momentum) times stronger, so `weight_decay` has to be that much larger to do the same.
    """

    name: Literal["sgd"] = "sgd"
    momentum: float = 0.9
    """Decay of the sum of past gradients; 0 is plain gradient descent, without a state."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov, 1983)."""

    def __post_init__(self):
        super().__post_init__()
        check_share(self, "momentum")
        if self.nesterov and not self.momentum:
            raise UserError(
                "without momentum there is nothing to look ahead along",
                where="nesterov",
                expected="a momentum above 0, or nesterov=false",
                got="momentum=0 and nesterov=true",
            )

    def direction(self) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov)
