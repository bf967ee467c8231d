"""Text to text: its loss by formula, what it writes, its scores, and a run from end to end."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny
import toy

from jaxssl.commands.export import export
from jaxssl.commands.merge import merge
from jaxssl.commands.predict import predict
from jaxssl.core.config import to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.data.examples import boxes
from jaxssl.data.tables.table import Table
from jaxssl.generate.decode import beam_search, generate
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.bart import BartConfig
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.layer_context import Memory
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.seq2seq import END, Seq2seq

LENGTH, MOST = 24, 12
WORDS = ("the", "cat", "a", "dog", "old", "man", "sees", "paints")


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


def config(tokenizer, **changes):
    more = {"num_layers": 1, "vocab_size": -(-tokenizer.vocab_size // 8) * 8, "max_positions": 32}
    return T5Config(**{**tiny.SHAPE, **tiny.NO_DROPOUT, **more, **changes}, head_width=8)


def table(count, seed=0):
    """Words, and the same words the other way round."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(WORDS, rng.integers(2, 6)).tolist() for _ in range(count)]
    sides = {"text": rows, "target": [row[::-1] for row in rows]}
    joined = {name: [" ".join(row) for row in side] for name, side in sides.items()}
    return Table(joined, [f"t:{i + 1}" for i in range(count)])


def others(examples):
    """The lengths that fit all targets, of rows that have some."""
    return boxes(examples.sizes, 1)[0, 1:].tolist()


def batch_of(task, tokenizer, count=8):
    examples = task.encode(table(count), tokenizer, LENGTH, "x").examples
    return examples.rows(np.arange(count), LENGTH, 0, *others(examples))


def with_end(batch, tokenizer):
    return {**batch, END: np.full(len(batch["tokens"]), tokenizer.document_end, np.int32)}


# --- The loss, and what is written --------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_that_of_whole_logits_smoothed_in_training_alone(tokenizer, smoothing):
    """(1 - s) x cross entropy + s x the mean over all ids (Szegedy et al., 2016), in float64."""
    task = Seq2seq(max_target_length=MOST, label_smoothing=smoothing)
    model = Model(config(tokenizer), (CAUSAL_LM,), tiny.FLOAT64)
    batch = batch_of(task, tokenizer)
    with jax.enable_x64(True):
        params = tiny.random_params(model, scale=0.4)
        key = jax.random.key(0)
        outputs = task.forward(model, params, batch, None)
        trained, tried = (
            float(task.sums(model, params, outputs, batch, k).losses["seq2seq"])
            for k in (key, None)
        )
        logits = np.asarray(model.head(params, "causal_lm", outputs["hidden"]))
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        real = batch["targets_segment_ids"] > 0
        exact = -np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0][real].sum()
        even = -logs.mean(-1)[real].sum()
        assert tried == pytest.approx(exact, rel=1e-9)
        assert trained == pytest.approx((1 - smoothing) * exact + smoothing * even, rel=1e-9)
        assert float(task.weights(batch)["seq2seq"]) == real.sum()
        # The decoder reads the start, then what it has written; the encoder's padding is not seen.
        start = np.full((len(logits), 1), model.config.decoder_start_token_id)
        before = np.concatenate([start, batch["targets"][:, :-1]], axis=1)
        side = {"tokens": before, "segment_ids": real * 1, "positions": np.arange(MOST)[None]}
        side["positions"] = np.broadcast_to(np.arange(before.shape[1]), before.shape)
        memory = Memory(model.encode(params, batch), batch["segment_ids"])
        whole = model.head(params, "causal_lm", model.write(params, side, memory))
        np.testing.assert_allclose(np.asarray(whole)[real], logits[real], atol=1e-9)


@pytest.mark.parametrize("beams", [None, Beams(count=3)], ids=["greedy", "beams"])
def test_validation_writes_what_generate_writes_for_each_text_alone(tokenizer, beams):
    task = Seq2seq(max_target_length=MOST, beams=beams)
    model = Model(config(tokenizer), (CAUSAL_LM,))
    params = tiny.random_params(model, seed=3, scale=0.7)
    batch = with_end(batch_of(task, tokenizer, 4), tokenizer)
    made = jax.tree.map(np.asarray, jax.jit(lambda b: task.predict(model, params, {}, b))(batch))
    texts = [row[seen > 0] for row, seen in zip(batch["tokens"], batch["segment_ids"])]
    sampling, ends = Sampling(temperature=0, max_new_tokens=MOST), [tokenizer.document_end]
    if beams is None:
        wanted = generate(model, params, texts, sampling, ends)
    else:
        wanted = beam_search(model, params, texts, sampling, beams, ends)
    assert len({text.tokens.tobytes() for text in wanted}) > 1, "it must not say one thing always"
    names = ("written", "length", "log_probability")
    for row, length, score, text in zip(*(made[name] for name in names), wanted, strict=True):
        assert row[:length].tolist() == text.tokens.tolist()
        assert score == pytest.approx(text.log_probability, abs=1e-4)


