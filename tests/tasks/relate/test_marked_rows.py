"""Where markers are among the tokens, by transformers' offsets, and what is kept of long rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relations import KINDS, tokenizer

from jaxssl.core.errors import UserError
from jaxssl.tasks.relate.entities import Pair
from jaxssl.tasks.relate.marked_rows import MarkedTokens, fit, rows_that_fit, tokenise
from jaxssl.tasks.relate.markers import mark, opening

TYPED = (opening(0, "PERSON"), opening(1, "organization"))
PLAIN = (opening(0), opening(1))
TEXTS = [
    "The cat sees a dog, near a river.",
    "the@cat #sees @ a # dog @@ ## x@y #",
    " \n\tthe  cat\n\nsees\r\n a\u00a0dog\u200b. ",
    "Na\u00efve caf\u00e9s \u4f60\u597d\u3002\u518d\u89c1 \U0001f600 e\u0301 end",
    "@ # * ^",
    "\u200bcat \u200b dog",
]
LITERAL = "a [SEP] b [CLS] <s> c <|endoftext|> [MASK] d"


def every_pair(text):
    """Pairs of spans of a text: before and after each other, nested, crossing and the same."""
    rng = np.random.default_rng(len(text))
    for _ in range(12):
        spans = [tuple(sorted(rng.choice(len(text) + 1, 2, replace=False))) for _ in range(2)]
        if all(text[a:b].strip() for a, b in spans):
            yield Pair(text, (spans[0], spans[1]))


@pytest.fixture(scope="module")
def transformers_of(tmp_path_factory):
    from transformers import AutoTokenizer

    loaded = {}

    def load(kind):
        if kind not in loaded:
            directory = tmp_path_factory.mktemp(kind)
            tokenizer(kind).save(directory)
            loaded[kind] = AutoTokenizer.from_pretrained(directory)
        return loaded[kind]

    return load


def places_of(marked, openings):
    """Characters of both opening symbols and of the last closing one, in the joined text."""
    starts = np.cumsum([0, *map(len, marked.pieces)])[1:4]
    spaces = [len(piece) - len(piece.lstrip(" ")) for piece in marked.pieces[1:]]
    at = (starts + spaces).tolist()
    whole = "".join(marked.pieces)
    symbols = [openings[i][0] for i in (marked.first, 1 - marked.first)] + ["@#"[marked.last]]
    assert [whole[i] for i in at] == symbols
    return at if marked.first == 0 else [at[1], at[0], at[2]]


def holding(offsets, place):
    """The token that holds the character at `place`: the last one, as at a text's beginning
    SentencePiece's mark of a space has the offsets of the character too."""
    return max(n for n, (start, end) in enumerate(offsets) if start <= place < end)


@pytest.mark.parametrize("openings", [PLAIN, TYPED], ids=["plain", "typed"])
@pytest.mark.parametrize("kind", KINDS)
def test_openings_are_the_tokens_that_transformers_offsets_say(kind, openings, transformers_of):
    marked = [mark(pair, openings) for text in TEXTS for pair in every_pair(text)]
    assert len(marked) > 40
    got = tokenise(tokenizer(kind), marked, ["x"] * len(marked), show=False)
    for i, text in enumerate(marked):
        whole = "".join(text.pieces)
        want = transformers_of(kind)(whole, return_offsets_mapping=True, add_special_tokens=False)
        assert got.ids[i].tolist() == want["input_ids"], whole
        offsets = want["offset_mapping"]
        first, second, last = places_of(text, openings)
        assert got.openings[i].tolist() == [holding(offsets, p) for p in (first, second)], whole
        start, end = got.needed[i]
        assert end - 1 == holding(offsets, last)
        # The stretch that is needed begins with the first marker, or with the space before it.
        opens = min(first, second)
        begun = [n for n, (a, b) in enumerate(offsets) if b > max(0, opens - 1) and a <= opens]
        assert start == begun[0]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_the_text_stay_text(kind):
    t = tokenizer(kind)
    pairs = [Pair(LITERAL, ((2, 7), (10, 15))), Pair(LITERAL, ((30, 36), (2, 7)))]
    got = tokenise(t, [mark(pair, PLAIN) for pair in pairs], ["x", "y"], show=False)
    special = {id_ for role, id_ in t.special_ids.items() if id_ is not None and role != "unk"}
    for i, _ in enumerate(pairs):
        assert not special & set(got.ids[i].tolist())
        assert [t.token(int(got.ids[i][n]))[-1] for n in got.openings[i]] == ["@", "#"]


