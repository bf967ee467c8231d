"""Regression: its numbers, losses and predictions, against numpy and SciPy."""

import jax
import numpy as np
import pytest
import tiny
import toy
from scipy import stats

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.models.model import Model
from jaxssl.tasks.regress import Regress

TASK = Regress(text="a", pair="b", label="score", pooling="mean")
WANTED = np.array([0.5, 3.0, -1.0], np.float32)


def table(numbers, **columns):
    texts = {"a": ["the cat"] * len(numbers), "b": ["a dog"] * len(numbers), **columns}
    places = [f"x.csv:{i + 2}" for i in range(len(numbers))]
    return Table({**texts, "score": numbers}, places)


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def parts():
    """A model, its parameters, hidden states and a batch of two rows and one of padding."""
    model = Model(tiny.bert(pooler=False), TASK.heads)
    batch = tiny.rows([[d] for d in tiny.random_documents([4, 6, 2])])
    batch |= {"labels": WANTED, "example_weights": np.array([1, 1, 0], np.float32)}
    hidden = np.random.default_rng(0).standard_normal((3, 6, 16)).astype(np.float32)
    return model, tiny.random_params(model, scale=0.8), hidden, batch


def values_of(params, hidden, batch):
    real = (batch["segment_ids"] > 0)[..., None]
    output = params["regress"]["output"]
    return ((hidden * real).sum(1) / real.sum(1) @ output["kernel"] + output["bias"])[:, 0]


def test_the_loss_is_the_mean_squared_error_of_real_rows(parts):
    model, params, hidden, batch = parts
    sums = TASK.sums(model, params, {"hidden": hidden}, batch)
    want = np.square(values_of(params, hidden, batch) - WANTED)[:2]
    assert sums.losses["regress"] == pytest.approx(want.sum(), rel=1e-5)
    assert TASK.weights(batch)["regress"] == 2
    assert sums.metrics["mse/regress"] == pytest.approx((want.sum(), 2), rel=1e-5)
    got = TASK.predict(model, params, {"hidden": hidden}, batch)["value"]
    np.testing.assert_allclose(got, values_of(params, hidden, batch), rtol=1e-4)


def test_dropout_is_for_training_alone(parts):
    model, params, hidden, batch = parts
    task = Regress(pooling="mean", dropout=0.5)
    model = Model(model.config, task.heads)
    values = [
        float(task.sums(model, params, {"hidden": hidden}, batch, key).losses["regress"])
        for key in (jax.random.key(0), jax.random.key(1), None)
    ]
    assert len(set(values)) == 3
    plain = TASK.sums(parts[0], params, {"hidden": hidden}, batch).losses["regress"]
    assert values[2] == pytest.approx(float(plain))


def test_rows_carry_numbers_and_pairs(tokenizer):
    encoded = TASK.encode(table(["1.5", " 2", "-3e1"]), tokenizer, 16, "train")
    assert encoded.references.tolist() == [1.5, 2, -30]
    assert encoded.examples.per_row["labels"].dtype == np.float32
    assert (encoded.examples.second < encoded.examples.lengths).all()
    without = TASK.encode(
        Table({"a": ["x"], "b": ["y"]}, ["p"]), tokenizer, 16, "new", labelled=False
    )
    assert without.references is None and "labels" not in without.examples.per_row


def test_scores_are_those_of_what_is_predicted_within_bounds():
    task = Regress(clip=(0.0, 5.0))
    values, wanted = np.array([-2.0, 1.0, 9.0, 4.0]), np.array([0.0, 2.0, 5.0, 3.0])
    clipped = np.array([0.0, 1.0, 5.0, 4.0])
    scores = task.scores({"value": values}, wanted)
    assert scores[task.metric] == pytest.approx(stats.pearsonr(clipped, wanted)[0])
    assert scores["spearman"] == pytest.approx(stats.spearmanr(clipped, wanted)[0])
    assert task.outputs({"value": values}, None) == [{"value": v} for v in clipped]
    assert TASK.outputs({"value": values}, None)[2] == {"value": 9.0}
    assert TASK.majority_baseline(np.array([1.0, 2.0]), wanted)["value"].tolist() == [1.5] * 4


@pytest.mark.parametrize("value", ["much", None, "nan", "inf", True])
def test_what_is_no_number_is_refused_with_its_place(value):
    with pytest.raises(UserError, match="'score' cannot be used") as error:
        TASK.learn_labels(table(["1", value]))
    assert error.value.where == "x.csv:3"


def test_mistakes_in_the_data_are_told(tokenizer):
    with pytest.raises(UserError, match="nothing to learn") as error:
        TASK.learn_labels(table(["2", "2.0"]))
    assert "2 times 2.0" in str(error.value.got) and error.value.where == "task.label=score"
    assert TASK.learn_labels(table(["2", "3"])) == TASK
    with pytest.raises(UserError, match="no such column") as error:
        Regress(label="scores").learn_labels(table(["2", "3"]))
    assert "task.label" in error.value.where and "did you mean 'score'" in error.value.fix
    with pytest.raises(UserError, match="a text is empty") as error:
        TASK.encode(table(["1", "2"], b=["a dog", ""]), tokenizer, 16, "train")
    assert error.value.where == "x.csv:3, column b"


@pytest.mark.parametrize(
    "options", [{"dropout": 1.0}, {"dropout": -0.1}, {"clip": (5.0, 0.0)}, {"clip": (1.0,)}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        Regress(**options)
