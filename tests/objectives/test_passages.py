"""Passages: what is cut out of a row, and the loss over the pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.objectives.contrast.cosent import CoSent
from jaxssl.objectives.passages import Passages

CLS, SEP, PAD = 1, 2, 0
FRAMED = {"cls": CLS, "sep": SEP, "pad": PAD}


def vocabulary(special=FRAMED):
    return Vocabulary(
        size=1000, special_ids=special, document_end=SEP, word_starts=np.ones(1000, bool)
    )


def batch(*rows, length=64, epoch=0):
    """Rows of documents, each a list of token ids; the tokens of a row are all different."""
    tokens, segments = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), int)
    for tokens_of, segments_of, row in zip(tokens, segments, rows):
        start = 0
        for number, document in enumerate(row, start=1):
            tokens_of[start : start + len(document)] = document
            segments_of[start : start + len(document)] = number
            start += len(document)
    ids = np.stack([np.zeros(len(rows)), np.arange(len(rows))], axis=1)
    return {
        "tokens": jnp.asarray(tokens),
        "segment_ids": jnp.asarray(segments, jnp.int32),
        "example_id": jnp.asarray(ids, jnp.uint32),
        "epoch": jnp.full(len(rows), epoch, jnp.int32),
    }


def document(first, count):
    return [CLS, *range(first, first + count), SEP]


PLAIN = vocabulary()


@functools.partial(jax.jit, static_argnums=(0, 3))
def corrupted(objective, given, seed, vocabulary):
    return objective.corrupt(given, seed, vocabulary)


def cut(objective, given, seed=0, vocabulary=PLAIN):
    made = corrupted(objective, given, seed, vocabulary)
    return {name.removeprefix("passage_"): np.asarray(x) for name, x in made.items()}


ROWS = [[document(10, 50)], [document(100, 9), document(200, 40)], [document(300, 3)]]


def test_passages_are_stretches_of_one_document_between_special_tokens():
    """Of the only one that is long enough for two, or of the longest where none is."""
    inside = [range(10, 60), range(200, 240), range(300, 303)]
    lengths = set()
    for seed in range(20):
        made = cut(Passages(shortest=5, reach=4), batch(*ROWS), seed)
        assert made["tokens"].shape == (3, 2, 16)
        for row, allowed in enumerate(inside):
            for tokens, segments, positions in zip(
                *(made[name][row] for name in ("tokens", "segment_ids", "positions"))
            ):
                count = int(segments.sum())
                assert tokens[0] == CLS and tokens[count - 1] == SEP and not tokens[count:].any()
                body = tokens[1 : count - 1]
                assert {*body.tolist()} <= {*allowed} and (np.diff(body) == 1).all()
                assert min(5, len(allowed)) <= len(body) <= 14
                assert (
                    positions[:count].tolist() == list(range(count)) and not positions[count:].any()
                )
                lengths.add(len(body))
    assert {3, 5, 14} <= lengths


def test_each_stretch_is_as_likely_as_another_of_its_length():
    """Of a document of 5 tokens, passages of 2 begin at 0 to 3 alike."""
    given = batch(*[[document(10, 5)]] * 2000)
    made = cut(Passages(shortest=2, reach=16), given)
    starts = made["tokens"][:, :, 1].ravel() - 10
    share = np.bincount(starts, minlength=4) / len(starts)
    np.testing.assert_allclose(share, 0.25, atol=0.03)  # 4 standard deviations
    same = np.mean(made["tokens"][:, 0, 1] == made["tokens"][:, 1, 1])
    assert same == pytest.approx(0.25, abs=0.04)  # the two are drawn apart


def test_each_document_that_is_long_enough_is_drawn_by_its_length():
    """Over many epochs; both passages are of the same one."""
    sizes = {10: 12, 100: 3, 200: 20, 300: 8}
    objective = Passages(shortest=4, reach=4)
    row, drawn = [document(first, size) for first, size in sizes.items()], []
    for epoch in range(40):
        made = cut(objective, batch(*[row] * 100, epoch=epoch))
        firsts = made["tokens"][:, :, 1] // 100 * 100
        assert (firsts[:, 0] == firsts[:, 1]).all()
        drawn += firsts[:, 0].tolist()
        assert {0, 200, 300} == {*firsts[:, 0].tolist()}
    share = np.array([drawn.count(first) for first in (0, 200, 300)]) / len(drawn)
    np.testing.assert_allclose(share, np.array([12, 20, 8]) / 40, atol=0.03)  # 4 deviations


def test_what_is_read_counts_and_nothing_else_of_a_row():
    objective, given = Passages(shortest=5, reach=4), batch(*ROWS)
    made = corrupted(objective, given, 0, PLAIN)
    counted = int(objective.tokens({**made, **given}))
    assert counted == np.sum(made["passage_segment_ids"]) < np.sum(given["segment_ids"] > 0)


def test_without_special_tokens_a_passage_is_bare_tokens():
    given = batch([[*range(10, 40), SEP]])
    made = cut(Passages(shortest=4, reach=8), given, vocabulary=vocabulary({}))
    for tokens, segments in zip(made["tokens"][0], made["segment_ids"][0]):
        body = tokens[segments > 0]
        assert 4 <= len(body) <= 8 and (np.diff(body) == 1).all() and SEP not in body


def test_the_draw_goes_by_seed_epoch_and_example_alone():
    objective = Passages(shortest=5, reach=4)
    whole, part = batch(*ROWS), {name: x[1:] for name, x in batch(*ROWS).items()}
    first = cut(objective, whole)["tokens"]
    np.testing.assert_array_equal(first[1:], cut(objective, part)["tokens"])
    assert (first != cut(objective, whole, seed=1)["tokens"]).any()
    assert (first != cut(objective, batch(*ROWS, epoch=1))["tokens"]).any()


def test_a_row_of_padding_has_no_text_and_no_weight():
    given = batch([document(10, 50)], [])
    assert not cut(Passages(), given)["segment_ids"][1].any()
    assert float(Passages().weights(given)["passages"]) == 1.0


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="too short for a passage"):
        Passages(shortest=8).check_rows({"tokens": np.zeros((2, 36), np.int32)})
    Passages(shortest=8).check_rows({"tokens": np.zeros((2, 40), np.int32)})
    with pytest.raises(UserError, match="no labels and no negatives"):
        Passages(loss=CoSent())
