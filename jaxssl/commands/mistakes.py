"""What a command says of an error that the user can do something about."""

import errno

from jaxssl.core.errors import UserError, UserErrors

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def mistakes_of(error: Exception) -> list[UserError]:
    """What to say of it, one or several; none where the error is not the user's."""
    if isinstance(error, UserErrors):
        return list(error.errors)
    if isinstance(error, UserError):
        return [error]
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return [_of_disk(error)]
    if isinstance(error, RuntimeError | AssertionError):
        from jaxssl.parallel.backends import backend_mistake

        mistake = backend_mistake(error)
        return [] if mistake is None else [mistake]
    return []


def code_of(error: Exception, mistakes: list[UserError]) -> int:
    """The exit code: 2 for a mistake, 69 for a process that never came, 1 for a fault of ours."""
    from jaxssl.parallel.partners import EXIT_MISSING, MissingProcess

    if isinstance(error, MissingProcess):
        return EXIT_MISSING
    return 2 if mistakes else 1


def _of_disk(error: OSError) -> UserError:
    return UserError(
        "a file cannot be written or read",
        where=error.filename,
        expected="a disk with room, and permission to use it",
        got=error.strerror,
        fix="free space or choose another place, and start the same command again",
    )
