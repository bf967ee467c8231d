"""Signals end a command quietly, wherever they strike."""

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable

EXIT_INTERRUPTED = 130
EXIT_STOPPED = 75
"""Exit code after SIGTERM, SIGHUP or Ctrl-C where the same command goes on (EX_TEMPFAIL)."""
AGAIN_SECONDS = 0.02
STILL_HERE_SECONDS = 2.0


def ending_quietly(command: Callable[[], int], stopped: Callable[[str], int] | None = None) -> int:
    """Runs `command`, the whole of this process; interrupted, it ends with 130 and no traceback.

    Args:
      stopped: called with a signal's name on SIGTERM or SIGHUP, until the command has handlers of
        its own; the process ends with the code that it returns. None leaves these signals alone.

    Python raises KeyboardInterrupt wherever it happens to be. In a callback of a library that is
    printed as "Exception ignored" and forgotten, and some code takes it for an error of its own:
    here it is raised again. In a module that is being imported it becomes another error, or a crash
    of its extension: there the process ends at once.

    Returns:
      The exit code of `command`; an interrupt does not return.
    """
    received = threading.Event()

    def note(number: int, frame: types.FrameType | None) -> None:
        del number
        received.set()
        if _imports(frame):
            _leave()
        _ask_after(STILL_HERE_SECONDS)
        raise KeyboardInterrupt

    def ask_again(ignored: "sys.UnraisableHookArgs") -> None:
        if ignored.exc_type is KeyboardInterrupt:
            _ask_after(AGAIN_SECONDS)
        else:
            sys.__unraisablehook__(ignored)

    def stop(number: int, frame: types.FrameType | None) -> None:
        del frame
        assert stopped is not None
        _end(stopped(signal.Signals(number).name))

    signal.signal(signal.SIGINT, note)
    for number in (signal.SIGTERM, signal.SIGHUP) if stopped is not None else ():
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    sys.unraisablehook = ask_again
    try:
        code = command()
    except BaseException:
        if not received.is_set():
            raise
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        _leave()
    return code


def _ask_after(seconds: float) -> None:
    """Interrupts this process again, should it still be there."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()


def _imports(frame: types.FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave() -> None:
    with contextlib.suppress(OSError):  # standard error was closed
        os.write(2, b"interrupted\n")
    _end(EXIT_INTERRUPTED)


def _end(code: int) -> None:
    """Ends the process here: finalizers of the libraries would have more to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.terminate()
    with contextlib.suppress(Exception):  # a reader that has gone, or a write that was cut off
        sys.stdout.flush()
    os._exit(code)
