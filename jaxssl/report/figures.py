"""Which charts a page has: of one run, and of several over each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxssl.report.chart import Chart, Line, LineKind, rule
from jaxssl.report.downsampling import smooth
from jaxssl.report.record import Run, Series, distinct_names

SMOOTH_SHARE = 0.012  # of the points, on either side, three times
RUN_COLORS = 8
LOG_RATIO = 50.0  # quantities that fall by more open on a logarithmic axis
NOT_DRAWN = ("tokens", "epoch", "step_seconds", "seconds", "elapsed_seconds")
UNIGRAM = "unigram entropy"
MFU_NOTE = (
    "Matrix products of the model's forward pass and twice as many backward; attention halved for "
    "causal models; embedding look-ups and what is computed again left out."
)
UNIGRAM_NOTE = "Unigram entropy: the loss of predicting every token by its frequency alone."


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a quantity is drawn. `auto_log`: on a logarithmic axis if it falls far enough; `bound`:
    with the unigram entropy; `about`: what the note under the chart says of it."""

    title: str
    unit: str = ""
    zero: bool = False
    wide: bool = False
    auto_log: bool = False
    bound: bool = False
    about: str = ""


LEARNING_RATE = Style(title="Learning rate", zero=True)
MFU = Style(title="Model FLOP utilisation", unit="of the chip's peak", zero=True, about=MFU_NOTE)
COMPARED = (
    ("validation", "loss", Style(title="Validation loss", unit="nats per token", wide=True)),
    ("train", "loss", Style(title="Training loss", unit="nats per token, smoothed")),
    ("validation", "perplexity", Style(title="Validation perplexity", auto_log=True)),
    ("validation", "bits_per_byte", Style(title="Validation bits per byte")),
    ("train", "learning_rate", LEARNING_RATE),
    ("train", "grad_norm", Style(title="Gradient norm", unit="smoothed", auto_log=True)),
    ("train", "tokens_per_second", Style(title="Tokens per second", zero=True)),
)
"""What runs are compared by: the kind of row, its key, and how it is drawn."""


def run_charts(run: Run) -> list[tuple[str, list[Chart]]]:
    """The charts of one run, in sections (title, charts); empty sections are left out."""
    shown = {"loss", "perplexity", "bits_per_byte", "learning_rate", "grad_norm"}
    shown |= {"tokens_per_second", "mfu", *NOT_DRAWN}
    objective_keys = [k for k in run.keys() if k in run.losses or k.startswith("accuracy")]
    if len(run.losses) == 1 and _same(run, "loss", only := next(iter(run.losses))):
        objective_keys.remove(only)
        shown.add(only)
    shown |= set(objective_keys)
    rest = [key for key in run.keys() if key not in shown]
    sections = [
        ("Loss", [_loss(run), _perplexity(run), _bits_per_byte(run)]),
        ("Objectives", [_objective(run, key) for key in objective_keys]),
        (
            "Optimisation and throughput",
            [
                _both(run, "learning_rate", LEARNING_RATE),
                _both(
                    run,
                    "grad_norm",
                    Style(title="Gradient norm", unit="before clipping", auto_log=True),
                ),
                _both(
                    run,
                    "tokens_per_second",
                    Style(title="Throughput", unit="tokens per second", zero=True),
                ),
                _both(run, "mfu", MFU),
            ],
        ),
        ("Other recorded quantities", [_both(run, key, Style(title=key)) for key in rest]),
    ]
    drawn = [(title, [chart for chart in charts if chart]) for title, charts in sections]
    return [(title, charts) for title, charts in drawn if charts]


def comparison_charts(runs: Sequence[Run]) -> list[Chart]:
    """The same quantity of every run over each other, a colour a run."""
    charts = [_overlay(runs, kind, key, style) for kind, key, style in COMPARED]
    return [chart for chart in charts if chart]


def _loss(run: Run) -> Chart | None:
    several = len(run.losses) > 1
    total = f"; the weighted sum of {run.objective}" if several else ""
    marks = [(row["step"], str(row.get("text", ""))) for row in run.of_kind("note")][:50]
    style = Style(
        title="Training and validation loss",
        unit=f"nats{' per token' if not several else ''}{total}",
        wide=True,
        bound=not several,
    )
    return _both(run, "loss", style, marks)


def _perplexity(run: Run) -> Chart | None:
    return _both(run, "perplexity", Style(title="Perplexity", auto_log=True))


def _bits_per_byte(run: Run) -> Chart | None:
    return _both(run, "bits_per_byte", Style(title="Bits per byte"))


