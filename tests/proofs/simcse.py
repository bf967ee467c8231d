"""Unsupervised SimCSE (Gao et al., 2021): a row is told from all others of the batch by another
pass over it, with other dropout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.models.heads import LabelHead
from jaxssl.objectives.base import Loss, Objective, Sums
from jaxssl.ops.texts import fold_texts, unfold_texts


@dataclass(frozen=True, kw_only=True)
class SimCse(Objective):
    name: Literal["simcse_proof"] = "simcse_proof"  # type: ignore[assignment]
    """The objective."""
    temperature: float = 0.05
    """What similarities are divided by."""
    size: int = 16
    """Of the vectors that are compared."""

    @property
    def heads(self):
        return (LabelHead(name="projection", size=self.size),)

    @property
    def losses(self) -> Mapping[str, Loss]:
        return {"contrast": Loss()}

    @property
    def whole_batch(self):
        return True

    def keeps_pooler(self, model):
        return False

    def weights(self, batch):
        return {"contrast": jnp.sum(counted_rows(batch))}

    def forward(self, model, params, batch, key):
        two = {name: jnp.stack([x, x], axis=1) for name, x in batch.items() if name != "row"}
        places = {"row": batch["row"]} if "row" in batch else {}
        hidden = model.encode(params, fold_texts({**two, **places}, 2), key)
        return {"first": unfold_texts(hidden[:, 0], 2)}

    def sums(self, model, params, outputs, batch, key=None) -> Sums:
        return Sums({}, {})

    def summary(self, model, params, outputs, batch, key=None):
        return {"first": outputs["first"]}

    def whole_sums(self, model, params, summaries, batch, key=None) -> Sums:
        vectors = model.head(params, "projection", summaries["first"])
        vectors /= jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        real, counted = real_rows(batch), counted_rows(batch)
        loss, weight = contrast(vectors, real, self.temperature, counted), jnp.sum(counted)
        pool = (jnp.sum(real) * weight, weight)
        return Sums({"contrast": loss}, {"nll/contrast": (loss, weight), "pool": pool})


def real_rows(batch):
    """float [B]; 0 of rows that are padding."""
    return jnp.any(batch["segment_ids"] > 0, axis=1).astype(jnp.float32)


def counted_rows(batch):
    """float [B]; 0 also of rows that are there to be told from alone."""
    return real_rows(batch) * batch.get("example_weights", 1.0)


def contrast(vectors, real, temperature, counted=None):
    """The summed cross entropy of the first of two vectors a row [B, 2, H] against all second."""
    counted = real if counted is None else counted
    scores = vectors[:, 0] @ vectors[:, 1].T / temperature
    scores = jnp.where(real[None] > 0, scores, -jnp.inf)
    log_p = jax.nn.log_softmax(jnp.where(real[:, None] > 0, scores, 0.0))
    return -jnp.sum(jnp.diagonal(log_p) * counted)
