"""Order and distance of two texts of a document.

`sentence_order` is ALBERT's (Lan et al., 2020): were the two changed round? `sentence_distance` is
StructBERT's (Wang et al., 2020): is the second text the next, the previous, or another document's?
`data.store.pairs` says how rows are made and where that departs.
"""

from dataclasses import dataclass
from typing import Literal

from jaxssl.models.heads import Head, LabelHead
from jaxssl.objectives.pair_label import PairLabel


@dataclass(frozen=True, kw_only=True)
class SentenceOrder(PairLabel):
    """Tell two texts that were changed round. Needs rows of pairs with `label: sentence_order`."""

    name: Literal["sentence_order"] = "sentence_order"
    """The objective."""

    @property
    def head(self) -> Head:
        """Two logits over the pooled first token: 0 in order, 1 changed round."""
        return LabelHead(name="sentence_order", input="row", size=2)


@dataclass(frozen=True, kw_only=True)
class SentenceDistance(PairLabel):
    """Tell the next text from the previous one and another document's. Needs rows of pairs with
    `label: sentence_distance`."""

    name: Literal["sentence_distance"] = "sentence_distance"
    """The objective."""

    @property
    def head(self) -> Head:
        """Three logits over the pooled first token: next, previous, other."""
        return LabelHead(name="sentence_distance", input="row", size=3)
