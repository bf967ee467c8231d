"""What a run or a network starts from, and what is done with the parameters stored there."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxssl.core.bounds import check_at_least, check_unused
from jaxssl.core.errors import UserError

ABOUT_RESTORED = (
    *("step", "rename", "drop", "fresh", "resize", "new_pieces", "new_positions", "layers"),
    *("fresh_top", "cast", "optimizer"),
)
"""Fields of `InitConfig` that say what is done with stored parameters."""


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where parameters come from before training begins."""

    from_: str
    """A run directory to start from, one of its checkpoints (RUN/checkpoints/500), or a directory
    of Hugging Face's with config.json and safetensors."""
    step: str | int = "best"
    """The run's checkpoint: best, last or a step."""
    network: str | None = None
    """Which of that run's networks; null is the main one."""
    scratch: bool = False
    """Take the model and the tokenizer of that run, but none of its parameters: the same network
    from scratch, to compare with."""
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    """Stored names to names of this model, by pattern: {"body/**": "encoder/**"}; each wildcard
    stands for the same on both sides."""
    drop: tuple[str, ...] = ()
    """Patterns of stored parameters to leave behind. Heads that this run has no use for are."""
    fresh: tuple[str, ...] = ()
    """Patterns of parameters to initialise afresh. Heads that the stored model has not are."""
    resize: tuple[str, ...] = ()
    """Patterns of parameters over the vocabulary or positions (embeddings, `masked_lm/bias`, an
    untied `causal_lm/output/kernel`) that may have another size: what there is in both is kept,
    and what is new starts fresh."""
    new_pieces: Literal["fresh", "mean"] = "fresh"
    """`mean`: the tokenizer may have further pieces behind those of what is started from, and the
    row of each (of embeddings, of an untied output and of its bias) begins as the mean of the rows
    of the pieces that its text was cut into before. No `resize` is needed for these."""
    new_positions: Literal["fresh", "tile", "stretch"] = "fresh"
    """How a longer table of learned positions begins: `tile` repeats the rows there are
    (Longformer, Beltagy et al., 2020), so that rows as long as before see what they saw; `stretch`
    draws them apart, with straight lines between them (as ViT, Dosovitskiy et al., 2021, does with
    its patches'). No `resize` is needed for these."""
    layers: tuple[int, ...] = ()
    """Which of the stored layers this model's are, in its order: a model of 6 layers from one of 12
    with [0, 2, 4, 7, 9, 11], as DistilBERT. Empty takes all, of a model as deep."""
    fresh_top: int = 0
    """Also initialise the top k layers afresh (Zhang et al., 2020)."""
    cast: bool = False
    """Accept stored parameters of another dtype than `precision.parameters`, and convert them."""
    optimizer: Literal["reset", "restore"] = "reset"
    """`restore` also takes the optimizer's moments, with their count, for a run that goes on with
    all parameters as they are. The schedule of the learning rate begins anew in any case."""

    def __post_init__(self):
        check_at_least(0, self, "fresh_top")
        if any(layer < 0 for layer in self.layers):
            raise UserError(
                "layers are counted from 0",
                where="layers",
                expected="numbers of stored layers",
                got=list(self.layers),
            )
        if self.scratch:
            why = "with scratch=true, which restores no parameter"
            check_unused(self, ABOUT_RESTORED, where=why, fix="leave out one or the other")
        _, step = split_checkpoint(self.from_)
        if step is not None and self.step not in ("best", step):
            raise UserError(
                "two checkpoints are named",
                where="from, step",
                expected="a run directory and a step, or a checkpoint alone",
                got=(self.from_, self.step),
            )

    @property
    def run_dir(self) -> Path:
        """The run it starts from."""
        return split_checkpoint(self.from_)[0]

    @property
    def chosen(self) -> str | int:
        """Which of the run's checkpoints."""
        step = split_checkpoint(self.from_)[1]
        return self.step if step is None else step


def split_checkpoint(path: str | Path) -> tuple[Path, int | None]:
    """A run directory, and the step where `path` is one of its checkpoints."""
    path = Path(path)
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None
