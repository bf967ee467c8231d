"""Errors that a user can act on. The command line prints them and exits with code 2."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping


class UserError(ValueError):
    """A user's mistake, told in full: what, where, expected, got, and what to do.

    Args:
      what: one sentence that says what is wrong.
      where: the file, dotted configuration path or parameter name.
      expected: what would have been accepted.
      got: what was found.
      fix: the next thing to do, a command where there is one.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        fix: str | None = None,
    ):
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        parts = (("where", where), ("expected", expected), ("got", got), ("fix", fix))
        lines = [what] + [
            f"  {name + ':':<10}{value}" for name, value in parts if value is not None
        ]
        super().__init__("\n".join(lines))


class UserErrors(UserError):
    """Several mistakes of one kind, reported together (a configuration's, say)."""

    def __init__(self, errors: list[UserError]):
        self.errors = errors
        ValueError.__init__(self, "\n".join(str(error) for error in errors))


@contextlib.contextmanager
def told_as(options: Mapping[str, str]) -> Iterator[None]:
    """Has mistakes in settings name the options that they were given as.

    Args:
      options: {name of a setting: of the option}.
    """
    try:
        yield
    except UserError as error:
        if str(error.where) not in options:
            raise
        expected = str(error.expected)
        for name, option in options.items():
            expected = re.sub(rf"\b{name}=", f"{option} ", expected)
            expected = re.sub(rf"\b{name}\b", option, expected)
        raise UserError(
            error.what,
            where=options[str(error.where)],
            expected=None if error.expected is None else expected,
            got=error.got,
            fix=error.fix,
        ) from None


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """A suggestion for a mistyped `word`, or None if nothing known is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else None
