"""Distillation: the divergence of whole logits, nothing to learn from an equal teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from masks import corrupted, packed_batch

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.heads import MASKED_LM
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.distil import Distil
from jaxssl.objectives.simcse import SimCse

T = 64
STUDENT = tiny.bert(max_positions=T, pooler=False, num_layers=1)
TEACHER = tiny.bert(max_positions=T, pooler=False, hidden_size=24)


def model_of(objective, teacher):
    return Model(STUDENT, objective.heads, others=(Model(teacher, (MASKED_LM,), root="teacher"),))


@pytest.fixture(scope="module")
def batch():
    return packed_batch(count=6, seed=2)


def run(objective, model, params, masked):
    @jax.jit
    def value(params):
        outputs = objective.forward(model, params, masked, None)
        made = objective.sums(model, params, outputs, masked)
        return total_loss(objective, made.losses, objective.weights(masked)), (made, outputs)

    gradient = jax.jit(jax.value_and_grad(value, has_aux=True))
    return jax.device_get(gradient(params))


def test_the_losses_are_their_formulas_over_whole_logits(batch):
    objective = Distil(slots=24, chunk=20, temperature=1.7, teacher_size=24)
    model = model_of(objective, TEACHER)
    params = tiny.random_params(model, scale=0.4)
    masked = corrupted(batch, objective)
    (_, (made, outputs)), grads = run(objective, model, params, masked)
    teacher, real = model.network("teacher"), batch["segment_ids"] > 0
    log_q = jax.nn.log_softmax(model.head(params, "masked_lm", outputs["hidden"]) / 1.7)
    log_p = jax.nn.log_softmax(teacher.head(params, "masked_lm", outputs["teacher"]) / 1.7)
    each = np.asarray((jnp.exp(log_p) * (log_p - log_q)).sum(-1)) * 1.7**2
    assert made.losses["distil"] == pytest.approx(each[real].sum(), rel=1e-5)
    own = np.asarray(model.head(params, "to_teacher", outputs["hidden"]))
    theirs = outputs["teacher"]
    norms = np.linalg.norm(own, axis=-1) * np.linalg.norm(theirs, axis=-1)
    assert made.losses["hidden"] == pytest.approx(
        (1 - (own * theirs).sum(-1) / norms)[real].sum(), rel=1e-5
    )
    agree = (log_p.argmax(-1) == log_q.argmax(-1))[real]
    assert made.metrics["accuracy/teacher"][0] == agree.sum()
    assert {name: loss.factor for name, loss in objective.losses.items()} == {
        "masked_lm": 2.0,
        "distil": 5.0,
        "hidden": 1.0,
    }
    moved = {name: np.abs(g).max() for name, g in flatten(grads).items()}
    assert not any(value for name, value in moved.items() if name.startswith("teacher/"))
    assert moved["embeddings/tokens/embedding"] > 0 and moved["to_teacher/output/kernel"] > 0


def test_no_gradient_is_made_of_the_teachers_table():
    """The sums of the loop over chunks hold the student's (18 wide), not the teacher's (24)."""
    objective = Distil(slots=24, chunk=20, teacher_size=24)
    student = dataclasses.replace(STUDENT, hidden_size=18)
    model = Model(student, objective.heads, others=(Model(TEACHER, (MASKED_LM,), root="teacher"),))
    params, real = tiny.random_params(model), jnp.ones((6, T))

    def loss(params, hidden):
        outputs = {"hidden": hidden, "teacher": jnp.ones((6, T, 24))}
        return objective._divergence(model, params, outputs, real)[0]

    made = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, jnp.ones((6, T, 18)))
    (scan,) = (e for e in made.eqns if e.primitive.name == "scan")
    consts, carried = scan.params["num_consts"], scan.params["num_carry"]
    summed = [x.aval.shape for x in scan.invars[consts : consts + carried]]
    read = [x.aval.shape for x in scan.invars[:consts]]
    assert (tiny.VOCAB, 18) in summed and (tiny.VOCAB, 24) not in summed
    assert (tiny.VOCAB, 24) in read, "it is there, and read alone"


def test_an_equal_teacher_has_nothing_to_teach(batch):
    objective = Distil(slots=24, masked_weight=0.0)
    model = model_of(objective, STUDENT)
    flat = flatten(tiny.random_params(model, scale=0.4))
    flat |= {f"teacher/{name}": x for name, x in flat.items() if not name.startswith("teacher/")}
    (value, (made, _)), grads = run(objective, model, unflatten(flat), corrupted(batch, objective))
    assert abs(value) < 1e-5 and abs(made.losses["hidden"]) < 1e-3
    assert max(np.abs(g).max() for g in flatten(grads).values()) < 1e-5
    assert made.metrics["accuracy/teacher"][0] == made.metrics["accuracy/teacher"][1]


@pytest.mark.parametrize(
    ("size", "changes", "where", "cure"),
    [
        (None, {}, "objective.teacher_size", "objective.teacher_size=24"),
        (20, {}, "objective.teacher_size", "objective.teacher_size=24"),
        (24, {"vocab_size": 48}, "model.vocab_size", "model.vocab_size=48"),
    ],
)
def test_a_teacher_of_another_shape_is_refused(size, changes, where, cure):
    shapes = {"teacher": dataclasses.replace(TEACHER, **changes)}
    with pytest.raises(UserError, match="teacher and student") as refused:
        Distil(teacher_size=size).check_networks(STUDENT, shapes)
    assert refused.value.where == where and cure in refused.value.fix


def test_a_teacher_that_fits_is_taken():
    Distil(teacher_size=24).check_networks(STUDENT, {"teacher": TEACHER})
    Distil().check_networks(STUDENT, {"teacher": STUDENT})
    Distil(hidden_weight=0).check_networks(STUDENT, {"teacher": TEACHER})
    beside = Combine(terms=(Term(objective=Distil()), Term(objective=SimCse())))
    with pytest.raises(UserError, match="different widths"):
        beside.check_networks(STUDENT, {"teacher": TEACHER})


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"logits_weight": 0.0}, {"teacher_size": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UserError, match="out of range"):
        Distil(**bad)
