"""One line chart as a figure: inline SVG that stretches, labels in HTML that do not.

The page is whole without JavaScript: both the linear and the logarithmic drawing are there and a
checkbox chooses (CSS). The script adds the read-out under the pointer and lines that switch off.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxssl.report.downsampling import downsample
from jaxssl.report.scale import Axis, linear_axis, log_axis, tick_text, ticks, value_text

WIDTH, HEIGHT = 4000, 2000  # of the drawing, in its own units; the page stretches it
LineKind = Literal["raw", "solid", "points", "rule"]
MAX_MARKED_POINTS = 60  # lines with more points are drawn without dots


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart. `kind`: raw is light, solid dark, points sparse and dotted, rule level."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    kind: LineKind = "solid"
    color: int = 1  # of the style sheet's --c1 ... --c8


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What to draw. `log` is how the chart opens; `marks` are (step, text) along the top edge."""

    title: str
    lines: Sequence[Line]
    unit: str = ""
    note: str = ""
    zero: bool = False
    log: bool = False
    wide: bool = False
    marks: Sequence[tuple[int, str]] = ()


def rule(label: str, value: float, last_step: int, color: int = 0) -> Line:
    """A level line, such as a bound."""
    steps = np.array([0, max(last_step, 1)])
    return Line(label=label, steps=steps, values=np.full(2, value), kind="rule", color=color)


def render(chart: Chart, number: int, last_step: int, limit: int) -> str:
    """The figure's HTML.

    Args:
      chart: what to draw.
      number: the figure's number on the page.
      last_step: the right end of the step axis (all charts of a page share it).
      limit: the most points to draw for a line; more are downsampled, extremes kept.
    """
    everything = np.concatenate([line.values for line in chart.lines])
    linear, log = linear_axis(everything, zero=chart.zero), log_axis(everything)
    steps = Axis(0.0, float(max(last_step, 1)))
    kept = _kept(chart.lines, limit)
    identity = f"figure-{number}"
    checked = " checked" if chart.log and log else ""
    box = f'<label class="scale"><input type="checkbox"{checked}>log scale</label>'
    unit = f' <span class="unit">{html.escape(chart.unit)}</span>' if chart.unit else ""
    title, log_range = html.escape(chart.title), ""
    labels, drawing = _y_labels(linear, "lin"), _drawing(chart, kept, steps, linear, "lin")
    if log:
        log_range = f' data-log="{log.low!r} {log.high!r}"'
        labels += _y_labels(log, "log")
        drawing += _drawing(chart, kept, steps, log, "log")
    return f"""<figure class="chart{" wide" if chart.wide else ""}" id="{identity}"
 data-last="{steps.high!r}" data-lin="{linear.low!r} {linear.high!r}"{log_range}>
<figcaption><b>Figure {number}.</b> {title}{unit}</figcaption>
<div class="head"><ul class="legend">{"".join(map(_legend, chart.lines))}</ul>\
{box if log else ""}</div>
<div class="plot">
{labels}
<div class="area"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" \
aria-labelledby="{identity}-t {identity}-d"><title id="{identity}-t">{title}</title>\
<desc id="{identity}-d">{html.escape(description(chart))}</desc>
{drawing}
</svg></div>
{_x_labels(steps)}
</div>
{_note(chart, kept)}{_data(chart.lines, kept)}
</figure>
"""


def description(chart: Chart) -> str:
    """The chart in words, for those who do not see it."""
    parts = []
    for line in chart.lines:
        finite = line.values[np.isfinite(line.values)]
        if line.kind == "rule":
            parts.append(f"{line.label}: {value_text(line.values[0])} throughout.")
        elif line.kind != "raw" and len(finite):
            parts.append(
                f"{line.label}: from {value_text(finite[0])} to {value_text(finite[-1])} at step"
                f" {line.steps[-1]:,}, lowest {value_text(finite.min())}, highest"
                f" {value_text(finite.max())}."
            )
    return " ".join(parts)


def _kept(lines: Sequence[Line], limit: int) -> list[np.ndarray]:
    """Which points of each line are drawn; lines over the same steps keep the same points."""
    kept: list[np.ndarray] = []
    for index, line in enumerate(lines):
        previous = lines[index - 1]
        if index and previous.kind == "raw" and np.array_equal(previous.steps, line.steps):
            kept.append(kept[-1])
        else:
            kept.append(downsample(line.values, limit))
    return kept


