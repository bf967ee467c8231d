"""The types of the JSON files in a run directory that a report shows.

A file that is damaged or of other types is named on the page and left out: it must not keep the
rest from being shown. Further keys may be there.
"""

import json
from typing import Any, NotRequired

from typing_extensions import TypedDict

from jaxssl.checkpoint.bases import by_network
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import parse_json

Numbers = dict[str, float | None]


class Open(TypedDict):
    """A record that may have further keys."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]


class Confusion(Open):
    """A row for each reference label, a column for each predicted one."""

    labels: list[str]
    counts: list[list[int]]


class SplitScores(Open):
    scores: Numbers
    baseline: NotRequired[Numbers]
    blind: NotRequired[Numbers]
    per_class: NotRequired[list[dict[str, str | float | None]]]
    confusion: NotRequired[Confusion]


class Scores(Open):
    """`scores.json`."""

    step: int
    metric: str | None
    splits: dict[str, SplitScores]


class Cost(Open):
    trained: float | None
    optimizer_bytes: float | None
    frozen_bytes: NotRequired[float | None]
    flops: float | None
    memory_bytes: float | None


class Receipt(Open):
    """`receipt.json`."""

    parameters: int
    rows: int
    length: int
    own: Cost
    full: Cost | None


class Entry(Open):
    action: str
    target: str | None
    source: str | None
    shape: list[int]
    detail: str


class Base(Open):
    run: str
    step: int | None


class Positions(Open):
    edges: list[int]
    nats: list[float | None]


class Measured(Open):
    """A model's numbers on the held-out documents of a domain."""

    step: int
    loss: float
    nats_per_token: float | None
    nats_per_byte: float | None
    unknown: float
    positions: NotRequired[Positions]


class Domain(Open):
    before: Measured
    after: NotRequired[Measured]


class Adaptation(Open):
    """`adaptation.json`."""

    pieces: dict[str, int]
    length: dict[str, int]
    replay: float
    domains: dict[str, Domain]


Ledger = TypedDict("Ledger", {"from": dict[str, Any], "parameters": list[Entry]})
"""`ledger.json`; `from` has `Base`s, see `checkpoint.bases.by_network`."""


def check_scores(scores: Scores) -> None:
    """Refuses a confusion matrix without a count for each pair of labels, with a `UserError`."""
    for name, split in scores["splits"].items():
        confusion = split.get("confusion") or {"labels": [], "counts": []}
        size = len(confusion["labels"])
        if [len(row) for row in confusion["counts"]] != [size] * size:
            raise UserError(
                "scores.json cannot be read",
                expected=f"{size} x {size} counts of what is confused in {name}",
                got="others",
            )


def check_ledger(ledger: Any) -> None:
    """Refuses a ledger whose bases are no `Base`s, with a `UserError`."""
    for base in by_network(ledger["from"]).values():
        text = json.dumps(base)
        parse_json(text, Base, where="from", what="ledger.json cannot be read", fix="")


class Facts(Open):
    shown: str
    per_token: NotRequired[bool]
    sees_both_sides: NotRequired[bool]


class Summary(Open):
    """`summary.json`."""

    name: NotRequired[str]
    losses: NotRequired[dict[str, Facts]]
    parameters: NotRequired[int]
    steps: NotRequired[int]
    tokens: NotRequired[int]
    frozen_arrays: NotRequired[int]
    unigram_entropy: NotRequired[float]
