"""T5s and BARTs of `transformers` with random parameters, and the same read here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.checkpoint.hf.mapping import depth_of, layers_of
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.layer_context import Memory
from jaxssl.models.layers import unbox

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


def rows(seed, lengths, width):
    rng = np.random.default_rng(seed)
    real = np.arange(width)[None] < np.array(lengths)[:, None]
    tokens = np.where(real, rng.integers(5, VOCAB, real.shape), 0)
    positions = np.arange(width) * real
    made = {"tokens": tokens, "segment_ids": real, "positions": positions}
    return {name: x.astype(np.int32) for name, x in made.items()}


def relative(ours, theirs, real):
    """The relative difference of what is no padding."""
    return far(np.asarray(ours)[real], np.asarray(theirs)[real])


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


def differences(case, root):
    """{what: relative difference}, in the L2 norm, of both stacks' hidden states, logits, loss and
    gradients, of these the largest of a parameter; and those that are zero, {parameter: our norm}.
    """
    reference, model, params, found = imported(case, root)
    source, target = rows(0, [S, 11, 5], S), rows(1, [U, 4, 7], U)
    read, written = source["segment_ids"] > 0, target["segment_ids"] > 0
    labels = np.where(written, target["tokens"], -100)
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
    theirs, gradients = their_gradients(reference, found, params), flatten(gradients)
    zero = {name for name in gradients if np.linalg.norm(theirs[name]) <= 1e-6}
    memory = relative(encoded, out.encoder_last_hidden_state.detach(), read)
    apart = {
        "hidden states": max(
            memory, relative(hidden, out.decoder_hidden_states[-1].detach(), written)
        ),
        "logits": relative(logits, out.logits.detach(), written),
        "loss": abs(float(loss) - out.loss.item()) / out.loss.item(),
        "gradients": max(far(gradients[n], theirs[n]) for n in gradients.keys() - zero),
    }
    return apart, {name: float(np.linalg.norm(gradients[name])) for name in zero}


def far(ours, theirs):
    """The relative difference of two arrays."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
