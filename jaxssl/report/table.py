"""The final numbers of runs side by side: for the terminal, and for the comparison page."""

from collections.abc import Sequence
from pathlib import Path

from jaxssl.report.figures import token_loss
from jaxssl.report.record import Run, distinct_names, read_runs
from jaxssl.report.scale import count_text, duration_text, value_text

COLUMNS = (
    "run",
    "model",
    "parameters",
    "steps",
    "tokens",
    "validation loss",
    "perplexity",
    "bits per byte",
    "unigram entropy (nats)",
    "time",
)
LEFT = 2  # so many columns are text, set to the left


def summary_table(run_dirs: Sequence[str | Path]) -> str:
    """The runs' final numbers as a plain-text table, one run a line.

    Values are the last recorded ones of metrics.jsonl, and summary.json's; what neither has is "-".
    The loss of several objectives is the one in nats per token, which the perplexity belongs to;
    below the table is what it was summed with.

    Args:
      run_dirs: the run directories.
    """
    runs = read_runs(run_dirs)
    body = [cells(run, name) for run, name in zip(runs, distinct_names(runs))]
    head = [_two_lines(column) for column in COLUMNS]
    rows = [[first for first, _ in head], [second for _, second in head], *body]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    lines = [_align(row, widths) for row in rows]
    lines.insert(2, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *(f"{note}" for note in notes(runs))])


def cells(run: Run, name: str) -> list[str]:
    """One run's row, a text a column."""
    return [
        name,
        run.model or "-",
        count_text(run.parameters),
        count_text(run.steps),
        count_text(run.tokens),
        value_text(run.final(token_loss(run))),
        value_text(run.final("perplexity")),
        value_text(run.final("bits_per_byte")) + bits_mark(run),
        value_text(run.unigram_entropy),
        duration_text(run.seconds),
    ]


def bits_mark(run: Run) -> str:
    """A star on the bits per byte of a masked model."""
    sees_both_sides = any(facts.sees_both_sides for facts in run.losses.values())
    return "*" if sees_both_sides and run.final("bits_per_byte") is not None else ""


def notes(runs: Sequence[Run]) -> list[str]:
    """What the numbers do not say themselves: parts of sums, and what not to compare."""
    lines = []
    for run, name in zip(runs, distinct_names(runs)):
        parts = [(facts.shown, run.final(key)) for key, facts in run.losses.items()]
        shown, total = run.final(token_loss(run)), run.final("loss")
        if len(parts) > 1 and total is not None:
            text = ", ".join(f"{part} {value_text(value)}" for part, value in parts)
            lines.append(
                f"{name}: trained on a weighted sum of {text}: {value_text(total)} in all."
            )
        entropy = run.unigram_entropy
        if shown is not None and entropy is not None and shown > entropy:
            lines.append(
                f"{name}: a loss above the unigram entropy is worse than the tokens' frequencies "
                "alone would do: it has not learnt enough yet."
            )
    if any(bits_mark(run) for run in runs):
        lines.append(
            "* of the masked tokens alone, each seen with both sides: not comparable with the bits "
            "per byte of a causal model."
        )
    return lines


def _two_lines(column: str) -> tuple[str, str]:
    first, _, second = column.partition(" ")
    return (first, second) if second else ("", first)


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        cell.ljust(width) if index < LEFT else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths))
    ]
    return "  ".join(parts).rstrip()
