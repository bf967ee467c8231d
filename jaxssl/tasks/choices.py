"""Text to text that chooses: the few texts that alone may be written, such as names of classes."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.types import Batch
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.outputs import Outputs, make_outputs
from jaxssl.scores.classification import classification_scores
from jaxssl.tasks.label_notes import list_labels
from jaxssl.tasks.texts import read_texts

Choices = Literal["targets"] | tuple[str, ...]
"""The texts, or all targets of the training split."""
TOKENS, NODES = "choice_tokens", "choice_nodes"
"""What a batch carries of them: their tree (`generate.outputs`), the same for each row."""


def learn_choices(choices: Choices, train: Table, column: str) -> tuple[str, ...]:
    """The texts that may be written, the targets of the training split among them.

    Raises:
      UserError: there are fewer than two, or a target that is none of those that are given.
    """
    found = Counter(text.strip() for text in read_texts(train, column, "task.target"))
    known = tuple(sorted(found)) if choices == "targets" else tuple(choices)
    if len({*known}) < max(2, len(known)):
        raise UserError(
            "there are not several different texts to choose from",
            where="task.choices",
            expected="two or more, each once",
            got=list_labels(known),
        )
    check_targets(train, column, known)
    return known


def check_targets(table: Table, column: str, choices: Sequence[str]) -> None:
    """Refuses a target that may not be written. Raises UserError."""
    known = {*choices}
    for text, place in zip(read_texts(table, column, "task.target"), table.places):
        if text.strip() not in known:
            raise UserError(
                "a target is none of the texts that may be written",
                where=f"{place}, column {column}",
                expected=f"one of {list_labels(tuple(choices))}",
                got=repr(text),
                fix=did_you_mean(text, choices)
                or "correct it, leave the row out, or name it in task.choices",
            )


def tree_entries(
    choices: Sequence[str], tokenizer: Tokenizer, longest: int, num_rows: int
) -> dict[str, np.ndarray]:
    """What each row's batch carries: int32 [num_rows, M, C], of M nodes of C children.

    Raises:
      UserError: a text of more than `longest` tokens, its end included, or of no token.
    """
    ids = tokenizer.encode_batch(choices)
    spelt = named_by_spelling(choices, tokenizer)
    for text, own in zip(choices, ids):
        if text not in spelt.values():
            raise UserError(
                "two texts that may be written are one to this tokenizer",
                where="task.choices",
                expected="texts that differ in their pieces",
                got=f"{text!r} and another, both {tokenizer.decode(own)!r}",
            )
        if not 1 <= len(own) < longest:
            raise UserError(
                "a text that may be written is too long" if len(own) else "a text has no token",
                where="task.choices",
                expected=f"1 to task.max_target_length - 1 = {longest - 1} tokens",
                got=f"{text!r}, {len(own)} tokens",
            )
    tree = make_outputs(ids, tokenizer.document_end)
    shared = {TOKENS: tree.tokens, NODES: tree.nodes}
    return {name: np.broadcast_to(x, (num_rows, *x.shape)) for name, x in shared.items()}


def named_by_spelling(choices: Sequence[str], tokenizer: Tokenizer) -> dict[str, str]:
    """{what a text is once it was written and decoded: the text}; a tokenizer may lowercase."""
    ids = tokenizer.encode_batch(choices)
    return {tokenizer.decode(own).strip(): text for text, own in zip(choices, ids)}


def tree_of(batch: Batch) -> Outputs | None:
    """The tree that a batch carries; its first row is never a filler."""
    if TOKENS not in batch:
        return None
    return Outputs(tokens=batch[TOKENS][0], nodes=batch[NODES][0])


def choice_scores(
    written: Sequence[str], wanted: Sequence[str], choices: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro F1, as of a classifier."""
    number = {text: i for i, text in enumerate(choices)}
    predicted, reference = (
        np.array([number[text.strip()] for text in texts]) for texts in (written, wanted)
    )
    return classification_scores(predicted, reference, choices)
