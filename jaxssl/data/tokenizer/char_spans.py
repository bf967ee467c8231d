"""Spans of characters: where tokens stand in the text that they were made of."""

import numpy as np

IS_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])
"""Of the first characters of Unicode; none past them is whitespace, nor is the last of these."""


def trim_spaces(text: str, spans: np.ndarray) -> np.ndarray:
    """Spans of characters without the whitespace at their ends.

    Args:
      spans: int [n, 2], start and exclusive end of each in `text`.

    Returns:
      int32 [n, 2]. A span of whitespace alone becomes (end, end).
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    space, at = IS_SPACE[np.minimum(codes, len(IS_SPACE) - 1)], np.arange(len(codes))
    # For each place in the text: the first other character from there, and the end of the last one
    # before it.
    first = np.append(np.where(space, len(codes), at), len(codes))
    first = np.minimum.accumulate(first[::-1])[::-1]
    last = np.maximum.accumulate(np.append(0, np.where(space, 0, at + 1)))
    starts = np.minimum(first[spans[:, 0]], spans[:, 1])
    ends = np.maximum(last[spans[:, 1]], starts)
    return np.stack([starts, ends], axis=1).astype(np.int32)