def packed(tokenizer, count=12):
    """(the rows of pairs by themselves, several a row) as batches."""
    task = Seq2seq(max_target_length=LENGTH, packing=True)
    made = [task.encode(table(count), tokenizer, LENGTH, split) for split in ("x", "train")]
    batches = []
    for encoded in made:
        examples = encoded.examples
        chosen = np.where(np.arange(count) < examples.num_rows, np.arange(count), -1)
        batches.append(examples.rows(chosen, LENGTH, 0, *others(examples)))
    assert sum(len(row.parts) for row in made[1].references) == count
    assert made[1].examples.num_rows < count / 2
    return task, batches


@pytest.mark.parametrize("family", [T5Config, BartConfig])
def test_pairs_in_one_row_are_learnt_as_each_alone(tokenizer, family):
    task, batches = packed(tokenizer)
    own = config(tokenizer) if family is T5Config else None
    own = own or BartConfig(**{**tiny.SHAPE, **tiny.NO_DROPOUT, "vocab_size": 304})
    model = Model(own, (CAUSAL_LM,), tiny.FLOAT64)
    with jax.enable_x64(True):
        params = tiny.random_params(model, scale=0.4)

        def loss(params, batch):
            outputs = task.forward(model, params, batch, None)
            return task.sums(model, params, outputs, batch).losses["seq2seq"]

        (alone, slopes), (together, others) = (
            jax.jit(jax.value_and_grad(loss))(params, batch) for batch in batches
        )
    assert float(together) == pytest.approx(float(alone), rel=1e-9)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9)
    jax.tree.map(close, others, slopes)
    weights = [float(task.weights(batch)["seq2seq"]) for batch in batches]
    assert weights[0] == weights[1]


def test_models_of_one_stack_do_not_pack(tokenizer):
    with pytest.raises(UserError, match="pairs are not packed"):
        Seq2seq(packing=True).check(one_stack(tokenizer), tiny.WORDS)


# --- Models of one stack ------------------------------------------------------------------------


