"""All tasks, for recipes to name."""

from jaxssl.models.heads import HEADS
from jaxssl.tasks import answer, classify, regress, relate, tag
from jaxssl.tasks.answer import Answer
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate import Relate
from jaxssl.tasks.tag import Tag

TaskConfig = Classify | Regress | Tag | Relate | Answer
TASK_HEADS = (classify.HEAD, regress.HEAD, tag.HEAD, relate.HEAD, answer.HEAD)
"""Top-level names of the tasks' heads among a run's parameters."""
ALL_HEADS = (*HEADS, *TASK_HEADS, "pooler")
"""Those of all heads: another run's may be left behind unasked."""
