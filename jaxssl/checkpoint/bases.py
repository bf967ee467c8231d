"""What a run notes of where it started: of each of its networks, by name."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import parse_json

NETWORKS = "networks"
"""Where the notes of further networks' bases lie beside those of the main one's."""
ADOPTED = "adopted"
"""Where the notes lie of where adapters come from that other runs trained, by the adapters' names.
They are no bases: a run holds its adapters itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """What a run, or one network of it, notes of where it started.

    Attributes:
      step: of a run; None of a Hugging Face directory.
      manifest: the checksum of what it holds.
      names: {parameter here: parameter there} of those that are taken.
      tokenizer: the checksum of a Hugging Face directory's tokenizer; runs of version 0.1 lack it.
    """

    run: str
    step: int | None
    manifest: str
    names: Mapping[str, str]
    tokenizer: str | None = None


def read_bases(noted: Any, path: Path) -> dict[str, dict[str, Any]]:
    """{network: `Base` as a dict}, of the content of the file `path`.

    Raises:
      UserError: it is damaged.
    """
    what = "the note of where a run started is damaged"
    fix = "restore it from a copy, or start the run anew in another directory"
    if not isinstance(noted, dict) or not isinstance(noted.get(NETWORKS, {}), dict):
        raise UserError(what, where=path, expected="an object", got="something else", fix=fix)
    return {
        network: dataclasses.asdict(
            parse_json(json.dumps(base), Base, where=path, what=what, fix=fix)
        )
        for network, base in by_network(noted).items()
    }


def by_network(noted: Mapping[str, Any]) -> dict[str, Any]:
    """{network: what is noted of its base}, of a file's content; the main one's name is empty."""
    main = {key: value for key, value in noted.items() if key not in (NETWORKS, ADOPTED)}
    return ({"": main} if main else {}) | dict(noted.get(NETWORKS, {}))


def describe_base(noted: Mapping[str, Any]) -> str:
    """What a run started from, in words."""
    if noted["step"] is None:
        return str(noted["run"])
    return f"step {noted['step']} of {noted['run']}"