def one_stack(tokenizer, **changes):
    size = -(-tokenizer.vocab_size // 8) * 8
    shape = {"vocab_size": size, "num_layers": 1, "max_positions": LENGTH + MOST, **changes}
    return tiny.gpt2(**shape)


def rows_by_hand(batch):
    """Of each text: its row, and how many tokens of it are read."""
    parts = [
        [batch[a][i][batch[b][i] > 0] for i in range(len(batch["tokens"]))]
        for a, b in (("tokens", "segment_ids"), ("targets", "targets_segment_ids"))
    ]
    return [(np.concatenate(both), len(both[0])) for both in zip(*parts)]


@functools.partial(jax.jit, static_argnums=(0, 3))
def whole_pass(model, params, batch, visible):
    pattern = Pattern(causal=True, prefix=True) if visible else None
    return model.head(params, "causal_lm", model.encode(params, batch, None, pattern))


def logits_of(model, params, row, read, visible):
    """Of a whole pass over one row."""
    one = tiny.rows([[row]], length=LENGTH + MOST)
    one["prefix"] = (np.arange(LENGTH + MOST) < read).astype(np.int32)[None]
    return np.asarray(whole_pass(model, params, one, visible))[0, : len(row)]


@pytest.mark.parametrize("visible", [True, False], ids=["prefix", "causal"])
def test_a_decoder_learns_what_is_written_alone(tokenizer, visible):
    task = Seq2seq(max_target_length=MOST, prefix_visible=visible)
    model = Model(one_stack(tokenizer), (CAUSAL_LM,), tiny.FLOAT64)
    batch = batch_of(task, tokenizer, 4)
    with jax.enable_x64(True):
        params = tiny.random_params(model, scale=0.4)
        outputs = task.forward(model, params, batch, None)
        loss = float(task.sums(model, params, outputs, batch).losses["seq2seq"])
        wanted = 0.0
        for row, read in rows_by_hand(batch):
            logits = logits_of(model, params, row, read, visible)
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            places = np.arange(read - 1, len(row) - 1)
            wanted -= logs[places, row[places + 1]].sum()
        assert loss == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("visible", [True, False], ids=["prefix", "causal"])
def test_a_decoder_writes_the_likeliest_tokens_of_whole_passes(tokenizer, visible):
    task = Seq2seq(max_target_length=6, prefix_visible=visible)
    model = Model(one_stack(tokenizer), (CAUSAL_LM,))
    params = tiny.random_params(model, seed=5, scale=0.7)
    batch = with_end(batch_of(task, tokenizer, 3), tokenizer)
    made = jax.jit(lambda b: task.predict(model, params, {}, b))(batch)
    known = []
    for i, (row, read) in enumerate(rows_by_hand(batch)):
        row = row[:read]
        for _ in range(6):
            token = logits_of(model, params, row, read, visible)[-1].argmax()
            row = np.append(row, token)
            if token == tokenizer.document_end:
                break
        wanted = row[read:].tolist()
        wanted = wanted[:-1] if wanted[-1] == tokenizer.document_end else wanted
        assert made["written"][i][: made["length"][i]].tolist() == wanted
        known.append(tuple(wanted))
    assert len(set(known)) > 1


def test_a_decoder_without_room_for_both_is_refused(tokenizer):
    task = Seq2seq(max_target_length=MOST)
    model = Model(one_stack(tokenizer, max_positions=20), (CAUSAL_LM,))
    batch = batch_of(task, tokenizer, 2)
    with pytest.raises(UserError, match="together") as raised:
        task.forward(model, tiny.random_params(model), batch, None)
    assert "task.max_target_length" in raised.value.where
    with pytest.raises(UserError, match="cannot write"):
        task.check(tiny.bert(), tiny.WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["T5", "GPT-2"])
def test_what_is_written_is_the_same_on_one_device_and_on_eight(tokenizer, family):
    """With a cache, which lies over the mesh, too. Steps are in test_on_meshes.py."""
    task = Seq2seq(max_target_length=MOST)
    own = config(tokenizer) if family == "T5" else one_stack(tokenizer)
    model, made = Model(own, task.heads), []
    batch = with_end(batch_of(task, tokenizer), tokenizer)
    # Parameters whose likeliest tokens are no ties.
    params = tiny.random_params(model, seed=3, scale=0.7)
    for over in (tiny.mesh(), tiny.mesh(2, 2, 2)):
        with jax.set_mesh(over):
            rows = jax.device_put(batch, batch_sharding(over))
            written = jax.jit(lambda p, b: task.predict(model, p, {}, b))
            made.append(jax.device_get(written(tiny.shard_params(model, params, over), rows)))
    one, eight = made
    assert len({row.tobytes() for row in one["written"]}) > 1, "it must not say one thing always"
    assert np.array_equal(eight["length"], one["length"])
    assert np.array_equal(eight["written"], one["written"])
    near = pytest.approx(one["log_probability"], rel=1e-5)
    assert eight["log_probability"] == near


# --- What is refused ----------------------------------------------------------------------------


def test_what_cannot_be_written_is_refused(tokenizer):
    with pytest.raises(UserError, match="longer than the model's positions") as raised:
        Seq2seq(max_target_length=40).check(config(tokenizer), tiny.WORDS)
    assert raised.value.where == "task.max_target_length"
    with pytest.raises(UserError, match="language model's head"):
        Seq2seq(head="mine")
    empty = table(3)
    empty.columns["target"][1] = " "
    with pytest.raises(UserError, match="a text is empty") as raised:
        Seq2seq().encode(empty, tokenizer, LENGTH, "train")
    assert raised.value.where == "t:2, column target"


def test_targets_that_are_cut_are_told_with_what_to_set(tokenizer):
    encoded = Seq2seq(max_target_length=4).encode(table(20), tokenizer, LENGTH, "train")
    (note,) = encoded.notes
    assert "task.max_target_length" in note and "train, targets" in note
    lengths = np.diff(encoded.examples.sides["targets"].starts)
    assert lengths.max() == 4


# --- Classes, by their names ---------------------------------------------------------------------


NAMED = ("Old dog", "a cat", "a man")


def classes(count, column=NAMED):
    """Texts that begin with one of three words, and the names of these."""
    first = [("dog", "cat", "man")[i % 3] for i in range(count)]
    texts = [f"{word} {WORDS[i % 8]} {WORDS[(3 * i) % 8]}" for i, word in enumerate(first)]
    targets = [column[i % 3] for i in range(count)]
    return Table({"text": texts, "target": targets}, [f"t:{i + 1}" for i in range(count)])


@pytest.mark.parametrize("beams", [None, Beams(count=2)])
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_with_choices_whatever_is_written_is_one_of_them(tokenizer, family, beams):
    """By a model of random parameters, which would write anything; the likeliest one is written by
    beams that hold them all."""
    task = Seq2seq(choices="targets", max_target_length=6, beams=beams).learn_labels(classes(9))
    assert task.choices == tuple(sorted(NAMED)) and task.metric == "exact_match"
    encoded = task.encode(classes(9), tokenizer, LENGTH, "x")
    batch = with_end(
        encoded.examples.rows(np.arange(9), LENGTH, 0, *others(encoded.examples)), tokenizer
    )
    shape = config(tokenizer) if family == "t5" else tiny.gpt2(vocab_size=304, max_positions=32)
    model = Model(shape, (CAUSAL_LM,))
    params = tiny.random_params(model, scale=0.5)
    made = jax.jit(lambda p, b: task.predict(model, p, {}, b))(params, batch)
    made = jax.tree.map(np.asarray, made)
    texts = task.written(made, encoded.references)
    assert {*texts} <= {*NAMED}
    free = dataclasses.replace(task, choices=None)
    bare = {name: x for name, x in batch.items() if not name.startswith("choice_")}
    other = jax.jit(lambda p, b: free.predict(model, p, {}, b))(params, bare)
    assert not {*free.written(jax.tree.map(np.asarray, other), encoded.references)} & {*NAMED}
    scores = task.scores(made, encoded.references)
    right = np.mean([a == b.text for a, b in zip(texts, encoded.references)])
    assert scores["accuracy"] == scores["exact_match"] == pytest.approx(right)
    assert "macro_f1" in scores


def test_several_choices_are_written_one_after_the_other(tokenizer):
    """Tags of words, whose names are pieces here; one is the beginning of another's."""
    names = ("DET", "DETS", "NOUN")
    words = {"the": "DET", "a": "DETS", "cat": "NOUN", "dog": "NOUN"}
    texts = ["the cat", "a dog the cat", "a cat a dog"] * 3
    targets = [" ".join(words[word] for word in text.split()) for text in texts]
    given = Table({"text": texts, "target": targets}, [f"t:{i + 1}" for i in range(9)])
    byte_bpe = toy.train_toy_tokenizer("byte_bpe")
    task = Seq2seq(choices="targets", several=True, max_target_length=30).learn_labels(given)
    assert task.choices == names
    encoded = task.encode(given, byte_bpe, LENGTH, "x")
    batch = with_end(
        encoded.examples.rows(np.arange(9), LENGTH, 0, *others(encoded.examples)), byte_bpe
    )
    model = Model(tiny.gpt2(vocab_size=304, max_positions=64), (CAUSAL_LM,))
    params = tiny.random_params(model, seed=2, scale=0.5)
    made = jax.jit(lambda p, b: task.predict(model, p, {}, b))(params, batch)
    made = jax.tree.map(np.asarray, made)
    texts = task.written(made, encoded.references)
    assert all({*text.split()} <= {*names} for text in texts) and max(map(len, texts)) > 4
    scores = task.scores(made, encoded.references)
    right = [
        a == b
        for text, want in zip(texts, targets)
        for a, b in zip([*text.split(), *[""] * 9], want.split())
    ]
    assert scores["accuracy"] == pytest.approx(np.mean(right))
    with pytest.raises(UserError, match="no space in it"):
        Seq2seq(choices=("a b", "c"), several=True).learn_labels(given)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"choices": ("a cat", "a man")}, "a target is none of the texts"),
        ({"choices": ("a cat", "a cat", *NAMED)}, "not several different texts"),
        ({"choices": "targets", "max_target_length": 2}, "too long"),
        ({"choices": (*NAMED, "a  cat")}, "one to this tokenizer"),
    ],
)
def test_choices_that_cannot_be_kept_are_refused(tokenizer, change, error):
    with pytest.raises(UserError, match=error):
        task = Seq2seq(**change).learn_labels(classes(9))
        task.encode(classes(9), tokenizer, LENGTH, "x")


