"""What LoRA begins with: the matrices, gradients and spectra of PEFT on torch, and nothing changed
at first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten
from jaxssl.models.adapters import Attached
from jaxssl.models.layer_context import Memory
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.start import Start, first_params

RANK, ALPHA = 4, 6.0
T5 = T5Config(**{**tiny.SHAPE, **tiny.NO_DROPOUT, "max_positions": 32}, head_width=8)
BATCH = tiny.rows([tiny.random_documents([6, 3], 0), tiny.random_documents([5, 4], 1)])


def adapted(config, **changes):
    method = Lora(rank=RANK, alpha=ALPHA, targets=("all-linear",), **changes)
    return Model(config, adapters=(Attached("own", method),))


def hidden(model, params):
    states = model.encode(params, BATCH)
    return model.write(params, BATCH, Memory(states, jnp.asarray(BATCH["segment_ids"])))


def first(model, seed=0):
    """All parameters as a run begins with them."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        tiny.unbox(model.abstract()),
    )
    return first_params(Start(), model, seed, shapes, lambda path: True)


@pytest.mark.parametrize("beginning", ["orthogonal", "pissa", "olora"])
def test_at_first_not_a_bit_is_another_though_matrices_are_not_zero(beginning):
    model = adapted(T5, initialization=beginning)
    params = first(model)
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    got = hidden(model, params)
    assert np.array_equal(got, hidden(dataclasses.replace(model, adapters=()), base))
    kinds = ("_a", "_b") if beginning == "orthogonal" else ("_a0", "_b0")
    found = [x for path, x in flatten(params[ADAPTERS]).items() if path.endswith(kinds)]
    assert len(found) > 20 and all(np.abs(x).max() > 0.01 for x in found)


def kernels_and_firsts(params):
    """(kernel [in, out], A0 [in, R], B0 [R, out]) of each projection of each layer."""
    flat = flatten(params)
    for path, kernels in flat.items():
        a0, b0 = (
            flat.get(f"{ADAPTERS}/{path.removesuffix('/kernel')}/own_{x}") for x in ("a0", "b0")
        )
        if a0 is None:
            continue
        for kernel, a, b in zip(kernels, a0, b0):
            a, b = np.asarray(a).reshape(-1, RANK), np.asarray(b).reshape(RANK, -1)
            yield np.asarray(kernel).reshape(len(a), -1), a, b


def test_pissa_begins_with_the_best_product_of_its_rank():
    """By Eckart and Young: what is left is as large as the remaining singular values."""
    for kernel, a, b in kernels_and_firsts(first(adapted(tiny.bert(), initialization="pissa"))):
        values = np.linalg.svd(kernel, compute_uv=False)
        left = np.linalg.svd(kernel - ALPHA / RANK * a @ b, compute_uv=False)
        np.testing.assert_allclose(left[: len(values) - RANK], values[RANK:], rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.sum(a * a, 0), np.sum(b * b, 1), rtol=1e-4)  # shared evenly


@pytest.mark.parametrize("beginning", ["pissa", "olora"])
def test_products_and_first_gradients_are_those_of_peft(beginning):
    """Of a dense layer, up to the signs of the columns, which both sides are free in."""
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    weight = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((7, 12)).astype(np.float32)
    layer = torch.nn.Sequential(torch.nn.Linear(12, 20, bias=False))
    layer[0].weight.data = torch.tensor(weight)
    settings = dict(r=RANK, lora_alpha=ALPHA, target_modules=["0"], init_lora_weights=beginning)
    wrapped = peft.get_peft_model(layer, peft.LoraConfig(**settings))
    wrapped(torch.tensor(x)).sin().sum().backward()
    named = {name: p for name, p in wrapped.named_parameters() if "lora" in name}
    (a, ga), (b, gb) = ((p.detach().numpy(), p.grad.numpy()) for p in named.values())

    method = Lora(rank=RANK, alpha=ALPHA, initialization=beginning)
    kernel = jnp.asarray(weight.T)
    a0 = method.begin("a0", "query", kernel, (12, RANK))
    b0 = method.begin("b0", "query", kernel, (RANK, 20))
    np.testing.assert_allclose((a0 @ b0).T, b @ a, rtol=0, atol=1e-5)

    def loss(a, b):
        added = {"a": a, "b": b, "a0": a0, "b0": b0}
        merged = method.merge("query", {"kernel": kernel}, added)
        return jnp.sum(jnp.sin(x @ merged["kernel"]))

    da, db = jax.grad(loss, (0, 1))(jnp.zeros_like(a0), jnp.zeros_like(b0))
    for mine, yours in (((a0 @ db).T, gb @ a), ((da @ b0).T, b @ ga)):
        assert np.abs(mine - yours).max() <= 1e-5 * np.abs(yours).max()


