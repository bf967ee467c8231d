"""Markers in the text: around what they belong to, whatever the text holds, and known to all."""

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from relations import KINDS, tokenizer

from jaxssl.core.errors import UserError
from jaxssl.tasks.relate.entities import Pair
from jaxssl.tasks.relate.markers import check_known, encode_symbol, mark, opening

PLAIN = (opening(0), opening(1))


def marked(text, first, second, openings=PLAIN):
    return "".join(mark(Pair(text, (first, second)), openings).pieces)


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [
        ((0, 3), (8, 12), "@ the @ old # fish # swims"),
        ((8, 12), (0, 3), "# the # old @ fish @ swims"),  # the object comes first
        ((4, 7), (8, 18), "the @ old @ # fish swims #"),  # side by side
        ((4, 12), (8, 12), "the @ old # fish # @ swims"),  # within, ending together
        ((0, 3), (0, 7), "# @ the @ old # fish swims"),  # within, starting together
        ((0, 12), (4, 7), "@ the # old # fish @ swims"),  # within
        ((4, 7), (4, 7), "the @ # old # @ fish swims"),  # the same
        ((0, 7), (4, 12), "@ the # old @ fish # swims"),  # crossing
        ((4, 12), (0, 7), "# the @ old # fish @ swims"),
        ((5, 6), (13, 18), "the o @ l @ d fish # swims #"),  # in a word
        ((0, 3), (3, 8), "@ the @ # old # fish swims"),  # a space at an entity's edge
    ],
)
def test_markers_stand_around_their_entities(first, second, want):
    assert marked("the old fish swims", first, second) == want


def test_types_are_words_in_the_marker():
    openings = (opening(0, "PERSON"), opening(1, "state_or  Province"))
    assert openings == ("@ * person *", "# ^ state or province ^")
    got = marked("Bill left Ohio.", (0, 4), (10, 14), openings)
    assert got == "@ * person * Bill @ left # ^ state or province ^ Ohio # ."


@st.composite
def pairs(draw, alphabet="ab .\n"):
    text = draw(st.text(alphabet, min_size=1, max_size=14))
    spans = []
    for _ in range(2):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        spans.append((start, end))
    return Pair(text, (spans[0], spans[1]))


def squeezed(text):
    return "".join(text.split())


@settings(max_examples=300)
@given(pairs())
def test_without_markers_it_is_the_text_and_between_them_the_entity(pair):
    if not all(pair.text[a:b].strip() for a, b in pair.spans):
        return
    pieces, first, last = mark(pair, PLAIN)
    whole = "".join(pieces)
    assert squeezed(whole.replace("@", "").replace("#", "")) == squeezed(pair.text)
    for symbol, other, (start, end) in zip("@#", "#@", pair.spans):
        before, inside, after = whole.split(symbol)
        assert squeezed(before.replace(other, "")) == squeezed(pair.text[:start])
        assert squeezed(inside.replace(other, "")) == squeezed(pair.text[start:end])
        assert squeezed(after.replace(other, "")) == squeezed(pair.text[end:])
    # Each piece but the first begins with its marker; a marker stands between single spaces.
    symbols = [piece.lstrip(" ")[0] for piece in pieces[1:]]
    assert symbols == ["@#"[first], "@#"[1 - first], "@#"[last]]
    assert all(
        whole[i + 1 : i + 2] in ("", " ") and whole[max(i - 1, 0) : i] in ("", " ")
        for i, character in enumerate(whole)
        if character in "@#"
    )


@settings(max_examples=200)
@given(pairs(alphabet="a@# *"))
def test_symbols_in_the_text_change_nothing(pair):
    if not all(pair.text[a:b].strip() for a, b in pair.spans):
        return
    there, back = str.maketrans("@#*", "xyz"), str.maketrans("xyz", "@#*")
    got = mark(pair, ("1", "2"))
    other = mark(Pair(pair.text.translate(there), pair.spans), ("1", "2"))
    assert (got.first, got.last) == (other.first, other.last)
    assert tuple(piece.translate(back) for piece in other.pieces) == got.pieces


# --- Tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_that_know_the_symbols_are_accepted(kind):
    check_known(tokenizer(kind), [*PLAIN, opening(0, "PERSON"), opening(1, "organization")])
    inside, leading = encode_symbol(tokenizer(kind), "@")
    for ids in (inside, leading):
        assert tokenizer(kind).decode(ids).strip() == "@"
        assert "@" in tokenizer(kind).token(int(ids[-1]))


def test_a_tokenizer_without_a_symbol_is_refused():
    ignorant = toy.train_toy_tokenizer("wordpiece")  # its corpus has no @
    with pytest.raises(UserError, match="does not know an entity marker") as error:
        check_known(ignorant, PLAIN)
    assert "task.markers" in error.value.where and "'#'" in error.value.expected
    assert error.value.got == "[UNK]"


def test_a_type_with_an_unknown_character_is_refused():
    with pytest.raises(UserError, match="does not know an entity marker") as error:
        check_known(tokenizer("wordpiece"), [*PLAIN, opening(0, "PERSON"), opening(1, "人")])
    assert "人" in error.value.expected


def test_a_symbol_that_a_tokenizer_drops_is_refused():
    class Dropping:
        name, special_ids = "dropping", {"unk": None}

        def encode_documents(self, documents):
            return [(np.array([5, 5]), np.array([1, 2])), (np.array([5]), np.array([1]))]

    with pytest.raises(UserError, match="does not know an entity marker") as error:
        encode_symbol(Dropping(), "@")
    assert error.value.got == "none"
