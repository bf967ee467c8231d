"""Fine-tuning a tagger end to end: long sentences in windows, scores as from the file itself."""

import json

import jax
import numpy as np
import pytest

from jaxssl.commands import predict
from jaxssl.core.errors import UserError
from jaxssl.program.step import make_eval_step
from jaxssl.run.build import build
from jaxssl.run.feeds import read_split
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.scores.spans import entity_scores
from jaxssl.train.evaluation import in_order

KINDS = {"PER": ["my sister", "the old man"], "ANI": ["every bird", "a dog", "one green fish"]}
OTHER = ["sees", "near", "in the garden", "at home", "under the table", "likes", "follows"]

MODEL = {"name": "bert", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_positions": 16}
MODEL |= {"intermediate_size": 32, "dropout": 0.0, "attention_dropout": 0.0}
TASK = {"name": "tag", "scheme": "IOB1", "train_scheme": "BIOES", "stride": 4, "dropout": 0.0}


def write_conll(path, count, seed):
    """Sentences of 2 to 30 words; what an entity is depends on words next to each other, too: `the`
    begins one before `old` and none before `table` or after `in`. IOB1, as CoNLL-2003 has it."""
    rng, lines = np.random.default_rng(seed), []
    for _ in range(count):
        before = None
        for _ in range(rng.integers(2, 11)):
            kind = rng.choice([*KINDS, None, None])
            words = str(rng.choice(KINDS.get(kind, OTHER))).split()
            for i, word in enumerate(words):
                prefix = "B" if i == 0 and kind == before else "I"
                lines.append(f"{word}\t{prefix}-{kind}" if kind else f"{word}\tO")
            before = kind
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def read_conll(path):
    blocks = path.read_text().strip().split("\n\n")
    return [[line.split("\t") for line in block.split("\n")] for block in blocks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tag")
    write_conll(path / "train.conll", 120, 0)
    write_conll(path / "test.conll", 30, 1)
    return path


def configured(words, folder, out, *overrides):
    size = json.loads((words / "manifest.json").read_text())["vocab_size"]
    recipe = {
        "out": str(out),
        "tokenizer": str(words / "tokenizer"),
        "model": {**MODEL, "vocab_size": -(-size // 8) * 8},
        "task": TASK,
        "data": {
            "tables": {
                "train": {"name": "file", "path": str(folder / "train.conll")},
                "test": {"name": "file", "path": str(folder / "test.conll")},
            },
            "max_length": 16,
            "batch_size": 8,
            "row_lengths": 2,
        },
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 8},
        "evaluation": {"every_epochs": 4},
        "logging": {"every": 20, "tensorboard": False, "progress": False},
    }
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(recipe))
    return load_config([path], overrides, FINETUNE)


@pytest.fixture(scope="module")
def tagger(words, folder, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("tagger") / "run", []
    outcome = train_run(configured(words, folder, out), said.append)
    return out, outcome, said


def test_a_tagger_learns_with_long_sentences_in_windows(tagger):
    _, outcome, said = tagger
    assert outcome.validation["f1"] > 0.9 and outcome.validation["f1/ANI"] > 0.9
    notes = [line for line in said if "sentences are longer than a row" in line]
    assert [note.split(":")[0] for note in notes] == ["train", "validation", "test"]
    assert any("9 tags in BIOES" in line for line in said)
    assert any("rows of 8, 16 tokens" in line for line in said)


def test_scores_are_those_of_the_outputs_against_the_file(tagger, folder):
    opened = open_run(tagger[0], "last")
    task = opened.config.objective
    data = read_split(opened.config.labelled, opened.tokenizer, "test")
    step = jax.jit(make_eval_step(opened.model, task, opened.vocabulary, seed=0))
    with jax.set_mesh(opened.mesh):
        batches = data.eval_batches(8, np.arange(8))
        rows = [jax.device_get(step(opened.params, batch))["rows"] for batch in batches]
    chosen, predictions = in_order(rows)
    outputs = task.outputs(predictions, data.references(chosen))
    in_file = read_conll(folder / "test.conll")
    assert [row["words"] for row in outputs] == [[word for word, _ in s] for s in in_file]
    assert data.num_rows > len(in_file)
    gold = [[tag for _, tag in sentence] for sentence in in_file]
    expected = entity_scores([row["tags"] for row in outputs], gold, "IOB1", "conlleval")
    values = evaluate_run(tagger[0], split="test", step="last")
    for name in ("precision", "recall", "f1", "accuracy"):
        assert values[name] == expected[name], name
    assert values["f1"] > 0.9 and values["rows"] == data.num_rows
    probabilities = [p for row in outputs for p in row["probabilities"]]
    assert len(probabilities) == sum(map(len, in_file)) and 1 / 9 <= min(probabilities)


def test_predict_writes_the_tags_that_are_scored_for_each_sentence(
    tagger, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "CHUNK_ROWS", 8)
    given, out = folder / "test.conll", tmp_path / "out.jsonl"
    assert predict.predict(tagger[0], given, out, step="last") == 30
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    in_file = read_conll(given)
    gold = [[tag for _, tag in sentence] for sentence in in_file]
    assert [row["input_tags"] for row in rows] == gold
    assert [row["words"] for row in rows] == [[word for word, _ in s] for s in in_file]
    values = evaluate_run(tagger[0], split="test", step="last")
    scores = entity_scores([row["tags"] for row in rows], gold, "IOB1", "conlleval")
    assert scores["f1"] == values["f1"] and scores["accuracy"] == values["accuracy"]
    (tmp_path / "t.txt").write_text("".join(" ".join(row["words"]) + "\n" for row in rows))
    predict.predict(tagger[0], tmp_path / "t.txt", tmp_path / "t.jsonl", step="last")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert [json.loads(line)["tags"] for line in lines] == [row["tags"] for row in rows]


def test_scores_do_not_depend_on_the_number_of_devices(tagger):
    layers = [[f"mesh.data={n}", f"mesh.fsdp={8 // n}"] for n in (1, 8)]
    one, eight = (evaluate_run(tagger[0], step="last", layers=x) for x in layers)
    assert one.keys() == eight.keys()
    for name, value in one.items():
        assert eight[name] == pytest.approx(value, rel=1e-5), name


def test_other_labels_are_other_data(words, folder, tmp_path):
    (tmp_path / "test.conll").write_text((folder / "test.conll").read_text())
    text = (folder / "train.conll").read_text()
    checksums = []
    for swapped in (text, text.replace("-PER", "-X").replace("-ANI", "-PER").replace("-X", "-ANI")):
        (tmp_path / "train.conll").write_text(swapped)
        prepared = build(configured(words, tmp_path, tmp_path / "run"))
        checksums.append(prepared.data)
    assert checksums[0] != checksums[1]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["task.scheme=IOB2", "task.train_scheme=null"], r"(?s)not legal IOB2.*train.conll:"),
        (["task.label=ner_tags"], r"no such column"),
        (
            ["task.words=text", "task.label=ner_tags"],
            r"(?s)no such columns.*task.words, task.label, in .*train.conll.*'text', 'ner_tags'",
        ),
        (["task.stride=9"], "share more than half"),
        (["model.name=gpt2"], "causal"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(words, folder, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        config = configured(words, folder, tmp_path / "run", *overrides)
        build(config)
    assert not (tmp_path / "run").exists()
