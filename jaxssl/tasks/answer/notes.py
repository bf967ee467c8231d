"""What is told of questions when they have been encoded."""

from collections.abc import Sequence

import numpy as np

from jaxssl.tasks.answer.spans import words
from jaxssl.tasks.answer.windows import NOWHERE, Asked


def notes(
    asked: Sequence[Asked],
    cut: int,
    split: str,
    *,
    max_question: int,
    overlap: int,
    max_answer_tokens: int,
) -> tuple[str, ...]:
    """Counts of what a model cannot learn or say, each only if there is any, after the totals."""
    with_gold = [(each, each.gold) for each in asked if each.gold is not None]
    lost = sum(bool((each.labels == NOWHERE).all()) for each, _ in with_gold)
    lengths = np.array([last - first + 1 for _, (first, last) in with_gold])
    long = int((lengths > max_answer_tokens).sum())
    inexact = sum(_says_another_text(each) for each, _ in with_gold)
    rows = sum(len(each.windows) for each in asked)
    without = sum(each.question.answers == () for each in asked)
    total, of = len(asked), f"of {len(with_gold):,} answers"
    told = [
        (without, f"{without:,} of {total:,} questions have no answer"),
        (cut, f"{cut:,} of {total:,} questions lose what is past task.{max_question=} tokens"),
        (
            lost,
            f"{lost:,} {of} are whole in no window, task.{overlap=}: trained as if there were none",
        ),
        (
            long,
            f"{long:,} {of} are longer than task.{max_answer_tokens=}: they cannot be predicted",
        ),
        (inexact, f"{inexact:,} {of} begin or end inside a token: they cannot be matched exactly"),
    ]
    first = f"{total:,} questions in {rows:,} rows, {rows / total:.2f} windows a question"
    return tuple(f"{split}: {text}" for count, text in [(1, first), *told] if count)


def _says_another_text(asked: Asked) -> bool:
    """Whether the answer's own tokens stand for another text than the answer."""
    assert asked.gold is not None and asked.question.answers
    first, last = asked.gold
    text, _ = words(asked.question.context, asked.spans[first, 0], asked.spans[last, 1])
    return text != asked.question.answers[0].text.strip()
