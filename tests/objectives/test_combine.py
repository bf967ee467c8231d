"""A weighted sum of objectives: who sees which inputs, who shares a forward pass, and its names."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.ramp import Ramp
from jaxssl.models.heads import MASKED_LM, NEXT_SENTENCE, LabelHead
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.program.gradients import make_loss
from jaxssl.program.step import make_eval_step
from jaxssl.tasks.classify import Classify
from jaxssl.train.metrics import finished

MASKED, PAIRS = MaskedLm(rate=0.3, slots=6), NextSentence()
TASK = Classify(labels=("a", "b"), pooling="mean", dropout=0.0)
ON_MASKS = dataclasses.replace(TASK, on_corrupted=True)
ENTRIES = ("tokens", "mask_positions", "mask_labels", "mask_weights")
SEED = 3


def combined(*objectives):
    return Combine(terms=tuple(Term(objective=each) for each in objectives))


def named(**objectives):
    return Combine(terms=tuple(Term(objective=x, name=name) for name, x in objectives.items()))


BOTH = Combine(terms=(Term(objective=MASKED, weight=0.7), Term(objective=PAIRS, weight=2.5)))
TWICE = named(one=MASKED, other=MASKED)
FADING = Term(objective=MASKED, weight=Ramp(points=((0, 1.0), (10, 0.0))))
MODEL = Model(tiny.bert(), (*BOTH.heads, *TASK.heads))
PARAMS = tiny.random_params(MODEL)
LABELS = np.array([1, 0, 0, 1], np.int32)
BATCH = {
    **tiny.rows([[d] for d in tiny.random_documents([9, 12, 4, 16])]),
    "next_sentence": np.array([0, 1, 1, 0], np.int32),
    "example_weights": np.ones(4, np.float32),
    "labels": LABELS,
    "classify/labels": LABELS,
}


def corrupted(objective, batch=BATCH):
    return jax.tree.map(np.asarray, tiny.corrupted(objective, batch, SEED, tiny.WORDS))


@functools.partial(jax.jit, static_argnums=(0, 2))
def sums_of(objective, batch, training=False):
    key = jax.random.key(0) if training else None
    outputs = objective.forward(MODEL, PARAMS, batch, key)
    return objective.sums(MODEL, PARAMS, outputs, batch, key)


def loss_of(objective, batch, name, training=False):
    return float(sums_of(objective, batch, training).losses[name])


@functools.cache
def masked_batch():
    """The batch as the masked language model alone changes it."""
    return corrupted(MASKED)


# --- What is added up ---------------------------------------------------------------------------


def test_the_total_is_the_weighted_sum_of_the_terms():
    batch = corrupted(BOTH)
    total = total_loss(BOTH, sums_of(BOTH, batch).losses, BOTH.weights(batch))
    masked, pairs = (
        float(total_loss(each, sums_of(each, masked_batch()).losses, each.weights(masked_batch())))
        for each in (MASKED, PAIRS)
    )
    assert float(total) == pytest.approx(0.7 * masked + 2.5 * pairs, rel=1e-5)


def test_the_gradient_does_not_depend_on_microbatches():
    batch = corrupted(BOTH)
    whole, parts = (
        jax.jit(make_loss(MODEL, BOTH, microbatches))(PARAMS, batch, None)
        for microbatches in (1, 2)
    )
    assert float(parts[0]) == pytest.approx(float(whole[0]), rel=1e-5)
    size = lambda tree: np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
    difference = jax.tree.map(np.subtract, parts[2], whole[2])
    assert size(difference) < 1e-5 * size(whole[2])


def test_a_weight_that_moves_is_that_of_the_step():
    objective = Combine(terms=(FADING, Term(objective=PAIRS, weight=2.5)))
    losses = {"masked_lm": 12.0, "next_sentence": 3.0}
    weights = {"masked_lm": 4.0, "next_sentence": 2.0}
    total = jax.jit(lambda step: total_loss(objective, losses, weights, step))
    for step, share in ((0, 1.0), (1, 0.9), (5, 0.5), (10, 0.0), (99, 0.0)):
        assert float(total(step)) == pytest.approx(share * 3.0 + 2.5 * 1.5)


# --- Who sees what ------------------------------------------------------------------------------


def test_the_batch_stays_as_it_was_read_and_masks_lie_beside_it():
    batch, masked = corrupted(BOTH), masked_batch()
    assert all(np.array_equal(batch[name], BATCH[name]) for name in BATCH)
    added = {name: batch[name] for name in batch.keys() - BATCH.keys()}
    assert added.keys() == {f"masked_lm/{entry}" for entry in ENTRIES}
    assert all(np.array_equal(added[f"masked_lm/{entry}"], masked[entry]) for entry in ENTRIES)


@pytest.mark.parametrize("training", [False, True], ids=["validation", "training"])
@pytest.mark.parametrize("terms", [(MASKED, PAIRS), (PAIRS, MASKED)], ids=["after", "before"])
def test_sentence_pairs_are_told_apart_on_masked_tokens(terms, training):
    objective = combined(*terms)
    batch = corrupted(objective)
    got = loss_of(objective, batch, "next_sentence", training)
    masked = {**BATCH, "tokens": batch["masked_lm/tokens"]}
    assert got == pytest.approx(loss_of(PAIRS, masked, "next_sentence"), rel=1e-5)
    assert got != pytest.approx(loss_of(PAIRS, BATCH, "next_sentence"), rel=1e-4)


@pytest.mark.parametrize("training", [False, True], ids=["validation", "training"])
@pytest.mark.parametrize("task", [TASK, ON_MASKS], ids=["clean", "on_corrupted"])
def test_a_task_sees_masks_in_training_alone_and_only_if_it_is_told_to(task, training):
    objective = combined(MASKED, task)
    batch = corrupted(objective)
    got = loss_of(objective, batch, "classify", training)
    clean, masked = (loss_of(TASK, each, "classify") for each in (BATCH, masked_batch()))
    want, other = (masked, clean) if training and task is ON_MASKS else (clean, masked)
    assert got == pytest.approx(want, rel=1e-5)
    assert got != pytest.approx(other, rel=1e-4)
    guessed = loss_of(MASKED, masked_batch(), "masked_lm")
    assert loss_of(objective, batch, "masked_lm", training) == pytest.approx(guessed, rel=1e-5)


def test_predictions_are_of_the_text_as_it_is_and_named_by_their_term():
    objective = combined(MASKED, ON_MASKS)
    rows = [
        jax.jit(make_eval_step(MODEL, each, tiny.WORDS, seed=SEED))(PARAMS, BATCH)["rows"]
        for each in (objective, TASK)
    ]
    assert rows[0].keys() == {"classify/logits", "example_id", "example_weights"}
    np.testing.assert_allclose(rows[0]["classify/logits"], rows[1]["logits"], rtol=1e-5, atol=1e-6)


def test_two_terms_that_mask_have_masks_of_their_own():
    batch = corrupted(TWICE)
    assert np.array_equal(batch["one/mask_positions"], masked_batch()["mask_positions"])
    assert not np.array_equal(batch["one/mask_positions"], batch["other/mask_positions"])
    for name in ("one", "other"):
        own = {**BATCH, **{entry: batch[f"{name}/{entry}"] for entry in ENTRIES}}
        want = loss_of(MASKED, own, "masked_lm")
        assert loss_of(TWICE, batch, f"{name}/masked_lm") == pytest.approx(want, rel=1e-5)


def test_the_first_term_draws_as_it_would_alone_and_a_later_one_does_not():
    for terms, alike in (((MASKED, PAIRS), True), ((PAIRS, MASKED), False)):
        positions = corrupted(combined(*terms))["masked_lm/mask_positions"]
        assert np.array_equal(positions, masked_batch()["mask_positions"]) == alike


# --- Forward passes -----------------------------------------------------------------------------


def loops(objective):
    batch, key = corrupted(objective), jax.random.key(0)
    jaxpr = jax.make_jaxpr(lambda p: make_loss(MODEL, objective)(p, batch, key)[0])(PARAMS)
    return str(jaxpr).count(" scan[")


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (BOTH, 1),
        (combined(MASKED, TASK), 2),
        (combined(MASKED, PAIRS, TASK), 2),
        (combined(MASKED, ON_MASKS), 1),
        (combined(MASKED, dataclasses.replace(ON_MASKS, r_drop=1.0)), 2),
        (named(one=TASK, other=TASK), 1),
        (TWICE, 2),
    ],
    ids=[
        *("pairs on masks", "a task on clean text", "one of three apart", "a task on masks"),
        *("rows that pass twice", "two tasks", "two masks"),
    ],
)
def test_terms_that_read_the_same_inputs_share_a_forward_pass(objective, passes):
    body = loops(PAIRS)  # whose head has no loop
    heads = sum(loops(term.objective) - body for term in objective.terms)
    assert body and loops(objective) == passes * body + heads


# --- Names --------------------------------------------------------------------------------------


def numbers_of(objective):
    return finished(objective, sums_of(objective, corrupted(objective)).metrics)


def test_losses_and_numbers_are_called_as_those_of_each_objective_alone():
    assert {name: loss.factor for name, loss in BOTH.losses.items()} == {
        "masked_lm": 0.7,
        "next_sentence": 2.5,
    }
    assert [loss.per_token for loss in BOTH.losses.values()] == [True, False]
    assert sums_of(BOTH, corrupted(BOTH)).metrics.keys() == {
        f"{name}/{kind}/{name}"
        for name in ("masked_lm", "next_sentence")
        for kind in ("nll", "accuracy")
    }
    numbers = numbers_of(BOTH)
    assert numbers.keys() == {
        *("loss/masked_lm", "accuracy/masked_lm"),
        *("loss/next_sentence", "accuracy/next_sentence"),
    }
    masked = finished(MASKED, sums_of(MASKED, masked_batch()).metrics)
    assert masked == pytest.approx({name: numbers[name] for name in masked}, rel=1e-5)


def test_a_term_with_a_name_has_it_before_its_losses_and_numbers():
    assert TWICE.losses.keys() == TWICE.weights(corrupted(TWICE)).keys()
    assert TWICE.losses.keys() == {"one/masked_lm", "other/masked_lm"}
    assert numbers_of(TWICE).keys() == {
        f"{name}/{kind}/masked_lm" for name in ("one", "other") for kind in ("loss", "accuracy")
    }


def test_the_first_task_says_what_the_best_checkpoint_is():
    assert BOTH.metric == "loss"
    assert combined(MASKED, TASK).metric == "accuracy"
    tasks = named(text=MASKED, topic=TASK, mood=TASK)
    assert tasks.metric == "topic/accuracy"
    assert tasks.named_tasks.keys() == {"topic", "mood"}
    assert not tasks.is_lower_better("topic/accuracy") and tasks.is_lower_better("topic/loss/x")


# --- What is asked of a model, and what is refused ----------------------------------------------


def test_heads_and_checks_are_those_of_the_terms():
    assert BOTH.heads == (MASKED_LM, NEXT_SENTENCE)
    assert TWICE.heads == (MASKED_LM,)
    with pytest.raises(UserError, match="sentence pairs"):
        BOTH.check_rows({k: v for k, v in BATCH.items() if k != "next_sentence"})
    with pytest.raises(UserError, match="pooler"):
        BOTH.check(tiny.bert(pooler=False), tiny.WORDS)


def test_two_heads_of_one_name_must_be_equal():
    assert named(one=TASK, other=TASK).heads == (
        LabelHead(name="classify", scope="row", size=2, dropout=0.0),
    )
    three = dataclasses.replace(TASK, labels=("a", "b", "c"))
    with pytest.raises(UserError, match="two heads of one name are not equal"):
        named(one=TASK, other=three)


@pytest.mark.parametrize(
    "terms",
    [
        (),
        (Term(objective=PAIRS), Term(objective=PAIRS)),
        (Term(objective=PAIRS, name="masked_lm"), Term(objective=MASKED)),
    ],
    ids=["none", "one twice", "the name of another"],
)
def test_no_term_or_two_of_one_name_are_refused(terms):
    match = "the terms of a combination need names of their own, and there must be one"
    with pytest.raises(UserError, match=match):
        Combine(terms=terms)


def test_two_terms_with_a_loss_of_one_name_are_refused():
    """Another objective whose loss is called as masked LM's."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(MaskedLm):
        name: str = "other"  # type: ignore[assignment]

    terms = (Term(objective=MASKED), Term(objective=Other()))
    with pytest.raises(UserError, match="a loss of one name") as refused:
        Combine(terms=terms)
    assert "masked_lm" in str(refused.value)
    assert len(Combine(terms=(terms[0], dataclasses.replace(terms[1], name="b"))).losses) == 2


def test_a_combination_is_no_term_and_a_weight_is_not_below_zero():
    with pytest.raises(UserError, match="a combination in a combination"):
        Term(objective=BOTH)
    with pytest.raises(UserError, match="at least 0"):
        Term(objective=PAIRS, weight=-1.0)
