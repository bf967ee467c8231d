"""Bars of progress, and making the next item ahead."""

import threading
import time

import pytest

from jaxssl.core.prefetch import prefetch
from jaxssl.core.progress import bar, silent, tell


def test_bars_made_inside_are_silent_in_any_thread_and_lines_stay_whole(capsys):
    def work():
        list(bar(range(3), description="inner"))

    with bar(total=1, description="outer") as outer, silent():
        work()
        other = threading.Thread(target=work)
        other.start()
        other.join()
        tell("a line")
        outer.update()
    list(bar(range(3), description="later"))
    err = capsys.readouterr().err
    assert "outer" in err and "later" in err and "inner" not in err
    assert "a line" in err.replace("\r", "\n").splitlines()


def test_a_bar_says_what_is_waited_for(capsys):
    with bar(total=2, description="train", note="compiling") as progress:
        first = capsys.readouterr().err
        progress.update(1)
    assert first.rstrip().endswith(", compiling]")
    assert "compiling" not in capsys.readouterr().err


def test_items_come_in_order_and_the_next_one_is_made_meanwhile():
    made, used = [], threading.Event()

    def items():
        for number in range(3):
            if number == 1:
                assert used.wait(20), "it is made while item 0 is used, or not at all"
            made.append((number, threading.current_thread() is threading.main_thread()))
            yield number

    taken = []
    for number in prefetch(items()):
        used.set()
        if number == 0:
            deadline = time.monotonic() + 20
            while len(made) < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) == 2, "one ahead, and no more"
        taken.append(number)
    assert taken == [0, 1, 2] and not any(in_main for _, in_main in made)
    assert list(prefetch([])) == [] and list(prefetch([None, 1])) == [None, 1]


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("bad")

    taken = prefetch(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="bad"):
        next(taken)
