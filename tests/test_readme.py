"""What the README shows works when pasted."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import jaxssl
from jaxssl import cli
from jaxssl.run.recipes import find_recipe, load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_loop_of_the_readme_trains(byte_store, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    lines = code.group(1)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 30
    smaller = {
        "demo/store-gpt": str(byte_store),
        "hidden_size=128, intermediate_size=512, num_layers=4": "hidden_size=32, "
        "intermediate_size=64, num_layers=2",
        "vocab_size=4096": "vocab_size=512",
        "sequence_length=64, batch_size=32": "sequence_length=32, batch_size=8",
        "1e-3": "1e-2",
        "range(100)": "range(15)",
    }
    for shown, tried in smaller.items():
        assert shown in lines
        lines = lines.replace(shown, tried)
    exec(compile(lines, "README.md", "exec"), {})
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 15 and sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_functions_of_the_readme_take_what_they_are_given(monkeypatch):
    called = []
    for name in ("train_run", "open_run", "evaluate_run", "fill_masks", "generate_texts"):
        fake = mock.create_autospec(
            getattr(jaxssl, name), side_effect=lambda *_, _name=name, **__: called.append(_name)
        )
        monkeypatch.setattr(jaxssl, name, fake)
    code = re.findall(r"```python\n(.*?)```", README, re.S)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert len(called) == 6 and len(set(called)) == 5


def test_every_public_name_is_where_it_is_said_to_be():
    for name, module in jaxssl.PUBLIC.items():
        assert getattr(jaxssl, name) is getattr(importlib.import_module(f"jaxssl.{module}"), name)
    shown = re.findall(r"from (jaxssl[\w.]+) import (\w+) as", Path(jaxssl.__file__).read_text())
    assert {name: f"jaxssl.{place}" for name, place in jaxssl.PUBLIC.items()} == {
        name: module for module, name in shown
    }


@pytest.mark.parametrize("line", re.findall(r"^jaxssl .*(?:\\\n.*)*", README, re.M))
def test_commands_name_verbs_that_exist(line):
    verb = line.split()[1]
    with pytest.raises(SystemExit) as ended:
        cli.make_parser().parse_args([verb, "--no-such-option"])
    assert ended.value.code == 2
    assert verb in cli.make_parser().format_help()


def test_every_recipe_of_the_table_resolves_and_every_file_named_exists():
    names = re.findall(r"`((?:pretrain|demo|objectives)/[a-z0-9-]+(?:\.\db)?)`", README)
    assert len(set(names)) >= 28
    for name in names:
        # Some of objectives start from a model; run/test_objective_recipes.py loads them with one.
        assert find_recipe(name)
        assert name.startswith("objectives/") or load_config([name]).out
    for path in re.findall(r"`(jaxssl/[a-z_/0-9]+\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_recipes_have_the_published_sizes():
    from jaxssl.models import bert, gpt2, llama, modernbert

    published = {
        **{f"bert-{size}": preset for size, preset in bert.PRESETS.items()},
        **{f"gpt2-{size}": preset for size, preset in gpt2.PRESETS.items()},
        **{f"llama-{size}": preset for size, preset in llama.LLAMA_PRESETS.items()},
        "modernbert-base": modernbert.PRESETS["base"],
        "qwen3-0.6b": llama.QWEN3_PRESETS["0.6b"],
    }
    shape = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "num_kv_heads", "tied")
    for name, preset in published.items():
        model = load_config([f"pretrain/{name}"]).model
        for field in shape:
            assert getattr(model, field, None) == getattr(preset, field, None), (name, field)


def test_bert_draws_its_random_tokens_from_the_whole_vocabulary():
    """As google-research/bert does: special tokens too."""
    for path in (ROOT / "configs" / "pretrain").glob("bert-*.yaml"):
        masked, _ = load_config([path]).objective.terms
        assert masked.objective.random_from_specials, path


def test_the_demos_models_have_no_position_that_is_never_trained():
    for name in ("bert", "gpt"):
        config = load_config([f"demo/{name}"])
        lengths = {stream.data.sequence_length for stream in config.all_streams.values()}
        assert lengths == {config.model.max_positions}


def test_make_help_needs_nothing_but_python_and_make(tmp_path):
    make = shutil.which("make")
    assert make is not None
    command = [make, "help", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    targets = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")]
    assert {"help", "install", "demo", "test", "bench"} <= set(targets)


@pytest.mark.parametrize("folder", ["pretrain", "demo"])
def test_every_recipe_has_the_header_that_is_promised(folder):
    paths = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    assert paths
    for path in paths:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in ("source:", "cost:", "expected:", "command:"):
            assert any(word in line for line in head), (path, word)


PRETRAIN = re.findall(r"^(?:JAX_\w+=\w+ )*jaxssl pretrain ((?:.*\\\n)*.*)$", README, re.M)


@pytest.mark.parametrize("arguments", PRETRAIN)
def test_runs_of_the_readme_are_configurations_that_hold_together(arguments):
    assert len(PRETRAIN) >= 3
    words = shlex.split(arguments.replace("\\\n", " "))
    config = load_config(
        [word for word in words if "=" not in word], [word for word in words if "=" in word]
    )
    assert config.model.vocab_size == 4096  # of the tokenizer above
    assert config.evaluation.every < config.train.steps > config.checkpoint.every
    config.optimizer.schedule.make(1.0, config.train.steps, 1)


def test_every_objective_of_published_size_is_in_the_table():
    found = {path.stem for path in (ROOT / "configs" / "objectives").glob("*.yaml")}
    shown = set(re.findall(r"^\| `objectives/([a-z0-9.-]+)`", README, re.M))
    assert shown == {name for name in found if not name.endswith("-docstrings")}
