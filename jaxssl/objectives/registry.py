"""The self-supervised objectives that recipes can name. A new one is one file, and a line here."""

import jaxssl.objectives.contrast.registry  # noqa: F401
import jaxssl.objectives.masking.registry  # noqa: F401
from jaxssl.core.registry import register
from jaxssl.objectives.auto_encode import AutoEncode
from jaxssl.objectives.base import Objective
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine
from jaxssl.objectives.continuation import Continuation
from jaxssl.objectives.denoising import Denoising
from jaxssl.objectives.distil import Distil
from jaxssl.objectives.fill_in_middle import FillInMiddle
from jaxssl.objectives.masked_diffusion import MaskedDiffusion
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.objectives.passages import Passages
from jaxssl.objectives.prefix_lm import PrefixLm
from jaxssl.objectives.replaced_tokens import ReplacedTokens
from jaxssl.objectives.sentence_order import SentenceDistance, SentenceOrder
from jaxssl.objectives.simcse import SimCse
from jaxssl.objectives.span_boundary import SpanBoundary
from jaxssl.objectives.span_corruption import SpanCorruption
from jaxssl.objectives.ul2 import Ul2

register(Objective, MaskedLm, SpanBoundary, ReplacedTokens, MaskedDiffusion, Distil)
register(Objective, NextSentence, SentenceOrder, SentenceDistance, SimCse, Passages, AutoEncode)
register(Objective, CausalLm, PrefixLm, FillInMiddle, MaskedNextToken, Combine)
register(Objective, SpanCorruption, Ul2, Continuation, Denoising)
