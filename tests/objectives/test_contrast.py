"""Losses over the texts of a batch: as sentence-transformers has them, and by formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from sentence_transformers.sentence_transformer import losses as theirs
from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.model import Model
from jaxssl.models.vector_heads import LARGEST, ScaleHead
from jaxssl.objectives.contrast.base import Texts
from jaxssl.objectives.contrast.cosent import CoSent
from jaxssl.objectives.contrast.cosine import Cosine
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.contrast.triplet import Triplet
from jaxssl.objectives.simcse import SimCse
from jaxssl.ops.contrast import effective_rank, no_negatives, uniformity_terms, unit

B, H = 8, 12


def texts(count=3, seed=0, *, labels=None, keys=None, real=None, counted=None, scale=20.0):
    rng = np.random.default_rng(seed)
    if keys is None:
        keys = np.stack([np.arange(B * count).reshape(B, count)] * 2, axis=-1)
    real = np.ones(B) if real is None else real
    return Texts(
        vectors=jnp.asarray(rng.normal(size=(B, count, H)), jnp.float32),
        keys=jnp.asarray(keys, jnp.uint32),
        real=jnp.asarray(real, jnp.float32),
        counted=jnp.asarray(real if counted is None else counted, jnp.float32),
        labels=None if labels is None else jnp.asarray(labels, jnp.float32),
        scale=scale,
    )


def mean_and_gradient(loss, given):
    """What is minimised, and its gradient by the vectors."""

    def mean(vectors):
        made = loss.sums(given._replace(vectors=vectors))
        return made.loss / loss.weight(given.counted)

    value, gradient = jax.jit(jax.value_and_grad(mean))(given.vectors)
    return float(value), np.asarray(gradient)


def assert_as_theirs(loss, their, given, labels=None):
    value, gradient = mean_and_gradient(loss, given)
    vectors = torch.tensor(np.asarray(given.vectors), requires_grad=True)
    made = their.compute_loss_from_embeddings(
        list(vectors.unbind(dim=1)), None if labels is None else torch.tensor(labels)
    )
    made.backward()
    assert value == pytest.approx(made.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, vectors.grad.numpy(), atol=2e-6)


# --- As sentence-transformers -------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_ranking_is_multiple_negatives_ranking(count, temperature):
    scale = 1 / temperature
    their = theirs.MultipleNegativesRankingLoss(None, scale=scale)
    loss = Ranking(temperature=temperature)
    assert loss.scale == scale
    assert_as_theirs(loss, their, texts(count, scale=scale))


def test_symmetric_ranking_has_both_directions():
    their = theirs.MultipleNegativesRankingLoss(
        None, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    assert_as_theirs(Ranking(symmetric=True), their, texts(3))


def test_cosent_has_ties_left_out():
    labels = np.array([0.0, 0.5, 0.5, 1.0, 0.2, 0.2, 0.2, 0.9], np.float32)
    given = texts(2, labels=labels)
    assert_as_theirs(CoSent(), theirs.CoSENTLoss(None), given, labels)


def test_cosine_is_the_squared_error():
    labels = np.linspace(-1, 1, B).astype(np.float32)
    given = texts(2, labels=labels)

    class Pairs(theirs.CosineSimilarityLoss):
        def compute_loss_from_embeddings(self, embeddings, labels):
            output = torch.cosine_similarity(*embeddings)
            return self.loss_fct(output, labels)

    assert_as_theirs(Cosine(), Pairs(None), given, labels)


@pytest.mark.parametrize(
    ("ours", "theirs_", "margin"),
    [("euclidean", "EUCLIDEAN", 5.0), ("manhattan", "MANHATTAN", 5.0), ("cosine", "COSINE", 0.5)],
)
def test_triplets_have_their_distances(ours, theirs_, margin):
    metric = getattr(TripletDistanceMetric, theirs_)
    their = theirs.TripletLoss(None, distance_metric=metric, triplet_margin=margin)
    assert_as_theirs(Triplet(distance=ours, margin=margin), their, texts(3))


# --- By formula ---------------------------------------------------------------------------------


def test_equal_vectors_cost_the_logarithm_of_the_candidates():
    given = texts(3)._replace(vectors=jnp.ones((B, 3, H)))
    assert mean_and_gradient(Ranking(), given)[0] == pytest.approx(np.log(2 * B), rel=1e-6)
    labels = np.repeat([1.0, 2.0, 3.0], [1, 1, 6])
    three = texts(2, labels=labels)._replace(vectors=jnp.ones((B, 2, H)))
    # 1 + the pairs whose labels differ: 2 > 1 once, 3 > 1 and 3 > 2 six times each.
    assert mean_and_gradient(CoSent(), three)[0] == pytest.approx(np.log(14), rel=1e-6)


@pytest.mark.parametrize("weight", [1.5, np.log(0.5)])
def test_the_weight_of_hard_negatives_is_added_to_a_rows_own(weight):
    given = texts(3)
    scores = unit(given.vectors[:, 0]) @ unit(given.vectors[:, 1:]).reshape(-1, H).T * 20
    scores = np.array(scores).reshape(B, B, 2)
    scores[np.arange(B), np.arange(B), 1] += weight
    flat = scores.reshape(B, -1)
    own = scores[np.arange(B), np.arange(B), 0]
    expected = np.mean(np.log(np.exp(flat - flat.max(1, keepdims=True)).sum(1)) + flat.max(1) - own)
    found = mean_and_gradient(Ranking(hard_negative_weight=weight), given)[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_equal_texts_are_no_negatives_and_are_counted():
    keys = np.stack([np.arange(B * 3).reshape(B, 3)] * 2, axis=-1)
    keys[3, 1] = keys[0, 1]  # two rows with one answer
    keys[5, 0] = keys[1, 0]  # two rows with one question, and answers of their own
    keys[6, 2] = keys[2, 1]  # a negative that is another row's answer
    keys[7, 1] = keys[4, 0]  # an answer that is another row's question
    expected = {(0, 3), (3, 0), (1, 5), (5, 1), (2, B + 6), (4, 7)}
    found = np.argwhere(np.asarray(no_negatives(jnp.asarray(keys, jnp.uint32))))
    assert {tuple(pair) for pair in found.tolist()} == expected
    given = texts(3, keys=keys)
    made = Ranking().sums(given)
    total, rows = made.metrics["equal_texts"]
    assert (float(total), float(rows)) == (len(expected), B)
    # Whatever these candidates are, the loss of the rows that they are left out of is the same.
    moved = given.vectors.at[6, 2].set(given.vectors[2, 0])
    alone = given._replace(counted=jnp.zeros(B).at[2].set(1.0))
    assert float(Ranking().sums(alone).loss) == float(
        Ranking().sums(alone._replace(vectors=moved)).loss
    )


def test_an_answer_that_is_the_text_itself_still_counts():
    """As in unsupervised SimCSE, where all of a row's keys are equal."""
    keys = np.stack([np.repeat(np.arange(B)[:, None], 2, axis=1)] * 2, axis=-1)
    assert not np.asarray(no_negatives(jnp.asarray(keys, jnp.uint32))).any()


