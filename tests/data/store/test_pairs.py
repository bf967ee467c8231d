"""Sentence pairs against BERT's builder, written here as the plain sequential walk it is.

Every content token of these stores has an id of its own, so that a row tells which sentences it
was made from.
"""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp
from store_builder import SPECIAL_IDS, build_store

from jaxssl.core.errors import UserError
from jaxssl.data import counter
from jaxssl.data.store.pairs import Pairs, _Draws, _heads, _truncate

FIRST_ID = 10


def corpus(seed, count, sentences, length):
    """Documents of sentences (lists of ids, all distinct); ranges are inclusive."""
    rng, next_id, documents = random.Random(seed), FIRST_ID, []
    for _ in range(count):
        document = []
        for _ in range(rng.randint(*sentences)):
            size = rng.randint(*length)
            document.append(list(range(next_id, next_id + size)))
            next_id += size
        documents.append(document)
    return documents


def open_pairs(path, documents, length, seed=0, documents_per_shard=None, **config):
    store = build_store(
        path, {"train": documents}, vocab_size=1 << 20, documents_per_shard=documents_per_shard
    )
    return Pairs(**config).open(store.split("train"), length, seed, store.special_ids)


def berts_builder(documents, length, rng, short=0.1, target_of_each_chunk=False):
    """One pass of BERT's builder: (anchor, target, A, B, is_random) of each instance.

    `target_of_each_chunk` draws the target again for each chunk; BERT draws it once a document.
    """
    limit, instances, sentence_number = length - 3, [], 0

    def draw_target():
        return rng.randint(2, limit) if rng.random() < short else limit

    for number, document in enumerate(documents):
        target, chunk, i = draw_target(), [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                cut = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                anchor = sentence_number + i - (len(chunk) - 1)
                a, b = [t for s in chunk[:cut] for t in s], []
                is_random = len(chunk) == 1 or rng.random() < 0.5
                if is_random:
                    other = number
                    while other == number:
                        other = rng.randint(0, len(documents) - 1)
                    for j in range(rng.randint(0, len(documents[other]) - 1), 10**9):
                        if j == len(documents[other]):
                            break
                        b += documents[other][j]
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - cut
                else:
                    b = [t for s in chunk[cut:] for t in s]
                while len(a) + len(b) > limit:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if rng.random() < 0.5 else -1)
                instances.append((anchor, target, a, b, is_random))
                chunk = []
                if target_of_each_chunk:
                    target = draw_target()
            i += 1
        sentence_number += len(document)
    return instances


def unpack(batch):
    """(A, B) of each row, after checking the layout `[CLS] A [SEP] B [SEP]` and padding."""
    pairs = []
    for tokens, ids, types, positions in zip(
        *(batch[k].tolist() for k in ("tokens", "segment_ids", "token_types", "positions"))
    ):
        used = sum(ids)
        first = tokens.index(SPECIAL_IDS["sep"])
        a, b = tokens[1:first], tokens[first + 1 : used - 1]
        assert tokens[0] == SPECIAL_IDS["cls"] and tokens[used - 1] == SPECIAL_IDS["sep"]
        assert min(a + b) >= FIRST_ID and a and b
        padding = len(tokens) - used
        assert tokens[used:] == [SPECIAL_IDS["pad"]] * padding
        assert ids == [1] * used + [0] * padding
        assert types == [0] * (first + 1) + [1] * (len(b) + 1) + [0] * padding
        assert positions == list(range(used)) + [0] * padding
        pairs.append((a, b))
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(5, 60),
    short=st.sampled_from([0.0, 0.5, 1.0]),
    documents_per_shard=st.sampled_from([None, 1, 3]),
)
def test_rows_are_what_they_say(tmp_path_factory, seed, length, short, documents_per_shard):
    documents = corpus(seed, 8, (1, 6), (1, 12))
    source = open_pairs(
        tmp_path_factory.mktemp("store"),
        documents,
        length,
        seed,
        documents_per_shard,
        short_probability=short,
    )
    document_of = {t: d for d, document in enumerate(documents) for s in document for t in s}
    sentences = [(d, s) for d, document in enumerate(documents) for s in document]
    assert source.num_rows == len(sentences)
    batch = source.rows(np.arange(source.num_rows), 1)
    for anchor, ((a, b), label) in enumerate(zip(unpack(batch), batch["next_sentence"])):
        document, sentence = sentences[anchor]
        home = [t for s in documents[document] for t in s]
        assert len(a) + len(b) <= length - 3
        # Ids count up along a document: A and B are slices of theirs, A not before the anchor.
        assert a == list(range(a[0], a[0] + len(a))) and a[0] >= sentence[0]
        assert b == list(range(b[0], b[0] + len(b)))
        assert {document_of[t] for t in a} == {document}
        assert len({document_of[t] for t in b}) == 1
        if label == 1:
            assert document_of[b[0]] != document
        else:
            assert document_of[b[0]] == document and b[0] > a[-1]
            uncut = length - 3 > len(a) + len(b)
            assert not uncut or (b[0] == a[-1] + 1 and a[0] == sentence[0])
        if sentence[-1] == home[-1]:
            assert label == 1


