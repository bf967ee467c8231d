"""The manifest of a token store: what is in it, how much, and the checksums to prove it."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import STRICT, parse_json, read_regular
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.core.seal import seal

FORMAT = 2
"""2 is a store with marked spans; one without them is written as 1."""
MANIFEST = "manifest.json"
DAMAGED = "this token store's manifest is damaged"
FIX = "restore the file from a copy, or prepare the store again"
FILE_KINDS = ("tokens", "documents", "sentences")
MARKS = "marks"
"""The file of a shard that says which tokens lie in marked spans; most stores have none."""
MARKED = ("spans", "found", "marked")
"""The counts of a shard with marks."""
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The files of one shard: counts of what each holds and the SHA-256 of each."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    tokens: int
    documents: int
    sentences: int
    bytes: int
    largest_id: int
    sha256: Mapping[str, str]
    sample: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """`core.files.sample_sha256` of each; empty in stores of version 0.1."""
    spans: int = 0
    """Marked spans."""
    found: int = 0
    """Those of them that a gazetteer found."""
    marked: int = 0
    """Tokens in marked spans."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """One split: totals over its shards. `bytes` is the text's size in UTF-8.

    `unigram_entropy` is in nats a token, over content tokens (document ends left out).
    """

    __pydantic_config__: ClassVar = STRICT
    tokens: int
    documents: int
    sentences: int
    bytes: int
    largest_id: int
    unigram_entropy: float
    shards: tuple[ShardRecord, ...]
    spans: int = 0
    found: int = 0
    marked: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is known of a token store without reading its tokens."""

    __pydantic_config__: ClassVar = STRICT
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    document_end: int
    special_ids: Mapping[str, int | None]
    tokenizer: Mapping[str, str]
    splits: Mapping[str, SplitRecord]
    sources: tuple[Any, ...] = ()
    seed: int = 0
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    set_aside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    marks: Mapping[str, Any] | None = None
    """How spans were marked; None in a store without marks."""
    format: int = 1

    def about_marks(self) -> list[str]:
        """How much of each split is marked, in lines; none of a store without marks."""
        return [
            f"marked in {name}: {split.spans:,} spans ({split.found:,} found by the gazetteer), "
            f"{split.marked / max(split.tokens, 1):.1%} of the tokens"
            for name, split in self.splits.items()
            if self.marks is not None
        ]

    @property
    def file_kinds(self) -> tuple[str, ...]:
        """The files that each shard has."""
        return FILE_KINDS if self.marks is None else (*FILE_KINDS, MARKS)

    @property
    def largest_id(self) -> int:
        """The largest token id in any split, -1 for a store without tokens."""
        return max((split.largest_id for split in self.splits.values()), default=-1)


def seal_store(store: Path) -> None:
    """Seals a store's manifest, which has the checksums of shards, and its tokenizer."""
    seal(store, [MANIFEST], folders=["tokenizer"])


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
    totals |= {key: sum(shard[key] for shard in shards) for key in MARKED if key in shards[0]}
    return {
        **totals,
        "largest_id": max(shard["largest_id"] for shard in shards),
        "unigram_entropy": unigram_entropy(counts),
        "shards": list(shards),
    }


def write_manifest(path: str | Path, content: Mapping[str, Any]) -> None:
    """Checks `content` (the manifest as plain values) and writes it whole to `path`."""
    form = 1 if content.get("marks") is None else FORMAT
    text = json.dumps({"format": form, **content}, indent=1, ensure_ascii=False)
    parse_manifest(text, path)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_manifest(path: str | Path) -> Manifest:
    """Reads `manifest.json`. Missing, unreadable or too new a file is a `UserError`."""
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(
            "there is no token store here",
            where=path.parent,
            expected="a directory with a manifest.json",
            got="a directory without one" if path.parent.is_dir() else looked_up(path.parent),
            fix=suggestion(path.parent)
            or "make it with `jaxssl prepare`, or correct the path (data.store)",
        )
    return parse_manifest(read_regular(path, what=DAMAGED, fix=FIX), path)


def parse_manifest(text: str | bytes, path: str | Path) -> Manifest:
    """The manifest of a JSON text; `path` is only named in errors."""
    found = parse_json(text, where=path, what=DAMAGED, fix=FIX).get("format")
    if not isinstance(found, int) or isinstance(found, bool):
        raise _damaged(path, "no format number")
    if found > FORMAT:
        raise UserError(
            "this token store was written by a newer version",
            where=path,
            expected=f"format {FORMAT} or older",
            got=f"format {found}",
            fix="upgrade jaxssl, or prepare the store again with this version",
        )
    manifest = parse_json(text, Manifest, where=path, what=DAMAGED, fix=FIX)
    _check(manifest, path)
    return manifest


def _check(manifest: Manifest, path: str | Path) -> None:
    ids = [manifest.document_end, *(i for i in manifest.special_ids.values() if i is not None)]
    if not all(0 <= id_ < manifest.vocab_size for id_ in ids):
        raise _damaged(path, f"ids {ids} of {manifest.vocab_size} pieces")
    for name, split in manifest.splits.items():
        for part in (name, *(shard.name for shard in split.shards)):
            if not re.fullmatch(r"[\w-]+", part):
                raise _damaged(path, f"a split or shard called {part!r}")
        for kind in (*FILE_KINDS, "bytes", *MARKED):
            counts = [getattr(shard, kind) for shard in split.shards]
            if min(counts, default=0) < 0 or sum(counts) != getattr(split, kind):
                raise _damaged(path, f"split {name!r}: {kind} do not add up over its shards")
        if not -1 <= split.largest_id == max(shard.largest_id for shard in split.shards):
            raise _damaged(path, f"split {name!r}: largest_id is not that of its shards")
        for shard in split.shards:
            for sums in (shard.sha256, shard.sample or shard.sha256):
                if sums.keys() != set(manifest.file_kinds):
                    raise _damaged(path, f"shard {shard.name!r}: checksums of {sorted(sums)}")


def _damaged(path: str | Path, why: str) -> UserError:
    return UserError(
        DAMAGED,
        where=path,
        expected="a manifest written by `jaxssl prepare`",
        got=why,
        fix=FIX,
    )
