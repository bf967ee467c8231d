"""What a model writes after prompts, in the terminal."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from jaxssl.core.errors import UserError
from jaxssl.generate.formatting import prompt_line
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.generate.texts import OnPiece, Text, Writing
from jaxssl.parallel import hosts
from jaxssl.run.open import generate_texts


def generate(
    run_dir: str | Path,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    beams: Beams | None = None,
    choices: tuple[str, ...] = (),
    shows_likelihood: bool = False,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> int:
    """Writes texts to the standard output; a single one token by token where that is a terminal."""
    writing = Writing(beams=beams, choices=choices)
    streams = jax.process_count() == 1 and beams is None and sys.stdout.isatty()
    on_piece = None
    if streams and len(prompts) * sampling.samples == 1:
        print(prompt_line(prompts[0]))
        on_piece: OnPiece | None = _show
    texts = generate_texts(run_dir, prompts, sampling, step, layers, writing, on_piece, adapters)
    if not hosts.is_first():
        return 0
    if on_piece is not None:
        print("\n" + _likelihood(texts[0]) if shows_likelihood else "")
        return 0
    blocks = []
    for number, text in enumerate(texts):
        prompt = prompts[number // sampling.samples]
        lines = [prompt_line(prompt), text.text]
        blocks.append("\n".join(lines + [_likelihood(text)] * shows_likelihood))
    print("\n\n".join(blocks))
    return 0


def check_searched(has_beams: bool, drawn: Iterable[str], searched: Iterable[str]) -> None:
    """Refuses options that would not be used: what is drawn, and what is searched, are others.

    Args:
      drawn, searched: the names of the options that were given.

    Raises:
      UserError: names them.
    """
    unused = [f"--{name.replace('_', '-')}" for name in (drawn if has_beams else searched)]
    if unused:
        raise UserError(
            "beams search the likeliest texts: nothing is drawn"
            if has_beams
            else "texts are drawn, and nothing is searched",
            where=", ".join(unused),
            expected="without --beams" if has_beams else "with --beams N",
            got="--beams" if has_beams else "no --beams",
            fix=f"leave out {', '.join(unused)}, or {'--beams' if has_beams else 'give --beams'}",
        )


def check_source(
    words: Sequence[str], files: Sequence[str], output: str | None, adapter_column: str | None
) -> None:
    """Refuses prompts from two places, and a file's on the terminal. Raises UserError."""
    if adapter_column is not None and not files:
        raise UserError(
            "rows of a file choose their adapters, and there is no file",
            where="--adapter-column",
            expected="--input FILE --output FILE",
            got="no --input",
        )
    if files and output is None:
        raise UserError(
            "prompts of a file, and no place for the texts",
            where="--input",
            expected="--output FILE, or --output - for lines of JSON on the standard output",
            got="no --output",
        )
    if files and list(words) not in ([], [""]):
        raise UserError(
            "prompts come from two places",
            where="--input",
            expected="prompts on the command line, or a file of them",
            got=f"both: {' '.join(map(repr, words))}"[:200],
        )


def given_prompts(words: Sequence[str]) -> list[str]:
    """The prompts that are meant by words of the command line: "-" alone is the lines of the
    standard input, a blank one being an empty prompt.

    Raises:
      UserError: there is no line, or it is not UTF-8.
    """
    if list(words) != ["-"]:
        return list(words)
    try:
        text = sys.stdin.read()
        text.encode()
        fault = None if text else "nothing"
    except UnicodeError as error:
        text, fault = "", str(error)
    if fault is not None:
        raise UserError(
            "no prompts come from the standard input",
            where="-",
            expected="lines of text in UTF-8, a prompt each",
            got=fault,
        )
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _show(number: int, piece: str) -> None:
    del number
    print(piece, end="", flush=True)


def _likelihood(text: Text) -> str:
    ends = {"end": "ended", "stop": "stopped", "length": "cut at the most tokens"}[text.ended_by]
    return f"-- log-probability {text.log_probability:.3f} nats, {text.num_tokens} tokens, {ends}"
