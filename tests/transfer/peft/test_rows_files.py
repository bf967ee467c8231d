"""Rows of tokens beside an adapter in PEFT's files: what PEFT makes of them on torch is what they
do here, both ways."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is peft on torch")
peft = pytest.importorskip("peft", reason="the reference is peft on torch")

import safetensors.numpy  # noqa: E402
import tiny  # noqa: E402
import transformers  # noqa: E402
from peft_cases import V, case_of, theirs  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.layer_names import ADAPTERS  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.adapters import Attached  # noqa: E402
from jaxssl.models.layer_context import Memory  # noqa: E402
from jaxssl.transfer.peft.files import write_adapter  # noqa: E402
from jaxssl.transfer.peft.ia3 import Ia3  # noqa: E402
from jaxssl.transfer.peft.lora import Lora  # noqa: E402
from jaxssl.transfer.peft.merge import by_module  # noqa: E402
from jaxssl.transfer.peft.prompt import Prompt  # noqa: E402
from jaxssl.transfer.peft.reading import read_adapter  # noqa: E402
from jaxssl.transfer.peft.rows import OUTPUT, TABLE, Rows  # noqa: E402
from jaxssl.transfer.peft.tokens import Tokens  # noqa: E402

LARGER, INDICES = V + 2, (3, V, V + 1)
IDS = np.array([[5, V, 3, 7, V + 1, 3], [V + 1, 9, 11, 3, 4, V]], np.int32)
SLOW = {"qwen2", "bert", "bart", "mt5"}
CASES = [
    pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case
    for case in ("llama", "gpt2", "t5", *sorted(SLOW))
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


def mine(model, params, ids=IDS):
    """Hidden states of the last stack, and logits where there is a language model's head."""
    model = dataclasses.replace(model, precision=tiny.FLOAT64)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        places = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
        batch = {"tokens": ids, "segment_ids": np.ones_like(ids), "positions": places}
        states = jax.jit(model.encode)(params, batch)
        if model.config.encoder_decoder:
            states = jax.jit(model.write)(params, batch, Memory(states, np.ones_like(ids)))
        heads = [head.name for head in model.heads]
        logits = [np.asarray(model.head(params, name, states)) for name in heads]
    return [np.asarray(states), *logits]


