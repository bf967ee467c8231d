"""The configuration of a run directory whose parameters were trained elsewhere."""

from dataclasses import dataclass

from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core.bounds import check_at_least, check_local
from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.data.table_config import TableFile
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.hosts import DistributedConfig
from jaxssl.parallel.mesh import MeshConfig
from jaxssl.tasks.registry import TaskConfig

GENERATION = "generation_config.json"
"""Of the imported model, kept beside the run's configuration for when it is exported again."""


@dataclass(frozen=True, kw_only=True)
class ImportedData:
    """What is predicted or evaluated, and how it is batched."""

    table: TableFile | None = None
    """Labelled data for `evaluate`."""
    max_length: int = 128
    """Longest row, in tokens."""
    batch_size: int = 32
    """Rows at once."""

    def __post_init__(self):
        check_at_least(1, self, "max_length", "batch_size")


@dataclass(frozen=True, kw_only=True)
class ImportedConfig:
    """What `jaxssl import` made: a model and its tokenizer, at step 0, without data."""

    out: str
    """The run directory."""
    imported: str
    """Where the model came from."""
    model: ModelConfig
    """The network."""
    heads: tuple[str, ...] = ()
    """The language model heads that came with it."""
    task: TaskConfig | None = None
    """What its task's head tells, for `predict` and `evaluate`; null for a model without one."""
    data: ImportedData = ImportedData()
    """What it is used on."""
    precision: Precision = Precision()
    """Which dtype holds what."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Whether checksums are verified."""
    distributed: DistributedConfig = DistributedConfig()
    """How several processes find each other."""

    def __post_init__(self):
        check_local(self, "out")

    @property
    def objective(self) -> TaskConfig | MaskedLm | CausalLm:
        """What it is evaluated on: its task, or its language model's loss.

        Raises:
          UserError: it has no head.
        """
        if self.task is not None:
            return self.task
        for objective in (MaskedLm(), CausalLm()):
            if set(objective.heads) <= set(self.heads):
                return objective
        raise UserError(
            "this model has no head that could be evaluated",
            where=self.out,
            expected="a language model's or a task's",
            got=", ".join(self.heads) or "the body alone",
            fix=f"train from it: init.from={self.out}",
        )
