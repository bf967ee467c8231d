"""Marked texts as rows of tokens: where the markers are in them, and what is kept of long ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.data.encoding import BATCH, Truncation, longest_first
from jaxssl.data.examples import Examples
from jaxssl.data.store.rows import pad_id
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.tasks.relate.markers import SYMBOLS, Marked, encode_symbol


@dataclass(frozen=True, eq=False)
class MarkedTokens:
    """Marked texts as tokens, whole, without special tokens.

    Attributes:
      ids: int32, of each text.
      openings: int64 [N, 2], the token that holds the symbol of each entity's opening marker; the
        first entity's comes first, wherever it stands.
      needed: int64 [N, 2], from the first marker's first token to after the last marker.
    """

    ids: list[np.ndarray]
    openings: np.ndarray
    needed: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.array([len(ids) for ids in self.ids], np.int64)


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[Marked], places: Sequence[str], *, show: bool = True
) -> MarkedTokens:
    """The tokens of each text as a whole, and where its markers are among them.

    A text is given to the tokenizer in pieces that begin at a space and a marker, and comes back as
    the tokens of the whole with the place of each piece. So a symbol in the text itself cannot be
    taken for a marker.

    Raises:
      UserError: the tokenizer does not keep the markers apart from the text, with the row's place.
    """
    ids: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    with bar(total=len(texts), description="encode", unit="row", enabled=show) as progress:
        for at in range(0, len(texts), BATCH):
            documents = [[p for p in text.pieces if p] for text in texts[at : at + BATCH]]
            for tokens, ends in tokenizer.encode_documents(documents):
                ids.append(tokens)
                # The pieces but the first begin with a marker, so they are the last three.
                starts.append(np.concatenate([[0, 0, 0], ends[:-1]])[-3:])
            progress.update(len(documents))
    pieces = np.array(starts, np.int64).reshape(-1, 3)
    symbols = [encode_symbol(tokenizer, symbol) for symbol in SYMBOLS]
    inside = np.array([len(symbol.inside) for symbol in symbols])
    leading = np.array([len(symbol.leading) for symbol in symbols])
    first, last = (np.array([getattr(t, name) for t in texts], int) for name in ("first", "last"))
    begins = np.array([not text.pieces[0] for text in texts], bool)
    # The token that holds the symbol of each of the three markers is the last of the symbol's own.
    holds = pieces - 1
    holds[:, 0] += np.where(begins, leading[first], inside[first])
    holds[:, 1] += inside[1 - first]
    holds[:, 2] += inside[last]
    known = np.array([[symbol.inside[-1], symbol.leading[-1]] for symbol in symbols])
    expected = known[np.stack([first, 1 - first, last], axis=1)]
    _check_found(tokenizer, ids, holds, expected, places)
    openings = np.where(first[:, None] == [0, 1], holds[:, :1], holds[:, 1:2])
    return MarkedTokens(ids, openings, np.stack([pieces[:, 0], holds[:, 2] + 1], axis=1))


def _check_found(
    tokenizer: Tokenizer,
    ids: Sequence[np.ndarray],
    holds: np.ndarray,
    symbols: np.ndarray,
    places: Sequence[str],
) -> None:
    """Fails where the tokens at `holds` [N, 3] are none of those that `symbols` [N, 3, 2] allow."""
    for tokens, at, allowed, place in zip(ids, holds, symbols, places):
        found = tokens[np.minimum(at, len(tokens) - 1)]
        if not (found[:, None] == allowed).any(axis=1).all():
            raise UserError(
                "the tokenizer joins an entity marker with the text beside it",
                where=f"{place}, tokenizer {tokenizer.name}",
                expected="a token of its own for each of " + " and ".join(SYMBOLS),
                got=" ".join(str(tokenizer.token(int(id_))) for id_ in tokens[:40]),
                fix="use another tokenizer",
            )


def rows_that_fit(
    tokens: MarkedTokens,
    tokenizer: Tokenizer,
    max_length: int,
    places: Sequence[str],
    split: str,
    *,
    leave_out: bool,
    may_be_none: bool = False,
) -> tuple[np.ndarray, str | None]:
    """The rows [n] whose two entities `max_length` tokens can hold, and what is said of the others.

    Raises:
      UserError: there are others and they are not to be left out, or there is no row but those
        (of a part of a table there `may_be_none`).
    """
    before, _, after = tokenizer.frame(pair=False)
    needs = tokens.needed[:, 1] - tokens.needed[:, 0] + len(before) + len(after)
    far = needs > max_length
    count, total = int(far.sum()), len(far)
    wanted = f"both within data.max_length={max_length} tokens"
    longer = f"set data.max_length={needs.max()} or more"
    if count and not leave_out:
        row = int(np.argmax(far))
        raise UserError(
            "entity markers cut off by truncation: the entities of a row are too far apart",
            where=places[row],
            expected=wanted,
            got=f"{needs[row]} tokens; {count:,} of {total:,} rows are too long like this",
            fix=f"{longer}, or task.too_far=leave_out",
        )
    if count == total and not may_be_none:
        raise UserError(
            "no row is left: the entities of each are too far apart",
            where=f"{split}, task.too_far",
            expected=wanted,
            got=f"{needs.min()} tokens or more",
            fix=longer,
        )
    if not count:
        return np.flatnonzero(~far), None
    loud = "WARNING: most of this data is left out! " if count / total > 0.5 else ""
    return np.flatnonzero(~far), (
        f"{loud}{split}: {count:,} of {total:,} rows ({count / total:.1%}) are left out: their "
        f"entities are too far apart for data.max_length={max_length}"
    )


def fit(
    tokens: MarkedTokens, tokenizer: Tokenizer, max_length: int, rows: np.ndarray
) -> tuple[Examples, Truncation]:
    """The texts at `rows` with special tokens, and `entity_starts` int32 [N, 2]: see `openings`.

    Of a row that is too long a stretch is kept that holds both entities, with as much of the text
    before them as after, or more of one where the other is short.
    """
    before, _, after = (np.array(x, np.int32) for x in tokenizer.frame(pair=False))
    lengths, needed = tokens.lengths[rows], tokens.needed[rows]
    room = max_length - len(before) - len(after) - (needed[:, 1] - needed[:, 0])
    assert (room >= 0).all()
    keep_left, keep_right = longest_first(needed[:, 0], lengths - needed[:, 1], room)
    starts, ends = needed[:, 0] - keep_left, needed[:, 1] + keep_right
    parts: list[np.ndarray] = []
    for row, start, end in zip(rows, starts, ends):
        parts += [before, tokens.ids[row][start:end], after]
    framed = len(before) + (ends - starts) + len(after)
    openings = tokens.openings[rows] - starts[:, None] + len(before)
    examples = Examples(
        tokens=np.concatenate(parts) if parts else np.zeros(0, np.int32),
        starts=np.concatenate([[0], np.cumsum(framed)]).astype(np.int64),
        second=framed.astype(np.int32),
        pad_id=pad_id(tokenizer.special_ids),
        per_row={"entity_starts": openings.astype(np.int32)},
    )
    cut = lengths - (ends - starts)
    lost = (int((cut > 0).sum()), len(rows), int(cut.sum()))
    return examples, Truncation(*lost, "away from their entities")
