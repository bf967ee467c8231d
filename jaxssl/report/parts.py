"""The parts of a page that are not charts: facts, tiles, tables, notes, configuration."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.report.figures import token_loss
from jaxssl.report.markup import exact, folded, missing, spaced
from jaxssl.report.record import Run, number
from jaxssl.report.scale import count_text, duration_text, value_text

MAX_TABLE_ROWS = 200
MAX_NOTES = 500


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of short facts for the page's head."""
    rows = [(html.escape(name), html.escape(text)) for name, text in pairs]
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def run_facts(run: Run) -> str:
    return facts(
        [
            ("model", run.model or "-"),
            ("parameters", count_text(run.parameters)),
            ("objective", run.objective or "-"),
            ("steps", count_text(run.steps)),
            ("tokens", count_text(run.tokens)),
            ("training time", duration_text(run.seconds)),
            *_stream_facts(run),
        ]
    )


def _stream_facts(run: Run) -> list[tuple[str, str]]:
    """What each of several streams took: tokens, passes over its data, and by turns its share of
    the steps (at step 0, where it moves)."""
    names = [key.removesuffix("/epoch") for key in run.keys() if key.endswith("/epoch")]
    taken = {name: run.series("train", f"{name}/tokens").last for name in names}
    epochs = {name: run.series("train", f"{name}/epoch").last for name in names}
    mixture = run.summary.get("mixture")
    found = []
    for name in names:
        told = f"{count_text(taken[name])} tokens, {value_text(epochs[name])} epochs"
        share = number(mixture.get(name)) if isinstance(mixture, dict) else None
        if share is not None:
            told += f", {share:.1%} of the steps"
        found.append((name, told))
    return found


def tiles(run: Run) -> str:
    """The final numbers: the last validation's, with the best where it was another one."""
    made = []
    if (token := token_loss(run)) != "loss":
        name = f"{run.losses[token].shown} validation loss"
        made.append(_validation_tile(run, token, name, "nats", best=np.nanargmin))
    total = "validation loss" if token == "loss" else "validation loss, all objectives"
    for key, name in (("loss", total), ("perplexity",) * 2, ("bits_per_byte", "bits per byte")):
        unit = "nats" if key == "loss" else ""
        made.append(_validation_tile(run, key, name, unit, best=np.nanargmin))
    made.append(_tile("unigram entropy", run.unigram_entropy, "nats", "frequencies alone"))
    for key in run.keys():
        if key.startswith("accuracy"):
            name = f"{run.shown_name(key)} accuracy".strip()
            made.append(_validation_tile(run, key, name, "", best=np.nanargmax))
    train = run.series("train", "loss")
    context = f"at step {train.steps[-1]:,}" if len(train) else ""
    made.append(_tile("training loss", train.last, "nats", context))
    speed = run.series("train", "tokens_per_second").values
    median = float(np.median(speed)) if len(speed) else None
    made.append(_tile("throughput", median, "tokens/s", "median"))
    if len(mfu := run.series("train", "mfu").values):
        made.append(_tile("model FLOP utilisation", float(np.median(mfu)), "", "median"))
    return f'<div class="tiles">{"".join(made)}</div>'


def _validation_tile(run: Run, key: str, name: str, unit: str, best: Any) -> str:
    series = run.series("validation", key)
    context = ""
    if len(series) and np.isfinite(series.values).any():
        index = int(best(series.values))
        context = f"at step {series.steps[-1]:,}"
        if series.values[index] != series.values[-1]:
            context = f"best {value_text(series.values[index])} at step {series.steps[index]:,}"
        elif len(series) > 1:
            context += ", its best"
    return _tile(name, series.last, unit, context)


def _tile(name: str, value: float | None, unit: str, context: str) -> str:
    unit = f' <span class="unit">{html.escape(unit)}</span>' if unit and value is not None else ""
    context = "not recorded" if value is None else context
    return (
        f'<div class="tile"><h3>{html.escape(name)}</h3><p class="value">{exact(value)}{unit}</p>'
        f'<p class="context">{html.escape(context)}</p></div>'
    )


def validation_table(run: Run) -> str:
    """Every validation as a table, folded."""
    rows = run.of_kind("validation")
    if not rows:
        return missing("No validation was recorded.")
    keys = dict.fromkeys(key for row in rows for key in row if number(row[key]) is not None)
    shown = spaced(rows, MAX_TABLE_ROWS)
    names = ["step", *(key for key in keys if key != "step")]
    head = "".join(f'<th scope="col">{html.escape(name.replace("_", " "))}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{row["step"]:,}</th>'
        + "".join(f"<td>{exact(number(row.get(name)))}</td>" for name in names[1:])
        + "</tr>"
        for row in shown
    )
    left_out = f", {len(shown):,} of them shown" if len(shown) < len(rows) else ""
    return (
        f"<details><summary>Every validation ({len(rows):,}{left_out})</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></details>"
    )


def notes(run: Run) -> str:
    """Resumes, rollbacks, skipped steps."""
    rows = run.of_kind("note")
    if not rows:
        return missing("Nothing out of the ordinary was recorded.")
    items = [
        f'<li><span class="when">step {row["step"]:,}</span><p>'
        f"{html.escape(str(row.get('text', '')))}</p></li>"
        for row in rows[-MAX_NOTES:]
    ]
    lead = (
        f'<p class="note">The last {MAX_NOTES} of {len(rows):,}.</p>'
        if len(rows) > MAX_NOTES
        else ""
    )
    return lead + folded(items, "timeline tight", "note")


def configuration(run: Run) -> str:
    if run.config_text is None:
        return missing("The run directory has no config.yaml.")
    text = html.escape(run.config_text.rstrip("\n"))
    return f"<details><summary>config.yaml</summary><pre>{text}</pre></details>"


def environment(run: Run) -> str:
    """environment.json as a table, nested names dotted."""
    if run.environment is None:
        return missing("The run directory has no readable environment.json.")
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
        for name, text in _flat(run.environment)
    )
    return (
        "<details><summary>environment.json</summary>"
        f'<div class="scroll"><table class="names"><tbody>{rows}</tbody></table></div></details>'
    )


def problems(runs: Sequence[Run]) -> str:
    return "".join(missing(f"{run.name}: {text}") for run in runs for text in run.problems)


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, dict) and content:
        pairs = content.items()
        return [row for key, value in pairs for row in _flat(value, f"{prefix}.{key}".strip("."))]
    if isinstance(content, list):
        content = ", ".join(map(str, content))
    return [(prefix, "-" if content is None else str(content))]
