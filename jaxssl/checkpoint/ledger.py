"""The ledger of a restore: where every parameter comes from, and what becomes of every stored one.

Nothing is restored partially in silence. A parameter of the target that no stored one and no rule
covers is an error that names it, and so is a stored one that is neither used nor dropped.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.files import atomic_write
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import compile_pattern, matches

FILE_NAME = "ledger.json"
Action = Literal["restored", "renamed", "resized", "fresh", "dropped", "adopted"]
"""`adopted` is what comes from elsewhere than the rest, as an adapter of another run does: the
run's own checkpoints hold it."""


@dataclass(frozen=True)
class Leaf:
    """A parameter as a whole: one of a stack has all its layers.

    Attributes:
      shape: with the layers first, for a stack.
      dtype: its name.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
      target: the parameter of this model; None for a stored one that was dropped.
      source: the stored parameter; None for a fresh one.
      detail: rows or layers, where not all are treated alike.
      is_cast: whether it is converted from another dtype.
      layers: of a stack, those of the source's that are taken, where not all are.
    """

    action: Action
    target: str | None
    source: str | None
    shape: tuple[int, ...]
    detail: str = ""
    is_cast: bool = False
    layers: tuple[int, ...] = ()


def make_ledger(
    config: InitConfig,
    target: Mapping[str, Leaf],
    source: Mapping[str, Leaf],
    *,
    target_heads: Sequence[str] = (),
    source_heads: Sequence[str] = (),
    new_pieces: range = range(0),
) -> list[Entry]:
    """Decides for every parameter, of the model and stored.

    Args:
      target: the model's parameters by canonical name.
      source: the stored ones.
      target_heads: top-level names of the model's heads: fresh if they are not stored.
      source_heads: those of the stored model: dropped if this one has none of the name.
      new_pieces: the ids whose rows are made of others' (`init.new_pieces`).

    Raises:
      UserError: every parameter that is not covered, at once; rules that match nothing.
    """
    _check_rules(config, target, source)
    stored = _renamed(config, source)
    fresh = (*config.fresh, *(f"{head}/**" for head in target_heads if not _has(stored, head)))
    errors: list[UserError] = []
    entries = []
    refused = set()
    for name, leaf in target.items():
        origin = stored.get(name)
        if origin is None or any(matches(pattern, name) for pattern in fresh):
            if origin is None and not any(matches(pattern, name) for pattern in fresh):
                errors.append(_uncovered(name, leaf, source))
            entries.append(Entry("fresh", name, None, leaf.shape))
            continue
        try:
            entries.append(_restored(config, name, leaf, origin, source[origin], new_pieces))
        except UserError as error:
            errors.append(error)
            refused.add(origin)
    used = {entry.source for entry in entries} | refused
    dropped = (*config.drop, *(f"{head}/**" for head in source_heads if not _has(target, head)))
    known = {origin: name for name, origin in stored.items()}
    for origin, leaf in source.items():
        if origin in used:
            continue
        is_replaced = any(matches(pattern, known.get(origin, "")) for pattern in fresh)
        if not is_replaced and not any(matches(pattern, origin) for pattern in dropped):
            errors.append(_left_over(origin, leaf, target))
        entries.append(Entry("dropped", None, origin, leaf.shape))
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return entries


def _check_rules(
    config: InitConfig, target: Mapping[str, Leaf], source: Mapping[str, Leaf]
) -> None:
    rules = (
        ("init.rename", config.rename, source),
        ("init.drop", config.drop, source),
        ("init.fresh", config.fresh, target),
        ("init.resize", config.resize, target),
    )
    for where, patterns, names in rules:
        for pattern in patterns:
            if not any(matches(pattern, name) for name in names):
                raise UserError(
                    "a rule matches no parameter",
                    where=where,
                    expected="a pattern over names such as " + ", ".join(list(names)[:3]),
                    got=repr(pattern),
                    fix=did_you_mean(pattern, names),
                )
    depth = min((leaf.shape[0] for name, leaf in target.items() if is_stacked(name)), default=0)
    if config.fresh_top > depth:
        raise UserError(
            "there are not so many layers",
            where="init.fresh_top",
            expected=f"at most {depth}",
            got=config.fresh_top,
        )


