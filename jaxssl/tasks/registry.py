"""All tasks, for recipes to name."""

from jaxssl.tasks import classify, regress, relate
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate import Relate

TaskConfig = Classify | Regress | Relate
TASK_HEADS = (classify.HEAD, regress.HEAD, relate.HEAD)
"""Top-level names of the tasks' heads among a run's parameters."""
