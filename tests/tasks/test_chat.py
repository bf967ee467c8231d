"""The task of conversations: its loss, alone and packed, its scores, and runs from end to end."""

import dataclasses
import json
import math
import shutil
from collections import Counter

import jax
import numpy as np
import pytest
import talks
import tiny
import toy

from jaxssl.commands.export import export
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.chat_template import ChatTemplate, own_template, with_template
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.generate.decode import generate
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run
from jaxssl.tasks.chat import GREEDY, Chat

LENGTH = 120


@pytest.fixture(scope="module")
def tokenizer():
    return with_template(talks.tokenizer(), "chatml")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return talks.shared_run(tmp_path_factory)


def table(count, seed=0):
    made = talks.conversations(count, seed)
    return Table({"messages": made}, [f"chats:{i + 1}" for i in range(count)])


def batch_of(task, tokenizer, count, split):
    rows = task.encode(table(count), tokenizer, LENGTH, split).examples
    indices = np.arange(count)  # as many for both splits: one shape is compiled
    made = rows.rows(np.where(indices < rows.num_rows, indices, -1), LENGTH, 0)
    return tiny.corrupted(task, made)


# --- The loss -----------------------------------------------------------------------------------


def test_the_loss_is_that_of_answers_and_packing_changes_nothing(tokenizer):
    """Against log-softmax over whole logits of each conversation by itself, in float64."""
    task = Chat(chunk=50)
    model = Model(tiny.gpt2(vocab_size=304, max_positions=LENGTH), (CAUSAL_LM,), tiny.FLOAT64)
    template = ChatTemplate(tokenizer)
    with jax.enable_x64(True):
        params = tiny.random_params(model, scale=0.4)

        def measured(batch):
            outputs = task.forward(model, params, batch, None)
            made = task.sums(model, params, outputs, batch)
            rows = task.predict(model, params, outputs, batch)
            return made.losses["chat"], task.weights(batch)["chat"], outputs["hidden"], rows

        packed, alone = (batch_of(task, tokenizer, 12, split) for split in ("train", "validation"))
        assert packed["example_weights"].sum() < alone["example_weights"].sum() == 12
        measured = jax.jit(measured)
        loss, weight, hidden, rows = measured(packed)
        wanted, count = 0.0, 0
        lengths = alone["segment_ids"].sum(axis=1)
        apart = model.head(params, "causal_lm", measured(alone)[2])
        for talk, logits, length in zip(talks.conversations(12), apart, lengths):
            ids, learnt = template.written(talk, "here")
            assert len(ids) == length
            logits = np.asarray(logits)[: length - 1]
            logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            wanted -= float(np.sum(logs[np.arange(length - 1), ids[1:]] * learnt[1:]))
            count += learnt.sum()
        assert weight == count and float(loss) == pytest.approx(wanted, rel=1e-9)
        assert float(rows["nats"].sum()) == pytest.approx(wanted, rel=1e-5)
        # Another conversation beside it is not seen.
        other = {**packed, "tokens": packed["tokens"].copy()}
        first = packed["segment_ids"] == 1
        other["tokens"][first] = 7
        changed = np.abs(np.asarray(measured(other)[2] - hidden)).max(axis=-1)
        assert changed[first].min() > 0 and (changed[packed["segment_ids"] > 1] == 0).all()


def test_a_row_that_packs_has_no_loss_across_its_borders(tokenizer):
    batch = batch_of(Chat(), tokenizer, 12, "train")
    weights, segments = np.asarray(batch["next_weights"]), batch["segment_ids"]
    borders = segments[:, 1:] != segments[:, :-1]
    assert borders.any() and (weights[:, :-1][borders] == 0).all()
    assert weights.sum() == batch["learnt"].sum()


# --- Scores and what is refused -----------------------------------------------------------------


