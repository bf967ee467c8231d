"""Every task is the same on one device and on eight, and so is LoRA alone: the first gradient and
twenty losses. What is written with a cache is in test_seq2seq.py."""

import dataclasses
import functools

import equal
import numpy as np
import pytest
import relations
import squad_questions
import talks
import tiny
import toy

import jaxssl.tasks.registry  # noqa: F401
from jaxssl.core.registry import choice_name, members
from jaxssl.data.examples import boxes
from jaxssl.data.tokenizer.chat_template import with_template
from jaxssl.models.bart import BartConfig
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.base import Objective
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.run.tokenizers import make_vocabulary
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.chat import Chat
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.seq2seq import Seq2seq
from jaxssl.tasks.similarity import Similarity
from jaxssl.tasks.tag.task import Tag
from jaxssl.transfer.peft.lora import Lora

ROWS, LENGTH, WRITTEN, TALK = 8, 32, 16, 128
TEXTS = {"first": 1, "second": 2, "third": 3}
"""Columns of texts, by the seeds that they are drawn with."""
SHAPE = {**tiny.SHAPE, "num_layers": 1, "dropout": 0.1}
BERT = tiny.bert(dropout=0.1, pooler=False)
POOLED = tiny.bert(dropout=0.1)
GPT2 = tiny.gpt2(dropout=0.1, max_positions=TALK)
T5 = T5Config(head_width=8, relative_buckets=8, **SHAPE)
BART = BartConfig(max_positions=LENGTH, **SHAPE)
LORA = {"lora": Lora(rank=4, targets=("all-linear",), dropout=0.1)}
PAIRS = dict(text="first", pair="second")
WRITES = dict(text="first", target="second", max_target_length=WRITTEN)
RANKED = Ranking(temperature=1.0)  # at 0.05 there is soon nothing to learn, and losses are rounding
CASES = {
    "classify": (Classify(**PAIRS), POOLED, {}),
    "classify, R-Drop": (Classify(**PAIRS, r_drop=0.7, class_weights="balanced"), BERT, {}),
    "classify, LoRA": (Classify(**PAIRS), BERT, LORA),
    "regress": (Regress(text="first", label="number"), GPT2, {}),
    "tag": (Tag(), BERT, {}),
    "relate": (Relate(), BERT, {}),
    "answer": (Answer(max_question=8, overlap=8), BERT, {}),
    "similarity": (Similarity(**PAIRS, negatives=("third",), loss=RANKED), BERT, {}),
    "seq2seq": (Seq2seq(**WRITES), T5, {}),
    "seq2seq, BART, packed": (Seq2seq(**WRITES, packing=True), BART, {}),
    "seq2seq, LoRA": (Seq2seq(**WRITES), T5, LORA),
    "seq2seq, GPT-2": (Seq2seq(**WRITES), GPT2, {}),
    "chat": (Chat(), GPT2, {}),
}


def test_no_task_is_left_out():
    """Nor any other that is not in the objectives' table."""
    own = [kind for kind in members(Objective) if kind.__module__.startswith("jaxssl.")]
    others = [kind for kind in own if not kind.__module__.startswith("jaxssl.objectives.")]
    assert {name.split(",")[0] for name in CASES} == {choice_name(kind) for kind in others}


@functools.cache
def table():
    """Rows that have what all of the tasks read."""
    count, rng = 16, np.random.default_rng(0)
    made = relations.sightings(count)
    made |= {name: sentences(count, seed) for name, seed in TEXTS.items()}
    made["words"] = [text.split() for text in made["first"]]
    made["tags"] = [[str(rng.choice(["O", "B-A", "B-B"])) for _ in row] for row in made["words"]]
    made["label"] = [str(rng.choice(["animal", "person"])) for _ in range(count)]
    made["number"] = rng.uniform(0, 5, count).tolist()
    asked = [squad_questions.question(rng, i) for i in range(count)]
    made |= {name: [row[name] for row in asked] for name in asked[0]}
    made["messages"] = talks.conversations(count)
    return relations.table(made)


def sentences(count, seed):
    return [text[0] for text in toy.documents(count, seed)]


@functools.cache
def tokenizer(name):
    """For a task."""
    if name == "answer":
        return squad_questions.tokenizer()
    if name == "chat":
        return with_template(talks.tokenizer(), "chatml")
    return relations.tokenizer("wordpiece")


def rows(task):
    """Rows of the table, and one at least of padding."""
    length = TALK if task.name == "chat" else LENGTH
    examples = task.encode(table(), tokenizer(task.name), length, "train").examples
    places = np.arange(ROWS)
    chosen = np.where(places < min(examples.num_rows, ROWS - 1), places, -1)
    others = boxes(examples.sizes, 1)[0, 1:].tolist()
    return examples.rows(chosen, length, 0, *others)


@functools.cache
def case(name):
    task, model, peft = CASES[name]
    task = task.learn_labels(table())
    words = tokenizer(task.name)
    model = dataclasses.replace(model, vocab_size=-(-words.vocab_size // 8) * 8)
    return equal.Case(
        objective=task,
        model=model,
        batch=functools.partial(rows, task),
        vocabulary=make_vocabulary(words, model.vocab_size),
        peft=peft,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_the_same_on_one_device_and_on_eight(name, record_property):
    one, eight = (equal.take(case(name), tiny.mesh(**sizes)) for sizes in ({}, equal.EIGHT))
    equal.note(record_property, name, equal.EIGHT, *equal.check(eight, one))
    trained = one.gradient.keys()
    assert len(trained) < len(one.params) if CASES[name][2] else trained == one.params.keys()
    for leaf, value in eight.params.items():
        assert value == pytest.approx(one.params[leaf], abs=1e-5, rel=1e-4), leaf
