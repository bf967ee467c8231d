"""cuDNN's attention, without a GPU: the same call of JAX by its "xla" implementation against our
kernel that makes a mask, and the program that a GPU would get."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax._src.cudnn import fused_attention_stablehlo

from jaxssl.core.errors import UserError
from jaxssl.core.platform import gpu_generation
from jaxssl.core.precision import Precision
from jaxssl.ops.attention import cudnn, xla
from jaxssl.ops.attention.kernels import Call, call_of, choose
from jaxssl.ops.attention.operands import NO_DROPOUT, Operands
from jaxssl.ops.attention.pattern import Pattern, Tokens

B, T, N, K, D = 2, 48, 4, 2, 16
BFLOAT16 = Precision(compute="bfloat16")
as_xla = functools.partial(cudnn.attend, implementation="xla")


@pytest.fixture
def cuda(monkeypatch):
    """JAX asks for cuDNN's version before it traces the call, and does not read it; nothing else of
    tracing and lowering needs a GPU."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91002)


def operands(S=T, segments=True, prefix=False, dtype=jnp.float32):
    """Random ones, heads of keys shared by two; two documents and padding in each row."""
    generator = np.random.default_rng(0)

    def normal(length, heads):
        return jnp.asarray(generator.normal(size=(B, length, heads, D)), dtype)

    def tokens(length):
        ids = np.repeat([1, 2, 0], [length // 3, length // 2, length - length // 3 - length // 2])
        ids = jnp.asarray(np.stack([ids, np.roll(ids, 7)]), jnp.int32) if segments else None
        seen = jnp.asarray(generator.random((B, length)) < 0.3) if prefix else None
        return Tokens(ids, prefix=seen)

    return Operands(normal(T, N), normal(S, K), normal(S, K), tokens(T), tokens(S), scale=0.3)


def loss(q, k, v, attend, given, pattern):
    """A sum of the outputs with weights of its own, and the outputs."""
    own = Operands(q, k, v, given.queries, given.keys, scale=given.scale)
    out = attend(own, pattern, Precision(), NO_DROPOUT).astype(jnp.float32)
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    return (out * weights).sum(), out


def with_gradients(attend, given, pattern):
    """Output, and gradients by queries, keys and values."""
    whole = functools.partial(loss, attend=attend, given=given, pattern=pattern)
    step = jax.jit(jax.value_and_grad(whole, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = step(given.q, given.k, given.v)
    return [out, *grads]


def check_equal(given, pattern):
    ours, theirs = (with_gradients(x, given, pattern) for x in (as_xla, xla.attend))
    for one, other in zip(ours, theirs, strict=True):
        assert jnp.abs(one - other).max() < 2e-6 * jnp.abs(other).max()


PATTERNS = [
    Pattern(),
    Pattern(causal=True),
    Pattern(window=9),
    Pattern(causal=True, window=9),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("segments", [True, False])
def test_it_equals_the_kernel_with_a_mask(pattern, segments):
    check_equal(operands(segments=segments), pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(causal=True, prefix=True),
        Pattern(causal=True, window=9, prefix=True),
        Pattern(causal=True, shared=3),
        Pattern(shared=3),
    ],
    ids=str,
)
def test_what_cudnn_has_no_word_for_is_in_the_mask(pattern):
    check_equal(operands(prefix=pattern.prefix), pattern)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_part_of_the_queries_sees_what_it_sees_among_all(pattern):
    """As on a device that has the last third of each row's queries."""
    given, begin = operands(), 2 * T // 3
    ours = Tokens(given.queries.segment_ids[:, begin:])
    part = Operands(given.q[:, begin:], given.k, given.v, ours, given.keys, scale=given.scale)
    table = cudnn.make_table(T)[:, begin:]
    out = as_xla(part, pattern, Precision(), NO_DROPOUT, table=table)
    whole = xla.attend(given, pattern, Precision(), NO_DROPOUT)
    assert jnp.abs(out - whole[:, begin:]).max() < 2e-6


@pytest.mark.parametrize("causal", [False, True])
def test_keys_of_adapters_come_before_the_rows(causal):
    given = operands()
    k, v = (jnp.concatenate([x[:, -4:], x], 1) for x in (given.k, given.v))
    check_equal(
        Operands(given.q, k, v, given.queries, given.keys), Pattern(causal=causal, always=4)
    )


@pytest.mark.parametrize("S", [32, 96])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(causal=True, window=9)], ids=str)
def test_queries_may_see_the_keys_of_other_rows(S, pattern):
    check_equal(operands(S), pattern)


def test_nothing_is_seen_across_documents():
    """Another first document leaves the second one's outputs as they were, to the bit."""
    given = operands()
    first = (given.keys.segment_ids == 1)[..., None, None]
    other = Operands(given.q, *(jnp.where(first, 9.0, x) for x in (given.k, given.v)))
    for pattern in (Pattern(), Pattern(causal=True)):
        outs = [
            as_xla(
                Operands(x.q, x.k, x.v, given.queries, given.keys), pattern, BFLOAT16, NO_DROPOUT
            )
            for x in (given, other)
        ]
        is_second = np.asarray(given.queries.segment_ids == 2)
        assert np.array_equal(*(np.asarray(out)[is_second] for out in outs))
        assert not np.array_equal(*(np.asarray(out)[~is_second] for out in outs))


def test_a_token_that_sees_nothing_gives_finite_numbers_and_leaves_the_others():
    """As in cross-attention, where the memory has nothing of the token's segment."""
    given = operands(96)
    lonely = Tokens(given.queries.segment_ids.at[:, :5].set(7))
    both = [
        with_gradients(attend, Operands(given.q, given.k, given.v, lonely, given.keys), Pattern())
        for attend in (as_xla, xla.attend)
    ]
    assert all(jnp.isfinite(x).all() for x in both[0])
    outs = [np.asarray(out)[:, 5:] for out, *_ in both]
    assert np.abs(outs[0] - outs[1]).max() < 2e-6


# --- What a GPU would run -------------------------------------------------------------------------

FORWARD = r"@__cudnn\$fmha\w*Softmax\("
BACKWARD = r"@__cudnn\$fmha\w*SoftmaxBackward\("


def lowered(given, pattern, gradient=True):
    """The program for CUDA of the gradient by queries, keys and values."""
    whole = functools.partial(loss, attend=cudnn.attend, given=given, pattern=pattern)
    run = jax.grad(whole, argnums=(0, 1, 2), has_aux=True) if gradient else whole
    traced = jax.jit(run).trace(given.q, given.k, given.v)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_it_is_one_call_of_cudnn_each_way(cuda, pattern, segments):
    text = lowered(operands(segments=segments, dtype=jnp.bfloat16), pattern)
    assert len(re.findall(FORWARD, text)) == 1 and len(re.findall(BACKWARD, text)) == 1
    assert "dot_general" not in text
    is_masked = segments or pattern == Pattern(window=9)
    assert ("fmhaScaleBiasSoftmax" in text) == is_masked
    assert text.count("CAUSAL") == (2 if pattern.causal else 0)
    width = 0 if pattern.window is None or not pattern.causal else pattern.window + 1
    assert set(re.findall(r"sliding_window_length\\22: (\d+)", text)) == {str(width)}


def test_heads_of_keys_are_not_repeated_and_the_mask_has_one_head(cuda):
    text = lowered(operands(dtype=jnp.bfloat16), Pattern(causal=True))
    (arguments,) = re.findall(FORWARD + r"[^:]*:? *[^\n]* : \(([^)]*)\)", text)
    assert arguments.split(", ") == [
        f"tensor<{B}x{T}x{N}x{D}xbf16>",
        *[f"tensor<{B}x{T}x{K}x{D}xbf16>"] * 2,
        f"tensor<{B}x1x{T}x{T}xbf16>",
    ]


def test_it_is_lowered_on_shards_of_rows_and_heads(cuda):
    """Each device calls it with its own rows and heads, and nothing is sent."""
    given = operands(dtype=jnp.bfloat16)
    mesh = tiny.mesh(data=2, tensor=2)
    rows = jax.sharding.PartitionSpec("data")
    heads = jax.sharding.PartitionSpec("data", None, "tensor")
    tokens = Tokens(rows)

    def attend(own, pattern, precision, drop):
        specs = Operands(heads, heads, heads, tokens, tokens, scale=own.scale)
        run = functools.partial(
            cudnn.attend, pattern=pattern, precision=precision, weight_dropout=drop
        )
        return jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=heads, check_vma=False)(
            own
        )

    whole = functools.partial(loss, attend=attend, given=given, pattern=Pattern(causal=True))
    with jax.set_mesh(mesh):
        run = jax.jit(jax.grad(whole, argnums=(0, 1, 2), has_aux=True))
        traced = run.trace(given.q, given.k, given.v)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(FORWARD, text)) == 1 and len(re.findall(BACKWARD, text)) == 1
    assert f"tensor<{B // 2}x{T}x{N // 2}x{D}xbf16>" in text
    assert "CustomSPMDPartitioning" not in text


