"""T5, mT5, BART and mBART against `transformers` on torch: their files, read here, give their
numbers, and what is written is read there."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")

import transformers  # noqa: E402
from hf_encoder_decoders import (  # noqa: E402
    BART,
    CASES,
    T5,
    UNTIED,
    differences,
    imported,
    reference,
)

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.checkpoint.hf.safetensors import Reader, open_file  # noqa: E402
from jaxssl.checkpoint.hf.writing import write_directory  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.names import flatten  # noqa: E402
from jaxssl.models.t5 import T5Config  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_logits_loss_and_gradients_are_those_of_transformers(case, root):
    apart, zero = differences(case, root)
    assert apart.pop("gradients") < 1e-4
    assert max(apart.values()) < 1e-5, apart
    assert all("key/bias" in name for name in zero), zero  # it moves no softmax
    assert max(zero.values(), default=0.0) < 1e-5, zero


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_back_has_the_same_bits_and_gives_the_same_numbers(case, root):
    reference, model, params, found = imported(case, root)
    out = root / f"{case} again"
    out.mkdir()
    parameters = {name: [value] for name, value in flatten(params).items()}
    heads = {head: head for head in found.heads}
    name = write_directory(out, model.config, heads, parameters, dtype="float32", more={})
    assert name == type(reference).__name__
    assert open_model(out).config == found.config
    ours, theirs = (open_file(place / "model.safetensors") for place in (out, root / case))
    allowed = found.family.repeated.keys() | {*found.family.zeros}
    assert ours.keys() | allowed >= theirs.keys() >= ours.keys()
    reader = Reader()
    for key, tensor in ours.items():
        assert np.array_equal(reader.view(tensor), reader.view(theirs[key])), key
    again = type(reference).from_pretrained(out, attn_implementation="eager").eval()
    inputs = {"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": torch.arange(3, 7)[None]}
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, reference(**inputs).logits)


def test_a_head_that_is_tied_and_not_scaled_stays_so(root):
    """What `transformers` 5 makes of a fresh T5 1.1."""
    config = transformers.T5Config(**T5, **UNTIED)
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(root / "fresh")
    found = open_model(root / "fresh").config
    assert isinstance(found, T5Config) and found.tied and not found.scaled_head


def test_a_bias_of_the_logits_is_refused(root):
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**BART))
    model.final_logits_bias += 1
    model.save_pretrained(root / "bias")
    with pytest.raises(UserError) as error:
        open_model(root / "bias")
    assert "final_logits_bias" in str(error.value) and "zeros" in str(error.value)


def test_stacks_of_another_depth_than_the_configuration_says_are_told_by_name(root):
    reference("bart").save_pretrained(root / "deep")
    file = root / "deep" / "config.json"
    file.write_text(file.read_text().replace('"decoder_layers": 2', '"decoder_layers": 4'))
    with pytest.raises(UserError) as error:
        open_model(root / "deep")
    assert "of the decoder" in str(error.value) and "2 in the files" in str(error.value)
