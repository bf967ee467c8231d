"""What a model writes, as text for a terminal; prompts are quoted, to be told from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def format_sample(prompt: str, text: str) -> str:
    """A prompt, quoted, above what the model wrote after it."""
    return f"{prompt_line(prompt)}\n{text}"


def prompt_line(prompt: str) -> str:
    """A prompt, quoted, as a heading."""
    head = f"prompt {quoted(prompt)}" if prompt else "no prompt: the start of a document"
    return f"== {head}"


def format_candidates(predictions: Sequence[Mapping[str, Any]]) -> str:
    """The candidates for a mask, quoted, with three digits of their probabilities."""
    return ", ".join(f"{quoted(p['token'])} {p['probability']:#.3g}" for p in predictions)


def quoted(text: str) -> str:
    """`text` on one line, between quotes."""
    return json.dumps(text, ensure_ascii=False)
