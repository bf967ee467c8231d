"""Cutting a document's text into sentences without losing a character.

Whitespace belongs to the start of the sentence that follows it: " Then she left." Subword
tokenizers attach a space to the word after it, so encoding the sentences one by one gives the same
tokens as encoding the document.
"""

import re

_ENDERS = ".!?\u2026\u3002\uff01\uff1f\u0964\u06d4"
_CLOSERS = "\"')]}*`\u201d\u2019\u00bb\u300d\u300f\uff09\u3011"
_OPENERS = "\"'([{*`_\u201c\u2018\u00ab\u300c\u300e\uff08\u3010\u00bf\u00a1"
# A run of whitespace after something that may end a sentence, or long enough to hold a blank line;
# or the end of a sentence in a script that writes no spaces.
_CANDIDATE = re.compile(
    rf"(?<=[{re.escape(_ENDERS + _CLOSERS)}])\s+|\s{{2,}}"
    r"|(?<=[\u3002\uff01\uff1f])[\u201d\u2019\u300d\u300f\uff09\u3011]*(?=[^\W_])"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LAST_WORD = re.compile(r"(?:^|[\s(\[])([^\s(\[]{1,12})$")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st e.g i.e cf vs viz al approx resp no nos vol fig figs eq eqs ref"
    " refs sec secs ch chap ed eds p pp inc ltd co corp dept est gen col lt sgt rev hon pres gov"
    " jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k a.k.a w.r.t wrt incl excl max"
    " min".split()
)


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; joined together they are `text` again.

    A sentence ends at a blank line, or at one of .!? (with closing quotes and brackets) before
    whitespace and a capital letter, a digit or a letter of a script without case. Common
    abbreviations, initials and the numbers of a list do not end one.
    """
    cuts = [0]
    for match in _CANDIDATE.finditer(text):
        start, end = match.span()
        if start == end or not match.group()[0].isspace():
            cuts.append(end)  # no whitespace: the pattern has already looked at both sides
        elif start > 0 and end < len(text) and _is_boundary(text, start, end):
            cuts.append(start)
    cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:]) if b > a]


def split_lines(text: str) -> list[str]:
    """The lines of `text` that are not blank, each with the whitespace before it."""
    cuts = [0]
    for match in re.finditer(r"\s+", text):
        start, end = match.span()
        if start > 0 and end < len(text) and "\n" in match.group():
            cuts.append(start)
    cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:]) if b > a]


def split_long(text: str, limit: int) -> list[str]:
    """`text` cut into pieces of at most `limit` characters, before whitespace where there is any.

    A stretch of more than `limit` characters without whitespace is cut where the limit falls.
    """
    pieces, start = [], 0
    while len(text) - start > limit:
        end = start + limit
        cut = last_whitespace(text, start + 1, end)
        pieces.append(text[start : cut or end])
        start = cut or end
    pieces.append(text[start:])
    return pieces


def last_whitespace(text: str, low: int, high: int) -> int | None:
    """Start of the last run of whitespace that begins in [low, high], or None."""
    for position in range(high, low - 1, -1):
        if text[position].isspace() and not text[position - 1].isspace():
            return position
    return None


def _is_boundary(text: str, start: int, end: int) -> bool:
    """Whether the run of whitespace [start, end) separates two sentences."""
    if end - start > 1 and _BLANK_LINE.search(text, start, end):
        return True
    before = text[max(0, start - 24) : start].rstrip(_CLOSERS)
    if not before or before[-1] not in _ENDERS:
        return False
    following = text[end : end + 4].lstrip(_OPENERS)[:1]
    if not following or following.islower() or not following.isalnum():
        return False
    return before[-1] != "." or not _is_abbreviated(before)


def _is_abbreviated(before: str) -> bool:
    match = _LAST_WORD.search(before[:-1])
    if not match:
        return False
    word = match.group(1).lstrip(_OPENERS)
    if word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()):
        return True
    line_start = before[: match.start(1)].rpartition("\n")[2]
    return word.isdigit() and not line_start.strip()
