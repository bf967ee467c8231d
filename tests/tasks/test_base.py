"""What is told of an encoded split."""

import dataclasses

import toy

from jaxssl.data.tables.table import Table
from jaxssl.tasks.classify import Classify


def test_truncation_is_told_with_numbers_before_the_notes():
    tokenizer = toy.train_toy_tokenizer("wordpiece")
    texts = ["cat " * count for count in (3, 9, 8, 12)]
    table = Table({"text": texts}, [f"t.csv:{i}" for i in range(2, 6)])
    encoded = Classify().encode(table, tokenizer, 10, "train", labelled=False)
    encoded = dataclasses.replace(encoded, notes=("a note",))
    cut, note = encoded.warnings(10, "train")
    assert note == "a note"
    assert cut.startswith("train: 2 of 4 rows (50.0%)") and "data.max_length=10" in cut
    assert "lose 5 tokens" in cut and "WARNING" not in cut
    assert dataclasses.replace(encoded, truncation=None).warnings(10, "train") == ("a note",)
    assert (
        Classify().encode(table, tokenizer, 99, "train", labelled=False).warnings(99, "train") == ()
    )
