"""Hugging Face directories: kinds of files, shardings, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

torch = pytest.importorskip("torch", reason="the directories are written by transformers on torch")

import hf_models  # noqa: E402
import tiny  # noqa: E402
import transformers  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.checkpoint.init_config import InitConfig  # noqa: E402
from jaxssl.checkpoint.parameter_index import index_hf  # noqa: E402
from jaxssl.core.errors import UserError, UserErrors  # noqa: E402
from jaxssl.core.names import flatten  # noqa: E402
from jaxssl.models.heads import CAUSAL_LM  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.models.model import Model  # noqa: E402
from jaxssl.program.state import everything, laid_out  # noqa: E402
from jaxssl.transfer.start import first_params, plan_start  # noqa: E402

CASE = "llama, grouped"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return hf_models.save(hf_models.reference(CASE), tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def on_one_device(leaf, dtype=None):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=here)


def read_all(path, dtype=None):
    found = open_model(path)
    shapes = flatten(unbox(found.model.abstract()))
    return {name: found.read(name, on_one_device(leaf, dtype)) for name, leaf in shapes.items()}


def change(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_files_in_shards_are_read_as_one(saved, tmp_path):
    hf_models.save(hf_models.reference(CASE), tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    whole, shards = read_all(saved), read_all(tmp_path / "shards")
    for name, value in whole.items():
        assert np.array_equal(value, shards[name]), name


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_is_kept_or_widened_as_told(name, tmp_path):
    model = hf_models.reference(CASE, head="ForCausalLM", rms_norm_eps=1e-5)
    hf_models.save(model.to(getattr(torch, name)), tmp_path / name)
    found = open_model(tmp_path / name)
    assert {leaf.dtype for leaf in found.leaves().values()} == {name}
    kept, wide = read_all(tmp_path / name, np.dtype(name)), read_all(tmp_path / name)
    there = dict(model.named_parameters())["model.embed_tokens.weight"]
    assert np.array_equal(wide["embeddings/tokens/embedding"], there.detach().float().numpy())
    for key, value in kept.items():
        assert value.dtype == np.dtype(name)
        assert np.array_equal(np.asarray(value).astype(np.float32), wide[key]), key


def test_each_device_gets_its_part(saved):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"))
    found, whole = open_model(saved), read_all(saved)
    specs = {
        "decoder/layers/attention/query/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "decoder/layers/feed_forward/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "embeddings/tokens/embedding": PartitionSpec(None, "fsdp"),
        "norm/scale": PartitionSpec(),
    }
    for name, spec in specs.items():
        value = whole[name]
        wanted = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=NamedSharding(mesh, spec))
        parts = found.read(name, wanted)
        assert np.array_equal(parts, value), name
        assert parts.sharding == wanted.sharding


def test_a_vocabulary_grows_and_what_was_there_is_kept(saved):
    resized = {"embeddings/tokens/embedding": 0, "causal_lm/output/kernel": 1}
    init = InitConfig(from_=str(saved), resize=tuple(resized))
    config = dataclasses.replace(open_model(saved).config, vocab_size=hf_models.VOCAB + 3)
    model, mesh = Model(config, (CAUSAL_LM,)), tiny.mesh()
    start = plan_start(init, model, index_hf(saved), ())
    with jax.set_mesh(mesh):
        wanted = laid_out(model.abstract(), mesh)
        params = flatten(first_params(start, model, 0, wanted, everything))
    for name, value in read_all(saved).items():
        if name not in resized:
            assert np.array_equal(params[name], value), name
            continue
        old, new = np.split(params[name], [hf_models.VOCAB], axis=resized[name])
        assert np.array_equal(old, value), name
        assert new.shape[resized[name]] == 3 and np.std(new) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox"}, "llama, mistral"),
        ({"architectures": ["LlamaForMultipleChoice"]}, "LlamaForCausalLM"),
        ({"intermediate_size": 48}, r"expected: \(48, 24\)"),
        ({"num_hidden_layers": 4}, r"(?s)expected: 4, .*got:      3 in the files"),
        ({"num_hidden_layers": 2}, r"(?s)expected: 2, .*got:      3 in the files"),
        ({"hidden_act": "xielu"}, r"^this model has something that is not built here"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"tie_word_embeddings": True}, "lm_head"),
        ({"is_causal": False}, "is_causal"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "24"}, "damaged"),
        ({"rope_parameters": {"rope_type": "linear"}}, "a factor, for linear"),
    ],
)
def test_what_is_not_built_or_does_not_fit_is_refused(changes, message, copy):
    change(copy, **changes)
    with pytest.raises(UserError, match=message):
        open_model(copy).leaves()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, r"(?s)hidden_act.*expected: gelu or gelu_python"),
        ({"embedding_size": 12}, r"expected: \(61, 12\)"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_an_electra_of_another_kind_is_refused(changes, message, tmp_path):
    """The activation of its generator's head is the exact GELU, whatever its layers have."""
    path = hf_models.save(hf_models.reference("electra"), tmp_path / "model")
    change(path, **changes)
    with pytest.raises((UserError, UserErrors), match=message):
        open_model(path).leaves()


