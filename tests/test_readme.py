"""What the README shows works when pasted."""

import re
from pathlib import Path

import pytest

from jaxssl import cli, run
from tests.toy import byte_store  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_loop_of_the_readme_trains(byte_store, capsys):  # noqa: F811
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    lines = code.group(1)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 30
    lines = lines.replace("demo/store-gpt", str(byte_store)).replace("range(100)", "range(30)")
    exec(compile(lines, "README.md", "exec"), {})
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 30 and sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("line", re.findall(r"^jaxssl .*(?:\\\n.*)*", README, re.M))
def test_commands_name_verbs_that_exist(line):
    verb = line.split()[1]
    with pytest.raises(SystemExit) as ended:
        cli.make_parser().parse_args([verb, "--no-such-option"])
    assert ended.value.code == 2
    assert verb in cli.make_parser().format_help()


def test_every_recipe_of_the_table_resolves_and_every_file_named_exists():
    names = re.findall(r"`((?:pretrain|demo)/[a-z0-9-]+)`", README)
    assert len(set(names)) >= 14
    for name in names:
        assert run.load_config([name]).out
    for path in re.findall(r"`(jaxssl/[a-z_/0-9]+\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_recipes_have_the_published_sizes():
    from jaxssl.models import bert, gpt2

    for family, prefix in ((bert, "bert"), (gpt2, "gpt2")):
        for size, preset in family.PRESETS.items():
            model = run.load_config([f"pretrain/{prefix}-{size}"]).model
            shape = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions")
            for field in shape:
                assert getattr(model, field) == getattr(preset, field), (size, field)


@pytest.mark.parametrize("folder", ["pretrain", "demo"])
def test_every_recipe_has_the_header_that_is_promised(folder):
    paths = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    assert paths
    for path in paths:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in ("source:", "cost:", "expected:", "command:"):
            assert any(word in line for line in head), (path, word)
