"""What stands for a whole row, by task and family."""

from typing import Literal

import jax

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.models.model import Model, ModelConfig
from jaxssl.ops.pooling import Pooling, pool

PoolingChoice = Literal["auto", "cls", "mean", "last"]


def resolve(choice: PoolingChoice, model: ModelConfig) -> Pooling:
    """The pooling that `auto` means for a family."""
    return model.row_pooling if choice == "auto" else choice


def check_pooling(choice: PoolingChoice, model: ModelConfig) -> None:
    """Refuses the first token of a causal model: it has seen nothing of the row.

    Raises:
      UserError: says what to use.
    """
    if model.causal and choice == "cls":
        raise UserError(
            "the first token of a causal model has seen nothing of the text",
            where="task.pooling",
            expected="last or mean",
            got="cls",
        )


def reads_pooler(choice: PoolingChoice, model: ModelConfig) -> bool:
    """Whether a row's first token goes through the pooler: there is one, and the family's
    classifiers do not bring a layer of their own for it."""
    is_first = resolve(choice, model) == "cls"
    return is_first and model.body().pooler and model.task_head("row").transform is None


def pooled(
    choice: PoolingChoice, model: Model, params: Params, hidden: jax.Array, batch: Batch
) -> jax.Array:
    """[B, H] of hidden states [B, T, H]; `cls` goes through the model's pooler, if it has one."""
    if reads_pooler(choice, model.config):
        return model.pool(params, hidden)
    return pool(hidden, batch["segment_ids"], resolve(choice, model.config))


def head_input(choice: PoolingChoice, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
    """[B, 1, H] of hidden states [B, T, H]: what is pooled, before a pooler, which is trained."""
    return pool(hidden, batch["segment_ids"], resolve(choice, model.config))[:, None]
