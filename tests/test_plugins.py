"""Runs of plugins, through the command line: trained, resumed, evaluated, fine-tuned from."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import plugged
import pytest
import toy
from plugged import command, named

from jaxssl import load_config, load_plugins
from jaxssl.core.errors import UserError
from jaxssl.models.heads import HEADS
from jaxssl.run.config import RunConfig
from jaxssl.run.directory import _check_plugins_agree
from jaxssl.run.plugins import note_plugins, read_plugins
from jaxssl.run.sealing import seal_run

SHOWN = {
    "wrong_words": ("objectives.md", 0),
    "lion": ("optimizers.md", 0),
    "inverse_sqrt": ("optimizers.md", 1),
    "kappa": ("plugins.md", 0),
    "more_or_less": ("tasks.md", 0),
}
"""Plugins that pages of the documentation show."""
OLD = Path(__file__).parent / "old" / "exported"
"""A Hugging Face directory of a BERT."""
PRETRAINING = ("wrong_words", "where", "pre_bert", "lion", "inverse_sqrt")
FINETUNING = ("pre_bert", "more_or_less", "agreement")
AGREEMENT = """
from dataclasses import dataclass
from typing import Literal
from jaxssl import Score, register

@dataclass(frozen=True, kw_only=True)
class Agreement(Score):
    name: Literal["agreement"] = "agreement"
    margin: float = 0.0

    def numbers(self, predictions, references):
        sure = abs(predictions["logit"]) >= self.margin
        right = (predictions["logit"] > 0) == (references > 0)
        return {"sure": sure.mean(), "right": (sure & right).mean()}

register(Score, Agreement)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: the file of a plugin}."""
    out = tmp_path_factory.mktemp("plugins")
    found = {name: plugged.shown(page, name, out, i) for name, (page, i) in SHOWN.items()}
    found |= {path.stem: path for path in plugged.PLUGINS.glob("*.py")}
    (out / "agreement.py").write_text(AGREEMENT)
    return {**found, "agreement": out / "agreement.py"}


@pytest.fixture(scope="module")
def options(files):
    """The options that name plugins, of their names."""
    return lambda *names: named(*(files[name] for name in names))


def pretraining(words, out):
    """A recipe of eight steps in which all is a plugin's but the masked language model."""
    recipe = toy.recipe(words, out, "masked")
    recipe["model"] = {**recipe["model"], "name": "pre_bert", "num_layers": 1}
    terms = [recipe["objective"], {"name": "wrong_words", "rate": 0.2}, {"name": "where"}]
    recipe["objective"] = {"name": "combine", "terms": [{"objective": term} for term in terms]}
    recipe["optimizer"] = {
        "name": "lion",
        "b2": 0.95,
        "learning_rate": 0.003,
        "schedule": {"name": "inverse_sqrt", "warmup": 2},
    }
    recipe["train"], recipe["logging"]["every"] = {"steps": 8}, 1
    recipe["evaluation"]["every"], recipe["checkpoint"]["every"] = 4, 4
    return recipe


@pytest.fixture(scope="module")
def run(words, options, tmp_path_factory):
    """A run of five plugins, and its recipe."""
    out = tmp_path_factory.mktemp("runs") / "run"
    path = toy.write_recipe(out.parent / "recipe.json", pretraining(words, out))
    assert command("pretrain", path, *options(*PRETRAINING)) == 0
    return out, path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A table of texts and numbers, and a recipe of the task over it."""
    rng = np.random.default_rng(0)
    rows = [(rng.choice(["the old man", "a dog"]), rng.uniform()) for _ in range(40)]
    path = tmp_path_factory.mktemp("table") / "train.csv"
    path.write_text("text,label\n" + "".join(f"{text} sees,{x:.3f}\n" for text, x in rows))
    recipe = {
        "task": {
            "name": "more_or_less",
            "bound": 0.4,
            "pooling": "mean",
            "extra_scores": [{"name": "agreement", "margin": 0.1}],
        },
        "data": {
            "tables": {"train": {"name": "file", "path": str(path)}, "validation_fraction": 0.25},
            "max_length": 16,
            "batch_size": 8,
            "row_lengths": 1,
        },
        "train": {"epochs": 1},
        "evaluation": {"best_by": "agreement/right"},
        "logging": {"tensorboard": False, "progress": False},
    }
    return toy.write_recipe(path.with_suffix(".json"), recipe)


@pytest.fixture(scope="module")
def tuned(run, numbers, options, tmp_path_factory):
    """A run of a task and a score, from the run of five plugins."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    given = ("finetune", numbers, f"init.from={run[0]}", f"out={out}")
    assert command(*given, *options(*FINETUNING)) == 0
    return out


