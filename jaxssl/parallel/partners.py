"""The processes of a run watch each other, so that none waits for one that is gone.

The first process listens beside the coordinator; the others connect before they join through JAX,
and all say every few seconds that they are there. Whoever loses a partner says who is missing and
ends with `EXIT_MISSING`: JAX itself would wait for minutes, or abort. What must be alike in all
processes is compared over the same connections, before any program runs.
"""

import atexit
import contextlib
import ctypes
import json
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.parallel.links import Link, Patience, Place, listening, missing_error

EXIT_MISSING = 69
"""Exit code where another process is missing (EX_UNAVAILABLE): start all of them again."""
GRACE_SECONDS = 1.0
"""What a process has to end by itself when another has said that it ends."""
RETRY_SECONDS = 0.2
HELLO_SECONDS = 5.0
"""What a caller has to say who it is, while the others wait."""


class Partners:
    """The other processes of a run, seen from this one.

    Args:
      end: ends this process with a line and an exit code; from a thread of its own.
    """

    def __init__(
        self,
        place: Place,
        patience: Patience,
        end: Callable[[str, int], None] | None = None,
    ):
        self.place, self.patience = place, patience
        self._end = end or _end_process
        self._links: dict[int, Link] = {}
        self._answers: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._closed = threading.Event()

    @property
    def is_first(self) -> bool:
        return self.place.number == 0

    # --- Coming together ---

    def come_together(self) -> None:
        """Waits for all processes.

        Raises:
          UserError: names those that did not come in time.
        """
        if self.is_first:
            self._listen()
        else:
            self._call()
        for number, link in self._links.items():
            _start(self._watch, number, link)
        _start(self._beat)

    def _listen(self) -> None:
        deadline = time.monotonic() + self.patience.start
        try:
            server = listening(self.place.port)
        except OSError as error:
            raise UserError(
                "the first process cannot listen to the others",
                where=f"distributed.watch_port: port {self.place.port}",
                expected="a free port",
                got=error.strerror,
                fix="choose another with distributed.watch_port, or another coordinator",
            ) from error
        with server:
            while len(self._links) < self.place.count - 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._did_not_come()
                waiting = {link.connection: link for link in self._links.values()}
                ready, _, _ = select.select([server, *waiting], [], [], left)
                for each in ready:
                    if each is server:
                        self._welcome(server.accept()[0])
                    else:  # nobody speaks before all are there: this one has gone
                        raise self._has_gone(waiting[each].name)
        for link in self._links.values():
            link.send(go=True)

    def _welcome(self, connection: socket.socket) -> None:
        """Takes a process in that says who it is; others that call here are none of ours."""
        link = Link(connection, "", HELLO_SECONDS)
        try:
            hello = next(link.messages())
            number, count, name = (hello[key] for key in ("number", "count", "name"))
        except (OSError, ValueError, KeyError, StopIteration):
            link.close()
            return
        if count != self.place.count or number in self._links or not 0 < number < count:
            link.send(refused=f"process {number} of {count} came to one of {self.place.count}")
            link.close()
            return
        connection.settimeout(self.patience.lost)
        link.number, link.name = number, f"process {number} ({name})"
        self._links[number] = link

    def _call(self) -> None:
        deadline = time.monotonic() + self.patience.start
        link = Link(self._connect(deadline), self._first_name, self.patience.start + 5)
        link.send(
            number=self.place.number,
            count=self.place.count,
            name=f"{socket.gethostname()}, pid {os.getpid()}",
        )
        try:
            answer = next(link.messages(), {})
        except (OSError, ValueError):
            answer = {}
        if "refused" in answer:
            raise UserError(
                "the first process did not take this one in",
                where=f"process {self.place.number}",
                expected=f"{self.place.count} processes with a number each",
                got=answer["refused"],
                fix="start all of them with the same num_processes, and each its own process_id",
            )
        if "go" not in answer:
            gone = f"{link.name} has ended before all processes had come"
            raise missing_error(answer.get("missing", gone))
        self._links[0] = link
        link.connection.settimeout(self.patience.lost)

    @property
    def _first_name(self) -> str:
        return f"process 0 ({self.place.host}:{self.place.port})"

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            left = deadline - time.monotonic()
            try:
                return socket.create_connection((self.place.host, self.place.port), max(0.1, left))
            except OSError:
                if left <= 0:
                    what = f"{self._first_name} did not come: waited {self.patience.start:.0f} s"
                    raise missing_error(what) from None
                time.sleep(RETRY_SECONDS)

    def _did_not_come(self) -> UserError:
        missing = [n for n in range(1, self.place.count) if n not in self._links]
        names = ", ".join(f"process {number}" for number in missing)
        return self._tell(f"{names} did not come: waited {self.patience.start:.0f} s")

    def _has_gone(self, name: str) -> UserError:
        return self._tell(f"{name} has ended before all processes had come")

    def _tell(self, what: str) -> UserError:
        """The error, which the others are told as well."""
        for link in self._links.values():
            link.send(missing=what)
        return missing_error(what)

    # --- Watching ---

    def _beat(self) -> None:
        while not self._closed.wait(self.patience.lost / 10):
            for link in self._links.values():
                link.send(beat=True)

    def _watch(self, number: int, link: Link) -> None:
        """Hears what another says. That it falls silent ends this process."""
        heard = time.monotonic()
        try:
            for message in link.messages():
                heard = time.monotonic()
                if "leave" in message:
                    link.is_leaving = True
                    self._follow(link, message)
                elif "bye" in message:
                    link.is_leaving = True
                elif "lost" in message:
                    self._end(str(message["lost"]), EXIT_MISSING)
                elif "beat" not in message:
                    self._answers.put((number, message))
            how = "its connection was closed"
        except TimeoutError:
            how = "it has said nothing"
        except (OSError, ValueError) as error:
            how = f"its connection broke ({error})"
        if link.is_leaving or self._closed.is_set():
            return
        waited = time.monotonic() - heard
        line = (
            f"error: {link.name} is missing: {how}; last heard of {waited:.0f} s ago. Start all "
            "processes again: a run goes on from its newest checkpoint"
        )
        for other in self._links.values():
            other.send(lost=line)
        self._end(line, EXIT_MISSING)

    def _follow(self, link: Link, message: Mapping[str, Any]) -> None:
        """Ends, soon, as another process did that says why; unless this one ends already."""
        code, by = int(message["leave"]), str(message.get("by", link.name))
        for other in self._links.values():
            if other is not link:
                other.send(leave=code, text=message["text"], by=by)
        if self._closed.wait(GRACE_SECONDS):
            return
        self._end(f"{by} ended with exit code {code}: {message['text']}", code)

    # --- Talking ---

    def compare(self, topic: str, facts: Mapping[str, Any]) -> None:
        """Compares facts with those of all other processes, which all call this together.

        Raises:
          UserError: in all processes alike; names what differs, and where.
        """
        if not self.is_first:
            self._links[0].send(topic=topic, facts=dict(facts))
            _, answer = self._answer(topic)
            lines = answer["different"]
        else:
            all_facts = {0: json.loads(json.dumps(dict(facts)))}
            while len(all_facts) < self.place.count:
                number, answer = self._answer(topic)
                all_facts[number] = answer["facts"]
            lines = differences(all_facts)
            for link in self._links.values():
                link.send(topic=topic, different=lines)
        if lines:
            raise UserError(
                "the processes of this run are not alike",
                where=", ".join(line.partition(":")[0] for line in lines[:10]),
                expected="the same in all of them",
                got="; ".join(lines[:10]),
                fix="start all processes with the same command, versions and files",
            )

    def _answer(self, topic: str) -> tuple[int, dict[str, Any]]:
        number, answer = self._answers.get()  # a partner that is lost ends this process meanwhile
        assert answer.get("topic") == topic, (number, answer)
        return number, answer

    def leave(self, code: int, text: str) -> None:
        """Tells the others that this process ends otherwise than all of them together do."""
        self._closed.set()
        for link in self._links.values():
            link.send(leave=code, text=text)

    def close(self) -> None:
        """Takes leave: this process has done its part."""
        self._closed.set()
        for link in self._links.values():
            link.send(bye=True)


