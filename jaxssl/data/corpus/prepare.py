"""`jaxssl prepare`: text to a token store.

A datatrove pipeline reads the sources, encodes and writes; each task makes one shard of each split.
A task is done or not done, so a run that was killed goes on where it was and gives the same bytes.
The manifest is written last: a store with a manifest is complete.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.config import to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.core.seal import SEAL
from jaxssl.data.corpus import skipped
from jaxssl.data.corpus.checks import check_marks, check_result, check_sample
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.contents import CONTENTS, check_unchanged, read_contents, write_contents
from jaxssl.data.corpus.gazetteer import GazetteerConfig, read_gazetteer
from jaxssl.data.corpus.record import (
    COMMITS,
    RECORD,
    WORK,
    commits,
    is_complete,
    leftovers,
    pinned,
    record,
)
from jaxssl.data.corpus.sources import Docstrings, Jsonl, SourceConfig, TextFiles, Triples
from jaxssl.data.store import packing
from jaxssl.data.store.manifest import (
    MANIFEST,
    seal_store,
    split_record,
    token_dtype,
    write_manifest,
)
from jaxssl.data.store.split import Split
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer

WHAT, FIX = "an unfinished token store is damaged", "delete this directory to make the store anew"


def prepare(config: PrepareConfig) -> TokenStore:
    """Makes the token store `config.out`, or finishes one that an earlier run began.

    Raises:
      UserError: bad corpus or tokenizer, `out` belongs to another configuration, a training split
        without documents, too many unknown tokens, a full disk.
    """
    out = Path(config.out)
    tokenizer = load_tokenizer(config.tokenizer)
    _ = tokenizer.document_end  # a tokenizer without one is refused here
    if config.gazetteer is not None:
        read_gazetteer(config.gazetteer)  # what is wrong with it is told here
    asked = record(config, tokenizer)
    was_complete = is_complete(out, asked)
    if was_complete:
        check_unchanged(out / CONTENTS, config.sources, "token store")
        print(f"{out}: complete already, nothing to prepare", file=sys.stderr)
    is_tidy = was_complete and not leftovers(out) and not (out / WORK).exists()
    if not is_tidy or _missing_plans(config, out):
        with _clear_errors(out), _locked(out / WORK):
            for file in leftovers(out):
                file.unlink()
            if not was_complete:
                _make(config, tokenizer, asked, out)
            if not (out / SEAL).exists():  # of a store that was finished just now, or nearly
                seal_store(out)
            for split, length in _missing_plans(config, out):
                packing.write_pack_plan(split, length)
            shutil.rmtree(out / WORK)
    store = TokenStore.open(out)
    if was_complete:
        good = sum(split.documents for split in store.manifest.splits.values())
        skipped.check_share(dict(store.manifest.set_aside), good, config.max_set_aside, out)
    _tell_of_skipped(store)
    _warn_of_empty_splits(config, store)
    return store


def _tell_of_skipped(store: TokenStore) -> None:
    good = sum(split.documents for split in store.manifest.splits.values())
    for line in skipped.described(store.manifest.set_aside, good):
        print(line, file=sys.stderr)


def _warn_of_empty_splits(config: PrepareConfig, store: TokenStore) -> None:
    """Says which held-out splits were asked for and got no document."""
    for name, fraction in config.fractions.items():
        if not fraction or name in store.manifest.splits:
            continue
        print(
            f"warning: {store.path}: the {name} split is empty: no document was held out with "
            f"{name}_fraction={fraction}. To have one, prepare the text in another "
            f"`out` as more documents (documents=blank_lines) or with a larger {name}_fraction",
            file=sys.stderr,
        )


def _make(config: PrepareConfig, tokenizer: Tokenizer, asked: dict, out: Path) -> None:
    """Everything up to the manifest."""
    from jaxssl.data.corpus.writer import Work

    work = Work((out / WORK).absolute())
    chosen = commits(config, out)
    config = pinned(config, chosen)
    for source in config.sources:
        source.check()
    if (out / RECORD).is_file():
        check_unchanged(out / CONTENTS, config.sources, "token store")
    sources = [_collected(source, i, work.path) for i, source in enumerate(config.sources)]
    if not (out / RECORD).is_file():
        check_sample(config, tokenizer, sources[0])
        tokenizer.save(work.tokenizer)
        if config.gazetteer is not None:
            shutil.copyfile(config.gazetteer.path, work.gazetteer)
        write_contents(out / CONTENTS, read_contents(config.sources))
        with atomic_write(out / RECORD) as file:
            json.dump({**asked, COMMITS: chosen}, file, indent=1)
            file.write("\n")
    _run(config, sources, work, out)
    _finish(config, tokenizer, asked, work, out)


def _run(config: PrepareConfig, sources: list[SourceConfig], work: Any, out: Path) -> None:
    """Runs the tasks that have no record."""
    from jaxssl.data.corpus.executor import QuietExecutor, show_progress
    from jaxssl.data.corpus.writer import StoreWriter

    readers = [s.reader(work.skipped / f"source{i}") for i, s in enumerate(sources)]
    writer = StoreWriter(
        out.absolute(),
        work,
        config.seed,
        config.fractions,
        config.sentences,
        config.marks,
        _saved(config.gazetteer, work.gazetteer),
    )
    executor = QuietExecutor(
        pipeline=[*readers, writer],
        tasks=config.tasks,
        workers=config.workers or os.cpu_count() or 1,
        logging_dir=str(work.logs),
    )
    for rank in range(config.tasks):
        if not work.record(rank).is_file():
            (work.logs / f"completions/{rank:05d}").unlink(missing_ok=True)

    def done() -> int:
        files = (work.progress(rank) for rank in range(config.tasks))
        texts = (file.read_text() for file in files if file.is_file())
        return sum(int(text) for text in texts if text)

    with show_progress(done, _size(sources), "prepare", "B"):
        executor.run()


def _finish(config: PrepareConfig, tokenizer: Tokenizer, asked: dict, work: Any, out: Path) -> None:
    """Merges the tasks' records, checks the whole, writes all that is not shards."""
    shards: dict[str, list[dict]] = {}
    counts: dict[str, np.ndarray] = {}
    for rank in range(config.tasks):
        for split, shard in read_json(work.record(rank), what=WHAT, fix=FIX).items():
            shards.setdefault(split, []).append(shard)
        with np.load(work.counts(rank)) as file:
            for split in file:
                total = counts.setdefault(split, np.zeros(tokenizer.vocab_size, np.int64))
                total[: file[split].size] += file[split]
    splits = {name: split_record(shards[name], counts[name]) for name in sorted(shards)}
    aside = skipped.merge(_skipped_files(work), out / skipped.SKIPPED)
    check_result(config, tokenizer, counts, aside)
    check_marks(config, splits)
    good = sum(split["documents"] for split in splits.values())
    skipped.check_share(aside, good, config.max_set_aside, out)
    check_unchanged(out / CONTENTS, config.sources, "token store")
    tokenizer.save(out / "tokenizer")
    write_manifest(
        out / MANIFEST,
        {
            "vocab_size": tokenizer.vocab_size,
            "dtype": token_dtype(tokenizer.vocab_size),
            "document_end": tokenizer.document_end,
            "special_ids": tokenizer.special_ids,
            "tokenizer": {"fingerprint": tokenizer.fingerprint, "name": tokenizer.name},
            "sources": to_dict(config.sources),
            "seed": config.seed,
            "split_fractions": config.fractions,
            "splits": splits,
            "set_aside": aside,
            **({"marks": _marks(config, asked)} if config.marks else {}),
        },
    )