def compare(model, params, wrapped, given=IDS):
    two_sided, ids = model.config.encoder_decoder, torch.tensor(given).long()
    more = {"decoder_input_ids": ids} if two_sided else {}
    with torch.no_grad():
        out = wrapped(input_ids=ids, output_hidden_states=True, **more)
    yours = [theirs(wrapped, ids, two_sided)]
    yours += [out.logits.numpy()] if model.heads else []
    for one, other in zip(mine(model, params, given), yours, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def larger(place, name):
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    reference.resize_token_embeddings(LARGER, mean_resizing=False)
    return reference.eval()


@pytest.mark.parametrize("case", CASES)
def test_peft_reads_rows_that_are_written_and_they_come_back(case, root, tmp_path):
    place, plain, base, name = case_of(case, root)
    rng, flat, rows = np.random.default_rng(2), flatten(base), {}
    for path in sorted({TABLE, OUTPUT} & flat.keys()):
        values = rng.standard_normal((len(INDICES), plain.config.hidden_size)).astype(np.float32)
        rows[path] = Rows(INDICES, values)
        table = np.pad(flat[path].T if path == OUTPUT else flat[path], [(0, 2), (0, 0)])
        table[list(INDICES)] = values
        flat[path] = table.T if path == OUTPUT else table
    config = dataclasses.replace(plain.config, vocab_size=LARGER)
    attached = (Attached("own", Lora(rank=2)),)
    model = dataclasses.replace(plain, config=config, adapters=attached)
    drawn = tiny.random_params(model, seed=3, scale=0.2)[ADAPTERS]
    write_adapter(
        tmp_path,
        attached[0].method,
        by_module(drawn, attached)["own"],
        {},
        shapes={path: x.shape for path, x in flat.items()},
        config=config,
        heads={head.name: head.name for head in model.heads},
        architecture=name,
        base=None,
        rows=rows,
    )
    wrapped = peft.PeftModel.from_pretrained(larger(place, name), tmp_path).eval().double()
    compare(model, {**unflatten(flat), ADAPTERS: drawn}, wrapped)
    read = read_adapter(tmp_path, open_model(place))
    assert read.trained.keys() == rows.keys()
    for path, x in read.trained.items():
        np.testing.assert_array_equal(x, flat[path])


BOTH = {"llama": {"embed_tokens": [*INDICES], "lm_head": [*INDICES]}}
BOTH["qwen2"] = BOTH["llama"]


@pytest.mark.parametrize("kind", ["rows", "whole", "frozen"])
@pytest.mark.parametrize("case", CASES)
def test_rows_that_peft_trained_are_read(case, kind, root, tmp_path):
    """Some of them; the whole table, which is new; and rows that were added and left alone, of
    which PEFT writes the whole table, too."""
    place, plain, base, name = case_of(case, root)
    more = {"rows": {"trainable_token_indices": BOTH.get(case, [*INDICES])}}
    if kind == "whole":
        if case not in BOTH:
            pytest.skip("PEFT unties the output from a table that it keeps whole")
        more["whole"] = {"modules_to_save": ["embed_tokens", "lm_head"]}
    settings = peft.LoraConfig(r=2, **more.get(kind, {}))
    wrapped = peft.get_peft_model(larger(place, name), settings).eval()
    generator = torch.Generator().manual_seed(8)
    for p in wrapped.parameters():
        if p.requires_grad:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
    wrapped.save_pretrained(tmp_path)
    read = read_adapter(tmp_path, open_model(place))
    assert read.trained.keys() == {TABLE, OUTPUT} & flatten(base).keys()
    assert len(read.trained[TABLE]) == LARGER
    flat = {
        f"{ADAPTERS}/{module}/own_{leaf}": x
        for module, arrays in read.modules.items()
        for leaf, x in arrays.items()
    }
    config = dataclasses.replace(plain.config, vocab_size=LARGER)
    adapters = (Attached("own", read.method),)
    model = dataclasses.replace(plain, config=config, adapters=adapters)
    compare(model, unflatten({**flatten(base), **read.trained, **flat}), wrapped.double())


def test_rows_that_a_file_lacks_or_has_no_place_for_are_told(root, tmp_path):
    place, plain, base, name = case_of("llama", root)
    wrapped = peft.get_peft_model(
        larger(place, name), peft.LoraConfig(r=2, trainable_token_indices=[V + 1])
    )
    wrapped.save_pretrained(tmp_path / "one", save_embedding_layers=False)
    with pytest.raises(UserError, match="lacks rows of tokens") as caught:
        read_adapter(tmp_path / "one", open_model(place))
    assert f"{V} to {V + 1}" in str(caught.value.expected)
    wrapped = peft.get_peft_model(
        larger(place, name), peft.LoraConfig(r=2, trainable_token_indices=[V, V + 1])
    )
    wrapped.save_pretrained(tmp_path / "two", save_embedding_layers=False)
    with pytest.raises(UserError, match="lacks rows of tokens") as caught:
        read_adapter(tmp_path / "two", open_model(place))
    assert "lm_head" in str(caught.value.where)
    rows = {TABLE: Rows((1,), np.zeros((1, 24), np.float32))}
    for method in (Ia3(), Lora(targets=("tokens",)), Prompt()):
        model = dataclasses.replace(plain, adapters=(Attached("own", method),))
        drawn = tiny.random_params(model)[ADAPTERS]
        with pytest.raises(UserError, match="no rows of tokens beside this adapter"):
            write_adapter(
                tmp_path,
                method,
                by_module(drawn, model.adapters)["own"],
                {},
                shapes={path: x.shape for path, x in flatten(base).items()},
                config=plain.config,
                heads={"causal_lm": "causal_lm"},
                architecture=name,
                base=None,
                rows=rows,
            )


# --- Rows alone -----------------------------------------------------------------------------------

ALONE = (3, 30, 11)
KNOWN = np.where(IDS < V, IDS, 30)


@pytest.mark.parametrize("case", CASES)
def test_rows_alone_do_the_same_in_peft_and_come_back(case, root, tmp_path):
    place, plain, base, name = case_of(case, root)
    method = Tokens(ids=ALONE)
    model = dataclasses.replace(plain, adapters=(Attached("own", method),))
    drawn = jax.tree.map(np.asarray, tiny.random_params(model, seed=3, scale=0.5)[ADAPTERS])
    modules, flat = by_module(drawn, model.adapters)["own"], flatten(base)
    assert {f"{x}/embedding" for x in modules} | {f"{x}/kernel" for x in modules} >= {
        *({TABLE, OUTPUT} & flat.keys())
    }
    write_adapter(
        tmp_path,
        method,
        modules,
        {},
        shapes={path: x.shape for path, x in flat.items()},
        config=plain.config,
        heads={head.name: head.name for head in model.heads},
        architecture=name,
        base=None,
        rows=method.in_whole(flat, modules),
    )
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    wrapped = peft.PeftModel.from_pretrained(reference.eval(), tmp_path).eval().double()
    compare(model, {**base, ADAPTERS: drawn}, wrapped, KNOWN)
    read = read_adapter(tmp_path, open_model(place))
    assert read.method == method and not read.trained
    for module, arrays in modules.items():
        np.testing.assert_allclose(read.modules[module]["rows"], arrays["rows"], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_rows_alone_that_peft_trained_are_read(case, root, tmp_path):
    """Of an output with a table of its own, too, or not."""
    place, plain, base, name = case_of(case, root)
    for number, targets in enumerate(
        [None, *([["embed_tokens", "lm_head"]] if case in BOTH else [])]
    ):
        reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
        settings = peft.TrainableTokensConfig(token_indices=[*ALONE], target_modules=targets)
        wrapped = peft.get_peft_model(reference.eval(), settings).eval()
        generator = torch.Generator().manual_seed(8)
        for p in wrapped.parameters():
            if p.requires_grad:
                p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
        wrapped.save_pretrained(tmp_path / str(number))
        read = read_adapter(tmp_path / str(number), open_model(place))
        assert read.method == Tokens(ids=ALONE)
        model = dataclasses.replace(plain, adapters=(Attached("own", read.method),))
        flat = {
            f"{ADAPTERS}/{module}/own_{leaf}": x
            for module, arrays in read.modules.items()
            for leaf, x in arrays.items()
        }
        compare(model, unflatten({**flatten(base), **flat}), wrapped.double(), KNOWN)


def test_rows_alone_of_tokens_that_the_model_has_not_are_refused(root, tmp_path):
    place, _, _, name = case_of("llama", root)
    settings = peft.TrainableTokensConfig(token_indices=[2, V + 1], target_modules=["embed_tokens"])
    peft.get_peft_model(larger(place, name), settings).save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    with pytest.raises(UserError, match="rows of tokens that the model has not"):
        read_adapter(tmp_path, open_model(place))


@pytest.mark.parametrize("case", ["llama", "gpt2", "t5"])
def test_rows_alone_of_added_tokens_are_read_with_the_table_that_peft_writes_beside(
    case, root, tmp_path
):
    """As `save_pretrained` does where the model has other tokens than its configuration on disk."""
    place, _, _, name = case_of(case, root)
    grown = larger(place, name)
    shutil.copytree(place, tmp_path / "grown")
    grown.save_pretrained(tmp_path / "grown")
    settings = peft.TrainableTokensConfig(token_indices=[*INDICES])
    wrapped = peft.get_peft_model(grown, settings).eval()
    generator = torch.Generator().manual_seed(8)
    for p in wrapped.parameters():
        if p.requires_grad:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    written = safetensors.numpy.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("base_layer.weight") for name in written)
    read = read_adapter(tmp_path / "adapter", open_model(tmp_path / "grown"))
    assert read.method == Tokens(ids=INDICES) and not read.trained
    with pytest.raises(UserError, match="lie over another table than the model's"):
        read_adapter(tmp_path / "adapter", open_model(place))


def test_rows_are_not_written_where_peft_would_leave_out_the_outputs_bias(tmp_path):
    with pytest.raises(UserError, match="leaves out the bias of an output"):
        write_adapter(
            tmp_path,
            Tokens(ids=(1,)),
            {},
            {},
            shapes={TABLE: (V, 16), "masked_lm/bias": (V,)},
            config=tiny.bert(),
            heads={"masked_lm": "masked_lm"},
            architecture="BertForMaskedLM",
            base=None,
        )
