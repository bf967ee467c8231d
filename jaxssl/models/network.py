"""What an objective says of a network that it has beside the main one: a generator, a teacher."""

from dataclasses import dataclass
from typing import Any

from jaxssl.models.heads import Head


@dataclass(frozen=True)
class Tie:
    """A parameter of one network that is another network's: it exists once, at the other's path.

    Attributes:
      own: the beginning of its path in the network that borrows it, such as `embeddings/tokens`.
      of: the beginning of its path in the tree of all networks, such as
        `generator/embeddings/tokens`.
      stop_gradient: whether no gradient flows to it from the network that borrows it.
      added: whether the borrower has its own parameter there, which starts at zero and is added
        to what it borrows (DeBERTa-v3's gradient-disentangled sharing, with `stop_gradient`).
    """

    own: str
    of: str
    stop_gradient: bool = False
    added: bool = False


@dataclass(frozen=True)
class Network:
    """A network beside the main one.

    Attributes:
      config: its family's configuration; None is that of what it starts from, or as
        `networks.NAME.model` has it.
      heads: those it carries.
      ties: parameters that it borrows from other networks.
      trained: whether it is trained; what is not keeps its bits.
    """

    config: Any = None
    heads: tuple[Head, ...] = ()
    ties: tuple[Tie, ...] = ()
    trained: bool = True
