"""Auto-encoding: what the encoder sees, what the decoder knows of it, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy
from masks import corrupted

from jaxssl.commands.embed import open_embedder
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.objectives.auto_encode import CAUSAL, DECODER, AutoEncode, _left_over
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

T = 16


def rows_of(*lengths):
    documents = tiny.random_documents(list(lengths))
    for document in documents:
        document[0], document[-1] = tiny.SPECIALS["cls"], tiny.SPECIALS["sep"]
    return tiny.rows([[d] for d in documents], length=T, count=len(lengths))


def model_of(objective, **changes):
    config = tiny.bert(pooler=False, max_positions=T, **changes)
    others = tuple(
        Model(network.config, network.heads, root=name, ties=network.ties)
        for name, network in objective.networks(config).items()
    )
    return Model(config, objective.heads, others=others)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_what_is_deleted_is_no_special_token_and_never_all(share):
    objective = AutoEncode(deleted=share)
    batch = rows_of(*[12] * 200, 3)
    made = corrupted(batch, objective)
    specials = np.isin(batch["tokens"], list(tiny.SPECIALS.values())) & (batch["segment_ids"] > 0)
    real = batch["segment_ids"] > 0
    assert made["seen"][specials].all() and not made["seen"][~real].any()
    words = real & ~specials
    assert (made["seen"] & words).sum(axis=1).min() >= 1
    lost = 1 - made["seen"][:200][words[:200]].mean()
    assert lost == pytest.approx(share, abs=0.03)
    left = jax.tree.map(np.asarray, _left_over(made))
    for tokens, seen, row, segments, positions in zip(
        batch["tokens"], made["seen"], left["tokens"], left["segment_ids"], left["positions"]
    ):
        count = seen.sum()
        assert row[:count].tolist() == tokens[seen].tolist()
        assert segments.tolist() == [1] * count + [0] * (T - count)
        assert positions[:count].tolist() == list(range(count))


def test_the_decoder_knows_of_the_text_what_came_before_and_the_vector():
    """Its states do not move with the encoder's reading of later tokens, if the vector stays."""
    objective = AutoEncode(pooling="mean")
    model, batch = model_of(objective), rows_of(10, 10)
    params = tiny.random_params(model, scale=0.3)
    made = corrupted(batch, objective)
    plain = objective.forward(model, params, made, None)

    def decoded(tokens, vector):
        decoder = model.network(DECODER)
        first = decoder.head(params, "first_input", vector)
        changed = {**made, "tokens": tokens, "first_embedding": first}
        return np.asarray(decoder.encode(params, changed, None, CAUSAL))

    same = decoded(made["tokens"], plain["vector"])
    np.testing.assert_allclose(same, plain["hidden"], atol=1e-6)
    tokens = np.array(made["tokens"])
    tokens[0, 5] = 5 + (tokens[0, 5] + 7) % 30
    moved = np.abs(decoded(tokens, plain["vector"]) - same).max(axis=-1)
    assert (moved[0, :5] < 1e-6).all() and (moved[0, 5:10] > 1e-5).all() and not moved[1].any()
    tokens = np.array(made["tokens"])
    tokens[0, 0] = 9  # the first token is the vector's place
    assert np.abs(decoded(tokens, plain["vector"]) - same).max() < 1e-6
    other = decoded(made["tokens"], plain["vector"] + 1)
    assert (np.abs(other - same).max(axis=-1)[0, :10] > 1e-5).all()


def test_the_encoder_learns_through_the_vector_alone():
    objective = AutoEncode()
    model, batch = model_of(objective), rows_of(9, 12)
    made = jax.tree.map(jnp.asarray, corrupted(batch, objective))

    @jax.jit
    def gradient(params):
        def loss(params):
            outputs = objective.forward(model, params, made, None)
            return objective.sums(model, params, outputs, made).losses["auto_encode"]

        return jax.grad(loss)(params)

    params = tiny.random_params(model)
    found = flatten(gradient(params))
    assert np.linalg.norm(found["encoder/layers/attention/query/kernel"]) > 1e-4
    cut = {**params, DECODER: {**params[DECODER]}}
    cut[DECODER]["first_input"] = jax.tree.map(np.zeros_like, params[DECODER]["first_input"])
    without = flatten(gradient(cut))
    assert not np.linalg.norm(without["encoder/layers/attention/query/kernel"])
    assert np.linalg.norm(without["embeddings/tokens/embedding"]), "the table is the decoder's too"


def test_what_cannot_be_guessed_is_told_by_the_vector_alone():
    """Texts of three words drawn evenly from eight: no decoder beats ln 8 nats a word on new ones
    (Shannon), unless the vector says which. With a zeroed projection it does not."""
    objective, count, words = AutoEncode(pooling="mean"), 3, 8
    model = model_of(objective, num_layers=1)
    bound = count * np.log(words) / (count + 1)  # the [SEP] behind them costs nothing

    rows = {
        name: value[:, : count + 2] if value.shape[1:] == (T,) else value
        for name, value in rows_of(*[count + 2] * 256).items()
    }

    def drawn(seed):
        tokens = rows["tokens"].copy()
        inside = np.random.default_rng(seed).integers(5, 5 + words, (len(tokens), count))
        tokens[:, 1 : count + 1] = inside
        return {**rows, "tokens": tokens}

    def loss(params, batch):
        batch = {**batch, **objective.corrupt(batch, 0, tiny.WORDS)}
        outputs = objective.forward(model, params, batch, None)
        sums = objective.sums(model, params, outputs, batch).losses["auto_encode"]
        return sums / objective.weights(batch)["auto_encode"]

    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, batch):
        change, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return optax.apply_updates(params, change), state

    params = jax.tree.map(jnp.asarray, tiny.random_params(model))
    state = optimizer.init(params)
    for seed in range(200):
        params, state = step(params, state, drawn(seed))
    held_out = drawn(10**6)
    cut = {**params, DECODER: {**params[DECODER]}}
    cut[DECODER]["first_input"] = jax.tree.map(jnp.zeros_like, params[DECODER]["first_input"])
    held = jax.jit(loss)
    assert float(held(params, held_out)) < 0.75 * bound
    assert float(held(cut, held_out)) > 0.99 * bound


def test_a_run_learns_and_embed_makes_its_vectors(words, tmp_path):
    plain = toy.recipe(words, tmp_path / "run", "masked")
    plain["objective"] = {"name": "auto_encode", "pooling": "mean", "deleted": 0.3}
    plain["data"]["rows"] = {"name": "documents", "unit": "sentence"}
    train_run(load_config([plain]), lambda text: None)
    rows = toy.rows_of(tmp_path / "run", "validation")
    assert rows[-1]["loss"] < rows[0]["loss"] and "perplexity" in rows[-1]
    embedder = open_embedder(tmp_path / "run")
    assert embedder.sentence.pooling == ("mean",) and not embedder.sentence.normalize
    assert embedder.embed(["the cat sees a dog."]).shape == (1, 16)


def test_what_means_nothing_is_refused(words, tmp_path):
    with pytest.raises(UserError, match="seen nothing"):
        AutoEncode().check(tiny.gpt2(), tiny.vocabulary())
    for bad in ({"deleted": 1.0}, {"decoder_layers": 0}):
        with pytest.raises(UserError, match="out of range"):
            AutoEncode(**bad)
    plain = toy.recipe(words, tmp_path / "run", "masked")
    plain["objective"] = {"name": "auto_encode"}
    with pytest.raises(UserError, match="several texts"):
        train_run(load_config([plain]), lambda text: None)
