"""Tagging: labels once a word, schemes there and back, and scores of the file's own tags."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.scores.spans import PREFIXES, entities, entity_scores, tags_of
from jaxssl.tasks.tag.task import Tag

TYPES = ("A", "B")
LONG = 14
"""Of rows that most sentences of `sentences` do not fit in."""


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


def table(words, tags, places=None):
    places = places or [f"a.conll:{10 * i + 1}" for i in range(len(words))]
    return Table({"words": words, "tags": tags}, places)


def sentences(scheme="IOB2", count=30, seed=0):
    """Sentences of the toy corpus's words and random entities, many next to each other."""
    rng, rows, tags = np.random.default_rng(seed), [], []
    for document in toy.documents(count, seed):
        words, spans, at = "".join(document).split(), [], 0
        while at < len(words):
            end = min(at + int(rng.integers(1, 4)), len(words))
            if rng.random() < 0.7:
                spans.append((str(rng.choice(TYPES)), at, end))
            at = end
        rows.append(words)
        tags.append(tags_of(spans, len(words), scheme))
    return table(rows, tags)


def perfect(encoded):
    """Predictions that are the labels; wrong wherever a token has none."""
    examples = encoded.examples
    labels, weights = (examples.per_token[name][0] for name in ("labels", "label_weights"))
    shape = (examples.num_rows, examples.lengths.max())
    tags = np.full(shape, 1, np.int32)
    for i, (start, end) in enumerate(zip(examples.starts, examples.starts[1:])):
        tags[i, : end - start] = np.where(weights > 0, labels, 1)[start:end]
    return {"tag": tags, "probability": np.full(shape, 0.5)}


# --- Labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
def test_labels_are_o_and_every_tag_of_each_type(scheme):
    short = table([["a", "b", "c"]], [["B-Y", "O", "B-X"]])
    task = Tag(train_scheme=scheme).learn_labels(short)
    every = [f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in "XY"]
    assert task.labels == ("O", *sorted(every))
    assert task.learn_labels(short) == task


def test_labels_without_a_scheme_are_the_tags_that_occur():
    task = Tag(scheme="none").learn_labels(table([["a", "b", "c"]], [["VB", "O", "DT"]]))
    assert task.labels == ("O", "DT", "VB") and task.metric == "accuracy"


BAD = [
    ({}, [["a"]], [["B-X", "O"]], r"(?s)not as many tags as words.*a.conll:1.*1 tags.*2: B-X O"),
    ({}, [["a"], []], [["O"], []], r"(?s)sentence is empty.*a.conll:11, column words"),
    ({}, [["a"], " "], [["O"], "O"], r"(?s)sentence is empty.*a.conll:11"),
    ({}, [["a", 3]], [["O", "O"]], r"(?s)word is not a string.*a.conll:1, .*word 1.*3"),
    ({}, [["a", "b"]], [["O", None]], r"(?s)word has no tag.*tag 1, of 'b'.*None"),
    ({}, [["a"]], [None], r"(?s)not a list of tags.*a.conll:1, column tags.*None"),
    ({"words": "word"}, [["a"]], [["O"]], r"(?s)no such column.*task.words.*did you mean 'words'"),
    ({"label": "tgas"}, [["a"]], [["O"]], r"(?s)no such column.*task.label.*did you mean 'tags'"),
    ({}, [["a"]] * 2, [["O"], ["I-X"]], r"(?s)not legal IOB2.*a.conll:11, .*tags, tag 0.*lenient"),
    ({}, [["a"]], [["E-X"]], r"(?s)does not belong to IOB2.*a.conll:1.*E-X.*task.scheme"),
    ({"scheme": "BIOES"}, [["a"]], [["B-X"]], r"(?s)not legal BIOES.*a.conll:1"),
    ({}, [["a", "b"]], [["O", "O"]], "nothing to tell apart"),
    ({"scheme": "none"}, [["a", "b"]], [["DT", "DT"]], r"(?s)nothing to tell apart.*DT"),
    ({"labels": ("O", "B-X")}, [["a", "b"]], [["B-X", "I-X"]], r"not listed: \['I-X'\]"),
    ({"labels": ("O", "B-X", "B-Z")}, [["a"]], [["B-X"]], r"without an example: \['B-Z'\]"),
    ({"labels": ("B-X", "I-X")}, [["a"]], [["B-X"]], r"not listed: \['O'\]"),
]


@pytest.mark.parametrize("changes, words, tags, message", BAD)
def test_what_cannot_be_learnt_is_refused_with_its_place(changes, words, tags, message):
    with pytest.raises(UserError, match=message):
        Tag(**changes).learn_labels(table(words, tags))


