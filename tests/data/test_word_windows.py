"""Sentences as rows of whole words: no word lost, none counted twice, each where it sees most."""

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.ragged import row_splits
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.words import Words
from jaxssl.data.word_windows import cut, encode_windows, owners

LENGTHS = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=25), min_size=1, max_size=6)


def words_of(lengths):
    """Words of so many tokens; a token is its own number."""
    flat = np.array([n for sentence in lengths for n in sentence], np.int64)
    counts = np.array([len(sentence) for sentence in lengths], np.int64)
    return Words(np.arange(flat.sum(), dtype=np.int32), row_splits(flat), row_splits(counts))


def best_by_hand(lengths, windows, word):
    """The window of a word by the rule, one after the other."""
    found = []
    for number, (start, end) in enumerate(windows):
        if start <= word < end:
            context = min(sum(lengths[start:word]), sum(lengths[word + 1 : end]))
            found.append((-context, number))
    return min(found)[1]


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(6, 20), st.integers(0, 10))
def test_every_word_belongs_to_the_window_that_shows_most_around_it(lengths, room, stride):
    words, stride = words_of(lengths), min(stride, room // 2)
    start, end = cut(words, room, stride)
    windows = list(zip(start.tolist(), end.tolist()))
    flat = [n for sentence in lengths for n in sentence]
    expected = [best_by_hand(flat, windows, word) for word in range(len(flat))]
    assert owners(words, start, end).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(6, 20), st.integers(0, 10))
def test_windows_are_full_share_what_they_may_and_stay_in_their_sentence(lengths, room, stride):
    words, stride = words_of(lengths), min(stride, room // 2)
    start, end = cut(words, room, stride)
    sentence = np.searchsorted(words.sentences, start, side="right") - 1
    tokens = lambda a, b: int(words.starts[b] - words.starts[a])
    for i, (a, b) in enumerate(zip(start.tolist(), end.tolist())):
        stop = int(words.sentences[sentence[i] + 1])
        assert a < b <= stop and tokens(a, b) <= room
        assert b == stop or tokens(a, b + 1) > room, "there is room for another word"
        if i and sentence[i] == sentence[i - 1]:
            new = tokens(end[i - 1], end[i - 1] + 1)
            assert a > start[i - 1] and tokens(a, end[i - 1]) <= min(stride, room - new)
            assert tokens(a - 1, end[i - 1]) > min(stride, room - new), "more might be shared"
        else:
            assert a == words.sentences[sentence[i]] and (i == 0 or end[i - 1] == a)
    assert sorted(set(sentence.tolist())) == list(range(len(lengths)))


def test_an_example_by_hand():
    """Ten words of one token in rows of six that share two: 0-5, 4-9. Word 4 has one token to its
    right in the first and none to its left in the second, word 5 the other way round."""
    words = words_of([[1] * 10])
    start, end = cut(words, 6, 2)
    assert start.tolist() == [0, 4] and end.tolist() == [6, 10]
    assert owners(words, start, end).tolist() == [0] * 5 + [1] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe"])
def test_rows_hold_the_words_between_special_tokens(kind):
    tokenizer = toy.train_toy_tokenizer(kind)
    sentences = ["".join(document).split() for document in toy.documents(12)]
    rows = encode_windows(tokenizer, sentences, ["here"] * len(sentences), 20, 6)
    examples, ids = rows.examples, tokenizer.special_ids
    assert examples.lengths.max() <= 20 and len(np.unique(examples.lengths)) > 1
    number = 0
    for i, sentence in enumerate(sentences):
        prefix = " " if kind == "byte_bpe" else ""
        for word in sentence:
            at = examples.starts[rows.row[number]]
            inside = examples.tokens[at + rows.first[number] : at + rows.last[number] + 1]
            assert inside.tolist() == tokenizer.encode_batch([prefix + word])[0].tolist(), word
            assert rows.sentence[rows.row[number]] == i
            number += 1
    assert number == len(rows.row)
    for start, end in zip(examples.starts, examples.starts[1:]):
        row = examples.tokens[start:end].tolist()
        if kind == "wordpiece":
            assert row[0] == ids["cls"] and row[-1] == ids["sep"]
            assert not {ids["cls"], ids["sep"]} & set(row[1:-1])
        else:
            assert row[-1] == tokenizer.document_end and tokenizer.document_end not in row[:-1]


def test_windows_are_told_of(tokenizer):
    sentences = [["the", "cat"] * 20, ["a", "dog"], ["the", "cat"] * 7]
    rows = encode_windows(tokenizer, sentences, ["here"] * 3, 14, 2)
    count = int((rows.sentence != 1).sum())
    assert rows.notes("test") == (
        f"test: 2 of 3 sentences are longer than a row and are read in {count} windows; "
        "no word is lost",
    )
    assert encode_windows(tokenizer, sentences[1:2], ["here"], 14, 2).notes("test") == ()


def test_words_that_are_nothing_are_told_of():
    tokenizer = toy.train_toy_tokenizer("wordpiece")
    sentences = [["a", "", "dog"], ["\u200b", "", "cat"]]
    (note,) = encode_windows(tokenizer, sentences, ["here"] * 2, 14, 2).notes("test")
    assert note.startswith("test: words that are nothing") and note.endswith("'', '\\u200b'")


@pytest.mark.parametrize(
    "max_length, stride, message",
    [
        (10, 2, r"(?s)a word is longer than a row.*a.conll:3, word 1.*at most 8 tokens.*'gdgd"),
        (40, 20, r"(?s)share more than half.*task.stride.*at most 19"),
        (2, None, r"no room for words"),
    ],
)
def test_what_cannot_be_a_window_is_refused(tokenizer, max_length, stride, message):
    sentences = [["the", "cat"], ["the", "gd" * 15, "cat"]]
    with pytest.raises(UserError, match=message):
        encode_windows(tokenizer, sentences, ["a.conll:1", "a.conll:3"], max_length, stride)


def test_the_longest_word_that_fits_is_taken(tokenizer: Tokenizer):
    word = next(
        w for n in range(1, 99) if len(tokenizer.encode_batch([w := ("gd" * n)[:n]])[0]) == 8
    )
    rows = encode_windows(tokenizer, [["the", word, "the"]], ["here"], 10, 4)
    lengths = rows.examples.lengths.tolist()
    assert lengths == [3, 10, 3] and rows.row.tolist() == [0, 1, 2]
