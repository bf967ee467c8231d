"""Adafactor against the one of transformers, each layer's matrix by itself there."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy
import tuned

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.adafactor import Adafactor
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant
from jaxssl.program.state import laid_out, layout
from jaxssl.run.train import train_run

LAYERS, HIDDEN, HEADS, WIDTH, WIDE, VOCAB = 3, 6, 2, 4, 10, 12
STACK = "encoder/layers"
SHAPES = {
    "embeddings/tokens/embedding": ((VOCAB, HIDDEN), (VOCAB, HIDDEN)),
    "masked_lm/bias": ((VOCAB,), (VOCAB,)),
    "temperature/scale": ((), ()),
    f"{STACK}/attention/query/kernel": ((HIDDEN, HEADS, WIDTH), (HIDDEN, HEADS * WIDTH)),
    f"{STACK}/attention/query/bias": ((HEADS, WIDTH), (HEADS * WIDTH,)),
    f"{STACK}/attention/output/kernel": ((HEADS, WIDTH, HIDDEN), (HEADS * WIDTH, HIDDEN)),
    f"{STACK}/feed_forward/up/kernel": ((HIDDEN, WIDE), (HIDDEN, WIDE)),
    f"{STACK}/feed_forward/up/bias": ((WIDE,), (WIDE,)),
    f"{STACK}/attention_norm/scale": ((HIDDEN,), (HIDDEN,)),
}
"""{path: (its shape in a layer, what it is in torch)}."""
STEPS, RATE = 6, 0.05
RNG = np.random.default_rng(0)


def adafactor(**changed):
    fixed = {"learning_rate": RATE, "schedule": Constant(), "factored_from": 1}
    return Adafactor(**{**fixed, **changed})


def drawn(scale):
    """A tree with random leaves; each layer is ten times larger than the one below it."""
    flat = {}
    for path, (shape, _) in SHAPES.items():
        shape = (LAYERS, *shape) if is_stacked(path) else shape
        leaf = scale * RNG.standard_normal(shape)
        if is_stacked(path):
            leaf *= 10.0 ** np.arange(LAYERS).reshape(-1, *[1] * (leaf.ndim - 1))
        flat[path] = leaf
    return unflatten(flat)


START = drawn(0.03)
START["masked_lm"]["bias"][:] = 0
GRADIENTS = [drawn(0.01 * 1.7**step) for step in range(STEPS)]
"""They grow, so that updates are clipped."""


def changes(config, start=START, gradients=GRADIENTS):
    """{path: how far each parameter has moved}, in float64."""
    with jax.enable_x64(True):
        optimizer, _ = make_optimizer(config, STEPS, 1)

        @jax.jit
        def step(params, state, gradient):
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        params, state = start, optimizer.init(start)
        for gradient in gradients:
            params, state = step(params, state, gradient)
        moved = jax.tree.map(lambda new, old: np.asarray(new) - old, params, start)
    return flatten(moved)


def by_torch(factored=True, **options):
    """The same, for which every layer's matrix is a parameter of its own in torch.

    Args:
      factored: else all are given as vectors, which torch never factors.
    """
    torch = pytest.importorskip("torch", reason="the reference Adafactor")
    from transformers.optimization import Adafactor as Reference

    fixed = {"lr": RATE, "relative_step": False, "warmup_init": False}
    moved = {}
    for path, (_, shape) in SHAPES.items():
        shape = shape if factored else -1
        layers = range(LAYERS) if is_stacked(path) else [...]
        start, gradients = flatten(START)[path], [flatten(g)[path] for g in GRADIENTS]
        moved[path] = np.zeros_like(start)
        for layer in layers:
            value = torch.nn.Parameter(torch.tensor(start[layer].reshape(shape)))
            reference = Reference([value], **{"scale_parameter": True, **fixed, **options})
            for gradient in gradients:
                value.grad = torch.tensor(gradient[layer].reshape(shape))
                reference.step()
            end = value.detach().numpy().reshape(start[layer].shape)
            moved[path][layer] = end - start[layer]
    return moved


def assert_close(got, want, tolerance=1e-6):
    """|got - want| / |want| of each layer's parameters."""
    assert got.keys() == want.keys()
    for path in want:
        rows = LAYERS if is_stacked(path) else 1
        error, size = (np.reshape(x, (rows, -1)) for x in (got[path] - want[path], want[path]))
        relative = np.linalg.norm(error, axis=1) / np.linalg.norm(size, axis=1)
        assert relative.max() < tolerance, (path, relative)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"clip_threshold": None}, {"clip_threshold": 1e9}),
        ({"parameter_scale": False}, {"scale_parameter": False}),
        ({"decay": 0.5, "epsilon": 1e-4}, {"decay_rate": -0.5, "eps": (1e-4, 1e-3)}),
        ({"smallest_scale": 0.5}, {"eps": (1e-30, 0.5)}),
    ],
    ids=str,
)
def test_it_equals_torch_on_the_matrix_of_each_layer(ours, theirs):
    assert_close(changes(adafactor(**ours)), by_torch(**theirs))