ADVICE = [
    ("IOB2", ["O", "S-X"], "S-X", "task.scheme=BIOES", False),
    ("IOB2", ["B-X", "L-X"], "L-X", "write E for L", False),
    ("IOB2", ["NOUN", "DET"], "NOUN", "task.scheme=none", False),
    ("IOB2", ["B-X", "I-"], "I-", "correct the tag", False),
    ("IOB2", ["O", "I-X"], None, "task.scheme=IOB1", True),
    ("IOB1", ["O", "B-X"], None, "task.scheme=IOB2", True),
    ("BIOES", ["B-X", "I-X"], None, "task.scheme=IOB2", True),
    ("BIOES", ["B-X", "S-X", "I-X"], None, "task.lenient", True),
]


@pytest.mark.parametrize("scheme, tags, wrong, advice, lenient", ADVICE)
def test_a_wrong_tag_is_told_with_its_place_its_scheme_and_advice_that_works(
    scheme, tags, wrong, advice, lenient
):
    data = table([["a"], ["a"] * len(tags)], [["O"], tags])
    for task in (Tag(scheme=scheme), Tag(scheme=scheme, lenient=not lenient)):
        with pytest.raises(UserError, match=scheme) as error:
            task.learn_labels(data)
        at = tags.index(wrong) if wrong else int(error.value.where[-1])
        assert error.value.where == f"a.conll:11, column tags, tag {at}"
        assert (wrong or tags[at]) in error.value.got and advice in error.value.fix
        assert ("lenient" in error.value.fix) == lenient
    if lenient:
        assert Tag(scheme=scheme, lenient=True).learn_labels(data).labels
    if advice.startswith("task.scheme"):
        assert Tag(scheme=advice.partition("=")[2]).learn_labels(data).labels


def test_a_type_that_the_training_split_lacks_is_refused_with_its_place(tokenizer):
    task = Tag(train_scheme="BIOES").learn_labels(table([["a"]], [["B-X"]]))
    other = table([["a"], ["the", "cat"]], [["B-X"], ["O", "B-Z"]])
    with pytest.raises(
        UserError, match=r"(?s)does not have.*a.conll:11, column tags, tag 1.*'B-Z'"
    ):
        task.encode(other, tokenizer, 16, "validation")


@pytest.mark.parametrize(
    "changes",
    [{"scheme": "none", "train_scheme": "IOB2"}, {"dropout": 1.0}, {"stride": -1}, {"focal": -1.0}],
)
def test_settings_that_mean_nothing_are_refused(changes):
    with pytest.raises(UserError):
        Tag(**changes)


def test_a_causal_model_labels_the_last_token_of_a_word():
    with pytest.raises(UserError, match="has not seen the rest"):
        Tag().check(tiny.gpt2(), tiny.WORDS)
    Tag(subword="last").check(tiny.gpt2(), tiny.WORDS)
    Tag().check(tiny.bert(), tiny.WORDS)


def test_a_pooler_is_not_kept():
    assert not Tag().keeps_pooler(tiny.bert(pooler=True))


# --- Rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("subword", ["first", "last"])
@pytest.mark.parametrize("max_length", [LONG, 200])
def test_each_word_is_labelled_once_at_one_of_its_tokens(tokenizer, subword, max_length):
    data = sentences()
    task = Tag(subword=subword, stride=4).learn_labels(data)
    encoded = task.encode(data, tokenizer, max_length, "train")
    examples = encoded.examples
    weights = examples.per_token["label_weights"][0]
    flat = [tag for row in data.columns["tags"] for tag in row]
    assert weights.sum() == len(flat) and set(weights.tolist()) == {0.0, 1.0}
    found: list[list] = [[None] * len(row) for row in data.columns["words"]]
    for i, window in enumerate(encoded.references):
        for index, column in zip(window.index, window.column):
            at = examples.starts[i] + column
            token = tokenizer.encode_batch([window.words[index]])[0][
                0 if subword == "first" else -1
            ]
            assert examples.tokens[at] == token and weights[at] == 1
            assert found[window.sentence][index] is None
            found[window.sentence][index] = task.labels[examples.per_token["labels"][0][at]]
    assert found == data.columns["tags"]
    assert bool(encoded.notes) == (max_length == LONG)


