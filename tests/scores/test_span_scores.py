import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.scores.spans import convert, entities, entity_scores, tags_of

PUBLISHED = Path(__file__).parent / "published" / "spans.json"
CASES = json.loads(PUBLISHED.read_text(encoding="utf-8"))["cases"]
SCHEMES = ["IOB1", "IOB2", "BIOES"]


def sentences(case):
    return ([line.split() for line in case[side]] for side in ("predicted", "reference"))


def with_key(key):
    return [case for case in CASES if key in case]


@pytest.mark.parametrize("case", with_key("conlleval"))
def test_conlleval_mode_prints_what_conlleval_prints(case):
    scores = entity_scores(*sentences(case), case["scheme"])
    printed = case["conlleval"]
    for key in ("reference", "predicted", "correct"):
        assert scores[key] == printed[key]
    found = [100 * scores[key] for key in ("accuracy", "precision", "recall", "f1")]
    assert found == pytest.approx(printed["percent"], abs=0.00501)
    assert scores["types"].keys() == printed["types"].keys()
    for kind, row in scores["types"].items():
        found = [100 * row[key] for key in ("precision", "recall", "f1")]
        assert found == pytest.approx(printed["types"][kind], abs=0.00501)


@pytest.mark.parametrize("mode, key", [("conlleval", "seqeval"), ("strict", "seqeval_strict")])
def test_both_modes_are_seqevals(mode, key):
    for case in with_key(key):
        scores = entity_scores(*sentences(case), case["scheme"], mode)
        found = [scores[name] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(case[key]["micro"])
        assert scores["accuracy"] == pytest.approx(case[key]["accuracy"])
        assert scores["types"].keys() == case[key]["types"].keys()
        for kind, row in scores["types"].items():
            assert list(row.values()) == pytest.approx(case[key]["types"][kind])


def test_the_published_cases_tell_the_modes_apart():
    apart = [case for case in with_key("seqeval_strict") if case["seqeval"]["micro"]
             != case["seqeval_strict"]["micro"]]  # fmt: skip
    assert len(apart) >= 4


@st.composite
def segmentations(draw):
    """(entities, length) of a sentence: runs of O and entities, neighbours may touch."""
    found, position = [], 0
    for _ in range(draw(st.integers(0, 7))):
        position += draw(st.sampled_from([0, 0, 1, 2]))
        length = draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["PER", "LOC", "MISC-a", "Straße"]))
        found.append((kind, position, position + length))
        position += length
    return found, position + draw(st.integers(0, 2))


@given(segmentations(), st.sampled_from(SCHEMES))
def test_tags_of_entities_decode_to_them_in_both_modes(drawn, scheme):
    spans, length = drawn
    tags = tags_of(spans, length, scheme)
    assert len(tags) == length
    assert entities(tags, scheme, lenient=False) == spans == entities(tags, scheme, lenient=True)


