"""Windows: each row is its slice of the stream, and its segments follow the documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builder import DOCUMENT_END, build_store, random_documents

from jaxssl.core.errors import UserError
from jaxssl.data.store.rows import Windows, identity, segments


def walk(documents, length):
    """Rows of (tokens, segment ids, positions) by walking the stream one token at a time."""
    stream = []
    for number, document in enumerate(documents):
        tokens = [t for sentence in document for t in sentence] + [DOCUMENT_END]
        stream += [(token, number) for token in tokens]
    rows = []
    for start in range(0, len(stream) - length + 1, length):
        row, segment, position, last = [], 0, 0, None
        for token, document in stream[start : start + length]:
            if document != last:
                segment, position, last = segment + 1, 0, document
            row.append((token, segment, position))
            position += 1
        rows.append([list(column) for column in zip(*row)])
    return rows, len(stream) % length


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 60),
    documents_per_shard=st.sampled_from([None, 1, 3]),
)
def test_rows_equal_a_walk_over_the_stream(tmp_path_factory, seed, length, documents_per_shard):
    documents = random_documents(np.random.default_rng(seed), 20, sentences=(1, 4), length=(1, 9))
    store = build_store(
        tmp_path_factory.mktemp("store"),
        {"train": documents},
        documents_per_shard=documents_per_shard,
    )
    expected, left_over = walk(documents, length)
    if not expected:
        with pytest.raises(UserError, match="shorter than one row"):
            Windows().open(store.split("train"), length)
        return
    source = Windows().open(store.split("train"), length, 0, store.special_ids)
    assert (source.num_rows, source.tokens_left_over) == (len(expected), left_over)
    order = np.random.default_rng(seed).permutation(source.num_rows)
    batch = source.rows(order, 5)
    for name, column in (("tokens", 0), ("segment_ids", 1), ("positions", 2)):
        assert batch[name].tolist() == [expected[i][column] for i in order]
        assert batch[name].dtype == np.int32
    assert batch["example_id"].tolist() == [[0, i] for i in order]
    assert batch["epoch"].tolist() == [5] * len(order)


def test_identity_splits_the_index_into_two_words():
    batch = identity(np.array([3, (7 << 32) + 5, (1 << 40) - 1]), 2)
    assert batch["example_id"].dtype == np.uint32
    assert batch["example_id"].tolist() == [[0, 3], [7, 5], [255, 2**32 - 1]]


def test_segments_count_from_one_in_each_row():
    ids, positions = segments((3, 4), np.array([2, 0, 0]), np.array([0, 1, 3]))
    assert ids.tolist() == [[1, 2, 2, 3], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert positions.tolist() == [[0, 0, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]]