def test_sentences_without_tags_are_read_from_strings_too(tokenizer):
    task = Tag().learn_labels(sentences())
    data = Table({"words": [["the", "cat"], " a dog\tsees it\r\n"]}, ["x:1", "x:2"])
    encoded = task.encode(data, tokenizer, 16, "input", labelled=False)
    assert [w.words for w in encoded.references] == [["the", "cat"], ["a", "dog", "sees", "it"]]
    assert not encoded.examples.per_token and encoded.references[0].tags is None
    shape = (2, int(encoded.examples.lengths.max()))
    predictions = {"tag": np.full(shape, 1), "probability": np.full(shape, 0.25)}
    rows = task.outputs(predictions, encoded.references)
    assert rows[0]["tags"] == ["B-A", "B-A"] and rows[1]["probabilities"] == [0.25] * 4


# --- Scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
@pytest.mark.parametrize("train_scheme", [None, "IOB1", "IOB2", "BIOES"])
def test_labels_that_are_predicted_come_back_as_the_files_tags(tokenizer, scheme, train_scheme):
    data = sentences(scheme)
    task = Tag(scheme=scheme, train_scheme=train_scheme, stride=3).learn_labels(data)
    encoded = task.encode(data, tokenizer, LONG, "test")
    assert len(encoded.references) > 2 * len(data)
    rows = task.outputs(perfect(encoded), encoded.references)
    assert [row["tags"] for row in rows] == data.columns["tags"]
    assert [row["words"] for row in rows] == data.columns["words"]
    scores = task.scores(perfect(encoded), encoded.references)
    assert set(scores.values()) == {1.0} and "left_out" not in scores
    assert {"f1", "strict_f1", "precision/A", "recall/B", "f1/A", "accuracy"} <= scores.keys()


@pytest.mark.parametrize("train_scheme", [None, "BIOES"])
def test_scores_are_those_of_what_is_put_out_and_the_file(tokenizer, train_scheme):
    data = sentences("IOB2")
    task = Tag(train_scheme=train_scheme).learn_labels(data)
    encoded = task.encode(data, tokenizer, LONG, "test")
    predictions, rng = perfect(encoded), np.random.default_rng(1)
    wrong = rng.random(predictions["tag"].shape) < 0.2
    drawn = rng.integers(len(task.labels), size=wrong.shape)
    predictions["tag"] = np.where(wrong, drawn, predictions["tag"])
    scores = task.scores(predictions, encoded.references)
    rows = task.outputs(predictions, encoded.references)
    tags = [row["tags"] for row in rows]
    for mode, prefix in (("conlleval", ""), ("strict", "strict_")):
        expected = entity_scores(tags, data.columns["tags"], "IOB2", mode)
        for name in ("precision", "recall", "f1"):
            assert scores[prefix + name] == expected[name]
            if mode == "conlleval":
                assert [scores[f"{name}/{t}"] for t in TYPES] == [
                    expected["types"][t][name] for t in TYPES
                ]
        assert scores["accuracy"] == expected["accuracy"]
    assert 0.1 < scores["f1"] < 0.9
    assert (scores["strict_f1"] == scores["f1"]) == (train_scheme is not None)
    for row in rows:
        listed = [(e["type"], e["start"], e["end"]) for e in row["entities"]]
        assert listed == entities(row["tags"], "IOB2", lenient=True)
        for e in row["entities"]:
            assert e["text"] == " ".join(row["words"][e["start"] : e["end"]])


def test_illegal_tags_are_taken_leniently_if_asked_and_scored_as_they_are(tokenizer):
    data = table([["the", "cat"], ["a", "dog"]], [["I-X", "I-X"], ["O", "B-X"]])
    task = Tag(lenient=True).learn_labels(data)
    encoded = task.encode(data, tokenizer, 16, "train")
    predictions = perfect(encoded)
    assert task.outputs(predictions, encoded.references)[0]["tags"] == ["B-X", "I-X"]
    scores = task.scores(predictions, encoded.references)
    assert (scores["f1"], scores["accuracy"]) == (1.0, 0.75) and scores["strict_recall"] == 1.0
    assert scores["strict_precision"] == 0.5  # strictly, the file has one entity


def test_sentences_without_all_windows_are_left_out_and_counted(tokenizer):
    data = sentences()
    task = Tag().learn_labels(data)
    encoded = task.encode(data, tokenizer, LONG, "test")
    predictions = perfect(encoded)
    long = next(w.sentence for w in encoded.references if w.windows > 1)
    rows = [i for i, w in enumerate(encoded.references) if w.sentence != long]
    rows.append(next(i for i, w in enumerate(encoded.references) if w.sentence == long))
    rows.sort()
    some = {name: values[rows] for name, values in predictions.items()}
    references = [encoded.references[i] for i in rows]
    scores = task.scores(some, references)
    assert scores["left_out"] == 1 and scores["f1"] == 1
    assert len(task.outputs(some, references)) == len(data) - 1
    one = [w for w in references if w.sentence == long]
    with pytest.raises(UserError, match="no sentence has all of its windows"):
        task.scores({name: v[:1] for name, v in some.items()}, one)


