"""Small pieces of HTML that every part of a page uses."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.report.scale import value_text

OPEN_ITEMS = 6  # so many of a list are in view, the others fold away


def section(title: str, body: str, anchor: str) -> str:
    return f'<section id="{anchor}"><h2>{html.escape(title)}</h2>\n{body}\n</section>\n'


def missing(text: str) -> str:
    return f'<p class="missing">{html.escape(text)}</p>'


def exact(value: float | None) -> str:
    """A number as it is read, with the recorded one in the markup."""
    return f'<data value="{value!r}">{value_text(value)}</data>' if value is not None else "-"


def folded(items: Sequence[str], style: str, word: str) -> str:
    """A list whose first items are open and the others behind a summary."""
    out = f'<ol class="{style}">{"".join(items[:OPEN_ITEMS])}</ol>'
    rest = items[OPEN_ITEMS:]
    if rest:
        plural = "" if len(rest) == 1 else "s"
        out += (
            f"<details><summary>{len(rest):,} more {word}{plural}</summary>"
            f'<ol class="{style}">{"".join(rest)}</ol></details>'
        )
    return out


def spaced(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return rows
    return [rows[index] for index in np.linspace(0, len(rows) - 1, limit).round().astype(int)]
