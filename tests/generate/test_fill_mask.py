"""Filling masks: the probabilities are those of a plain forward pass."""

import jax
import numpy as np
import pytest
import tiny
import toy

from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.generate.fill_mask import fill_mask
from jaxssl.generate.texts import LanguageModel
from jaxssl.models.heads import MASKED_LM
from jaxssl.models.model import Model
from jaxssl.train.samples import fill_text, mask_row

MASK = tiny.SPECIALS["mask"]
MODEL = Model(tiny.bert(), (MASKED_LM,))
PARAMS = tiny.random_params(MODEL, scale=0.6)
LOGITS = jax.jit(lambda params, b: MODEL.head(params, "masked_lm", MODEL.encode(params, b)))
ROWS = [
    np.array(row, np.int32)
    for row in ([2, 7, MASK, 9, 3], [2, MASK, 30, 31, MASK, 12, 13, 3], [2, 5, 3])
]


def probabilities(row: np.ndarray) -> np.ndarray:
    """Of every token at every place of one row without padding: [T, V], in float64."""
    ones = np.ones((1, len(row)), np.int32)
    batch = {"tokens": row[None], "segment_ids": ones, "positions": np.arange(len(row))[None]}
    logits = LOGITS(PARAMS, batch)[0]
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_each_mask_gets_its_likeliest_tokens_in_order():
    filled = fill_mask(MODEL, PARAMS, ROWS, MASK, top=4)
    assert [len(masks) for masks in filled] == [1, 2, 0]
    for row, masks in zip(ROWS, filled, strict=True):
        whole = probabilities(row)
        for place, (ids, found) in zip(np.flatnonzero(row == MASK), masks, strict=True):
            assert ids.tolist() == np.argsort(-whole[place])[:4].tolist()
            np.testing.assert_allclose(found, whole[place][ids], rtol=1e-4)


def test_all_candidates_together_are_certain():
    ((_, found),) = fill_mask(MODEL, PARAMS, ROWS[:1], MASK, top=tiny.VOCAB)[0]
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


def test_rows_of_the_table_without_a_piece_are_left_out():
    ((ids, found),) = fill_mask(MODEL, PARAMS, ROWS[:1], MASK, top=6, num_tokens=6)[0]
    assert sorted(ids.tolist()) == list(range(6))
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_row_longer_than_the_positions_is_refused():
    row = np.full(33, MASK, np.int32)
    with pytest.raises(UserError, match="longer than the model's positions"):
        fill_mask(MODEL, PARAMS, [row], MASK)


@pytest.mark.parametrize("top", [0, -1, tiny.VOCAB + 1])
def test_an_impossible_number_of_candidates_is_refused(top):
    with pytest.raises(UserError, match="candidates"):
        fill_mask(MODEL, PARAMS, ROWS[:1], MASK, top=top)


def test_text_is_framed_and_its_masks_are_found():
    tokenizer = toy.train_toy_tokenizer("wordpiece")
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size,
        special_ids=roles,
        document_end=tokenizer.document_end,
        word_starts=np.ones(tokenizer.vocab_size, bool),
    )
    row = mask_row(tokenizer, vocabulary, "the [MASK] sees a [MASK].")
    tokens = [tokenizer.token(int(i)) for i in row]
    assert tokens == ["[CLS]", "the", "[MASK]", "sees", "a", "[MASK]", ".", "[SEP]"]
    model = Model(tiny.bert(vocab_size=tokenizer.vocab_size), (MASKED_LM,))
    params = tiny.random_params(model)
    language_model = LanguageModel(model, params, tokenizer, vocabulary)
    filled = fill_text(language_model, "the [MASK] sees a [MASK].", 3)
    assert [len(mask) for mask in filled] == [3, 3]
    assert all(set(guess) == {"token", "probability"} for mask in filled for guess in mask)
