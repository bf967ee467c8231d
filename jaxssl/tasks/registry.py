"""All tasks, for recipes to name."""

from jaxssl.tasks import answer, classify, regress
from jaxssl.tasks.answer import Answer
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress

TaskConfig = Classify | Regress | Answer
TASK_HEADS = (classify.HEAD, regress.HEAD, answer.HEAD)
"""Top-level names of the tasks' heads among a run's parameters."""
