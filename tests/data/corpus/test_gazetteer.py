"""Phrases in texts: what the tree finds is what a search for each phrase finds."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.gazetteer import Gazetteer, GazetteerConfig, read_gazetteer

ALONE = "\u3042\u4f60\u597d"  # letters that are words by themselves
LETTERS = "aAbS_1\u00e9\u00df." + ALONE + "'-\U0001f600"
PIECES = st.text(LETTERS, min_size=1, max_size=3)
TEXTS = st.lists(PIECES, max_size=12).flatmap(
    lambda words: st.lists(
        st.sampled_from(["", " ", "  ", "\n", "\u00a0"]), min_size=len(words), max_size=len(words)
    ).map(lambda gaps: "".join(gap + word for gap, word in zip(gaps, words)))
)


def is_word(letter):
    return re.fullmatch(r"\w", letter) is not None and letter not in ALONE


def is_cut(text, at):
    """Whether a place is not inside of a word."""
    return at in (0, len(text)) or not (is_word(text[at - 1]) and is_word(text[at]))


def brute_force(phrases, text, ignore_case):
    """One regular expression for each phrase, at each place; the longest, from left to right."""
    flags = re.IGNORECASE if ignore_case else 0
    patterns = [
        re.compile(r"\s+".join(map(re.escape, phrase.split())), flags)
        for phrase in phrases
        if phrase.strip()
    ]
    found, at = [], 0
    while at < len(text):
        ends = [
            end
            for pattern in patterns
            if is_cut(text, at) and (match := pattern.match(text, at)) is not None
            for end in [match.end()]
            if is_cut(text, end)
        ]
        if ends:
            found.append((at, max(ends)))
        at = max(ends, default=at + 1)
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXTS, max_size=6), TEXTS, st.booleans())
def test_what_is_found_is_what_a_search_for_each_phrase_finds(phrases, text, ignore_case):
    phrases = [*phrases, text[1:6], text[:3]]
    if ignore_case:  # regular expressions do not fold \u00df to ss
        phrases, text = (
            ([x.replace("\u00df", "b") for x in (*phrases, text)][:-1]),
            text.replace("\u00df", "b"),
        )
    assert Gazetteer(phrases, ignore_case).find(text) == brute_force(phrases, text, ignore_case)


@pytest.mark.parametrize(
    "text, found",
    [
        ("New York City and New York.", ["New York City", "New York"]),
        ("New\n  York", ["New\n  York"]),
        ("NewYork, New Yorkers, renew York", []),
        ("the U.S. and U. S.", ["U.S."]),
        ("\u6211\u5728\u5317\u4eac\u5927\u5b66", ["\u5317\u4eac\u5927\u5b66"]),
        ("", []),
    ],
)
def test_phrases_are_whole_words_and_the_longest_wins(text, found):
    phrases = ["New York", "New York City", "U.S.", "\u5317\u4eac", "\u5317\u4eac\u5927\u5b66"]
    assert [text[a:b] for a, b in Gazetteer(phrases).find(text)] == found


def test_case_is_ignored_where_that_is_asked_for():
    text = "NEW YORK, Stra\u00dfe"
    assert Gazetteer(["New York"]).find(text) == []
    found = Gazetteer(["New York", "STRASSE"], ignore_case=True).find(text)
    assert [text[a:b] for a, b in found] == ["NEW YORK", "Stra\u00dfe"]


def test_a_file_has_a_phrase_a_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeff  New York \r\n\r\nS\u00e3o Paulo\nNew York\n".encode())
    gazetteer = read_gazetteer(GazetteerConfig(path=str(path)))
    assert gazetteer.size == 2
    assert gazetteer.find("S\u00e3o Paulo") == [(0, 9)]


@pytest.mark.parametrize(
    "content, message",
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"\xe9", "not text in UTF-8"), (None, "be read")],
)
def test_files_that_are_none_are_refused(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_gazetteer(GazetteerConfig(path=str(path)))
