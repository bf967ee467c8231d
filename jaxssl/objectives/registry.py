"""The self-supervised objectives that recipes can name. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.objectives.base import Objective
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence

register(Objective, MaskedLm, NextSentence, CausalLm, Combine)