@pytest.mark.parametrize("loss", [Ranking(), Ranking(symmetric=True), CoSent(), Triplet()])
def test_rows_of_padding_change_nothing(loss):
    labels = np.linspace(0, 1, B)
    real = np.arange(B) < 5
    padded = texts(3, labels=labels, real=real)
    value, gradient = mean_and_gradient(loss, padded)
    short = padded._replace(**{n: getattr(padded, n)[:5] for n in Texts._fields[:5]})
    expected, its_gradient = mean_and_gradient(loss, short)
    assert value == pytest.approx(expected, rel=1e-6) and np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:5], its_gradient, rtol=3e-6, atol=1e-7)
    assert not gradient[5:].any()


def test_rows_that_do_not_count_are_still_told_from():
    counted = np.arange(B) < 5
    given = texts(2, counted=counted)
    rows = mean_and_gradient(Ranking(), texts(2)._replace(counted=jnp.ones(B)))
    assert mean_and_gradient(Ranking(), given)[0] != pytest.approx(rows[0], rel=1e-3)
    _, gradient = mean_and_gradient(Ranking(), given)
    assert gradient[5:, 1].any() and not gradient[5:, 0].any()


def test_products_of_vectors_are_exact_on_every_device():
    """Accelerators round the operands of products that do not ask for more."""
    for function in (
        lambda vectors: Ranking(symmetric=True).sums(texts(3)._replace(vectors=vectors)).loss,
        lambda vectors: uniformity_terms(unit(vectors[:, 0]), jnp.ones(B))[0],
    ):
        made = str(jax.make_jaxpr(jax.grad(function))(texts(3).vectors))
        exact = made.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        assert made.count("dot_general[") == exact >= 3


