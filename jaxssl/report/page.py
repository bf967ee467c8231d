"""The report: one HTML file with everything in it, readable offline, in print, without scripts."""

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jaxssl import __version__
from jaxssl.core.files import atomic_write
from jaxssl.report import adaptation, examples, labelled, parts
from jaxssl.report.chart import Chart, render
from jaxssl.report.figures import comparison_charts, run_charts, token_loss
from jaxssl.report.markup import exact, missing, section
from jaxssl.report.record import Run, distinct_names, read_run, read_runs
from jaxssl.report.table import COLUMNS, bits_mark, cells, notes

MAX_POINTS = 30_000  # drawn on a page, over all lines: keeps it under 2 MB
MAX_LINE_POINTS = 1_500


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Writes one page of what a run directory holds, and returns its path.

    Args:
      out: the HTML file to write; None is `<run_dir>/report.html`.

    Raises:
      UserError: this is no run directory, or its metrics are damaged.
    """
    run = read_run(run_dir)
    path = run.directory / "report.html" if out is None else Path(out)
    with atomic_write(path) as file:
        file.write(_report(run))
    return path


def write_comparison(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Writes one page with the curves and final numbers of several runs, and returns its path.

    Args:
      runs: the run directories.
      out: the HTML file to write.

    Raises:
      UserError: one of `runs` is no run directory, or its metrics are damaged.
    """
    with atomic_write(out) as file:
        file.write(_comparison(read_runs(runs)))
    return Path(out)


def _report(run: Run) -> str:
    sections = run_charts(run)
    drawn = iter(_figures([chart for _, charts in sections for chart in charts], run.steps or 1))
    body = [parts.problems([run]), parts.tiles(run)]
    links = []
    for title, charts in sections:
        grid = f'<div class="grid">{"".join(next(drawn) for _ in charts)}</div>'
        table = parts.validation_table(run) if title == "Loss" else ""
        links.append(title)
        body.append(section(title, grid + table, _anchor(title)))
    if not sections:
        body.append(missing("No metrics were recorded."))
    others = {
        "Adaptation": adaptation.section(run.adaptation),
        **labelled.sections(run),
        "Fill-mask examples": examples.fill_masks(run) if run.of_kind("fill_mask") else "",
        "Samples over time": examples.samples(run) if run.of_kind("sample") else "",
        "Notes of the run": parts.notes(run),
        "Configuration": parts.configuration(run),
        "Environment": parts.environment(run),
    }
    if not run.scores and not others["Samples over time"] and not others["Fill-mask examples"]:
        others["Samples over time"] = examples.samples(run)
    for title, content in others.items():
        if content:
            links.append(title)
            body.append(section(title, content, _anchor(title)))
    return _page(run.name, "Training report", parts.run_facts(run), links, body)


def _comparison(runs: list[Run]) -> str:
    names = distinct_names(runs)
    last_step = max(run.steps or 1 for run in runs)
    grid = f'<div class="grid">{"".join(_figures(comparison_charts(runs), last_step))}</div>'
    body = [
        parts.problems(runs),
        section("Final numbers", _final_numbers(runs, names), "final-numbers"),
        section("Curves", grid, "curves"),
    ]
    links = ["Final numbers", "Curves"]
    for index, (run, name) in enumerate(zip(runs, names)):
        shown = _examples(run)
        shown += [parts.configuration(run), parts.environment(run)]
        links.append(name)
        body.append(section(name, "".join(shown), _anchor(name, index)))
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    anchors = ["final-numbers", "curves", *(_anchor(name, i) for i, name in enumerate(names))]
    return _page(title, "Comparison of training runs", "", links, body, anchors)


def _examples(run: Run) -> list[str]:
    """Samples and fill-mask examples under headings of their own, where there are any."""
    shown = []
    if run.of_kind("fill_mask"):
        shown.append(f"<h3>Fill-mask examples</h3>{examples.fill_masks(run)}")
    if run.of_kind("sample"):
        shown.append(f"<h3>Samples over time</h3>{examples.samples(run)}")
    return shown


def _final_numbers(runs: list[Run], names: list[str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in COLUMNS)
    body = []
    for run, name in zip(runs, names):
        texts = [html.escape(cell) for cell in cells(run, name)[1:]]
        for column, key in ((5, token_loss(run)), (6, "perplexity"), (7, "bits_per_byte")):
            texts[column - 1] = exact(run.final(key))
        texts[6] += bits_mark(run)
        columns = "".join(f"<td>{text}</td>" for text in texts)
        body.append(f'<tr><th scope="row">{html.escape(name)}</th>{columns}</tr>')
    remarks = notes(runs)
    if len({run.objective for run in runs}) > 1:
        remarks.append("Losses of different objectives do not measure the same thing.")
    text = html.escape(" ".join(remarks))
    return (
        f'<div class="scroll"><table class="final"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><p class="note">{text}</p>'
    )


def _figures(charts: Sequence[Chart], last_step: int) -> list[str]:
    lines = sum(len(chart.lines) for chart in charts)
    limit = min(MAX_LINE_POINTS, MAX_POINTS // max(lines, 1))
    return [render(chart, number, last_step, limit) for number, chart in enumerate(charts, start=1)]


def _page(
    title: str,
    kind: str,
    facts: str,
    links: Sequence[str],
    body: Sequence[str],
    anchors: Sequence[str] | None = None,
) -> str:
    anchors = anchors or [_anchor(link) for link in links]
    pairs = zip(links, anchors)
    items = "".join(f'<li><a href="#{to}">{html.escape(link)}</a></li>' for link, to in pairs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="jaxssl {__version__}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}: {html.escape(kind.lower())}</title>
<style>
{_asset("report.css")}</style>
</head>
<body>
<header>
<p class="kind">{html.escape(kind)}</p>
<h1>{html.escape(title)}</h1>
{facts}
<nav aria-label="Sections"><ul>{items}</ul></nav>
</header>
<main>
{"".join(body)}</main>
<footer><p>Written by jaxssl {__version__} from the run directory's own files.</p></footer>
<script>
{_asset("report.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("jaxssl.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(title: str, index: int | None = None) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower()).split()
    return "-".join(words) if index is None else f"run-{index + 1}"
