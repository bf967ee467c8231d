"""What a value of a table says: nothing, a number, or, as text, a list or an object."""

import ast
import json
import re
from typing import Any

from jaxssl.core.errors import UserError

_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_NEIGHBOURS = re.compile(r"''\s*''")
_LIST_OF_STRINGS = re.compile(r"""[\[{]\s*['"].*['"]\s*,?\s*[\]}]""", re.DOTALL)
_TUPLE_OF_STRINGS = re.compile(
    rf"\(\s*(?:{_STRING.pattern})\s*,(?:\s*(?:{_STRING.pattern})\s*,)*"
    rf"\s*(?:{_STRING.pattern})?\s*\)",
    re.DOTALL,
)
"""A quotation in parentheses is text; one with a comma behind it, or several, are a tuple."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
REWRITE = (
    "keep the table as jsonl or parquet, or write lists as JSON: in pandas "
    "frame[column].map(lambda x: json.dumps(list(x)))"
)
"""What to do about lists that cannot be read back."""


def is_missing(value: Any) -> bool:
    """Whether it is null, not a number, or a string of whitespace."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def as_number(text: str) -> float | None:
    """The number that a text spells in digits; None for other texts: nan, inf and 1_000, too."""
    return float(text) if _NUMBER.fullmatch(text) else None


def spelt(text: str) -> Any:
    """The list or object that a cell spells; None if it is text, or cannot be read.

    It may be JSON, which `jaxssl predict` writes, or have the form that Python's `str` gives a
    list, which pandas writes.
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # numpy writes ['a' 'b'], which Python would read as one string, 'ab'.
    if _NEIGHBOURS.search(_STRING.sub("''", text)):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, list | dict) else None


def _is_list_of_strings(text: str) -> bool:
    return bool(_LIST_OF_STRINGS.fullmatch(text) or _TUPLE_OF_STRINGS.fullmatch(text))


def spelt_list(text: str, where: str, *, brackets: bool = False) -> list | None:
    """The list that a cell spells; None if it is text.

    Args:
      where: the cell, for the message.
      brackets: no text of this column stands in brackets, [a, b], so that such a cell is a list.

    Raises:
      UserError: a list that cannot be read back, such as numpy's ['a' 'b'].
    """
    value = spelt(text)
    if isinstance(value, list):
        return value
    text = text.strip()
    is_list = brackets and text[:1] + text[-1:] == "[]" and text[:2] + text[-2:] != "[  ]"
    if is_list or (value is None and _is_list_of_strings(text)):
        raise UserError(
            "a list that cannot be read",
            where=where,
            expected="""a list as JSON, ["a", "b"], or as Python writes it, ['a', 'b']""",
            got=text if len(text) <= 80 else text[:80] + "...",
            fix=REWRITE,
        )
    return None
