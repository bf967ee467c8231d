"""A pretrained toy model, a labelled table, and fine-tuning runs of a few seconds over them."""

import json

import numpy as np
import pytest
import toy

from jaxssl.core.names import flatten
from jaxssl.run.open import open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run

LABELS = ("animal", "person")


def write_table(path, count, seed=0):
    """Sentences about animals or people, as CSV: the first words give the label away."""
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for _ in range(count):
        is_person = bool(rng.integers(2))
        subject = rng.choice(["the old man", "my sister"] if is_person else ["the cat", "a dog"])
        place = rng.choice(["in the garden", "near a river", "at home under the table"])
        lines.append(f"{subject} sees a bird {place},{LABELS[is_person]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def base(words, tmp_path_factory):
    """A BERT of two layers after four steps."""
    overrides = ("train.steps=4", "optimizer.schedule.warmup=1", "evaluation.every=0")

    def make(out):
        train_run(toy.configured(words, out, "bert", *overrides), lambda text: None)

    return toy.shared(tmp_path_factory, "base", make)


@pytest.fixture(scope="session")
def classifier(base, table, tmp_path_factory):
    """Fine-tuned with the pooler, as `BertForSequenceClassification` has one; two epochs."""
    overrides = ("task.pooling=cls", "train.epochs=2")

    def make(out):
        train_run(configured(base, table, out, *overrides), lambda text: None)

    return toy.shared(tmp_path_factory, "classifier", make)


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return toy.shared(tmp_path_factory, "train.csv", lambda path: write_table(path, 90))


def recipe(base, table, out):
    """Of a classifier, as plain values."""
    return {
        "out": str(out),
        "init": {"from": str(base)},
        "task": {"name": "classify", "pooling": "mean"},
        "data": {
            "tables": {"train": {"name": "file", "path": str(table)}, "validation_fraction": 0.2},
            "max_length": 24,
            "batch_size": 8,
            "row_lengths": 1,
        },
        "optimizer": {"learning_rate": 0.02, "weight_decay": 0.1},
        "train": {"epochs": 10},
        "checkpoint": {"every": 20, "keep_last": 9},
        "logging": {"every": 3, "tensorboard": False, "progress": False, "compare_full": False},
    }


def configured(base, table, out, *overrides):
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(recipe(base, table, out)))
    return load_config([path], overrides, FINETUNE)


def whole(run_dir, step="last"):
    """All parameters of a run by name, as numpy arrays."""
    params = open_run(run_dir, step).params
    return {name: np.asarray(x) for name, x in flatten(params).items()}
