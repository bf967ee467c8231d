"""Refuses a corpus that a tokenizer does not know, or that leaves nothing to train on."""

from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.skipped import SKIPPED, described
from jaxssl.data.corpus.sources import SourceConfig
from jaxssl.data.tokenizer.tokenizer import Tokenizer

PROBE_CHARACTERS = 200_000


class UnknownText(UserError):
    """The tokenizer does not know too much of the text."""


def check_sample(config: PrepareConfig, tokenizer: Tokenizer, source: SourceConfig) -> None:
    """Refuses at once a tokenizer that knows hardly anything of the corpus's beginning."""
    unknown = tokenizer.special_ids["unk"]
    texts, size = [], 0
    for document in source.reader().run():
        texts.append(document.text[:PROBE_CHARACTERS])
        size += len(document.text)
        if size >= PROBE_CHARACTERS:
            break
    ids = np.concatenate([np.zeros(0, np.int32), *tokenizer.encode_batch(texts)])
    rate = float((ids == unknown).mean()) if unknown is not None and ids.size else 0.0
    if rate > max(0.5, config.max_unknown_rate):
        raise _too_unknown(config, tokenizer, rate, "at the corpus's beginning")


def check_result(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    counts: dict[str, np.ndarray],
    aside: dict[str, Any],
) -> None:
    """Refuses a store without training text or with too many unknown tokens."""
    if not counts:
        raise UserError(
            "the corpus has no readable document",
            where="source",
            expected="text in UTF-8",
            got="\n".join(["no document", *described(aside, 0)]),
            fix=f"look at {config.out}/{SKIPPED}; check the keys of text and spans, and the files' "
            "encoding",
        )
    if "train" not in counts:
        raise UserError(
            "the training split is empty",
            where="validation_fraction, test_fraction",
            expected="documents left for training",
            got=f"all documents held out, with fractions {config.fractions}",
            fix="use more documents (documents=blank_lines?) or smaller fractions",
        )
    unknown = tokenizer.special_ids["unk"]
    if unknown is not None:
        rate = sum(c[unknown] for c in counts.values()) / sum(c.sum() for c in counts.values())
        if rate > config.max_unknown_rate:
            raise _too_unknown(config, tokenizer, float(rate), "in the corpus")


def check_marks(config: PrepareConfig, splits: dict[str, dict[str, Any]]) -> None:
    """Refuses a store whose marks were asked for and that has none, or none of the gazetteer."""
    if not config.marks:
        return
    found = sum(split["found"] for split in splits.values())
    if config.gazetteer is not None and not found:
        raise UserError(
            "the gazetteer matches nothing",
            where=config.gazetteer.path,
            expected="phrases that stand in the text, as whole words"
            + ("" if config.gazetteer.ignore_case else " and in the same case"),
            got="no phrase found in the whole text",
            fix=f"correct the phrases or set gazetteer.ignore_case=true; then delete {config.out}, "
            "which was begun with this gazetteer, or choose another `out`",
        )
    if not any(split["spans"] for split in splits.values()):
        raise UserError(
            "no span of the text is marked",
            where="source.spans_key",
            expected="offsets of spans",
            got="an empty list for every document",
            fix="name the right key, or give a gazetteer (gazetteer.path=FILE)",
        )


def _too_unknown(config: PrepareConfig, tokenizer: Tokenizer, rate: float, place: str) -> UserError:
    return UnknownText(
        f"the tokenizer does not know too much of the text {place}",
        where=f"tokenizer {tokenizer.name}",
        expected=f"at most {config.max_unknown_rate:.2%} unknown tokens (max_unknown_rate)",
        got=f"{rate:.2%}",
        fix="train a tokenizer on this text (`jaxssl tokenizer`), with a larger vocab_size if it "
        "was, or use a byte-level one (kind=byte_bpe)",
    )
