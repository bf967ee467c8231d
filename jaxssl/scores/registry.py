"""The scores that recipes can add to a task. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.scores.base import Score
from jaxssl.scores.calibration import Calibration

register(Score, Calibration)
