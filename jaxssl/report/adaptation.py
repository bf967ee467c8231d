"""What continued pretraining gained on the new domain and lost on the old one: `adaptation.json` as
lines for the terminal and as a section of the report."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

Row = list[str]
HEAD = ("", "", "before", "after", "change")
SHOWN = {"new": "new domain", "old": "old domain"}


def lines(record: Mapping[str, Any]) -> list[str]:
    """The table, that of positions, and what they come to in words."""
    made = [*_aligned([list(HEAD), *rows(record)])]
    for name in record["domains"]:
        if table := position_rows(record, name):
            made += ["", f"loss by position, {_shown(name)}, {position_unit(record, name)}"]
            made += _aligned([["positions", "before", "after"], *table])
    return [*made, "", *words(record)]


def rows(record: Mapping[str, Any]) -> list[Row]:
    """A row for each domain and unit: nats per token where both models cut text alike, and nats
    per byte of text; nats per token without a change where nothing compares."""
    found = []
    for name, numbers in record["domains"].items():
        before, after = numbers["before"], numbers.get("after")
        compares = _compares(record, name)
        units = [("nats_per_byte", "nats per byte")] if compares else []
        if position_unit(record, name) == "nats per token":
            units.insert(0, ("nats_per_token", "nats per token"))
        if before["nats_per_token"] is None:
            units = [("loss", "loss")]
        for key, unit in units:
            first, last = before[key], after[key] if after else None
            change = None if None in (first, last) or not compares else last - first
            texts = [_number(first), _number(last), _number(change, sign=True)]
            found.append([_shown(name), unit, *texts])
    return found


def position_rows(record: Mapping[str, Any], domain: str) -> list[Row]:
    """The loss in each part of the positions, before and after; none where it was not measured."""
    numbers = record["domains"][domain]
    before, after = (numbers.get(when, {}).get("positions") for when in ("before", "after"))
    if before is None:
        return []
    edges, units = before["edges"], [1.0, 1.0]
    if position_unit(record, domain) != "nats per token":
        units = [
            numbers[when]["tokens_per_byte"] for when in ("before", "after") if when in numbers
        ]
    last = after["nats"] if after else [None] * len(before["nats"])
    return [
        [f"{low} to {high - 1}", _number(first, units[0]), _number(second, units[-1])]
        for low, high, first, second in zip(edges, edges[1:], before["nats"], last)
    ]


def position_unit(record: Mapping[str, Any], domain: str) -> str:
    """What the loss by position is in."""
    per_token = _cut_alike(record, domain) or not _compares(record, domain)
    return "nats per token" if per_token else "nats per byte"


def _cut_alike(record: Mapping[str, Any], domain: str) -> bool:
    """Whether both models were given the same tokens."""
    return record["pieces"]["before"] == record["pieces"]["after"] or domain == "old"


def _compares(record: Mapping[str, Any], domain: str) -> bool:
    """Whether a lower number is a better guess. Where a token is guessed from both sides, the seen
    pieces of its word give it away: words in more pieces are easier, whatever the model."""
    return _cut_alike(record, domain) or not record.get("sees_both_sides", False)


def words(record: Mapping[str, Any]) -> list[str]:
    """What the numbers say, and what to remember when they are read."""
    found = []
    gain, loss = (_change(record, name) for name in ("new", "old"))
    if loss is None:
        if "old" not in record["domains"]:
            found.append("Forgetting was not measured: there is no text of the old domain.")
    elif gain is not None:
        found.append(_balance(-gain, loss, record["replay"]))
    else:
        moved = "lost" if loss > 0 else "gained"
        found.append(f"The old domain {moved} {abs(loss):.4f} nats per byte.")
    new = record["domains"]["new"]
    if not _cut_alike(record, "new") and new["before"]["nats_per_byte"]:
        found += _of_pieces(record)
    for when in ("before", "after"):
        unknown = new.get(when, {}).get("unknown", 0.0)
        if unknown > 0.001:
            found.append(
                f"{unknown:.1%} of the new domain's tokens {when} are unknown to the tokenizer: "
                "what they stand for is not predicted, and the loss is too low by that."
            )
    if record["length"]["before"] != record["length"]["after"]:
        found.append(
            f"Rows have {record['length']['after']:,} tokens after, and had "
            f"{record['length']['before']:,} before: each model is measured on its own."
        )
    measured = [x for numbers in record["domains"].values() for x in numbers["before"]]
    if record.get("longest") is not None and "positions" not in measured:
        found.append("The loss by position is that of causal and masked models alone.")
    return found + _steps(record)


def _of_pieces(record: Mapping[str, Any]) -> list[str]:
    """What two vocabularies mean for the numbers, in words."""
    differ = (
        f"The vocabularies differ ({record['pieces']['before']:,} and "
        f"{record['pieces']['after']:,} pieces), so "
    )
    if _compares(record, "new"):
        found = ["nats per token do not compare; nats per byte of the same held-out documents do."]
    else:
        found = [
            "the new domain's numbers do not compare, and what was gained is not told: this model "
            "guesses from both sides, and the seen pieces of a word give a masked one away, the "
            "more so the more pieces a word has."
        ]
    found[0] = differ + found[0]
    if "old" in record["domains"]:
        found.append(
            "The old domain is measured, and replayed, in the old pieces: what the new ones make "
            "of its text is not in these numbers."
        )
    return found


def _steps(record: Mapping[str, Any]) -> list[str]:
    """Which checkpoints were measured, in words."""
    before, after = (record["domains"]["new"].get(x, {}).get("step") for x in ("before", "after"))
    if after is None:
        return []
    best = after != record.get("last", after)
    more = f", its best, which is what `export` takes: the last is {record['last']:,}" * best
    return [f"Measured: step {before:,} of the old run and step {after:,} of the new one{more}."]


def _balance(gain: float, loss: float, replay: float) -> str:
    """Gain and loss in nats per byte, in words."""
    if loss <= 0:
        return f"Nothing was forgotten: the old domain gained {-loss:.4f} nats per byte."
    told = (
        f"The old domain lost {loss:.4f} nats per byte, the new one gained {gain:.4f}"
        if gain > 0
        else f"Both domains lost: the old one {loss:.4f} nats per byte, the new one {-gain:.4f}"
    )
    if loss <= gain:
        return f"{told}."
    more = f"more replay than {replay:.0%} of the steps" if replay else "replay (--replay)"
    return (
        f"{told}: more was forgotten than gained. Less is with {more}, a lower "
        "optimizer.learning_rate or fewer steps."
    )


def _change(record: Mapping[str, Any], domain: str) -> float | None:
    """In nats per byte; None where they do not compare."""
    if not _compares(record, domain):
        return None
    numbers = record["domains"].get(domain, {})
    first, last = (numbers.get(x, {}).get("nats_per_byte") for x in ("before", "after"))
    return None if first is None or last is None else last - first


def section(record: Mapping[str, Any] | None) -> str:
    """The part of a page."""
    if not record:
        return ""
    body = [_table(HEAD, rows(record))]
    for name in record["domains"]:
        if table := position_rows(record, name):
            body.append(f"<h3>Loss by position, {html.escape(_shown(name))}</h3>")
            body.append(_table(("positions", "before", "after"), table))
            unit = position_unit(record, name).capitalize()
            body.append(f'<p class="note">{unit}, by a token\'s place in its document.</p>')
    text = html.escape(" ".join(words(record)))
    return "".join(body) + f'<p class="note">{text}</p>'


def _table(head: Sequence[str], body: Sequence[Row]) -> str:
    columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    made = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{made}</tbody></table>'
        "</div>"
    )


def _shown(domain: str) -> str:
    return SHOWN.get(domain, domain)


def _number(value: float | None, unit: float = 1.0, sign: bool = False) -> str:
    """A value times what makes its unit of it."""
    if value is None:
        return "-"
    return f"{value * unit:+.4f}" if sign else f"{value * unit:.4f}"


def _aligned(table: Sequence[Row]) -> list[str]:
    """Rows in columns: texts to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    numbers = {i for i, name in enumerate(table[0]) if name in ("before", "after", "change")}
    return [
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    ]
