"""The span boundary objective against loops in Python and whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from masks import PIECES, corrupted, packed_batch

from jaxssl.core.errors import UserError
from jaxssl.models.model import Model
from jaxssl.objectives.span_boundary import SpanBoundary

T = 64
OBJECTIVE = SpanBoundary(rate=0.3, slots=T, longest_span=3)


@pytest.fixture(scope="module")
def batch():
    return packed_batch(count=12, seed=9)


@pytest.fixture(scope="module")
def masked(batch):
    return corrupted(batch, OBJECTIVE, PIECES)


def neighbours(batch, masked):
    """(row, place, left, right, offset) of each token that is guessed from the neighbours."""
    for i, segments in enumerate(batch["segment_ids"]):
        places = masked["mask_positions"][i][masked["mask_weights"][i] > 0]
        chosen, text = set(places.tolist()), segments * (batch["tokens"][i] >= tiny.FIRST_WORD)
        text = np.append(text, 0)  # behind the row, and by -1 before it
        for place in sorted(chosen):
            document, left, right = segments[place], place, place
            while left in chosen and segments[left] == document:
                left -= 1
            while right in chosen and segments[right] == document:
                right += 1
            offset = place - left - 1
            if text[left] == document == text[right] and offset < 3:
                yield i, place, left, right, offset


def test_the_neighbours_are_those_around_the_span(batch, masked):
    expected = list(neighbours(batch, masked))
    found = []
    for i in range(12):
        slots = np.flatnonzero(masked["span_weights"][i])
        for slot in slots:
            names = ("mask_positions", "span_left", "span_right", "span_offset")
            found.append((i, *(int(masked[name][i][slot]) for name in names)))
    assert found == expected and 20 < len(found) < masked["mask_weights"].sum()
    assert {offset for *_, offset in found} == {0, 1, 2}


def test_the_loss_is_that_of_whole_logits(batch, masked):
    model = Model(tiny.bert(max_positions=T), OBJECTIVE.heads)
    params = tiny.random_params(model)
    hidden = model.encode(params, masked)
    made = jax.jit(OBJECTIVE.sums, static_argnums=0)(model, params, {"hidden": hidden}, masked)
    total = 0.0
    for i, place, left, right, offset in neighbours(batch, masked):
        given = {"left": hidden[i, left], "right": hidden[i, right], "offset": jnp.array(offset)}
        logits = model.head(params, "span_boundary", given)
        total -= jax.nn.log_softmax(logits)[batch["tokens"][i, place]]
    assert made.losses["span_boundary"] == pytest.approx(float(total), rel=1e-5)
    weight = OBJECTIVE.weights(masked)["span_boundary"]
    assert weight == len(list(neighbours(batch, masked)))


def test_a_span_of_nothing_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        SpanBoundary(longest_span=0)
