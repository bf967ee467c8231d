"""Next sentence prediction (Devlin et al., 2018): was the second sentence a random one?"""

from dataclasses import dataclass
from typing import Literal

from jaxssl.models.heads import NEXT_SENTENCE, Head
from jaxssl.objectives.pair_label import PairLabel


@dataclass(frozen=True, kw_only=True)
class NextSentence(PairLabel):
    """Tell a random second sentence from the next one. Needs rows of sentence pairs."""

    name: Literal["next_sentence"] = "next_sentence"
    """The objective."""

    @property
    def head(self) -> Head:
        """Two logits over the pooled first token."""
        return NEXT_SENTENCE
