"""Distillation (Hinton et al., 2015) of a masked language model: the student is to guess what its
teacher guesses, another run's model that stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.models.heads import MASKED_LM
from jaxssl.models.network import Network
from jaxssl.objectives.base import Loss, Sums
from jaxssl.objectives.masked_lm import MaskedLm


@dataclass(frozen=True, kw_only=True)
class Distil(MaskedLm):
    name: Literal["distil_proof"] = "distil_proof"  # type: ignore[assignment]
    """The objective."""

    @property
    def losses(self) -> Mapping[str, Loss]:
        return {"distil": Loss()}

    def networks(self, model):
        return {"teacher": Network(heads=(MASKED_LM,), trained=False)}

    def weights(self, batch):
        return {"distil": super().weights(batch)["masked_lm"]}

    def forward(self, model, params, batch, key):
        teacher = model.network("teacher").encode(params, batch, None)
        return {"hidden": model.encode(params, batch, key), "teacher": teacher}

    def sums(self, model, params, outputs, batch, key=None) -> Sums:
        places, weights = batch["mask_positions"][..., None], batch["mask_weights"]

        def log_p(network, hidden):
            at = jnp.take_along_axis(hidden, places, axis=1)
            return jax.nn.log_softmax(network.head(params, "masked_lm", at))

        wanted = log_p(model.network("teacher"), outputs["teacher"])
        found = log_p(model, outputs["hidden"])
        each = jnp.sum(jnp.exp(wanted) * (wanted - found), axis=-1)
        loss = jnp.sum(each * weights)
        return Sums({"distil": loss}, {"nll/distil": (loss, jnp.sum(weights))})
