"""The command line: quick to answer, documents everything, and its configuration forms."""

import contextlib
import os
import re
import subprocess
import sys

import pytest
import toy

from jaxssl import cli
from jaxssl.core import config as configuration
from jaxssl.run.build import build
from jaxssl.run.recipes import load_config
from jaxssl.run.train import describe, find_receipt, unused_rows

VERBS = (
    *("tokenizer", "prepare", "pretrain", "config"),
    *("evaluate", "predict", "generate", "fill-mask", "report", "inspect"),
)
HEAVY = ("jax", "numpy", "flax", "orbax", "transformers", "tokenizers", "datatrove", "pydantic")


def told(capsys, *arguments: str) -> str:
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


# --- Help ---


def test_help_imports_nothing_heavy(tmp_path):
    """That is why `jaxssl --help` answers in a tenth of a second."""
    program = (
        "import sys; from jaxssl import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stdout
    assert all(verb in done.stdout for verb in VERBS)
    assert "75 stopped by a signal" in done.stdout


def test_without_a_verb_it_says_what_there_is(capsys):
    assert "usage: jaxssl" in told(capsys)


def test_an_unknown_verb_is_refused(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["pretain"])
    assert raised.value.code == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["pretrain", "pretrain/bert-tiny", "--train.steps=5"], "write train.steps=5, without"),
        (["evaluate", "runs/x", "mesh.fsdp=2"], "--with mesh.fsdp=2"),
        (["inspect", "runs/x", "runs/y"], "between quotes"),
        (["evaluate"], "jaxssl evaluate --help"),
    ],
)
def test_a_stray_argument_is_answered_with_what_to_write(arguments, fix, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2
    err = capsys.readouterr().err
    assert fix in err and "error: " in err


@pytest.mark.parametrize(
    "verb", ["evaluate", "predict", "generate", "fill-mask", "report", "inspect"]
)
def test_help_of_the_other_verbs_describes_every_option(verb, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main([verb, "--help"])
    assert raised.value.code == 0
    assert f"usage: jaxssl {verb}" in capsys.readouterr().out
    (verbs,) = (a for a in cli.make_parser()._actions if isinstance(a.choices, dict))
    options = verbs.choices[verb]._actions
    assert len(options) > 1 and all(option.help for option in options)


# --- Configuration ---

RECIPES = [
    *(f"bert-{size}" for size in ("tiny", "mini", "small", "medium", "base", "large")),
    *(f"gpt2-{size}" for size in ("small", "medium", "large", "xl")),
    *("nanogpt-cpu", "nanogpt-char"),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_prints_what_loads_to_an_equal_configuration(recipe, capsys, tmp_path, monkeypatch):
    """From any directory: the recipes come with the package."""
    monkeypatch.chdir(tmp_path)
    text = told(capsys, "config", f"pretrain/{recipe}", "out=runs/x", "data.store=s")
    (tmp_path / "printed.yaml").write_text(text)

    loaded = load_config([tmp_path / "printed.yaml"])
    assert loaded == load_config([f"pretrain/{recipe}"], ["out=runs/x", "data.store=s"])
    assert loaded.out == "runs/x"


def test_later_layers_and_overrides_win(words, tmp_path, capsys):
    recipe = toy.write_recipe(tmp_path / "recipe.json", toy.recipe(words, tmp_path / "run"))
    hardware = tmp_path / "hardware.yaml"
    hardware.write_text("data: {batch_size: 64}\nmesh: {fsdp: 4}\ntrain: {steps: 30}\n")
    printed = told(
        capsys,
        "config",
        str(recipe),
        str(hardware),
        "train.steps=1e3",
        "optimizer.learning_rate=3e-4",
        "evaluation.batches=null",
        "samples.prompts=[a, b c]",
        "data.rows.name=windows",
        "objective.name=masked_lm",
    )
    config = load_config([configuration.parse_yaml(printed, "printed")])
    assert (config.data.batch_size, config.mesh.fsdp, config.train.steps) == (64, 4, 1000)
    assert config.optimizer.learning_rate == 3e-4
    assert config.samples.prompts == ("a", "b c")
    assert config.objective.name == "masked_lm"  # the terms of the other objective are gone


def test_an_unknown_recipe_is_answered_with_a_suggestion(capsys):
    assert cli.main(["config", "pretrain/gpt2-smal"]) == 2
    assert "did you mean 'pretrain/gpt2-small'" in capsys.readouterr().err


def test_a_word_that_is_no_override_is_taken_for_a_recipe(capsys):
    assert cli.main(["config", "pretrain/bert-tiny", "train.steps"]) == 2
    assert "no such recipe" in capsys.readouterr().err


# --- The verbs on a run ---


@pytest.fixture(scope="module")
def runs(words, byte_store, tmp_path_factory):
    """A BERT and a GPT-2 of 4 steps, and what was said while they were trained."""
    base = tmp_path_factory.mktemp("runs")
    for kind, store in (("masked", words), ("gpt2", byte_store)):
        content = toy.recipe(store, base / kind, kind)
        content["train"]["steps"], content["optimizer"]["schedule"]["warmup"] = 4, 1
        content["logging"]["progress"] = True
        recipe = toy.write_recipe(base / f"{kind}.json", content)
        with open(base / f"{kind}.out", "w") as out, open(base / f"{kind}.err", "w") as err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                assert cli.main(["pretrain", str(recipe)]) == 0
    return base


@pytest.mark.parametrize(
    ("overrides", "warnings"),
    [
        (("checkpoint.every=5", "evaluation.every=5"), ()),
        (
            ("checkpoint.every=20", "evaluation.every=0"),
            ("checkpoints every 20 steps: none before the end at step 20", "evaluation.every=4"),
        ),
        (("checkpoint.every=19", "evaluation.every=50"), ("validation every 50 steps: none",)),
        (("checkpoint.every=5", "evaluation.split=null"), ()),
        (("checkpoint.every=20", "evaluation.every=5"), ()),  # the first validation saves
    ],
)
def test_a_run_says_that_nothing_is_saved_or_validated_before_its_end(
    words, overrides, warnings, tmp_path
):
    config = toy.configured(words, tmp_path / "run", "masked", *overrides)
    built = build(config)
    said = describe(built, find_receipt(built, tmp_path / "run"))
    said = [x for x in said if x.startswith("warning")]
    assert len(said) == len(warnings)
    assert all(part in line for part, line in zip(warnings, said))


def test_rows_of_the_embedding_that_no_piece_has_are_told(words, tmp_path):
    """As where a tokenizer found fewer pieces than it was asked for; a round number is none."""
    said = {
        rows: unused_rows(
            toy.configured(words, tmp_path, "masked", f"model.vocab_size={rows}"), 130
        )
        for rows in (130, 256, 1000)
    }
    assert said == {
        130: [],
        256: [],
        1000: [
            "the tokenizer has 130 pieces and the model 1,000 rows for them: 870 are never used "
            "(model.vocab_size=130 leaves them out)"
        ],
    }


def test_what_takes_long_before_the_first_step_is_told(runs, words):
    lines = (runs / "masked.out").read_text().splitlines()
    assert lines[:2] == [f"reading {words}", "compiling the step, to see what it takes"]
    parts = (runs / "masked.err").read_text().splitlines()
    first, *_, last = (part for part in parts if part.startswith("train:"))
    assert first.rstrip().endswith(", compiling]") and "compiling" not in last


def test_evaluate_gives_the_numbers_of_the_validation(runs, capsys):
    head, *lines = told(capsys, "evaluate", str(runs / "masked")).splitlines()
    assert re.fullmatch(r".*/masked: step 4, split validation, \d+ rows", head)
    values = {name: float(value) for name, value in (line.split(": ") for line in lines)}
    row = toy.rows_of(runs / "masked", "validation")[-1]
    assert values == pytest.approx({k: v for k, v in row.items() if k in values}, rel=1e-5)
    assert {"loss", "perplexity", "bits_per_byte"} <= values.keys()
    assert "loss/masked_lm" not in values  # it is the only one, so `loss` says it


def test_evaluate_counts_the_rows_of_a_limited_number_of_batches(runs, capsys):
    assert "8 rows" in told(capsys, "evaluate", str(runs / "masked"), "--batches", "1")


def test_evaluate_takes_a_batch_that_the_devices_here_do_not_divide(runs, words, capsys, tmp_path):
    """The run may have had fewer devices than there are now."""
    import shutil

    shutil.copytree(runs / "masked", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 8", "batch_size: 5"))
    told(capsys, "seal", str(tmp_path / "run"))
    lines = told(capsys, "evaluate", str(tmp_path / "run")).splitlines()
    row = toy.rows_of(runs / "masked", "validation")[-1]
    (loss,) = (float(line.split(": ")[1]) for line in lines if line.startswith("loss: "))
    assert loss == pytest.approx(row["loss"], rel=1e-5)


def test_generate_continues_each_prompt(runs, capsys):
    arguments = ("generate", str(runs / "gpt2"), "the cat", "a dog", "--tokens", "5")
    text = told(capsys, *arguments)
    first, _, second = text.partition('\n\n== prompt "a dog"\n')
    assert first.startswith('== prompt "the cat"\n') and second  # whose words are whose is seen
    assert told(capsys, *arguments) == text  # the seed is fixed


def test_generate_adds_what_fits_unless_told(runs, capsys):
    """The model has 32 positions, and the default is at most 64 tokens."""
    text = told(capsys, "generate", str(runs / "gpt2"))
    assert text.startswith("== no prompt") and len(text) > 40
    assert cli.main(["generate", str(runs / "gpt2"), "the cat", "--tokens", "32"]) == 2
    assert "(--tokens 2" in capsys.readouterr().err


def test_fill_mask_shows_the_candidates(runs, capsys):
    text = told(capsys, "fill-mask", str(runs / "masked"), "the [MASK] sees", "--top", "3")
    first, second = text.splitlines()
    assert first == "the [MASK] sees"
    assert re.fullmatch(r'  ("[^ ]+" (0\.0*[1-9]\d\d|[1-9]\.\d\de-\d+)(, )?){3}', second), second


def test_report_writes_one_and_compares_several(runs, capsys, tmp_path):
    out = tmp_path / "comparison.html"
    text = told(capsys, "report", str(runs / "masked"), str(runs / "gpt2"), "--out", str(out))
    assert out.stat().st_size > 1000 and "masked" in text and "gpt2" in text
    text = told(capsys, "report", str(runs / "masked"), str(runs / "gpt2"))
    assert f"comparison: {runs.resolve() / 'comparison.html'}\n" in text  # beside the first run


def test_the_report_of_one_run_goes_where_it_is_told(runs, capsys, tmp_path):
    own = runs / "masked" / "report.html"
    own.write_text("the run's own")
    out = tmp_path / "page.html"
    assert told(capsys, "report", str(runs / "masked"), "--out", str(out)) == f"report: {out}\n"
    assert out.stat().st_size > 1000 and own.read_text() == "the run's own"
    assert told(capsys, "report", str(runs / "masked")) == f"report: {own}\n"
    assert own.read_text() == out.read_text()


def test_inspect_shows_runs_stores_and_checkpoints(runs, words, capsys):
    run = told(capsys, "inspect", str(runs / "masked"), "--verify")
    assert "best step by loss: 4" in run
    assert "run " in run and "all checksums match" in run and "embeddings/tokens" in run
    store = told(capsys, "inspect", str(words), "--verify")
    assert "token store" in store and "all checksums match" in store and "validation" in store
    step = told(capsys, "inspect", str(runs / "masked" / "checkpoints" / "4"))
    assert "checkpoint" in step and "step 4" in step
    assert run.splitlines()[-1].startswith("verified: ")
    tokenizer = told(capsys, "inspect", str(words / "tokenizer"))
    assert "130 pieces" in tokenizer and "'mask': '[MASK]'" in tokenizer


def test_a_loss_that_is_not_finite_ends_with_its_own_code(words, tmp_path, capsys, monkeypatch):
    from jaxssl.train.stopping import NotFinite

    def pretrain_run(config):
        raise NotFinite("step 8 was not finite")

    monkeypatch.setattr("jaxssl.run.train.train_run", pretrain_run)
    content = toy.recipe(words, tmp_path / "run", "masked")
    arguments = ["pretrain", str(toy.write_recipe(tmp_path / "r.json", content))]
    assert cli.main(arguments) == 3
    err = capsys.readouterr().err
    assert err == "stopped: step 8 was not finite\n"


# --- How a command ends ---

INTERRUPTED = """
import signal, sys, time
from jaxssl import cli

class Callback:
    def __del__(self):  # what is raised in here is printed and forgotten
        signal.raise_signal(signal.SIGINT)

def swallow():
    try: signal.raise_signal(signal.SIGINT)
    except BaseException: pass

def command(options):
    {strike}
    time.sleep(60)

cli._inspect = command
sys.argv = ["jaxssl", "inspect", "here"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    "strike", ["signal.raise_signal(signal.SIGINT)", "Callback()", "swallow()"]
)
def test_ctrl_c_ends_a_command_quietly_wherever_it_strikes(strike):
    program = [sys.executable, "-c", INTERRUPTED.format(strike=strike)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_while_a_module_is_imported_does_not_become_another_error(tmp_path):
    (tmp_path / "library.py").write_text(
        "import signal\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except BaseException as error: raise ImportError('cannot load the extension') from error"
    )
    program = [sys.executable, "-c", INTERRUPTED.format(strike="import library")]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("platform", ["cuda", "abacus"])
def test_a_platform_that_is_not_there_is_told(platform, runs):
    done = subprocess.run(
        [sys.executable, "-m", "jaxssl", "evaluate", str(runs / "masked")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": platform},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and f"got:      {platform}" in done.stderr
    assert "JAX_PLATFORMS=cpu" in done.stderr


@pytest.mark.parametrize("verb", ["pretrain", "config"])
def test_a_base_that_is_no_run_is_told_on_the_command_line(verb, tmp_path, capsys):
    layers = [verb, "pretrain/bert-tiny", f"init.from={tmp_path / 'nowhere'}"]
    assert cli.main(layers) == 2
    assert "not a run to start from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "where", "found"),
    [
        (["generate", "run", "--tokens", "5", "The film", "A"], "prompts", ["The film", "A"]),
        (["generate", "run", "one", "--tokens", "5", "two"], "prompts", ["one", "two"]),
        (["generate", "run", "--tokens", "5"], "prompts", [""]),
        (["import", "hf", "out", "--dtype", "bfloat16", "a.b=c"], "overrides", ["a.b=c"]),
        (["finetune", "recipe", "--seeds", "2", "a.b=c"], "layers", ["recipe", "a.b=c"]),
    ],
)
def test_words_may_come_before_or_after_options(given, where, found):
    assert getattr(cli.make_parser().parse_args(given), where) == found


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (["embed", "run", "--input", "a", "--output", "b", "--normalise"], "'--normalize'"),
        (["import", "hf", "out", "--dtpe", "bfloat16"], "'--dtype'"),
        (["import", "hf", "out", "--pad-vocab", "128"], "'--pad-vocab-to'"),
    ],
)
def test_a_mistyped_option_gets_its_name(given, fix, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.make_parser().parse_args(given)
    assert ended.value.code == 2
    assert f"did you mean {fix}?" in capsys.readouterr().err
