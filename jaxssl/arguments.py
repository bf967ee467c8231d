"""An argument parser that says what to do about a mistyped command."""

import argparse
import re
import shlex
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Tells a mistake as `UserError` does, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        from jaxssl.core.errors import UserError

        unknown = re.search(r"argument VERB: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        stray = message.partition("unrecognized arguments: ")[2]
        if unknown:
            mistake = _unknown_verb(unknown[1], re.findall(r"[\w-]+", unknown[2]))
        elif stray:
            mistake = _stray(stray.split())
        else:
            mistake = UserError(message, where=self.prog, fix=f"{self.prog} --help")
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {mistake}\n")


def _unknown_verb(word: str, verbs: list[str]) -> Exception:
    from jaxssl.core.errors import UserError, did_you_mean

    return UserError(
        "no such verb",
        where=f"jaxssl {word}",
        expected="one of " + ", ".join(verbs),
        got=repr(word),
        fix=did_you_mean(word, verbs) or "jaxssl --help",
    )


def _stray(words: list[str]) -> Exception:
    from jaxssl.core.errors import UserError

    first = words[0]
    fix = "put a text with spaces between quotes; see jaxssl VERB --help for what there is"
    if first.startswith("--") and "." in first.partition("=")[0]:
        override = first.lstrip("-") if "=" in first else f"{first.lstrip('-')}=..."
        fix = f"write {shlex.quote(override)}, without dashes"
        fix += " (after --with for a run that is there: evaluate, generate, fill-mask)"
    elif "=" in first and not first.startswith("-"):
        fix = f"a change of a run's configuration comes after --with: --with {shlex.quote(first)}"
    return UserError(
        "an argument that this verb does not take",
        where="command line",
        got=" ".join(words),
        fix=fix,
    )
