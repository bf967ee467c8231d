"""The parts of a page that a fine-tuned run adds: scores, confusion, receipt, ledger."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.bases import by_network, describe_base
from jaxssl.report.markup import exact
from jaxssl.report.record import Run, number

MAX_CONFUSED = 24
"""A larger confusion matrix shows its most frequent labels."""
COSTS = {
    "trained": "trained parameters",
    "optimizer_bytes": "optimizer state, bytes",
    "frozen_bytes": "frozen parameters, bytes",
    "flops": "FLOPs of a step",
    "memory_bytes": "memory of a step, bytes",
}


def sections(run: Run) -> dict[str, str]:
    """{title: content} of what the run directory has."""
    made = {
        "Scores": _scores(run.scores),
        "What was trained": _receipt(run.receipt, run.summary),
        "Where parameters come from": _ledger(run.ledger),
    }
    return {title: content for title, content in made.items() if content}


def _scores(scores: Mapping[str, Any] | None) -> str:
    """The best checkpoint's scores by split, its classes and what it confuses."""
    if not scores:
        return ""
    splits: dict[str, Any] = scores["splits"]
    keys = dict.fromkeys(key for split in splits.values() for key in split["scores"])
    rows = [
        [
            key.replace("_", " "),
            *(exact(number(split["scores"].get(key))) for split in splits.values()),
        ]
        for key in keys
    ]
    metric = scores["metric"]
    baselines = [split.get("baseline", split.get("blind", {})) for split in splits.values()]
    shown = [exact(number(baseline.get(metric))) for baseline in baselines]
    if metric is not None:
        rows.append([f"{metric.replace('_', ' ')} of the majority baseline", *shown])
    lead = (
        f'<p class="note">Of the best checkpoint, step {scores["step"]:,}. The majority '
        "baseline looks at no text: it gives the most frequent answer of the training split.</p>"
    )
    parts = [lead, _table(["", *splits], rows)]
    for name, split in splits.items():
        if split.get("per_class"):
            parts.append(f"<h3>By class, {html.escape(name)}</h3>{_per_class(split['per_class'])}")
        if split.get("confusion"):
            parts.append(f"<h3>Confusion, {html.escape(name)}</h3>{_confusion(split['confusion'])}")
    return "".join(parts)


def _per_class(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a class; folded where there are many."""
    names = list(rows[0])
    shown = [
        [
            html.escape(str(row.get(names[0], ""))),
            *(exact(number(row.get(name))) for name in names[1:]),
        ]
        for row in rows
    ]
    table = _table([name.replace("_", " ") for name in names], shown)
    if len(rows) <= MAX_CONFUSED:
        return table
    return f"<details><summary>{len(rows):,} classes</summary>{table}</details>"


def _confusion(confusion: Mapping[str, Any]) -> str:
    """A matrix whose cells are shaded by their share of the row: a row for each reference."""
    labels, counts = confusion["labels"], confusion["counts"]
    order = sorted(range(len(labels)), key=lambda i: -sum(counts[i]))
    chosen = sorted(order[:MAX_CONFUSED])
    head = "".join(f'<th scope="col"><span>{html.escape(labels[j])}</span></th>' for j in chosen)
    body = []
    for i in chosen:
        total = max(sum(counts[i]), 1)
        cells = "".join(_cell(counts[i][j], counts[i][j] / total, i == j) for j in chosen)
        body.append(f'<tr><th scope="row">{html.escape(labels[i])}</th>{cells}</tr>')
    left_out = len(labels) - len(chosen)
    note = f" The {left_out:,} rarest labels are left out." if left_out else ""
    return (
        f'<div class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><p class="note">Rows are what is right, '
        f"columns what was predicted; the shade is the share of the row.{note}</p>"
    )


def _cell(count: int, share: float, is_right: bool) -> str:
    kind = "right" if is_right else "wrong"
    return f'<td class="{kind}" style="--share:{share:.3f}">{count if count else ""}</td>'


def _receipt(receipt: Mapping[str, Any] | None, summary: Mapping[str, Any]) -> str:
    """What a step of this run costs against training everything."""
    if not receipt:
        return ""
    own, full = receipt["own"], receipt["full"]
    columns = ["", "this run", "full", "share"] if full else ["", "this run"]
    rows = [
        [name, *_compared(own[key], full.get(key))] if full else [name, _shown(own[key])]
        for key, name in COSTS.items()
        if key in own  # earlier versions did not count them all
    ]
    against = f", against full fine-tuning of all {receipt['parameters']:,} parameters"
    frozen = summary.get("frozen_arrays")
    proof = (
        f" {frozen:,} arrays were frozen throughout, and each has the bits it started with."
        if frozen
        else ""
    )
    lead = (
        f'<p class="note">One step of {receipt["rows"]:,} rows of {receipt["length"]:,} tokens'
        f"{against if full else ''}.{proof}</p>"
    )
    return lead + _table(columns, rows)


def _compared(own: float | None, full: float | None) -> list[str]:
    share = f"{own / full:.1%}" if own is not None and full else ""
    return [_shown(own), _shown(full), share]


def _shown(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:,.0f}"


def _ledger(ledger: Mapping[str, Any] | None) -> str:
    """How many parameters were restored, renamed, resized, fresh and dropped; each, folded."""
    if not ledger:
        return ""
    entries = ledger["parameters"]
    counted = Counter(entry["action"] for entry in entries)
    lead = ", ".join(f"{count:,} arrays {action}" for action, count in counted.items())
    rows = [
        [
            html.escape(entry["action"]),
            html.escape(entry["target"] or "-"),
            html.escape(entry["source"] or "-"),
            html.escape(" x ".join(map(str, entry["shape"]))),
            html.escape(entry["detail"]),
        ]
        for entry in entries
    ]
    table = _table(["", "parameter", "stored as", "shape", ""], rows)
    bases = by_network(ledger["from"]).items()
    places = (f"{network} {describe_base(base)}".strip() for network, base in bases)
    origin = html.escape("; ".join(places))
    return (
        f'<p class="note">From {origin}: {lead}.</p><details><summary>Every array'
        f"</summary>{table}</details>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are markup, heads are text."""
    columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )
