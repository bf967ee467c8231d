"""The token store: what is written is read back, and damage is told from the manifest."""

import contextlib
import hashlib
import json
import time
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from store_builder import (
    DOCUMENT_END,
    SPECIAL_IDS,
    build_store,
    random_documents,
)

from jaxssl.core.errors import UserError
from jaxssl.data.store.manifest import FILE_KINDS, unigram_entropy, write_manifest
from jaxssl.data.store.store import ShardWriter, TokenStore, check_tokenizer, check_vocabulary


@pytest.fixture
def documents():
    return random_documents(np.random.default_rng(0), 60)


def flatten(documents):
    """Plain-Python stream, document of each token, and global ends of documents and sentences."""
    stream, holder, document_ends, sentence_ends = [], [], [], []
    for number, document in enumerate(documents):
        for sentence in document:
            stream += sentence
            sentence_ends.append(len(stream))
        stream.append(DOCUMENT_END)
        document_ends.append(len(stream))
        holder += [number] * (len(stream) - len(holder))
    return stream, holder, document_ends, sentence_ends


@pytest.mark.parametrize("vocab_size", [1000, 70_000])
@pytest.mark.parametrize("documents_per_shard", [None, 7, 1])
def test_reads_back_what_was_written(tmp_path, documents, documents_per_shard, vocab_size):
    documents[3][0][0] = vocab_size - 1
    store = build_store(
        tmp_path,
        {"train": documents},
        vocab_size=vocab_size,
        documents_per_shard=documents_per_shard,
    )
    split = store.split("train")
    stream, holder, document_ends, sentence_ends = flatten(documents)
    everything = np.arange(len(stream))
    assert split.num_tokens == len(stream)
    assert (split.num_documents, split.num_sentences) == (60, len(sentence_ends))
    assert split.tokens(everything).tolist() == stream
    assert split.tokens(everything.reshape(-1, 1)).shape == (len(stream), 1)
    assert split.document_at(everything).tolist() == holder
    assert split.document_ends(np.arange(60)).tolist() == document_ends
    assert split.document_starts(np.arange(60)).tolist() == [0] + document_ends[:-1]
    assert split.sentence_ends(np.arange(len(sentence_ends))).tolist() == sentence_ends
    assert store.manifest.largest_id == vocab_size - 1


@pytest.mark.parametrize("documents_per_shard", [None, 7, 1])
def test_finds_sentences(tmp_path, documents, documents_per_shard):
    split = build_store(
        tmp_path, {"train": documents}, documents_per_shard=documents_per_shard
    ).split("train")
    position, sentence = 0, 0
    for document in documents:
        for tokens in document:
            assert split.sentence_starts(np.array([sentence])) == position
            within = np.arange(position, position + len(tokens))
            assert (split.sentence_at(within) == sentence).all()
            position, sentence = position + len(tokens), sentence + 1
        assert split.sentence_at(np.array([position])) == sentence
        position += 1


@pytest.mark.parametrize("documents_per_shard", [None, 7, 1])
def test_windows_and_ranges_cut_the_stream(tmp_path, documents, documents_per_shard):
    split = build_store(
        tmp_path, {"train": documents}, documents_per_shard=documents_per_shard
    ).split("train")
    stream, _, document_ends, _ = flatten(documents)
    starts = np.random.default_rng(1).integers(0, len(stream) - 50, 200)
    expected = [stream[start : start + 50] for start in starts]
    assert split.windows(starts, 50).tolist() == expected
    row, end = split.ends_within("documents", starts, starts + 50)
    expected = [(r, e) for r, s in enumerate(starts) for e in document_ends if s < e < s + 50]
    assert list(zip(row.tolist(), end.tolist())) == expected
    ends = np.array(document_ends)
    chosen = np.random.default_rng(2).permutation(60)
    lengths = np.diff(ends, prepend=0)
    expected = [t for d in chosen for t in stream[ends[d] - lengths[d] : ends[d]]]
    assert split.ranges((ends - lengths)[chosen], lengths[chosen]).tolist() == expected
    with pytest.raises(IndexError):
        split.windows(np.array([len(stream) - 49]), 50)
    with pytest.raises(IndexError):
        split.tokens(np.array([-1]))


def test_manifest_counts_what_is_there(tmp_path, documents):
    store = build_store(tmp_path, {"train": documents}, documents_per_shard=7)
    content = [t for document in documents for sentence in document for t in sentence]
    record = store.manifest.splits["train"]
    shares = np.unique(content, return_counts=True)[1] / len(content)
    assert record.unigram_entropy == pytest.approx(-(shares * np.log(shares)).sum())
    assert record.tokens == len(content) + len(documents)
    assert record.bytes == 4 * len(content)
    for shard in record.shards:
        for kind in FILE_KINDS:
            data = (tmp_path / "train" / f"{shard.name}.{kind}").read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard.sha256[kind]
    assert unigram_entropy(np.zeros(4)) == 0.0


def test_buffers_are_flushed_while_writing(tmp_path, monkeypatch, documents):
    whole = build_store(tmp_path / "a", {"train": documents})
    monkeypatch.setattr("jaxssl.data.store.store.FLUSH_TOKENS", 100)
    flushed = build_store(tmp_path / "b", {"train": documents})
    assert flushed.manifest == whole.manifest