def test_matrices_with_a_short_side_keep_all_second_moments():
    """Of sides of 4 to 12, all of 8 and more are long enough, but each matrix has one of 6."""
    assert_close(changes(adafactor(factored_from=HIDDEN)), by_torch())
    assert_close(changes(adafactor(factored_from=HIDDEN + 1)), by_torch(factored=False))


def renamed(tree, cut):
    """A tree in which each leaf of a stack is cut in parts: {part of the path: layers}."""
    flat = {}
    for path, leaf in flatten(tree).items():
        for name, layers in cut.items() if is_stacked(path) else [(None, None)]:
            flat[path if name is None else path.replace(STACK, name)] = (
                leaf if layers is None else leaf[layers]
            )
    return unflatten(flat)


@pytest.mark.parametrize(
    "cut",
    [
        {f"{STACK}[0:1]": slice(0, 1), f"{STACK}[1:3]": slice(1, 3)},
        {f"encoder/block_{i}": i for i in range(LAYERS)},
    ],
    ids=["segments", "unstacked"],
)
def test_a_layer_moves_the_same_whatever_array_it_lies_in(cut):
    start, *gradients = (renamed(tree, cut) for tree in (START, *GRADIENTS))
    got = changes(adafactor(), start, gradients)
    want = flatten(renamed(unflatten(changes(adafactor())), cut))
    assert got.keys() == want.keys() and len(want) > len(SHAPES)
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=1e-10, err_msg=path)


# --- The state --------------------------------------------------------------------------------


def state_of(config, params):
    """{path of a parameter: {part of its state: shape and dtype}}."""
    state = jax.eval_shape(config.direction().init, params)
    return {path: chained[0]._asdict() for path, chained in flatten(state).items()}


@pytest.mark.parametrize("factored_from", [1, HIDDEN + 1])
def test_it_keeps_a_number_for_each_row_and_each_column(factored_from):
    found = state_of(adafactor(factored_from=factored_from), START)
    assert found.keys() == SHAPES.keys()
    for path, (_, shape) in SHAPES.items():
        stacked = (LAYERS,) if is_stacked(path) else ()
        kept = {name: x.shape for name, x in found[path].items()}
        unused = (*stacked, 1)
        if len(shape) == 2 and factored_from == 1:
            sides = {(*stacked, side) for side in shape}
            assert {kept["v_row"], kept["v_col"]} == sides and kept["v"] == unused, path
        else:
            assert kept["v"] == (*stacked, *(shape or (1,))) or len(shape) == 2, path
            assert np.prod(kept["v"]) == flatten(START)[path].size, path
            assert kept["v_row"] == kept["v_col"] == unused, path
        assert kept["count"] == stacked, path


def test_of_a_large_matrix_it_keeps_little():
    params = {"embeddings": {"tokens": {"embedding": np.zeros((1000, 200), np.float32)}}}
    (found,) = state_of(Adafactor(), params).values()
    assert sum(np.prod(x.shape) for x in found.values()) == 1000 + 200 + 2


def test_its_state_is_float32_beside_bfloat16_parameters():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), START)
    optimizer, _ = make_optimizer(adafactor(), STEPS, 1)
    before = optimizer.init(params)
    _, after = jax.jit(optimizer.update)(params, before, params)
    types = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert types(before) == types(after)
    moments = {x.dtype for x in jax.tree.leaves(after) if not jnp.issubdtype(x.dtype, jnp.integer)}
    assert moments == {jnp.dtype("float32")}


OBJECTIVE = MaskedLm(slots=8)
MODEL = Model(tiny.bert(pooler=False), OBJECTIVE.heads)
BATCH = tiny.rows([[d] for d in tiny.random_documents([16, 9, 5, 12, 16, 3, 7, 16])])


def test_the_state_of_boxed_parameters_has_no_boxes():
    init = adafactor().direction().init
    boxed = jax.eval_shape(init, MODEL.abstract())
    assert boxed == jax.eval_shape(init, unbox(MODEL.abstract()))
    assert jax.tree.structure(unbox(boxed)) == jax.tree.structure(boxed)


