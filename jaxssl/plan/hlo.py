"""Reading a compiled TPU program: the compiler's own estimate of its time, and what it sends.

The text of a scheduled HLO module is walked from its entry; the body of a loop counts as often as
it runs. Each fusion carries the cycles that the compiler reckoned with. Collectives and Pallas
calls carry none: what collectives send is counted in bytes, a Pallas call by its name.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "f8e4m3fn": 8, "f8e5m2": 8}
"""Of the types whose name does not end in their size, or not with it alone."""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
LOOPS_ASIDE = ("condition", "body")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"\b(calls|to_apply|body|branch_computations)=\{?%?([\w.\-, %]+)\}?")
_CONSTANT = re.compile(r"\b[su]32\[\].* constant\((\d+)\)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shape: of its result, as text; a tuple's in parentheses.
      rest: operands and attributes, as text.
    """

    name: str
    shape: str
    opcode: str
    rest: str


@dataclass(frozen=True)
class Module:
    """Computations by name, and which is the entry."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str


@dataclass
class Costs:
    """What one step takes on one chip.

    Attributes:
      cycles: of all fusions, by the compiler's own estimate; without collectives and Pallas calls.
      wire: bytes that a chip sends, by kind of collective.
      messages: how many collectives run, by kind.
      kernels: how often each Pallas kernel runs.
    """

    cycles: float = 0.0
    wire: dict[str, float] = dataclasses.field(default_factory=dict)
    messages: Counter[str] = dataclasses.field(default_factory=Counter)
    kernels: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Costs", times: int) -> None:
        """Adds what runs `times` times."""
        self.cycles += other.cycles * times
        for kind, sent in other.wire.items():
            self.wire[kind] = self.wire.get(kind, 0.0) + sent * times
        for mine, more in ((self.messages, other.messages), (self.kernels, other.kernels)):
            for name, count in more.items():
                mine[name] += count * times


def read_costs(text: str) -> Costs:
    """What the program takes.

    Raises:
      ValueError: a loop whose length its condition does not say, or text that is no module.
    """
    module = parse(text)

    @functools.cache
    def of(name: str) -> Costs:
        total = Costs()
        for instruction in module.computations[name]:
            total.add(_own(instruction, module), 1)
            runs = [(of(called), times) for called, times in _called(instruction, module)]
            if instruction.opcode == "conditional":  # one branch: the dearest
                runs = sorted(runs, key=lambda run: run[0].cycles)[-1:]
            for costs, times in runs:
                total.add(costs, times)
        return total

    return of(module.entry)


# --- Text ----------------------------------------------------------------------------------------


def parse(text: str) -> Module:
    """The computations of a module.

    Raises:
      ValueError: no entry.
    """
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, None
    for line in text.splitlines():
        if current is None and (found := _HEADER.match(line)):
            current = found[2]
            computations[current] = []
            entry = current if found[1] else entry
        elif line.rstrip() == "}":  # lines of a Pallas call may begin with braces
            current = None
        elif current is not None and line.startswith("  ") and " = " in line:
            computations[current].append(_instruction(line))
    if entry is None:
        raise ValueError("no computation is the entry: not the text of an HLO module")
    return Module({name: tuple(lines) for name, lines in computations.items()}, entry)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    return Instruction(name.lstrip("%"), shape, opcode, rest)


def _closing(text: str) -> int:
    """Where the parenthesis that `text` begins with is closed."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    raise ValueError(f"a shape without an end: {text[:60]}")


def num_bytes(shape: str) -> list[int]:
    """Of each array that a shape, or a tuple of them, is made of."""
    return [
        math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * _bits(kind) / 8)
        for kind, sizes in _ARRAY.findall(shape)
    ]


def _bits(kind: str) -> int:
    if kind in BITS:
        return BITS[kind]
    found = re.search(r"(\d+)$", kind)
    return int(found[1]) if found else 0  # of a token or an opaque value


# --- What an instruction takes ----------------------------------------------------------------


def _own(instruction: Instruction, module: Module) -> Costs:
    """What an instruction takes itself, without the computations it calls."""
    costs = Costs()
    if found := _CYCLES.search(instruction.rest):
        costs.cycles = float(found[1])
    if instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.rest:
        costs.kernels[re.sub(r"(\.clone|\.\d+)+$", "", instruction.name)] += 1
    kind = _kind(instruction, module)
    if kind is not None:
        costs.messages[kind] += 1
        costs.wire[kind] = _sent(kind, instruction)
    return costs


def _kind(instruction: Instruction, module: Module) -> str | None:
    """Which collective an instruction is; the `-done` of one was counted at its start."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        return opcode
    # A sum of which each chip keeps its part: a fusion of an all-reduce and a slice.
    if instruction.opcode == "fusion" and "all-reduce-scatter" in instruction.rest:
        return "reduce-scatter"
    return None


def _sent(kind: str, instruction: Instruction) -> float:
    """Bytes that a chip sends, around a ring."""
    sizes = num_bytes(instruction.shape)
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        sizes = sizes[len(sizes) // 2 :] if kind == "all-gather" else sizes[1:2]
    size, n = sum(sizes), group_size(instruction.rest)
    if kind == "collective-permute":
        return float(size)
    if kind == "reduce-scatter":  # the result is a chip's part
        return float(size * (n - 1))
    return size * (n - 1) / n * (2 if kind == "all-reduce" else 1)


def group_size(rest: str) -> int:
    """How many chips take part in a collective, in the ways that the text has of saying it."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    return 1


# --- What it calls -----------------------------------------------------------------------------


def _called(instruction: Instruction, module: Module) -> Iterator[tuple[str, int]]:
    """The computations that an instruction runs, and how often. What is fused is none of them: its
    cycles are the fusion's."""
    opcode, rest = instruction.opcode, instruction.rest
    if opcode == "while":
        found = {key: value for key, value in re.findall(r"(condition|body)=%?([\w.\-]+)", rest)}
        yield found["body"], num_turns(module.computations[found["condition"]])
    elif opcode in ("call", "async-start", "conditional"):
        for _, names in _CALLED.findall(rest):
            for name in names.replace("%", "").split(","):
                if name.strip() in module.computations:
                    yield name.strip(), 1


def num_turns(condition: tuple[Instruction, ...]) -> int:
    """How often a loop runs whose condition compares a counter from 0 with a constant.

    Raises:
      ValueError: it does not.
    """
    lines = [f"{x.shape} {x.opcode}({x.rest}" for x in condition]
    limits = [int(found[1]) for line in lines if (found := _CONSTANT.match(line))]
    if len(limits) != 1:
        raise ValueError(f"a loop whose length is not one constant: {limits}")
    return limits[0]