def test_nothing_appears_before_finish(tmp_path):
    writer = ShardWriter(tmp_path / "train", "00000", "uint16", DOCUMENT_END)
    assert writer.finish() is None and not (tmp_path / "train").exists()
    with pytest.raises(RuntimeError):
        with ShardWriter(tmp_path, "00001", "uint16", DOCUMENT_END) as writer:
            writer.append(np.arange(5), np.array([5]), 5)
            writer._flush()
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tokens, ends",
    [([], []), ([5], []), ([5, 6], [1]), ([5, 6], [0, 2]), ([5, 6], [2, 2]), ([70_000], [1])],
)
def test_writer_refuses_what_a_store_cannot_hold(tmp_path, tokens, ends):
    writer = ShardWriter(tmp_path, "00000", "uint16", DOCUMENT_END)
    with pytest.raises(ValueError):
        writer.append(np.array(tokens, int), np.array(ends, int), 1)


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_truncated_shard_is_refused(tmp_path, documents, kind):
    build_store(tmp_path, {"train": documents})
    file = tmp_path / "train" / f"00000.{kind}"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError) as error:
        TokenStore.open(tmp_path)
    assert str(file) in str(error.value)
    assert f"{size} bytes" in str(error.value) and f"{size - 2} bytes" in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        TokenStore.open(tmp_path)


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_altered_shard_is_found_by_verify(tmp_path, documents, kind):
    build_store(tmp_path, {"train": documents})
    TokenStore.open(tmp_path, verify=True)
    file = tmp_path / "train" / f"00000.{kind}"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for verify in (False, None, True):  # all of a small file is in its sample
        with pytest.raises(UserError, match="altered") as error:
            TokenStore.open(tmp_path, verify=verify)
        assert str(file) in str(error.value)


def test_a_sample_of_every_shard_is_compared_and_all_of_a_small_store(
    tmp_path, documents, monkeypatch
):
    from jaxssl.core import files
    from jaxssl.data.store import store

    monkeypatch.setattr(files, "SAMPLE_BYTES", 8)
    build_store(tmp_path, {"train": documents})
    file = tmp_path / "train/00000.tokens"
    data = file.read_bytes()
    last = len(data) - 8
    sampled = {place + i for place in (0, last // 3, 2 * last // 3, last) for i in range(8)}
    beside = next(place for place in range(len(data)) if place not in sampled)
    for place, small, found in ((last, False, True), (beside, False, False), (beside, True, True)):
        altered = bytearray(data)
        altered[place] ^= 1
        file.write_bytes(altered)
        monkeypatch.setattr(store, "SMALL_BYTES", 1 << 30 if small else 0)
        with pytest.raises(UserError, match="altered") if found else contextlib.nullcontext():
            TokenStore.open(tmp_path, verify=None)


def test_damaged_manifests_are_refused(tmp_path, documents):
    with pytest.raises(UserError, match="no token store"):
        TokenStore.open(tmp_path / "nowhere")
    build_store(tmp_path, {"train": documents})
    file = tmp_path / "manifest.json"
    content = json.loads(file.read_text())

    def altered(change):
        copy = json.loads(json.dumps(content))
        change(copy)
        return json.dumps(copy)

    for text, message in [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (altered(lambda c: c.update(format=3)), "newer version"),
        (altered(lambda c: c.pop("vocab_size")), "vocab_size"),
        (altered(lambda c: c.update(dtype="int8")), "int8"),
        (altered(lambda c: c["splits"]["train"].update(tokens=1)), "add up"),
        (altered(lambda c: c["splits"]["train"]["shards"][0].pop("sha256")), "sha256"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            TokenStore.open(tmp_path)


def test_unknown_split_lists_those_there_are(tmp_path, documents):
    store = build_store(tmp_path, {"train": documents, "validation": documents})
    with pytest.raises(UserError, match="train or validation"):
        store.split("valid")


def test_vocabulary_and_tokenizer_are_checked(tmp_path, documents):
    documents[0][0][0] = 999
    store = build_store(tmp_path, {"train": documents})
    check_vocabulary(store, 1000)
    with pytest.raises(UserError, match="at least 1000"):
        check_vocabulary(store, 999)
    same, other = (mock.Mock(fingerprint=letter * 64) for letter in "f0")
    check_tokenizer(store, same)
    with pytest.raises(UserError, match="another tokenizer"):
        check_tokenizer(store, other)


def sparse_store(path, tokens, shards):
    """A store of zeros that takes no disk: its files are holes."""
    each, documents = tokens // shards, 1_000_000 // shards
    records = []
    for number in range(shards):
        counts = {"tokens": each, "documents": documents, "sentences": documents}
        record = {"name": f"{number:05d}", **counts, "bytes": each, "largest_id": 9}
        records.append({**record, "sha256": dict.fromkeys(FILE_KINDS, "")})
        for kind, count in counts.items():
            file = path / "train" / f"{number:05d}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "wb") as stream:
                stream.truncate(count * (2 if kind == "tokens" else 8))
    totals = {k: shards * records[0][k] for k in ("tokens", "documents", "sentences", "bytes")}
    split = {**totals, "largest_id": 9, "unigram_entropy": 0.0, "shards": records}
    write_manifest(
        path / "manifest.json",
        {
            "vocab_size": 10,
            "dtype": "uint16",
            "document_end": DOCUMENT_END,
            "special_ids": SPECIAL_IDS,
            "tokenizer": {"fingerprint": "", "name": ""},
            "splits": {"train": split},
        },
    )


@pytest.mark.parametrize("shards", [1, 100])
def test_ten_billion_tokens_open_at_once_in_little_memory(tmp_path, shards):
    sparse_store(tmp_path, 10_000_000_000, shards)
    tracemalloc.start()
    start = time.perf_counter()
    split = TokenStore.open(tmp_path).split("train")
    last = split.windows(np.array([split.num_tokens - 128]), 128)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last.shape == (1, 128) and not last.any()
    assert seconds < 1.0
    assert peak < 2_000_000
