"""Documents in one row do not see each other, padding, or (causal) what comes later."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.model import Model

LENGTHS = (7, 5, 9, 3, 6)
LENGTH = 32
FAMILIES = pytest.mark.parametrize("family", ["bert", "gpt2"])


@functools.cache
def encoder(family):
    model = Model(getattr(tiny, family)())
    params = tiny.random_params(model)
    encode = jax.jit(model.encode)
    # One shape for every test: one compilation a family.
    return lambda documents: np.asarray(
        encode(params, tiny.rows(documents, length=LENGTH, count=len(LENGTHS)))
    )


def parts():
    ends = np.cumsum(LENGTHS)
    return [slice(end - length, end) for end, length in zip(ends, LENGTHS)]


@FAMILIES
def test_changing_one_document_leaves_the_others_bit_identical(family):
    encode, documents = encoder(family), tiny.random_documents(LENGTHS)
    before = encode([documents])
    for changed in range(len(documents)):
        other = list(documents)
        other[changed] = tiny.random_documents(LENGTHS, seed=9)[changed]
        after = encode([other])
        for index, part in enumerate(parts()):
            same = np.array_equal(after[0, part], before[0, part])
            assert same == (index != changed), (changed, index)


@FAMILIES
def test_packed_documents_equal_each_alone(family):
    encode, documents = encoder(family), tiny.random_documents(LENGTHS)
    packed, alone = encode([documents])[0], encode([[d] for d in documents])
    for index, (part, length) in enumerate(zip(parts(), LENGTHS)):
        assert np.abs(packed[part] - alone[index, :length]).max() < 2e-6 * np.abs(packed).max()


def test_a_later_token_does_not_change_earlier_ones():
    encode, (document,) = encoder("gpt2"), tiny.random_documents([LENGTH])
    before = encode([[document]])[0]
    for at in (1, 13, 31):
        changed = document.copy()
        changed[at] = tiny.FIRST_WORD + (changed[at] + 1) % 10
        after = encode([[changed]])[0]
        assert np.array_equal(after[:at], before[:at])
        assert not np.array_equal(after[at], before[at])


def test_bert_sees_both_sides():
    encode, (document,) = encoder("bert"), tiny.random_documents([LENGTH])
    changed = document.copy()
    changed[20] = tiny.FIRST_WORD + (changed[20] + 1) % 10
    before, after = encode([[document]])[0], encode([[changed]])[0]
    assert (before != after).any(axis=-1).all()
