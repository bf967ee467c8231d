"""Classification: what its labels, losses and predictions are, against numpy and scikit-learn."""

import functools

import jax
import numpy as np
import pytest
import tiny
import toy
from scipy.special import expit, log_softmax, softmax
from sklearn.utils.class_weight import compute_class_weight

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.models.model import Model
from jaxssl.program.gradients import make_loss
from jaxssl.tasks.classify import Classify

WEIGHTS = (0.5, 2.0, 1.25)
LABELS = np.array([2, 0, 1, 1, 0], np.int32)
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], np.float32)
REAL = np.array([1, 1, 1, 1, 0], np.float32)  # the fifth row is padding


def table(labels, texts=None, column="label"):
    texts = texts or [f"the cat sees a dog {i}" for i in range(len(labels))]
    return Table({"text": texts, column: labels}, [f"x.csv:{i + 2}" for i in range(len(labels))])


def learnt(**options):
    return Classify(labels=("a", "b", "c"), pooling="mean", **options)


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


def refused(match, call, where=None):
    with pytest.raises(UserError, match=match) as error:
        call()
    assert where is None or where in str(error.value.where)
    return str(error.value)


# --- Labels -----------------------------------------------------------------------------------


def test_labels_are_numbered_in_their_natural_order():
    found = Classify().learn_labels(table(["b", "10", "-1", "9", "a", "9", "2.5"]))
    assert found.labels == ("-1", "2.5", "9", "10", "a", "b")
    found = Classify().learn_labels(table([3, 11, 2, 3]))
    assert found.labels == ("2", "3", "11")
    given = Classify(labels=("no", "yes", "maybe")).learn_labels(table(["yes", "maybe ", "no"]))
    assert given.labels == ("no", "yes", "maybe")
    assert "3 labels (no, yes, maybe)" in given.about


def test_balanced_weights_are_scikit_learns():
    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    task = Classify(class_weights="balanced").learn_labels(table(labels))
    want = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    assert task.weights_by_label == pytest.approx(want)
    assert Classify().learn_labels(table(labels)).weights_by_label == ()


def test_labels_given_must_be_those_of_the_training_split():
    task = Classify(labels=("a", "b", "d"))
    text = refused("labels given", lambda: task.learn_labels(table(["a", "b", "c"])), "task.labels")
    assert "without an example: ['d']" in text and "not listed: ['c']" in text


def test_one_label_alone_is_nothing_to_learn():
    refused("nothing to tell apart", lambda: Classify().learn_labels(table(["a", "a"])))
    several = Classify(multi_label=True)  # there, a row may also have none
    assert several.learn_labels(table(["a", ""])).labels == ("a",)


@pytest.mark.parametrize(
    ("label", "match"),
    [(["a", "b"], "several labels"), (None, "no label"), ("  ", "no label")],
)
def test_a_row_has_one_label(label, match):
    refused(match, lambda: Classify().learn_labels(table(["a", label])), "x.csv:3, column label")


def test_several_labels_that_cannot_be_read_are_refused():
    several = Classify(multi_label=True)
    refused("no label", lambda: several.learn_labels(table(["a", {"b": 1}])), "x.csv:3")


def test_labels_given_twice_are_refused():
    task = Classify(labels=("a", "b", "a"))
    text = refused("labels given", lambda: task.learn_labels(table(["a", "b"])), "task.labels")
    assert "listed twice: ['a']" in text


def test_columns_that_are_not_there_are_named_by_their_key(tokenizer):
    rows = table(["a", "b", "c"])
    refused("no such column", lambda: Classify(label="lbl").learn_labels(rows), "task.label")
    for options in ({"text": "txt"}, {"pair": "txt"}):
        encode = functools.partial(learnt(**options).encode, rows, tokenizer, 16, "x")
        refused("no such column", encode, f"task.{next(iter(options))}")


def test_a_label_unknown_to_training_is_refused_with_its_place(tokenizer):
    task = Classify().learn_labels(table(["cat", "dog"]))
    call = lambda: task.encode(table(["dog", "kat"]), tokenizer, 16, "validation")
    text = refused("training split does not have", call, "x.csv:3, column label")
    assert "'kat'" in text and "did you mean 'cat'" in text
    call = lambda: task.encode(table(["bird"]), tokenizer, 16, "validation")
    assert "correct the label or leave the row out" in refused("does not have", call, "x.csv:2")


def test_an_empty_text_is_refused_with_its_place(tokenizer):
    call = lambda: learnt().encode(table(["a"], [" \t"]), tokenizer, 16, "train")
    refused("a text is empty", call, "x.csv:2, column text")


