"""Scores of predicted numbers."""

from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs


def regression_scores(predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Scores of one number an example.

    Args:
      predicted: numbers [N].
      reference: numbers [N].

    Returns:
      `pearson` and `spearman`, correlation coefficients from -1 to 1 (SciPy's; tied values share
      their mean rank), nan where they are not defined: either side is constant, or N is 1; `mse`,
      the mean squared error; `mae`, the mean absolute error.

    Raises:
      UserError: the lengths differ or are zero, or a number is not finite.
    """
    from scipy.stats import pearsonr, spearmanr

    predicted, reference = np.asarray(predicted), np.asarray(reference)
    for where, numbers in (("predicted", predicted), ("reference", reference)):
        check_numbers(numbers, where)
    check_pairs(predicted, reference, "examples")
    predicted, reference = predicted.astype(np.float64), reference.astype(np.float64)
    error = predicted - reference
    defined = np.ptp(predicted) > 0 and np.ptp(reference) > 0

    def correlation(of: Any) -> float:
        return float(of(predicted, reference)[0]) if defined else float("nan")

    return {
        "pearson": correlation(pearsonr),
        "spearman": correlation(spearmanr),
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
    }


def check_numbers(numbers: np.ndarray, where: str) -> None:
    """Refuses what is not finite numbers [N] with a UserError."""
    if numbers.ndim != 1 or (numbers.size and not np.issubdtype(numbers.dtype, np.number)):
        raise UserError(
            "the values are not a list of numbers",
            where=where,
            expected="numbers [N]",
            got=f"{numbers.dtype} {list(numbers.shape)}",
        )
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise UserError(
            "a number is not finite",
            where=f"{where}[{wrong[0]}]",
            expected="a finite number",
            got=numbers[wrong[0]],
        )
