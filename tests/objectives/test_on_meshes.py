"""Every objective is the same on one device and on eight, over twenty steps."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny

import jaxssl.objectives.registry  # noqa: F401
from jaxssl.core.names import flatten
from jaxssl.core.registry import choice_name, members
from jaxssl.models.bart import BartConfig
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.auto_encode import AutoEncode
from jaxssl.objectives.base import Objective
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.denoising import Denoising
from jaxssl.objectives.distil import Distil
from jaxssl.objectives.fill_in_middle import FillInMiddle
from jaxssl.objectives.masked_diffusion import MaskedDiffusion
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.objectives.passages import Passages
from jaxssl.objectives.prefix_lm import PrefixLm
from jaxssl.objectives.replaced_tokens import Generator, ReplacedTokens
from jaxssl.objectives.sentence_order import SentenceDistance, SentenceOrder
from jaxssl.objectives.simcse import SimCse
from jaxssl.objectives.span_boundary import SpanBoundary
from jaxssl.objectives.span_corruption import SpanCorruption
from jaxssl.objectives.ul2 import Ul2

T, SLOTS, STEPS, VOCAB = 32, 16, 20, 64
MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "[NLU]", "[NLG]", "[S2S]")
SPECIALS = (*MARKS, *(f"<extra_id_{i}>" for i in reversed(range(16))))
WORDS = dataclasses.replace(
    tiny.vocabulary(VOCAB),
    special_tokens={name: VOCAB - len(SPECIALS) + i for i, name in enumerate(SPECIALS)},
    find_sentence_ends=lambda: np.arange(VOCAB) % 9 == 8,
)
SMALL = dict(hidden_size=16, num_heads=2, intermediate_size=32, vocab_size=VOCAB, dropout=0.1)
ENCODER = tiny.bert(vocab_size=VOCAB, dropout=0.1, pooler=False)
PAIRS = tiny.bert(vocab_size=VOCAB, dropout=0.1, pooler=True)
DECODER = tiny.gpt2(vocab_size=VOCAB, dropout=0.1)
T5 = T5Config(num_layers=1, head_width=8, relative_buckets=8, **SMALL)
BART = BartConfig(num_layers=1, max_positions=T, **SMALL)
MILD = Ranking(temperature=1.0)  # at 0.05 there is soon nothing to learn, and losses are rounding
WHOLE = Generator(width=1.0, layers=0.5, num_heads=2)


@dataclass(frozen=True)
class Case:
    """An objective, the model it is for, and what its rows are."""

    objective: Objective
    model: ModelConfig = ENCODER
    documents: tuple[int, ...] = (18, 12)
    extra: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 0.003


def labels(name):
    return {name: np.arange(8) % 2}


CASES = {
    "masked_lm": Case(MaskedLm(slots=SLOTS)),
    "span_boundary": Case(SpanBoundary(slots=SLOTS, rate=0.3)),
    "replaced_tokens": Case(ReplacedTokens(slots=SLOTS, generator=WHOLE)),
    "replaced_tokens, disentangled": Case(
        ReplacedTokens(slots=SLOTS, generator=WHOLE, embeddings="disentangled")
    ),
    "masked_diffusion": Case(MaskedDiffusion()),
    "distil": Case(Distil(slots=SLOTS)),
    "next_sentence": Case(NextSentence(), PAIRS, extra=labels("next_sentence")),
    "sentence_order": Case(SentenceOrder(), PAIRS, extra=labels("sentence_order")),
    "sentence_distance": Case(SentenceDistance(), PAIRS, extra=labels("sentence_distance")),
    "simcse": Case(SimCse(loss=MILD), documents=(21,), learning_rate=1e-4),
    "passages": Case(Passages(shortest=2, loss=MILD)),
    "auto_encode": Case(AutoEncode(deleted=0.3), documents=(21,)),
    "causal_lm": Case(CausalLm(), DECODER),
    "prefix_lm": Case(PrefixLm()),
    "fill_in_middle": Case(FillInMiddle(most=2, rate=0.9), DECODER, documents=(14, 12)),
    "masked_next_token": Case(MaskedNextToken(slots=SLOTS)),
    "combine": Case(
        Combine(terms=(Term(objective=MaskedLm(slots=SLOTS)), Term(objective=NextSentence()))),
        PAIRS,
        extra=labels("next_sentence"),
    ),
    "span_corruption": Case(SpanCorruption(), T5, documents=(32,)),
    "span_corruption, BART": Case(SpanCorruption(joined=False), BART, documents=(17, 14)),
    "ul2": Case(Ul2(), T5, documents=(32,)),
    "denoising": Case(Denoising(deleted=0.1, rotated=0.5), BART, documents=(17, 14)),
    "denoising, fairseq": Case(Denoising(variant="fairseq"), BART, documents=(17, 14)),
}


def test_no_objective_is_left_out():
    own = [kind for kind in members(Objective) if kind.__module__.startswith("jaxssl.objectives")]
    assert {name.split(",")[0] for name in CASES} == {choice_name(kind) for kind in own}


def model_of(case):
    wanted = dict(case.objective.networks(case.model))
    main = wanted.pop("", None)
    others = tuple(
        Model(network.config or case.model, network.heads, root=name, ties=network.ties)
        for name, network in wanted.items()
    )
    return Model(case.model, case.objective.heads, ties=main.ties if main else (), others=others)


def rows_of(case):
    drawn = [tiny.random_documents(case.documents, seed=i) for i in range(8)]
    length = case.objective.raw_length(T)
    return {**tiny.rows([[d[:length] for d in row] for row in drawn], length=length), **case.extra}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_the_same_on_one_device_and_on_eight(name):
    case = CASES[name]
    case.objective.check(case.model, WORDS)
    batch, model, made = rows_of(case), model_of(case), {}
    for where, over in (("one", tiny.mesh()), ("eight", tiny.mesh(2, 2, 2))):
        sgd = optax.sgd(case.learning_rate)
        program = tiny.program(model, case.objective, sgd, batch, over=over, vocabulary=WORDS)
        phase, state = tiny.begun(program)
        losses = []
        for _ in range(STEPS):
            state, out = tiny.take(phase, state, batch)
            losses.append(float(out["loss"]))
        made[where] = (losses, flatten(jax.device_get(state.params)))
    losses, params = made["one"]
    assert np.isfinite(losses).all() and len({*losses}) == STEPS, "every step changed something"
    np.testing.assert_allclose(made["eight"][0], losses, rtol=1e-5)
    for leaf, value in made["eight"][1].items():
        assert value == pytest.approx(params[leaf], abs=1e-5, rel=1e-4), leaf