def test_tags_without_a_scheme_are_scored_as_classes(tokenizer):
    from sklearn.metrics import f1_score

    data = sentences("BIOES")  # five tags that are not read as entities
    task = Tag(scheme="none").learn_labels(data)
    encoded = task.encode(data, tokenizer, LONG, "test")
    predictions, rng = perfect(encoded), np.random.default_rng(1)
    wrong = rng.random(predictions["tag"].shape) < 0.3
    predictions["tag"] = np.where(wrong, 0, predictions["tag"])
    scores = task.scores(predictions, encoded.references)
    rows = task.outputs(predictions, encoded.references)
    guessed = [tag for row in rows for tag in row["tags"]]
    gold = [tag for row in data.columns["tags"] for tag in row]
    assert scores["accuracy"] == pytest.approx(np.mean(np.array(guessed) == np.array(gold)))
    assert scores["macro_f1"] == pytest.approx(f1_score(gold, guessed, average="macro"))
    assert "entities" not in rows[0] and "strict_f1" not in scores


def test_the_majority_baseline_finds_no_entity_and_says_the_most_frequent_tag(tokenizer):
    data = sentences()
    task = Tag().learn_labels(data)
    encoded = task.encode(data, tokenizer, LONG, "train")
    scores = task.scores(
        task.majority_baseline(encoded.references, encoded.references), encoded.references
    )
    flat = [tag for row in data.columns["tags"] for tag in row]
    assert scores["f1"] == 0 and scores["accuracy"] == flat.count("O") / len(flat)
    plain = Tag(scheme="none").learn_labels(data)
    encoded = plain.encode(data, tokenizer, LONG, "train")
    scores = plain.scores(
        plain.majority_baseline(encoded.references, encoded.references), encoded.references
    )
    most = max(flat.count(tag) for tag in set(flat))
    assert scores["accuracy"] == most / len(flat)


# --- On the device ----------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing, focal", [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0)])
def test_the_loss_is_that_of_labelled_tokens_alone(smoothing, focal):
    task = Tag(labels=("O", "B-X", "I-X"), label_smoothing=smoothing, focal=focal)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 7, 3)).astype(np.float32)
    labels = rng.integers(3, size=(4, 7)).astype(np.int32)
    weights = (rng.random((4, 7)) < 0.5).astype(np.float32)
    model = SimpleNamespace(head=lambda params, name, x, key=None, rows=None: x)
    batch = {"labels": labels, "label_weights": weights}
    got = task.sums(model, {}, {"hidden": jnp.asarray(logits)}, batch)  # type: ignore[arg-type]
    total = plain = hits = 0.0
    for i, t in np.argwhere(weights > 0):
        p = np.exp(logits[i, t]) / np.exp(logits[i, t]).sum()
        target = np.eye(3)[labels[i, t]] * (1 - smoothing) + smoothing / 3
        total -= (target * np.log(p)).sum() * (1 - p[labels[i, t]]) ** focal
        plain -= np.log(p[labels[i, t]])
        hits += p.argmax() == labels[i, t]
    count = weights.sum()
    assert float(got.losses["tag"]) == pytest.approx(total, rel=1e-5)
    assert float(task.weights(batch)["tag"]) == count
    assert [float(x) for x in got.metrics["nll/tag"]] == pytest.approx([plain, count], rel=1e-5)
    assert [float(x) for x in got.metrics["accuracy/tag"]] == [hits, count]


def test_predictions_are_the_likeliest_label_and_its_probability():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    model = SimpleNamespace(head=lambda params, name, x, key=None, rows=None: x)
    got = Tag().predict(model, {}, {"hidden": jnp.asarray(logits)}, {})  # type: ignore[arg-type]
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_array_equal(got["tag"], shares.argmax(axis=-1))
    np.testing.assert_allclose(got["probability"], shares.max(axis=-1), rtol=1e-5)


def test_the_head_has_an_output_for_each_label():
    task = dataclasses.replace(Tag(), labels=("O", "B-X", "I-X"))
    assert [(head.name, head.size) for head in task.heads] == [("tag", 3)]
    assert task.about == "3 tags in IOB2 (O, B-X, I-X)"
