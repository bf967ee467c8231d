"""Rows of the vocabulary's tables in PEFT's files, `trainable_token_indices`: tokens that were
added to a model, or trained in it, beside an adapter. PEFT writes the rows as they are, whatever it
calls them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.checkpoint.hf.mapping import Pair
from jaxssl.core.errors import UserError

TABLE, OUTPUT = "embeddings/tokens/embedding", "causal_lm/output/kernel"
"""Ours that have rows for tokens; of the output they are columns."""
ENDING = "token_adapter.trainable_tokens_delta"
FIELD = "trainable_token_indices"
ALONE = "TRAINABLE_TOKENS"
"""What PEFT calls a method that trains rows and nothing else."""
ENDING_ALONE, FIELD_ALONE = "trainable_tokens_delta", "token_indices"


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table.

    Attributes:
      indices: ids of their tokens.
      values: [as many, H].
    """

    indices: tuple[int, ...]
    values: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, indices: Sequence[int], name: str = TABLE) -> "Rows":
        """Those of a table, or columns of an output [H, V]."""
        chosen = list(indices)
        return cls(tuple(indices), table[:, chosen].T if name == OUTPUT else table[chosen])

    def put(self, table: np.ndarray, name: str = TABLE) -> np.ndarray:
        """A table with these rows in it, or an output with these columns."""
        whole = np.array(table.T if name == OUTPUT else table)
        whole[list(self.indices)] = self.values
        return whole.T if name == OUTPUT else whole


def written(
    rows: Mapping[str, Rows], pairs: Mapping[str, Sequence[tuple[str, Pair]]], lead: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Their tensors, and what `adapter_config.json` says of them."""
    tensors, indices = {}, {}
    for theirs, ((ours, _), *_) in pairs.items():
        if ours in rows:
            module = theirs.removesuffix(".weight")
            tensors[f"{lead}{module}.{ENDING}"] = rows[ours].values
            indices[module] = list(rows[ours].indices)
    return tensors, {FIELD: indices} if indices else {}


def written_alone(
    rows: Mapping[str, Rows], pairs: Mapping[str, Sequence[tuple[str, Pair]]], lead: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of a method that has nothing else."""
    tensors, modules = {}, []
    for theirs, ((ours, _), *_) in pairs.items():
        if ours in rows:
            module = theirs.removesuffix(".weight")
            tensors[f"{lead}{module}.{ENDING_ALONE}"] = rows[ours].values
            modules.append(module)
    return tensors, {"target_modules": modules}


def indices_of(given: Mapping[str, Any], module: str, ours: str) -> tuple[int, ...]:
    """Of a module there, whose parameter is `ours`."""
    found = given.get(FIELD) or ()
    if isinstance(found, Mapping):
        named = (ids for name, ids in found.items() if f".{module}".endswith(f".{name}"))
        found = next(named, ())
    elif ours != TABLE:
        found = ()
    return tuple(found)


def filled(path: Path, ours: str, own: np.ndarray, rows: Rows) -> np.ndarray:
    """A whole parameter: the model's own, with these rows, and as many as they need.

    Raises:
      UserError: further rows of which the file lacks some.
    """
    own = own.T if ours == OUTPUT else own
    size = max(len(own), max(rows.indices) + 1)
    lacking = {*range(len(own), size)} - {*rows.indices}
    if lacking or len(rows.indices) != len(rows.values):
        raise UserError(
            "an adapter's file lacks rows of tokens",
            where=f"{path}, {ours}",
            expected=f"rows of tokens {len(own)} to {size - 1}, which the model has not",
            got=f"{len(rows.values)} rows, {len(rows.indices)} tokens",
            fix=f"list all new tokens in {FIELD}, or merge the adapter where peft is installed",
        )
    whole = np.zeros((size, *own.shape[1:]), own.dtype)
    whole[: len(own)] = own
    whole = rows.put(whole)
    return whole.T if ours == OUTPUT else whole
