"""Processes that watch each other: each is played by a thread here, with real connections."""

import contextlib
import queue
import socket
import threading
import time

import pytest

from jaxssl.core.errors import UserError
from jaxssl.parallel.links import MissingProcess, Patience, Place
from jaxssl.parallel.partners import EXIT_MISSING, Partners, differences

SOON = Patience(start=20, lost=10)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Cast:
    """Several processes; `ends` has (number, line, exit code) of each that was ended."""

    def __init__(self, count, patience=SOON):
        self.ends = queue.Queue()
        port = free_port()
        self.players = [
            Partners(
                Place("127.0.0.1", port, count, number),
                patience,
                lambda line, code, number=number: self.ends.put((number, line, code)),
            )
            for number in range(count)
        ]

    def all(self, act, numbers=None):
        """What `act` of each player returns or raises, by its number; all at once."""
        found = {}

        def play(number):
            try:
                found[number] = act(self.players[number])
            except UserError as error:
                found[number] = error

        numbers = range(len(self.players)) if numbers is None else numbers
        threads = [threading.Thread(target=play, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return found

    def cut(self, number):
        """The process dies: the system closes its connections."""
        self.players[number]._closed.set()
        for link in self.players[number]._links.values():
            with contextlib.suppress(OSError):  # the other end may have taken leave before
                link.connection.shutdown(socket.SHUT_RDWR)
            link.close()

    def ended(self, count):
        return sorted(self.ends.get(timeout=20) for _ in range(count))


@pytest.fixture
def three():
    cast = Cast(3)
    assert cast.all(Partners.come_together) == {0: None, 1: None, 2: None}
    yield cast
    cast.all(Partners.close)


def test_facts_that_are_alike_are_told_in_every_process(three):
    def compare(player):
        for topic in ("configuration", "data"):
            player.compare(topic, {"a": 1, "b": [2]})

    assert set(three.all(compare).values()) == {None}
    assert three.ends.empty()


def test_facts_that_differ_are_refused_in_every_process_alike(three):
    def compare(player):
        player.compare("configuration", {"train.seed": player.place.number // 2, "a": 1})

    errors = three.all(compare)
    assert len({str(error) for error in errors.values()}) == 1
    assert errors[0].where == "train.seed" and "not alike" in errors[0].what
    assert errors[0].got == "train.seed: 0 in process 0, 1 in process 2"


def test_a_key_that_one_process_lacks_differs():
    assert differences({0: {"a": 1}, 1: {"a": 1, "b": 2}}) == [
        "b: None in process 0, 2 in process 1"
    ]


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_process_that_dies_is_named_by_all_others(three, dead):
    three.cut(dead)
    ends = three.ended(2)
    assert [number for number, _, _ in ends] == [n for n in range(3) if n != dead]
    for _, line, code in ends:
        assert code == EXIT_MISSING and f"process {dead} (" in line and "is missing" in line
        assert "last heard of" in line and "Start all processes again" in line


def test_a_process_that_falls_silent_is_missing_after_the_patience():
    cast = Cast(2, Patience(start=20, lost=1))
    cast.all(Partners.come_together)
    cast.players[1]._closed.set()  # it says nothing more, and its connection stays
    started = time.monotonic()
    ends = cast.ended(2)  # it is told, too: it may only have been stopped for a while
    assert [(number, code) for number, _, code in ends] == [(0, EXIT_MISSING), (1, EXIT_MISSING)]
    assert all("process 1 (" in line and "it has said nothing" in line for _, line, _ in ends)
    assert time.monotonic() - started < 10


def test_a_process_that_takes_leave_is_not_missing(three):
    three.all(Partners.close)
    for number in (0, 1, 2):
        three.cut(number)
    time.sleep(0.2)
    assert three.ends.empty()


def test_a_process_that_ends_with_an_error_of_its_own_takes_the_others_along(three):
    three.players[1].leave(2, "a row is refused")
    for number, line, code in three.ended(2):
        assert number in (0, 2) and code == 2
        assert "process 1 (" in line and "ended with exit code 2: a row is refused" in line


def test_those_that_do_not_come_are_named_in_every_process_that_did():
    cast = Cast(4, Patience(start=0.5, lost=10))
    errors = cast.all(Partners.come_together, [0, 2])
    for error in errors.values():
        assert isinstance(error, MissingProcess)
        assert "process 1, process 3 did not come: waited" in error.what


def test_the_first_process_is_waited_for_and_named():
    cast = Cast(2, Patience(start=0.5, lost=10))
    (error,) = cast.all(Partners.come_together, [1]).values()
    assert isinstance(error, MissingProcess) and "process 0 (127.0.0.1:" in error.what


def test_a_process_that_dies_before_all_have_come_ends_those_that_wait():
    cast = Cast(3)
    players = cast.players

    def come_and_die(player):
        connection = socket.create_connection(("127.0.0.1", player.place.port), 10)
        connection.sendall(b'{"number": 2, "count": 3, "name": "two"}\n')
        time.sleep(0.3)
        connection.close()

    def play(player):
        (come_and_die if player is players[2] else Partners.come_together)(player)

    first = threading.Thread(target=lambda: found.update(cast.all(play, [0])))
    found = {}
    first.start()
    for _ in range(100):
        try:
            come_and_die(players[2])
            break
        except OSError:
            time.sleep(0.05)
    first.join(30)
    assert isinstance(found[0], MissingProcess)
    assert "process 2 (two) has ended before" in found[0].what


def test_a_process_of_another_run_is_refused():
    cast = Cast(2, Patience(start=5, lost=10))
    stranger = Partners(
        Place("127.0.0.1", cast.players[0].place.port, 3, 1), Patience(5, 10), lambda *end: None
    )
    cast.players.append(stranger)

    def come(player):
        if player is cast.players[1]:
            time.sleep(0.5)
        player.come_together()

    found = cast.all(come)
    assert found[0] is None and found[1] is None
    assert "process 1 of 3 came to one of 2" in str(found[2])


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n"])
def test_others_that_call_at_the_port_are_none_of_the_processes(said):
    cast = Cast(2)

    def come(player):
        if player.place.number == 1:
            for _ in range(100):
                try:
                    with socket.create_connection(("127.0.0.1", player.place.port), 10) as call:
                        call.sendall(said)
                    break
                except OSError:
                    time.sleep(0.05)
        player.come_together()

    assert cast.all(come) == {0: None, 1: None}
    cast.all(Partners.close)
