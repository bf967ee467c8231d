"""Adapters of four kinds, written here, at the sites that every family has."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, join, unflatten
from jaxssl.core.precision import Precision
from jaxssl.models.adapters import Adapter, Attached
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.program.parameter_use import unread
from jaxssl.program.program import Stage, Stream
from jaxssl.transfer.freezing import Freezing, choose, cut, is_trained
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.prefix import Prefix

NORMAL, ZEROS = jax.nn.initializers.normal(0.3), jax.nn.initializers.zeros


TARGETS = ("query", "value", "down", "transform")


def lora(rank=3, targets=TARGETS):
    return Lora(rank=rank, alpha=float(rank), targets=targets)


def prefix():
    return Prefix(length=4)


def bottleneck():
    return Bottleneck(reduction=8)


@dataclass(frozen=True, kw_only=True)
class Soft(Adapter):
    """Adds a vector to the embedding of each token."""

    name: str = "soft"

    def embedding(self, site, compute, ids):
        y = compute(ids)
        if site.path != "embeddings/tokens":
            return y
        return y + site.parameter("vector", ZEROS, ("embed",), (y.shape[-1],))


@dataclass(frozen=True, kw_only=True)
class Dora(Adapter):
    """Liu et al., 2024, with a magnitude for each output and no change of direction."""

    name: str = "dora"

    def projection(self, site, compute, x):
        y = compute(x)
        if site.module.name != "up":
            return y
        length = jnp.linalg.norm(site.base("kernel"), axis=0).astype(y.dtype)
        ones = jax.nn.initializers.ones
        return y * site.parameter("m", ones, ("mlp",), length.shape) / length


@dataclass(frozen=True, kw_only=True)
class Dropped(Adapter):
    """Draws a key before its module does, and adds nothing."""

    name: str = "dropped"

    def sublayer(self, site, compute, x):
        key = site.dropout_key()
        return compute(x) if key is None else compute(x) + 0 * jax.random.normal(key, x.shape)


def attached(*methods, sets=None):
    """Each under the name of its method."""
    return tuple(Attached(method.name, method, sets) for method in methods)


ALL = attached(lora(), prefix(), bottleneck(), Soft())
LENGTHS = ([6, 3], [5, 4])
BATCH = tiny.rows([tiny.random_documents(lengths, seed) for seed, lengths in enumerate(LENGTHS)])


def llama(**changes):
    shape = {**tiny.SHAPE, "num_heads": 4, "num_kv_heads": 2, "max_positions": 32}
    return LlamaConfig(**{**shape, **changes})


@pytest.mark.parametrize("family", [tiny.bert, llama])
def test_hidden_states_keep_the_compute_dtype(family):
    precision = Precision(compute="bfloat16")
    model = Model(family(), MaskedLm().heads, precision, adapters=(*ALL, *attached(Dora())))
    shapes = tiny.unbox(model.abstract())
    assert {x.dtype.name for x in flatten(shapes).values()} == {"float32"}
    out = jax.eval_shape(model.encode, shapes, BATCH)
    assert out.dtype == "bfloat16"
    assert jax.eval_shape(Model(family(), (), precision).encode, shapes, BATCH).dtype == out.dtype


def test_an_adapter_may_read_the_parameters_of_its_module():
    model = Model(tiny.bert(), adapters=attached(Dora()))
    params = tiny.random_params(model)
    base, added = parts(params)
    (path, scale), *more = flatten(added).items()
    assert path == "encoder/layers/feed_forward/up/dora_m" and not more
    kernel = base["encoder"]["layers"]["feed_forward"]["up"]["kernel"]
    length = np.linalg.norm(kernel, axis=1)
    flat, ratio = flatten(base), scale / length
    for leaf, factor in (("bias", ratio), ("kernel", ratio[:, None])):
        name = f"encoder/layers/feed_forward/up/{leaf}"
        flat[name] = flat[name] * factor
    want = jax.jit(dataclasses.replace(model, adapters=()).encode)(unflatten(flat), BATCH)
    np.testing.assert_allclose(jax.jit(model.encode)(params, BATCH), want, rtol=0, atol=2e-6)


def test_an_adapters_dropout_leaves_the_masks_of_the_base():
    plain = Model(tiny.bert(dropout=0.2, attention_dropout=0.2))
    params, key = tiny.random_params(plain), jax.random.key(3)
    model = dataclasses.replace(plain, adapters=attached(Dropped()))
    got, want = (jax.jit(each.encode)(params, BATCH, key) for each in (model, plain))
    np.testing.assert_array_equal(got, want)


def test_adapters_of_one_name_are_refused_and_so_are_parameters_of_another_shape():
    with pytest.raises(UserError, match="two adapters have one name"):
        Model(tiny.bert(), adapters=attached(lora(), lora(2)))
    params = tiny.random_params(Model(tiny.bert(), adapters=attached(lora(2))))
    with pytest.raises(flax.errors.ScopeParamShapeError):
        Model(tiny.bert(), adapters=attached(lora(5))).encode(params, BATCH)


def parts(params):
    """(the base, the adapters) of a tree."""
    return {name: x for name, x in params.items() if name != "adapters"}, params["adapters"]


@pytest.mark.parametrize("family", [tiny.bert, llama])
def test_adapters_leave_the_first_bits_of_a_model_as_they_were(family):
    base = Model(family(), MaskedLm().heads)
    adapted = dataclasses.replace(base, adapters=attached(lora(), bottleneck(), Soft()))
    key = jax.random.key(7)
    plain, changed = tiny.unbox(jax.jit(base.init)(key)), tiny.unbox(jax.jit(adapted.init)(key))
    ours, added = parts(changed)
    assert {name: x.tobytes() for name, x in flatten(ours).items()} == {
        name: x.tobytes() for name, x in flatten(plain).items()
    }
    assert np.array_equal(
        jax.jit(adapted.encode)(changed, BATCH), jax.jit(base.encode)(plain, BATCH)
    ), "those that start from zero change nothing"
    (stack,) = base.config.stacks
    drawn = added[stack.name]["layers"]["attention"]["query"]["lora_a"]
    assert drawn.shape == (2, 16, 3) and not np.array_equal(drawn[0], drawn[1])


BOTTLENECK = ("down", "up", "down_bias", "up_bias")


def test_adapters_lie_at_the_paths_of_what_they_change():
    names = flatten(tiny.unbox(Model(tiny.bert(), MaskedLm().heads, adapters=ALL).abstract()))
    layer = "adapters/encoder/layers"
    sublayers = [f"{layer}/{name}" for name in ("attention", "feed_forward")]
    projections = [f"{layer}/attention/query", f"{layer}/attention/value"]
    projections += [f"{layer}/feed_forward/down", "adapters/masked_lm/transform"]
    assert {name for name in names if name.startswith("adapters/")} == {
        *(f"{path}/lora_{leaf}" for path in projections for leaf in "ab"),
        *(f"{path}/bottleneck_{leaf}" for path in sublayers for leaf in BOTTLENECK),
        *(f"{layer}/attention/prefix_{leaf}" for leaf in ("key", "value")),
        "adapters/embeddings/tokens/soft_vector",
    }


def merged(model, params):
    """The base with A B added to each kernel: what LoRA computes, without adapters."""
    base, added = (flatten(tree) for tree in parts(params))
    for path in [path for path in added if path.endswith("lora_a")]:
        kernel = path.removesuffix("lora_a") + "kernel"
        b = added[path.removesuffix("a") + "b"]
        if b.ndim == added[path].ndim == 2 or not path.startswith(("encoder/", "decoder/")):
            base[kernel] = base[kernel] + jnp.tensordot(added[path], b, 1)
            continue
        one = functools.partial(jnp.tensordot, axes=1)
        base[kernel] = base[kernel] + jax.vmap(one)(added[path], b)
    return unflatten(base)


CHANGES = [
    (tiny.bert, {}),
    (llama, {"remat": "full"}),
    (tiny.bert, {"unroll": True}),
    (llama, {"segments": (1, 2)}),
]


@pytest.mark.parametrize("family, changes", CHANGES, ids=["loop", "remat", "unrolled", "segments"])
def test_lora_is_the_model_with_merged_kernels(family, changes):
    """Values and gradients of all parameters of the base, however the stack is computed."""
    plain = Model(family(num_layers=3, **changes))
    model = dataclasses.replace(plain, adapters=attached(lora()))
    params = tiny.random_params(model)

    def loss(model, params):
        return jnp.sum(jnp.sin(model.encode(params, BATCH)))

    got = jax.jit(jax.value_and_grad(functools.partial(loss, model)))(params)
    want = jax.jit(jax.value_and_grad(functools.partial(loss, plain)))(merged(model, params))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    base, added = parts(got[1])
    errors = tiny.relative_l2(base, want[1])
    assert max(x for name, x in errors.items() if not name.endswith("key/bias")) < 1e-5, (
        "0 but noise"
    )
    assert all(np.any(x != 0) for x in flatten(added).values())


def test_parameters_of_other_segments_are_an_error():
    whole = Model(tiny.bert(num_layers=3), adapters=attached(lora()))
    cut_up = dataclasses.replace(whole, config=tiny.bert(num_layers=3, segments=(1, 2)))
    params = {**tiny.random_params(cut_up), "adapters": tiny.random_params(whole)["adapters"]}
    with pytest.raises(flax.errors.ScopeCollectionNotFound):
        cut_up.encode(params, BATCH)


@pytest.mark.parametrize("family", [tiny.gpt2, llama])
def test_a_prefix_is_what_leading_tokens_are(family):
    """Keys and values of four tokens, as a cache holds them, in the place of the tokens."""
    plain = Model(family())
    model = dataclasses.replace(plain, adapters=attached(prefix()))
    params, (lead, rest) = tiny.random_params(plain), tiny.random_documents([4, 6])
    whole = tiny.rows([[np.concatenate([lead, rest])]])
    want = jax.jit(plain.encode)(params, whole)[:, 4:]
    given = tiny.rows([[lead]])
    _, cache = jax.jit(plain.decode)(params, given, plain.empty_cache(1, 4))
    held = cache["decoder"]["layers"]["attention"]
    key, value = (held[name][:, 0].swapaxes(1, 2) for name in ("cached_key", "cached_value"))
    same = {"prefix_key": key, "prefix_value": value}
    params = {**params, "adapters": {"decoder": {"layers": {"attention": same}}}}
    batch = {name: x[:, 4:] if x.shape[1:] == (10,) else x for name, x in whole.items()}
    got = jax.jit(model.encode)(params, batch)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_every_document_of_a_row_sees_the_prefix_and_no_other():
    model = Model(tiny.bert(), adapters=attached(prefix()))
    params = tiny.random_params(model)
    documents = tiny.random_documents([6, 3])
    together = jax.jit(model.encode)(params, tiny.rows([documents]))[0]
    for document, part in zip(documents, (slice(0, 6), slice(6, 9))):
        alone = jax.jit(model.encode)(params, tiny.rows([[document]]))[0]
        np.testing.assert_allclose(together[part], alone, rtol=0, atol=2e-6)


def test_a_cache_holds_what_adapters_made():
    model = Model(llama(), adapters=attached(lora(), prefix(), bottleneck()))
    params, (tokens,) = tiny.random_params(model), tiny.random_documents([7])
    batch = tiny.rows([[tokens]])
    want = jax.jit(model.encode)(params, batch)
    cache, steps, decode = model.empty_cache(1, 7), [], jax.jit(model.decode)
    for at in range(7):
        one = {name: batch[name][:, at : at + 1] for name in ("tokens", "segment_ids", "positions")}
        hidden, cache = decode(params, one, cache)
        steps.append(hidden[:, 0])
    np.testing.assert_allclose(np.stack(steps, axis=1), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_rows_of_one_batch_may_use_different_adapters(remat):
    targets = ("query", "down")
    model = Model(tiny.bert(remat=remat), adapters=attached(lora(targets=targets), sets=3))
    params = tiny.random_params(model)
    whole = jax.jit(model.encode)(params, {**BATCH, "adapter": np.array([2, 0])})
    single = Model(tiny.bert(remat=remat), adapters=attached(lora(targets=targets)))
    for row, number in enumerate([2, 0]):
        _, added = parts(params)
        chosen = {**params, "adapters": jax.tree.map(lambda x: x[:, number], added)}  # noqa: B023
        alone = jax.jit(single.encode)(
            chosen, {name: x[row : row + 1] for name, x in BATCH.items()}
        )
        np.testing.assert_allclose(whole[row], alone[0], rtol=0, atol=2e-6)


def test_another_adapter_of_one_shape_is_switched_to_without_compiling():
    model = Model(tiny.gpt2(), adapters=attached(lora()))
    base, _ = parts(tiny.random_params(model))
    encode, made = jax.jit(model.encode), []
    for seed in (1, 2, 3):
        _, own = parts(tiny.random_params(model, seed))
        made.append(np.asarray(encode({**base, "adapters": own}, BATCH)))
    assert encode._cache_size() == 1
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(made, made[1:]))


def test_a_loss_in_chunks_sees_the_adapters_of_its_head():
    objective = MaskedLm()
    model = Model(tiny.bert(pooler=False), objective.heads, adapters=attached(lora()))
    head = model.head_params(tiny.random_params(model), "masked_lm")
    assert "adapters/masked_lm/transform/lora_a" in flatten(head)
    batch = tiny.corrupted(objective, BATCH)
    assert not unread(model, (Stream.of(objective, batch),), tiny.WORDS)


def test_adapters_that_a_model_does_not_have_are_unread():
    model = Model(
        tiny.gpt2(), CausalLm().heads, adapters=attached(lora(targets=("query",)), prefix())
    )
    without = dataclasses.replace(model, adapters=attached(prefix()))

    class Forgetful(type(CausalLm())):  # type: ignore[misc]
        """Computes without the first adapter."""

        def forward(self, model, params, batch, key):
            return super().forward(without, params, batch, key)

    found = unread(model, (Stream.of(Forgetful(), BATCH),), tiny.WORDS)
    assert found == [f"adapters/decoder/layers/attention/query/lora_{leaf}" for leaf in "ab"]


# --- Trained alone, from a layer on ------------------------------------------------------------


def chosen(config: Any):
    """(the model in segments, which of its parameters are trained) of a selection."""
    model = Model(
        tiny.gpt2(num_layers=3), CausalLm().heads, adapters=attached(lora(), bottleneck())
    )
    decisions = choose(config, tiny.unbox(model.abstract()), ["causal_lm"])
    model = model.with_segments(cut([decisions]))
    leaves = flatten(tiny.unbox(model.abstract()))
    return model, {path for path, x in leaves.items() if is_trained(decisions, path, x)}


def test_a_range_of_layers_cuts_the_base_where_it_cuts_its_adapters():
    model, trained = chosen(Freezing(preset="head", train=("adapters/decoder/layers[1:]/**",)))
    assert model.config.segments == (1, 2)
    places = (
        "attention",
        "attention/query",
        "attention/value",
        "feed_forward",
        "feed_forward/down",
    )
    assert {path.rsplit("/", 1)[0] for path in trained} == {
        f"adapters/decoder/layers[1:3]/{place}" for place in places
    }


def bits(state):
    """{path: its bytes} of what is trained and what is not."""
    return {
        path: np.asarray(x).tobytes() for path, x in flatten(join(state.params, state.kept)).items()
    }


def test_training_adapters_alone_leaves_the_base_its_bits():
    model, trained = chosen(Freezing(preset="head", train=("adapters/decoder/layers[1:]/**",)))
    program = tiny.program(
        model, CausalLm(), optax.adam(0.05), BATCH, stages=(Stage(0, trained.__contains__),)
    )
    phase, state = tiny.begun(program)
    before = bits(state)
    losses = []
    for _ in range(6):
        state, out = tiny.take(phase, state, BATCH)
        losses.append(float(out["loss"]))
    after = bits(state)
    assert {path for path in after if after[path] != before[path]} == trained
    assert losses[-1] < losses[0]
