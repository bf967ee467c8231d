import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.train.metrics_file import MetricsFile, read_metrics
from jaxssl.train.sinks import Sinks, TensorBoardSink, WandbSink

ROOT = Path(__file__).parents[2]


def strict(text):
    """Parses JSON as another language's parser would: NaN and Infinity are errors."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def train_rows(*steps):
    return [{"kind": "train", "step": step, "loss": step / 7} for step in steps]


def write(run_dir, rows):
    file = MetricsFile(run_dir)
    for row in rows:
        file.write(row)
    file.close()


def test_each_row_is_a_line_of_strict_json_as_soon_as_it_is_written(tmp_path):
    file = MetricsFile(tmp_path / "run")
    row = {"kind": "train", "step": 1, "loss": 1 / 3, "text": 'é "\n\u2028'}
    file.write(row)
    lines = (tmp_path / "run/metrics.jsonl").read_bytes().split(b"\n")  # not closed yet
    assert strict(lines[0]) == row and lines[1:] == [b""]


def test_non_finite_numbers_are_strings_in_the_file_and_floats_when_read(tmp_path):
    rows = [{"kind": "train", "step": 1, "loss": math.nan, "grad_norm": math.inf, "x": -math.inf}]
    write(tmp_path, rows)
    written = strict((tmp_path / "metrics.jsonl").read_text())
    assert (written["loss"], written["grad_norm"], written["x"]) == ("nan", "inf", "-inf")
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["loss"]) and row["grad_norm"] == math.inf and row["x"] == -math.inf


def test_text_that_reads_nan_stays_text(tmp_path):
    write(tmp_path, [{"kind": "sample", "step": 1, "prompt": "nan", "text": "inf"}])
    assert read_metrics(tmp_path)[0]["text"] == "inf"


def test_array_scalars_are_written_as_the_numbers_they_are(tmp_path):
    row = {"kind": "train", "step": np.int64(3), "loss": np.float32(0.1), "nested": [np.float64(2)]}
    write(tmp_path, [row])
    expected = {"kind": "train", "step": 3, "loss": float(np.float32(0.1)), "nested": [2.0]}
    assert read_metrics(tmp_path) == [expected]


def test_truncating_removes_later_rows_and_keeps_the_others_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = b'{"kind":"train", "step":1,"loss":0.10}\n{"kind": "note", "text": "no step"}\n'
    path.write_bytes(kept + b'{"kind": "train", "step": 3}\n{"kind": "validation", "step": 2}\n')
    file = MetricsFile(tmp_path)
    file.rewind(2)
    kept += b'{"kind": "validation", "step": 2}\n'
    assert path.read_bytes() == kept
    file.write({"kind": "train", "step": 3})
    assert path.read_bytes() == kept + b'{"kind": "train", "step": 3}\n'


def test_a_failed_truncation_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write(tmp_path, train_rows(1, 2, 3))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    file = MetricsFile(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        file.rewind(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_killed_write_loses_its_own_line_only(tmp_path, cut):
    write(tmp_path, train_rows(1, 2))
    path = tmp_path / "metrics.jsonl"
    last = path.read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes()[: -min(cut, len(last))])
    whole = train_rows(1, 2) if cut == 1 else train_rows(1)  # 1: only the newline is missing
    assert read_metrics(tmp_path) == whole
    write(tmp_path, train_rows(3))
    assert read_metrics(tmp_path) == whole + train_rows(3)


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    good = '{"kind": "train", "step": 1}\n'
    for bad in ('{"st', "[1]", '{"step": 1}', '{"kind": "train", "step": "1"}', "\xff", "[" * 9999):
        (tmp_path / "metrics.jsonl").write_text(f"{good}{bad}\n{good}", encoding="latin-1")
        with pytest.raises(UserError, match="metrics.jsonl:2"):
            read_metrics(tmp_path)
        (tmp_path / "metrics.jsonl").write_text(f"{good}{bad}\n", encoding="latin-1")
        with pytest.raises(UserError, match="metrics.jsonl:2"):  # a whole line is not half written
            read_metrics(tmp_path)


def test_no_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_run_directory_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        MetricsFile(tmp_path / "file" / "run")


def test_sinks_of_a_resumed_run_hold_what_an_uninterrupted_one_holds(tmp_path):
    def run(run_dir, steps, resume_step=None):
        sinks = Sinks.open(run_dir, tensorboard=False, resume_step=resume_step)
        for step in steps:
            sinks.write("train", step, loss=math.sqrt(step), **{"loss/mlm": 1 / step})
        sinks.close()

    run(tmp_path / "whole", range(1, 11))
    run(tmp_path / "killed", range(1, 8))
    run(tmp_path / "killed", range(5, 11), resume_step=4)
    whole, killed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def test_empty_sinks_take_rows_and_write_nothing(tmp_path):
    sinks = Sinks()
    sinks.note(3, "nothing")
    sinks.rewind(1)
    sinks.close()
    assert list(tmp_path.iterdir()) == [] and sinks.sinks == ()


def events(run_dir):
    """The scalars of a directory's event files as {(tag, step): value}, in writing order."""
    from tensorboardX.proto.event_pb2 import Event

    found, restarts = {}, []
    for path in sorted(run_dir.glob("events.*")):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            (size,) = np.frombuffer(content[offset : offset + 8], "<u8")
            event = Event.FromString(content[offset + 12 : offset + 12 + int(size)])
            offset += 16 + int(size)
            if event.HasField("session_log"):
                restarts.append(event.step)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found, restarts


