"""What is read and what is written of a text with spans cut out, and both together as the text."""

import dataclasses

import jax
import numpy as np
import tiny

SENTINELS = {f"<extra_id_{i}>": 1000 - i for i in range(100)}  # the first is the last, as in T5
WORDS = dataclasses.replace(tiny.vocabulary(), special_tokens=SENTINELS)
END = WORDS.document_end
IDS = {number: i for i, number in enumerate(SENTINELS.values())}


def made_of(batch, objective, seed=7, vocabulary=WORDS):
    whole = jax.jit(lambda batch: {**batch, **objective.corrupt(batch, seed, vocabulary)})
    return jax.tree.map(np.asarray, whole(batch))


def texts(tokens, segments):
    """The tokens of each text of a row, by its number."""
    return {n: tokens[segments == n].tolist() for n in range(1, segments.max() + 1)}


def inverted(inputs, targets):
    """The text that two sides are of: each sentinel of the inputs is what follows it in the
    targets."""
    spans, number = {}, None
    for token in targets[:-1]:
        if token in IDS:
            number = IDS[token]
            assert number == len(spans)
            spans[number] = []
        else:
            spans[number].append(token)
    assert targets[-1:] in ([END], []) and all(spans.values())
    out = []
    for token in inputs:
        out += spans[IDS[token]] if token in IDS else [token]
    return out


def rows(count, length, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(8, 36, (count, length)).astype(np.int32)
    tokens[:, 40::57] = END  # documents, told apart by this alone
    ends = np.cumsum(np.pad(tokens == END, ((0, 0), (1, 0)))[:, :-1], axis=1)
    return {
        "tokens": tokens,
        "segment_ids": (ends + 1).astype(np.int32),
        "positions": np.zeros_like(tokens),
        "example_id": np.stack([np.zeros(count), np.arange(count)], 1).astype(np.uint32),
        "epoch": np.zeros(count, np.int32),
    }
