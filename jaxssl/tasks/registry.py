"""All tasks, for recipes to name."""

from jaxssl.tasks import classify, regress, tag
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.tag import Tag

TaskConfig = Classify | Regress | Tag
TASK_HEADS = (classify.HEAD, regress.HEAD, tag.HEAD)
"""Top-level names of the tasks' heads among a run's parameters."""
