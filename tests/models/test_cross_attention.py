"""A block that attends to another stack, and a bias of self-attention, against torch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")
transformers = pytest.importorskip("transformers", reason="the reference models")

from transformers.models.bart.modeling_bart import BartDecoderLayer  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.core.precision import Precision  # noqa: E402
from jaxssl.models.attention import SelfAttention  # noqa: E402
from jaxssl.models.config import (  # noqa: E402
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    LayerType,
    NormConfig,
    Stack,
)
from jaxssl.models.layer_context import Context, LayerNumbers, Memory  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.models.stack import LayerStack  # noqa: E402
from jaxssl.ops.attention.pattern import Pattern  # noqa: E402

B, T, S, H, N, SIZE = 2, 6, 9, 24, 3, 40
ATTENTION = AttentionConfig(num_heads=N, num_kv_heads=N, head_dim=H // N, kernel="xla", dropout=0.0)
CAUSAL = dataclasses.replace(ATTENTION, layers=(LayerType(Pattern(causal=True)),))
BLOCK = BlockConfig(
    hidden_size=H,
    attention=CAUSAL,
    cross_attention=ATTENTION,
    feed_forward=FeedForwardConfig(size=SIZE, activation="gelu"),
    norm=NormConfig(epsilon=1e-5, place="post"),
    dropout=0.0,
    initializer=jax.nn.initializers.normal(0.3),
    output_initializer=jax.nn.initializers.normal(0.3),
    precision=Precision(),
)
R = np.random.default_rng(0)
HIDDEN = R.normal(size=(B, T, H)).astype(np.float32)
MEMORY = R.normal(size=(B, S, H)).astype(np.float32)
POSITIONS = np.broadcast_to(np.arange(T), (B, T))


def torch_weights(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return {name: x.detach().numpy() for name, x in module.named_parameters()}


def attention_tree(weights, names):
    """Ours of {torch name of a projection: ours}."""
    tree = {}
    for theirs, ours in names.items():
        inputs, outputs = ((N, H // N), (H,)) if ours == "output" else ((H,), (N, H // N))
        tree[f"{ours}/kernel"] = weights[f"{theirs}.weight"].T.reshape(*inputs, *outputs)
        if f"{theirs}.bias" in weights:
            tree[f"{ours}/bias"] = weights[f"{theirs}.bias"].reshape(outputs)
    return tree


def layer_of_bart():
    config = transformers.BartConfig(
        d_model=H, decoder_attention_heads=N, decoder_ffn_dim=SIZE, activation_function="gelu"
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    layer = BartDecoderLayer(config, layer_idx=0).eval()
    weights, flat = torch_weights(layer), {}
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    for theirs, ours in (("self_attn", "attention"), ("encoder_attn", "cross_attention")):
        tree = attention_tree(weights, {f"{theirs}.{name}": x for name, x in names.items()})
        flat |= {f"{ours}/{name}": x for name, x in tree.items()}
        flat[f"{ours}_norm/scale"] = weights[f"{theirs}_layer_norm.weight"]
        flat[f"{ours}_norm/bias"] = weights[f"{theirs}_layer_norm.bias"]
    for theirs, ours in (("fc1", "feed_forward/up"), ("fc2", "feed_forward/down")):
        flat[f"{ours}/kernel"] = weights[f"{theirs}.weight"].T
        flat[f"{ours}/bias"] = weights[f"{theirs}.bias"]
    flat["feed_forward_norm/scale"] = weights["final_layer_norm.weight"]
    flat["feed_forward_norm/bias"] = weights["final_layer_norm.bias"]
    return layer, unflatten({f"layers/{name}": x[None] for name, x in flat.items()})


def stack_of(block, **changes):
    return LayerStack(Stack("decoder", 1), dataclasses.replace(block, **changes))


def run(params, hidden, context):
    return stack_of(BLOCK).apply({"params": params}, hidden, context, [Pattern(causal=True)])


def test_a_block_with_cross_attention_is_barts():
    layer, params = layer_of_bart()
    lengths = np.array([S, 5])
    memory_segments = (np.arange(S) < lengths[:, None]).astype(np.int32)
    context = Context(
        jnp.ones((B, T), jnp.int32), POSITIONS, memory=Memory(MEMORY, memory_segments)
    )
    lowest = torch.finfo(torch.float32).min
    future = torch.triu(torch.full((T, T), lowest), diagonal=1)[None, None]
    padding = torch.tensor(np.where(memory_segments > 0, 0, lowest), dtype=torch.float32)
    with torch.no_grad():
        want = layer(
            torch.tensor(HIDDEN),
            attention_mask=future,
            encoder_hidden_states=torch.tensor(MEMORY),
            encoder_attention_mask=padding[:, None, None],
        )
    want = want[0] if isinstance(want, tuple) else want
    got = jax.jit(run)(params, HIDDEN, context)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@functools.cache
def packed():
    """Which places of the memory reach which tokens, of documents packed in a row: segment 2 and
    padding have nothing there."""
    params = unbox(
        stack_of(BLOCK).init(
            jax.random.key(0),
            HIDDEN[:1],
            Context(POSITIONS[:1], POSITIONS[:1], memory=Memory(MEMORY[:1], np.zeros((1, S)))),
            [Pattern(causal=True)],
        )
    )["params"]
    ours, theirs = np.array([[1, 1, 2, 3, 3, 0]]), np.array([[1, 1, 1, 3, 3, 3, 3, 4, 4]])
    place = np.array([[0, 1, 0, 0, 1, 0]])
    once = jax.jit(lambda memory: run(params, HIDDEN[:1], Context(ours, place, memory=memory)))
    before = once(Memory(MEMORY[:1], theirs))
    moved = [MEMORY[:1] + np.eye(S)[s][None, :, None] for s in range(S)]
    after = [once(Memory(x.astype(np.float32), theirs)) for x in moved]
    return np.stack([np.any(before[0] != x[0], axis=-1) for x in after], axis=1), ours, theirs


def test_a_token_sees_its_own_segment_of_the_memory():
    got, ours, theirs = packed()
    np.testing.assert_array_equal(got, ours[0][:, None] == theirs[0][None])


def test_a_bias_of_attention_is_t5s():
    config = transformers.T5Config(d_model=H, d_kv=H // N, num_heads=N, dropout_rate=0.0)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    tree = attention_tree(
        torch_weights(theirs), {"q": "query", "k": "key", "v": "value", "o": "output"}
    )
    tree["query/kernel"] = tree["query/kernel"] * np.sqrt(H // N)  # T5 does not scale its scores
    with torch.no_grad():
        want = theirs(torch.tensor(HIDDEN))[0]
        bias = jnp.asarray(theirs.compute_bias(T, T).numpy())
    both = dataclasses.replace(
        ATTENTION, layers=(LayerType(Pattern()),), qkv_bias=False, output_bias=False
    )
    module = SelfAttention(dataclasses.replace(BLOCK, attention=both))

    def attend(bias):
        context = Context(jnp.ones((B, T), jnp.int32), POSITIONS, bias=bias, patterns=(Pattern(),))
        return module.apply({"params": unflatten(tree)}, HIDDEN, context, LayerNumbers())

    np.testing.assert_allclose(jax.jit(attend)(bias), want, rtol=0, atol=2e-6)
    assert np.abs(np.asarray(attend(0 * bias)) - np.asarray(want)).max() > 1e-2


def test_a_memory_that_nothing_gives_is_told():
    with pytest.raises(UserError, match="nothing gives them one"):
        context = Context(POSITIONS, POSITIONS)
        stack_of(BLOCK).init(jax.random.key(0), HIDDEN, context, [Pattern(causal=True)])


def test_a_stack_without_cross_attention_has_no_parameters_of_it():
    context = Context(POSITIONS, POSITIONS)
    init = functools.partial(stack_of(BLOCK, cross_attention=None).init, jax.random.key(0))
    shapes = jax.eval_shape(lambda: init(HIDDEN, context, [Pattern(causal=True)]))
    assert not [name for name in flatten(unbox(shapes)) if "cross" in name]