def test_a_target_of_another_split_that_is_no_choice_is_refused(tokenizer):
    task = Seq2seq(choices="targets", max_target_length=6).learn_labels(classes(9))
    with pytest.raises(UserError, match="a target is none") as error:
        task.encode(classes(9, ("a fish", *NAMED[1:])), tokenizer, LENGTH, "test")
    assert error.value.where == "t:1, column target"


# --- A run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    pairs = table(150)
    lines = [json.dumps(dict(zip(pairs.columns, row))) for row in zip(*pairs.columns.values())]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    train_run(configured(folder, words, "run"), lambda text: None)
    return folder


def configured(folder, words, out):
    recipe = {
        "out": str(folder / out),
        "model": {**toy.recipe(words, folder)["model"], "name": "t5", "head_width": 8},
        "task": {"name": "seq2seq", "max_target_length": MOST, "scored_by": "exact_match"},
        "tokenizer": str(words / "tokenizer"),
        "data": {
            "tables": {
                "train": {"name": "file", "path": str(folder / "pairs.jsonl")},
                "validation_fraction": 0.2,
            },
            "max_length": LENGTH,
            "batch_size": 8,
            "row_lengths": 1,
        },
        "optimizer": {"learning_rate": 0.01},
        "train": {"epochs": 2},
        "checkpoint": {"every": 10, "keep_last": 9},
        "logging": {"every": 5, "tensorboard": False, "progress": False, "compare_full": False},
    }
    return load_config([recipe], (), FINETUNE)


