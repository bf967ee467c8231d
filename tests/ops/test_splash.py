"""Splash attention, in Pallas's interpreter, against the kernel that makes a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.ops.attention import splash, xla
from jaxssl.ops.attention.kernels import Call, call_of, choose
from jaxssl.ops.attention.operands import NO_DROPOUT, Operands
from jaxssl.ops.attention.pattern import Pattern, Tokens

B, N, K, D = 2, 4, 2, 64
BFLOAT16 = Precision(compute="bfloat16")


def interpreted(given, pattern, precision, drop):
    (_, T, heads, _), S = given.q.shape, given.k.shape[1]
    table = splash.make_table(pattern, heads, T, S, interpret=True)
    return splash.attend(given, pattern, precision, drop, table=table)


def operands(T, S=None, segments=True):
    """Random ones, heads of keys shared by two; two documents and padding in each row."""
    generator = np.random.default_rng(0)

    def normal(length, heads):
        return jnp.asarray(generator.normal(size=(B, length, heads, D)), jnp.float32)

    def tokens(length):
        if not segments:
            return Tokens()
        ids = np.repeat([1, 2, 0], [length // 3, length // 2, length - length // 3 - length // 2])
        return Tokens(jnp.asarray(np.stack([ids, np.roll(ids, 17)]), jnp.int32))

    S = S or T
    made = normal(T, N), normal(S, K), normal(S, K)
    return Operands(*made, tokens(T), tokens(S))


def with_gradients(attend, given, pattern):
    """Output, and gradients by queries, keys and values of a sum with weights of its own."""

    def loss(q, k, v):
        own = Operands(q, k, v, given.queries, given.keys)
        out = attend(own, pattern, Precision(), NO_DROPOUT)
        return (
            out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        ).sum(), out

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = step(given.q, given.k, given.v)
    return [out, *grads]


@pytest.mark.parametrize(
    "pattern",
    [Pattern(), Pattern(causal=True), Pattern(window=20), Pattern(causal=True, window=150)],
    ids=str,
)
@pytest.mark.parametrize("segments", [True, False])
def test_it_equals_the_kernel_with_a_mask(pattern, segments):
    given = operands(256, segments=segments)
    ours, theirs = (with_gradients(x, given, pattern) for x in (interpreted, xla.attend))
    for one, other in zip(ours, theirs, strict=True):
        assert jnp.abs(one - other).max() < 2e-6 * jnp.abs(other).max()


def test_queries_may_see_the_keys_of_other_rows():
    given = operands(128, 384)
    ours, theirs = (with_gradients(x, given, Pattern()) for x in (interpreted, xla.attend))
    for one, other in zip(ours, theirs, strict=True):
        assert jnp.abs(one - other).max() < 2e-6 * jnp.abs(other).max()


@pytest.mark.parametrize(("shards", "width"), [(1, 512), (2, 512), (4, 256), (8, 128)])
def test_shards_of_causal_rows_look_at_as_many_blocks(shards, width):
    """Blocks of `width` queries, which are of one half each, and of 512 keys."""
    blocks = sum(-(-end // 512) for end in range(width, 2048 + 1, width))
    table = splash.make_table(Pattern(causal=True), 2, 2048, 2048, shards=shards)
    looked_at = np.asarray(table.fwd_mask_info.block_mask)[0] > 0
    assert {*looked_at.reshape(shards, -1).sum(1)} == {blocks // shards}


def test_shards_exchange_half_of_their_places():
    assert splash.shared_out(12, 3).tolist() == [0, 1, 10, 11, 4, 5, 6, 7, 8, 9, 2, 3]


def test_blocks_divide_rows():
    assert [splash.block(128 * n) for n in (1, 2, 3, 4, 5, 8, 9)] == [
        *(128, 256, 384, 512, 128, 512, 384)
    ]


TAKEN = Call(pattern=Pattern(causal=True), head_dim=64, lengths=(256, 256))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"has_bias": True}, "no bias"),
        ({"has_dropout": True}, "no dropout"),
        ({"is_exact": True}, "no exact float32"),
        ({"lengths": (200, 200)}, "no multiples of 128"),
        ({"lengths": (128, 256)}, "no keys of other rows"),
        ({"shards": 4}, "no rows of (256, 256) tokens in 4 shards"),
        ({"pattern": Pattern(prefix=True)}, "no prefix"),
        ({"pattern": Pattern(always=2)}, "no keys of adapters"),
        ({"pattern": Pattern(shared=2)}, "no tokens of adapters"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name_and_left_by_auto(more, why):
    call = Call(**{**vars(TAKEN), **more})
    assert choose("auto", TAKEN, "tpu") == ("splash", "")
    name, told = choose("auto", call, "tpu")
    assert name == "xla" and why in told.replace("takes no rows of (200, 200) tokens, ", "")
    with pytest.raises(UserError, match="splash cannot compute") as error:
        choose("splash", call, "tpu")
    assert error.value.expected == "one of auto, xla"


def test_it_runs_on_tpus_alone():
    assert choose("auto", TAKEN, "cpu") == ("xla", "")
    with pytest.raises(UserError, match="splash cannot") as error:
        choose("splash", TAKEN, "cpu")
    assert "runs on tpu, not on cpu" in error.value.got


def test_a_cache_is_read_without_it():
    assert choose("splash", Call(**{**vars(TAKEN), "has_positions": True}), "tpu").name == "xla"


def test_operands_say_what_they_ask_for():
    given = operands(256)
    with pytest.raises(UserError, match="exact float32"):
        choose("splash", call_of(given, Pattern(), Precision(), NO_DROPOUT), "tpu")
    with pytest.raises(UserError, match="prefix"):
        rough, pattern = Precision(matmul="default"), Pattern(prefix=True)
        choose("splash", call_of(given, pattern, rough, NO_DROPOUT), "tpu")