def close(left, right, size):
    """Two shares of `size` rows each agree within five standard deviations."""
    share = (left + right) / 2
    return abs(left - right) <= 5 * math.sqrt(2 * max(share * (1 - share), 1 / size) / size)


@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
def test_given_anchor_and_target_rows_are_berts(tmp_path, short):
    """At the anchors that the walk visits: lengths, cuts, labels, shortness (KS at p = 1e-4)."""
    length = 64
    documents = corpus(1, 60, (1, 30), (1, 25))
    source = open_pairs(tmp_path, documents, length, short_probability=short)
    # This walk draws a target for each chunk, so rows have the targets' own distribution.
    targets = np.zeros(length - 2)
    targets[2:] = short / (length - 4)
    targets[-1] += 1 - short
    source._targets = np.cumsum(targets)
    starts = [s[0] for document in documents for s in document]
    walk, ours = [], []
    for epoch in range(30):
        instances = berts_builder(documents, length, random.Random(epoch), short, True)
        anchors = np.array([instance[0] for instance in instances])
        batch = source.rows(anchors, epoch)
        walk += [(anchor, a, b, r) for anchor, _, a, b, r in instances]
        found = zip(anchors.tolist(), unpack(batch), batch["next_sentence"])
        ours += [(anchor, a, b, label == 1) for anchor, (a, b), label in found]
    assert len(walk) > 8000

    def compare(measure, chosen=lambda row: True):
        left, right = ([measure(row) for row in rows if chosen(row)] for rows in (walk, ours))
        assert close(len(left) / len(walk), len(right) / len(ours), len(walk))
        assert ks_2samp(left, right).pvalue > 1e-4
        assert abs(np.mean(left) - np.mean(right)) < 5 * np.std(left) * math.sqrt(2 / len(left))

    compare(lambda row: len(row[1]) + len(row[2]))
    compare(lambda row: len(row[1]))
    compare(lambda row: len(row[2]), chosen=lambda row: row[3])
    compare(lambda row: len(row[2]), chosen=lambda row: not row[3])
    compare(lambda row: row[1][0] - starts[row[0]])  # what truncation took off A's front
    compare(lambda row: row[2][0] - row[1][-1], chosen=lambda row: not row[3])
    for limit in (10, 20, 40, length - 3):
        left, right = (
            sum(len(a) + len(b) < limit for _, a, b, _ in rows) / len(rows) for rows in (walk, ours)
        )
        assert close(left, right, len(walk))


def test_random_seconds_are_drawn_as_berts(tmp_path):
    """Documents uniform over the others, then sentences of them uniform: 5 deviations."""
    anchors = np.arange(60)
    documents = [[[FIRST_ID + i] for i in anchors]] + [
        [[t + 100 for t in s] for s in document] for document in corpus(2, 5, (2, 5), (1, 3))
    ]
    source = open_pairs(tmp_path, documents, 100, random_probability=1.0)
    place = {s[0]: (d, k) for d, document in enumerate(documents) for k, s in enumerate(document)}
    draws = [place[b[0]] for epoch in range(100) for _, b in unpack(source.rows(anchors, epoch))]
    for d, document in enumerate(documents):
        for k in range(len(document)):
            expected = len(draws) / 5 / len(document) if d else 0
            assert abs(draws.count((d, k)) - expected) <= 5 * math.sqrt(expected)


def test_an_epoch_is_close_to_berts_pass(tmp_path):
    """The whole of an epoch against BERT's unmodified walk, on documents of 40 to 80 sentences.

    Lengths of both texts together: mean within 1%, quantiles within 4 tokens, and the share of
    rows shorter than each of several lengths within 0.015; random seconds within 0.03.
    """
    length, documents = 128, corpus(3, 60, (40, 80), (8, 35))
    walk = [
        instance
        for seed in range(150)
        for instance in berts_builder(documents, length, random.Random(seed))
    ]
    source = open_pairs(tmp_path, documents, length)
    batches = [source.rows(np.arange(source.num_rows), epoch) for epoch in range(4)]
    ours = np.concatenate([batch["segment_ids"].sum(1) for batch in batches]) - 3
    label = np.concatenate([batch["next_sentence"] for batch in batches])
    theirs = np.array([len(a) + len(b) for _, _, a, b, _ in walk])
    short = np.array([target < length - 3 for _, target, _, _, _ in walk])
    is_random = np.array([r for *_, r in walk])
    assert 0.17 < short.mean() < 0.22  # more than 0.1 of BERT's instances: see pairs.py
    assert abs(ours.mean() / theirs.mean() - 1) < 0.01
    for limit in (8, 16, 32, 64, 96, 120):
        assert abs((ours < limit).mean() - (theirs < limit).mean()) < 0.015
    for quantile in (0.05, 0.1, 0.15, 0.25, 0.5):
        assert abs(np.quantile(ours, quantile) - np.quantile(theirs, quantile)) <= 4
    assert abs(is_random.mean() - label.mean()) < 0.03


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 150))
def test_truncation_keeps_what_popping_one_by_one_keeps(size_a, size_b, limit):
    a, b = size_a, size_b
    while a + b > limit:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    one = np.array([0])
    (start_a, keep_a), (start_b, keep_b) = _truncate(
        (one, one + size_a), (one, one + size_b), limit, _Draws(counter.key(1), one)
    )
    assert (int(keep_a[0]), int(keep_b[0])) == (a, b)
    assert 0 <= start_a[0] <= size_a - a and 0 <= start_b[0] <= size_b - b


