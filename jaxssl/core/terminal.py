"""Standard streams that cannot make a command fail: they may be closed, or of a small encoding."""

import os
import resource
import sys
from collections.abc import Sequence

from jaxssl.core.errors import UserError

OPEN_FILES, FEWEST_FILES = 4096, 64
"""A checkpoint of several hundred arrays has as many files open while it is written."""


def make_safe() -> None:
    """Opens what is closed as nothing, and writes characters that an encoding lacks as escapes.

    A closed descriptor would be given to the next file that is opened, a checkpoint's say, and what
    a library prints would end up in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def allow_open_files() -> None:
    """Raises this process's limit of open files to `OPEN_FILES`, or as far as it may.

    Raises:
      UserError: fewer than `FEWEST_FILES` are allowed; libraries hang or crash then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if 0 <= soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if 0 <= most < FEWEST_FILES:
        raise UserError(
            "too few open files are allowed",
            where="the limit of open files (ulimit -n)",
            expected=f"at least {FEWEST_FILES}",
            got=most,
            fix="allow more (ulimit -n 4096), and start the same command again",
        )


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses arguments whose bytes are no text: the files of a run hold paths as text.

    Raises:
      UserError: names the first.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                "an argument is not text in UTF-8",
                where=os.fsencode(argument).decode("utf-8", "backslashreplace"),
                expected="paths and values in UTF-8",
                got="other bytes",
                fix="rename the file or directory, or make a link to it that has another name",
            ) from None
