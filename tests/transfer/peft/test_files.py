"""Adapters in PEFT's files: what PEFT makes of them on torch is what they do here, for each family
that it can wrap; in float64, since random networks amplify rounding."""

import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is peft on torch")
peft = pytest.importorskip("peft", reason="the reference is peft on torch")

import tiny  # noqa: E402
import transformers  # noqa: E402
from peft_cases import CASES, LENGTH, case_of, hidden, theirs, written  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.layer_names import ADAPTERS  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.adapters import Attached  # noqa: E402
from jaxssl.models.layer_context import Memory  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.transfer.peft.bottleneck import Bottleneck  # noqa: E402
from jaxssl.transfer.peft.ia3 import Ia3  # noqa: E402
from jaxssl.transfer.peft.lora import Lora  # noqa: E402
from jaxssl.transfer.peft.merge import merge_adapters  # noqa: E402
from jaxssl.transfer.peft.reading import read_adapter  # noqa: E402

METHODS = {
    "lora": Lora(rank=3, alpha=6.0),
    "everywhere": Lora(
        rank=4,
        targets=("all-linear",),
        rank_stabilized=True,
        rank_by_target={"down": 2},
        alpha_by_target={"query": 3.0},
    ),
    "one of three": Lora(rank=2, targets=("value",)),
    "ia3": Ia3(),
    "dora": Lora(rank=3, targets=("query", "key", "value", "down"), magnitude=True),
    "top": Lora(rank=3, targets=("query", "down"), layers=(1,), bias="lora_only"),
    "biases": Lora(rank=2, targets=("query", "up"), bias="all"),
    "pissa": Lora(rank=2, targets=("query", "key", "down"), initialization="pissa"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


def adapted(case, method, root):
    """The model with an adapter of random parameters."""
    place, plain, base, name = case_of(case, root)
    model = dataclasses.replace(plain, adapters=(Attached("own", METHODS[method]),))
    drawn = tiny.random_params(model, seed=3, scale=0.2)[ADAPTERS]
    if method == "ia3":
        drawn = jax.tree.map(lambda x: 1 + x, drawn)
    flat = flatten(drawn)
    lengths = {path: 1 + np.abs(x) for path, x in flat.items() if path.endswith("_m")}
    drawn = unflatten({**flat, **lengths})
    if (layers := METHODS[method].changed_layers) is not None:
        keep = np.isin(np.arange(2), layers)
        drawn = jax.tree.map(lambda x: (x.T * keep).T, drawn)
    base = {**flatten(base), **trained_biases(METHODS[method], flatten(base), model)}
    base = unflatten(base)
    return place, model, {**base, ADAPTERS: drawn}, name


def trained_biases(method, base, model):
    """What a method has made of the biases that it trains; `pooler` is not in all classes."""
    if getattr(method, "bias", "none") == "none":
        return {}
    of = {path.rsplit("/", 1)[0] + "/bias" for path in flatten(model.abstract()[ADAPTERS])}
    draw = np.random.default_rng(11).standard_normal
    found = {}
    for path, x in base.items():
        if path.endswith("/bias") and (method.bias == "all" or path in of):
            found[path] = (x + 0.2 * draw(x.shape)).astype(x.dtype)
            if method.changed_layers is not None:
                found[path][0] = x[0]
    return found


def combinations():
    """One method a family here, all of them in the slow tests."""
    names = list(METHODS)
    for number, case in enumerate(CASES):
        for method in names:
            marks = () if names[number % len(names)] == method else (pytest.mark.slow,)
            yield pytest.param(case, method, marks=marks)


def differences(case, method, root, out):
    """Of the last hidden states, over the largest: from what PEFT makes of the written files, from
    the merged model, and from the model without the adapter."""
    place, model, params, name = adapted(case, method, root)
    out = written(place, model, params, name, out)
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    wrapped = peft.PeftModel.from_pretrained(reference.eval(), out).eval().double()
    model = dataclasses.replace(model, precision=tiny.FLOAT64)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        mine, ids = hidden(model, params)
        plain = dataclasses.replace(model, adapters=())
        untouched, _ = hidden(plain, {k: v for k, v in params.items() if k != ADAPTERS})
        merged, weights = merge_adapters(model, params)
        assert not merged.adapters and ADAPTERS not in weights
        again, _ = hidden(merged, weights)
    yours = theirs(wrapped, ids, model.config.encoder_decoder)
    others = {"peft": yours, "merged": again, "without": untouched}
    return {of: float(np.abs(mine - x).max() / np.abs(mine).max()) for of, x in others.items()}


@pytest.mark.parametrize(("case", "method"), combinations())
def test_peft_reads_what_is_written_and_merging_gives_the_same(case, method, root, tmp_path):
    found = differences(case, method, root, tmp_path / "adapter")
    assert found["without"] > 1e-2, "the adapter does something"
    assert found["peft"] <= 1e-5  # their norms and angles are in float32
    assert found["merged"] <= 1e-12


def gradient_difference(case, method, root, out):
    """Of the gradients of the sum of sines of the last hidden states by every array of the adapter,
    from PEFT's, in float64, over the largest."""
    place, model, params, name = adapted(case, method, root)
    written(place, model, params, name, out)
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    wrapped = peft.PeftModel.from_pretrained(reference.eval(), out, is_trainable=True).eval()
    wrapped = wrapped.double()
    _, ids = hidden(model, params)
    model = dataclasses.replace(model, precision=tiny.FLOAT64)
    two_sided = model.config.encoder_decoder
    more = {"decoder_input_ids": ids} if two_sided else {}
    made = wrapped(input_ids=ids, output_hidden_states=True, **more)
    (made.decoder_hidden_states if two_sided else made.hidden_states)[-1].sin().sum().backward()
    wanted = {
        key.replace(".default", "").replace("_vector.weight", "_vector"): p.grad.numpy()
        for key, p in wrapped.named_parameters()
        if p.grad is not None
    }

    def loss(added):
        ids32 = np.asarray(ids, np.int32)
        one, places = np.ones_like(ids32), np.arange(LENGTH, dtype=np.int32)
        batch = {"tokens": ids32, "segment_ids": one, "positions": one * places}
        states = model.encode({**params, ADAPTERS: added}, batch)
        if two_sided:
            states = model.write({**params, ADAPTERS: added}, batch, Memory(states, one))
        return jax.numpy.sum(jax.numpy.sin(states))

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        grads = jax.jit(jax.grad(loss))(params[ADAPTERS])
        grads = jax.tree.map(lambda x: np.asarray(x, np.float32), grads)
    place = written(place, model, {**params, ADAPTERS: grads}, name, out.with_name("gradients"))
    found = load_file(place / "adapter_model.safetensors")
    assert found.keys() == wanted.keys() and len(found) >= 4
    size = max(np.abs(x).max() for x in wanted.values())
    return max(float(np.abs(x - wanted[key]).max() / size) for key, x in found.items())


@pytest.mark.parametrize(("case", "method"), [("llama", "lora"), ("bert", "dora"), ("t5", "ia3")])
def test_first_gradients_are_those_of_peft(case, method, root, tmp_path):
    assert gradient_difference(case, method, root, tmp_path / "adapter") <= 1e-5


def made_by_peft(case, root, out, settings):
    """An adapter of random parameters that PEFT made and saved; what its model gives."""
    place, _, _, name = case_of(case, root)
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    wrapped = peft.get_peft_model(reference.eval(), settings).eval()
    generator = torch.Generator().manual_seed(8)
    for p in wrapped.parameters():
        if p.requires_grad:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
    wrapped.save_pretrained(out)
    return wrapped


DOWN = ["query", "output.dense"]
THEIRS = {
    "gpt2": dict(r=3, lora_alpha=5, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True),
    "llama": dict(r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"down_proj": 2}),
    "bert": dict(r=2, target_modules=["query", "output.dense"], use_rslora=True),
    "t5": dict(r=2, target_modules=["q", "wo"], alpha_pattern={"wo": 3}),
    "modernbert": dict(r=2, target_modules=["Wqkv"]),
    "qwen3": dict(r=2, target_modules=["q_proj", "down_proj"], use_dora=True),
}


UNEVEN = [
    ("llama", dict(target_modules=["q_proj", "down_proj"], layers_to_transform=[1])),
    ("qwen3", dict(target_modules=["q_proj"], layers_to_transform=[0], use_dora=True)),
    ("bert", dict(target_modules=DOWN, bias="all")),
    ("bert", dict(target_modules=DOWN, bias="lora_only", layers_to_transform=1)),
    ("gpt2", dict(target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True)),
    (
        "llama",
        dict(
            target_modules=["q_proj", "v_proj"],
            rank_pattern={"layers.0.self_attn.q_proj": 4},
            alpha_pattern={"layers.1.self_attn.v_proj": 5},
        ),
    ),
    ("t5", dict(target_modules=["q"], rank_pattern={r"block\.1\..*q": 3}, use_rslora=True)),
    ("llama", dict(target_modules=["q_proj", "down_proj"], init_lora_weights="pissa")),
    (
        "bert",
        dict(
            target_modules=DOWN,
            init_lora_weights="pissa",
            layers_to_transform=[1],
            rank_pattern={"query": 4},
            use_rslora=True,
        ),
    ),
    ("t5 encoder", dict(target_modules=["q", "wo"])),
    ("t5 tags", dict(target_modules=["q", "wo"])),
    ("t5", dict(target_modules=["q", "wo"], init_lora_weights="olora", alpha_pattern={"q": 5})),
    ("bart", dict(init_lora_weights="olora", rank_pattern={r"layers\.1\..*q_proj": 3})),
]


@pytest.mark.parametrize(
    ("case", "settings"), [*THEIRS.items(), *((case, {"r": 2, **x}) for case, x in UNEVEN)]
)
def test_what_peft_made_is_read_and_does_the_same(case, settings, root, tmp_path):
    out = tmp_path / "adapter"
    wrapped = made_by_peft(case, root, out, peft.LoraConfig(**settings))
    place, plain, base, name = case_of(case, root)
    read = read_adapter(out, open_model(place))
    model = dataclasses.replace(plain, adapters=(Attached("own", read.method),))
    flat = {
        f"{ADAPTERS}/{module}/own_{leaf}": x
        for module, arrays in read.modules.items()
        for leaf, x in arrays.items()
    }
    shapes = flatten(unbox(model.abstract()))
    added = {path for path in shapes if path.startswith(f"{ADAPTERS}/")}
    assert flat.keys() == added and bool(read.trained) == ("bias" in settings)
    assert read.trained.keys() <= flatten(base).keys()
    params = unflatten({**flatten(base), **read.trained, **flat})
    mine, ids = hidden(model, params)
    yours = theirs(wrapped, ids, model.config.encoder_decoder)
    assert np.abs(mine - yours).max() <= 1e-5 * np.abs(mine).max()


@pytest.mark.parametrize(
    ("case", "chosen", "inside"),
    [
        ("llama", r".*layers\.1.*(k_proj|down_proj)", r".*down_proj"),
        ("bert", r".*layer\.0.*(key|value)|.*layer\.1.*(key|output\.dense)", r".*output\.dense"),
        ("gpt2", r".*h\.1\.attn\.c_attn", "nothing"),
    ],
)
def test_factors_of_some_layers_are_read(case, chosen, inside, root, tmp_path):
    """As PEFT made them; the others have ones."""
    settings = peft.IA3Config(target_modules=chosen, feedforward_modules=inside)
    wrapped = made_by_peft(case, root, tmp_path / "adapter", settings)
    place, plain, base, name = case_of(case, root)
    read = read_adapter(tmp_path / "adapter", open_model(place))
    model = dataclasses.replace(plain, adapters=(Attached("own", read.method),))
    flat = {
        f"{ADAPTERS}/{module}/own_{leaf}": x
        for module, arrays in read.modules.items()
        for leaf, x in arrays.items()
    }
    params = unflatten({**flatten(base), **flat})
    mine, ids = hidden(model, params)
    yours = theirs(wrapped, ids, model.config.encoder_decoder)
    assert np.abs(mine - yours).max() <= 1e-5 * np.abs(mine).max()
    out = written(place, model, params, name, tmp_path / "again")
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    again = peft.PeftModel.from_pretrained(reference.eval(), out).eval()
    np.testing.assert_allclose(theirs(again, ids, False), yours, rtol=0, atol=1e-5)

    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    key = next(iter(tensors))
    save_file({name: x for name, x in tensors.items() if name != key}, path)
    if case == "bert":  # of whose keys other layers have theirs
        with pytest.raises(UserError, match="lacks a tensor"):
            read_adapter(tmp_path / "adapter", open_model(place))


def test_files_that_are_written_and_read_again_have_the_same_bits(root, tmp_path):
    for case, method in (("gpt2", "everywhere"), ("bart", "ia3")):
        place, model, params, name = adapted(case, method, root)
        first = written(place, model, params, name, tmp_path / case)
        read = read_adapter(first, open_model(place))
        again = dataclasses.replace(model, adapters=(Attached("own", read.method),))
        flat = {
            f"{module}/own_{leaf}": x
            for module, arrays in read.modules.items()
            for leaf, x in arrays.items()
        }
        second = {**params, ADAPTERS: unflatten(flat)}
        second = written(place, again, second, name, tmp_path / f"{case}-again")
        weights = [(each / "adapter_model.safetensors").read_bytes() for each in (first, second)]
        assert weights[0] == weights[1] and len(weights[0]) > 1000


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"peft_type": "BOFT"}, "peft_type"),
        ({"lora_bias": True}, "lora_bias"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"of_a_later_version": {"on": True}}, "of_a_later_version"),
        ({"bias": "some"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "adapter_config.json"),
        ({"init_lora_weights": "olora", "use_dora": True}, "adapter_config.json"),
    ],
)
def test_adapters_of_another_kind_are_refused(change, where, root, tmp_path):
    place, model, params, name = adapted("llama", "lora", root)
    out = written(place, model, params, name, tmp_path / "adapter")
    path = out / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        read_adapter(out, open_model(place))
    assert where in str(caught.value.where) and caught.value.fix


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x: {k: v for k, v in x.items() if "1.self_attn.q_proj.lora_B" not in k}, "lacks"),
        (lambda x: {k: v for k, v in x.items() if "1.self_attn.q_proj" not in k}, "lacks"),
        (lambda x: {k: v for k, v in x.items() if "lora_B" not in k}, "lacks a tensor"),
        (
            lambda x: {k: v[:, :5].copy() if "lora_A" in k else v for k, v in x.items()},
            "do not fit",
        ),
        (lambda x: {k: v[:2].copy() if "lora_A" in k else v for k, v in x.items()}, "another rank"),
        (lambda x: {f"x.{k}": v for k, v in x.items()}, "not a file of an adapter"),
    ],
)
def test_a_damaged_adapter_is_told(change, error, root, tmp_path):
    place, model, params, name = adapted("llama", "lora", root)
    out = written(place, model, params, name, tmp_path / "adapter")
    path = out / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=error):
        read_adapter(out, open_model(place))


