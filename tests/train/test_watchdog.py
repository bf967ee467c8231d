"""The watchdog says where a hung process is stuck."""

import threading
import time

from jaxssl.train.watchdog import Watchdog, WatchdogConfig


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_hung_step_has_its_stacks_written(tmp_path, capfd):
    path, released = tmp_path / "stacks-0.txt", threading.Event()

    def stuck_in_this_function():
        released.wait(20)

    thread = threading.Thread(target=stuck_in_this_function)
    thread.start()
    with Watchdog(WatchdogConfig(seconds=0.1, first_step_seconds=0.1), path):
        assert wait_for(lambda: path.is_file() and "stuck_in_this_function" in path.read_text())
    released.set()
    thread.join()
    text = path.read_text()
    assert "no step finished for" in text and "test_watchdog.py" in text
    assert "watchdog: no step finished" in capfd.readouterr().err


def test_steps_that_finish_keep_it_quiet(tmp_path):
    path = tmp_path / "stacks-0.txt"
    with Watchdog(WatchdogConfig(seconds=1.0, first_step_seconds=1.0), path) as watchdog:
        for _ in range(15):
            time.sleep(0.1)
            watchdog.beat()
    assert not path.exists()


def test_the_first_step_and_what_is_announced_may_take_longer(tmp_path):
    path = tmp_path / "stacks-0.txt"
    with Watchdog(WatchdogConfig(seconds=0.1, first_step_seconds=60.0), path) as watchdog:
        time.sleep(0.5)
        watchdog.beat()
        watchdog.pause()
        time.sleep(0.5)
        assert not path.exists()
        watchdog.beat()
        assert wait_for(path.is_file)


def test_zero_turns_it_off(tmp_path):
    with Watchdog(WatchdogConfig(seconds=0, first_step_seconds=0.01), tmp_path / "s") as watchdog:
        time.sleep(0.2)
        assert not watchdog._thread.is_alive()
    assert not (tmp_path / "s").exists()