def refused(capsys, *arguments) -> str:
    """What a command that is refused says."""
    capsys.readouterr()
    assert command(*arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and "error: " in err
    return err


# --- Training -----------------------------------------------------------------------------------


def test_it_trains_and_its_numbers_are_logged_validated_and_reported(run):
    out, _ = run
    trained, validated = toy.rows_of(out, "train"), toy.rows_of(out, "validation")
    losses = ("masked_lm", "wrong_words", "where")
    total = sum(trained[-1][f"loss/{name}"] for name in losses)
    assert trained[-1]["loss"] == pytest.approx(total)
    assert trained[-1]["loss"] < trained[0]["loss"]
    rates = [row["learning_rate"] for row in trained]
    want = [0.0015, 0.003, *(0.003 * (2 / (2 + step)) ** 0.5 for step in range(6))]
    assert rates == pytest.approx(want, rel=1e-4)
    last = validated[-1]
    assert 0 < last["error/where"] < 1 and last["accuracy/wrong_words"] > 0
    assert last["perplexity"] == pytest.approx(np.exp(last["loss/masked_lm"]), rel=1e-4)
    assert "wrong words" in (out / "report.html").read_text()
    assert any("share" in name for name in toy.restored(out, 8))


def test_it_notes_its_plugins(run, files):
    noted = {plugin.name: plugin for plugin in read_plugins(run[0])}
    assert tuple(noted) == PRETRAINING
    assert noted["where"].given == "where.py"
    assert noted["where"].registers == ("Head share", "Objective where")
    assert len({plugin.sha256 for plugin in noted.values()}) == 5


def test_it_goes_on_to_the_same_bits(run, options, tmp_path, capsys):
    out, recipe = run
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoints" / "8")
    assert command("pretrain", recipe, f"out={again}", *options(*PRETRAINING)) == 0
    toy.assert_same_arrays(toy.restored(again, 8), toy.restored(out, 8))
    assert "warning: plugin" not in capsys.readouterr().err


def test_it_is_evaluated_with_its_plugins(run, options, capsys):
    out, _ = run
    assert command("evaluate", out, "--step", "last", *options(*PRETRAINING)) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split(": ")[0]: line.split(": ")[1] for line in lines[1:]}
    validated = toy.rows_of(out, "validation")[-1]
    for name in ("loss", "loss/wrong_words", "error/where", "perplexity"):
        assert float(found[name]) == pytest.approx(validated[name], rel=1e-4)


# --- Asked for by name --------------------------------------------------------------------------


@pytest.mark.parametrize("missing", PRETRAINING)
def test_what_opens_it_is_asked_for_each(missing, run, options, capsys):
    others = [name for name in PRETRAINING if name != missing]
    err = refused(capsys, "evaluate", run[0], *options(*others))
    assert f"give --plugin {missing}.py" in err
    assert not any(f"--plugin {name}.py" in err for name in others)


@pytest.mark.parametrize(
    "verb",
    [
        ("inspect", "RUN"),
        ("fill-mask", "RUN", "the [MASK]"),
        ("generate", "RUN"),
        ("export", "RUN", "OUT"),
        ("export", "RUN", "--check"),
        ("predict", "RUN", "--input", "x.csv", "--output", "OUT.csv"),
        ("embed", "RUN", "--input", "NUMBERS", "--format", "lines", "--output", "OUT.npy"),
        ("compare", "RUN", "RUN"),
        ("finetune", "NUMBERS", "init.from=RUN", "out=OUT"),
    ],
    ids=lambda verb: " ".join(verb[:1] + verb[2:3]),
)
def test_every_verb_asks(verb, run, numbers, options, tmp_path, capsys):
    places = {"RUN": run[0], "OUT": tmp_path / "out", "NUMBERS": numbers}
    words = [functools.reduce(lambda w, p: w.replace(p, str(places[p])), places, w) for w in verb]
    given = () if verb[0] != "finetune" else options("more_or_less", "agreement")
    err = refused(capsys, *words, *given)
    assert "give --plugin" in err and "pre_bert.py" in err, err
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_its_plugin_is_told_how(run, options, capsys):
    err = refused(capsys, "pretrain", run[1], *options(*PRETRAINING[1:]))
    assert "'wrong_words'" in err and "--plugin FILE" in err


# --- Changed ------------------------------------------------------------------------------------


