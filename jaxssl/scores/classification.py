"""Scores of classifiers: one label an example, or any number of labels an example."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs, precision_recall_f1


def classification_scores(
    predicted: np.ndarray, reference: np.ndarray, labels: Sequence[str]
) -> dict[str, float]:
    """Scores of one label an example, by scikit-learn's definitions, as fractions.

    Args:
      predicted: class ids, integers [N], indices into `labels`.
      reference: class ids, integers [N].
      labels: the names of the K classes.

    Returns:
      `accuracy`; `macro_f1`, the mean of the classes' F1 over the classes that occur in the
      references or the predictions (a class that occurs in neither has no F1 and is left out);
      `weighted_f1`, the same mean weighted by the references of each class; `micro_f1`, which
      equals the accuracy when each example has one label; `mcc`, Matthews' correlation coefficient
      in its form for K classes (Gorodkin 2004), 0 where either side is constant; and, of two
      classes alone, `f1`, the F1 of `labels[1]` (what GLUE reports of MRPC and QQP).

    Raises:
      UserError: the lengths differ or are zero, or an id is not an integer in [0, K).
    """
    from sklearn.metrics import matthews_corrcoef

    predicted, reference = class_ids(predicted, reference, len(labels))
    _, _, f1, support = class_scores(predicted, reference, len(labels))
    occurs = np.union1d(predicted, reference)
    accuracy = float((predicted == reference).mean())
    scores = {
        "accuracy": accuracy,
        "macro_f1": float(f1[occurs].mean()),
        "micro_f1": accuracy,
        "weighted_f1": float(np.average(f1, weights=support)),
        "mcc": float(matthews_corrcoef(reference, predicted)) if len(occurs) > 1 else 0.0,
    }
    return scores | ({"f1": float(f1[1])} if len(labels) == 2 else {})


def multi_label_scores(predicted01: np.ndarray, reference01: np.ndarray) -> dict[str, float]:
    """Scores of any number of labels an example, by scikit-learn's definitions, as fractions.

    Args:
      predicted01: 0 or 1 for each example and label [N, K].
      reference01: the same of the references [N, K].

    Returns:
      `micro_f1`, of all N*K decisions together; `macro_f1`, the mean over the labels that occur in
      the references or the predictions (0 if none does); `weighted_f1`, the same weighted by the
      references of each label (0 if there are none); `samples_f1`, the mean over examples of the
      F1 of each one's labels, an example with no labels on either side counting 1; `exact_match`,
      the share of examples whose labels are all right; `hamming_loss`, the share of the N*K
      decisions that are wrong.

    Raises:
      UserError: the shapes differ, are not [N, K], hold nothing, or a value is not 0 or 1.
    """
    predicted, reference = (
        zero_one(predicted01, "predicted01"),
        zero_one(reference01, "reference01"),
    )
    if predicted.shape != reference.shape:
        raise UserError(
            "predictions and references differ in shape",
            where="predicted01, reference01",
            expected=f"the references' shape {list(reference.shape)}",
            got=list(predicted.shape),
        )
    correct = predicted & reference
    f1 = dice(correct.sum(0), predicted.sum(0), reference.sum(0), both_empty=np.nan)
    support, occurs = reference.sum(0), ~np.isnan(f1)
    by_example = dice(correct.sum(1), predicted.sum(1), reference.sum(1), both_empty=1.0)
    micro = dice(correct.sum(), predicted.sum(), reference.sum(), both_empty=0.0)
    return {
        "micro_f1": float(micro),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "weighted_f1": float(np.average(f1[occurs], weights=support[occurs]))
        if support.any()
        else 0.0,
        "samples_f1": float(by_example.mean()),
        "exact_match": float((predicted == reference).all(1).mean()),
        "hamming_loss": float((predicted != reference).mean()),
    }


def per_class_report(
    predicted: np.ndarray, reference: np.ndarray, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a class, in the order of `labels`: label, precision, recall, f1, support.

    The scores are fractions; a precision, recall or F1 whose denominator is zero is 0. `support`
    is how many references have the class. Arguments and errors: see `classification_scores`.
    """
    predicted, reference = class_ids(predicted, reference, len(labels))
    columns = class_scores(predicted, reference, len(labels))
    return [
        {
            "label": label,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for label, precision, recall, f1, support in zip(labels, *columns)
    ]


def per_label_report(
    predicted01: np.ndarray, reference01: np.ndarray, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """The same of any number of labels an example: arguments [N, K] of 0 and 1."""
    predicted, reference = (
        zero_one(predicted01, "predicted01"),
        zero_one(reference01, "reference01"),
    )
    rows = []
    for label, guessed, right in zip(labels, predicted.T, reference.T):
        scores = precision_recall_f1(
            float((guessed & right).sum()), float(guessed.sum()), float(right.sum())
        )
        named = dict(zip(("precision", "recall", "f1"), scores))
        rows.append({"label": label, **named, "support": int(right.sum())})
    return rows


def confusion(predicted: np.ndarray, reference: np.ndarray, num_labels: int) -> np.ndarray:
    """Counts [K, K]: row i, column j is how often class i (reference) was predicted as class j.

    Raises:
      UserError: see `classification_scores`.
    """
    from sklearn.metrics import confusion_matrix

    predicted, reference = class_ids(predicted, reference, num_labels)
    return confusion_matrix(reference, predicted, labels=np.arange(num_labels))


def class_scores(
    predicted: np.ndarray, reference: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, F1, support), each [K], 0 where a denominator is."""
    from sklearn.metrics import precision_recall_fscore_support

    return precision_recall_fscore_support(  # pyright: ignore[reportReturnType]
        reference,
        predicted,
        labels=np.arange(num_labels),
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )


def dice(
    correct: np.ndarray, predicted: np.ndarray, reference: np.ndarray, *, both_empty: float
) -> np.ndarray:
    """F1 of counts, 2 * correct / (predicted + reference); `both_empty` where that is 0/0."""
    total = np.asarray(predicted + reference)
    return np.where(total > 0, 2 * correct / np.maximum(total, 1), both_empty)


def class_ids(
    predicted: np.ndarray, reference: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both as integer arrays [N] of ids in [0, num_labels).

    Raises:
      UserError: they are not that.
    """
    predicted, reference = np.asarray(predicted), np.asarray(reference)
    for where, ids in (("predicted", predicted), ("reference", reference)):
        if ids.ndim != 1:
            raise UserError("class ids are not a list", where=where, expected="[N]", got=ids.shape)
        check_pairs(predicted, reference, "examples")
        if not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                "class ids are not integers",
                where=where,
                expected=f"integers from 0 to {num_labels - 1}",
                got=f"{ids.dtype}, for example {ids[0]!r}",
            )
        wrong = np.flatnonzero((ids < 0) | (ids >= num_labels))
        if len(wrong):
            raise UserError(
                "a class id has no label",
                where=f"{where}[{wrong[0]}]",
                expected=f"an integer from 0 to {num_labels - 1}",
                got=int(ids[wrong[0]]),
                fix="leave out what has no label (-100, say) before scoring",
            )
    return predicted, reference


def zero_one(values: np.ndarray, where: str) -> np.ndarray:
    """`values` as booleans [N, K].

    Raises:
      UserError: they are not 0 and 1, not [N, K], or empty.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not values.size:
        raise UserError(
            "labels are not a table", where=where, expected="[N, K], not empty", got=values.shape
        )
    wrong = np.argwhere((values != 0) & (values != 1))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            "a label is neither 0 nor 1",
            where=f"{where}[{row}, {column}]",
            expected="0 or 1",
            got=values[row, column],
            fix="compare probabilities with a threshold before scoring",
        )
    return values.astype(bool)
