"""Replaced token detection: what is replaced, by whom, and where its gradients go."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from masks import corrupted, packed_batch

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.replaced_tokens import Generator, ReplacedTokens

T = 64
WHOLE = Generator(layers=0.5, width=1.0)
CONFIG = tiny.bert(max_positions=T, pooler=False)
BIAS = "replaced_tokens/output/bias"
TABLE = "embeddings/tokens/embedding"


def objective(**changes):
    return ReplacedTokens(**{"slots": 24, "generator": WHOLE, **changes})


def model_of(chosen):
    wanted = dict(chosen.networks(CONFIG))
    main = wanted.pop("", None)
    others = tuple(
        Model(network.config, network.heads, root=name, ties=network.ties)
        for name, network in wanted.items()
    )
    return Model(CONFIG, chosen.heads, ties=main.ties if main else (), others=others)


@pytest.fixture(scope="module")
def batch():
    return packed_batch(count=8, seed=11)


def passed(chosen, batch, scale=0.3):
    """(model, params, corrupted batch, outputs)."""
    model = model_of(chosen)
    params = tiny.random_params(model, scale=scale)
    masked = corrupted(batch, chosen)
    return (
        model,
        params,
        masked,
        jax.jit(chosen.forward, static_argnums=0)(model, params, masked, None),
    )


def test_the_generator_puts_tokens_where_some_were_chosen_and_nowhere_else(batch):
    chosen = objective()
    _, _, masked, outputs = passed(chosen, batch)
    filled, original = np.asarray(outputs["filled"]), batch["tokens"]
    changed = filled != original
    where = np.zeros_like(changed)
    for i, (positions, weights) in enumerate(zip(masked["mask_positions"], masked["mask_weights"])):
        where[i, positions[weights > 0]] = True
    assert changed.any() and not (changed & ~where).any()
    assert not (where & (original < tiny.FIRST_WORD)).any()


def test_what_is_put_in_follows_the_generators_probabilities():
    """One position, many examples: the counts are those of the softmax."""
    chosen = objective(mask_share=1.0, temperature=0.7)
    row = tiny.rows([[np.full(8, 9, np.int32)]])
    many = {name: np.repeat(x, 4000, axis=0) for name, x in row.items()}
    many["example_id"] = np.stack([np.zeros(4000), np.arange(4000)], axis=1).astype(np.uint32)
    model = model_of(chosen)
    params = tiny.random_params(model, scale=0.5)
    masked = corrupted(many, chosen)
    one = masked["mask_positions"][:, 0] == 3
    outputs = chosen.forward(model, params, masked, None)
    found = np.bincount(np.asarray(outputs["filled"])[one, 3], minlength=tiny.VOCAB)
    generator = model.network("generator")
    logits = generator.head(params, "masked_lm", outputs["guesses"][int(np.flatnonzero(one)[0]), 3])
    wanted = jax.nn.softmax(logits / 0.7)
    assert one.sum() > 300
    assert found / one.sum() == pytest.approx(np.asarray(wanted), abs=0.08)


def test_the_draws_are_the_examples_and_not_the_batchs(batch):
    chosen = objective()
    _, _, _, outputs = passed(chosen, batch)
    part = {name: x[[5, 2]] for name, x in batch.items()}
    _, _, _, again = passed(chosen, part)
    assert np.array_equal(again["filled"], outputs["filled"][np.array([5, 2])])


def test_the_losses_and_metrics_are_their_formulas(batch):
    chosen = objective()
    model, params, masked, outputs = passed(chosen, batch)
    middle = np.median(model.head(params, "replaced_tokens", outputs["hidden"]))
    flat = flatten(params)
    params = unflatten({**flat, BIAS: flat[BIAS] - middle})
    made = jax.device_get(jax.jit(chosen.sums, static_argnums=0)(model, params, outputs, masked))
    score = np.asarray(model.head(params, "replaced_tokens", outputs["hidden"]))[..., 0]
    real, fake = batch["segment_ids"] > 0, np.asarray(outputs["filled"]) != batch["tokens"]
    p = 1 / (1 + np.exp(-score.astype(np.float64)))
    nll = -(np.log(np.where(fake, p, 1 - p)))[real]
    assert made.losses["replaced_tokens"] == pytest.approx(nll.sum(), rel=1e-5)
    numbers = {}
    for metric, pair in made.metrics.items():
        numbers |= chosen.finish(metric, *pair)
    said = score > 0
    assert said[real].any() and not said[real].all()
    assert numbers["accuracy/replaced_tokens"] == pytest.approx((said == fake)[real].mean())
    assert numbers["recall/replaced_tokens"] == pytest.approx(said[real & fake].mean())
    assert numbers["precision/replaced_tokens"] == pytest.approx(fake[real & said].mean())
    chosen_count = masked["mask_weights"].sum()
    assert numbers["accuracy/samples"] == pytest.approx(1 - fake.sum() / chosen_count)
    assert 0 <= numbers["auc/replaced_tokens"] <= 1
    weights = chosen.weights(masked)
    assert weights == {"masked_lm": chosen_count, "replaced_tokens": real.sum()}
    assert chosen.losses["replaced_tokens"].factor == 50.0


def gradients(embeddings, batch, loss):
    """By path, of one of the losses."""
    chosen = objective(embeddings=embeddings)
    model = model_of(chosen)
    params = tiny.random_params(model, scale=0.3)
    masked = corrupted(batch, chosen)

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = chosen.forward(model, params, masked, None)
        made = chosen.sums(model, params, outputs, masked)
        return total_loss(chosen, {loss: made.losses[loss]}, chosen.weights(masked))

    return {name: np.abs(x).max() for name, x in flatten(jax.device_get(gradient(params))).items()}


@pytest.mark.parametrize("embeddings", ["shared", "disentangled", "separate"])
def test_the_discriminators_loss_reaches_no_parameter_of_the_generator(embeddings, batch):
    found = gradients(embeddings, batch, "replaced_tokens")
    assert all(value == 0 for name, value in found.items() if name.startswith("generator/"))
    assert found[TABLE] > 0, "of sharing, the one table; else the discriminator's own"


@pytest.mark.parametrize("embeddings", ["shared", "disentangled", "separate"])
def test_the_generators_loss_reaches_the_discriminator_by_shared_embeddings_alone(
    embeddings, batch
):
    found = gradients(embeddings, batch, "masked_lm")
    reached = {
        name for name, value in found.items() if value > 0 and not name.startswith("generator/")
    }
    assert bool(reached) == (embeddings == "shared")
    assert all(name.startswith("embeddings/") for name in reached)
    assert (f"generator/{TABLE}" in found) == (embeddings != "shared")


def test_disentangled_embeddings_start_as_the_generators_and_are_folded(batch):
    chosen = objective(embeddings="disentangled")
    model = model_of(chosen)
    params = flatten(jax.jit(model.init)(jax.random.key(0)))
    params = {name: getattr(x, "value", x) for name, x in params.items()}
    assert not np.any(params[TABLE]) and np.any(params[f"generator/{TABLE}"])
    random = tiny.random_params(model)
    own = flatten(model.own(random))
    flat = flatten(random)
    assert np.array_equal(own[TABLE], flat[TABLE] + flat[f"generator/{TABLE}"])
    assert np.array_equal(own["embeddings/norm/scale"], flat["embeddings/norm/scale"])


def test_a_generator_is_a_share_of_the_discriminator():
    base = dataclasses.replace(CONFIG, hidden_size=256, num_layers=12, num_heads=4)
    small = Generator(layers=0.5, width=0.25).of(dataclasses.replace(base, intermediate_size=1024))
    assert (small.num_layers, small.hidden_size, small.num_heads) == (6, 64, 1)
    assert small.intermediate_size == 256
    assert Generator().of(base).num_layers == 12


@pytest.mark.parametrize(
    "generator", [Generator(width=0.5, num_heads=3), Generator(width=0.01), Generator(width=8.2)]
)
def test_a_width_that_no_generator_has_is_told_by_its_own_name(generator):
    with pytest.raises(UserError, match="no generator of hidden_size") as refused:
        generator.of(CONFIG)
    assert refused.value.where == "objective.generator.width, num_heads"
    assert "hidden_size=16" in refused.value.got


def test_embeddings_of_two_widths_are_not_shared():
    for embeddings in ("shared", "disentangled"):
        chosen = ReplacedTokens(embeddings=embeddings)
        with pytest.raises(UserError, match="two widths"):
            chosen.check(CONFIG, tiny.WORDS)
    ReplacedTokens(embeddings="separate").check(CONFIG, tiny.WORDS)
    objective().check(CONFIG, tiny.WORDS)


def test_few_logits_exist_at_once(batch):
    """And what is drawn does not depend on how many."""
    _, _, masked, whole = passed(objective(chunk=24), batch)
    assert masked["mask_positions"].shape == (8, 24)
    _, _, _, parts = passed(objective(chunk=5), batch)
    assert np.array_equal(parts["filled"], whole["filled"])
    drawn = {}
    for row in range(8):
        real = masked["mask_weights"][row] > 0
        drawn[row] = np.asarray(whole["filled"])[row, masked["mask_positions"][row][real]]
    assert all(len(np.unique(tokens)) > 2 for tokens in drawn.values()), "each slot for itself"
