"""A conversation with a run in the terminal, or with lines of the standard input."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.generate.settings import Sampling
from jaxssl.run.open import open_conversation

ASK = "> "
QUIT = "/quit"
"""Ends a talk, as the end of the input does. Lines of a file are all asked."""


def chat(
    run_dir: str | Path,
    sampling: Sampling,
    *,
    system: str | None = None,
    template: str | None = None,
    window: int | None = None,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
    talks: bool | None = None,
) -> int:
    """Answers each line of the standard input until it ends.

    Args:
      window: most tokens of the conversation; see `run.open.open_conversation`.
      adapters: to use the run with; see `run.open.open_run`.
      talks: whether somebody sits there: answers come token by token, and mistakes end nothing.
        Else the answers alone are written. None finds out.

    Raises:
      UserError: a run that cannot be talked to; a line that is too long.
    """
    is_talk = sys.stdin.isatty() and sys.stdout.isatty() if talks is None else talks
    how = {"system": system, "template": template, "window": window}
    trained, conversation = open_conversation(
        run_dir, sampling, step=step, layers=layers, adapters=adapters, **how
    )
    size = f"{conversation.window:,}"
    with trained.in_use():
        for line in _lines(is_talk):
            try:
                made = conversation.ask(line, _show if is_talk else None)
            except UserError as error:
                if not is_talk:
                    raise
                print(f"error: {error}", file=sys.stderr)
                continue
            print("" if is_talk else made.text, flush=True)
            if made.forgotten:
                turns = "turn is" if made.forgotten == 1 else f"{made.forgotten} turns are"
                _tell(f"the oldest {turns} forgotten: the window has {size} tokens (--window)")
            if is_talk and not made.ended:
                _tell("the answer is cut (--tokens)")
    return 0


def _lines(talks: bool) -> Iterator[str]:
    """What is asked, without blank lines."""
    while True:
        try:
            line = input(ASK) if talks else sys.stdin.readline()
        except EOFError:
            print()
            return
        if (talks and line.strip() == QUIT) or (not talks and not line):
            return
        if line.strip():
            yield line.strip()


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _tell(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
