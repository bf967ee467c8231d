"""Parameters by layer: names that patterns with layer ranges are matched against.

A stack holds its layers as one array a leaf, `encoder/layers/attention/query/kernel` [n, ...], or
as one a segment, `encoder/layers[0:6]/...` [6, ...]. Rules are about single layers, and are
matched against names such as `encoder/layers[3]/attention/query/kernel`, whatever the segments.
"""

import re
from collections.abc import Mapping, Sequence

from jaxssl.core.names import matches

STACK = re.compile(r"^(?P<stack>layers)(?:\[(?P<start>\d+):(?P<end>\d+)\])?$")
RANGE = re.compile(r"(?<![^/])layers(?:\[(-?\d+|(?:-?\d+)?:(?:-?\d+)?)\])?(?=/|$)")
"""All layers, one, or some, in a pattern; anything else in brackets matches nothing."""


LAYER = re.compile(r"(?<![^/])layers\[(\d+)\]/(.*)$")
"""Of a layer's name: its number, and the name inside the layer."""


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


def expand(pattern: str, num_layers: int) -> str:
    """A pattern whose layer ranges are written out, for `names.matches`.

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


def decide(
    rules: Sequence[tuple[str, bool]], names: Sequence[str], num_layers: int, default: bool
) -> dict[str, bool]:
    """{layer name: value of the first rule that matches it}."""
    expanded = [(expand(pattern, num_layers), value) for pattern, value in rules]
    return {
        name: next((value for pattern, value in expanded if matches(pattern, name)), default)
        for name in names
    }


def segments_for(decisions: Sequence[Mapping[str, bool]], num_layers: int) -> tuple[int, ...]:
    """The segments of the stack in which every leaf is wholly decided one way.

    Args:
      decisions: one mapping {layer name: value} a stage; boundaries of all stages are kept.
    """
    cuts = {0, num_layers}
    for decision in decisions:
        by_layer: dict[int, dict[str, bool]] = {}
        for name, value in decision.items():
            if found := LAYER.search(name):
                by_layer.setdefault(int(found[1]), {})[found[2]] = value
        cuts |= {i for i in range(1, num_layers) if by_layer.get(i) != by_layer.get(i - 1)}
    ends = sorted(cuts)
    return tuple(b - a for a, b in zip(ends, ends[1:]))
