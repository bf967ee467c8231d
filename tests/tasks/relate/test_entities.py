"""Where entities are, by marks in a text or columns of positions; mistakes with their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relations import table

from jaxssl.core.errors import UserError
from jaxssl.tasks.relate.entities import CharacterEntities, MarkedEntities, WordEntities

POSITIONS = ("subj_start", "subj_end", "obj_start", "obj_end")


def read(config, **columns):
    return config.read(table({name: [value] for name, value in columns.items()}))


def entities(pair):
    return tuple(pair.text[start:end] for start, end in pair.spans)


def refused(call, match, where):
    with pytest.raises(UserError, match=match) as error:
        call()
    assert error.value.where == where
    return error.value


# --- Marks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain", "found"),
    [
        ("The <e1>fire</e1> by <e2>a spark</e2>.", "The fire by a spark.", ("fire", "a spark")),
        ("<e2>b</e2><e1>a</e1>", "ba", ("a", "b")),
        ("<e1>the <e2>cat</e2></e1> is", "the cat is", ("the cat", "cat")),
        ("<e1><e2>cat</e2></e1>", "cat", ("cat", "cat")),
        ("<e1>old <e2>green</e1> fish</e2>", "old green fish", ("old green", "green fish")),
        ("e1 < <e1> it </e1> @ # <e2>@</e2> <e3>", "e1 <  it  @ # @ <e3>", (" it ", "@")),
        ("<e1>a</e1>b<e2>c</e2><e", "abc<e", ("a", "c")),
    ],
)
def test_marks_are_taken_out_of_the_text(text, plain, found):
    (pair,) = read(MarkedEntities(), text=text)
    assert pair.text == plain and entities(pair) == found


def test_taking_marks_out_does_not_make_new_ones():
    (pair,) = read(MarkedEntities(), text="<e<e1>1>x</e1> <e2>y</e2>")
    assert pair.text == "<e1>x y" and entities(pair) == ("1>x", "y")


def test_the_strings_of_the_marks_are_the_recipes():
    config = MarkedEntities(text="s", first=("[A]", "[/A]"), second=("[B]", "[/B]"))
    (pair,) = read(config, s="[B] he[/B] met [A]her [/A]")
    assert entities(pair) == ("her ", " he")


@pytest.mark.parametrize(
    ("text", "match", "got"),
    [
        ("<e1>a</e1> <e2>b", "mark is missing", "</e2> once"),
        ("a b", "mark is missing", "<e1> once"),
        ("<e1>a</e1> <e1>b</e1> <e2>c</e2>", "more than once", "<e1> once"),
        ("</e1>a<e1> <e2>b</e2>", "wrong order", "<e1> before </e1>"),
        ("<e1>a</e1> </e2>b<e2>", "wrong order", "<e2> before </e2>"),
        ("<e1></e1> <e2>b</e2>", "empty entity", "some text"),
        ("<e1>a</e1> <e2> <e", "mark is missing", "</e2> once"),
        ("<e1>a</e1> <e2> \t</e2>", "empty entity", "some text"),
    ],
)
def test_marks_that_cannot_be_read_are_refused(text, match, got):
    error = refused(lambda: read(MarkedEntities(), text=text), match, "x.csv:2, column text")
    assert got in str(error.expected)


def test_a_missing_column_is_named_by_its_key():
    with pytest.raises(UserError, match="no such column") as error:
        read(MarkedEntities(text="sentence"), text="a")
    assert "task.entities.text" in error.value.where
    with pytest.raises(UserError, match="no such column") as error:
        read(WordEntities(words="token"), words=["a"])
    assert "task.entities.words" in error.value.where
    with pytest.raises(UserError, match="no such column") as error:
        read(CharacterEntities(obj_end="end"), text="a", subj_start=0, subj_end=1, obj_start=0)
    assert "task.entities.obj_end" in error.value.where


@pytest.mark.parametrize(
    "second", [("<e1>", "</e1>"), ("<e", "</e2>"), ("", "x"), ("><", "</e2>"), ("<e2>", "<e2>")]
)
def test_marks_that_run_into_each_other_are_refused(second):
    with pytest.raises(UserError, match="run into each other"):
        MarkedEntities(second=second)


# --- Positions --------------------------------------------------------------------------------


@given(st.lists(st.text("ab@ ", min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_words_and_characters_say_the_same(words, data):
    at = st.integers(0, len(words) - 1)
    spans = [sorted((data.draw(at), data.draw(at))) for _ in range(2)]
    expected = [" ".join(words[a : b + 1]) for a, b in spans]
    if not all(text.strip() for text in expected):
        return
    columns = dict(zip(POSITIONS, (x for span in spans for x in span)))
    (pair,) = read(WordEntities(), words=words, **columns)
    assert pair.text == " ".join(words) and entities(pair) == tuple(expected)
    after = {k: v + k.endswith("end") for k, v in columns.items()}
    assert read(WordEntities(inclusive=False), words=words, **after) == [pair]
    in_text = dict(zip(POSITIONS, (str(x) for span in pair.spans for x in span)))
    assert read(CharacterEntities(), text=pair.text, **in_text) == [pair] or not pair.text.strip()


def test_columns_have_the_names_of_the_recipe():
    names = dict(zip(POSITIONS, "abcd"))
    config = WordEntities(words="token", **names)
    (pair,) = read(config, token=["Bill", "met", "her"], a=2, b=2, c=0, d=1)
    assert entities(pair) == ("her", "Bill met")


@pytest.mark.parametrize(
    ("config", "text", "positions", "fix"),
    [
        (CharacterEntities(), "abc", (0, 1, 2, 4), None),
        (CharacterEntities(), "abc", (-1, 1, 0, 1), None),
        (CharacterEntities(), "abc", (2, 1, 0, 1), None),
        (CharacterEntities(), "abc", (1, 1, 0, 1), "inclusive=true"),
        (CharacterEntities(inclusive=True), "abc", (0, 3, 0, 1), "inclusive=false"),
        (WordEntities(), ["a", "b"], (0, 0, 1, 2), "inclusive=false"),
        (WordEntities(), ["a", "b"], (0, 0, 2, 2), None),
    ],
)
def test_positions_that_do_not_fit_are_refused(config, text, positions, fix):
    columns = dict(zip(POSITIONS, positions))
    name = "words" if isinstance(text, list) else "text"
    with pytest.raises(UserError, match="do not fit its text") as error:
        read(config, **{name: text}, **columns)
    assert error.value.where in (
        "x.csv:2, columns subj_start and subj_end",
        "x.csv:2, columns obj_start and obj_end",
    )
    assert (fix in error.value.fix) if fix else error.value.fix is None


@pytest.mark.parametrize(
    ("columns", "match", "where"),
    [
        ({"subj_start": 0.5}, "no whole number", "x.csv:2, column subj_start"),
        ({"obj_end": "one"}, "cannot be used", "x.csv:2"),
        ({"obj_end": None}, "cannot be used", "x.csv:2"),
        ({"words": None}, "not a list of words", "x.csv:2, column words"),
        ({"words": []}, "sentence is empty", "x.csv:2, column words"),
        ({"words": ["Bill", 3, "her"]}, "not a string", "x.csv:2, column words, word 1"),
        ({"words": ["Bill", "", " "], "obj_start": 1}, "empty entity", "x.csv:2, column words"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(columns, match, where):
    good = {"words": ["Bill", "met", "her"], **dict(zip(POSITIONS, (0, 0, 2, 2)))}
    refused(lambda: read(WordEntities(), **{**good, **columns}), match, where)


@pytest.mark.parametrize(
    "words", ['["Bill", "met", "her"]', "['Bill', 'met', 'her']", "Bill met her"]
)
def test_words_of_a_csv_file_are_those_of_a_list(words):
    columns = dict(zip(POSITIONS, (0, 0, 2, 2)))
    listed = read(WordEntities(), words=["Bill", "met", "her"], **columns)
    assert read(WordEntities(), words=words, **columns) == listed