# --- Health -------------------------------------------------------------------------------------


def test_uniformity_of_vectors_that_are_spread_evenly():
    """log(e^-4 I0(4)) on a circle; near -4 in many dimensions (Wang & Isola, 2020)."""
    rng = np.random.default_rng(0)
    for width, expected, close in ((2, -1.5750, 0.02), (768, -3.990, 0.005)):
        vectors = unit(jnp.asarray(rng.normal(size=(1024, width)), jnp.float32))
        total, pairs = uniformity_terms(vectors, jnp.ones(1024))
        assert float(pairs) == 1024 * 1023 / 2
        assert np.log(total / pairs) == pytest.approx(expected, abs=close)


def test_the_effective_rank_is_of_singular_values_that_are_not_squared():
    ones = jnp.ones(2)
    assert effective_rank(jnp.diag(jnp.array([3.0, 1.0])), ones) == pytest.approx(1.7548, abs=1e-4)
    assert effective_rank(jnp.eye(7), jnp.ones(7)) == pytest.approx(7, rel=1e-5)
    assert effective_rank(jnp.ones((64, 16)), jnp.ones(64)) == pytest.approx(1, abs=1e-3)
    counted = jnp.asarray([1.0, 1.0, 0.0])
    assert effective_rank(jnp.eye(3), counted) == pytest.approx(2, rel=1e-5)


def test_a_collapse_is_told():
    objective = SimCse()
    assert not objective.alarms({"uniformity/simcse": -0.3, "effective_rank/simcse": 1.2})
    assert not objective.alarms({"uniformity/simcse": float("nan")}) and not objective.alarms({})
    (text,) = objective.alarms({"uniformity/simcse": -0.012})
    assert "collapsed" in text and "-0.012" in text


@pytest.mark.parametrize("count", [32, 256])
@pytest.mark.parametrize(("cosine", "told"), [(0.9999, True), (0.98, True), (0.9, False)])
def test_a_collapse_is_told_whatever_the_size_of_the_batch(count, cosine, told):
    """Of vectors with the same part in one direction, and else spread evenly."""
    rng = np.random.default_rng(count)
    spread = unit(jnp.asarray(rng.normal(size=(count, 768)), jnp.float32))
    same = jnp.zeros(768).at[0].set(1.0)
    vectors = unit(np.sqrt(cosine) * same + np.sqrt(1 - cosine) * spread)
    sums = uniformity_terms(vectors, jnp.ones(count))
    values = SimCse().finish("uniformity/simcse", *sums)
    assert bool(SimCse().alarms(values)) == told


# --- The temperature ----------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "reached"), [(50.0, 50.0), (300.0, 100.0)])
def test_a_scale_above_its_bound_comes_back_and_does_not_go_further(wanted, reached):
    """By gradient descent on (log(scale) - log(wanted))^2."""
    model = Model(tiny.bert(), (ScaleHead(name="similarity_scale", start=20.0),))
    params = flatten(tiny.random_params(model))
    params["similarity_scale/scale"] = jnp.log(jnp.float32(110.0))

    def scale(log_scale):
        given = unflatten({**params, "similarity_scale/scale": log_scale})
        return model.head(given, "similarity_scale", jnp.zeros((1, 16)))

    def error(log_scale):
        return jnp.square(jnp.log(scale(log_scale)) - np.log(wanted))

    log_scale, step = params["similarity_scale/scale"], jax.jit(jax.grad(error))
    assert float(scale(log_scale)) == pytest.approx(100.0)
    for _ in range(60):
        log_scale = log_scale - 0.1 * step(log_scale)
    assert float(scale(log_scale)) == pytest.approx(reached, rel=1e-3)
    assert float(log_scale) < np.log(111.0)
    assert Ranking(temperature=0.01, learn_temperature=True).scale == LARGEST


# --- Settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Ranking(temperature=0), "temperature"),
        (lambda: CoSent(temperature=0.009, learn_temperature=True), "temperature"),
        (lambda: Triplet(margin=-1), "margin"),
        (lambda: SimCse(widths=(4, 4)), "widths"),
        (lambda: SimCse(loss=CoSent()), "loss.name"),
        (lambda: Cosine().check_labels(np.array([0.0, 5.0])), "objective.label_range"),
    ],
)
def test_what_means_nothing_is_refused(make, where):
    with pytest.raises(UserError) as raised:
        make()
    assert raised.value.where == where
