"""What a command says of an error that the user can do something about."""

import errno
import traceback

from jaxssl.core.errors import UserError, UserErrors

FIXES = {
    errno.EMFILE: "allow more open files (ulimit -n 4096), and start the same command again",
    errno.ENFILE: "close other programs, and start the same command again",
    errno.ENOMEM: "free memory, or make the batch smaller, and start the same command again",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), and start the same command again",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def mistakes_of(error: Exception) -> list[UserError]:
    """What to say of it, one or several; none where the error is not the user's."""
    if isinstance(error, UserErrors):
        return list(error.errors)
    if isinstance(error, UserError):
        return [error]
    if isinstance(error, MemoryError):
        return [_of_memory()]
    if isinstance(error, OSError) and error.errno is not None:
        return [_of_system(error)]
    if isinstance(error, RuntimeError | AssertionError):
        from jaxssl.parallel.backends import backend_mistake

        mistake = backend_mistake(error)
        return [] if mistake is None else [mistake]
    return []


def code_of(error: Exception, mistakes: list[UserError]) -> int:
    """The exit code: 2 for a mistake, 69 for a process that never came, 1 for a fault of ours."""
    from jaxssl.parallel.links import MissingProcess
    from jaxssl.parallel.partners import EXIT_MISSING

    if isinstance(error, MissingProcess):
        return EXIT_MISSING
    return 2 if mistakes else 1


def _of_system(error: OSError) -> UserError:
    """What the operating system refused."""
    where = error.filename if error.filename is not None else _place_of(error)
    return UserError(
        "the operating system refused to read, write or start something",
        where=where,
        expected="files that are there, with room and permission; as many as are needed at once",
        got=error.strerror or error,
        fix=FIXES.get(
            error.errno or 0,
            "free space or choose another place, and start the same command again",
        ),
    )


def _of_memory() -> UserError:
    return UserError(
        "there is not enough memory",
        where="this machine, or a limit of it (ulimit -v)",
        expected="room for the model, its optimizer, and a batch",
        got="none left",
        fix=FIXES[errno.ENOMEM],
    )


def _place_of(error: BaseException) -> str:
    """Where in the software an error arose that names no file."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