def _objective(run: Run, key: str) -> Chart | None:
    facts = run.losses.get(key)
    quantity = "loss" if facts else key.partition("/")[0]
    title = f"{facts.shown if facts else run.shown_name(key)} {quantity}".strip()
    style = Style(
        title=title[:1].upper() + title[1:],
        unit="nats" if quantity == "loss" else "share right",
        bound=facts is not None and facts.per_token,
    )
    return _both(run, key, style)


def _both(run: Run, key: str, style: Style, marks: Sequence[tuple[int, str]] = ()) -> Chart | None:
    """Training (raw and smoothed) and validation values of `key`; None if nothing was recorded."""
    train, validation = run.series("train", key), run.series("validation", key)
    lines, note = [], [style.about] if style.about else []
    if len(train):
        width = _half_width(train)
        if width and key not in ("learning_rate",):
            lines.append(_line("training", train, kind="raw"))
            lines.append(_line("smoothed", _smoothed(train)))
            if style.wide:
                note.append(f"Smoothed, here and below: a mean over ±{width:,} rows, three times.")
        else:
            lines.append(_line("training", train))
    if len(validation):
        lines.append(_line("validation", validation, kind="points", color=2))
    if not lines:
        return None
    if style.bound and run.unigram_entropy is not None:
        lines.append(rule(UNIGRAM, run.unigram_entropy, run.steps or 1))
        note.append(UNIGRAM_NOTE)
    if marks:
        note.append("Ticks along the top edge are notes of the run.")
    return _chart(style, lines, note, marks)


def _overlay(runs: Sequence[Run], kind: str, key: str, style: Style) -> Chart | None:
    """One line a run; of a weighted sum of losses, the part in nats per token."""
    lines, notes = [], []
    for index, (run, name) in enumerate(zip(runs, distinct_names(runs))):
        own = token_loss(run) if key == "loss" else key
        series = run.series(kind, own)
        if not len(series):
            continue
        if own != key:
            notes.append(f"{name}: the {run.losses[own].shown} part of its loss.")
        smoothed = kind == "train" and key != "learning_rate"
        drawn = "points" if kind == "validation" else "solid"
        shown = _smoothed(series) if smoothed else series
        lines.append(_line(name, shown, kind=drawn, color=index % RUN_COLORS + 1))
    if not lines:
        return None
    if style.wide and (bounds := _bounds(runs)):
        lines += bounds
        notes.append(UNIGRAM_NOTE)
    return _chart(style, lines, notes)


def _chart(
    style: Style,
    lines: Sequence[Line],
    notes: Sequence[str],
    marks: Sequence[tuple[int, str]] = (),
) -> Chart:
    return Chart(
        title=style.title,
        unit=style.unit,
        lines=lines,
        note=" ".join(notes),
        zero=style.zero,
        wide=style.wide,
        log=style.auto_log and _spread(lines) > LOG_RATIO,
        marks=marks,
    )


def _bounds(runs: Sequence[Run]) -> list[Line]:
    """The runs' unigram entropies: one line if they agree, else one in each run's colour."""
    last = max(run.steps or 1 for run in runs)
    known = {
        (index, name): run.unigram_entropy
        for index, (run, name) in enumerate(zip(runs, distinct_names(runs)))
        if run.unigram_entropy is not None
    }
    if len(known) == len(runs) and len(set(known.values())) == 1:
        return [rule(UNIGRAM, next(iter(known.values())), last)]
    return [
        rule(f"{UNIGRAM}, {name}", value, last, color=index % RUN_COLORS + 1)
        for (index, name), value in known.items()
    ]


def token_loss(run: Run) -> str:
    """The key of the loss in nats per token: "loss", or a part of it if it is a sum of several."""
    parts = [key for key, facts in run.losses.items() if facts.per_token]
    return parts[0] if len(run.losses) > 1 and parts else "loss"


def _line(label: str, series: Series, kind: LineKind = "solid", color: int = 1) -> Line:
    return Line(label=label, steps=series.steps, values=series.values, kind=kind, color=color)


def _half_width(series: Series) -> int:
    """How many points on either side to smooth over: 0 for a series too short to need it."""
    return 0 if len(series) < 30 else max(round(len(series) * SMOOTH_SHARE), 2)


def _smoothed(series: Series) -> Series:
    return Series(series.steps, smooth(series.values, _half_width(series)))


def _spread(lines: Sequence[Line]) -> float:
    """The ratio of the largest to the smallest positive value."""
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.max() / values.min()) if len(values) else 1.0


def _same(run: Run, key: str, other: str) -> bool:
    return all(
        np.array_equal(run.series(kind, key).values, run.series(kind, other).values, equal_nan=True)
        for kind in ("train", "validation")
    )
