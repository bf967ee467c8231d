"""The losses over a batch's texts that recipes can name. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.objectives.contrast.base import Contrast
from jaxssl.objectives.contrast.cosent import CoSent
from jaxssl.objectives.contrast.cosine import Cosine
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.contrast.triplet import Triplet

register(Contrast, Ranking, CoSent, Cosine, Triplet)
