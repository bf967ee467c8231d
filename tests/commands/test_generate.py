"""Prompts in files and from the standard input: in order, and gone on with after a kill."""

import csv
import io
import json
import re

import pytest
import talks

from jaxssl import cli
from jaxssl.commands.generate_file import generate_file
from jaxssl.core.errors import UserError
from jaxssl.generate.settings import Sampling
from jaxssl.run.open import TextWriter, generate_texts

PROMPTS = [
    *("the cat sees", "a dog", "my sister follows the old man", "", "near a river"),
    *("every bird", "one green fish paints", "at home", "the", "on the hill", "a dog", "my sister"),
]
LAST = ("num_tokens", "ended_by")
SAMPLING = Sampling(max_new_tokens=6, temperature=1.5, samples=2, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return talks.shared_run(tmp_path_factory) / "run"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": prompt, "n": i} for i, prompt in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(run, prompts, out, sampling=SAMPLING, batch_size=4):
    said = []
    given = {"batch_size": batch_size, "note": said.append}
    return generate_file(run, [prompts], out, sampling, **given), said


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_text_is_that_of_all_prompts_together(run, prompts, tmp_path):
    """Its choices go by its number in the file, whatever the batch."""
    out = tmp_path / "out.jsonl"
    assert written(run, prompts, out) == (24, [])
    rows = rows_of(out)
    assert list(rows[0]) == ["prompt", "n", "sample", "text", "log_probability", *LAST]
    assert [(row["n"], row["sample"]) for row in rows] == [(i // 2, i % 2) for i in range(24)]
    whole = generate_texts(run, PROMPTS, SAMPLING)
    assert [row["text"] for row in rows] == [text.text for text in whole]
    assert len({row["text"] for row in rows}) > 16  # mixed-up rows would be noticed
    for row, text in zip(rows, whole):
        assert row["log_probability"] == pytest.approx(text.log_probability, abs=1e-4)
        assert (row["num_tokens"], row["ended_by"]) == (text.num_tokens, text.ended_by)


def test_a_killed_command_goes_on_and_the_bytes_are_those_of_one_go(
    run, prompts, tmp_path, monkeypatch
):
    written(run, prompts, tmp_path / "whole.jsonl")
    out, write, calls = tmp_path / "out.jsonl", TextWriter.write, []

    def killed(self, *given, **more):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, *given, **more)

    monkeypatch.setattr(TextWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        written(run, prompts, out)
    part = tmp_path / "out.jsonl.part"
    assert not out.exists() and len(rows_of(part)) == 8
    with part.open("ab") as file:
        file.write(b'{"prompt": "half a li')
    for change, sampling in (
        ("seed", Sampling(**{**SAMPLING.__dict__, "seed": 4})),
        ("stop", Sampling(**{**SAMPLING.__dict__, "stop": ("a",)})),
    ):
        with pytest.raises(UserError, match=f"a change of: {change}\n"):
            written(run, prompts, out, sampling)
    with pytest.raises(UserError, match="a change of: batch_size\n"):
        written(run, prompts, out, batch_size=5)
    assert len(calls) == 2
    count, said = written(run, prompts, out)
    assert count == 24 and len(calls) == 4 and len(said) == 1 and "8 rows are there" in said[0]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def told(capsys, *arguments):
    assert cli.main([str(x) for x in arguments]) == 0
    return capsys.readouterr().out


FLAGS = ("--tokens", "6", "--temperature", "1.5", "--samples", "2", "--seed", "3")


def test_the_standard_input_has_a_prompt_a_line(run, tmp_path, capsys, monkeypatch):
    wanted = told(capsys, "generate", run, *PROMPTS, *FLAGS)
    monkeypatch.setattr("sys.stdin", io.StringIO("\r\n".join([*PROMPTS, ""])))
    assert told(capsys, "generate", run, *FLAGS, "-") == wanted
    assert wanted.count("\n\n== ") == 23 and wanted.count("== no prompt") == 2
    out, more = tmp_path / "out.csv", ("--column", "given", "--batch-size", "4")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(PROMPTS)))
    assert not told(capsys, "generate", run, "-", "--output", out, *more, *FLAGS)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["given", "sample", "text", "log_probability", *LAST]
    heads = [f'prompt "{p}"' if p else "no prompt: the start of a document" for p in PROMPTS]
    blocks = [f"== {heads[i // 2]}\n{row['text']}" for i, row in enumerate(rows)]
    assert "\n\n".join(blocks) + "\n" == wanted
    (tmp_path / "in.txt").write_text("\n".join([*PROMPTS, ""]))
    given = ("--input", tmp_path / "in.txt", "--output", "-", "--batch-size", "4")
    lines = told(capsys, "generate", run, *given, *FLAGS).splitlines()
    assert [json.loads(line)["text"] for line in lines] == [row["text"] for row in rows]


MISTAKES = [
    (["--input", "long.jsonl", "--output", "out.jsonl"], "(?s)longer than the model.*long.jsonl:2"),
    (["--input", "null.jsonl", "--output", "out.jsonl"], "(?s)cannot be used.*null.jsonl:2"),
    (["--input", "null.jsonl", "--output", "out.jsonl", "--column", "text"], "no such column"),
    (["--input", "null.jsonl"], "no place for the texts"),
    (["a", "--input", "null.jsonl", "--output", "out.jsonl"], "two places"),
    (["a", "--output", "out.jsonl", "--batch-size", "0"], "--batch-size"),
    (["a", "--output", "out.txt"], "a format that is not written"),
    (["-"], "no prompts come from the standard input"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_a_mistake_is_told_before_any_text_is_written(
    run, tmp_path, monkeypatch, capsys, given, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for name, second in (("long", "the cat " * 90), ("null", None)):
        rows = [{"prompt": "a dog"}, {"prompt": second}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["generate", str(run), *given]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and "Traceback" not in err, err
    assert len(list(tmp_path.iterdir())) == 2
