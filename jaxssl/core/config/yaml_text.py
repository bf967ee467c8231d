"""Text as YAML and back, by the scalars of YAML 1.2: `3e-4` is a number, `no` is a word."""

import collections
import functools
import re
from typing import Any

from jaxssl.core.errors import UserError

MOST_CHARACTERS = 8 << 20
MOST_VALUES = 1_000_000
"""Nine aliases of nine, nine times, would be 387 million values."""


def parse_yaml(text: str, where: str) -> Any:
    """YAML with YAML 1.2's booleans and numbers: `3e-4` is a number, `no` is a word."""
    import yaml

    if len(text) > MOST_CHARACTERS:
        raise UserError(
            "too large a YAML text",
            where=where,
            expected=f"at most {MOST_CHARACTERS:,} characters",
            got=f"{len(text):,}",
        )
    try:
        return yaml.load(text, Loader=_yaml_loader())
    except RecursionError:
        got = "lists or mappings too deep inside each other"
        raise UserError("not valid YAML", where=where, got=got) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError("not valid YAML", where=where, got=_problem(error)) from error


def _problem(error: Exception) -> str:
    """What YAML does not like, and where, in a line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return str(error)[:500]
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def has_comment(text: str) -> bool:
    """Whether a comment stands behind the value of a YAML text that can be parsed."""
    import yaml

    hidden = (yaml.StreamStartToken, yaml.StreamEndToken, yaml.BlockEndToken)
    ends = [x.end_mark.index for x in yaml.scan(text) if not isinstance(x, hidden)]
    return bool(text[max(ends, default=0) :].strip())


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back to equal data."""
    import yaml

    return yaml.dump(data, Dumper=_yaml_dumper(), sort_keys=False, width=100)


@functools.cache
def _yaml_loader() -> type:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with its own table of scalars and no repeated keys."""

        def get_single_node(self):
            node = super().get_single_node()
            if node is not None and _written_out(node, {}) > MOST_VALUES:
                problem = f"aliases (*name) that stand for more than {MOST_VALUES:,} values"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return node

        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            counts = collections.Counter(map(repr, keys))
            repeated = next((key for key in keys if counts[repr(key)] > 1), None)
            if repeated is not None:
                raise yaml.constructor.ConstructorError(
                    None, None, f"repeated key {repeated!r}", node.start_mark
                )
            return super().construct_mapping(node, deep)

    tags = ("null", "bool", "int", "float", "str", "seq", "map")
    known = {f"tag:yaml.org,2002:{tag}" for tag in tags} | {None}  # None: what is no other's
    Loader.yaml_constructors = {t: c for t, c in Loader.yaml_constructors.items() if t in known}
    Loader.yaml_implicit_resolvers = {}
    _add_scalars(Loader)

    def construct_int(loader, node):
        return int(loader.construct_scalar(node).replace("_", ""))

    def construct_float(loader, node):
        text = loader.construct_scalar(node).replace("_", "")
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        # `1e6` may stand for an integer; `1.0e6` is a float.
        integral = "." not in text and value.is_integer() and abs(value) < 2**53
        return int(value) if integral else value

    Loader.add_constructor("tag:yaml.org,2002:int", construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", construct_float)
    return Loader


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many values a node has once each alias is written out.

    Args:
      known: those of nodes that were counted, by their identity.
    """
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # of one that holds itself: it would never end
        children = node.value if isinstance(node.value, list) else []
        pairs = (child if isinstance(child, tuple) else (child,) for child in children)
        known[id(node)] = 1 + sum(_written_out(part, known) for pair in pairs for part in pair)
    return known[id(node)]


@functools.cache
def _yaml_dumper() -> type:
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that quotes every string that would be read as something else."""

    _add_scalars(Dumper)
    return Dumper


def _add_scalars(side: Any) -> None:
    """Teaches a loader or dumper which plain scalars are booleans, nulls and numbers."""
    add = side.add_implicit_resolver
    add("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
    add("tag:yaml.org,2002:null", re.compile(r"^(null|Null|~|)$"), ["n", "N", "~", ""])
    add("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
    number = re.compile(
        r"^[-+]?([0-9][0-9_]*\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf|\.nan)$"
    )
    add("tag:yaml.org,2002:float", number, list("-+.0123456789"))