def test_a_plugin_that_has_changed_is_told_and_noted(run, files, options, tmp_path, capsys):
    out, recipe = run
    again, changed = tmp_path / "again", tmp_path / "wrong_words.py"
    shutil.copytree(out, again)
    changed.write_text(files["wrong_words"].read_text() + "\n# another version\n")
    given = ["--plugin", changed, *options(*PRETRAINING[1:])]
    assert command("inspect", again, *given) == 0
    told, err = capsys.readouterr()
    assert "  plugin where.py: Head share, Objective where; SHA-256 " in told
    assert err.count("warning: plugin wrong_words.py is not what") == 1
    before = read_plugins(again)[0].sha256
    assert before[:16] in err

    assert command("pretrain", recipe, f"out={again}", *given) == 0
    assert "warning: plugin wrong_words.py is not what" in capsys.readouterr().out
    after = read_plugins(again)[0].sha256
    assert after != before and after[:16] in err
    assert command("inspect", again, *given) == 0
    assert "warning" not in capsys.readouterr().err


def test_processes_with_other_plugins_than_the_first_are_refused(run, files, tmp_path):
    with plugged.unplugged():
        load_plugins(str(files["lion"]), str(files["where"]))
        note_plugins(tmp_path)
        _check_plugins_agree(tmp_path)
    for own in ((), ("lion",), ("where", "lion")):
        with plugged.unplugged():
            load_plugins(*(str(files[name]) for name in own))
            with pytest.raises(UserError, match="different plugins"):
                _check_plugins_agree(tmp_path)


# --- Code that comes along ----------------------------------------------------------------------


def test_neither_a_recipe_nor_a_run_makes_code_run(run, options, tmp_path, monkeypatch, capsys):
    """Whatever they name; and what lies in the directory of the run, or here, is not looked at."""
    out, recipe = run
    again, marker = tmp_path / "again", tmp_path / "was_run"
    shutil.copytree(out, again)
    evil = f"open({str(marker)!r}, 'w')\n"
    for path in (tmp_path / "evil.py", again / "evil.py", again / "wrong_words.py"):
        path.write_text(evil)
    note = json.loads((again / "plugins.json").read_text())
    note["plugins"].append({**note["plugins"][0], "name": "evil", "given": str(again / "evil.py")})
    (again / "plugins.json").write_text(json.dumps(note))
    seal_run(again)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    assert "evil.py" in refused(capsys, "evaluate", again, *options(*PRETRAINING))
    refused(capsys, "pretrain", recipe, f"out={again}", *options(*PRETRAINING))
    for key in ("plugin", "plugins", "objective.plugin", "objective.name"):
        refused(capsys, "pretrain", recipe, f"{key}=evil.py", *options(*PRETRAINING))
    refused(capsys, "evaluate", again, "--with", "plugins=[evil.py]")
    assert not marker.exists()


def test_a_damaged_note_is_told(run, options, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run[0], again)
    (again / "plugins.json").write_text("{}")
    assert "damaged" in refused(capsys, "inspect", again, *options(*PRETRAINING))


# --- Fine-tuning --------------------------------------------------------------------------------


def test_from_it_only_its_family_is_asked_for(run, numbers, options, tmp_path, capsys):
    given = ("finetune", numbers, f"init.from={run[0]}", f"out={tmp_path / 'out'}")
    err = refused(capsys, *given, *options("more_or_less", "agreement"))
    assert "give --plugin pre_bert.py" in err and "lion" not in err


def test_a_task_and_a_score_are_trained_and_choose_the_best(tuned):
    assert [plugin.name for plugin in read_plugins(tuned)] == list(FINETUNING)
    scores = json.loads((tuned / "scores.json").read_text())
    found = scores["splits"]["validation"]["scores"]
    assert 0 <= found["agreement/right"] <= found["agreement/sure"] <= 1
    assert 0 <= found["right"] <= 1
    assert "agreement/right" in (tuned / "report.html").read_text()


def test_a_task_is_evaluated_and_predicts(tuned, options, tmp_path, capsys):
    assert command("evaluate", tuned, *options(*FINETUNING)) == 0
    told = capsys.readouterr().out
    scores = json.loads((tuned / "scores.json").read_text())
    want = scores["splits"]["validation"]["scores"]
    for name in ("right", "agreement/sure", "agreement/right"):
        assert f"{name}: {want[name]:.6g}\n" in told
    (tmp_path / "texts.csv").write_text("text\na dog sees\nthe old man\n")
    files = ("--input", tmp_path / "texts.csv", "--output", tmp_path / "said.jsonl")
    assert command("predict", tuned, *files, *options(*FINETUNING)) == 0
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert len(said) == 2 and all(isinstance(row["more"], bool) for row in said)


def test_another_choice_of_scores_is_the_same_run(tuned, run, numbers, options, capsys):
    given = ("finetune", numbers, f"init.from={run[0]}", f"out={tuned}", *options(*FINETUNING))
    assert "task.bound" in refused(capsys, *given, "task.bound=0.6").replace("objective", "task")
    scores = "task.extra_scores=[{name: agreement, margin: 0.5}]"
    assert command(*given, scores) == 0