def _renamed(config: InitConfig, source: Mapping[str, Leaf]) -> dict[str, str]:
    """{name in this model: stored name}."""
    stored: dict[str, str] = {}
    for origin in source:
        if any(matches(pattern, origin) for pattern in config.drop):
            continue
        name = next(
            (
                _rewrite(old, new, origin)
                for old, new in config.rename.items()
                if matches(old, origin)
            ),
            origin,
        )
        if name in stored:
            raise UserError(
                "two stored parameters have one name",
                where="init.rename",
                expected="different names",
                got=f"{stored[name]} and {origin} both as {name}",
            )
        stored[name] = origin
    return stored


def _rewrite(old: str, new: str, name: str) -> str:
    """`name` rewritten from one pattern to another; wildcards carry over in order."""
    caught = compile_pattern(old).fullmatch(name)
    assert caught is not None
    parts = iter(caught.groups())
    try:
        return re.sub(r"\*\*/|/\*\*$|\*\*|\*", lambda _: next(parts), new)
    except StopIteration:
        raise UserError(
            "a rename has more wildcards on its new side than on its old one",
            where="init.rename",
            expected="the same wildcards on both sides",
            got=f"{old} -> {new}",
        ) from None


def _restored(
    config: InitConfig, name: str, leaf: Leaf, origin: str, stored: Leaf, new_pieces: range
) -> Entry:
    if stored.dtype != leaf.dtype and not config.cast:
        raise UserError(
            "a stored parameter has another dtype",
            where=origin,
            expected=leaf.dtype,
            got=stored.dtype,
            fix=f"set precision.parameters={stored.dtype}, or init.cast=true to convert",
        )
    action: Action = "restored" if origin == name else "renamed"
    if config.layers and is_stacked(name):
        return _chosen_layers(config, name, leaf, origin, stored)
    detail = _grown(config, name, leaf, stored, new_pieces)
    if detail:
        return Entry("resized", name, origin, leaf.shape, detail, stored.dtype != leaf.dtype)
    if stored.shape == leaf.shape:
        depth, top = leaf.shape[0] if is_stacked(name) else 0, config.fresh_top
        detail = f"layers {depth - top} to {depth - 1} fresh" if depth and top else ""
        return Entry(action, name, origin, leaf.shape, detail, stored.dtype != leaf.dtype)
    same_width = stored.shape[1:] == leaf.shape[1:]
    axis = resized_axis(name, stored.shape, leaf.shape)
    if axis is not None and any(matches(pattern, name) for pattern in config.resize):
        kept = min(stored.shape[axis], leaf.shape[axis])
        more = leaf.shape[axis] - kept
        detail = f"{'columns' if axis else 'rows'} 0 to {kept - 1} kept, " + (
            f"{more} fresh" if more else f"{stored.shape[axis] - kept} left out"
        )
        return Entry("resized", name, origin, leaf.shape, detail, stored.dtype != leaf.dtype)
    raise UserError(
        "a stored parameter has another number of layers"
        if same_width and is_stacked(name)
        else "a stored parameter has another shape",
        where=f"{origin} -> {name}",
        expected=list(leaf.shape),
        got=list(stored.shape),
        fix=f'init.resize=["{name}"] keeps what there is in both'
        if axis is not None
        else "use the model configuration it was trained with, or init.fresh for this parameter",
    )


def _chosen_layers(config: InitConfig, name: str, leaf: Leaf, origin: str, stored: Leaf) -> Entry:
    """A stack of some of the stored layers."""
    depth, layers = stored.shape[0], config.layers
    if max(layers) >= depth or len(layers) != leaf.shape[0] or stored.shape[1:] != leaf.shape[1:]:
        raise UserError(
            "the stored layers that are named do not make this stack",
            where=f"init.layers, {origin} -> {name}",
            expected=f"{leaf.shape[0]} layers of 0 to {depth - 1}, each of {list(leaf.shape[1:])}",
            got=f"layers {list(layers)}, each of {list(stored.shape[1:])}",
            fix=f"set model.num_layers={len(layers)}, or name {leaf.shape[0]} of the {depth}",
        )
    detail = f"layers {', '.join(map(str, layers))} of {depth}"
    return Entry("resized", name, origin, leaf.shape, detail, stored.dtype != leaf.dtype, layers)


