"""Masks against BERT's rule written as the plain Python it is, and against chi-square."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import MASK, PIECES, WORDS, T, corrupt, corrupted, long_batch, packed_batch, words_of
from scipy.stats import chisquare

from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.models.heads import MASKED_LM
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masking.counts import quota_table
from jaxssl.objectives.masking.ngrams import NGrams
from jaxssl.objectives.masking.replacing import positions_of, random_tokens
from jaxssl.objectives.masking.spans import Spans
from jaxssl.objectives.masking.units import Row, Tokens, WholeWords
from jaxssl.parallel.mesh import batch_sharding


def bert_count(length, rate, limit):
    """google-research/bert create_pretraining_data.py, `num_to_predict`."""
    return min(limit, max(1, int(round(length * rate))))


# --- How many -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 0.9), st.integers(1, 600), st.integers(1, 100))
def test_the_quota_is_berts_count(rate, longest, limit):
    want = [0] + [bert_count(n, rate, limit) for n in range(1, longest + 1)]
    assert quota_table(longest, rate, limit).tolist() == want


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_each_document_of_a_packed_row_gets_its_exact_count(rate, limit):
    batch = packed_batch()
    out = corrupted(batch, MaskedLm(rate=rate, max_predictions=limit, slots=T))
    for i, segments in enumerate(batch["segment_ids"]):
        chosen = out["mask_positions"][i][out["mask_weights"][i] > 0]
        assert len(set(chosen)) == len(chosen)
        for document in range(1, segments.max() + 1):
            inside = segments == document
            candidates = int((inside & (batch["tokens"][i] >= tiny.FIRST_WORD)).sum())
            want = min(bert_count(int(inside.sum()), rate, limit or T), candidates)
            assert int((segments[chosen] == document).sum()) == want


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_counts_hold_for_any_lengths(seed, lengths):
    segments = np.zeros(T, np.int32)
    at = 0
    for number, length in enumerate(lengths, start=1):
        segments[at : at + length] = number
        at += length
    positions = np.asarray(chosen_of(jax.random.key(seed), segments, segments > 0))
    counts = np.bincount(segments[positions[positions < T]], minlength=7)
    real = np.bincount(segments, minlength=7)
    assert [counts[n] for n in range(1, 7)] == [
        bert_count(int(real[n]), 0.15, T) if real[n] else 0 for n in range(1, 7)
    ]


@jax.jit
def chosen_of(key, segments, candidates):
    lengths = jnp.zeros(T + 1, jnp.int32).at[segments].add(1).at[0].set(0)
    quota = jnp.asarray(quota_table(T, 0.15))[lengths]
    row = Row(segments, candidates, jnp.ones(T, bool), quota)
    return positions_of(Tokens().choose(key, row).tokens, T)


# --- Which ones ---------------------------------------------------------------------------------


UNITS = (Tokens(), WholeWords(), Spans(), NGrams())
OF_UNITS = pytest.mark.parametrize("units", UNITS, ids=lambda units: units.name)


@OF_UNITS
def test_special_tokens_and_padding_are_never_chosen(units):
    batch = packed_batch()
    out = corrupted(batch, MaskedLm(rate=0.5, slots=T, units=units))
    real = out["mask_weights"] > 0
    assert (out["mask_labels"][real] >= tiny.FIRST_WORD).all()
    rows = np.nonzero(real)[0]
    at = out["mask_positions"][real]
    assert (batch["segment_ids"][rows, at] > 0).all()
    assert np.array_equal(batch["tokens"][rows, at], out["mask_labels"][real])


def test_only_chosen_positions_change():
    batch = packed_batch()
    out = corrupted(batch, MaskedLm(slots=T))
    changed = out["tokens"] != batch["tokens"]
    for i, row in enumerate(changed):
        assert set(np.flatnonzero(row)) <= set(out["mask_positions"][i][out["mask_weights"][i] > 0])
    for name in ("segment_ids", "positions", "example_id"):
        assert np.array_equal(out[name], batch[name])


@functools.cache
def many():
    """(batches, outputs): more than 200,000 choices in rows of 128, over six epochs."""
    batches = [long_batch(1800, 128, epoch) for epoch in range(6)]
    return batches, [corrupted(batch, MaskedLm(slots=19)) for batch in batches]


def test_chosen_tokens_are_masked_replaced_and_kept_80_10_10():
    _, outputs = many()
    counts, total = np.zeros(3), 0
    for out in outputs:
        new = np.take_along_axis(out["tokens"], out["mask_positions"], axis=1)
        assert out["mask_weights"].all()
        masked, same = new == MASK, new == out["mask_labels"]
        counts += [masked.sum(), same.sum(), (~masked & ~same).sum()]
        total += new.size
    assert total >= 200_000
    again = 0.1 / (tiny.VOCAB - tiny.FIRST_WORD)  # a random token may be the token itself
    expected = total * np.array([0.8, 0.1 + again, 0.1 - again])
    assert chisquare(counts, expected).pvalue > 1e-3


def test_positions_are_uniform():
    _, outputs = many()
    counts = sum(np.bincount(out["mask_positions"].ravel(), minlength=128) for out in outputs)
    # Sampling without replacement varies less than chi-square assumes: too even is no fault.
    assert chisquare(counts).pvalue > 1e-3
    gaps = np.concatenate([np.diff(out["mask_positions"], axis=1).ravel() for out in outputs])
    # Of 19 of 128 places, two neighbours are chosen together with probability (19/128)(18/127).
    pairs, rows = int((gaps == 1).sum()), 6 * 1800
    assert pairs / (rows * 127) == pytest.approx(19 / 128 * 18 / 127, rel=0.02)


@pytest.mark.parametrize("specials", [False, True])
def test_replacements_are_uniform_over_the_ids_allowed(specials):
    objective = MaskedLm(mask_share=0.0, random_share=1.0, slots=19, random_from_specials=specials)
    out = corrupted(long_batch(1800, 128), objective)
    new = np.take_along_axis(out["tokens"], out["mask_positions"], axis=1)
    counts = np.bincount(new.ravel(), minlength=tiny.VOCAB)
    # `unk` (1) is not a special of the masking: it is ordinary text to a model.
    allowed = [i for i in range(tiny.VOCAB) if specials or i not in (0, 2, 3, 4)]
    assert counts.sum() == counts[allowed].sum()
    assert chisquare(counts[allowed]).pvalue > 1e-3


def test_random_tokens_step_over_reserved_ids_in_runs():
    ids = jax.jit(lambda k: random_tokens(k, (5000,), 10, (0, 1, 2, 5, 9)))(jax.random.key(0))
    assert set(np.asarray(ids).tolist()) == {3, 4, 6, 7, 8}


def test_mask_share_of_one_masks_everything():
    out = corrupted(long_batch(8, 128), MaskedLm(mask_share=1.0, random_share=0.0, slots=19))
    assert (np.take_along_axis(out["tokens"], out["mask_positions"], axis=1) == MASK).all()


# --- Whole words --------------------------------------------------------------------------------


def greedy(tokens, segments, priority, rate, limit):
    chosen = []
    numbered = list(enumerate(words_of(tokens, segments)))
    for document in range(1, int(segments.max()) + 1):
        quota = bert_count(int((segments == document).sum()), rate, limit)
        mine = [(priority[n], word) for n, (owner, word) in numbered if owner == document]
        used = 0
        for _, word in sorted(mine):
            if used + len(word) <= quota:
                used += len(word)
                chosen += word
    return sorted(chosen)


@pytest.mark.parametrize("rate, limit", [(0.15, None), (0.4, 5)])
def test_whole_words_equal_a_brute_force_greedy_choice(rate, limit):
    batch = packed_batch(count=32, seed=3)
    objective = MaskedLm(rate=rate, max_predictions=limit, slots=T, units=WholeWords())
    out = corrupted(batch, objective, PIECES)
    priorities = jax.jit(jax.vmap(lambda k: jax.random.uniform(jax.random.split(k, 3)[0], (T,))))(
        example_keys(7, batch)
    )
    sizes = []
    for i in range(32):
        want = greedy(
            batch["tokens"][i], batch["segment_ids"][i], np.asarray(priorities[i]), rate, limit or T
        )
        assert out["mask_positions"][i][out["mask_weights"][i] > 0].tolist() == want
        for _, word in words_of(batch["tokens"][i], batch["segment_ids"][i]):
            assert len(set(word) & set(want)) in (0, len(word)), "a word is whole or untouched"
            sizes.append(len(word))
    assert max(sizes) >= 4  # the rule that skips a word that does not fit was at work


# --- What masks depend on -----------------------------------------------------------------------

SAME = MaskedLm(slots=T)
KEYS = ("tokens", "mask_positions", "mask_labels", "mask_weights")


@OF_UNITS
@pytest.mark.parametrize("devices", [2, 8])
def test_masks_do_not_depend_on_the_mesh(devices, units):
    objective = MaskedLm(slots=T, units=units)
    batch = packed_batch()
    want = corrupted(batch, objective, PIECES)
    sharding = batch_sharding(tiny.mesh(data=devices))
    split = {name: jax.device_put(x, sharding) for name, x in batch.items()}
    assert len(split["tokens"].sharding.device_set) == devices
    got = corrupted(split, objective, PIECES)
    assert all(np.array_equal(got[name], want[name]) for name in KEYS)


def test_masks_do_not_depend_on_the_batch_around_a_row():
    batch = packed_batch()
    want = corrupted(batch, SAME)
    for order in ([9, 2, 4], list(range(16))[::-1]):
        part = {name: x[np.array(order)] for name, x in batch.items()}
        got = corrupted(part, SAME)
        assert all(np.array_equal(got[name], want[name][order]) for name in KEYS)


def test_masks_differ_between_examples_epochs_and_seeds():
    batch = long_batch(4, T)
    batch["tokens"][:] = batch["tokens"][0]
    positions = lambda b: corrupted(b, MaskedLm())["mask_positions"]
    first = positions(batch)
    assert len({tuple(row) for row in first}) == 4
    later = positions({**batch, "epoch": np.ones(4, np.int32)})
    high = batch["example_id"] + np.array([1, 0], np.uint32)  # the high word counts too
    for other in (later, positions({**batch, "example_id": high})):
        assert not any(np.array_equal(a, b) for a, b in zip(first, other))
    seeded = corrupt(batch, MaskedLm(), WORDS, 8)["mask_positions"]
    assert not np.array_equal(seeded, first)


# --- Slots --------------------------------------------------------------------------------------


def test_too_few_slots_are_refused_before_anything_is_lost():
    batch = packed_batch()
    want = int(corrupted(batch, SAME)["mask_weights"].sum(axis=1).max())
    with pytest.raises(UserError, match="more predictions than there are slots") as error:
        MaskedLm(slots=want - 1).check_rows(batch)
    assert "set objective.slots=" in str(error.value)
    suggested = int(str(error.value).rpartition("=")[2])
    MaskedLm(slots=suggested).check_rows(batch)


def test_the_check_counts_what_the_corruption_asks_for():
    batch = packed_batch()
    room = MaskedLm(slots=T)
    for rate in (0.05, 0.15, 0.6):
        quota = quota_table(T, rate)
        most = max(sum(quota[n] for n in np.bincount(row)[1:]) for row in batch["segment_ids"])
        room = MaskedLm(rate=rate, slots=int(most))
        room.check_rows(batch)
        with pytest.raises(UserError):
            MaskedLm(rate=rate, slots=int(most) - 1).check_rows(batch)


def test_rows_of_one_document_have_room_for_exactly_that():
    rows = {name: np.zeros((1, 128), np.int32) for name in ("tokens", "token_types")}
    assert MaskedLm().num_slots(rows) == 19
    assert MaskedLm(max_predictions=12).num_slots(rows) == 12
    del rows["token_types"]
    assert MaskedLm().num_slots(rows) == 19 + 32


def test_more_slots_than_tokens_are_empty():
    batch = tiny.rows([[d] for d in tiny.random_documents([6, 3])])
    out = corrupted(batch, MaskedLm(slots=20))
    assert out["mask_weights"].sum(axis=1).tolist() == [1, 1]


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": 1.0}, {"mask_share": 0.95}])
def test_impossible_shares_are_refused(bad):
    with pytest.raises(UserError):
        MaskedLm(**bad)


def test_a_tokenizer_without_a_mask_and_a_causal_model_are_refused():
    from jaxssl.core.types import Vocabulary

    MaskedLm().check(tiny.bert(), WORDS)
    bare = Vocabulary(size=8, special_ids={"eos": 0}, document_end=0, word_starts=np.ones(8, bool))
    with pytest.raises(UserError, match="no mask token"):
        MaskedLm().check(tiny.bert(), bare)
    with pytest.raises(UserError, match="causal"):
        MaskedLm().check(tiny.gpt2(), WORDS)


# --- Loss ---------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_chosen_tokens():
    from jaxssl.models.model import Model
    from jaxssl.objectives.base import total_loss

    model = Model(tiny.bert(max_positions=T), (MASKED_LM,))
    params = tiny.random_params(model)
    objective = MaskedLm(slots=30, chunk=8)
    batch = packed_batch(count=4)

    @jax.jit
    def run(params, batch):
        out = tiny.corrupted(objective, batch, 7, WORDS)
        hidden = model.encode(params, out)
        sums = objective.sums(model, params, {"hidden": hidden}, out)
        loss = total_loss(objective, sums.losses, objective.weights(out))
        logits = model.head(params, "masked_lm", hidden)
        return loss, sums.metrics, jax.nn.log_softmax(logits), out

    loss, metrics, log_p, out = jax.tree.map(np.asarray, run(params, batch))
    rows, slots = np.nonzero(out["mask_weights"])
    at, labels = out["mask_positions"][rows, slots], out["mask_labels"][rows, slots]
    want = -log_p[rows, at, labels].mean()
    assert float(loss) == pytest.approx(want, rel=1e-5)
    total, count = metrics["accuracy/masked_lm"]
    assert count == len(rows)
    assert total == (log_p[rows, at].argmax(-1) == labels).sum()
    assert jnp.isfinite(loss)


@pytest.mark.parametrize("slots, sizes", [(37, [(3, 13)]), (32, [(2, 16)]), (9, [(1, 9)])])
def test_an_awkward_number_of_slots_is_filled_up_and_changes_nothing(slots, sizes, monkeypatch):
    """37 slots in chunks of 16 are 3 of 13: a prime number must not become 37 chunks of one."""
    from jaxssl.models.model import Model
    from jaxssl.objectives import slots as slot_losses

    model = Model(tiny.bert(max_positions=T), (MASKED_LM,))
    params, seen = tiny.random_params(model), []
    batch = corrupt(long_batch(4, T), MaskedLm(slots=slots))
    hidden = np.random.default_rng(0).standard_normal((4, T, 16)).astype(np.float32)
    chunked_sum = slot_losses.chunked_sum

    def spy(function, params, inputs, *rest):
        seen.append((inputs.shape[0], inputs.shape[2]))
        return chunked_sum(function, params, inputs, *rest)

    monkeypatch.setattr(slot_losses, "chunked_sum", spy)

    def both(chunk):
        def loss(params, hidden):
            sums = MaskedLm(slots=slots, chunk=chunk).sums(model, params, {"hidden": hidden}, batch)
            return sums.losses["masked_lm"], sums.metrics

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, hidden)

    got = both(16)
    assert seen == sizes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-4, 1e-5), got, both(slots))