# --- What it takes --------------------------------------------------------------------------------

TAKEN = Call(pattern=Pattern(causal=True), head_dim=64, lengths=(256, 256), gpu=(9, 0))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"is_float32": True}, "no float32"),
        ({"has_bias": True}, "no bias"),
        ({"has_dropout": True}, "no dropout"),
        ({"head_dim": 20}, "no heads of width 20"),
        ({"head_dim": 136}, "no heads of width 136"),
        ({"lengths": (255, 255)}, "no rows of (255, 255) tokens, an odd number"),
        ({"lengths": (256, 255)}, "no rows of (256, 255) tokens, an odd number"),
        ({"lengths": (252, 252), "shards": 4}, "tokens in 4 shards, an odd number"),
        ({"pattern": Pattern(window=20)}, "no windows to both sides"),
        ({"gpu": (7, 5)}, "no GPUs before Ampere"),
        ({"gpu": (0, 0)}, "nor of other makers"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name_and_left_by_auto(more, why):
    call = Call(**{**vars(TAKEN), **more})
    name, told = choose("auto", call, "gpu")
    assert name == "xla" and why in told
    with pytest.raises(UserError, match="cudnn cannot compute") as error:
        choose("cudnn", call, "gpu")
    assert error.value.expected == "one of auto, xla"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gpu": None},
        {"gpu": (8, 0)},
        {"lengths": ()},
        {"lengths": (256, 128)},
        {"shards": 4},
        {"head_dim": 128},
        {"pattern": Pattern(causal=True, window=20)},
        {"pattern": Pattern(window=200)},
        {"pattern": Pattern(causal=True, prefix=True, always=2, shared=2)},
    ],
)
def test_auto_takes_it_on_a_gpu(more):
    assert choose("auto", Call(**{**vars(TAKEN), **more}), "gpu") == ("cudnn", "")


