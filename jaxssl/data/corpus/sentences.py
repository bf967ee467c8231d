"""Cutting a document's text into sentences without losing a character.

Whitespace belongs to the start of the sentence that follows it: " Then she left." Subword
tokenizers attach a space to the word after it, so encoding the sentences one by one gives the same
tokens as encoding the document.
"""

import re

_ENDERS = ".!?\u2026\u3002\uff01\uff1f\u0964\u06d4"
_CLOSERS = "\"')]}*`\u201d\u2019\u00bb\u300d\u300f\uff09\u3011"
# What every tokenizer takes for whitespace; Python counts some control characters too.
_SPACES = " \t\r\n\u00a0\u3000"
_QUOTES = "\"'\u201d\u2019\u00bb"
_OPENERS = "\"'([{*`_\u201c\u2018\u00ab\u300c\u300e\uff08\u3010\u00bf\u00a1"
# The whitespace after something that may end a sentence, if no small letter follows. It starts with
# the character class so that `re` can skip to it: every byte of a corpus comes this way.
_CANDIDATE = re.compile(rf"[{re.escape(_ENDERS + _CLOSERS)}](\s++)(?![a-z])")
_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n\s*+")
# The end of a sentence in a script that writes no spaces. Not before an opening bracket, which some
# tokenizers join with the stop.
_WIDE_END = re.compile(r"[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09\u3011]*(?=[^\W_])")
_LAST_WORD = re.compile(r"(?:^|[\s(\[])([^\s(\[]{1,12})$")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st e.g i.e cf vs viz al approx resp inc ltd co corp dept est gen col"
    " lt sgt rev hon pres gov jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k a.k.a w.r.t"
    " wrt incl excl max min ed eds".split()
)
_LONG = 1 + max(map(len, _ABBREVIATIONS))
_BEFORE_NUMBERS = frozenset(
    "no nos vol fig figs eq eqs ref refs sec secs ch chap p pp art ver".split()
)


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; joined together they are `text` again.

    A sentence ends at a blank line, or at one of .!? (with closing quotes and brackets) before
    whitespace and a capital letter, a digit or a letter of a script without case. Common
    abbreviations, initials and the numbers of a list do not end one.
    """
    size = len(text)
    ends = (match.span(1) for match in _CANDIDATE.finditer(text))
    cuts = [start for start, end in ends if end < size and _is_boundary(text, start, end)]
    if blank := _blank_lines(text):
        cuts = sorted({*cuts, *blank})
    if not text.isascii():
        wide = [match.end() for match in _WIDE_END.finditer(text)]
        cuts = sorted(cuts + wide) if wide else cuts
    cuts = [0, *cuts, size]
    return [text[a:b] for a, b in zip(cuts, cuts[1:]) if b > a]


def is_sentence_end(piece: str) -> bool:
    """Whether a piece of text is nothing but what ends a sentence: one of .!? or more, perhaps with
    closing quotes and brackets."""
    return any(c in _ENDERS for c in piece) and all(c in _ENDERS + _CLOSERS for c in piece)


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
        if text[position] in _SPACES and not text[position - 1].isspace():
            return position
    return None


def _blank_lines(text: str) -> list[int]:
    """Where the whitespace around blank lines begins, but at the text's ends."""
    cuts = []
    for match in _BLANK_LINE.finditer(text):
        start, end = match.span()
        while start and text[start - 1].isspace():
            start -= 1
        if 0 < start and end < len(text) and text[start] in _SPACES:
            cuts.append(start)
    return cuts


def _is_boundary(text: str, start: int, end: int) -> bool:
    """Whether the run of whitespace [start, end) separates two sentences, blank lines aside."""
    if text[start] not in _SPACES:
        return False
    following = text[end]
    if following.islower():
        return False
    word = text[start - _LONG - 1 : start - 1] if start > _LONG else ""
    if text[start - 1] == "." and word.isalpha() and word.islower() and following.isalnum():
        return True  # most are so: the word is too long for an abbreviation
    before = text[max(0, start - 24) : start].rstrip(_CLOSERS)
    if not before or before[-1] not in _ENDERS:
        return False
    following = text[end : end + 4].lstrip(_OPENERS)[:1]
    if not following or following.islower() or not following.isalnum():
        return False
    if before[-1] != "." or text[start - 1] in _QUOTES:
        return True
    return not _is_abbreviated(before, following)


def _is_abbreviated(before: str, following: str) -> bool:
    """Whether the stop at the end of `before` belongs to its last word or number."""
    match = _LAST_WORD.search(before[:-1])
    if not match:
        return False
    word = match.group(1).lstrip(_OPENERS)
    if word.lower() in _BEFORE_NUMBERS:
        return following.isdigit()
    if word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()):
        return True
    line_start = before[: match.start(1)].rpartition("\n")[2]
    return word.isdigit() and not line_start.strip()
