"""The likeness of two texts, each encoded by itself: a batch with two sides."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.data.encoding import encode_rows
from jaxssl.models.heads import LabelHead
from jaxssl.objectives.base import Sums
from jaxssl.ops.label_losses import squared_loss
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.texts import read_texts


@dataclass(frozen=True, kw_only=True)
class Alike(Regress):
    name: Literal["alike_proof"] = "alike_proof"  # type: ignore[assignment]
    """The task."""

    @property
    def heads(self):
        return (LabelHead(name="projection", size=8),)

    def keeps_pooler(self, model):
        return False

    def encode(self, table, tokenizer, max_length, split, *, labelled=True):
        first, second = (
            encode_rows(tokenizer, read_texts(table, column, "task.text"), None, max_length)
            for column in (self.text, self.pair)
        )
        numbers = self.label_numbers(table) if labelled else None
        per_row = {} if numbers is None else {"labels": numbers}
        rows = dataclasses.replace(first[0], per_row=per_row, sides={"targets": second[0]})
        return Encoded(rows, numbers, truncation=first[1] + second[1])

    def forward(self, model, params, batch, key):
        other = {
            "tokens": batch["targets"],
            "segment_ids": batch["targets_segment_ids"],
            "positions": batch["targets_positions"],
        }
        if "row" in batch:  # two texts of a row do not share masks
            other["row"] = batch["row"] + jnp.uint32(2**31)
        sides = (batch, other)
        vectors = [vector(model, params, x, key) for x in sides]
        return {"value": jnp.sum(vectors[0] * vectors[1], axis=-1)}

    def sums(self, model, params, outputs, batch, key=None):
        weights = batch["example_weights"]
        loss = jnp.sum(squared_loss(outputs["value"], batch["labels"]) * weights)
        return Sums({"alike_proof": loss}, {"mse/alike": (loss, jnp.sum(weights))})

    def predict(self, model, params, outputs, batch):
        return {"value": outputs["value"]}


def vector(model, params, side, key=None):
    """The mean of a text's hidden states, projected, of length 1."""
    kept = side["segment_ids"][..., None] > 0
    hidden = model.encode(params, side, key)
    mean = jnp.sum(hidden * kept, axis=1) / jnp.maximum(jnp.sum(kept, axis=1), 1)
    vectors = model.head(params, "projection", mean)
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)