def test_eight_devices_make_the_same_updates_as_one_and_each_holds_the_whole_state():
    over = tiny.mesh(2, 2, 2)
    optimizer = adafactor(factored_from=8).direction()
    params, gradients = (tiny.random_params(MODEL, seed) for seed in (0, 1))
    want, kept = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    abstract = laid_out(jax.eval_shape(optimizer.init, MODEL.abstract()), over)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(abstract))
    params, gradients = (tiny.shard_params(MODEL, x, over) for x in (params, gradients))
    assert not flatten(params)["encoder/layers/attention/query/kernel"].is_fully_replicated
    with jax.set_mesh(over):
        state = jax.jit(optimizer.init, out_shardings=layout(abstract))(params)
        update = jax.jit(optimizer.update, out_shardings=(layout(params), layout(abstract)))
        found = update(gradients, state, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves((want, kept)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# --- Runs -------------------------------------------------------------------------------------

RUN = ("optimizer.name=adafactor", "optimizer.factored_from=8", "optimizer.learning_rate=0.02")
SAVED = (
    *RUN,
    "optimizer.schedule.warmup=1",
    "checkpoint={every: 1, keep_last: 99}",
    "evaluation.every=0",
)


def cut_off(run_dir, out, step):
    """A copy of a run without the checkpoints after a step."""
    shutil.copytree(run_dir, out)
    manager = CheckpointManager(out / "checkpoints")
    for later in manager.steps():
        if later > step:
            shutil.rmtree(manager.path(later))


@pytest.fixture(scope="module")
def pretrained(words, tmp_path_factory):
    """Four steps of masked language modelling."""
    out = tmp_path_factory.mktemp("adafactor") / "run"
    train_run(toy.configured(words, out, "masked", *SAVED, "train.steps=4"), lambda text: None)
    return out


def test_a_run_that_is_cut_and_resumed_ends_with_the_same_bits(pretrained, words, tmp_path):
    out, said = tmp_path / "run", []
    cut_off(pretrained, out, 2)
    train_run(toy.configured(words, out, "masked", *SAVED, "train.steps=4"), said.append)
    assert "resuming at step 2" in said
    toy.assert_same_arrays(toy.restored(out, 4), toy.restored(pretrained, 4))


def second_moments(run_dir, step):
    """{part of the optimizer's state: its array}, and all counts."""
    state = {k: x for k, x in toy.restored(run_dir, step).items() if "opt_state" in k}
    of = lambda *names: {k: x for k, x in state.items() if k.endswith(names)}
    return of("['v']", "['v_row']", "['v_col']"), of("['count']")


def test_moments_are_restored_with_their_counts(pretrained, words, tmp_path):
    """Decayed once more: v = b * old + (1 - b) * squares, of which a fresh run has b = 0."""
    for way in ("reset", "restore"):
        still = ("train.steps=1", "optimizer.learning_rate=0", "optimizer.schedule.warmup=0")
        start = (f"init.from={pretrained}", f"init.optimizer={way}")
        config = toy.configured(words, tmp_path / way, "masked", *SAVED, *start, *still)
        train_run(config, lambda text: None)
    old, _ = second_moments(pretrained, 4)
    new, counts = second_moments(tmp_path / "restore", 1)
    squares, _ = second_moments(tmp_path / "reset", 1)
    assert {int(n) for x in counts.values() for n in np.ravel(x)} == {1, 5}
    kept = 1 - 5**-0.8
    assert new.keys() == old.keys() == squares.keys() and len(new) > 60
    for name in new:
        want = kept * old[name] + (1 - kept) * squares[name]
        np.testing.assert_allclose(new[name], want, rtol=1e-5, atol=1e-12, err_msg=name)


STAGED = (
    *RUN,
    "freezing.preset=head",
    "freezing.cache=false",
    "freezing.stages=[{epoch: 1, preset: top, top: 1}]",
    "train={epochs: 2}",
    "checkpoint={every: 1, keep_last: 99}",
    "data.batch_size=16",
)
PER_EPOCH = 5  # 72 examples in batches of 16


@pytest.fixture(scope="module")
def staged(base, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("adafactor") / "staged"
    train_run(tuned.configured(base, table, out, *STAGED), lambda text: None)
    return out


@pytest.mark.parametrize("step", [PER_EPOCH, PER_EPOCH + 2])
def test_a_partly_frozen_stack_is_saved_and_goes_on_with_the_same_bits(
    staged, base, table, tmp_path, step
):
    out, said = tmp_path / "run", []
    cut_off(staged, out, step)
    train_run(tuned.configured(base, table, out, *STAGED), said.append)
    assert f"resuming at step {step}" in said
    toy.assert_same_arrays(toy.restored(out, 2 * PER_EPOCH), toy.restored(staged, 2 * PER_EPOCH))


def test_layers_that_are_thawed_have_counts_of_their_own(base, staged):
    moments, counts = second_moments(staged, 2 * PER_EPOCH)
    ends = {name: set(np.ravel(x).tolist()) for name, x in counts.items()}
    of = lambda part: [found for name, found in ends.items() if part in name]
    assert of("['classify']") and all(x == {2 * PER_EPOCH} for x in of("['classify']"))
    assert of("layers[1:2]") and all(x == {PER_EPOCH} for x in of("layers[1:2]"))
    assert not of("layers[0:1]") and not of("['embeddings']")
    before, after = tuned.whole(base), tuned.whole(staged)
    up = "encoder/layers/feed_forward/up/kernel"
    assert np.array_equal(after[up][0], before[up][0]) and (after[up][1] != before[up][1]).all()