YARN = hf_models.YARN
TWICE = [
    (CASE, {"rope_parameters": YARN, "rope_scaling": {**YARN, "factor": 4.0}}, "rope_scaling="),
    (CASE, {"rope_parameters": YARN, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    (CASE, {"rope_theta": 5e5}, r"rope_parameters.rope_theta=10000.0, rope_theta=500000.0"),
    (CASE, {"rope_parameters": {**YARN, "type": "linear"}}, "rope_parameters.type=linear"),
    (
        CASE,
        {"rope_parameters": YARN, "original_max_position_embeddings": 8},
        "original_max_position_embeddings=8",
    ),
    ("qwen2, window above", {"max_window_layers": 2}, "max_window_layers=2"),
    ("qwen2, window above", {"use_sliding_window": False}, "layer_types"),
    ("gpt2", {"num_attention_heads": 2}, "n_head=3, num_attention_heads=2"),
    ("gpt2", {"n_ctx": 16}, "n_positions=32, n_ctx=16"),
    ("distilbert", {"num_attention_heads": 2}, "n_heads=3, num_attention_heads=2"),
    ("modernbert", {"global_rope_theta": 5.0}, "global_rope_theta=5.0"),
    ("modernbert", {"global_attn_every_n_layers": 2}, "global_attn_every_n_layers=2"),
    ("modernbert", {"sliding_window": 5}, "twice sliding_window=10"),
]


@pytest.mark.parametrize(("case", "changes", "message"), TWICE)
def test_what_is_said_twice_must_be_the_same(case, changes, message, tmp_path):
    path = hf_models.save(hf_models.reference(case), tmp_path / "model")
    change(path, **changes)
    with pytest.raises(UserError, match=message):
        open_model(path)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (CASE, {"rope_theta": 10_000, "rope_scaling": None}),
        (CASE, {"rope_parameters": YARN, "rope_scaling": {**YARN, "type": "yarn"}}),
        ("qwen2, window above", {"max_window_layers": 1}),
        ("gpt2", {"num_attention_heads": 3, "n_ctx": 32}),
        ("modernbert", {"global_rope_theta": 160_000, "sliding_window": 2}),
        ("modernbert", {"global_attn_every_n_layers": 3}),
    ],
)
def test_what_is_said_twice_and_is_the_same_is_read(case, changes, tmp_path):
    path = hf_models.save(hf_models.reference(case), tmp_path / "model")
    before = open_model(path).config
    if "rope_parameters" in changes:
        change(path, rope_parameters=changes["rope_parameters"], rope_scaling=None)
        before = open_model(path).config
    change(path, **changes)
    assert open_model(path).config == before


def test_another_name_of_a_field_stands_for_it(tmp_path):
    """As in `transformers`; the default number of heads would fit no less."""
    path = hf_models.save(hf_models.reference("gpt2"), tmp_path / "model")
    wanted, file = open_model(path).config, path / "config.json"
    given = json.loads(file.read_text())
    given["num_attention_heads"] = given.pop("n_head")
    file.write_text(json.dumps(given))
    assert open_model(path).config == wanted
    assert transformers.AutoConfig.from_pretrained(path).n_head == wanted.num_heads


def test_fields_that_count_for_nothing_are_told(copy, tmp_path):
    assert open_model(copy).notes() == []
    change(copy, auto_map={"AutoModel": "modeling_own.Own"})
    assert ["auto_map" in line for line in open_model(copy).notes()] == [True]
    change(copy, auto_map=None, dtype="float32", torch_dtype="bfloat16")
    assert ["bfloat16, float32" in line for line in open_model(copy).notes()] == [True]
    gpt2 = hf_models.save(hf_models.reference("gpt2", embd_pdrop=0.3), tmp_path / "gpt2")
    assert (
        "embd_pdrop=0.3 is not used, resid_pdrop=0.0 stands for both" in open_model(gpt2).notes()[0]
    )
    assert index_hf(gpt2).notes == tuple(open_model(gpt2).notes())


@pytest.mark.parametrize(
    ("case", "kept", "lost"),
    [
        ("gpt2", "lm_head.weight", "transformer.wte.weight"),
        ("llama, tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("bert", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
)
def test_a_tied_tensor_is_found_under_the_heads_name_alone(case, kept, lost, tmp_path):
    path = hf_models.save(hf_models.reference(case), tmp_path / "model")
    wanted = read_all(path)
    tensors = load_file(path / "model.safetensors")
    tensors[kept] = tensors.pop(lost)
    save_file(tensors, path / "model.safetensors")
    found = read_all(path)
    assert found.keys() == wanted.keys() and open_model(path).leftovers == ()
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())


def test_an_untied_head_does_not_stand_for_the_embedding(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"expected: embed_tokens\.weight\n") as raised:
        open_model(copy)
    assert "did you mean" not in str(raised.value)  # every tensor stands for something else


def test_a_tensor_that_nothing_stands_for_is_named(copy):
    model = hf_models.reference(CASE)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    state["model.layers.0.self_attn.sinks"] = torch.zeros(6)
    import safetensors.torch

    safetensors.torch.save_file(state, copy / "model.safetensors")
    assert open_model(copy).leftovers == ("layers.0.self_attn.sinks",)


def test_damaged_and_missing_files_are_named(copy, tmp_path):
    file = copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(UserError, match="truncated"):
        open_model(copy)
    file.write_bytes(b"\xff" * 64)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        open_model(copy)
    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="tensor x: bytes -8 to 0"):
        open_model(copy)
    file.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="save_pretrained"):
        open_model(copy)
    hf_models.save(hf_models.reference(CASE), tmp_path / "shards", max_shard_size="20KB")
    next((tmp_path / "shards").glob("model-00002-*")).unlink()
    with pytest.raises(UserError, match="model-00002"):
        open_model(tmp_path / "shards")
    with pytest.raises(UserError, match="no such directory"):
        open_model(tmp_path / "nothing")
    with pytest.raises(UserError, match="a file"):
        open_model(copy / "config.json")


def test_every_wrong_shape_is_told(copy):
    change(copy, vocab_size=77, intermediate_size=48)
    with pytest.raises(UserErrors) as raised:
        open_model(copy).leaves()
    assert len(raised.value.errors) == 2 + 3 * 3
