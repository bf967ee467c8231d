"""Tokenizers that know the markers, and sentences of who sees whom, for the tests of `relate`."""

import functools

import numpy as np
import toy

from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

KINDS = ("wordpiece", "byte_bpe", "plain_bytes", "sentencepiece_bpe", "sentencepiece_unigram")
SIZES = {"wordpiece": 320, "byte_bpe": 330, "sentencepiece_bpe": 200, "sentencepiece_unigram": 110}


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    """Trained on the toy corpus with markers in it; `plain_bytes` without: for it ` @` is a space
    and an `@`, two tokens, but one at the beginning of a text."""
    if kind == "plain_bytes":
        return toy.train_toy_tokenizer("byte_bpe")
    config = TokenizerTrainConfig(source=Docstrings(), out=kind, kind=kind, vocab_size=SIZES[kind])
    marks = " @ * person * is @ # ^ organization ^ it # , ; < [ ]"
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, 5)) for _ in range(200)]
    texts = ["".join(document) + marks for document in toy.documents(100)] + [" ".join(words)]
    return train_on_texts(config, lambda: texts)


ANIMALS = ("the cat", "a dog", "the old man", "my sister", "every bird", "one green fish")
RELATIONS = ("Other", "Seeing(e1,e2)", "Seeing(e2,e1)")


def sightings(count: int, seed: int = 0) -> dict[str, list[str]]:
    """Sentences with two animals marked; the relation says which of them sees the other, if so.

    The first animal of a sentence is the one who does something, and e1 as often as e2: neither the
    words nor their order tell the direction, only the markers do.
    """
    rng = np.random.default_rng(seed)
    texts, relations = [], []
    for _ in range(count):
        one, other = rng.permutation(ANIMALS)[:2]
        sees, swapped = rng.integers(3) > 0, int(rng.integers(2))
        e1, e2 = ("e2", "e1") if swapped else ("e1", "e2")
        verb = "sees" if sees else "follows"
        texts.append(f"<{e1}>{one}</{e1}> {verb} <{e2}>{other}</{e2}> in the garden.")
        relations.append(RELATIONS[1 + swapped] if sees else RELATIONS[0])
    return {"text": texts, "relation": relations}


def table(columns: dict[str, list], name: str = "x.csv") -> Table:
    """A table whose rows are lines of a file."""
    count = len(next(iter(columns.values())))
    return Table(columns, [f"{name}:{i + 2}" for i in range(count)], name)
