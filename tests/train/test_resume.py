"""A run that was killed or stopped and started again is the run that never was."""

import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import toy

STEPS, SAVE_EVERY = 120, 10
OVERRIDES = {
    "train": {"steps": STEPS},
    "evaluation": {"every": 60},
    "checkpoint": {"every": SAVE_EVERY, "keep_last": 2},
    "logging": {"every": 5, "tensorboard": False, "progress": False},
}


def command(run_dir: Path, words: Path, **more) -> list:
    recipe = {**toy.recipe(words, run_dir), **OVERRIDES, **more}
    path = toy.write_recipe(run_dir.with_suffix(".json"), recipe)
    return ["pretrain", path]


def run_whole(run_dir: Path, words: Path, **options) -> tuple[int, str, str]:
    return toy.finish(toy.start(command(run_dir, words), **options))


@pytest.fixture(scope="module")
def uninterrupted(words, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, out, err = run_whole(run_dir, words)
    assert code == 0, err
    return run_dir


def assert_same_run(run_dir: Path, uninterrupted: Path) -> None:
    toy.assert_same_arrays(toy.restored(run_dir, STEPS), toy.restored(uninterrupted, STEPS))
    assert toy.rows_of(run_dir) == toy.rows_of(uninterrupted)


def wait_until(process: subprocess.Popen, condition) -> bool:
    """Waits for the condition; False if the process ended before."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def kill_after(process: subprocess.Popen, run_dir: Path, steps: int, *, saving: bool) -> bool:
    """SIGKILL once so many steps were logged; with `saving` at the next save. Whether it hit."""
    begin = toy.last_logged(run_dir)
    hit = wait_until(process, lambda: 0 < toy.last_logged(run_dir) != begin) if begin else True
    target = toy.last_logged(run_dir) + steps
    hit = hit and wait_until(process, lambda: toy.last_logged(run_dir) >= target)
    if hit and saving:
        hit = wait_until(process, lambda: toy.is_saving(run_dir))
    process.send_signal(signal.SIGKILL)
    code, _, err = toy.finish(process)
    assert not hit or code in (0, -signal.SIGKILL), err
    return code == -signal.SIGKILL


def kill_many_times(run_dir: Path, words: Path, seed: int, kills: int, log: list) -> None:
    """Kills and starts again until `kills` starts were killed, then lets it end."""
    rng, done = random.Random(seed), 0
    arguments = command(run_dir, words)
    while done < kills:
        process = toy.start(arguments)
        if done == 0:  # at any moment of a start, before there is anything
            time.sleep(rng.uniform(0.5, 3.0))
            process.send_signal(signal.SIGKILL)
            code = toy.finish(process)[0]
            killed = code == -signal.SIGKILL
        else:
            saving = bool(done % 2)
            killed = kill_after(process, run_dir, rng.randrange(10, 30), saving=saving)
        log.append((killed, toy.last_logged(run_dir), toy.is_saving(run_dir)))
        if not killed:
            break
        done += 1
    code, _, err = toy.finish(toy.start(arguments))
    log.append((code, err))


@pytest.mark.parametrize(
    ("runs", "kills"),
    [(1, 2), pytest.param(2, 5, marks=pytest.mark.slow)],
    ids=["twice", "ten times"],
)
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    uninterrupted, words, tmp_path, runs, kills
):
    """The first kill strikes a start, the second a save, and so on."""
    logs: list[list] = [[] for _ in range(runs)]
    threads = [
        threading.Thread(
            target=kill_many_times, args=(tmp_path / f"run{seed}", words, seed, kills, logs[seed])
        )
        for seed in range(runs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, log in enumerate(logs):
        code, err = log[-1]
        assert code == 0, err
        assert [killed for killed, _, _ in log[:-1]] == [True] * kills, log
        assert any(saving for _, _, saving in log[:-1]), "no kill hit a save"
        assert_same_run(tmp_path / f"run{seed}", uninterrupted)


def test_stopped_by_signals_it_saves_and_ends_with_the_same_bits(uninterrupted, words, tmp_path):
    """The optimizer's state lies on the host here, which changes nothing."""
    run_dir = tmp_path / "run"
    arguments = command(run_dir, words, mesh={"offload_optimizer": True})
    for number in (signal.SIGTERM, signal.SIGINT):
        process = toy.start(arguments)
        begin = toy.last_logged(run_dir)
        assert wait_until(process, lambda begin=begin: toy.last_logged(run_dir) > begin + 10)
        process.send_signal(number)
        code, out, err = toy.finish(process)
        assert code == 75, err
        saved = max(int(path.name) for path in (run_dir / "checkpoints").iterdir())
        assert f"{number.name}: saved step {saved}" in out
        assert saved < STEPS
    assert toy.finish(toy.start(arguments))[0] == 0
    assert_same_run(run_dir, uninterrupted)
