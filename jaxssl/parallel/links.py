"""What the processes of a run talk over: connections with messages, and who does not come."""

import contextlib
import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

from jaxssl.core.errors import UserError

MOST_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among the others.

    Attributes:
      host, port: of the first process, where it listens to the others.
    """

    host: str
    port: int
    count: int
    number: int


@dataclasses.dataclass(frozen=True)
class Patience:
    """Seconds that are waited: for all to come at the start, and for a sign of life later."""

    start: float = 300
    lost: float = 30


class Link:
    """A connection to another process: messages are JSON objects, one a line."""

    def __init__(self, connection: socket.socket, name: str, patience: float):
        connection.settimeout(patience)
        self.name, self.is_leaving = name, False
        self.number: int | None = None
        self.connection, self._lock = connection, threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends it, if the other is still there: that it is not is noticed by `messages`."""
        with self._lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the other says, until it closes.

        Raises:
          TimeoutError: it has said nothing for as long as its patience lasts.
          OSError: the connection broke.
          ValueError: what came is no message.
        """
        rest = b""
        while block := self.connection.recv(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > MOST_BYTES:
                raise ValueError("a message without an end")
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"no message: {line[:40]!r}")
                yield message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()


def listening(port: int) -> socket.socket:
    """A socket that takes connections of IPv6 and IPv4, where the machine has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


class MissingProcess(UserError):
    """Another process never came: the command ends with `EXIT_MISSING`."""


def missing_error(what: str) -> MissingProcess:
    """The error of a process that never came.

    Args:
      what: who it is, and how long it was waited for.
    """
    return MissingProcess(
        what,
        where="distributed",
        expected="all processes of the run, within distributed.timeout_seconds",
        got="fewer",
        fix="start all of them, with the same coordinator and each its own process_id",
    )
