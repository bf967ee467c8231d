"""What the losses are called and counted in; imports nothing, so that reports can read it."""

from typing import NamedTuple


class LossFacts(NamedTuple):
    """One loss.

    Attributes:
      shown: its name for people.
      per_token: whether it is in nats per token, so that perplexity and bits per byte can be made
        of it.
    """

    shown: str
    per_token: bool


LOSSES = {
    "masked_lm": LossFacts("masked LM", per_token=True),
    "causal_lm": LossFacts("causal LM", per_token=True),
    "next_sentence": LossFacts("next sentence", per_token=False),
}
"""Every loss of every objective, by the name it has in `coefficients` and in metrics."""

TOKEN_LOSSES = tuple(name for name, loss in LOSSES.items() if loss.per_token)


LOWER_IS_BETTER = frozenset(
    ("loss", "nll", "perplexity", "bits_per_byte", "mse", "mae", "rmse", "hamming_loss")
)
"""The numbers of an evaluation of which less is better, by what comes before a "/"; of all others
more is."""


def is_lower_better(name: str) -> bool:
    """Whether less is better of `loss`, `loss/masked_lm`, `perplexity`, `accuracy`, ..."""
    return name.split("/")[0] in LOWER_IS_BETTER


def shown_name(loss: str) -> str:
    """A loss's name for people; of one that is not known, its own without underscores."""
    return LOSSES[loss].shown if loss in LOSSES else loss.replace("_", " ")
