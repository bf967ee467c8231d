"""What is told of an encoded split."""

import dataclasses

import pytest
import toy

from jaxssl.data.tables.table import Table
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.entities import WordEntities
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.tag.task import Tag


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


NEEDED = [
    (Classify(pair="b"), ["text", "b", "label"]),
    (Regress(text="t"), ["t", "label"]),
    (Tag(), ["words", "tags"]),
    (Answer(), ["question", "context", "answers", "id"]),
    (Answer(id=None), ["question", "context", "answers"]),
    (Relate(), ["text", "relation"]),
    (
        Relate(entities=WordEntities(), markers="typed", subj_type="s", obj_type="o"),
        ["words", "relation", "subj_start", "subj_end", "obj_start", "obj_end", "s", "o"],
    ),
]


@pytest.mark.parametrize(("task", "names"), NEEDED)
def test_a_task_names_all_columns_that_it_reads(task, names):
    assert list(task.needed_columns(labelled=True).values()) == names
    without = [name for name in names if name != task.label]
    assert list(task.needed_columns(labelled=False).values()) == without
