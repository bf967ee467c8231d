"""Signals: the first saves, a second interrupt does what it did before, and at the start nothing is
to be saved."""

import signal
import time

import pytest
import toy

from jaxssl.train.stopping import StopSignal


@pytest.fixture
def before():
    """The signals that reached the handler that was there before."""
    reached = []
    old = {n: signal.signal(n, lambda number, frame: reached.append(number)) for n in NUMBERS}
    yield reached
    for number, handler in old.items():
        signal.signal(number, handler)


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_noted_and_told(number, before):
    said = []
    with StopSignal(said.append) as stop:
        signal.raise_signal(number)
        assert stop.received == number.name and "saving after this step" in said[0]
    signal.raise_signal(number)
    assert before == [number]


def test_a_second_interrupt_does_what_it_did_before(before):
    with StopSignal(lambda text: None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert before == [signal.SIGINT]


def test_a_hangup_that_nohup_ignores_stays_ignored(before):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal(lambda text: None) as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None


@pytest.mark.parametrize("seconds", [0.7, 2.0])
def test_sigterm_while_starting_ends_with_75_and_no_traceback(seconds, words, tmp_path):
    recipe = toy.write_recipe(tmp_path / "r.json", toy.recipe(words, tmp_path / "run", "masked"))
    process = toy.start(["pretrain", recipe, "train.steps=100000", "checkpoint.every=99999"])
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    code, _, err = toy.finish(process)
    assert code == 75 and "Traceback" not in err, err
    assert "run the same command again" in err


def test_two_interrupts_end_a_run_without_a_traceback(words, tmp_path):
    content = toy.recipe(words, tmp_path / "run", "masked")
    recipe = toy.write_recipe(tmp_path / "r.json", content)
    process = toy.start(["pretrain", recipe, "train.steps=100000", "checkpoint.every=99999"])
    while toy.last_logged(tmp_path / "run") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "SIGINT" in line:
            break
    process.send_signal(signal.SIGINT)
    code, _, err = toy.finish(process)
    assert code in (75, 130) and "Traceback" not in err, err  # 75: it had saved already