def _grown(
    config: InitConfig, name: str, leaf: Leaf, stored: Leaf, new_pieces: range
) -> str | None:
    """What becomes of a parameter over pieces or positions that gets rows made of others; None
    where it gets none."""
    axis = resized_axis(name, stored.shape, leaf.shape)
    if axis is None:
        return None
    old, new = stored.shape[axis], leaf.shape[axis]
    if is_over_pieces(name) and new_pieces:
        more = new - max(old, new_pieces.stop)
        rows = "columns" if axis else "rows"
        return f"{rows} 0 to {new_pieces.start - 1} kept, {len(new_pieces)} means of others" + (
            f", {more} fresh" if more > 0 else ""
        )
    if is_over_positions(name) and config.new_positions != "fresh" and new > old:
        if config.new_positions == "tile":
            return f"{old} rows repeated, up to {new}"
        return f"{old} rows stretched to {new}"
    return None


VOCABULARY = {"causal_lm/output/kernel": 1, "masked_lm/bias": 0}
"""Parameters that are no tables and have an axis over the vocabulary: which it is. In the tree of
all networks, the ends of their names."""
TOKENS, POSITIONS = "embeddings/tokens/embedding", "embeddings/positions/embedding"
"""The tables that a vocabulary and learned positions have."""


def is_over_pieces(name: str) -> bool:
    """Whether a parameter has a row for each piece of the vocabulary."""
    return any(f"/{name}".endswith(f"/{known}") for known in (TOKENS, *VOCABULARY))


def is_over_positions(name: str) -> bool:
    """Whether a parameter has a row for each position."""
    return f"/{name}".endswith((f"/{POSITIONS}", f"/decoder_{POSITIONS}"))


def resized_axis(name: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> int | None:
    """The axis along which a parameter of another shape may be resized: over the rows of a table,
    or the vocabulary. None where it may not, or differs in another axis, too."""
    is_table = len(wanted) == 2 and not is_stacked(name)
    own = [axis for known, axis in VOCABULARY.items() if f"/{name}".endswith(f"/{known}")]
    axis = own[0] if own else 0 if is_table else None
    if axis is None or len(stored) != len(wanted):
        return None
    same_elsewhere = all(a == b for i, (a, b) in enumerate(zip(stored, wanted)) if i != axis)
    return axis if same_elsewhere else None


def _has(names: Mapping[str, object], head: str) -> bool:
    return any(name == head or name.startswith(head + "/") for name in names)


def _uncovered(name: str, leaf: Leaf, source: Mapping[str, Leaf]) -> UserError:
    return UserError(
        "no stored parameter for one of the model",
        where=name,
        expected=f"a stored parameter of shape {list(leaf.shape)}",
        got="none of that name",
        fix=_nearest(name, source)
        + f'rename one (init.rename), or initialise it afresh: init.fresh=["{name}"]',
    )


def _left_over(origin: str, leaf: Leaf, target: Mapping[str, Leaf]) -> UserError:
    return UserError(
        "a stored parameter has no place in the model",
        where=origin,
        expected="a parameter of that name in the model",
        got=f"shape {list(leaf.shape)}, unused",
        fix=_nearest(origin, target)
        + f'rename it (init.rename), or leave it behind: init.drop=["{origin}"]',
    )


def _nearest(name: str, known: Mapping[str, Leaf]) -> str:
    suggestion = did_you_mean(name, known)
    return f"{suggestion} If so, " if suggestion else ""


# --- Showing and keeping ------------------------------------------------------------------------


def table(entries: Sequence[Entry]) -> list[str]:
    """The ledger in a few lines: parameters and arrays by what became of them, and by part."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        part = (entry.target or entry.source or "").split("/")[0]
        groups.setdefault((entry.action, part), []).append(entry)
    lines = [f"  {'':<10}{'part':<20}{'arrays':>8}{'parameters':>14}"]
    for (action, part), members in groups.items():
        count = sum(_size(entry.shape) for entry in members)
        notes = sorted({entry.detail for entry in members if entry.detail})
        lines.append(
            f"  {action:<10}{part:<20}{len(members):>8}{count:>14,}"
            + (f"  ({'; '.join(notes)})" if notes else "")
        )
    return lines


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def write_ledger(path: Path, origin: Mapping[str, object], entries: Sequence[Entry]) -> None:
    """Writes `ledger.json`: what was restored from where, an object for each parameter."""
    with atomic_write(path) as file:
        json.dump(
            {"from": dict(origin), "parameters": [dataclasses.asdict(e) for e in entries]},
            file,
            indent=1,
        )
