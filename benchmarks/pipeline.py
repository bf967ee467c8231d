"""The input pipeline: preparing against `encode_batch`, loading, and its share of a step."""

import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import peers

TOKENS = 100_000_000
KINDS = (
    ("byte_bpe", "rule"),
    ("wordpiece", "rule"),
    ("sentencepiece_unigram", "rule"),
    # Finding sentences takes as long as this encoder: the store of a causal model needs none.
    ("sentencepiece_unigram", "none"),
)


def run() -> None:
    """Prints throughputs of `prepare` and of the loader, and the loader's share of a step."""
    with tempfile.TemporaryDirectory() as scratch:
        _prepare(Path(scratch))
        store = _synthetic_store(Path(scratch) / "synthetic")
        _load(store)


def _prepare(scratch: Path) -> None:
    """`prepare` against the tokenizer's own encode_batch, over the same text on all cores."""
    from jaxssl.data.corpus.config import PrepareConfig
    from jaxssl.data.corpus.prepare import prepare
    from jaxssl.data.corpus.sources import Docstrings, Jsonl
    from jaxssl.data.tokenizer.loading import load_tokenizer
    from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_tokenizer

    documents = Docstrings().reader().run()  # type: ignore[attr-defined]
    texts = list(itertools.islice((document.text for document in documents), 1_000_000))
    size = sum(len(text.encode()) for text in texts)
    corpus = scratch / "corpus.jsonl"
    with corpus.open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    source = Jsonl(paths=(str(corpus),))
    for kind, sentences in KINDS:
        folder = scratch / f"{kind}-{sentences}"
        config = TokenizerTrainConfig(
            source=source, kind=kind, out=str(folder / "tokenizer"), max_bytes=2_000_000
        )
        train_tokenizer(config)
        library = load_tokenizer(str(folder / "tokenizer"))
        # SentencePiece encodes on one core here, the others and `prepare` on all.
        cores = (os.cpu_count() or 1) if kind.startswith("sentencepiece") else 1
        ours, theirs = [], []
        for attempt in range(3):
            start = time.perf_counter()
            for i in range(0, len(texts), 1000):
                library.encode_batch(texts[i : i + 1000])
            theirs.append(cores * size / (time.perf_counter() - start))
            start = time.perf_counter()
            prepare(
                PrepareConfig(
                    source=source,
                    tokenizer=str(folder / "tokenizer"),
                    out=str(folder / f"store{attempt}"),
                    sentences=sentences,
                )
            )
            ours.append(size / (time.perf_counter() - start))
        each = [a / b for a, b in zip(ours, theirs)]
        speed, alone = (statistics.median(speeds) / 1e6 for speeds in (ours, theirs))
        print(
            f"prepare, {kind}, sentences by {sentences}, {size / 1e6:.1f} MB: {speed:.2f} MB/s, "
            f"the whole command; encode_batch alone {alone:.2f} MB/s; ratio "
            f"{statistics.median(each):.2f} ({min(each):.2f}..{max(each):.2f}), target 0.8"
        )


def _synthetic_store(path: Path) -> Path:
    """A store of 100M random tokens: 100,000 documents of 50 sentences of 20."""
    from jaxssl.data.store.manifest import split_record, write_manifest
    from jaxssl.data.store.store import ShardWriter

    generator = np.random.default_rng(0)
    writer = ShardWriter(path / "train", "00000", "uint16", 3)
    ends = np.arange(20, 1001, 20)
    for _ in range(TOKENS // 1001):
        writer.append(generator.integers(5, peers.VOCABULARY, 1000), ends, 4000)
    shard = writer.finish()
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None}
    content = {
        "format": 1,
        "vocab_size": peers.VOCABULARY,
        "dtype": "uint16",
        "document_end": 3,
        "special_ids": special,
        "tokenizer": {"fingerprint": "none", "name": "synthetic"},
        "sources": [],
        "seed": 0,
        "split_fractions": {},
        "splits": {"train": split_record([shard], writer.counts)},
        "set_aside": {"documents": 0, "file": None},
    }
    write_manifest(path / "manifest.json", content)
    return path


def _load(store: Path) -> None:
    """Tokens per second of the loader on this process's cores, and its share of a training step."""
    from jaxssl.data.config import StoreConfig
    from jaxssl.data.loader import load
    from jaxssl.data.store.pairs import Pairs
    from jaxssl.data.store.rows import Windows

    for rows, length, target in (
        (Windows(), 512, 20e6),
        (Windows(), 128, 20e6),
        (Pairs(), 128, 2e6),
    ):
        config = StoreConfig(
            store=str(store), rows=rows, sequence_length=length, batch_size=256, prefetch=0
        )
        with load(config) as loader:
            next(loader)
            speeds = []
            for _ in range(5):
                start = time.perf_counter()
                for _ in range(40):
                    next(loader)
                speeds.append(40 * 256 * length / (time.perf_counter() - start))
        print(
            f"loader, {rows.name} of {length}: {statistics.median(speeds) / 1e6:.1f} M tokens/s"
            f" ({min(speeds) / 1e6:.1f}..{max(speeds) / 1e6:.1f}), target {target / 1e6:.0f}"
        )
    work = peers.WORK["masked"]
    step = peers.Ours(work)
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(5):
        step()
    seconds = (time.perf_counter() - start) / 5
    config = StoreConfig(
        store=str(store),
        rows=Pairs(),
        sequence_length=work.length,
        batch_size=work.rows,
        prefetch=0,
    )
    with load(config) as loader:
        next(loader)
        start = time.perf_counter()
        for _ in range(50):
            next(loader)
        reading = (time.perf_counter() - start) / 50
    share = reading / seconds
    print(f"input of the masked step: {reading * 1e3:.2f} ms, {share:.2%} of it; target 2%")
