"""What the model says: generated samples over time, and masked words filled in."""

import html
import math
import re
from collections.abc import Sequence
from typing import Any

from jaxssl.report.markup import folded, missing, spaced
from jaxssl.report.record import Run, number

MAX_EXAMPLES = 60  # of more, evenly spaced ones are shown, and the page says so
MAX_TEXT = 4000  # characters of one sample
MASK = re.compile(r"(\[MASK\]|&lt;mask&gt;)")


def samples(run: Run) -> str:
    """Generated text over time, newest first."""
    rows = run.of_kind("sample")
    if not rows:
        return missing("No sample was recorded.")
    shown = spaced(rows, MAX_EXAMPLES)[::-1]
    return _left_out(shown, rows) + folded([_sample(row) for row in shown], "timeline", "sample")


def fill_masks(run: Run) -> str:
    """Masked text and what the model puts there: the newest, and the earlier ones folded."""
    rows = run.of_kind("fill_mask")
    if not rows:
        return missing("No fill-mask example was recorded.")
    newest = max(row["step"] for row in rows)
    now = [row for row in rows if row["step"] == newest]
    before = [row for row in rows if row["step"] < newest][::-1]
    out = _masks(now)
    if before:
        out += f"<details><summary>{len(before):,} earlier</summary>{_masks(before)}</details>"
    return out


def _sample(row: dict[str, Any]) -> str:
    prompt, text = str(row.get("prompt", "")), str(row.get("text", ""))
    body = f"<b>{html.escape(prompt)}</b>{_text(text.removeprefix(prompt))}"
    return f'<li>{_when(row)}<p class="text">{body}</p></li>'


def _masks(rows: list[dict[str, Any]]) -> str:
    shown = spaced(rows, MAX_EXAMPLES)
    items = "".join(map(_fill_mask, shown))
    return f'{_left_out(shown, rows)}<ul class="masks">{items}</ul>'


def _fill_mask(row: dict[str, Any]) -> str:
    text = MASK.sub(r"<mark>\1</mark>", _text(str(row.get("text", ""))))
    predictions = row.get("predictions")
    found = predictions if isinstance(predictions, list) else []
    masks = found if found and isinstance(found[0], list) else [found]
    tables = "".join(_predictions(mask) for mask in masks if isinstance(mask, list))
    return f'<li>{_when(row)}<p class="text">{text}</p>{tables}</li>'


def _predictions(predictions: Sequence[dict[str, Any]]) -> str:
    rows = []
    for prediction in predictions:
        if not isinstance(prediction, dict):
            continue
        share = number(prediction.get("probability"))
        known = share if share is not None and math.isfinite(share) else 0.0
        bar = f'<i style="width:{min(max(known, 0.0), 1.0) * 100:.1f}%"></i>'
        rows.append(
            f'<tr><th scope="row">{html.escape(str(prediction.get("token", "")))}</th>'
            f'<td class="bar" aria-hidden="true">{bar}</td><td>{_share(share)}</td></tr>'
        )
    return f'<table class="predictions"><tbody>{"".join(rows)}</tbody></table>'


def _share(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return "-"
    return f'<data value="{share!r}">{share * 100:.1f}%</data>'


def _when(row: dict[str, Any]) -> str:
    return f'<span class="when">step {row["step"]:,}</span>'


def _text(text: str) -> str:
    """`text`, escaped; past `MAX_TEXT` characters it is cut, and says so."""
    left_out = len(text) - MAX_TEXT
    cut = f' <span class="cut">[{left_out:,} more characters]</span>' if left_out > 0 else ""
    return html.escape(text[:MAX_TEXT]) + cut


def _left_out(shown: Sequence, rows: Sequence) -> str:
    if len(shown) == len(rows):
        return ""
    return f'<p class="note">{len(shown)} of {len(rows):,} are shown, evenly spaced.</p>'
