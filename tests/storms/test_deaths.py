"""A process that dies takes the others along, soon and with a reason, and nothing is lost."""

import signal
import time

import pytest
import several
import toy

from jaxssl.parallel.partners import EXIT_MISSING

pytestmark = pytest.mark.slow
STEPS = 60
CHANGES = (f"train.steps={STEPS}", "checkpoint.every=10", "evaluation.every=30")


@pytest.fixture(scope="module")
def uninterrupted(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("deaths") / "run"
    for code, _, err in several.train_in_two(out, words, *CHANGES):
        assert code == 0, err
    return out


def is_starting(out):
    return (out / "run.json").is_file()  # the processes have joined, and the step is compiled


COORDINATOR, WORKER = 0, 1


@pytest.mark.parametrize(
    "who, when",
    [
        pytest.param(WORKER, "starting", id="a worker, starting"),
        pytest.param(COORDINATOR, "training", id="the coordinator, training"),
        pytest.param(WORKER, "training", id="a worker, training"),
        pytest.param(COORDINATOR, "saving", id="the coordinator, saving"),
    ],
)
def test_the_others_end_soon_and_the_run_goes_on_bit_for_bit(
    who, when, uninterrupted, words, tmp_path, capsys
):
    out = tmp_path / "run"
    hits = {
        "starting": lambda: is_starting(out),
        "training": lambda: toy.last_logged(out) >= 25,
        "saving": lambda: toy.last_logged(out) >= 10 and toy.is_saving(out),
    }
    started = several.start_two(out, words, *CHANGES)
    until = time.monotonic() + 200
    while not hits[when]():
        assert all(process.poll() is None for process in started) and time.monotonic() < until
        time.sleep(0.001)
    begin = time.monotonic()
    started[who].send_signal(signal.SIGKILL)
    code, _, err = toy.finish(started[1 - who])
    seconds = time.monotonic() - begin
    toy.finish(started[who])
    with capsys.disabled():
        print(f"\n{when}, process {who} killed: {seconds:.1f} s, exit code {code}, {err[-300:]!r}")
    assert code == EXIT_MISSING and seconds < 30, err
    assert f"process {who} (" in err and "is missing" in err and "last heard of" in err
    assert "Traceback" not in err
    for code, _, err in several.train_in_two(out, words, *CHANGES):
        assert code == 0, err
    toy.assert_same_arrays(toy.restored(out, STEPS), toy.restored(uninterrupted, STEPS))
    assert toy.rows_of(out) == toy.rows_of(uninterrupted)