def test_a_run_learns_and_its_scores_are_those_of_what_it_writes(place):
    held = toy.rows_of(place / "run", "validation")
    assert held[-1]["loss"] < held[0]["loss"]
    assert {"bleu", "chrf", "rougeL", "exact_match"} <= held[-1].keys()
    scores = json.loads((place / "run" / "scores.json").read_text())["splits"]["validation"]
    assert scores["scores"].keys() >= {"bleu", "exact_match"}
    pairs = table(150)
    lines = [json.dumps({"text": text}) for text in pairs.columns["text"][:3]]
    (place / "in.jsonl").write_text("\n".join(lines) + "\n")
    predict(place / "run", place / "in.jsonl", place / "out.jsonl", note=lambda text: None)
    rows = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    trained = open_run(place / "run")
    tokenizer = trained.tokenizer
    encoded = Seq2seq().encode(pairs, tokenizer, LENGTH, "x").examples
    texts = [encoded.tokens[a:b] for a, b in zip(encoded.starts, encoded.starts[1:])][:3]
    with trained.in_use():
        wanted = generate(
            trained.model,
            trained.params,
            texts,
            Sampling(temperature=0, max_new_tokens=MOST),
            [tokenizer.document_end],
        )
    for row, made in zip(rows, wanted, strict=True):
        assert row["text"] == tokenizer.decode(made.tokens).strip()


def test_transformers_writes_what_an_exported_run_writes(place):
    transformers = pytest.importorskip("transformers", reason="the reference")
    torch = pytest.importorskip("torch", reason="the reference runs on it")
    changed = ['task.prompt="read "']
    assert export(place / "run", place / "hf", layers=changed) == "T5ForConditionalGeneration"
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(place / "hf").eval()
    assert theirs.config.task_specific_params == {"seq2seq": {"prefix": "read "}}
    trained = open_run(place / "run")
    encoded = Seq2seq().encode(table(150), trained.tokenizer, LENGTH, "x").examples
    tokens = transformers.AutoTokenizer.from_pretrained(place / "hf")
    for text, a, b in list(zip(table(150).columns["text"], encoded.starts, encoded.starts[1:]))[:3]:
        assert tokens(text).input_ids == encoded.tokens[a:b].tolist()
        ids, most = encoded.tokens[a:b], Sampling(temperature=0, max_new_tokens=MOST)
        with trained.in_use():
            end = [trained.tokenizer.document_end]
            (ours,) = generate(trained.model, trained.params, [ids], most, end)
        inputs = torch.tensor(ids)[None].long()
        written = theirs.generate(inputs, max_new_tokens=MOST, do_sample=False, num_beams=1)
        written = written[0, 1:].tolist()
        assert written[: len(ours.tokens)] == ours.tokens.tolist() and len(ours.tokens)


