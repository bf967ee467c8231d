"""Fill in the middle: what a document becomes, and what it was."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
import toy
from masks import packed_batch

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.fill_in_middle import FillInMiddle
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

MARKS = {"<fim_prefix>": 37, "<fim_suffix>": 38, "<fim_middle>": 39}
WORDS = dataclasses.replace(tiny.vocabulary(), special_tokens=MARKS)
PRE, SUF, MID = MARKS.values()
END = WORDS.document_end


def made_of(batch, objective, seed=7):
    whole = jax.jit(lambda batch: {**batch, **objective.corrupt(batch, seed, WORDS)})
    return jax.tree.map(np.asarray, whole(batch))


def documents(row):
    """The tokens of each document of a row, in order."""
    tokens, segments = row
    return [tokens[segments == number].tolist() for number in range(1, segments.max() + 1)]


def undone(document):
    """The document before it was rearranged, and how: its kind, and the length of what stands at
    its end. With an empty prefix both kinds are one. None where it was not."""
    if document[0] != PRE:
        return document, None
    ended = [END] if document[-1] == END else []
    body = document[: len(document) - len(ended)]
    middle = body.index(MID)
    if body[1] == SUF:
        suffix, rest = body[2:middle], body[middle + 1 :]
        return rest + suffix + ended, ("suffix first", len(rest))
    cut = body.index(SUF)
    prefix, suffix, mid = body[1:cut], body[cut + 1 : middle], body[middle + 1 :]
    return prefix + mid + suffix + ended, ("prefix first", len(mid))


@pytest.fixture(scope="module")
def batch():
    rows = packed_batch(count=16, seed=3)
    tokens = np.minimum(rows["tokens"], PRE - 1)  # the marks stand in no text
    return {**rows, "tokens": tokens}


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_what_was_rearranged_is_the_document_again(batch, rate):
    objective = FillInMiddle(rate=rate, most=12)
    made, kinds, changed = made_of(batch, objective), set(), 0
    for before, after, segments, positions in zip(
        zip(batch["tokens"], batch["segment_ids"]),
        zip(made["tokens"], made["segment_ids"]),
        made["segment_ids"],
        made["positions"],
    ):
        for was, now in zip(documents(before), documents(after), strict=True):
            back, how = undone(now)
            assert back == was
            kinds |= {how and how[0]}
            changed += how is not None
        for number in range(1, segments.max() + 1):
            inside = np.flatnonzero(segments == number)
            assert (np.diff(inside) == 1).all()
            assert positions[inside].tolist() == list(range(len(inside)))
    total = sum(segments.max() for segments in batch["segment_ids"])
    both = {"prefix first", "suffix first"}
    assert kinds - {None} == (both if rate else set())
    assert rate in (0, 1) or 0.3 < changed / total < 0.7
    assert made["tokens"].shape[1] == batch["tokens"].shape[1] + 3 * 12


def test_the_loss_is_that_of_the_rearranged_text(batch):
    objective = FillInMiddle(rate=1.0, most=12)
    made = made_of(batch, objective)
    again = {name: made[name] for name in ("tokens", "segment_ids", "positions")}
    plain = CausalLm().corrupt({**batch, **again}, 0, WORDS)
    for name in ("next_tokens", "next_weights"):
        np.testing.assert_array_equal(made[name], plain[name])


def test_a_row_has_room_for_so_many(batch):
    made = made_of(batch, FillInMiddle(rate=1.0, most=2))
    counts = (made["tokens"] == PRE).sum(axis=1)
    assert counts.max() == 2 and (counts == np.minimum(batch["segment_ids"].max(axis=1), 2)).all()
    assert FillInMiddle(most=2).raw_length(64) == 58
    with pytest.raises(UserError, match="too short"):
        FillInMiddle(most=4).raw_length(12)


def test_cuts_are_uniform_over_all_places():
    """E|M| = n (n + 2) / (3 (n + 1)), and it is empty once in n + 1."""
    n, count = 9, 4000
    tokens = np.random.default_rng(0).integers(5, 30, (count, n)).astype(np.int32)
    batch = tiny.rows([[row] for row in tokens], length=n, count=count)
    made = made_of(batch, FillInMiddle(rate=1.0, suffix_first=0.0, most=1))
    sizes = np.array([undone(row.tolist())[1][1] for row in made["tokens"]])
    assert sizes.mean() == pytest.approx(n * (n + 2) / (3 * (n + 1)), abs=0.12)
    assert (sizes == 0).mean() == pytest.approx(1 / (n + 1), abs=0.015)


def test_what_means_nothing_is_refused():
    with pytest.raises(UserError, match="share"):
        FillInMiddle(rate=1.5)
    with pytest.raises(UserError, match="lacks special tokens") as raised:
        FillInMiddle().check(tiny.gpt2(), tiny.vocabulary())
    assert "special_tokens=[<fim_prefix>" in raised.value.fix
    same = FillInMiddle(suffix_token="<fim_prefix>")
    with pytest.raises(UserError, match="different tokens"):
        same.check(tiny.gpt2(), WORDS)
    with pytest.raises(UserError, match="bidirectional"):
        FillInMiddle().check(tiny.bert(), WORDS)


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece", "sentencepiece_unigram"])
def test_a_tokenizer_is_trained_with_special_tokens_of_ones_own(kind, tmp_path):
    tokenizer = special_tokenizer(kind)
    assert set(MARKS) <= tokenizer.special_tokens.keys()
    tokenizer.save(tmp_path / "saved")
    from jaxssl.data.tokenizer.loading import load_tokenizer

    again = load_tokenizer(str(tmp_path / "saved"))
    assert again.special_tokens == tokenizer.special_tokens
    (ids,) = again.encode_batch(["a <fim_prefix> is text here"])
    assert again.special_tokens["<fim_prefix>"] not in ids
    with pytest.raises(UserError, match="special tokens"):
        TokenizerTrainConfig(source=Docstrings(), out="x", special_tokens=("a", "a"))


def special_tokenizer(kind):
    config = TokenizerTrainConfig(
        source=Docstrings(), out=f"fim-{kind}", kind=kind, vocab_size=400, special_tokens=(*MARKS,)
    )
    texts = ["".join(document) for document in toy.documents(100)]
    return train_on_texts(config, lambda: texts)


def test_a_run_learns_it(tmp_path):
    store = toy.write_store(
        tmp_path / "store", special_tokenizer("byte_bpe"), {"train": 60, "validation": 9}
    )
    plain = toy.recipe(store, tmp_path / "run", "gpt2")
    plain["objective"] = {"name": "fill_in_middle", "most": 2}
    plain["data"] |= {"rows": {"name": "packed"}, "sequence_length": 32}
    plain |= {"train": {"steps": 4}, "evaluation": {"every": 4}, "checkpoint": {"every": 4}}
    plain["optimizer"]["schedule"]["warmup"] = 1
    train_run(load_config([plain]), lambda text: None)
    (row,) = toy.rows_of(tmp_path / "run", "validation")
    assert np.isfinite(row["loss"])