def test_an_orthogonal_beginning_is_that_of_peft_turned():
    """A B is zero, and each has half the rank: singular values of the same size."""
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    torch.manual_seed(0)
    layer, size = torch.nn.Sequential(torch.nn.Linear(400, 300, bias=False)), 8
    settings = dict(r=size, target_modules=["0"], init_lora_weights="orthogonal")
    wrapped = peft.get_peft_model(layer, peft.LoraConfig(**settings))
    theirs = [p.detach().numpy() for name, p in wrapped.named_parameters() if "lora" in name]
    method = Lora(rank=size, targets=("up",), initialization="orthogonal")
    config = tiny.bert(hidden_size=400, intermediate_size=300, num_layers=1)
    flat = flatten(first(Model(config, adapters=(Attached("own", method),)))[ADAPTERS])
    ours = [next(x[0] for path, x in flat.items() if path.endswith(end)) for end in ("_a", "_b")]
    assert not np.any(ours[0] @ ours[1])
    for mine, yours in zip(ours, theirs):
        values = [np.linalg.svd(x, compute_uv=False) for x in (mine, yours)]
        np.testing.assert_allclose(values[0][:4], values[1][:4], rtol=0.15)
        assert max(x[4] for x in values) < 1e-6


def test_in_bfloat16_small_changes_are_not_lost_in_what_pissa_began_with():
    """The change of the output is that of float32 within bfloat16's rounding of the change."""
    model = adapted(tiny.bert(num_layers=1), initialization="pissa")
    flat = flatten(first(model))
    for path in [path for path in flat if path.endswith(("own_a", "own_b"))]:
        flat[path] = 1e-3 * jax.random.normal(jax.random.key(len(path)), flat[path].shape)
    site = "encoder/layers/feed_forward/up"
    added = {x: flat[f"{ADAPTERS}/{site}/own_{x}"][0] for x in ("a", "b", "a0", "b0")}
    method = model.adapters[0].method
    wide = {name: np.asarray(x, np.float64) for name, x in added.items()}
    want = (wide["a0"] + wide["a"]) @ (wide["b0"] + wide["b"]) - wide["a0"] @ wide["b0"]
    narrow = {name: x.astype(jnp.bfloat16) for name, x in added.items()}
    got = method.merge(site, {"kernel": jnp.zeros(want.shape, jnp.bfloat16)}, narrow)["kernel"]
    error = np.abs(np.asarray(got, np.float64) - ALPHA / RANK * want).max()
    assert error < 0.02 * ALPHA / RANK * np.abs(want).max()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Lora(rank=3, initialization="orthogonal"), "even rank"),
        (lambda: Lora(rank_by_target={"up": 5}, initialization="orthogonal"), "even rank"),
        (lambda: first(adapted(tiny.bert(hidden_size=2), initialization="pissa")), "singular"),
        (
            lambda: first(
                Model(
                    tiny.bert(),
                    adapters=(Attached("own", Lora(targets=("tokens",), initialization="olora")),),
                )
            ),
            "cannot begin here",
        ),
    ],
)
def test_what_cannot_begin_is_refused(make, error):
    with pytest.raises(UserError, match=error):
        make()