def test_a_family_without_a_mapping_is_not_exported(run, tuned, options, tmp_path, capsys):
    err = refused(capsys, "export", run[0], tmp_path / "hf", *options(*PRETRAINING))
    assert "no counterpart in transformers" in err and "pre_bert" in err
    assert not (tmp_path / "hf").exists()
    assert "no class for this task" in refused(
        capsys, "export", tuned, "--check", *options(*FINETUNING)
    )


# --- What is registered as it is ----------------------------------------------------------------


def test_a_family_of_hugging_faces_is_read(options, tmp_path, capsys):
    shutil.copytree(OLD, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["model_type"] = "their_bert"
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    err = refused(capsys, "import", tmp_path / "hf", tmp_path / "run")
    assert "their_bert" in err and "--plugin FILE" in err
    assert command("import", tmp_path / "hf", tmp_path / "run", *options("their_bert")) == 0
    assert read_plugins(tmp_path / "run")[0].given == "their_bert.py"
    assert "--plugin their_bert.py" in refused(capsys, "export", tmp_path / "run", "--check")
    assert command("export", tmp_path / "run", "--check", *options("their_bert")) == 0


def test_a_head_is_one_that_models_may_bring_along(files, words, tmp_path):
    recipe = toy.recipe(words, tmp_path / "run", "masked")
    recipe["imported"] = {"source": "elsewhere", "heads": ["share"]}
    with plugged.unplugged():
        load_plugins(str(files["where"]))
        assert [head.name for head in load_config([recipe]).heads] == ["share", "masked_lm"]
    assert "share" not in HEADS


# --- The page -----------------------------------------------------------------------------------


def test_the_score_of_the_page_is_cohens(files):
    from sklearn.metrics import cohen_kappa_score

    from jaxssl.tasks.classify import Classify

    rng = np.random.default_rng(0)
    logits, given = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    with plugged.unplugged():
        load_plugins(str(files["kappa"]))
        recipe = {"name": "classify", "extra_scores": [{"name": "kappa"}], "labels": list("abcd")}
        recipe["extra_scores"] += [{"name": "calibration"}]
        task = _task(recipe)
        assert isinstance(task, Classify)
        found = task.scores({"logits": logits}, given)
        squares = _task({**recipe, "extra_scores": [{"name": "kappa", "power": 2}]})
        weighted = squares.scores({"logits": logits}, given)["kappa"]
    said = logits.argmax(axis=1)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(said, given))
    assert weighted == pytest.approx(cohen_kappa_score(said, given, weights="quadratic"))
    with pytest.raises(UserError, match="kappa"):
        _task(recipe)


def _task(recipe):
    from jaxssl.core.config import build

    return build(RunConfig, {**TABLES, "objective": recipe}).objective


TABLES = {
    "out": "runs/x",
    "model": {"name": "bert"},
    "data": {"name": "tables", "tables": {"train": {"name": "file", "path": "x.csv"}}},
}


def test_help_shows_the_fields_of_plugins(options, capsys):
    given = options(*PRETRAINING, "more_or_less", "agreement")
    chosen = {
        "objective": "wrong_words",
        "optimizer": "lion",
        "optimizer.schedule": "inverse_sqrt",
        "objective.extra_scores": "agreement",
        "model": "pre_bert",
    }
    assert command("pretrain", "--help", *given) == 0
    overview = " ".join(capsys.readouterr().out.split())
    assert ", wrong_words" in overview and ", lion" in overview and ", pre_bert" in overview
    for topic, name in chosen.items():
        assert command("pretrain", "--help", topic, *given) == 0
        assert f"--- {topic}.name={name}" in capsys.readouterr().out
        assert command("pretrain", *given, "--help", f"{topic}.{name}") == 0
        assert capsys.readouterr().out.startswith(f"--- {topic}.name={name}")
    assert command("pretrain", "--help", "all", *given) == 0
    text = capsys.readouterr().out
    assert "Share of the tokens that are replaced." in text
    assert "What the numbers are compared with." in text
    assert command("pretrain", *options("lion"), "--help", "optimizer") == 0
    assert "Decay of the mean of gradients." in capsys.readouterr().out
    assert command("pretrain", "--help") == 0
    assert "wrong_words" not in capsys.readouterr().out


def test_a_plugin_that_is_wrong_is_a_mistake_of_the_command(run, tmp_path, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\nraise OSError('none')\n")
    err = refused(capsys, "pretrain", run[1], "--plugin", bad)
    assert "bad.py, line 2" in err and "OSError: none" in err
    assert "no such plugin" in refused(capsys, "evaluate", run[0], "--plugin", "no.py")
