"""Small token stores for the tests: random documents, or sentences of chosen lengths."""

import numpy as np

from jaxssl.data.store.manifest import split_record, token_dtype, write_manifest
from jaxssl.data.store.store import ShardWriter, TokenStore

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None}
DOCUMENT_END = 3


def write_split(directory, documents, *, dtype="uint16", documents_per_shard=None):
    """Writes documents (lists of sentences, each a list of ids) and returns the split's record."""
    step = documents_per_shard or max(1, len(documents))
    shards, counts = [], np.zeros(0, np.int64)
    for number, start in enumerate(range(0, len(documents), step)):
        with ShardWriter(directory, f"{number:05d}", dtype, DOCUMENT_END) as writer:
            for sentences in documents[start : start + step]:
                tokens = np.concatenate([np.asarray(sentence) for sentence in sentences])
                writer.append(tokens, np.cumsum([len(s) for s in sentences]), 4 * tokens.size)
            shards.append(writer.finish())
        counts = np.pad(counts, (0, max(0, writer.counts.size - counts.size)))
        counts[: writer.counts.size] += writer.counts
    return split_record(shards, counts)


def build_store(path, splits, *, vocab_size=1000, documents_per_shard=None, special_ids=None):
    """Builds and opens a store from {split name: documents}."""
    dtype = token_dtype(vocab_size)
    records = {
        name: write_split(
            path / name, documents, dtype=dtype, documents_per_shard=documents_per_shard
        )
        for name, documents in splits.items()
    }
    content = {
        "vocab_size": vocab_size,
        "dtype": dtype,
        "document_end": DOCUMENT_END,
        "special_ids": special_ids or SPECIAL_IDS,
        "tokenizer": {"fingerprint": "f" * 64, "name": "test"},
        "splits": records,
    }
    write_manifest(path / "manifest.json", content)
    return TokenStore.open(path)


def random_documents(rng, count, *, sentences=(1, 8), length=(1, 20), vocab_size=1000):
    """Documents of random sentences; ranges are inclusive."""
    return [
        [
            rng.integers(5, vocab_size, rng.integers(length[0], length[1] + 1)).tolist()
            for _ in range(rng.integers(sentences[0], sentences[1] + 1))
        ]
        for _ in range(count)
    ]