def test_rows_carry_the_numbers_of_their_labels(tokenizer):
    encoded = learnt().encode(table(["c", "a", "b"]), tokenizer, 16, "train")
    assert encoded.references.tolist() == [2, 0, 1]
    assert encoded.examples.per_row["labels"].tolist() == [2, 0, 1]
    unlabelled = Table({"text": ["the cat"]}, ["x"])
    without = learnt().encode(unlabelled, tokenizer, 16, "new", labelled=False)
    assert without.references is None and without.examples.num_rows == 1


def test_several_labels_are_lists_or_separated_strings(tokenizer):
    task = Classify(multi_label=True, separator=";")
    rows = table(["b; a", "", ["a", "c"], []])
    task = task.learn_labels(rows)
    encoded = task.encode(rows, tokenizer, 16, "train")
    assert task.labels == ("a", "b", "c")
    assert encoded.references.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 1.0},
        {"label_smoothing": 1.0},
        {"focal": -1.0},
        {"r_drop": float("nan")},
        {"multi_label": True, "class_weights": "balanced"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        Classify(**options)


# --- Losses -----------------------------------------------------------------------------------


def parts(task, seed=0):
    """A model without pooler, its parameters, hidden states and a batch of five rows."""
    model = Model(tiny.bert(pooler=False), task.heads)
    documents = [[d] for d in tiny.random_documents([7, 3, 5, 8, 2], seed)]
    batch = {**tiny.rows(documents), "example_weights": REAL}
    batch["labels"] = SEVERAL if task.multi_label else LABELS
    hidden = np.random.default_rng(seed).standard_normal((5, 8, 16)).astype(np.float32)
    return model, tiny.random_params(model, seed, scale=0.8), hidden, batch


def logits_of(params, hidden, batch):
    """Of the mean over each row's real tokens, by numpy."""
    real = (batch["segment_ids"] > 0)[..., None]
    features = (hidden * real).sum(1) / real.sum(1)
    output = params["classify"]["output"]
    return (features @ output["kernel"] + output["bias"]).astype(np.float64)


def row_losses(task, logits):
    """Of each row, by numpy: the formulas of the options' descriptions."""
    e, gamma = task.label_smoothing, task.focal
    if task.multi_label:
        p = expit(logits)
        target = (1 - e) * SEVERAL + e / 2
        right = np.where(SEVERAL > 0.5, p, 1 - p)
        each = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        return (each * (1 - right) ** gamma).mean(-1)
    log_p = log_softmax(logits, axis=-1)
    target = (1 - e) * np.eye(3)[LABELS] + e / 3
    right = np.exp(log_p[np.arange(5), LABELS])
    return -(target * log_p).sum(-1) * (1 - right) ** gamma


OPTIONS = [
    {},
    {"weights_by_label": WEIGHTS},
    {"label_smoothing": 0.2, "focal": 2.0},
    {"multi_label": True},
    {"multi_label": True, "label_smoothing": 0.1, "focal": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_is_the_weighted_mean_over_real_rows(options):
    task = learnt(**options)
    model, params, hidden, batch = parts(task)
    sums = task.sums(model, params, {"hidden": hidden}, batch)
    logits = logits_of(params, hidden, batch)
    weights = REAL * (np.array(WEIGHTS)[LABELS] if task.weights_by_label else 1)
    got = sums.losses["classify"] / task.weights(batch)["classify"]
    assert got == pytest.approx((weights * row_losses(task, logits)).sum() / weights.sum())
    plain = row_losses(learnt(multi_label=task.multi_label), logits)
    assert sums.metrics["nll/classify"] == pytest.approx((plain[:4].sum(), 4))
    if task.multi_label:
        hits = ((logits > 0) == (SEVERAL > 0.5)).mean(-1)
    else:
        hits = logits.argmax(-1) == LABELS
    assert sums.metrics["accuracy/classify"] == pytest.approx((hits[:4].sum(), 4))


def divergences(task, one, other):
    """KL(p, q) + KL(q, p) of each row."""
    if task.multi_label:
        p, q = expit(one), expit(other)
        kl = lambda a, b: (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum(-1)
    else:
        p, q = softmax(one, axis=-1), softmax(other, axis=-1)
        kl = lambda a, b: (a * np.log(a / b)).sum(-1)
    return kl(p, q) + kl(q, p)


@pytest.mark.parametrize(
    "options", [{}, {"multi_label": True}, {"weights_by_label": WEIGHTS, "label_smoothing": 0.1}]
)
def test_r_drop_is_its_formula_over_two_passes(options):
    task = learnt(r_drop=0.7, dropout=0.4, **options)
    model, params, hidden, batch = parts(task)
    twice = {name: np.repeat(values, 2, axis=0) for name, values in batch.items()}
    key, hidden = jax.random.key(3), np.repeat(hidden, 2, axis=0)
    sums = task.sums(model, params, {"hidden": hidden}, batch, key)
    real = (twice["segment_ids"] > 0)[..., None]
    features = ((hidden * real).sum(1) / real.sum(1)).astype(np.float32)
    logits = np.asarray(model.head(params, "classify", features, key), np.float64)
    one, other = logits[0::2], logits[1::2]
    assert np.abs(one - other).max() > 0.1  # dropout tells them apart
    loss = (row_losses(task, one) + row_losses(task, other)) / 2
    loss += 0.7 * divergences(task, one, other) / 4
    weights = REAL * (np.array(WEIGHTS)[LABELS] if task.weights_by_label else 1)
    assert task.own_forward and task.weights(batch)["classify"] == pytest.approx(weights.sum())
    assert sums.losses["classify"] == pytest.approx((weights * loss).sum(), rel=1e-5)
    plain = row_losses(learnt(multi_label=task.multi_label), one)  # metrics are of the first pass
    assert sums.metrics["nll/classify"] == pytest.approx((plain[:4].sum(), 4), rel=1e-5)
    if not task.multi_label:
        hits = (one.argmax(-1) == LABELS)[:4].sum()
        assert sums.metrics["accuracy/classify"] == pytest.approx((hits, 4))


def test_in_evaluation_r_drop_is_the_plain_loss():
    model, params, hidden, batch = parts(learnt())
    got = learnt(r_drop=0.7).sums(model, params, {"hidden": hidden}, batch)
    assert got.losses == learnt().sums(model, params, {"hidden": hidden}, batch).losses


def test_a_step_sends_each_row_through_the_body_twice():
    """Without dropout in the head, only a second pass through the body makes a divergence."""
    task = learnt(dropout=0.0, r_drop=2.0)
    _, _, _, batch = parts(task)
    model = Model(tiny.bert(pooler=False, dropout=0.3, num_layers=1), task.heads)
    params, key = tiny.random_params(model, scale=0.3), jax.random.key(0)
    loss = jax.jit(make_loss(model, task))(params, batch, key)[0]
    twice = {name: np.repeat(values, 2, axis=0) for name, values in batch.items()}
    hidden = jax.jit(model.encode)(params, twice, jax.random.fold_in(key, 0))
    logits = logits_of(params, np.asarray(hidden), twice)
    one, other = logits[0::2], logits[1::2]
    assert np.abs(one - other).max() > 0.05
    want = (row_losses(task, one) + row_losses(task, other)) / 2
    want += 2.0 * divergences(task, one, other) / 4
    assert loss == pytest.approx((REAL * want).sum() / 4, rel=1e-5)


# --- Predictions ------------------------------------------------------------------------------


def test_predictions_are_the_logits_of_the_pooled_row():
    model, params, hidden, batch = parts(learnt())
    got = learnt().predict(model, params, {"hidden": hidden}, batch)["logits"]
    np.testing.assert_allclose(got, logits_of(params, hidden, batch), rtol=1e-4, atol=1e-5)


def test_outputs_name_the_label_and_the_probability_of_each():
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32) * 3
    for row, want in zip(learnt().outputs({"logits": logits}, None), softmax(logits, axis=-1)):
        assert row["label"] == "abc"[want.argmax()]
        assert list(row["probabilities"].values()) == pytest.approx(want, abs=1e-6)
    several = learnt(multi_label=True).outputs({"logits": logits}, None)
    for row, want in zip(several, expit(logits)):
        assert row["labels"] == [name for name, share in zip("abc", want) if share > 0.5]
        assert list(row["probabilities"].values()) == pytest.approx(want, abs=1e-6)


def test_scores_are_of_the_likeliest_label():
    logits = np.eye(3)[[0, 1, 2, 2]]
    scores = learnt().scores({"logits": logits}, np.array([0, 1, 2, 0]))
    assert scores["accuracy"] == 0.75 and learnt().metric in scores
    several = learnt(multi_label=True)
    scores = several.scores({"logits": logits - 0.5}, np.array([[1, 0, 0]] * 4, np.float32))
    assert scores["exact_match"] == 0.25 and several.metric in scores


def test_the_majority_baseline_says_what_is_most_frequent_in_training():
    task = learnt()
    logits = task.majority_baseline(np.array([1, 1, 2]), np.zeros(5, int))["logits"]
    assert logits.argmax(-1).tolist() == [1] * 5
    train = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1]], np.float32)
    logits = learnt(multi_label=True).majority_baseline(train, np.zeros((2, 3)))["logits"]
    assert (logits > 0).tolist() == [[True, False, True]] * 2


def test_the_first_token_of_a_causal_model_is_refused():
    task = Classify(pooling="cls")
    refused("has seen nothing", lambda: task.check(tiny.gpt2(), tiny.WORDS), "task.pooling")
    task.check(tiny.bert(), tiny.WORDS)
