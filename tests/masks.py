"""Batches to be masked, and the words in them, that the tests of masks share."""

import functools
import random

import jax
import numpy as np
import tiny

T, MASK = 64, tiny.SPECIALS["mask"]
WORDS = tiny.WORDS


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def corrupt(batch, objective, vocabulary=WORDS, seed=7):
    return tiny.corrupted(objective, batch, seed, vocabulary)


def corrupted(batch, objective, vocabulary=WORDS):
    return jax.tree.map(np.asarray, corrupt(batch, objective, vocabulary))


def packed_batch(count=16, seed=0, specials=True):
    """Rows of documents of random lengths that begin with CLS and end with SEP."""
    rng = random.Random(seed)
    grouped = []
    for index in range(count):
        row, left = [], T
        while left > 2 and len(row) < 12:
            length = min(left, rng.randint(1, 40))
            (document,) = tiny.random_documents([length], seed=seed * 1000 + index * 50 + len(row))
            if specials and length > 2:
                document[0], document[-1] = tiny.SPECIALS["cls"], tiny.SPECIALS["sep"]
            row.append(document)
            left -= length
        grouped.append(row)
    return tiny.rows(grouped, length=T, count=count)


def long_batch(count, length, epoch=0):
    """Rows of one document without specials."""
    tokens = np.random.default_rng(epoch).integers(tiny.FIRST_WORD, tiny.VOCAB, (count, length))
    batch = tiny.rows([[row] for row in tokens.astype(np.int32)])
    return {**batch, "epoch": np.full(count, epoch, np.int32)}


STARTS = np.arange(tiny.VOCAB) % 3 != 0  # every third id continues a word
PIECES = tiny.vocabulary(word_starts=STARTS)


def words_of(tokens, segments):
    """Each document's words, as lists of positions in order of appearance (BERT's grouping)."""
    words, previous = [], None
    for t, (token, segment) in enumerate(zip(tokens, segments)):
        candidate = segment > 0 and token >= tiny.FIRST_WORD
        if candidate:
            if STARTS[token] or previous is None or previous != segment:
                words.append((segment, []))
            words[-1][1].append(t)
        previous = segment if candidate else None
    return words
