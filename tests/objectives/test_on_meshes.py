"""Every objective is the same on one device and on eight: its first gradient and twenty losses.
Tasks are in tasks/test_on_meshes.py, other meshes in parallel/test_every_mesh.py."""

import dataclasses
import functools

import equal
import numpy as np
import pytest
import tiny

import jaxssl.objectives.registry  # noqa: F401
from jaxssl.core.registry import choice_name, members
from jaxssl.models.bart import BartConfig
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.auto_encode import AutoEncode
from jaxssl.objectives.base import Objective
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.continuation import Continuation
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

T, SLOTS, VOCAB = 32, 16, 64
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


def case(objective, model=ENCODER, documents=(18, 12), extra=None, **options):
    """An objective, the model it is for, and what its rows are."""
    batch = functools.partial(rows, objective, documents, extra or {})
    given = {"objective": objective, "model": model, "batch": batch, "vocabulary": WORDS}
    return equal.Case(**given, **options)


def rows(objective, documents, extra):
    drawn = [tiny.random_documents(documents, seed=i) for i in range(8)]
    length = objective.raw_length(T)
    return {**tiny.rows([[d[:length] for d in row] for row in drawn], length=length), **extra}


def labels(name):
    """Not as many of each: of those the gradient of a bias would be rounding."""
    return {name: (np.arange(8) % 3 == 0).astype(np.int32)}


CASES = {
    "masked_lm": case(MaskedLm(slots=SLOTS)),
    "span_boundary": case(SpanBoundary(slots=SLOTS, rate=0.3)),
    "replaced_tokens": case(ReplacedTokens(slots=SLOTS, generator=WHOLE)),
    "replaced_tokens, disentangled": case(
        ReplacedTokens(slots=SLOTS, generator=WHOLE, embeddings="disentangled")
    ),
    "masked_diffusion": case(MaskedDiffusion()),
    "distil": case(Distil(slots=SLOTS)),
    "next_sentence": case(NextSentence(), PAIRS, extra=labels("next_sentence")),
    "sentence_order": case(SentenceOrder(), PAIRS, extra=labels("sentence_order")),
    "sentence_distance": case(SentenceDistance(), PAIRS, extra=labels("sentence_distance")),
    "simcse": case(SimCse(loss=MILD), documents=(21,), learning_rate=1e-4),
    "passages": case(Passages(shortest=2, loss=MILD)),
    "auto_encode": case(AutoEncode(deleted=0.3), documents=(21,)),
    "causal_lm": case(CausalLm(), DECODER),
    "prefix_lm": case(PrefixLm()),
    "fill_in_middle": case(FillInMiddle(most=2, rate=0.9), DECODER, documents=(14, 12)),
    "masked_next_token": case(MaskedNextToken(slots=SLOTS)),
    "combine": case(
        Combine(terms=(Term(objective=MaskedLm(slots=SLOTS)), Term(objective=NextSentence()))),
        PAIRS,
        extra=labels("next_sentence"),
    ),
    "span_corruption": case(SpanCorruption(), T5, documents=(32,)),
    "span_corruption, BART": case(SpanCorruption(joined=False), BART, documents=(17, 14)),
    "ul2": case(Ul2(), T5, documents=(32,)),
    "continuation": case(Continuation(), T5, documents=(17, 14)),
    "continuation, joined": case(Continuation(joined=True), BART, documents=(32,)),
    "denoising": case(Denoising(deleted=0.1, rotated=0.5), BART, documents=(17, 14)),
    "denoising, fairseq": case(Denoising(variant="fairseq"), BART, documents=(17, 14)),
}


def test_no_objective_is_left_out():
    own = [kind for kind in members(Objective) if kind.__module__.startswith("jaxssl.objectives")]
    assert {name.split(",")[0] for name in CASES} == {choice_name(kind) for kind in own}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_the_same_on_one_device_and_on_eight(name, record_property):
    one, eight = (equal.take(CASES[name], tiny.mesh(**sizes)) for sizes in ({}, equal.EIGHT))
    equal.note(record_property, name, equal.EIGHT, *equal.check(eight, one))
    for leaf, value in eight.params.items():
        assert value == pytest.approx(one.params[leaf], abs=1e-5, rel=1e-4), leaf
