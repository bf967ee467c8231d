"""The objective of docs/objectives.md does what it says; tests/test_plugins.py trains with it."""

import sys

import jax
import numpy as np
import plugged
import pytest
import tiny

from jaxssl import load_plugins
from jaxssl.core.config import document
from jaxssl.models.model import Model
from jaxssl.program.gradients import make_loss
from jaxssl.run.config import RunConfig


@pytest.fixture(scope="module")
def wrong_words(tmp_path_factory):
    """The class that the page's file registers; it is known as long as this module's tests run."""
    path = plugged.shown("objectives.md", "wrong_words", tmp_path_factory.mktemp("shown"))
    code = path.read_text()
    assert len(code[code.index("@dataclass") :].splitlines()) <= 60
    with plugged.unplugged():
        load_plugins(str(path))
        yield sys.modules["wrong_words"].WrongWords


def test_it_changes_the_share_of_words_that_it_says_and_labels_them(wrong_words):
    objective = wrong_words(rate=0.3)
    batch = tiny.rows([[d] for d in tiny.random_documents([500] * 8)])
    batch["tokens"][:, 0] = tiny.SPECIALS["cls"]
    changed = objective.corrupt(batch, 0, tiny.WORDS)
    tokens, wrong = np.asarray(changed["tokens"]), np.asarray(changed["wrong"])
    assert np.array_equal(wrong, tokens != batch["tokens"])
    reserved = len(tiny.WORDS.reserved)  # these are drawn, and not taken
    share = 0.3 * (tiny.VOCAB - reserved - 1) / tiny.VOCAB
    assert wrong[:, 1:].mean() == pytest.approx(share, abs=0.02) and not wrong[:, 0].any()


def test_before_it_learns_its_loss_is_that_of_a_coin(wrong_words):
    objective = wrong_words()
    model = Model(tiny.bert(num_layers=1, pooler=False), objective.heads)
    params = tiny.random_params(model, scale=1e-4)
    batch = tiny.rows([[d] for d in tiny.random_documents([16, 9])])
    loss = jax.jit(make_loss(model, objective))
    value = loss(params, tiny.corrupted(objective, batch), jax.random.key(0))[0]
    assert float(value) == pytest.approx(np.log(2), abs=1e-3)


def test_help_tells_its_options(wrong_words):
    assert "Share of the tokens that are replaced." in "\n".join(document(RunConfig))
