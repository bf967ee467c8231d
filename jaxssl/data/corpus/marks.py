"""Marked spans of a document: from characters to the tokens of a store."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Span = tuple[int, int]
"""Start and exclusive end, in characters."""


def checked_spans(value: Any, text: str) -> list[Span]:
    """What a record says are its marked spans, in order; a `ValueError` says what is wrong.

    Args:
      value: a list of [start, end), in characters of `text`, in any order; null is none.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(_is_span, value)):
        raise ValueError("the spans are not a list of [start, end]: " + repr(value)[:80])
    spans = sorted((start, end) for start, end in value)
    for start, end in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"a span is out of range: [{start}, {end}) in a text of {len(text)} characters"
            )
    for (start, end), (following, last) in zip(spans, spans[1:]):
        if following < end:
            raise ValueError(f"two spans overlap: [{start}, {end}) and [{following}, {last})")
    return spans


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(x) is int for x in value)


def beside(spans: Sequence[Span], found: Sequence[Span]) -> list[Span]:
    """Those of `found` that no span of `spans` overlaps; both are in order."""
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    kept = []
    for start, end in found:
        following = np.searchsorted(ends, start, side="right")
        if following == len(starts) or starts[following] >= end:
            kept.append((start, end))
    return kept


def token_marks(offsets: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Which tokens lie in marked spans: uint8 [n], 1 begins one, 2 goes on with it, 0 is in none.

    A token that shares a character with a span is in it, whole, as is one of whitespace inside of
    it; of two spans that share a token the first has it. A span without a token is none.

    Args:
      offsets: int [n, 2], the characters of each token.
      spans: in order, none overlapping another.
    """
    marks = np.zeros(len(offsets), np.uint8)
    if not len(spans):
        return marks
    bounds = np.array(spans)
    ends = np.maximum.accumulate(offsets[:, 1])
    first = np.searchsorted(ends, bounds[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], bounds[:, 1], side="left")
    taken = 0
    for start, stop in zip(first.tolist(), last.tolist()):
        start = max(start, taken)
        if start < stop:
            marks[start:stop] = 2
            marks[start] = 1
            taken = stop
    return marks
