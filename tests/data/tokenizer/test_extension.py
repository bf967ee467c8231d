"""Further pieces of a tokenizer: learnt as by hand, behind the old ids, made of the old pieces."""

import itertools
from collections import Counter

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.extension import (
    count_words,
    extend,
    learn_merges,
    pieces_before,
)
from jaxssl.data.tokenizer.loading import load_tokenizer, with_tokens

TEXTS = [
    "der alte Mann sieht den Garten unter dem Baum, und die Katze malt im Garten. " * 3,
    "Die Katze findet den alten Garten: die Straße, den Baum - und niemals mehr das Haus!\n" * 2,
]


@pytest.fixture(scope="module", params=["wordpiece", "byte_bpe"])
def old(request):
    return toy.train_toy_tokenizer(request.param)


@pytest.fixture(scope="module")
def new(old):
    return extend(old, count_words(old, TEXTS), 30)


def by_hand(pieces, known, count, least):
    """The same, with all pairs counted anew each time."""
    words, known, found = {word: n for word, n in pieces.items()}, {*known}, []
    while count > 0:
        totals = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                totals[pair] += n
        if not totals or max(totals.values()) < least:
            break
        pair = min(totals, key=lambda pair: (-totals[pair], pair))
        made = "".join(pair)
        found.append((pair, made))
        count -= made not in known
        known.add(made)
        joined = Counter()
        for word, n in words.items():
            text, i = [], 0
            while i < len(word):
                if word[i : i + 2] == pair:
                    text.append(made)
                    i += 2
                else:
                    text.append(word[i])
                    i += 1
            joined[tuple(text)] += n
        words = joined
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 5), max_size=8),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_the_most_frequent_pair_is_joined_each_time(words, count, least):
    pieces = {tuple(word): n for word, n in words.items()}
    found = learn_merges(pieces, str.__add__, "abc", count, least)
    assert found == by_hand(pieces, "abc", count, least)


def test_old_ids_stay_and_the_text_takes_fewer_tokens(old, new):
    assert new.vocab_size == old.vocab_size + 30
    for id_ in range(old.vocab_size):
        assert new.token(id_) == old.token(id_)
    assert (new.special_ids, new.special_tokens) == (old.special_ids, old.special_tokens)
    before, after = old.encode_batch(TEXTS), new.encode_batch(TEXTS)
    for text, long, short in zip(TEXTS, before, after):
        assert len(short) < (0.9 if old.special_ids["unk"] is None else 2.5) * len(long)
        if old.special_ids["unk"] is None:
            assert new.decode(short) == old.decode(long) == text
    if old.special_ids["unk"] is not None:
        unknown = old.special_ids["unk"]
        share = [(np.concatenate(x) == unknown).mean() for x in (before, after)]
        assert share[0] > 0.1 and share[1] < 0.03


def test_a_text_of_known_characters_reads_as_before(old, new):
    for text in ("".join(document) for document in toy.documents(5, 7)):
        both = [x.decode(x.encode_batch([text])[0]) for x in (old, new)]
        assert both[0] == both[1]
        plain = text if old.special_ids["unk"] is None else text.replace(".", " .")
        assert both[1].replace(" .", ".") == plain.replace(" .", ".")


def test_it_is_saved_and_read_again_and_the_same_words_give_the_same(old, new, tmp_path):
    new.save(tmp_path / "new")
    again = load_tokenizer(tmp_path / "new")
    assert again.fingerprint == new.fingerprint
    words = count_words(old, reversed(TEXTS))
    assert extend(old, words, 30).fingerprint == new.fingerprint


def test_the_pieces_before_spell_the_piece(old, new):
    before = pieces_before(old, new)
    assert len(before) == 30
    plain = lambda token: token.removeprefix("##")
    unknown = old.special_ids["unk"]
    for id_, ids in enumerate(before, start=old.vocab_size):
        assert ids and max(ids) < old.vocab_size
        if ids != [unknown]:
            assert "".join(plain(old.token(i)) for i in ids) == plain(new.token(id_))
    assert any(len(ids) > 1 for ids in before)


def test_more_pieces_are_learnt_on_top_and_added_tokens_keep_their_ids(old):
    larger = with_tokens(old, ["<gene>"], None)
    both = extend(larger, count_words(larger, TEXTS), 5)
    assert both.token(old.vocab_size) == "<gene>"
    assert both.encode_batch(["<gene>"])[0].tolist() == [old.vocab_size]
    assert both.vocab_size == old.vocab_size + 6
    twice = extend(both, count_words(both, TEXTS), 5)
    assert larger.is_beginning_of(both) and both.is_beginning_of(twice)
    assert larger.is_beginning_of(twice) and not twice.is_beginning_of(both)
    assert pieces_before(old, both)[0] == old.encode_batch(["<gene>"])[0].tolist()


def test_other_tokenizers_are_no_beginning(old, new):
    kinds = [toy.train_toy_tokenizer(kind) for kind in ("wordpiece", "byte_bpe")]
    other = next(x for x in kinds if type(x.token(6)) is str and x.fingerprint != old.fingerprint)
    assert old.is_beginning_of(old) and old.is_beginning_of(new)
    assert not old.is_beginning_of(other) and not other.is_beginning_of(new)
    special = with_tokens(new, ["<end>"], "bos")
    assert not old.is_beginning_of(special)


def test_what_cannot_be_extended_is_refused(old):
    with pytest.raises(UserError, match=r"(?s)nothing to learn.*give more text"):
        extend(old, count_words(old, ["?"]), 5)
    with pytest.raises(UserError, match=r"--extend-vocabulary"):
        extend(old, {}, 0)
    pieces = toy.train_toy_tokenizer("sentencepiece_unigram")
    with pytest.raises(UserError, match=r"(?s)cannot be added.*WordPiece or byte-level BPE"):
        extend(pieces, {"a": 3}, 5)
    assert pieces_before(pieces, pieces) == []