def test_a_killed_run_ends_with_the_same_bits(place, words):
    again = place / "again"
    shutil.copytree(place / "run", again)
    steps = sorted(
        int(path.name) for path in (again / "checkpoints").iterdir() if path.name.isdigit()
    )
    assert len(steps) > 1
    shutil.rmtree(again / "checkpoints" / str(steps[-1]))
    config = configured(place, words, "run")
    train_run(dataclasses.replace(config, out=str(again)), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, steps[-1]), toy.restored(place / "run", steps[-1]))
    assert toy.rows_of(again, "validation") == toy.rows_of(place / "run", "validation")


SIX = ("train.steps=6", "train.epochs=null", "checkpoint.every=3")
SIX += ("evaluation.every=3", "evaluation.every_epochs=null")


def test_a_killed_run_that_searches_ends_with_the_same_bits_and_scores(place, words):
    """Validation with beams is part of what chooses the best checkpoint."""
    settings = (*SIX, "task.beams.count=2", "task.beams.length_penalty=mean")
    plain = to_dict(configured(place, words, "searched"))
    whole = load_config([plain], settings, FINETUNE)
    train_run(whole, lambda text: None)
    again = shutil.copytree(place / "searched", place / "searched-again")
    shutil.rmtree(again / "checkpoints" / "6")
    train_run(dataclasses.replace(whole, out=str(again)), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, 6), toy.restored(place / "searched", 6))
    rows = toy.rows_of(place / "searched", "validation")
    assert [row["step"] for row in rows] == [3, 6] and {"bleu", "chrf"} <= rows[0].keys()
    assert toy.rows_of(again, "validation") == rows
    found = [json.loads((out / "scores.json").read_text()) for out in (again, place / "searched")]
    assert found[0]["splits"] == found[1]["splits"]


def test_virtual_tokens_before_what_is_read_are_all_that_is_trained(place, words):
    """The prompt stands before the encoder's text, and goes on over a kill."""
    wanted = (f"init.from={place / 'run'}", "peft.name=prompt", "peft.length=3")
    config = load_config([to_dict(configured(place, words, "prompted"))], (*SIX, *wanted), FINETUNE)
    train_run(config, lambda text: None)
    before, after = (
        {name: np.asarray(x) for name, x in flatten(open_run(place / run, step).params).items()}
        for run, step in (("run", "best"), ("prompted", "last"))
    )
    assert all(np.array_equal(after[name], x) for name, x in before.items())
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"adapters"}
    again = shutil.copytree(place / "prompted", place / "prompted-again")
    shutil.rmtree(again / "checkpoints" / "6")
    train_run(dataclasses.replace(config, out=str(again)), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, 6), toy.restored(place / "prompted", 6))
    assert toy.rows_of(again, "validation") == toy.rows_of(place / "prompted", "validation")


def test_it_is_tuned_by_lora_whose_head_stays_as_it_was(place, words):
    """Adapters in both stacks and in cross-attention; the language model's head is not a task's."""
    steps = (*SIX, f"init.from={place / 'run'}")
    wanted = ("peft.name=lora", "peft.targets=[query,value,cross_attention/output]")
    first = load_config([to_dict(configured(place, words, "tuned"))], (*steps, *wanted), FINETUNE)
    train_run(first, lambda text: None)
    kept = {name.split("']['")[1].rstrip("']") for name in params_of(place / "tuned", 6)}
    assert kept == {"adapters"}
    modules = {name.rsplit("['", 1)[0] for name in params_of(place / "tuned", 6)}
    assert sum("cross_attention']['output" in name for name in modules) == 1
    before, after = (
        {name: np.asarray(x) for name, x in flatten(open_run(place / run, step).params).items()}
        for run, step in (("run", "best"), ("tuned", "last"))
    )
    assert all(np.array_equal(after[name], x) for name, x in before.items())
    again = shutil.copytree(place / "tuned", place / "tuned-again")
    shutil.rmtree(again / "checkpoints" / "6")
    train_run(dataclasses.replace(first, out=str(again)), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, 6), toy.restored(place / "tuned", 6))
    assert toy.rows_of(again, "validation") == toy.rows_of(place / "tuned", "validation")
    merge(place / "tuned", place / "merged", say=lambda text: None)
    one, other = (evaluate_run(place / run) for run in ("tuned", "merged"))
    assert other["loss"] == pytest.approx(one["loss"], rel=3e-6)
    assert other["exact_match"] == one["exact_match"]


def params_of(run, step):
    return [name for name in toy.restored(run, step) if name.startswith("['params']")]
