"""Scores of extractive question answering: the official evaluations of SQuAD 1.1 and 2.0.

Percentages, as the published scripts print them. Both compare answers after `normalize_answer`,
take the best of the gold answers of a question, and average over questions.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxssl.core.errors import UserError

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """`text` in lower case, without ASCII punctuation and English articles, single-spaced.

    Punctuation is deleted before articles are, so "the-end" becomes "theend", and punctuation
    outside ASCII (typographic quotes, say) stays.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1 if the normalised answers are equal, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the normalised answers' words as multisets; two answers without a word count 1."""
    guessed, right = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not guessed or not right:
        return float(guessed == right)
    return overlap_f1(guessed, right)


def overlap_f1(guessed: list[str], right: list[str]) -> float:
    """F1 of two lists of words as multisets, 0 if they share none."""
    common = (Counter(guessed) & Counter(right)).total()
    if not common:
        return 0.0
    precision, recall = common / len(guessed), common / len(right)
    return 2 * precision * recall / (precision + recall)


def squad1_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """`exact_match` and `f1` in percent, as the evaluation script of SQuAD 1.1 has them.

    They differ from those of 2.0 in one case: two answers that are nothing but articles and
    punctuation have F1 0 here (and match exactly).

    Args:
      predictions: {question id: answer}.
      references: {question id: gold answers}, at least one each.

    Raises:
      UserError: a question has no prediction (the script counts it 0), a prediction no question,
        or a question no answer.
    """
    check_ids(predictions, references, "predictions")
    unanswerable = [key for key, answers in references.items() if not answers]
    if unanswerable:
        raise UserError(
            f"{len(unanswerable)} questions have no gold answer",
            where=f"references[{unanswerable[0]!r}]",
            expected="an answer to every question, as SQuAD 1.1 has",
            got="none",
            fix="score them as SQuAD 2.0 does, with squad_scores",
        )

    def f1(guess: str, gold: str) -> float:
        return overlap_f1(normalize_answer(guess).split(), normalize_answer(gold).split())

    pairs = [(predictions[key], answers) for key, answers in references.items()]
    return {
        "exact_match": percent([best(exact_match, *pair) for pair in pairs]),
        "f1": percent([best(f1, *pair) for pair in pairs]),
    }


def squad_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    no_answer_probability: Mapping[str, float] | None = None,
    *,
    threshold: float = 1.0,
) -> dict[str, float]:
    """The scores of the evaluation script of SQuAD 2.0, in percent and under its names.

    Args:
      predictions: {question id: answer}; "" says that the question has no answer.
      references: {question id: gold answers}; none for an unanswerable question. An answer of
        nothing but articles and punctuation is passed over; a question with no other is right
        when answered "".
      no_answer_probability: {question id: probability, or any score, that it is unanswerable}.
      threshold: a question whose `no_answer_probability` exceeds it counts as answered "".

    Returns:
      `exact`, `f1` and `total` over all questions, the same with the prefix `HasAns_` over
      answerable and `NoAns_` over unanswerable ones, where there are any. With
      `no_answer_probability` also `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`:
      see `best_threshold`. They are tuned on the questions they score, so report those of the split
      that the threshold was not chosen on with `threshold`.

    Raises:
      UserError: a question has no prediction or probability, or the other way round, there are no
        questions, or a probability is not finite.
    """
    check_ids(predictions, references, "predictions")
    ids = list(references)
    answerable = np.array([len(references[key]) > 0 for key in ids])
    golds = [[a for a in references[key] if normalize_answer(a)] or [""] for key in ids]
    pairs = [(predictions[key], gold) for key, gold in zip(ids, golds)]
    exact = np.array([best(exact_match, *pair) for pair in pairs])
    f1 = np.array([best(token_f1, *pair) for pair in pairs])
    if no_answer_probability is None:
        return averages(exact, f1, answerable)
    check_ids(no_answer_probability, references, "no_answer_probability")
    probability = np.array([no_answer_probability[key] for key in ids], np.float64)
    blank = probability > threshold
    scores = averages(
        np.where(blank, ~answerable, exact), np.where(blank, ~answerable, f1), answerable
    )
    for name, values in (("exact", exact), ("f1", f1)):
        mean, chosen = best_threshold(values, probability, answerable)
        scores |= {f"best_{name}": 100 * mean, f"best_{name}_thresh": chosen}
    return scores


