"""What every score shares: inputs that pair up, and the ratios that counts give."""

from collections.abc import Sized

from jaxssl.core.errors import UserError


def check_pairs(predicted: Sized, reference: Sized, what: str) -> None:
    """Refuses predictions and references that do not pair up, and no data at all.

    Args:
      predicted: one prediction an example.
      reference: one reference an example.
      what: what is counted, in the plural, for the message ("examples").

    Raises:
      UserError: the lengths differ, or are zero (a score of nothing is not defined).
    """
    if len(predicted) != len(reference):
        raise UserError(
            f"predictions and references differ in their number of {what}",
            where="predicted, reference",
            expected=f"as many predictions as references ({len(reference)})",
            got=len(predicted),
        )
    if len(reference) == 0:
        raise UserError(
            f"there are no {what} to score",
            where="reference",
            expected=f"at least one of the {what}",
            got="none",
            fix="give the split rows, or leave the score out",
        )


def precision_recall_f1(
    correct: float, predicted: float, reference: float, *, nothing_predicted: float = 0.0
) -> tuple[float, float, float]:
    """(precision, recall, F1) of counts, as fractions.

    Args:
      correct: how many predictions are right.
      predicted: how many predictions there are.
      reference: how many there are to be found.
      nothing_predicted: the precision where nothing was predicted.

    Recall is 0 where there is nothing to find, and F1 is 0 where precision and recall are.
    """
    precision = correct / predicted if predicted else nothing_predicted
    recall = correct / reference if reference else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
