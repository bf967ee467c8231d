"""`jaxssl prepare`: text to a token store.

A datatrove pipeline reads the sources, encodes and writes; each task makes one shard of each split.
A task is done or not done, so a run that was killed goes on where it was and gives the same bytes.
The manifest is written last: a store with a manifest is complete.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxssl.core.bounds import check_local
from jaxssl.core.config import to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.data.corpus.files import fingerprint
from jaxssl.data.corpus.sources import Docstrings, Hub, Jsonl, SourceConfig, TextFiles
from jaxssl.data.store import packing
from jaxssl.data.store.manifest import split_record, token_dtype, write_manifest
from jaxssl.data.store.split import Split
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer

RECORD = "prepare.json"
SKIPPED = "set_aside.jsonl"
WORK = ".work"
INPUTS, COMMITS = "inputs", "commits"
PROBE_CHARACTERS = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Making a token store of text."""

    source: SourceConfig
    """Where the text comes from."""
    more_sources: tuple[SourceConfig, ...] = ()
    """Further sources, whose documents follow in the same store."""
    tokenizer: str
    """Tokenizer directory, SentencePiece .model file or name on the hub."""
    out: str
    """Directory of the store; new, or that of an earlier run of the same configuration."""
    validation_fraction: float = 0.01
    """Share of the documents to hold out for validation. Chosen by a hash of the document's group
    (a module, an author) or else its id, so it does not depend on order or number of tasks."""
    test_fraction: float = 0.0
    """Share of the documents to hold out for a final test."""
    seed: int = 0
    """Of the choice of held-out documents."""
    sentences: Literal["rule", "line", "none"] = "rule"
    """Where sentences end, for objectives on sentence pairs: by punctuation, at each line, or
    nowhere (one sentence a document)."""
    max_unknown_rate: float = 0.01
    """Largest share of tokens that may be unknown to the tokenizer."""
    tasks: int = 8
    """Into how many tasks to divide the work; each makes one shard of each split."""
    workers: int = 0
    """How many tasks run at once, each in a process; 0 means one for each core. Does not change the
    result."""
    pack_lengths: tuple[int, ...] = ()
    """Row lengths in tokens to make pack plans for (`rows.name=packed`)."""

    def __post_init__(self):
        check_local(self, "out")
        held_out = self.validation_fraction + self.test_fraction
        checks = (
            ("tasks", 1 <= self.tasks <= 99_999, "1 to 99999", self.tasks),
            ("workers", self.workers >= 0, "0 or more", self.workers),
            ("max_unknown_rate", 0 <= self.max_unknown_rate <= 1, "0 to 1", self.max_unknown_rate),
            ("validation_fraction", self.validation_fraction >= 0, "0 or more", held_out),
            ("test_fraction", self.test_fraction >= 0, "0 or more", self.test_fraction),
            ("validation_fraction", held_out < 1, "together with test below 1", held_out),
            ("pack_lengths", min(self.pack_lengths, default=1) > 0, "above 0", self.pack_lengths),
        )
        for where, is_good, expected, got in checks:
            if not is_good:
                raise UserError("a value is out of range", where=where, expected=expected, got=got)

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        return (self.source, *self.more_sources)

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each split that is held out."""
        return {"validation": self.validation_fraction, "test": self.test_fraction}


def prepare(config: PrepareConfig) -> TokenStore:
    """Makes the token store `config.out`, or finishes one that an earlier run began.

    Raises:
      UserError: bad corpus or tokenizer, `out` belongs to another configuration, a training split
        without documents, too many unknown tokens, a full disk.
    """
    out = Path(config.out)
    tokenizer = load_tokenizer(config.tokenizer)
    _ = tokenizer.document_end  # a tokenizer without one is refused here
    record = _record(config, tokenizer)
    is_complete = _is_complete(out, record)
    if is_complete:
        print(f"{out}: complete already, nothing to prepare", file=sys.stderr)
    is_tidy = is_complete and not _leftovers(out) and not (out / WORK).exists()
    if not is_tidy or _missing_plans(config, out):
        with _clear_errors(out), _locked(out / WORK):
            for file in _leftovers(out):
                file.unlink()
            if not is_complete:
                _make(config, tokenizer, record, out)
            for split, length in _missing_plans(config, out):
                packing.write_pack_plan(split, length)
            shutil.rmtree(out / WORK)
    store = TokenStore.open(out)
    _warn_of_empty_splits(config, store)
    return store


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


def _make(config: PrepareConfig, tokenizer: Tokenizer, record: dict, out: Path) -> None:
    """Everything up to the manifest."""
    from jaxssl.data.corpus.writer import Work

    work = Work((out / WORK).absolute())
    commits = _commits(config, out)
    config = _pinned(config, commits)
    for source in config.sources:
        source.check()
    _check_inputs(config, out)
    sources = [_collected(source, i, work.path) for i, source in enumerate(config.sources)]
    if not (out / RECORD).is_file():
        _check_sample(config, tokenizer, sources[0])
        tokenizer.save(work.tokenizer)
        with atomic_write(out / RECORD) as file:
            json.dump({**record, INPUTS: _inputs(config), COMMITS: commits}, file, indent=1)
            file.write("\n")
    _run(config, sources, work, out)
    _finish(config, tokenizer, work, out)


def _run(config: PrepareConfig, sources: list[SourceConfig], work: Any, out: Path) -> None:
    """Runs the tasks that have no record."""
    from jaxssl.data.corpus.executor import QuietExecutor, show_progress
    from jaxssl.data.corpus.writer import StoreWriter

    readers = [s.reader(work.skipped / f"source{i}") for i, s in enumerate(sources)]
    writer = StoreWriter(out.absolute(), work, config.seed, config.fractions, config.sentences)
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


def _finish(config: PrepareConfig, tokenizer: Tokenizer, work: Any, out: Path) -> None:
    """Merges the tasks' records, checks the whole, writes all that is not shards."""
    shards: dict[str, list[dict]] = {}
    counts: dict[str, np.ndarray] = {}
    for rank in range(config.tasks):
        for split, shard in json.loads(work.record(rank).read_text()).items():
            shards.setdefault(split, []).append(shard)
        with np.load(work.counts(rank)) as file:
            for split in file:
                total = counts.setdefault(split, np.zeros(tokenizer.vocab_size, np.int64))
                total[: file[split].size] += file[split]
    aside, first = _merge_skipped(work, out / SKIPPED)
    _check_result(config, tokenizer, counts, f"{aside} set aside; the first: {first}")
    tokenizer.save(out / "tokenizer")
    write_manifest(
        out / "manifest.json",
        {
            "vocab_size": tokenizer.vocab_size,
            "dtype": token_dtype(tokenizer.vocab_size),
            "document_end": tokenizer.document_end,
            "special_ids": tokenizer.special_ids,
            "tokenizer": {"fingerprint": tokenizer.fingerprint, "name": tokenizer.name},
            "sources": to_dict(config.sources),
            "seed": config.seed,
            "split_fractions": config.fractions,
            "splits": {name: split_record(shards[name], counts[name]) for name in sorted(shards)},
            "set_aside": {"documents": aside, "file": SKIPPED if aside else None},
        },
    )


