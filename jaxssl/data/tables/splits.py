"""Holding out rows of a table for validation and test: by seed, stratified, never twice.

Rows are drawn in the order of a keyed hash of (seed, row number), so that the same table and seed
give the same splits everywhere, and rows added at its end do not reorder those before.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data import counter
from jaxssl.data.tables.cells import as_number, is_missing
from jaxssl.data.tables.table import Note, Table

_PURPOSE, _FEW = 0x7461626C65, 0x666577
"""Keep the random bits of what is held out, and of a few rows a label, apart from each other and
from those of other uses of the same seed."""
_NAMED = 5
"""How many labels a note names."""


def hold_out(
    table: Table,
    fractions: Mapping[str, float],
    seed: int,
    label_column: str | None,
    stratify: bool | None,
    note: Note,
) -> dict[str, Table]:
    """`table` as "train" and one table for each name in `fractions` that is above 0.

    Rows keep their order within each table. Earlier names draw first, so that their rows do not
    depend on the fractions of later ones.
    """
    labels = _labels(table, label_column, stratify)
    groups = _groups(len(table), labels, seed)
    taken = np.zeros(len(groups), np.int64)
    counts = np.array([len(rows) for rows in groups.values()])
    parts: dict[str, list[int]] = {}
    for name, fraction in fractions.items():
        if not fraction:
            continue
        share = Fraction(repr(float(fraction)))
        drawn = allot(counts.tolist(), (counts - 1 - taken).tolist(), share)
        if not sum(drawn):
            raise _none_held_out(table, name, fraction, labels)
        rows = zip(groups.values(), taken.tolist(), drawn)
        parts[name] = sorted(i for group, start, n in rows for i in group[start : start + n])
        taken += drawn
    held = {i for rows in parts.values() for i in rows}
    parts["train"] = [i for i in range(len(table)) if i not in held]
    by = "" if labels is None else f", stratified by {label_column!r}"
    sizes = ", ".join(f"{len(rows)} for {name}" for name, rows in reversed(parts.items()))
    note(f"{table.source}: {sizes} (seed {seed}{by})")
    if labels is not None:
        _tell_of_rare(groups, parts, labels, note)
    return {name: table.select(rows) for name, rows in parts.items()}


def hold_out_groups(
    table: Table, fractions: Mapping[str, float], seed: int, column: str, note: Note
) -> dict[str, Table]:
    """`hold_out` of the different values of a column: rows of one value stay together.

    Raises:
      UserError: no such column, or a row without a value; too few values.
    """
    numbers: dict[str, int] = {}
    group = []
    for value, place in zip(table.column(column, "data.tables.split_by"), table.places):
        if is_missing(value):
            raise UserError(
                "a row is of no group",
                where=place,
                expected=f"a value of {column!r}",
                got=repr(value),
            )
        group.append(numbers.setdefault(repr(value), len(numbers)))
    count = len(numbers)
    groups = Table({"group": list(range(count))}, [""] * count, f"{table.source}, {column}")
    parts = hold_out(groups, fractions, seed, None, None, note)
    rows: dict[str, list[int]] = {name: [] for name in parts}
    part_of = {number: name for name, part in parts.items() for number in part.columns["group"]}
    for row, number in enumerate(group):
        rows[part_of[number]].append(row)
    return {name: table.select(chosen) for name, chosen in rows.items()}


def few(table: Table, per_label: int, seed: int, label_column: str | None, note: Note) -> Table:
    """At most `per_label` rows of each label, in the table's order.

    Raises:
      UserError: rows without one label each.
    """
    if label_column is None:
        raise UserError(
            "there are no labels to take a few rows of each",
            where="data.tables.per_label",
            expected="null for a task without one label a row",
            got=per_label,
        )
    groups = _groups(len(table), _labels(table, label_column, True, "per_label"), seed, _FEW)
    short = [label for label, rows in groups.items() if len(rows) < per_label]
    chosen = sorted(i for rows in groups.values() for i in rows[:per_label])
    note(f"{table.source}: {len(chosen)} of {len(table)} rows to train on, {per_label} a label")
    if short:
        note(f"{_named(short)} with fewer rows than per_label={per_label}: all of them are taken")
    return table.select(chosen)


def allot(counts: Sequence[int], most: Sequence[int], share: Fraction) -> list[int]:
    """How many to draw of each group: `share` of it, rounded by largest remainders.

    The total is `share` of all, rounded half up, unless `most` (limits a group) does not allow it.
    Ties go to the earlier group.
    """
    quotas = [share * count for count in counts]
    drawn = [min(math.floor(quota), limit) for quota, limit in zip(quotas, most)]
    left = math.floor(share * sum(counts) + Fraction(1, 2)) - sum(drawn)
    while open_groups := [i for i in range(len(counts)) if drawn[i] < most[i]]:
        open_groups.sort(key=lambda i: drawn[i] - quotas[i])
        for i in open_groups[:left]:
            drawn[i] += 1
        left -= min(left, len(open_groups))
        if not left:
            break
    return drawn


def _groups(
    num_rows: int, labels: list | None, seed: int, purpose: int = _PURPOSE
) -> dict[object, list[int]]:
    """Rows by label, in the order they are drawn; the most frequent label first."""
    order = np.argsort(counter.bits(counter.key(purpose, seed), np.arange(num_rows)))
    if labels is None:
        return {None: order.tolist()}
    groups: dict[object, list[int]] = {}
    for i in order.tolist():
        groups.setdefault(labels[i], []).append(i)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), repr(item[0]))))


def _labels(
    table: Table, label_column: str | None, stratify: bool | None, key: str = "stratify"
) -> list | None:
    """The labels to stratify by; None for not at all."""
    if label_column is None or stratify is False:
        if stratify and label_column is None:
            raise UserError(
                "there are no labels to stratify by",
                where="stratify",
                expected="null or false for a task without one label a row",
                got=stratify,
            )
        return None
    labels = table.column(label_column, "label_column")
    for label, place in zip(labels, table.places):
        if is_missing(label):
            raise UserError(
                "a row has no label",
                where=place,
                expected=f"a value of {label_column!r}",
                got=repr(label),
            )
        if not isinstance(label, str | int):
            if stratify is None:
                return None
            raise UserError(
                "rows cannot be stratified by this column",
                where=f"{key}, {place}",
                expected=f"one label a row in {label_column!r}: a string or a whole number",
                got=repr(label)[:80],
                fix="set stratify=false" if key == "stratify" else f"set {key}=null",
            )
    return labels


def _tell_of_rare(groups: Mapping, parts: Mapping[str, list[int]], labels: list, note: Note):
    """Notes the labels that have one row, and those with rows but none in a held-out part."""
    single = [label for label, rows in groups.items() if len(rows) == 1]
    if single:
        note(f"{_named(single)} with one row: kept in train, none held out")
    for name in [name for name in parts if name != "train"]:
        present = {labels[i] for i in parts[name]}
        absent = [label for label in groups if label not in present and label not in set(single)]
        if absent:
            note(f"{_named(absent)} with too few rows to have one in {name}")


def _named(labels: list) -> str:
    names = ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
    return f"{len(labels)} label{'s' if len(labels) > 1 else ''} ({names})"


def _none_held_out(table: Table, name: str, fraction: float, labels: list | None) -> UserError:
    numbers = bool(labels) and all(as_number(str(label)) is not None for label in labels)
    return UserError(
        f"too few rows to hold out any for {name}",
        where=f"{name}_fraction, {table.source}",
        expected="a fraction that comes to one row or more, and leaves each label one in train",
        got=f"{fraction:g} of {len(table)} rows",
        fix="set task.name=regress if the labels are amounts, or stratify=false if they are classes"
        if numbers
        else f"give {name} data of their own, or set {name}_fraction=0 to do without",
    )
