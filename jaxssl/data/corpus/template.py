"""The sentence that a triple becomes."""

import string

from jaxssl.core.errors import UserError

FIELDS = ("subject", "relation", "object")
"""What a triple has, and a template names in braces."""


def parsed(template: str) -> list[tuple[str, str | None]]:
    """A template as (text, the field behind it; None behind the last).

    Raises:
      UserError: it does not name each field once, and nothing else.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        parts = []
    named = sorted(field for _, field, *_ in parts if field is not None)
    if named != sorted(FIELDS) or any(form or conversion for _, _, form, conversion in parts):
        raise UserError(
            "the template of a triple does not have its three parts",
            where="template",
            expected="text with {subject}, {relation} and {object}, each once",
            got=repr(template),
        )
    return [(text, field) for text, field, *_ in parts]