def test_a_tokenizer_that_joins_markers_with_text_is_refused():
    real = tokenizer("byte_bpe")

    class Joining:
        """Moves each third piece's start by a token: what a tokenizer without cuts might do."""

        name, special_ids, token = "joining", real.special_ids, real.token

        def encode_documents(self, documents):
            return [
                (ids, ends if len(pieces) < 4 else ends - [0, 1, 0, 0])
                for pieces, (ids, ends) in zip(documents, real.encode_documents(documents))
            ]

    marked = [mark(Pair("the cat sees a dog", ((4, 7), (15, 18))), PLAIN)]
    tokenise(real, marked, ["x.csv:7"], show=False)
    with pytest.raises(UserError, match="joins an entity marker") as error:
        tokenise(Joining(), marked, ["x.csv:7"], show=False)
    assert "x.csv:7" in error.value.where


# --- What is kept of long rows ----------------------------------------------------------------


def stretches(left, needed, right, room):
    """Grown token by token, by turns, from both entities: the brute force."""
    before = after = 0
    for turn in range(2 * room):
        if before + after + needed == room:
            break
        if turn % 2 == 0 and before < left:
            before += 1
        elif turn % 2 and after < right:
            after += 1
    return before, after


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(2, 8), st.integers(0, 9)), min_size=1),
    st.integers(10, 24),
)
def test_the_stretch_kept_holds_both_entities_and_most_around_them(rows, max_length):
    t = tokenizer("wordpiece")
    head, _, tail = t.frame(pair=False)
    ids = [np.arange(100, 100 + sum(row)) for row in rows]  # a token says where it was
    needed = np.array([(left, left + size) for left, size, _ in rows])
    openings = np.stack([needed[:, 1] - 2, needed[:, 0]], axis=1)  # the object comes first
    tokens = MarkedTokens(ids, openings, needed)
    examples, cut = fit(tokens, t, max_length, np.arange(len(rows)))
    lost = 0
    for i, (left, size, right) in enumerate(rows):
        before, after = stretches(left, size, right, max_length - len(head) - len(tail))
        row = examples.tokens[examples.starts[i] : examples.starts[i + 1]].tolist()
        kept = ids[i][left - before : left + size + after].tolist()
        assert row == [*head, *kept, *tail] and len(row) <= max_length
        assert [row[n] for n in examples.per_row["entity_starts"][i]] == (
            openings[i] + 100
        ).tolist()
        lost += sum(rows[i]) - len(kept)
    assert (cut.tokens, cut.total) == (lost, len(rows))
    assert cut.rows == sum(sum(row) > max_length - len(head) - len(tail) for row in rows)
    assert examples.per_row["entity_starts"].dtype == np.int32


def test_rows_whose_entities_are_too_far_apart_are_told_with_place_and_numbers():
    t = tokenizer("wordpiece")
    needed = np.array([(0, 3), (1, 9), (0, 11)])
    tokens = MarkedTokens([np.arange(12)] * 3, needed, needed)
    places = ["a:1", "a:2", "a:3"]
    with pytest.raises(UserError, match="cut off by truncation") as error:
        rows_that_fit(tokens, t, 9, places, "train", leave_out=False)
    assert error.value.where == "a:2" and "data.max_length=9" in error.value.expected
    assert error.value.got == "10 tokens; 2 of 3 rows are too long like this"
    assert "data.max_length=13" in error.value.fix and "leave_out" in error.value.fix
    kept, note = rows_that_fit(tokens, t, 9, places, "train", leave_out=True)
    assert kept.tolist() == [0] and note.startswith("WARNING: most of this data is left out!")
    assert "train: 2 of 3 rows (66.7%)" in note
    kept, note = rows_that_fit(tokens, t, 10, places, "train", leave_out=True)
    assert kept.tolist() == [0, 1] and note.startswith("train: 1 of 3 rows (33.3%)")
    kept, note = rows_that_fit(tokens, t, 13, places, "train", leave_out=False)
    assert kept.tolist() == [0, 1, 2] and note is None
    with pytest.raises(UserError, match="no row is left") as error:
        rows_that_fit(tokens, t, 4, places, "test", leave_out=True)
    assert "test" in error.value.where and "13" in error.value.fix
