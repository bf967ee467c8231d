"""The manifest of a token store: what is in it, how much, and the checksums to prove it."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.paths import looked_up, suggestion

FORMAT = 1
FILE_KINDS = ("tokens", "documents", "sentences")
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One trio of files: counts of what each holds and the SHA-256 of each."""

    name: str
    tokens: int
    documents: int
    sentences: int
    bytes: int
    largest_id: int
    sha256: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """One split: totals over its shards. `bytes` is the text's size in UTF-8.

    `unigram_entropy` is in nats a token, over content tokens (document ends left out).
    """

    tokens: int
    documents: int
    sentences: int
    bytes: int
    largest_id: int
    unigram_entropy: float
    shards: tuple[ShardRecord, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is known of a token store without reading its tokens."""

    vocab_size: int
    dtype: str
    document_end: int
    special_ids: Mapping[str, int | None]
    tokenizer: Mapping[str, str]
    splits: Mapping[str, SplitRecord]
    sources: tuple[Any, ...] = ()
    seed: int = 0
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    set_aside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    @property
    def largest_id(self) -> int:
        """The largest token id in any split, -1 for a store without tokens."""
        return max((split.largest_id for split in self.splits.values()), default=-1)


def token_dtype(vocab_size: int) -> str:
    """The stored type of a token: two bytes where the vocabulary allows it."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` (tokens of each id, [V]) describes."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts > 0]
    if not counts.size:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def split_record(shards: Iterable[Mapping[str, Any]], counts: np.ndarray) -> dict[str, Any]:
    """Totals of a split as the manifest holds them.

    Args:
      shards: what each `ShardWriter.finish()` returned, in the order of their names.
      counts: how often each id occurs among the split's content tokens, [V].
    """
    shards = sorted(shards, key=lambda shard: shard["name"])
    totals = {
        key: sum(shard[key] for shard in shards)
        for key in ("tokens", "documents", "sentences", "bytes")
    }
    return {
        **totals,
        "largest_id": max(shard["largest_id"] for shard in shards),
        "unigram_entropy": unigram_entropy(counts),
        "shards": list(shards),
    }


def write_manifest(path: str | Path, content: Mapping[str, Any]) -> None:
    """Checks `content` (the manifest as plain values) and writes it whole to `path`."""
    content = {"format": FORMAT, **content}
    parse_manifest(content, path)
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_manifest(path: str | Path) -> Manifest:
    """Reads `manifest.json`. Missing, unreadable or too new a file is a `UserError`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "there is no token store here",
            where=path.parent,
            expected="a directory with a manifest.json",
            got="a directory without one" if path.parent.is_dir() else looked_up(path.parent),
            fix=suggestion(path.parent)
            or "make it with `jaxssl prepare`, or correct the path (data.store)",
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    return parse_manifest(content, path)


def parse_manifest(content: Any, path: str | Path) -> Manifest:
    """Turns the manifest's plain values into a `Manifest`; `path` is only named in errors."""
    if not isinstance(content, Mapping) or not isinstance(content.get("format"), int):
        raise _damaged(path, "no format number")
    if content["format"] > FORMAT:
        raise UserError(
            "this token store was written by a newer version",
            where=path,
            expected=f"format {FORMAT} or older",
            got=f"format {content['format']}",
            fix="upgrade jaxssl, or prepare the store again with this version",
        )
    try:
        fields = {field.name for field in dataclasses.fields(Manifest)}
        manifest = Manifest(
            **{key: value for key, value in content.items() if key in fields - {"splits"}},
            splits={name: _split(split) for name, split in content["splits"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    _check(manifest, path)
    return manifest


def _split(content: Mapping[str, Any]) -> SplitRecord:
    shards = tuple(ShardRecord(**shard) for shard in content["shards"])
    return SplitRecord(**{**content, "shards": shards})


def _check(manifest: Manifest, path: str | Path) -> None:
    if manifest.dtype not in ("uint16", "uint32"):
        raise _damaged(path, f"dtype {manifest.dtype!r}")
    for name, split in manifest.splits.items():
        for key in FILE_KINDS + ("bytes",):
            total = sum(getattr(shard, key) for shard in split.shards)
            if total != getattr(split, key):
                raise _damaged(path, f"split {name!r}: {key} do not add up over its shards")


def _damaged(path: str | Path, why: str) -> UserError:
    return UserError(
        "this token store's manifest is damaged",
        where=path,
        expected="a manifest written by `jaxssl prepare`",
        got=why,
        fix="restore the file from a copy, or prepare the store again",
    )
