"""One or two texts a row as token rows, with the tokenizer's special tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.data.examples import Examples
from jaxssl.data.ragged import row_splits
from jaxssl.data.store.rows import pad_id
from jaxssl.data.tokenizer.tokenizer import Frame, Tokenizer

BATCH = 1000


@dataclass(frozen=True)
class Truncation:
    """How much was cut off.

    Attributes:
      rows: rows that were too long.
      total: rows in all.
      tokens: tokens that were cut off.
      side: where.
    """

    rows: int
    total: int
    tokens: int
    side: str = "at their end"

    def __add__(self, other: "Truncation") -> "Truncation":
        more = (self.rows + other.rows, self.total + other.total, self.tokens + other.tokens)
        return Truncation(*more, self.side)

    def warning(self, max_length: int, where: str) -> str | None:
        """What to tell the user, or None where nothing was cut."""
        if not self.rows:
            return None
        share = self.rows / self.total
        loud = "WARNING: most of this data is cut off! " if share > 0.5 else ""
        return (
            f"{loud}{where}: {self.rows:,} of {self.total:,} rows ({share:.1%}) are longer than "
            f"data.max_length={max_length} and lose {self.tokens:,} tokens {self.side}"
        )


def encode_rows(
    tokenizer: Tokenizer,
    first: Sequence[str],
    second: Sequence[str] | None,
    max_length: int,
    *,
    show: bool = True,
    frame: Frame | None = None,
) -> tuple[Examples, Truncation]:
    """Rows of one or two texts, special tokens included.

    A row that is too long loses tokens at its end; of two texts, the longer one does first, token
    by token, as `longest_first` does in Hugging Face's tokenizers.

    Args:
      frame: special tokens other than `tokenizer.frame`.

    Raises:
      UserError: `max_length` leaves no room for text.
    """
    before, between, after = tokenizer.frame(second is not None) if frame is None else frame
    room = max_length - len(before) - len(between) - len(after)
    if room < (1 if second is None else 2):
        raise UserError(
            "the rows have no room for text",
            where="data.max_length",
            expected=f"more than {max_length - room} tokens",
            got=max_length,
        )
    a = _encoded(tokenizer, first, show)
    b = _encoded(tokenizer, second, show) if second is not None else None
    lengths_a = np.array([len(x) for x in a], np.int64)
    lengths_b = np.array([len(x) for x in b], np.int64) if b is not None else 0 * lengths_a
    keep_a, keep_b = longest_first(lengths_a, lengths_b, room)
    cut = (lengths_a - keep_a) + (lengths_b - keep_b)
    parts: list[np.ndarray] = []
    head, middle, tail = (np.array(x, np.int32) for x in (before, between, after))
    for i, ids in enumerate(a):
        parts += [head, ids[: keep_a[i]], middle]
        parts += [b[i][: keep_b[i]], tail] if b is not None else [tail]
    starts_second = len(before) + keep_a + len(between)
    lengths = starts_second + keep_b + len(after)
    examples = Examples(
        tokens=np.concatenate(parts) if parts else np.zeros(0, np.int32),
        starts=row_splits(lengths),
        second=(starts_second if b is not None else lengths).astype(np.int32),
        pad_id=pad_id(tokenizer.special_ids),
    )
    return examples, Truncation(int((cut > 0).sum()), len(a), int(cut.sum()))


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], show: bool) -> list[np.ndarray]:
    rows: list[np.ndarray] = []
    with bar(total=len(texts), description="encode", unit="row", enabled=show) as progress:
        for start in range(0, len(texts), BATCH):
            rows += tokenizer.encode_batch(texts[start : start + BATCH])
            progress.update(min(BATCH, len(texts) - start))
    return rows


def longest_first(
    a: np.ndarray, b: np.ndarray, room: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens to keep of each of two texts, so that their sum is at most `room`."""
    half_up, half_down = room - room // 2, room // 2
    keep_a = np.where(a + b <= room, a, np.where(b <= half_down, room - b, np.minimum(a, half_up)))
    keep_a = np.where((a + b > room) & (a <= half_up), np.minimum(a, keep_a), keep_a)
    keep_b = np.minimum(b, room - keep_a)
    return keep_a, keep_b