@pytest.mark.parametrize("flips", [0, 1, 3, 63, 64, 65, 200])
def test_tokens_are_cut_off_either_end_by_fair_coins(flips):
    """As many heads as a Binomial(flips, 1/2) has: every count within 5 deviations."""
    rows = 20_000
    draw = _Draws(counter.key(1), np.arange(rows))
    heads = _heads(draw, 6, np.full(rows, flips))
    expected = rows * binom.pmf(np.arange(flips + 1), flips, 0.5)
    found = np.bincount(heads, minlength=flips + 1)
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected) + 5).all()
    # Rows with other numbers of flips beside them do not change a row's heads.
    mixed = _heads(draw, 6, np.where(np.arange(rows) % 2, flips, np.arange(rows) % 150))
    assert np.array_equal(mixed[1::2], heads[1::2])


def test_rows_are_functions_of_seed_epoch_and_index(tmp_path):
    documents = corpus(4, 20, (1, 10), (1, 20))
    source = open_pairs(tmp_path, documents, 64)
    whole = source.rows(np.arange(source.num_rows), 3)
    for index in range(0, source.num_rows, 7):
        alone = source.rows(np.array([index]), 3)
        assert all(np.array_equal(alone[name][0], whole[name][index]) for name in whole)
    for other in (
        source.rows(np.arange(source.num_rows), 4),
        open_pairs(tmp_path / "other", documents, 64, seed=1).rows(np.arange(source.num_rows), 3),
    ):
        same = (other["tokens"] == whole["tokens"]).all(1)
        assert same.mean() < 0.3


def test_what_cannot_be_paired_is_refused(tmp_path):
    documents = corpus(5, 2, (2, 2), (3, 3))
    with pytest.raises(UserError, match="second document"):
        open_pairs(tmp_path / "one", documents[:1], 64)
    with pytest.raises(UserError, match="at least 5"):
        open_pairs(tmp_path / "short", documents, 4)
    with pytest.raises(UserError, match="short_probability"):
        Pairs(short_probability=1.5)
    split = build_store(tmp_path / "two", {"train": documents}).split("train")
    with pytest.raises(UserError, match="sep"):
        Pairs().open(split, 64, 0, {"cls": 2, "sep": None})


# --- Order and distance -------------------------------------------------------------------------


def texts_of(row):
    """The two texts of a row, as lists of ids."""
    tokens = row["tokens"][row["segment_ids"] > 0].tolist()
    middle = tokens.index(SPECIAL_IDS["sep"])
    return tokens[1:middle], tokens[middle + 1 : -1]


@pytest.mark.parametrize("label", ["sentence_order", "sentence_distance"])
def test_texts_that_are_told_apart_are_what_their_label_says(tmp_path, label):
    documents = corpus(5, 40, (1, 7), (2, 6))
    document_of = {t: i for i, document in enumerate(documents) for s in document for t in s}
    pairs = open_pairs(tmp_path, documents, 40, label=label)
    batch = pairs.rows(np.arange(pairs.num_rows), 0)
    counts = np.zeros(3)
    lone = 0
    for i in range(pairs.num_rows):
        a, b = texts_of({name: values[i] for name, values in batch.items()})
        same = document_of[a[0]] == document_of[b[0]]
        if not batch["pair_weights"][i]:
            assert not same, "one sentence has no neighbour in its document"
            lone += 1
            continue
        value = batch[label][i]
        # Ids of a document rise: the text with the larger ones comes later.
        expected = (0 if a[0] < b[0] else 1) if same else 2
        assert value == expected
        counts[value] += 1
    assert lone > 0
    shares = [1 / 2, 1 / 2, 0] if label == "sentence_order" else [1 / 3] * 3
    assert counts / counts.sum() == pytest.approx(shares, abs=0.12)


def test_changing_two_texts_round_turns_next_into_previous(tmp_path):
    """A model that sees no order is left with ln 2: swapped rows are the same pairs."""
    documents = corpus(6, 30, (2, 6), (2, 5))
    ordered = open_pairs(tmp_path, documents, 40, label="sentence_order")
    plain = open_pairs(tmp_path, documents, 40, label="next_sentence", random_probability=0.0)
    swapped, kept = (rows.rows(np.arange(rows.num_rows), 3) for rows in (ordered, plain))
    for i in np.flatnonzero(swapped["pair_weights"]):
        row = {name: values[i] for name, values in swapped.items()}
        first, second = texts_of({name: values[i] for name, values in kept.items()})
        a, b = texts_of(row)
        assert (a, b) == ((second, first) if row["sentence_order"] else (first, second))
