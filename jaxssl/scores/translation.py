"""BLEU and chrF as sacreBLEU computes them, with its signature; what a corpus's BLEU is made of."""

from collections.abc import Sequence

import numpy as np

ORDERS = 4


def translation_scores(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`bleu` and `chrf` of a corpus, from 0 to 100."""
    import sacrebleu

    return {
        "bleu": sacrebleu.corpus_bleu(list(written), [list(references)]).score,
        "chrf": sacrebleu.corpus_chrf(list(written), [list(references)]).score,
    }


def signatures() -> dict[str, str]:
    """How the numbers were made, as sacreBLEU states it: to be given with them."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    made = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        metric.corpus_score(["a"], [["a"]])
        made[name] = str(metric.get_signature())
    return made


def bleu_tallies(written: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """float64 [E, 10]: of each text the n-grams that are right, those that there are (n of 1 to 4),
    its words, and those of its reference."""
    from sacrebleu.metrics.bleu import BLEU

    metric, rows = BLEU(effective_order=False), []
    for text, reference in zip(written, references, strict=True):
        score = metric.corpus_score([text], [[reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.float64).reshape(-1, 2 * ORDERS + 2)


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU [...], from 0 to 100, of summed tallies [..., 10]; zeros are smoothed as sacreBLEU does
    (exp: the k-th order without a right n-gram counts as 1 / 2^k of one)."""
    right, there = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    length, reference = sums[..., -2], sums[..., -1]
    missing = np.cumsum((right == 0) & (there > 0), axis=-1)
    counted = np.where(right == 0, 0.5**missing, right)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(counted / there)
        shortness = np.where(length < reference, 1 - reference / np.maximum(length, 1e-9), 0.0)
    value = 100 * np.exp(shortness + logs.mean(axis=-1))
    return np.where((there > 0).all(axis=-1) & (right > 0).any(axis=-1), value, 0.0)