@given(segmentations(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
def test_conversion_goes_there_and_back(drawn, source, target):
    tags = tags_of(*drawn, source)
    converted = convert(tags, source, target)
    assert entities(converted, target, lenient=False) == drawn[0]
    assert convert(converted, target, source) == tags


def any_tags(prefixes):
    tags = [f"{p}-{kind}" for p in prefixes for kind in ("A", "B")] + ["O", "O"]
    return st.lists(st.sampled_from(tags), max_size=12)


any_scheme = st.sampled_from([("IOB1", "IB"), ("IOB2", "IB"), ("BIOES", "BIES")]).flatmap(
    lambda drawn: st.tuples(st.just(drawn[0]), any_tags(drawn[1]))
)


@given(any_scheme)
def test_strict_entities_are_those_that_the_scheme_would_write_so(drawn):
    scheme, tags = drawn
    lenient, strict = entities(tags, scheme, True), entities(tags, scheme, False)
    assert set(strict) <= set(lenient)
    rewritten = tags_of(lenient, len(tags), scheme)
    for entity in lenient:
        same = tags[entity[1] : entity[2]] == rewritten[entity[1] : entity[2]]
        assert (entity in strict) == same, entity


@given(any_scheme)
def test_lenient_entities_cover_every_tag_that_is_not_outside_once(drawn):
    scheme, tags = drawn
    covered = [
        (index, kind)
        for kind, start, end in entities(tags, scheme, True)
        for index in range(start, end)
    ]
    assert covered == [(i, tag[2:]) for i, tag in enumerate(tags) if tag != "O"]


@given(any_scheme)
def test_repairing_illegal_tags_keeps_the_lenient_entities(drawn):
    scheme, tags = drawn
    repaired = convert(tags, scheme, scheme, lenient=True)
    assert entities(repaired, scheme, False) == entities(tags, scheme, True)


def test_known_sentences():
    assert entities("B-PER I-PER O B-LOC".split(), "IOB2", False) == [("PER", 0, 2), ("LOC", 3, 4)]
    assert entities("I-PER I-PER B-PER O".split(), "IOB1", False) == [("PER", 0, 2), ("PER", 2, 3)]
    assert convert("I-PER I-PER B-PER O".split(), "IOB1", "BIOES") == "B-PER E-PER S-PER O".split()
    assert entities("O I-PER I-LOC".split(), "IOB2", True) == [("PER", 1, 2), ("LOC", 2, 3)]
    assert entities("O I-PER I-LOC".split(), "IOB2", False) == []
    assert entities("B-PER I-PER O".split(), "BIOES", True) == [("PER", 0, 2)]
    assert entities("B-PER I-PER O".split(), "BIOES", False) == []
    assert entities(["B", "I", "O", "B"], "IOB2", False) == [("", 0, 2), ("", 3, 4)]


def test_an_example_from_seqevals_documentation():
    reference = ["O O O B-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    predicted = ["O O B-MISC I-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    scores = entity_scores(predicted, reference, "IOB2")
    assert scores["precision"] == scores["recall"] == scores["f1"] == 0.5
    assert scores["types"]["PER"] == {"precision": 1, "recall": 1, "f1": 1, "support": 1}


def test_an_entity_does_not_reach_over_the_end_of_a_sentence():
    split = entity_scores([["B-A"], ["I-A"]], [["B-A"], ["B-A"]], "IOB2")
    assert (split["predicted"], split["correct"]) == (2, 2)


def test_illegal_entities_are_counted_in_both_modes_and_dropped_in_one():
    predicted, reference = [["O", "I-A"]], [["O", "B-A"]]
    lenient = entity_scores(predicted, reference, "IOB2")
    strict = entity_scores(predicted, reference, "IOB2", "strict")
    assert (lenient["f1"], strict["f1"], strict["precision"]) == (1, 0, 0)
    for scores in (lenient, strict):
        assert (scores["illegal_predicted"], scores["illegal_reference"]) == (1, 0)


def test_no_entities_score_zero_and_no_words_have_no_accuracy():
    scores = entity_scores([["O", "O"]], [["O", "O"]], "IOB2")
    assert scores["f1"] == 0 and scores["accuracy"] == 1 and scores["types"] == {}
    assert math.isnan(entity_scores([[]], [[]], "IOB2")["accuracy"])


@pytest.mark.parametrize(
    "predicted, reference, options, said",
    [
        ([], [], {}, "no sentences"),
        ([["O"]], [["O"], ["O"]], {}, "differ in their number of sentences"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], {}, "sentence 1"),
        (["O"], ["O"], {}, "not a list of tags"),
        ([["E-A"]], [["O"]], {}, "does not belong to IOB2"),
        ([["b-A"]], [["O"]], {}, "does not belong to IOB2"),
        ([["B-"]], [["O"]], {}, "does not belong to IOB2"),
        ([["O"]], [["O"]], {"mode": "lenient"}, "no such mode"),
        ([["O"]], [["O"]], {"scheme": "BILOU"}, "no such scheme"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted, reference, options, said):
    with pytest.raises(UserError) as caught:
        entity_scores(predicted, reference, **{"scheme": "IOB2", **options})
    assert said in str(caught.value)


def test_conversion_from_the_wrong_scheme_is_refused():
    with pytest.raises(UserError, match="not legal IOB2") as caught:
        convert("O I-PER I-PER".split(), "IOB2", "BIOES")
    assert "tag 1" in str(caught.value)


@pytest.mark.parametrize("spans", [[("A", 0, 0)], [("A", 1, 4)], [("A", 0, 2), ("B", 1, 3)]])
def test_spans_that_no_tags_can_say_are_refused(spans):
    with pytest.raises(UserError, match="overlaps"):
        tags_of(spans, 3, "IOB2")
