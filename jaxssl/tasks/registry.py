"""All tasks, for recipes to name."""

from jaxssl.tasks import classify, regress
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress

TaskConfig = Classify | Regress
TASK_HEADS = (classify.HEAD, regress.HEAD)
"""Top-level names of the tasks' heads among a run's parameters."""