def test_it_runs_on_gpus_alone():
    assert choose("auto", TAKEN, "cpu") == ("xla", "")
    for platform in ("cpu", "tpu"):
        with pytest.raises(UserError, match="cudnn cannot") as error:
            choose("cudnn", TAKEN, platform)
        assert f"runs on gpu, not on {platform}" in error.value.got


@pytest.mark.parametrize(
    ("told", "read"), [("9.0", (9, 0)), ("12.1", (12, 1)), ("7.5", (7, 5)), ("gfx90a", (0, 0))]
)
def test_the_generation_of_a_gpu_is_read(monkeypatch, told, read):
    assert gpu_generation() is None
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=told)
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    assert gpu_generation() == read


def test_a_cache_is_read_without_it():
    assert choose("cudnn", Call(**{**vars(TAKEN), "has_positions": True}), "gpu").name == "xla"


def test_operands_say_what_they_ask_for():
    call = call_of(operands(), Pattern(), Precision(matmul="default"), NO_DROPOUT)
    with pytest.raises(UserError, match="float32 operands"):
        choose("cudnn", call, "gpu")
    call = call_of(operands(dtype=jnp.bfloat16), Pattern(), BFLOAT16, NO_DROPOUT)
    assert choose("cudnn", call, "gpu").name == "cudnn"