def best_threshold(
    scores: np.ndarray, no_answer_probability: np.ndarray, answerable: np.ndarray
) -> tuple[float, float]:
    """(highest mean score, the lowest threshold that reaches it).

    A question whose probability exceeds the threshold counts as answered "", which scores 1 if it
    is unanswerable and 0 if not; every other keeps its score. Thresholds tried are each of the
    probabilities, and one below them all: 0 as in the script of SQuAD 2.0 or, where a
    probability is not positive, the next number below the lowest. The result is the script's,
    save where that one's is out of reach: it may cut between questions of one probability, gives
    0 for "below them all" even where 0 is not, and counts an answer of nothing but articles and
    punctuation to an unanswerable question as wrong here and as right elsewhere.

    Args:
      scores: each question's score when answered [N], from 0 to 1.
      no_answer_probability: [N], any finite numbers.
      answerable: whether it has an answer [N].

    Raises:
      UserError: a probability is not finite.
    """
    check_finite(no_answer_probability)
    order = np.argsort(no_answer_probability, kind="stable")
    values = no_answer_probability[order]
    below = 0.0 if values[0] > 0 else float(np.nextafter(values[0], -np.inf))
    gains = np.concatenate([[(~answerable).sum()], (scores - ~answerable)[order]])
    totals = np.cumsum(gains)
    cuttable = np.append(True, np.append(np.diff(values) > 0, True))
    chosen = int(np.where(cuttable, totals, -np.inf).argmax())
    threshold = float(values[chosen - 1]) if chosen else below
    return float(totals[chosen] / len(scores)), threshold


def averages(exact: np.ndarray, f1: np.ndarray, answerable: np.ndarray) -> dict[str, float]:
    """Exact match, F1 and count: of all, of answerable and of unanswerable questions."""
    scores = {}
    everything = np.ones_like(answerable)
    for prefix, chosen in (("", everything), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if chosen.any():
            scores[f"{prefix}exact"] = percent(exact[chosen])
            scores[f"{prefix}f1"] = percent(f1[chosen])
            scores[f"{prefix}total"] = int(chosen.sum())
    return scores


def best(score: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    """The highest score against any of the gold answers."""
    return max(score(prediction, gold) for gold in golds)


def percent(values: Sequence[float] | np.ndarray) -> float:
    """100 times the mean."""
    return 100.0 * float(np.mean(values))


def check_ids(given: Mapping[str, object], references: Mapping[str, object], where: str) -> None:
    """Refuses `given` if its question ids are not those of `references`, with a UserError."""
    if not references:
        raise UserError("there are no questions to score", where="references")
    missing = [key for key in references if key not in given]
    unknown = [key for key in given if key not in references]
    if missing or unknown:
        which = missing or unknown
        raise UserError(
            f"{len(which)} questions have no entry"
            if missing
            else f"{len(which)} entries belong to no question",
            where=where,
            expected=f"one entry for each of the {len(references)} questions",
            got=("none for " if missing else "one for ") + ", ".join(map(repr, which[:3])),
            fix='give "" where the model has no answer' if missing else None,
        )


def check_finite(probability: np.ndarray) -> None:
    """Refuses a probability that is not finite, with a UserError."""
    wrong = np.flatnonzero(~np.isfinite(probability))
    if len(wrong):
        raise UserError(
            "a no-answer probability is not finite",
            where="no_answer_probability",
            expected="finite numbers",
            got=f"{probability[wrong[0]]} (question {wrong[0]})",
        )
