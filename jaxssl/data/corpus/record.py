"""What a token store was begun with, compared with what is asked for now."""

import dataclasses
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from jaxssl.core.config import to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.contents import CONTENTS
from jaxssl.data.corpus.gazetteer import fingerprint
from jaxssl.data.corpus.sources import Hub
from jaxssl.data.tokenizer.tokenizer import Tokenizer

RECORD = "prepare.json"
WORK = ".work"
INPUTS, COMMITS = "inputs", "commits"
"""Not compared. `inputs` is in older stores only: a digest of the files' beginnings and ends."""
LEFT_OUT = ("out", "workers", "tokenizer", "max_unknown_rate", "max_set_aside", "pack_lengths")


class Record(TypedDict):
    """`prepare.json`: the configuration, as far as it decides the store's bytes."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    source: dict[str, Any]
    more_sources: list[dict[str, Any]]
    tokenizer: str
    commits: NotRequired[list[str | None]]


def record(config: PrepareConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the store's bytes. Where it lies and how many workers make it does not.

    Nor does where the corpus lies: what it holds is noted in `inputs.jsonl`.
    """
    kept = {key: value for key, value in to_dict(config).items() if key not in LEFT_OUT}
    if config.gazetteer is not None:
        ignore_case = config.gazetteer.ignore_case
        kept["gazetteer"] = {"sha256": fingerprint(config.gazetteer), "ignore_case": ignore_case}
    return {**_without_places(kept), "tokenizer": tokenizer.fingerprint}


def _without_places(record: dict[str, Any]) -> dict[str, Any]:
    """`record` without the paths of its sources, which older stores have in theirs, and without a
    key of spans that is not given, which they lack."""
    first, more = record.get("source", {}), record.get("more_sources", ())
    sources = [
        {k: v for k, v in s.items() if k != "paths" and (k, v) != ("spans_key", None)}
        for s in (first, *more)
    ]
    return {**record, "source": sources[0], "more_sources": sources[1:]}


def read_record(out: Path) -> dict[str, Any]:
    """What an earlier run noted, without the places of its corpus.

    Raises:
      UserError: it is damaged.
    """
    fix = "delete this directory to make the store anew"
    found = read_json(out / RECORD, Record, what="the record of a store is damaged", fix=fix)
    return _without_places(dict(found))


def commits(config: PrepareConfig, out: Path) -> list[str | None]:
    """The commit of each source from the hub: the one the store was begun with, or today's."""
    if (out / RECORD).is_file():
        return read_record(out).get(COMMITS, [None] * len(config.sources))
    return [source.commit() if isinstance(source, Hub) else None for source in config.sources]


def pinned(config: PrepareConfig, commits: list[str | None]) -> PrepareConfig:
    """`config` with its sources from the hub at these commits."""
    first, *more = (
        source if commit is None else dataclasses.replace(source, revision=commit)  # type: ignore
        for source, commit in zip(config.sources, commits)
    )
    return dataclasses.replace(config, source=first, more_sources=tuple(more))


def is_complete(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` is complete; raises a `UserError` if it holds something else."""
    if not (out / RECORD).exists():
        ours = {WORK, CONTENTS, *(f.name for f in leftovers(out))}
        others = [f.name for f in out.iterdir() if f.name not in ours] if out.is_dir() else []
        if not others and (out.is_dir() or not out.exists()):
            return False
        raise UserError(
            "the output is not a token store that `jaxssl prepare` began",
            where=out,
            expected="a new or empty directory",
            got=f"a directory with {', '.join(sorted(others)[:3])}" if others else "a file",
            fix="choose another `out`",
        )
    found = read_record(out)
    has_manifest = (out / "manifest.json").is_file()
    keys = sorted((record.keys() | found.keys()) - {INPUTS, COMMITS})
    different = [key for key in keys if record.get(key) != found.get(key)]
    if different:
        key = different[0]
        raise UserError(
            "there is already a token store here, of another configuration"
            if has_manifest
            else "there is an unfinished token store here, of another configuration",
            where=f"{out} ({', '.join(different)})",
            expected=f"{key} = {found.get(key)!r}",
            got=f"{key} = {record.get(key)!r}",
            fix="choose another `out`, or delete this directory to make the store anew",
        )
    return has_manifest


def leftovers(out: Path) -> list[Path]:
    """Temporary files of a run that was killed while it wrote outside its work folder."""
    folders = [out, *(out / name for name in ("tokenizer", "train", "validation", "test"))]
    return [f for folder in folders for f in folder.glob(".*.tmp") if f.is_file()]
