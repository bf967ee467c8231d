"""The objective of docs/objectives.md works as it stands, alone and as a term of another."""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import toy

from jaxssl.core import registry
from jaxssl.core.config import document
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective
from jaxssl.run.config import RunConfig, load_config
from jaxssl.run.open import evaluate_run
from jaxssl.run.train import train_run
from jaxssl.train.gradients import make_loss

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()


@pytest.fixture(scope="module")
def wrong_words(tmp_path_factory):
    """The class that the page's file registers; it is known as long as this module's tests run."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (code,) = (block for block in blocks if "register(" in block)
    assert len(code[code.index("@dataclass") :].splitlines()) <= 60
    path = tmp_path_factory.mktemp("shown") / "shown_objective.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    before = dict(registry._MEMBERS[Objective])
    spec.loader.exec_module(module)
    yield module.WrongWords
    registry._MEMBERS[Objective] = before


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


def test_a_recipe_combines_it_and_gets_metrics_perplexity_and_report(wrong_words, words, tmp_path):
    recipe = toy.recipe(words, tmp_path / "run", "masked")
    terms = [recipe["objective"], {"name": "wrong_words", "rate": 0.2}]
    recipe["objective"] = {"name": "combine", "terms": [{"objective": term} for term in terms]}
    config = load_config([recipe], [])
    assert config.objective.terms[1].objective == wrong_words(rate=0.2)
    outcome = train_run(config, lambda text: None)
    trained, validated = toy.rows_of(tmp_path / "run", "train"), outcome.validation
    both = trained[-1]["loss/masked_lm"] + trained[-1]["loss/wrong_words"]
    assert trained[-1]["loss"] == pytest.approx(both)
    assert 0 < validated["loss/wrong_words"] < 1 and validated["accuracy/wrong_words"] > 0.5
    assert validated["perplexity"] == pytest.approx(np.exp(validated["loss/masked_lm"]))
    assert "wrong words" in (tmp_path / "run" / "report.html").read_text()
    again = evaluate_run(tmp_path / "run", step="last")
    assert again["loss/wrong_words"] == pytest.approx(validated["loss/wrong_words"])


def test_help_tells_its_options(wrong_words):
    assert "Share of the tokens that are replaced." in "\n".join(document(RunConfig))
