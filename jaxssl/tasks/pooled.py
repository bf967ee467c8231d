"""What tasks share that tell something of one text, or of a pair, from what stands for the row."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxssl.core.bounds import check_share
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.pooling import (
    PoolingChoice,
    check_pooling,
    head_input,
    pooled,
    reads_pooler,
)
from jaxssl.tasks.texts import encode_labelled


@dataclass(frozen=True, kw_only=True)
class PooledTask(Task):
    """A task with one head over the pooled row. It says how many outputs
    there are and what the labels of a table are; what it makes of the outputs is its own."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of a second text; null for one text a row."""
    label: str = "label"
    """Column of the label."""
    pooling: PoolingChoice = "auto"
    """What stands for the row: `cls` (through the model's pooler, if it has one), `mean` of its
    tokens, `last` token, or what the family is used with: `last` for causal models, else `cls`.
    It matters: compare them where the model was not trained for one."""
    dropout: float = 0.1
    """On what goes into the head."""

    def __post_init__(self):
        super().__post_init__()
        check_share(self, "dropout")

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """How many numbers the head puts out."""

    @abstractmethod
    def label_numbers(self, table: Table) -> np.ndarray:
        """The labels of a table, [N, ...]. Raises UserError."""

    @property
    def label_notes(self) -> tuple[str, ...]:
        """What is told of the labels that were learnt, where something looks wrong."""
        return ()

    @property
    def text_column(self) -> str | None:
        """That of the text, unless there are pairs."""
        return None if self.pair else self.text

    @property
    def text_columns(self) -> Mapping[str, str]:
        """Those of one text, or two."""
        columns = {"task.text": self.text, "task.pair": self.pair}
        return {key: column for key, column in columns.items() if column is not None}

    @property
    def heads(self) -> tuple[LabelHead, ...]:
        """One, over the row."""
        size = self.num_outputs
        return (LabelHead(name=self.head_name, scope="row", size=size, dropout=self.dropout),)

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of token ids with `labels` [N, ...]."""
        encoded = encode_labelled(
            table,
            tokenizer,
            max_length,
            split,
            text=self.text,
            pair=self.pair,
            labels=self.label_numbers(table) if labelled else None,
        )
        notes = self.label_notes if labelled and split == "train" else ()
        return dataclasses.replace(encoded, notes=notes)

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """Where the first token goes through it."""
        return reads_pooler(self.pooling, model)

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The pooling must be one that the model has."""
        check_pooling(self.pooling, model)

    @property
    def states_read(self) -> int:
        """What is pooled."""
        return 1

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """What is pooled."""
        return head_input(self.pooling, model, hidden, batch)

    def head_outputs(
        self, model: Model, params: Params, hidden: Any, batch: Batch, key: jax.Array | None
    ) -> jax.Array:
        """[B, num_outputs] in float32 of hidden states [B, T, H]; `key` as for `sums`."""
        row = pooled(self.pooling, model, params, hidden, batch)
        return model.head(params, self.head_name, row, key, batch.get("row"))
