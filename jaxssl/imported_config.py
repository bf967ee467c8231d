"""The configuration of a run directory whose parameters were trained elsewhere."""

from dataclasses import dataclass

from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core.bounds import check_local
from jaxssl.core.precision import Precision
from jaxssl.models.model import ModelConfig
from jaxssl.parallel.hosts import DistributedConfig
from jaxssl.parallel.mesh import MeshConfig


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