def _missing_plans(config: PrepareConfig, out: Path) -> list[tuple[Split, int]]:
    """The pack plans that are asked for and not there, of a store with a manifest."""
    store = TokenStore.open(out)
    splits = [store.split(name) for name in store.manifest.splits]
    plans = [(split, length) for split in splits for length in config.pack_lengths]
    return [plan for plan in plans if not packing.plan_path(*plan).is_file()]


def _leftovers(out: Path) -> list[Path]:
    """Temporary files of a run that was killed while it wrote outside its work folder."""
    folders = [out, *(out / name for name in ("tokenizer", "train", "validation", "test"))]
    return [f for folder in folders for f in folder.glob(".*.tmp") if f.is_file()]


# --- What was asked for, and what is there ---------------------------------------------------


def _record(config: PrepareConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the store's bytes. Where it lies and how many workers make it does not."""
    left_out = ("out", "workers", "tokenizer", "max_unknown_rate", "pack_lengths")
    kept = {key: value for key, value in to_dict(config).items() if key not in left_out}
    return {**kept, "tokenizer": tokenizer.fingerprint}


def _inputs(config: PrepareConfig) -> str:
    """A digest of the corpus's files: their names, sizes, beginnings and ends."""
    listed = [
        fingerprint(file)
        for source in config.sources
        if isinstance(source, TextFiles | Jsonl)
        for file in source.files()
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _commits(config: PrepareConfig, out: Path) -> list[str | None]:
    """The commit of each source from the hub: the one the store was begun with, or today's."""
    if (out / RECORD).is_file():
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return found.get(COMMITS, [None] * len(config.sources))
    return [source.commit() if isinstance(source, Hub) else None for source in config.sources]


def _pinned(config: PrepareConfig, commits: list[str | None]) -> PrepareConfig:
    """`config` with its sources from the hub at these commits."""
    first, *more = (
        source if commit is None else dataclasses.replace(source, revision=commit)  # type: ignore
        for source, commit in zip(config.sources, commits)
    )
    return dataclasses.replace(config, source=first, more_sources=tuple(more))


def _check_inputs(config: PrepareConfig, out: Path) -> None:
    """Refuses to go on with a store whose corpus has changed since it was begun."""
    if not (out / RECORD).is_file():
        return
    found = json.loads((out / RECORD).read_text(encoding="utf-8"))
    if found[INPUTS] != _inputs(config):
        raise UserError(
            "the corpus has changed since this token store was begun",
            where=out,
            expected="files of the same names, sizes, beginnings and ends",
            got="others",
            fix="delete this directory to make the store anew",
        )


def _is_complete(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` is complete; raises a `UserError` if it holds something else."""
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        ours = {WORK, *(f.name for f in _leftovers(out))}
        others = [f.name for f in out.iterdir() if f.name not in ours] if out.is_dir() else []
        if not others and (out.is_dir() or not out.exists()):
            return False
        raise UserError(
            "the output is not a token store that `jaxssl prepare` began",
            where=out,
            expected="a new or empty directory",
            got=f"a directory with {', '.join(sorted(others)[:3])}" if others else "a file",
            fix="choose another `out`",
        ) from None
    is_complete = (out / "manifest.json").is_file()
    keys = sorted((record.keys() | found.keys()) - {INPUTS, COMMITS})
    different = [key for key in keys if record.get(key) != found.get(key)]
    if different:
        key = different[0]
        raise UserError(
            "there is already a token store here, of another configuration",
            where=f"{out} ({', '.join(different)})",
            expected=f"{key} = {found.get(key)!r}",
            got=f"{key} = {record.get(key)!r}",
            fix="choose another `out`, or delete this directory to make the store anew",
        )
    return is_complete


def _check_sample(config: PrepareConfig, tokenizer: Tokenizer, source: SourceConfig) -> None:
    """Refuses at once a tokenizer that knows hardly anything of the corpus's beginning."""
    unknown = tokenizer.special_ids["unk"]
    texts, size = [], 0
    for document in source.reader().run():
        texts.append(document.text[:PROBE_CHARACTERS])
        size += len(document.text)
        if size >= PROBE_CHARACTERS:
            break
    ids = np.concatenate([np.zeros(0, np.int32), *tokenizer.encode_batch(texts)])
    rate = float((ids == unknown).mean()) if unknown is not None and ids.size else 0.0
    if rate > max(0.5, config.max_unknown_rate):
        raise _too_unknown(config, tokenizer, rate, "at the corpus's beginning")


def _check_result(
    config: PrepareConfig, tokenizer: Tokenizer, counts: dict[str, np.ndarray], aside: str
) -> None:
    """Refuses a store without training text or with too many unknown tokens."""
    if not counts:
        raise UserError(
            "the corpus has no readable document",
            where="source",
            expected="text in UTF-8",
            got=f"no document ({aside})",
            fix=f"look at {config.out}/{SKIPPED}; check text_key and the files' encoding",
        )
    if "train" not in counts:
        raise UserError(
            "the training split is empty",
            where="validation_fraction, test_fraction",
            expected="documents left for training",
            got=f"all documents held out, with fractions {config.fractions}",
            fix="use more documents (documents=blank_lines?) or smaller fractions",
        )
    unknown = tokenizer.special_ids["unk"]
    if unknown is not None:
        rate = sum(c[unknown] for c in counts.values()) / sum(c.sum() for c in counts.values())
        if rate > config.max_unknown_rate:
            raise _too_unknown(config, tokenizer, float(rate), "in the corpus")


def _too_unknown(config: PrepareConfig, tokenizer: Tokenizer, rate: float, place: str) -> UserError:
    return UserError(
        f"the tokenizer does not know too much of the text {place}",
        where=f"tokenizer {tokenizer.name}",
        expected=f"at most {config.max_unknown_rate:.2%} unknown tokens (max_unknown_rate)",
        got=f"{rate:.2%}",
        fix="train a tokenizer on this text (`jaxssl tokenizer`), with a larger vocab_size if it "
        "was, or use a byte-level one (kind=byte_bpe)",
    )


# --- Files -----------------------------------------------------------------------------------


def _collected(source: SourceConfig, index: int, work: Path) -> SourceConfig:
    """The source to read from: docstrings are collected to a file once, not by each task."""
    if isinstance(source, Docstrings):
        return source.collected(work / f"source{index}")
    return source


def _size(sources: list[SourceConfig]) -> int | None:
    """About how many bytes of text there are, or None if that cannot be seen."""
    if not all(isinstance(source, TextFiles | Jsonl) for source in sources):
        return None
    files = [file for s in sources if isinstance(s, TextFiles | Jsonl) for file in s.files()]
    return None if any(file.compressed for file in files) else sum(file.size for file in files)


def _merge_skipped(work: Any, path: Path) -> tuple[int, str | None]:
    """Joins the tasks' lists of skipped documents; returns their count and the first, in words."""
    files = [*sorted(work.path.glob("source*/*-set-aside.jsonl"))]
    files += sorted(work.skipped.glob("*.jsonl"))
    count, first = 0, None
    with contextlib.ExitStack() as stack:
        merged = stack.enter_context(atomic_write(path)) if files else None
        for file in files:
            with open(file, encoding="utf-8") as lines:
                for line in lines:
                    merged.write(line)  # type: ignore[union-attr]
                    first = first or line.strip()
                    count += 1
    return count, first


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