def differences(all_facts: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """`key: value in process 0, other value in process 1` of each key that is not the same."""
    lines = []
    for key in sorted({key for facts in all_facts.values() for key in facts}):
        values = {number: facts.get(key) for number, facts in sorted(all_facts.items())}
        other = next((n for n, value in values.items() if value != values[0]), None)
        if other is not None:
            lines.append(f"{key}: {values[0]!r} in process 0, {values[other]!r} in process {other}")
    return lines


def _start(run: Callable[..., None], *given: Any) -> None:
    threading.Thread(target=run, args=given, daemon=True, name="partners").start()


def _end_process(line: str, code: int) -> None:
    """Ends this process wherever it is: it may wait for what will never come."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode(errors="replace"))
    os._exit(code)


# --- Those of this process ------------------------------------------------------------------------

_joined: list[Partners] = []
_kept: list[Any] = []
"""What the system calls must not be collected."""


def join(place: Place, patience: Patience) -> None:
    """Comes together with the other processes, and watches them from then on."""
    partners = Partners(place, patience)
    partners.come_together()
    _joined.append(partners)
    atexit.register(partners.close)
    _tell_before_aborting(patience)


def _tell_before_aborting(patience: Patience) -> None:
    """Where the coordinator ends, JAX aborts the others at once, from a thread of its own: it waits
    here until the one that watches has said who is missing and has ended the process.

    A handler that Python installs would run in the main thread, which does not come to it.
    """

    def hold(number: int) -> None:
        del number
        time.sleep(patience.lost + GRACE_SECONDS)
        _end_process("error: this process was aborted", 128 + signal.SIGABRT)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(hold)
    _kept.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def is_joined() -> bool:
    """Whether this process is one of several."""
    return bool(_joined)


def compare(topic: str, facts: Mapping[str, Any]) -> None:
    """See `Partners.compare`; one process is like itself."""
    for partners in _joined:
        partners.compare(topic, facts)


def leave(code: int, text: str) -> None:
    """Ends this process, of several, with an error of its own: the others hear of it and end."""
    for partners in _joined:
        partners.leave(code, text)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait_for_news(of_devices: bool) -> None:
    """What failed may be another process, of which is heard in a moment: this one ends then.

    Args:
      of_devices: whether a program failed on the devices: what else may it be?
    """
    for partners in _joined:
        time.sleep((partners.patience.lost if of_devices else 0) + GRACE_SECONDS)
