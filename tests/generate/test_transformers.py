"""Greedy decoding and beam search against `transformers.generate` on torch, token for token, in
float64: decoders and encoder-decoders, with penalties, and prompts of unequal lengths."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")

import transformers  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.core.precision import Precision  # noqa: E402
from jaxssl.generate.decode import beam_search, generate  # noqa: E402
from jaxssl.generate.settings import Beams, Sampling  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402

V, NEW, END = 53, 12, 2
COMMON = dict(bos_token_id=1, eos_token_id=END, pad_token_id=0)
LLAMA = dict(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    max_position_embeddings=64,
    **COMMON,
)
SIZES = dict(d_model=24, vocab_size=V)
CASES = {
    "gpt2": (
        "GPT2",
        "LMHeadModel",
        dict(vocab_size=V, n_embd=24, n_layer=2, n_head=3, n_inner=40, n_positions=64, **COMMON),
    ),
    "llama": ("Llama", "ForCausalLM", LLAMA),
    "qwen3": ("Qwen3", "ForCausalLM", {**LLAMA, "head_dim": 8}),
    "t5": (
        "T5",
        "ForConditionalGeneration",
        dict(
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=3,
            decoder_start_token_id=0,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
            **SIZES,
            **COMMON,
        ),
    ),
    "bart": (
        "Bart",
        "ForConditionalGeneration",
        dict(
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=3,
            decoder_attention_heads=3,
            encoder_ffn_dim=40,
            decoder_ffn_dim=40,
            max_position_embeddings=64,
            decoder_start_token_id=3,
            forced_eos_token_id=None,
            **SIZES,
            **COMMON,
        ),
    ),
}
WIDE = Precision(parameters="float64", compute="float64", reduce="float64")  # pyright: ignore[reportArgumentType]
PROMPTS = [np.array(ids, np.int32) for ids in ([7, 9, 11], [20, 6, 6, 31, 8, 20, 6], [40])]


@functools.cache
def both(case, root):
    """(torch model in float64, our model and parameters)."""
    family, ending, shape = CASES[case]
    config = getattr(transformers, f"{family}Config")(**shape)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    reference = getattr(transformers, f"{family}{ending}")(config).eval()
    generator = torch.Generator().manual_seed(6)
    for name, p in reference.named_parameters():
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.data = 0.5 * torch.randn(p.shape, generator=generator) + float(is_norm)
    reference.save_pretrained(root / case)
    found = open_model(root / case)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = flatten(unbox(found.model.abstract()))
    wanted = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    params = {name: np.asarray(found.read(name, wanted(x))) for name, x in shapes.items()}
    return reference.double(), found.model, unflatten(params)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


def theirs(reference, prompt, **options):
    """The new tokens of one prompt, and the smallest difference of the best two logits."""
    options = dict(max_new_tokens=NEW, do_sample=False, **options)
    out = reference.generate(
        torch.tensor(prompt).long()[None],
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    best = torch.stack(out.logits).topk(2, dim=-1).values
    skip = 1 if reference.config.is_encoder_decoder else len(prompt)
    tokens = out.sequences[0, skip:].tolist()
    ended = tokens.index(END) if END in tokens else len(tokens)
    return tokens[:ended], float((best[..., 0] - best[..., 1]).min())


SETTINGS = {
    "plain": ({}, {}),
    "penalties": (
        dict(repetition_penalty=1.4, no_repeat_ngram=2, min_new_tokens=5),
        dict(repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=5),
    ),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("case", CASES)
def test_greedy_texts_are_theirs(case, settings, root):
    reference, model, params = both(case, root)
    mine, yours = SETTINGS[settings]
    sampling = Sampling(max_new_tokens=NEW, temperature=0, **mine)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        exact = dataclasses.replace(model, precision=WIDE)
        made = generate(exact, wide, PROMPTS, sampling, [END])
    for prompt, each in zip(PROMPTS, made):
        tokens, apart = theirs(reference, prompt, **yours)
        assert apart > 1e-3, "the reference must be clear about what comes next"
        assert each.tokens.tolist() == tokens
    different = {token for each in made for token in each.tokens.tolist()}
    assert len(different) >= (2 if settings == "plain" else 8)


BEAMS = {
    "plain": (Beams(), {}, {}),
    "penalties": (Beams(length_penalty="power", alpha=0.6), *SETTINGS["penalties"]),
    "first": (Beams(length_penalty="power", alpha=2.0, early_stopping="first"), {}, {}),
    "never": (Beams(length_penalty="none", early_stopping="never"), {}, {}),
}
EARLY = {"first": True, "likely": False, "never": "never"}


@pytest.mark.parametrize("settings", BEAMS)
@pytest.mark.parametrize("case", CASES)
def test_the_texts_of_four_beams_are_theirs(case, settings, root):
    reference, model, params = both(case, root)
    beams, mine, yours = BEAMS[settings]
    power = {"mean": 1.0, "none": 0.0}.get(beams.length_penalty, beams.alpha)
    options = dict(num_beams=4, length_penalty=power, early_stopping=EARLY[beams.early_stopping])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        exact = dataclasses.replace(model, precision=WIDE)
        sampling = Sampling(max_new_tokens=NEW, **mine)
        made = beam_search(exact, wide, PROMPTS, sampling, beams, [END])
    for prompt, each in zip(PROMPTS, made):
        assert each.tokens.tolist() == theirs(reference, prompt, **options, **yours)[0]
