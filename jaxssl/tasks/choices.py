"""Text to text that chooses: the few texts that alone may be written, such as names of classes, or
several of them with spaces between, such as the tags of words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.types import Batch
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.outputs import Outputs, make_outputs, make_sequences
from jaxssl.scores.classification import classification_scores
from jaxssl.tasks.label_notes import list_labels
from jaxssl.tasks.texts import read_texts

Choices = Literal["targets"] | tuple[str, ...]
"""The texts, or all targets of the training split."""
TOKENS, NODES = "choice_tokens", "choice_nodes"
"""What a batch carries of them: their tree (`generate.outputs`), the same for each row."""


def parts_of(text: str, several: bool) -> list[str]:
    """The texts that a target is made of."""
    return text.split() if several else [text.strip()]


def learn_choices(
    choices: Choices, train: Table, column: str, several: bool = False
) -> tuple[str, ...]:
    """The texts that may be written, those of the training split among them.

    Args:
      several: whether a target is several of them.

    Raises:
      UserError: there are fewer than two, one has a space where they are told apart by spaces, or a
        target has none of those that are given.
    """
    targets = read_texts(train, column, "task.target")
    found = Counter(part for text in targets for part in parts_of(text, several))
    known = tuple(sorted(found)) if choices == "targets" else tuple(choices)
    if len({*known}) < max(2, len(known)):
        raise UserError(
            "there are not several different texts to choose from",
            where="task.choices",
            expected="two or more, each once",
            got=list_labels(known),
        )
    spaced = [text for text in known if several and parts_of(text, several) != [text]]
    if spaced:
        raise UserError(
            "what is written several times may have no space in it",
            where="task.choices",
            expected="texts without spaces, with task.several=true",
            got=repr(spaced[0]),
        )
    check_targets(train, column, known, several)
    return known


def check_targets(table: Table, column: str, choices: Sequence[str], several: bool = False) -> None:
    """Refuses a target that may not be written. Raises UserError."""
    known = {*choices}
    for text, place in zip(read_texts(table, column, "task.target"), table.places):
        if not {*parts_of(text, several)} <= known:
            raise UserError(
                "a target is none of the texts that may be written",
                where=f"{place}, column {column}",
                expected=f"one of {list_labels(tuple(choices))}",
                got=repr(text),
                fix=did_you_mean(text, choices)
                or "correct it, leave the row out, or name it in task.choices",
            )


def tree_entries(
    choices: Sequence[str],
    tokenizer: Tokenizer,
    longest: int,
    num_rows: int,
    several: bool = False,
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
    if several:
        others = tokenizer.encode_batch([f" {text}" for text in choices])
        tree = make_sequences(ids, others, tokenizer.document_end)
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


def named(text: str, names: Mapping[str, str], several: bool) -> str:
    """What was written, by the names of the choices (`named_by_spelling`). Of several the last may
    have been cut off for its length: it is left out."""
    if not several:
        return names[text]
    return " ".join(names[part] for part in text.split() if part in names)


MISSING = "(nothing)"
"""What is written where there are fewer texts than wanted."""


def choice_scores(
    written: Sequence[str], wanted: Sequence[str], choices: Sequence[str], several: bool = False
) -> dict[str, float]:
    """Accuracy and macro F1, as of a classifier: of each place in what is wanted. What is missing
    is wrong, and what comes after it is not looked at."""
    labels = (*choices, MISSING) if several else tuple(choices)
    number = {text: i for i, text in enumerate(labels)}
    predicted, reference = [], []
    for made, want in zip(written, wanted):
        own, theirs = parts_of(made, several), parts_of(want, several)
        own = own + [MISSING] * (len(theirs) - len(own))
        predicted += [number[part] for part in own[: len(theirs)]]
        reference += [number[part] for part in theirs]
    return classification_scores(np.array(predicted), np.array(reference), labels)
