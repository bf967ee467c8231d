"""Scores of relation extraction: TACRED's, and those of SemEval-2010 task 8."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs, precision_recall_f1

DIRECTIONS = "(e1,e2)", "(e2,e1)"


def relation_scores(
    predicted: Sequence[str], reference: Sequence[str], negative: str | None
) -> dict[str, Any]:
    """Micro precision, recall and F1 without the negative class, as TACRED's scorer has them.

    A prediction counts unless it is `negative`, a reference is to be found unless it is
    `negative`, and a prediction is correct if it equals a reference that is not `negative`. As in
    that scorer, precision is 1 where nothing but `negative` was predicted; recall and F1 are 0
    then.

    Args:
      predicted: one relation an example.
      reference: one relation an example.
      negative: the name of the class that says "no relation"; None if each class counts.

    Returns:
      `precision`, `recall`, `f1`, as fractions; the counts `correct`, `predicted`, `reference`; and
      `relations`: {relation: {precision, recall, f1, support}} of those that occur.

    Raises:
      UserError: the lengths differ or are zero, or `negative` occurs on neither side though
        another spelling of it does.
    """
    check_pairs(predicted, reference, "examples")
    if negative is not None:
        check_negative(negative, {*predicted, *reference})
    guessed = Counter(p for p in predicted if p != negative)
    gold = Counter(r for r in reference if r != negative)
    correct = Counter(p for p, r in zip(predicted, reference) if p == r != negative)
    counts = correct.total(), guessed.total(), gold.total()
    return {
        **named(*counts, nothing_predicted=1.0),
        **dict(zip(("correct", "predicted", "reference"), counts)),
        "relations": {
            relation: named(
                correct[relation], guessed[relation], gold[relation], nothing_predicted=1.0
            )
            | {"support": gold[relation]}
            for relation in sorted({*guessed, *gold})
        },
    }


def semeval_scores(
    predicted: Sequence[str], reference: Sequence[str], negative: str | None = "Other"
) -> dict[str, Any]:
    """The scores of SemEval-2010 task 8, (9+1)-way with directionality: its official evaluation.

    Labels are `Cause-Effect(e1,e2)`, `Cause-Effect(e2,e1)`, ..., `Other`. For each relation without
    its direction, precision is correct / (predicted + wrong direction) and recall is correct /
    reference, where `correct` has relation and direction right, `wrong direction` is the number of
    examples whose relation alone is right, and `predicted` leaves those out. The official
    score is `macro_f1`, the mean of F1 over the relations that occur in the references, `Other`
    left out; so a relation that is predicted but never occurs costs only what it displaces.
    Follows the published scorer, version 1.2, which prints percentages and admits only the
    task's own nine relations; this one takes any.

    Args:
      predicted: one label an example.
      reference: one label an example.
      negative: the label without a direction, which is left out of every mean; None for none.

    Returns:
      `macro_precision`, `macro_recall`, `macro_f1`, `micro_precision`, `micro_recall`, `micro_f1`,
      `accuracy` (relation and direction right, `Other` included), as fractions, the macro means nan
      if the references hold no relation; the count `wrong_direction`; and `relations`:
      {relation: {precision, recall, f1, support}}.

    Raises:
      UserError: the lengths differ or are zero, or a label has no direction.
    """
    check_pairs(predicted, reference, "examples")
    bare = {label: without_direction(label, negative) for label in {*predicted, *reference}}
    pairs = [(bare[p], bare[r], p == r) for p, r in zip(predicted, reference)]
    correct = Counter(r for _, r, same in pairs if same)
    # `predicted + wrong direction` of a relation is how often it was predicted at all.
    guessed = Counter(p for p, _, _ in pairs)
    gold = Counter(r for _, r, _ in pairs)
    relations = sorted(label for label in gold if label != negative)
    rows = {r: named(correct[r], guessed[r], gold[r]) for r in relations}
    micro = named(*(sum(counts[r] for r in relations) for counts in (correct, guessed, gold)))
    macro = {key: mean(row[key] for row in rows.values()) for key in micro}
    return {
        **{f"macro_{key}": value for key, value in macro.items()},
        **{f"micro_{key}": value for key, value in micro.items()},
        "accuracy": correct.total() / len(pairs),
        "wrong_direction": sum(p == r and not same for p, r, same in pairs),
        "relations": {r: row | {"support": gold[r]} for r, row in rows.items()},
    }


def named(correct: int, predicted: int, reference: int, **options: float) -> dict[str, float]:
    """`precision_recall_f1` as a dict."""
    values = precision_recall_f1(correct, predicted, reference, **options)
    return dict(zip(("precision", "recall", "f1"), values))


def mean(values: Iterable[float]) -> float:
    """The mean, nan of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def has_directions(labels: Iterable[str], negative: str | None) -> bool:
    """Whether each label but `negative` ends in a direction, as in SemEval-2010 task 8."""
    relations = [label for label in labels if label != negative]
    return bool(relations) and all(label.endswith(DIRECTIONS) for label in relations)


def without_direction(label: str, negative: str | None) -> str:
    """`Cause-Effect` of `Cause-Effect(e2,e1)`; `negative` as it is.

    Raises:
      UserError: another label without a direction.
    """
    if label == negative:
        return label
    if not label.endswith(DIRECTIONS):
        raise UserError(
            "a relation has no direction",
            where="predicted, reference",
            expected=f"{negative!r}, or a name that ends in {DIRECTIONS[0]} or {DIRECTIONS[1]}"
            if negative is not None
            else f"a name that ends in {DIRECTIONS[0]} or {DIRECTIONS[1]}",
            got=repr(label),
            fix=f"name the class that stands for no relation {negative!r}, or use relation_scores",
        )
    return label[: -len(DIRECTIONS[0])]


def check_negative(negative: str, labels: set[str]) -> None:
    """Refuses a `negative` that does not occur where a respelling of it does."""

    def folded(label: str) -> str:
        return "".join(c for c in label.casefold() if c.isalnum())

    close = [label for label in labels if folded(label) == folded(negative)]
    if negative not in labels and close:
        raise UserError(
            "the negative class is spelt differently in the data",
            where="negative",
            expected=repr(close[0]),
            got=repr(negative),
        )
