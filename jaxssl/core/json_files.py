"""JSON files that are read: a regular file, bounded, typed; every fault of one is a user's error.

A record that is read is a dataclass, whose `__pydantic_config__` may be `STRICT` to refuse keys
that it does not know.
"""

import functools
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxssl.core.errors import UserError

T = TypeVar("T")
JsonObject = dict[str, Any]
STRICT = {"extra": "forbid"}
MOST_BYTES = 512 << 20
"""Tokenizers of 35 MB and store manifests of 100,000 shards (60 MB) exist; no larger file does."""
MOST_DEPTH = 64
"""Lists and objects inside each other. What we write has 8, tokenizers have 12."""


def read_json(path: str | Path, kind: type[T] = JsonObject, *, what: str, fix: str) -> T:
    """The content of a JSON file as `kind`: a dataclass, or a type of plain values.

    Args:
      what: the error's first line ("a run's file is damaged").
      fix: what to do about it.

    Raises:
      UserError: it is not there, not a regular file, not UTF-8, not JSON, or not a `kind`.
    """
    data = read_regular(path, what=what, fix=fix)
    return parse_json(data, kind, where=path, what=what, fix=fix)


def read_json_lines(path: str | Path, kind: type[T], *, what: str, fix: str) -> list[T]:
    """`read_json` for a file with one value a line."""
    data = read_regular(path, what=what, fix=fix)
    return [
        parse_json(line, kind, where=f"{path}:{number}", what=what, fix=fix)
        for number, line in enumerate(data.split(b"\n"), start=1)
        if line.strip()
    ]


def read_regular(path: str | Path, *, what: str, fix: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most `most_bytes`: never waits for a pipe's other end.

    Raises:
      UserError: it is something else, or cannot be read.
    """

    def refused(expected: str, got: str) -> UserError:
        return UserError(what, where=path, expected=expected, got=got, fix=fix)

    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
            raise refused("a regular file", kind)
        if status.st_size > most_bytes:
            raise refused(f"at most {most_bytes:,} bytes", f"{status.st_size:,} bytes")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise refused("a file", "none") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, UserError):
            raise
        raise refused("a file that can be read", str(error)) from error


def parse_json(
    data: bytes | str, kind: type[T] = JsonObject, *, where: Any, what: str, fix: str
) -> T:
    """JSON as `kind`; see `read_json`."""

    def refused(expected: str, got: str) -> UserError:
        return UserError(what, where=where, expected=expected, got=got, fix=fix)

    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise refused("JSON in UTF-8", f"{error.reason} at byte {error.start:,}") from None
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise refused(f"values at most {MOST_DEPTH} deep", "deeper ones") from None
    except ValueError as error:
        raise refused("JSON", str(error)) from None
    if _is_deeper(content, MOST_DEPTH):
        raise refused(f"values at most {MOST_DEPTH} deep", "deeper ones")
    if re.search(r"\\u[dD][89a-fA-F]", text) and not _is_text(content):
        raise refused("text that is Unicode", "half of a surrogate pair")
    if kind is JsonObject:
        if not isinstance(content, dict):
            raise refused("a JSON object", f"a {_name_of(content)}")
        return content  # type: ignore[return-value]
    return _typed(text, kind, refused)


def _without_repeats(pairs: list[tuple[str, Any]]) -> JsonObject:
    """An object, of which JSON readers would take the last of two values in silence.

    Raises:
      ValueError: it has a key twice.
    """
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key[:80]!r} twice")
        found[key] = value
    return found


def _typed(text: str, kind: type[T], refused: Any) -> T:
    import pydantic

    try:
        return _adapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        got = f"{first['input']!r}"
        shown = "" if first["type"] == "missing" else f", got {got[:80]}"
        raise refused(f"{place or 'content'} as it is written", f"{first['msg']}{shown}") from None


@functools.cache
def _adapter(kind: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def _is_deeper(content: Any, depth: int) -> bool:
    """Whether lists and objects lie more than `depth` deep. Without recursion."""
    level = [content]
    for _ in range(depth):
        level = (
            [
                value
                for node in level
                for value in (node.values() if isinstance(node, Mapping) else node)
                if isinstance(value, dict | list)
            ]
            if isinstance(level[0], dict | list)
            else []
        )
        if not level:
            return False
    return True


def _is_text(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name_of(content: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(content), "number")
