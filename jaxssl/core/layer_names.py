"""Parameters by layer: names that patterns with layer ranges are matched against.

A stack holds its layers as one array a leaf, `encoder/layers/attention/query/kernel` [n, ...], or
as one a segment, `encoder/layers[0:6]/...` [6, ...]. Rules are about single layers, and are
matched against names such as `encoder/layers[3]/attention/query/kernel`, whatever the segments.
A tree may hold several stacks, of different depths; a stack is named by what comes before its
layers: `encoder`, `decoder`, `generator/encoder`. What adapters add to a stack lies beside it, at
`adapters/encoder`, and is cut as it is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxssl.core.names import matches

STACK = re.compile(r"^(?P<stack>layers)(?:\[(?P<start>\d+):(?P<end>\d+)\])?$")
RANGE = re.compile(r"(?<![^/])layers(?:\[(-?\d+|(?:-?\d+)?:(?:-?\d+)?)\])?(?=/|$)")
"""All layers, one, or some, in a pattern; anything else in brackets matches nothing."""


LAYER = re.compile(r"(?<![^/])layers\[(\d+)\]/(.*)$")
"""Of a layer's name: its number, and the name inside the layer."""
WITHIN = re.compile(r"^(?P<stack>.+?)/layers(\[\d+(:\d+)?\])?(/|$)")
"""Of a leaf's or a layer's name: its stack."""


ADAPTERS = "adapters"
"""Where parameters of adapters lie, at the paths of what they change."""


def changed_by(name: str) -> str:
    """The path of what an adapter's parameter, or its stack, changes; of another path, itself."""
    return "/".join(part for part in name.split("/") if part != ADAPTERS)


def layer_names(name: str, size: int | None = None) -> list[str]:
    """The names of the layers that a leaf holds: of a leaf outside a stack, its own.

    Args:
      name: a leaf's path.
      size: the length of its first axis, for a stack that is not cut in segments.
    """
    parts = name.split("/")
    for i, part in enumerate(parts):
        if found := STACK.match(part):
            start = int(found["start"] or 0)
            end = int(found["end"]) if found["end"] else size
            assert end is not None, name
            inside = "/".join(parts[i + 1 :])
            outside = "/".join([*parts[:i], found["stack"]])
            return [f"{outside}[{layer}]/{inside}" for layer in range(start, end)]
    return [name]


def in_segment(name: str, start: int, end: int) -> str:
    """The name of the leaf with layers [start, end) alone, of one of a stack of one segment."""
    parts = name.split("/")
    return "/".join(f"layers[{start}:{end}]" if part == "layers" else part for part in parts)


def is_stacked(name: str) -> bool:
    """Whether the leaf holds layers along its first axis."""
    return any(STACK.match(part) for part in name.split("/"))


def layer_range(name: str) -> tuple[int, int] | None:
    """The layers of a segment's leaf, [start, end); None for any other leaf."""
    for part in name.split("/"):
        if (found := STACK.match(part)) and found["end"]:
            return int(found["start"]), int(found["end"])
    return None


def canonical(name: str) -> str:
    """The leaf's name in a stack of one segment."""
    return "/".join("layers" if STACK.match(part) else part for part in name.split("/"))


def stack_of(name: str) -> str | None:
    """The stack that a leaf or a layer of this name belongs to; None outside of stacks."""
    found = WITHIN.match(name)
    return found["stack"] if found else None


def depths(names: Iterable[str]) -> dict[str, int]:
    """{stack: how many layers it has}, from the names of all layers."""
    found: dict[str, int] = {}
    for name in names:
        stack, layer = stack_of(name), LAYER.search(name)
        if stack is not None and layer is not None:
            found[stack] = max(found.get(stack, 0), int(layer[1]) + 1)
    return found


def expand(pattern: str, num_layers: int) -> str:
    """A pattern whose layer ranges are written out for a stack of this depth, for `names.matches`.

    `layers[0:8]` stands for layers 0 to 7, `layers[-2:]` for the last two, `layers[3]` for one, and
    `layers` alone for all.
    """

    def ranged(found: re.Match) -> str:
        inside = found[1]
        if inside is None:
            chosen = range(num_layers)
        elif ":" in inside:
            start, _, end = inside.partition(":")
            chosen = range(num_layers)[slice(int(start or 0), int(end) if end else None)]
        else:
            layer = int(inside)
            chosen = [layer % num_layers] if -num_layers <= layer < num_layers else []
        return "layers{" + ",".join(f"[{layer}]" for layer in chosen) + "}"

    return RANGE.sub(ranged, pattern)


def matched(pattern: str, names: Sequence[str]) -> set[str]:
    """Those of all layers' names that a pattern matches, its ranges meant in each stack's depth."""
    by_stack = {stack: expand(pattern, depth) for stack, depth in depths(names).items()}
    own = {name: by_stack.get(stack_of(name) or "", pattern) for name in names}
    return {name for name in names if matches(own[name], name)}


def decide(
    rules: Sequence[tuple[str, bool]], names: Sequence[str], default: bool
) -> dict[str, bool]:
    """{layer name: value of the first rule that matches it}."""
    found = [(matched(pattern, names), value) for pattern, value in rules]
    return {
        name: next((value for those, value in found if name in those), default) for name in names
    }


def segments_for(decisions: Sequence[Mapping[str, bool]]) -> dict[str, tuple[int, ...]]:
    """{stack: its segments} in which every leaf is wholly decided one way.

    Args:
      decisions: one mapping {layer name: value} a stage; boundaries of all stages are kept.
    """
    sizes = depths(changed_by(name) for decision in decisions for name in decision)
    return {stack: _segments(decisions, stack, depth) for stack, depth in sizes.items()}


def _segments(decisions: Sequence[Mapping[str, bool]], stack: str, depth: int) -> tuple[int, ...]:
    cuts = {0, depth}
    for decision in decisions:
        by_layer: dict[int, dict[tuple[str, str], bool]] = {}
        for name, value in decision.items():
            own = stack_of(name)
            if own and changed_by(own) == stack and (found := LAYER.search(name)):
                by_layer.setdefault(int(found[1]), {})[own, found[2]] = value
        cuts |= {i for i in range(1, depth) if by_layer.get(i) != by_layer.get(i - 1)}
    ends = sorted(cuts)
    return tuple(b - a for a, b in zip(ends, ends[1:]))
