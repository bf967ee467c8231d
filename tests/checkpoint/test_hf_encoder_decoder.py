"""T5, mT5, BART and mBART against `transformers` on torch: their files, read here, give their
numbers, and what is written is read there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")

import transformers  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.checkpoint.hf.mapping import depth_of, layers_of  # noqa: E402
from jaxssl.checkpoint.hf.safetensors import Reader, open_file  # noqa: E402
from jaxssl.checkpoint.hf.writing import write_directory  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.layer_names import is_stacked  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.layer_context import Memory  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.models.t5 import T5Config  # noqa: E402

VOCAB, S, U = 61, 14, 9
T5 = dict(
    vocab_size=VOCAB,
    d_model=24,
    d_kv=10,  # another width than the model's over its heads
    d_ff=40,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=10,  # closer than the rows are long
    dropout_rate=0.0,
    decoder_start_token_id=0,
)
BART = dict(
    vocab_size=VOCAB,
    d_model=24,
    encoder_layers=3,
    decoder_layers=2,
    encoder_attention_heads=3,
    decoder_attention_heads=3,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    max_position_embeddings=32,
    dropout=0.0,
)
UNTIED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
CASES = {
    "t5": ("T5", T5),
    "t5, 1.1": ("T5", {**T5, **UNTIED}),
    "t5, silu": ("T5", {**T5, **UNTIED, "feed_forward_proj": "gated-silu"}),
    "mt5": ("MT5", {**T5, **UNTIED}),
    "bart": ("Bart", BART),
    "bart, scaled": ("Bart", {**BART, "scale_embedding": True}),
    "mbart": ("MBart", {**BART, "scale_embedding": True, "decoder_start_token_id": 2}),
}
TIED_HERE = ("t5", "bart", "bart, scaled", "mbart")


@functools.cache
def reference(case):
    family, shape = CASES[case]
    config = getattr(transformers, f"{family}Config")(**shape)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    if case not in TIED_HERE:  # `transformers` ties what its file does not keep apart
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.data = 0.15 * torch.randn(p.shape, generator=generator) + float(is_norm)
    return model.eval()


@functools.cache
def imported(case, root):
    model = reference(case)
    model.save_pretrained(root / case)
    found = open_model(root / case)
    shapes = flatten(unbox(found.model.abstract()))
    assert found.leaves().keys() == shapes.keys()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    params = {name: found.read(name, wanted(leaf)) for name, leaf in shapes.items()}
    return model, found.model, unflatten(params), found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


def rows(seed, lengths, width):
    rng = np.random.default_rng(seed)
    real = np.arange(width)[None] < np.array(lengths)[:, None]
    tokens = np.where(real, rng.integers(5, VOCAB, real.shape), 0)
    positions = np.arange(width) * real
    made = {"tokens": tokens, "segment_ids": real, "positions": positions}
    return {name: x.astype(np.int32) for name, x in made.items()}


@functools.cache
def our_step(model):
    def forward(params, source, target, labels):
        encoded = model.encode(params, source)
        hidden = model.write(params, target, Memory(encoded, source["segment_ids"]))
        logits = model.head(params, "causal_lm", hidden)
        kept = labels >= 0
        chosen = jnp.where(kept, labels, 0)[..., None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]
        return jnp.sum(losses * kept) / kept.sum(), (encoded, hidden, logits)

    return jax.jit(jax.value_and_grad(forward, has_aux=True))


def relative(ours, theirs, real):
    ours, theirs = np.asarray(ours)[real], np.asarray(theirs)[real]
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def their_gradients(model, found, params):
    prefix, result = found.family.prefix, {}
    by_name = {name.removeprefix(prefix): p.grad for name, p in model.named_parameters()}
    shapes = {name: x.shape for name, x in flatten(params).items()}
    for name, pair in found.pairs.items():
        inner = shapes[name][1:] if is_stacked(name) else shapes[name]
        parts = {
            layer: pair.take(by_name[there].numpy(), inner)
            for layer, there in layers_of(pair, found.config)
        }
        stacked = None not in parts
        result[name] = (
            np.stack([parts[i] for i in range(depth_of(pair, found.config))])
            if stacked
            else parts[None]
        )
    return result


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_logits_loss_and_gradients_are_those_of_transformers(case, root):
    reference, model, params, found = imported(case, root)
    source, target = rows(0, [S, 11, 5], S), rows(1, [U, 4, 7], U)
    real = target["segment_ids"] > 0
    labels = np.where(real, target["tokens"], -100)
    start = reference.config.decoder_start_token_id
    shifted = np.pad(target["tokens"], ((0, 0), (1, 0)), constant_values=start)[:, :-1]
    reference.zero_grad()
    out = reference(
        input_ids=torch.tensor(source["tokens"]).long(),
        attention_mask=torch.tensor(source["segment_ids"]).long(),
        decoder_input_ids=torch.tensor(shifted).long(),
        labels=torch.tensor(labels).long(),
        output_hidden_states=True,
    )
    out.loss.backward()
    ours = {**target, "tokens": shifted.astype(np.int32)}
    (loss, (encoded, hidden, logits)), gradients = our_step(model)(params, source, ours, labels)
    first = source["segment_ids"] > 0
    assert relative(encoded, out.encoder_last_hidden_state.detach(), first) < 1e-5
    assert relative(hidden, out.decoder_hidden_states[-1].detach(), real) < 1e-5
    assert relative(logits, out.logits.detach(), real) < 1e-5
    assert abs(float(loss) - out.loss.item()) < 1e-5 * out.loss.item()
    theirs = their_gradients(reference, found, params)
    for name, gradient in flatten(gradients).items():
        size = np.linalg.norm(theirs[name])
        if size <= 1e-6:
            assert "key/bias" in name  # it moves no softmax
            assert np.linalg.norm(gradient) < 1e-5
        else:
            assert np.linalg.norm(gradient - theirs[name]) < 1e-4 * size, name


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
