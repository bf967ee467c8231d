"""What `jaxssl prepare` is asked for."""

import dataclasses
from typing import Literal

from jaxssl.core.bounds import check_local
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.gazetteer import GazetteerConfig
from jaxssl.data.corpus.sources import SourceConfig, gives_spans


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Making a token store of text."""

    source: SourceConfig
    """Where the text comes from."""
    more_sources: tuple[SourceConfig, ...] = ()
    """Further sources, whose documents follow in the same store."""
    tokenizer: str
    """Tokenizer directory, SentencePiece .model file or name on the hub."""
    out: str
    """Directory of the store; new, or that of an earlier run of the same configuration."""
    validation_fraction: float = 0.01
    """Share of the documents to hold out for validation. Chosen by a hash of the document's group
    (a module, an author) or else its id, so it does not depend on order or number of tasks."""
    test_fraction: float = 0.0
    """Share of the documents to hold out for a final test."""
    seed: int = 0
    """Of the choice of held-out documents."""
    sentences: Literal["rule", "line", "none"] = "rule"
    """Where sentences end, for objectives on sentence pairs: by punctuation, at each line, or
    nowhere (one sentence a document)."""
    gazetteer: GazetteerConfig | None = None
    """Phrases to mark in the text, which objectives may mask as a whole (units.name=marked). Spans
    that a source marks itself (`source.spans_key`) come first: phrases that overlap them are left
    out."""
    max_unknown_rate: float = 0.01
    """Largest share of tokens that may be unknown to the tokenizer, when the store is made."""
    max_set_aside: float = 0.01
    """Largest share of the documents that may be set aside because they cannot be used (bytes that
    are not UTF-8, lines that are not JSON). Empty documents do not count."""
    tasks: int = 8
    """Into how many tasks to divide the work; each makes one shard of each split."""
    workers: int = 0
    """How many tasks run at once, each in a process; 0 means one for each core. Does not change the
    result."""
    pack_lengths: tuple[int, ...] = ()
    """Row lengths in tokens to make pack plans for (`rows.name=packed`)."""

    def __post_init__(self):
        check_local(self, "out")
        held_out = self.validation_fraction + self.test_fraction
        checks = (
            ("tasks", 1 <= self.tasks <= 99_999, "1 to 99999", self.tasks),
            ("workers", self.workers >= 0, "0 or more", self.workers),
            ("max_unknown_rate", 0 <= self.max_unknown_rate <= 1, "0 to 1", self.max_unknown_rate),
            ("max_set_aside", 0 <= self.max_set_aside <= 1, "0 to 1", self.max_set_aside),
            ("validation_fraction", self.validation_fraction >= 0, "0 or more", held_out),
            ("test_fraction", self.test_fraction >= 0, "0 or more", self.test_fraction),
            ("validation_fraction", held_out < 1, "together with test below 1", held_out),
            ("pack_lengths", min(self.pack_lengths, default=1) > 0, "above 0", self.pack_lengths),
        )
        for where, is_good, expected, got in checks:
            if not is_good:
                raise UserError("a value is out of range", where=where, expected=expected, got=got)

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        return (self.source, *self.more_sources)

    @property
    def marks(self) -> bool:
        """Whether spans of the text are marked."""
        return self.gazetteer is not None or any(map(gives_spans, self.sources))

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each split that is held out."""
        return {"validation": self.validation_fraction, "test": self.test_fraction}