def test_tensorboard_does_without_pytorch(tmp_path):
    """To import PyTorch takes more than a second of a run's start."""
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    code = f"""
import sys
from jaxssl.train.sinks import TensorBoardSink
sink = TensorBoardSink({str(tmp_path / "run")!r})
sink.write({{"kind": "train", "step": 2, "loss": 0.5}})
sink.close()
print("torch" in sys.modules)
import torch
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (out.stdout, out.stderr) == ("False\n", "imported\n")
    assert events(tmp_path / "run")[0] == {("train/loss", 2): 0.5}


def test_tensorboard_holds_every_number_under_its_kind(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write(
        {"kind": "train", "step": 2, "loss": np.float32(0.5), "loss/mlm": 0.25, "flag": True}
    )
    sink.write({"kind": "sample", "step": 2, "prompt": "a", "text": "b"})
    sink.close()
    found, restarts = events(tmp_path)
    scalars = {key: value for key, value in found.items() if key[0].startswith("train")}
    assert scalars == {("train/loss", 2): 0.5, ("train/loss/mlm", 2): 0.25}
    assert restarts == []


def test_tensorboard_gets_no_point_of_what_is_a_share_of_nothing(tmp_path, caplog):
    """It would warn of each: precision where nothing was found, say."""
    sink = TensorBoardSink(tmp_path)
    sink.write({"kind": "train", "step": 2, "loss": 0.5, "precision": float("nan")})
    sink.close()
    assert events(tmp_path)[0] == {("train/loss", 2): 0.5} and not caplog.records


def test_going_back_hides_later_rows_from_tensorboard_and_removes_them_from_the_file(tmp_path):
    sinks = Sinks.open(tmp_path)
    for step in (1, 2, 3):
        sinks.write("train", step, loss=1.0)
    sinks.rewind(1)
    sinks.write("train", 2, loss=0.5)
    sinks.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5)]
    found, restarts = events(tmp_path)
    assert restarts == [2]
    assert found["train/loss", 2] == 0.5


def test_tensorboard_purges_from_the_step_that_is_written_again(tmp_path):
    sinks = Sinks.open(tmp_path, resume_step=40)
    sinks.write("train", 41, loss=1.0)
    sinks.close()
    assert events(tmp_path)[1] == [41]


def test_wandb_that_is_not_installed_is_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install") as told:
        WandbSink(tmp_path, project="p")
    assert told.value.where == "logging.wandb_project"


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package: what was logged, and what each run was started with.

    Like the package, it plots over our step only what it was told to.
    """
    logged, started = [], []

    def init(**options):
        axes = {}

        def log(values):
            assert axes == {"*": "step"}, "the plots are over the package's own step"
            logged.append(values)

        define = lambda name, step_metric: axes.update({name: step_metric})
        started.append(options)
        return types.SimpleNamespace(define_metric=define, log=log, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return logged, started


def test_the_sinks_of_a_run_tell_wandb_its_whole_configuration(tmp_path, wandb):
    config = {"model": {"name": "gpt2", "segments": []}, "train": {"steps": 5}}
    Sinks.open(tmp_path, tensorboard=False, wandb_project="p", config=config).close()
    assert [start["config"] for start in wandb[1]] == [config]


def test_wandb_gets_rows_and_a_resumed_run_keeps_its_id(tmp_path, wandb):
    logged, started = wandb
    for _ in range(2):
        sink = WandbSink(tmp_path, project="p", config={"a": 1})
        sink.write({"kind": "train", "step": 5, "loss": 2.0})
        sink.close()
    assert logged == [{"step": 5, "train/loss": 2.0}] * 2
    assert started[0]["id"] == started[1]["id"] and started[0]["resume"] == "allow"