def test_an_adapter_of_another_model_is_refused(root, tmp_path):
    place, model, params, name = adapted("llama", "lora", root)
    out = written(place, model, params, name, tmp_path / "adapter")
    with pytest.raises(UserError, match="no place for"):
        read_adapter(out, open_model(case_of("gpt2", root)[0]))


def test_queries_keys_and_values_that_share_their_first_matrix_stay_one_in_gpt2(root, tmp_path):
    """As PEFT makes them: one A for the fused projection, whose rank is that of each part."""
    place, plain, base, name = case_of("gpt2", root)
    method = Lora(rank=3, targets=("query", "key", "value"))
    model = dataclasses.replace(plain, adapters=(Attached("own", method),))
    drawn = tiny.random_params(model, seed=3)[ADAPTERS]
    attention = drawn["decoder"]["layers"]["attention"]
    for part in ("key", "value"):
        attention[part]["own_a"] = attention["query"]["own_a"]
    out = written(place, model, {**base, ADAPTERS: drawn}, name, tmp_path / "adapter")
    tensors = load_file(out / "adapter_model.safetensors")
    a = tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"]
    b = tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert a.shape == (3, 24) and b.shape == (72, 3)


def test_what_peft_does_not_have_is_refused(root, tmp_path):
    place, plain, base, name = case_of("llama", root)
    model = dataclasses.replace(plain, adapters=(Attached("own", Bottleneck()),))
    params = {**base, ADAPTERS: tiny.random_params(model)[ADAPTERS]}
    with pytest.raises(UserError, match="PEFT cannot read this adapter"):
        written(place, model, params, name, tmp_path / "adapter")
    with pytest.raises(UserError, match="nothing that the model's own parameters could do"):
        merge_adapters(model, jax.tree.map(jax.numpy.asarray, params))
