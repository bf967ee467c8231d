"""The lock of a run directory: one run at a time, in the directory that was locked."""

import shutil

import pytest
import toy

from jaxssl.core.errors import UserError
from jaxssl.run.directory import RunLock
from jaxssl.run.train import train_run


def test_a_directory_that_stays_passes(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        lock.check()


@pytest.mark.parametrize("change", ["renamed", "deleted", "another in its place"])
def test_a_directory_that_is_not_the_locked_one_any_more_is_refused(change, tmp_path):
    run_dir = tmp_path / "run"
    with RunLock(run_dir) as lock:
        if change == "deleted":
            shutil.rmtree(run_dir)
        else:
            run_dir.rename(tmp_path / "moved")
        if change == "another in its place":
            shutil.copytree(tmp_path / "moved", run_dir)
        with pytest.raises(UserError, match="moved or deleted while the run trained"):
            lock.check()


def test_a_run_whose_directory_is_moved_ends_at_the_next_save(words, tmp_path):
    config = toy.configured(words, tmp_path / "run", "masked", "checkpoint.every=2")

    def move(text):
        if text.startswith("objective"):  # the last that is said before the first step
            (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(UserError, match="moved or deleted while the run trained"):
        train_run(config, move)
    assert not list(tmp_path.glob("*/checkpoints/*/manifest.json"))