def _drawing(chart: Chart, kept: Sequence[np.ndarray], steps: Axis, axis: Axis, scale: str) -> str:
    rows = (HEIGHT - axis.place(np.array(axis.ticks())) * HEIGHT).round().astype(int)
    columns = (steps.place(np.array(ticks(0, steps.high))) * WIDTH).round().astype(int)
    grid = "".join(f"M0 {y}H{WIDTH}" for y in rows)
    notches = "".join(f"M{x} {HEIGHT}v-24" for x in columns)
    frame = f"M0 {HEIGHT}H{WIDTH}{notches}"
    parts = [f'<path class="grid" d="{grid}"/><path class="axis" d="{frame}"/>']
    for step, text in chart.marks:
        x = round(float(steps.place(step)) * WIDTH)
        title = f"<title>step {step:,}: {html.escape(text)}</title>"
        parts.append(f'<path class="mark" d="M{x} 0v90">{title}</path>')
    for index, (line, points) in enumerate(zip(chart.lines, kept)):
        xs = steps.place(line.steps[points]) * WIDTH
        ys = HEIGHT - axis.place(line.values[points]) * HEIGHT
        style = f'class="line {line.kind} c{line.color}" data-line="{index}"'
        parts.append(f'<path {style} d="{_path(xs, ys)}"/>')
        if line.kind == "points" and len(points) <= MAX_MARKED_POINTS:
            dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in zip(xs, ys) if np.isfinite(y))
            parts.append(f'<path {style.replace("points", "dots")} d="{dots}"/>')
    return f'<g class="{scale}">{"".join(parts)}</g>'


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    """An SVG path through the points, lifted where a value is missing."""
    out, drawing = [], False
    previous = None
    for x, y in zip(xs, ys):
        if not np.isfinite(y):
            drawing = False
            continue
        point = f"{x:.0f} {y:.0f}"
        if not drawing:
            out.append(f"M{point}h0L{point}")
        elif point != previous:
            out.append(f" {point}")
        drawing, previous = True, point
    return "".join(out)


def _legend(line: Line) -> str:
    finite = line.values[np.isfinite(line.values)]
    last = float(finite[-1]) if len(finite) else float("nan")
    sample = f'<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true">{_swatch(line)}</svg>'
    return (
        f'<li><button type="button" aria-pressed="true">{sample}<span>{html.escape(line.label)}'
        f'</span> <data value="{last!r}">{value_text(last)}</data></button></li>'
    )


def _swatch(line: Line) -> str:
    stroke = f'<path class="line {line.kind} c{line.color}" d="M1 5H23"/>'
    dot = f'<path class="line dots c{line.color}" d="M12 5h0"/>' if line.kind == "points" else ""
    return stroke + dot


def _y_labels(axis: Axis, scale: str) -> str:
    places = axis.place(np.array(axis.ticks())) * 100
    spans = "".join(
        f'<span style="bottom:{place:.2f}%">{tick_text(tick)}</span>'
        for tick, place in zip(axis.ticks(), places)
    )
    return f'<div class="y {scale}" aria-hidden="true">{spans}</div>'


def _x_labels(steps: Axis) -> str:
    marks = ticks(0, steps.high)
    spans = "".join(
        f'<span style="left:{place:.2f}%">{tick_text(mark)}</span>'
        for mark, place in zip(marks, steps.place(np.array(marks)) * 100)
    )
    return f'<div class="x" aria-hidden="true">{spans}</div><output class="step">step</output>'


def _note(chart: Chart, kept: Sequence[np.ndarray]) -> str:
    parts = [chart.note] if chart.note else []
    for line, points in zip(chart.lines, kept):
        missing = int((~np.isfinite(line.values)).sum())
        if missing and line.kind != "solid":
            values = "value is a gap" if missing == 1 else "values are gaps"
            parts.append(f"“{line.label}”: {missing:,} non-finite {values}.")
        if len(points) < len(line.values) and line.kind != "solid":
            parts.append(
                f"“{line.label}”: {len(points):,} of {len(line.values):,} points are drawn, the"
                " extremes among them."
            )
    return f'<p class="note">{html.escape(" ".join(parts))}</p>' if parts else ""


def _data(lines: Sequence[Line], kept: Sequence[np.ndarray]) -> str:
    """What the script reads: each line's steps and values, null where not finite."""
    content = []
    for index, (line, points) in enumerate(zip(lines, kept)):
        shared = index and kept[index - 1] is points
        content.append(
            {
                "kind": line.kind,
                "color": line.color,
                "x": index - 1 if shared else line.steps[points].tolist(),
                "y": [_short(value) for value in line.values[points].tolist()],
            }
        )
    text = json.dumps(content, separators=(",", ":"))
    return f'<script type="application/json">{text}</script>'


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
