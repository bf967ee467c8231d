"""The units that recipes can name. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.objectives.masking.marked import Marked
from jaxssl.objectives.masking.ngrams import NGrams
from jaxssl.objectives.masking.spans import Spans
from jaxssl.objectives.masking.units import Tokens, Units, WholeWords

register(Units, Tokens, WholeWords, Spans, NGrams, Marked)
