"""`jaxssl inspect` of an adapter alone, and the verbs' `--adapter` from the command line."""

import json

import numpy as np
import pytest
import tuned

from jaxssl import cli
from jaxssl.checkpoint.hf.directory import fingerprint
from jaxssl.checkpoint.hf.safetensors import write_file
from jaxssl.commands.export import export
from jaxssl.core.files import sha256
from jaxssl.run.train import train_run

QUIET = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("inspected")


@pytest.fixture(scope="module")
def run(base, table, place):
    """A LoRA `style` and a bottleneck `form`, one step."""
    settings = ("peft.style.name=lora", "peft.style.rank=3", "peft.style.layers=[1]")
    settings += ("peft.form.name=bottleneck", "peft.form.reduction=8", "train.steps=1")
    few = ("train.epochs=null", "checkpoint.every=1", "task.pooling=cls")
    train_run(tuned.configured(base, table, place / "run", *settings, *few), QUIET)
    return place / "run"


def said(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_an_adapter_of_a_run_is_told_with_its_base(run, base, capsys):
    code, out, _ = said(capsys, "inspect", run, "--adapter", "style")
    assert code == 0 and f"adapter style of {run}: lora" in out and "adapter form" not in out
    assert "rank=3" in out and "attention/query" in out and "attention/value" in out
    assert "layers: 1 (what is held for the others changes nothing)\n" in out
    # Two layers, two projections of 16 x 16: a of 16 x 3 and b of 3 x 16, in float32.
    assert f"parameters: {2 * 2 * 2 * 48:,}, {2 * 2 * 2 * 48 * 4:,} bytes" in out
    assert f"classify, pooler; {16 * 2 + 2 + 16 * 16 + 16:,} parameters" in out
    manifest = base / "checkpoints" / "4" / "manifest.json"
    assert f"step 4 of {base}, checksum {sha256(manifest)}" in out
    code, out, _ = said(capsys, "inspect", run, "--adapter", "form", "--adapter", "style")
    assert out.count("adapter ") == 2 and "layers: all" in out


def test_peft_files_are_told_from_their_headers(run, base, place, capsys, monkeypatch):
    adapters, model = place / "adapters", place / "model"
    export(base, model, say=QUIET)
    one = tuned.configured(  # one that PEFT can read
        *(base, place / "run.json", place / "one"),
        *("peft.name=lora", "peft.rank=3", "train.steps=1", "train.epochs=null"),
        *("checkpoint.every=1", "task.pooling=cls"),
        f"data.tables.train.path={tuned.write_table(place / 'few.csv', 40)}",
    )
    train_run(one, QUIET)
    export(place / "one", adapters, say=QUIET)
    path = adapters / "adapter_config.json"
    config = json.loads(path.read_text())
    code, out, _ = said(capsys, "inspect", adapters)
    assert code == 0 and "LORA, of PEFT's files" in out and "r=3" in out
    assert "attention.self.query" in out and "layers: 0, 1\n" in out
    assert f"parameters: {2 * 2 * 2 * 48:,}, {2 * 2 * 2 * 48 * 4:,} bytes" in out
    assert f"{', '.join(config['modules_to_save'])}; {16 * 2 + 2 + 16 * 16 + 16:,}" in out
    path.write_text(json.dumps({**config, "base_model_name_or_path": "someone/something"}))
    assert "someone/something, which is not here" in said(capsys, "inspect", adapters)[1]
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(model)}))
    assert f"checksum {fingerprint(model)}" in said(capsys, "inspect", adapters)[1]
    path.write_text(json.dumps({**config, "of_a_later_version": 3}))
    code, out, err = said(capsys, "inspect", adapters)
    assert (code, out) == (2, "") and "of_a_later_version" in err


def test_a_table_of_virtual_tokens_is_told(tmp_path, capsys):
    given = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, "token_dim": 16}
    (tmp_path / "adapter_config.json").write_text(json.dumps(given))
    table = np.zeros((5, 16), np.float32)
    described = {"prompt_embeddings": ("F32", table.shape)}
    write_file(tmp_path / "adapter_model.safetensors", described, [table])
    code, out, _ = said(capsys, "inspect", tmp_path)
    assert code == 0 and "PROMPT_TUNING" in out and "num_virtual_tokens=5" in out
    assert "changes: prompt_embeddings\n" in out and "parameters: 80, 320 bytes" in out
    assert "beside it: nothing" in out and "base: not named" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("inspect", "{run}", "--adapter", "stile"), "did you mean 'style'"),
        (("inspect", "{base}", "--adapter", "style"), "this run has no adapters"),
        (("inspect", "{run}", "--adapter", "style", "--verify"), "no checksums to compare"),
        (("fill-mask", "{run}", "a", "--adapter", "stile"), "did you mean 'style'"),
        (("evaluate", "{base}", "--adapter", "nowhere"), "no such adapter"),
        (("generate", "{base}", "--adapter", "{run}"), "cannot generate"),
        (("chat", "{base}", "--adapter", "{base}/"), "the run has its own adapters already"),
        (
            ("embed", "{base}", "--adapter", "{run}#x", "--input", "{table}", "--output", "o.npy"),
            "the run has no such adapter",
        ),
        (("merge", "{run}", "out", "--adapter", "style"), "does not take"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(arguments, told, run, base, table, capsys):
    given = [text.format(run=run, base=base, table=table) for text in arguments]
    try:
        code, _, err = said(capsys, *given)
    except SystemExit as ended:
        code, err = ended.code, capsys.readouterr().err
    assert code == 2 and told in err and err.count("error:") == 1, err


def test_the_verbs_take_adapters(run, base, capsys):
    given = ["fill-mask", base, "the cat sees a [MASK]", "--top", "2"]
    code, plain, _ = said(capsys, *given)
    assert code == 0
    code, out, err = said(capsys, *given, "--adapter", run)
    assert code == 0 and out != plain and f"adapters: style of {run}#style, form of" in err
    code, out, err = said(capsys, "evaluate", base, "--adapter", f"{run}#style")
    assert code == 0 and "split validation" in out and "accuracy" in out