def test_scores_are_functions_of_sums_and_the_baseline_counts_tokens(tokenizer):
    task = Chat()
    train, held = (task.encode(table(9, s), tokenizer, LENGTH, "x").references for s in (0, 1))
    counts = Counter(i for x in train for i in x.tokens.tolist())
    kinds = len({*counts, *(i for x in held for i in x.tokens.tolist())})
    total = sum(counts.values()) + kinds
    nats = [math.log(total / (counts[i] + 1)) for x in held for i in x.tokens.tolist()]
    scores = task.baseline_scores(train, held)
    assert scores["perplexity"] == pytest.approx(math.exp(np.mean(nats)))
    assert task.is_lower_better(task.metric)
    predictions = task.majority_baseline(train, held)
    found = task.from_tallies(task.tallies(predictions, held).sum(axis=0))
    assert found == pytest.approx(scores["perplexity"])
    most = counts.most_common(1)[0][0]
    share = np.mean([i == most for x in held for i in x.tokens.tolist()])
    assert scores["token_accuracy"] == pytest.approx(share)


def test_models_that_cannot_answer_are_refused():
    for model in (tiny.bert(), tiny.gpt2()):
        if model.causal:
            Chat().check(model, tiny.WORDS)
            continue
        with pytest.raises(UserError, match="cannot be talked to"):
            Chat().check(model, tiny.WORDS)
    with pytest.raises(UserError, match="language model's head"):
        Chat(head="mine")


# --- Runs ---------------------------------------------------------------------------------------


def test_a_run_learns_and_keeps_its_template(place):
    train, held = (toy.rows_of(place / "run", kind) for kind in ("train", "validation"))
    assert train[-1]["loss"] < train[0]["loss"]
    last = held[-1]
    assert last["perplexity"] == pytest.approx(math.exp(last["loss/chat"]), rel=1e-4)
    assert 0 < last["token_accuracy"] == pytest.approx(last["accuracy/chat"])
    kept = load_tokenizer(place / "run" / "tokenizer")
    assert "<|im_start|>" in str(own_template(kept))
    assert last["perplexity"] < held[0]["perplexity"]
    found = json.loads((place / "run" / "scores.json").read_text())["splits"]["validation"]
    assert found["baseline"].keys() <= found["scores"].keys()


def test_a_resumed_run_ends_with_the_same_bits(place, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(place / "run", again)
    shutil.rmtree(again / "checkpoints" / "20")
    config = talks.configured(place / "run", place / "tokens", place / "talks.jsonl")
    train_run(dataclasses.replace(config, out=str(again)), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, 20), toy.restored(place / "run", 20))


def test_predictions_are_what_is_written_after_the_prompt(place, tmp_path):
    asked = [*talks.conversations(3, seed=5), [{"role": "user", "content": "the cat " * 60}]]
    talks.write(tmp_path / "in.jsonl", asked)
    told = []
    assert predict(place / "run", tmp_path / "in.jsonl", tmp_path / "out.jsonl", note=told.append)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[3].get("answer") is None and any("get no answer" in text for text in told)
    trained = open_run(place / "run")
    template = ChatTemplate(trained.tokenizer)
    prompts = [template.prompt(talk[:-1], "here") for talk in asked[:3]]
    with trained.in_use():
        wanted = generate(
            trained.model,
            trained.params,
            prompts,
            dataclasses.replace(GREEDY, max_new_tokens=16),
            [template.end],
        )
    for row, made in zip(rows, wanted):
        assert row["answer"] == trained.tokenizer.decode(made.tokens).strip()
        assert row["log_probability"] == pytest.approx(made.log_probability, abs=1e-3)


def test_a_conversation_without_an_answer_is_refused_with_its_line(place, tmp_path):
    path = talks.write(
        tmp_path / "t.jsonl", [*talks.conversations(9), [talks.conversations(1)[0][0]]]
    )
    with pytest.raises(UserError, match="without an answer") as raised:
        train_run(talks.configured(tmp_path / "run", place / "tokens", path), lambda text: None)
    assert raised.value.where.endswith("t.jsonl:10")


def test_a_run_is_exported_with_its_template(place, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference")
    assert export(place / "run", tmp_path / "hf") == "GPT2LMHeadModel"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    talk = [{"role": "user", "content": "the cat"}]
    ours = own_template(load_tokenizer(place / "run" / "tokenizer"))
    assert theirs.chat_template == str(ours) and "<|im_start|>" in str(ours)
    assert theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=False).endswith(
        "<|im_start|>assistant\n"
    )
