"""Sentences: nothing is lost, and boundaries are where a reader would put them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.data.corpus.sentences import split_lines, split_long, split_sentences

TEXTS = st.text(alphabet="aB3 .!?\n\t\"')(“”。你_·\u0301é\x1c\u3000", max_size=60) | st.text()


@given(TEXTS)
def test_the_sentences_joined_are_the_text(text):
    for split in (split_sentences, split_lines):
        pieces = split(text)
        assert "".join(pieces) == text
        assert all(pieces)


@given(TEXTS)
def test_a_cut_is_before_whitespace_or_between_ideographic_sentences(text):
    for before, after in zip(split_sentences(text), split_sentences(text)[1:]):
        assert not before[-1].isspace()
        assert after[0].isspace() or after[0].isalnum()


@given(TEXTS, st.integers(1, 20))
def test_long_text_is_cut_before_whitespace_where_there_is_any(text, limit):
    pieces = split_long(text, limit)
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    for before, after in zip(pieces, pieces[1:]):
        pairs = zip(before, before[1:] + after[0])
        can_cut = any(b in " \t\n\u3000" and not a.isspace() for a, b in pairs)
        assert not can_cut or (after[0].isspace() and not before[-1].isspace())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", " Two!", " Three?", " Four"]),
        ('He said "No." Then left.', ['He said "No."', " Then left."]),
        ("See (Fig. 3). Dr. Who came, e.g. Mr. J. Smith. Done.", 3),
        ("It is 3.14 today, v1.2 tomorrow.", 1),
        ("heading\n\nlower case paragraph\n \n Third", 3),
        ("1. First item\n2. Second item", 1),
        ("lower case. after a stop. stays", 1),
        ("你好。再见！「真的？」是的。", ["你好。", "再见！「真的？」", "是的。"]),
        ("“Quoted.” “Again.” (Bracket.) [Next.]", 4),
        ("यह है। वह था।", 2),
        ("trailing space. \n\n ", 1),
        ("Wait... What? Yes…  Good.", 4),
        ("", []),
    ],
)
def test_boundaries(text, expected):
    found = split_sentences(text)
    assert found == expected if isinstance(expected, list) else len(found) == expected, found


def test_lines_keep_the_whitespace_before_them():
    assert split_lines("a\n  b c\n\n\nd \n") == ["a", "\n  b c", "\n\n\nd \n"]


@pytest.mark.parametrize(
    "text",
    [
        " " * 10**6,
        "\n" * 10**6,
        "a" + "\n " * 10**6,
        "." * 10**6,
        '."' * 10**6,
        "。" * 10**6,
        "a. " * 10**5,
    ],
)
def test_time_is_linear_in_odd_text(text):
    start = time.perf_counter()
    assert "".join(split_sentences(text)) == text
    assert "".join(split_lines(text)) == text
    assert time.perf_counter() - start < 5
