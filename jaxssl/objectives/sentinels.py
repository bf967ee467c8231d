"""Special tokens that stand for spans of a text: `<extra_id_0>` and on, as T5's are written."""

import re

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary

WRITTEN = re.compile(r"<extra_id_(\d+)>")


def sentinels_of(vocabulary: Vocabulary) -> np.ndarray:
    """The ids of `<extra_id_0>`, `<extra_id_1>` and so on, int32, up to the first that is not
    there."""
    found = {}
    for token, number in vocabulary.special_tokens.items():
        if match := WRITTEN.fullmatch(token):
            found[int(match[1])] = number
    count = next(i for i in range(len(found) + 1) if i not in found)
    return np.array([found[i] for i in range(count)], np.int32)


def check_sentinels(vocabulary: Vocabulary, least: int = 1, what: str = "spans") -> None:
    """Refuses a tokenizer with fewer than `least`.

    Args:
      what: each of which needs one.

    Raises:
      UserError: says how they are made.
    """
    there = len(sentinels_of(vocabulary))
    if there < least:
        raise UserError(
            f"the tokenizer has no special tokens for {what}, or too few",
            where="the tokenizer: <extra_id_0>, <extra_id_1>, ...",
            expected=f"at least {least}",
            got=there,
            fix=f"train it with them, jaxssl tokenizer sentinels={max(100, least)}, or extend one: "
            f"jaxssl tokenizer extends=TOKENIZER sentinels={max(100, least)} out=...",
        )
