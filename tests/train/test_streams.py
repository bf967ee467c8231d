"""Several streams in one run: what each is told, what rests, and that a resumed run is the same."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import toy
import yaml

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant
from jaxssl.optim.sgd import Sgd
from jaxssl.program.program import Stream
from jaxssl.run.build import build, grouped_by_reach
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.classify import Classify

STEPS = 20
PLAIN = Sgd(learning_rate=0.1, schedule=Constant(), momentum=0.0, weight_decay=0.0, clip_norm=None)
MIXTURES = {"jointly": {"name": "jointly"}, "by turns": {"name": "by_turns", "seed": 3}}
HEADS = {"text": "masked_lm", "labels": "classify"}


def table(path):
    """Sentences with a label that their first word decides."""
    texts = ["".join(document) for document in toy.documents(60, seed=5)]
    lines = ["text,label", *(f'"{text}",{"the" if text[0] == "t" else "other"}' for text in texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe(words, csv, out, mixture, **weights):
    """Masked language modelling on a store beside classification of a table."""
    plain = toy.recipe(words, out, "masked")
    text = {"objective": plain.pop("objective"), "data": plain.pop("data")}
    rows = {"tables": {"train": {"name": "file", "path": str(csv)}, "validation_fraction": 0.2}}
    labels = {
        "objective": {"name": "classify", "pooling": "mean", "dropout": 0.0},
        "data": {**rows, "max_length": 16, "batch_size": 8, "row_lengths": 1},
    }
    plain["model"] |= {"dropout": 0.0, "attention_dropout": 0.0}
    plain["checkpoint"] = {"every": 5, "keep_last": 9}
    streams = {"text": text, "labels": labels}
    for name, weight in weights.items():
        streams[name]["weight"] = weight
    return {**plain, "streams": streams, "mixture": mixture}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return table(tmp_path_factory.mktemp("tables") / "labels.csv")


@pytest.fixture(scope="module", params=MIXTURES)
def done(request, words, csv, tmp_path_factory):
    """(its recipe, where it is) of a run to its end."""
    out = tmp_path_factory.mktemp("streams") / "run"
    made = recipe(words, csv, out, MIXTURES[request.param], labels=0.5)
    assert train_run(load_config([made], []), lambda text: None).step == STEPS
    return made, out


@pytest.mark.slow
def test_the_recipe_of_the_page_trains(words, csv, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    made = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    given = recipe(words, csv, tmp_path / "run", None)
    for name, stream in made["streams"].items():
        stream["data"] = given["streams"][name]["data"]
    made |= {key: given[key] for key in ("out", "model", "logging")}
    config = load_config([made], ["train.steps=3", "evaluation.every=0"])
    assert train_run(config, lambda text: None).validation.keys() >= {"labels/accuracy"}


def notes(out, step):
    return json.loads((out / "checkpoints" / str(step) / "meta.json").read_text())


def test_a_resumed_run_ends_with_the_same_bits_and_rows(done, tmp_path):
    """From a checkpoint in the middle, the rows after it in place, as a kill leaves them."""
    made, out = done
    again = tmp_path / "run"
    shutil.copytree(out, again)
    for step in (15, 20):
        shutil.rmtree(again / "checkpoints" / str(step))
    said = []
    train_run(load_config([{**made, "out": str(again)}], []), said.append)
    assert "resuming at step 10" in said
    toy.assert_same_arrays(toy.restored(again, STEPS), toy.restored(out, STEPS))
    assert toy.rows_of(again) == toy.rows_of(out)


def test_each_stream_is_counted_and_told_under_its_name(done):
    made, out = done
    meta, rows = notes(out, STEPS), toy.rows_of(out, "train")
    by_turns = made["mixture"]["name"] == "by_turns"
    assert sum(meta["draws"].values()) == (STEPS if by_turns else 2 * STEPS)
    assert sum(meta["tokens_by_stream"].values()) == meta["tokens"] == rows[-1]["tokens"]
    for name, loss in HEADS.items():
        told = [row[f"{name}/loss/{loss}"] for row in rows if f"{name}/loss/{loss}" in row]
        assert told and np.isfinite(told).all()
        if not by_turns:
            assert len(told) == len(rows)
    if not by_turns:  # the loss of a step is the weighted sum
        for row in rows:
            assert row["loss"] == pytest.approx(row["text/loss"] + 0.5 * row["labels/loss"])
    validation = toy.rows_of(out, "validation")[-1]
    assert {"text/loss/masked_lm", "text/perplexity", "labels/accuracy"} <= validation.keys()


def test_the_trained_run_opens_with_both_heads(done):
    opened = open_run(done[1])
    assert {head.name for head in opened.model.heads} == {"masked_lm", "classify"}


def test_by_turns_what_the_drawn_stream_does_not_reach_rests(words, csv, tmp_path):
    """The head of the other stream keeps value, moments and count, whatever the weight decay."""
    made = recipe(words, csv, tmp_path / "run", MIXTURES["by turns"])
    made["checkpoint"]["every"] = 1
    made["train"]["steps"] = 8
    made["streams"]["text"]["validation"] = made["streams"]["labels"]["validation"] = None
    train_run(load_config([made], []), lambda text: None)
    draws = [notes(tmp_path / "run", step)["draws"] for step in range(1, 9)]
    arrays = [toy.restored(tmp_path / "run", step) for step in range(1, 9)]
    rested = {name: 0 for name in HEADS}
    for before, after, old, new in zip(draws, draws[1:], arrays, arrays[1:]):
        (drawn,) = [name for name in HEADS if after[name] > before[name]]
        for stream, head in HEADS.items():
            of_head = [path for path in old if f"['{head}']" in path]
            assert len(of_head) >= 6, "values and two moments of a kernel and a bias"
            same = [old[path].tobytes() == new[path].tobytes() for path in of_head]
            assert not any(same) if stream == drawn else all(same)
            rested[stream] += stream != drawn
    assert all(rested.values()), "each of them rested once at least"


def test_a_checkpoint_that_saw_other_batches_is_refused(done, tmp_path, monkeypatch):
    made, out = done
    again = tmp_path / "run"
    shutil.copytree(out, again)
    for step in (15, 20):
        shutil.rmtree(again / "checkpoints" / str(step))
    seen = notes(again, 10)
    other = {**seen, "draws": {**seen["draws"], "text": seen["draws"]["text"] + 1}}
    monkeypatch.setattr(CheckpointManager, "meta", lambda self, step: other)
    with pytest.raises(UserError, match="has seen other batches"):
        train_run(load_config([{**made, "out": str(again)}], []), lambda text: None)


def test_what_would_be_ignored_beside_streams_is_refused(words, csv, tmp_path):
    made = recipe(words, csv, tmp_path / "run", {"name": "jointly"})
    with pytest.raises(UserError, match="each stream says") as refused:
        load_config([made], ["evaluation.split=null"])
    assert "streams.text.validation" in str(refused.value)
    nothing = ["streams.text.validation=null", "streams.labels.validation=null"]
    with pytest.raises(UserError, match="needs a validation split"):
        load_config([made], [*nothing, "evaluation.early_stopping.patience=2"])


def test_a_stream_is_evaluated_as_it_was_validated(done):
    made, out = done
    last = toy.rows_of(out, "validation")[-1]
    for name in ("text", "labels"):
        found = evaluate_run(out, stream=name, step=STEPS)
        assert found["loss"] == pytest.approx(last[f"{name}/loss"], rel=1e-5), name


def test_the_epochs_of_the_stream_that_is_named_count(words, csv, tmp_path):
    made = recipe(words, csv, tmp_path / "run", {"name": "by_turns", "seed": 3}, labels=0.25)
    steps = {}
    for name in ("text", "labels"):
        made["train"] = {"epochs": 2, "epochs_of": name}
        work = build(load_config([made], [])).work
        steps[name], per_epoch = work.settings.train.steps, work.feeds.streams[name].per_epoch
        drawn = work.program.draws.before(steps[name])[name]
        assert drawn == 2 * per_epoch and work.program.draws.before(steps[name] - 1)[name] < drawn
    assert steps["text"] != steps["labels"]
    made["train"]["epochs_of"] = "label"
    with pytest.raises(UserError, match="no such stream") as refused:
        load_config([made], [])
    assert "labels" in str(refused.value)


def test_a_schedule_in_tokens_counts_those_of_a_step(words, csv, tmp_path):
    """By turns those of one stream, jointly those of all; unequal ones have no such schedule."""
    made = recipe(words, csv, tmp_path / "run", {"name": "by_turns", "seed": 3})
    size = made["streams"]["text"]["data"] | {"batch_size": 8, "sequence_length": 16}
    made["streams"]["text"]["data"] = size
    schedule = {"name": "linear", "unit": "tokens", "warmup": 8 * 16 * 4}
    made["optimizer"] = {"learning_rate": 1.0, "schedule": schedule}
    for mixture, steps in (("by_turns", 4), ("jointly", 2)):
        made["mixture"] = {"name": mixture}
        rate = build(load_config([made], [])).work.program.schedule
        assert float(rate(steps - 1)) == 1.0 > float(rate(steps - 2)), mixture
    made["streams"]["labels"]["data"]["batch_size"] = 16
    made["mixture"] = {"name": "by_turns"}
    with pytest.raises(UserError, match="steps of several sizes"):
        build(load_config([made], []))
    made["optimizer"]["schedule"]["warmup"] = 0.1  # a share of the run counts no tokens
    assert build(load_config([made], []))


def two_tasks(words, csv, tmp_path):
    """A recipe with classification by two columns, one of two labels and one of three."""
    lines = csv.read_text().splitlines()
    other = tmp_path / "three.csv"
    kinds = ["label", *("abc"[number % 3] for number in range(len(lines) - 1))]
    other.write_text("".join(f"{line.rsplit(',', 1)[0]},{k}\n" for line, k in zip(lines, kinds)))
    made = recipe(words, csv, tmp_path / "run", {"name": "jointly"})
    first = made["streams"].pop("labels")
    second = json.loads(json.dumps(first))
    second["data"]["tables"]["train"]["path"] = str(other)
    made["streams"] |= {"first": first, "second": second}
    return made


def test_two_tasks_of_one_kind_cannot_have_one_head(words, csv, tmp_path):
    with pytest.raises(UserError, match="two heads of one name") as refused:
        build(load_config([two_tasks(words, csv, tmp_path)], []))
    assert "head: NAME" in str(refused.value)


def test_the_scores_of_a_run_with_a_task_are_the_tasks_and_its_end_is_of_one_step(done):
    made, out = done
    scores = json.loads((out / "scores.json").read_text())
    assert scores["metric"] == "accuracy"
    assert all(scores["metric"] in split["scores"] for split in scores["splits"].values())
    ended = train_run(load_config([made], []), lambda text: None)
    last = toy.rows_of(out, "validation")[-1]
    assert ended.validation == pytest.approx({key: last[key] for key in ended.validation})
    assert "labels/accuracy" in ended.validation


@pytest.mark.slow
def test_two_tasks_of_one_kind_have_heads_of_their_own(words, csv, tmp_path):
    made = two_tasks(words, csv, tmp_path)
    made["streams"]["second"]["objective"]["head"] = "kinds"
    assert train_run(load_config([made], []), lambda text: None).step == STEPS
    shapes = {path: x.shape for path, x in flatten(open_run(tmp_path / "run").params).items()}
    assert shapes["classify/output/kernel"][1] == 2 and shapes["kinds/output/kernel"][1] == 3
    last = toy.rows_of(tmp_path / "run", "validation")[-1]
    assert {"first/accuracy", "second/accuracy"} <= last.keys()


def resumed_with(done, tmp_path, points):
    """The outcome of a run of 20 steps whose text weighs less from step 10 on, resumed there."""
    made, out = done
    again = tmp_path / "run"
    shutil.copytree(out, again)
    for step in (15, 20):
        shutil.rmtree(again / "checkpoints" / str(step))
    changed = json.loads(json.dumps({**made, "out": str(again)}))
    changed["streams"]["text"]["weight"] = {"points": points}
    return train_run(load_config([changed], []), lambda text: None)


def test_a_weight_may_change_from_the_newest_checkpoint_on(done, tmp_path):
    if done[0]["mixture"]["name"] == "by_turns":  # all of this run's draws are of one block
        with pytest.raises(UserError, match="different configuration"):
            resumed_with(done, tmp_path, [[0, 0.9], [10, 1.0]])
        return
    assert resumed_with(done, tmp_path, [[0, 1.0], [10, 1.0], [11, 0.5]]).step == STEPS


def test_a_weight_that_was_another_so_far_is_refused(done, tmp_path):
    with pytest.raises(UserError, match="different configuration"):
        resumed_with(done, tmp_path, [[0, 1.0], [9, 1.0], [10, 0.9]])


def test_the_passes_over_each_stream_are_counted(done):
    made, out = done
    first, last = (toy.rows_of(out, "train")[i] for i in (0, -1))
    sizes = {"text": None, "labels": None}
    per_epoch = {
        name: build(load_config([made])).work.feeds.streams[name].per_epoch for name in sizes
    }
    drawn = notes(out, STEPS)["draws"]
    for name in sizes:
        assert last[f"{name}/epoch"] == pytest.approx(drawn[name] / per_epoch[name])
        assert last[f"{name}/epoch"] > first[f"{name}/epoch"]
        count = f"{last[f'{name}/tokens']:,} tokens, "
        assert f"<dt>{name}</dt><dd>{count}" in (out / "report.html").read_text()


def test_the_step_of_several_streams_is_the_sum_of_their_steps_each_by_its_weight():
    """With plain SGD, in float64."""
    masked, labelled = MaskedLm(slots=4), Classify(labels=("a", "b", "c"), dropout=0.0)
    model = Model(tiny.bert(num_layers=1), (*masked.heads, *labelled.heads), tiny.FLOAT64)
    text = tiny.rows([[d] for d in tiny.random_documents([16, 9, 12, 16])])
    labels = {"labels": np.arange(4) % 3, "example_weights": np.ones(4, np.float32)}
    batches = {"text": text, "labels": {**text, **labels}}

    def moved(drawn, weight):
        streams = (
            Stream.of(masked, text, name="text"),
            Stream.of(labelled, batches["labels"], name="labels", weight=weight),
        )
        optimizer, _ = make_optimizer(PLAIN, 10, 1)
        with jax.enable_x64(True):
            phase, state = tiny.begun(tiny.program(model, None, optimizer, text, streams=streams))
            before = jax.device_get(flatten(state.params))
            with jax.set_mesh(phase.program.mesh):
                given = {name: batches[name] for name in drawn}
                state, _ = phase.step(drawn)(state, given, phase.constants)
            after = jax.device_get(flatten(state.params))
        return {path: after[path] - before[path] for path in after}

    both = moved(("text", "labels"), 0.25)
    one, other = moved(("text",), 0.25), moved(("labels",), 1.0)
    for path, step in both.items():
        np.testing.assert_allclose(step, one[path] + 0.25 * other[path], atol=1e-9)
    assert any(np.abs(step).max() > 1e-4 for step in other.values())


def test_what_no_stream_reaches_is_a_group_of_its_own():
    """As a pooler that nothing reads: steps by turns have no gradient of it."""
    body = frozenset({"encoder/w"})
    reach = {"text": body, "facts": body}
    assert grouped_by_reach(None, reach, body) is None
    group = grouped_by_reach(None, reach, body | {"pooler/w"})
    assert group is not None
    assert (group("encoder/w"), group("pooler/w")) == ("text+facts", "none")