def _marks(config: PrepareConfig, asked: dict) -> dict[str, Any]:
    """How spans were marked: the gazetteer, if there is one, and the sources' own keys."""
    keys = [getattr(source, "spans_key", None) for source in config.sources]
    return {"gazetteer": asked["gazetteer"], "spans_keys": keys}


def _saved(config: GazetteerConfig | None, copy: Path) -> GazetteerConfig | None:
    """The gazetteer to read from: the copy that was made when the store was begun."""
    return None if config is None else dataclasses.replace(config, path=str(copy))


def _missing_plans(config: PrepareConfig, out: Path) -> list[tuple[Split, int]]:
    """The pack plans that are asked for and not there, of a store with a manifest."""
    store = TokenStore.open(out)
    splits = [store.split(name) for name in store.manifest.splits]
    plans = [(split, length) for split in splits for length in config.pack_lengths]
    return [plan for plan in plans if not packing.plan_path(*plan).is_file()]


# --- Files -----------------------------------------------------------------------------------


def _collected(source: SourceConfig, index: int, work: Path) -> SourceConfig:
    """The source to read from: docstrings are collected to a file once, not by each task."""
    if isinstance(source, Docstrings):
        return source.collected(work / f"source{index}")
    return source


def _size(sources: list[SourceConfig]) -> int | None:
    """About how many bytes of text there are, or None if that cannot be seen."""
    if not all(isinstance(source, TextFiles | Jsonl | Triples) for source in sources):
        return None
    files = [file for source in sources for file in source.inputs()]
    return None if any(file.compressed for file in files) else sum(file.size for file in files)


def _skipped_files(work: Any) -> list[Path]:
    """The tasks' lists of skipped documents."""
    collected = sorted(work.path.glob("source*/*-set-aside.jsonl"))
    return [*collected, *sorted(work.skipped.glob("*.jsonl"))]


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Keeps a second run away from the same store."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another run is making this token store",
                where=work.parent,
                fix="wait for it, or end it; what it has finished is kept",
            ) from None
        yield


@contextlib.contextmanager
def _clear_errors(out: Path) -> Iterator[None]:
    """Says what to do when the file system refuses."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            "the token store cannot be written",
            where=error.filename or out,
            expected="a directory that can be written, with room",
            got=error.strerror,
            fix="make room or choose another `out`; the same command goes on where it was",
        ) from error
