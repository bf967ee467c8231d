"""Predicted spans of a question's windows as answers in the words of its context."""

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.tasks.answer.questions import Question
from jaxssl.tasks.answer.windows import Window

NOTHING_FOUND = 1e9
"""Stands for the score by which "no answer" is ahead of a span where there is no span at all."""


class Candidate(NamedTuple):
    """An answer that a model may give.

    Attributes:
      text: a piece of the context; "" for no answer.
      start: where, in characters; None for no answer.
      score: the sum of the logits of its ends.
    """

    text: str
    start: int | None
    score: float


class Found(NamedTuple):
    """What was predicted for a question.

    Attributes:
      candidates: answers that are not empty, of different texts, best first; there may be none.
      null: the lowest score of "no answer" over the windows: the window that has the answer says.
    """

    question: Question
    candidates: list[Candidate]
    null: float

    @property
    def best(self) -> str:
        """The best answer that is not empty, if there is one."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def no_answer(self) -> float:
        """By how much the score of "no answer" is above that of the best answer."""
        return self.null - self.candidates[0].score if self.candidates else NOTHING_FOUND


def join_windows(
    predictions: Mapping[str, np.ndarray], references: Sequence[Window], n_best: int
) -> tuple[list[Found], int]:
    """What was predicted for each question, in their order, and how many were left out.

    Args:
      predictions: `score`, `start`, `end` [N, n]: spans of each row, positions in the row; `null`
        [N].
      references: of each row; those of a question follow each other. A question that misses one of
        its rows is left out.
      n_best: how many candidates to keep of a question.

    Raises:
      UserError: no question has all its rows.
    """
    found, left_out = [], 0
    groups = itertools.groupby(range(len(references)), key=lambda i: references[i].question)
    for question, group in groups:
        rows = list(group)
        if len(rows) < references[rows[0]].count:
            left_out += 1
            continue
        windows = [references[i] for i in rows]
        candidates = _candidates({n: x[rows] for n, x in predictions.items()}, windows, n_best)
        found.append(Found(question, candidates, float(predictions["null"][rows].min())))
    if not found:
        raise UserError(
            "no question was evaluated with all windows of its context",
            where="evaluation.batches",
            expected="a limit that leaves some questions whole",
            got=f"{left_out} questions without some of their windows",
            fix="raise evaluation.batches, or set it to null",
        )
    return found, left_out


def _candidates(
    predictions: Mapping[str, np.ndarray], windows: Sequence[Window], n_best: int
) -> list[Candidate]:
    context, spans = windows[0].question.context, windows[0].spans
    shifts = np.array([[window.begin - window.first] for window in windows])
    firsts, lasts = (predictions[name] + shifts for name in ("start", "end"))
    kept: dict[str, Candidate] = {}
    for i in np.argsort(-predictions["score"], axis=None, kind="stable"):
        score = float(predictions["score"].flat[i])
        if len(kept) == n_best or not np.isfinite(score):
            break
        text, start = words(context, spans[firsts.flat[i], 0], spans[lasts.flat[i], 1])
        if text:
            kept.setdefault(text, Candidate(text, start, score))
    return list(kept.values())


def words(context: str, start: int, end: int) -> tuple[str, int]:
    """The text from `start` to `end` without whitespace at its ends, and where it starts.

    An accent that follows belongs to it: lower-casing WordPiece drops those that are characters of
    their own, so that they are in no token's span.
    """
    while start < end < len(context) and unicodedata.category(context[end]).startswith("M"):
        end += 1
    text = context[start:end]
    return text.strip(), int(start) + len(text) - len(text.lstrip())


def answered(found: Found, nullable: bool, null_threshold: float) -> dict[str, Any]:
    """What is written of a question.

    Returns:
      `id`; `answer`, the best one, or "" where "no answer" is ahead by more than the threshold or
      there is none; `start`, its first character in the context; its `score`, and its `probability`
      among the candidates (a softmax of their scores); `n_best`, all candidates, best first. With
      `nullable` also `no_answer_score`, by how much "no answer" is ahead, and it is a candidate.
    """
    candidates = list(found.candidates)
    nothing = Candidate("", None, found.null)
    if nullable or not candidates:
        candidates = sorted([*candidates, nothing], key=lambda c: -c.score)
    scores = np.array([candidate.score for candidate in candidates])
    shares = np.exp(scores - scores.max())
    listed = [
        {"answer": c.text, "start": c.start, "score": c.score, "probability": round(float(p), 6)}
        for c, p in zip(candidates, shares / shares.sum())
    ]
    is_null = nullable and found.no_answer > null_threshold
    wanted = "" if is_null else found.best
    chosen = next(each for each in listed if each["answer"] == wanted)
    extra = {"no_answer_score": found.no_answer} if nullable else {}
    return {"id": found.question.id, **chosen, **extra, "n_best": listed}
