"""Distillation of a masked language model (Hinton et al., 2015; DistilBERT, Sanh et al., 2019).

The student guesses masked tokens, is to give every token the probabilities that its teacher gives,
and to have hidden states of the teacher's direction. Source: huggingface/transformers-research-
projects, distillation/distiller.py; factors and temperature are DistilBERT's README's.

The teacher is the network of another run, and stays as it is (`networks.teacher.init.from=RUN`).
Departures: masks are drawn as in BERT (there rare tokens come more often).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.core.upcast import upcast
from jaxssl.models.heads import MASKED_LM, Head, LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.ops.losses import chunked_sum, filled_chunks
from jaxssl.parallel.axes import shards_of
from jaxssl.parallel.own_rows import spread

TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class Distil(MaskedLm):
    """Guess masked tokens, and what a teacher guesses everywhere."""

    name: Literal["distil"] = "distil"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    temperature: float = 2.0
    """What the logits of both are divided by."""
    logits_weight: float = 5.0
    """Factor of the divergence from the teacher's probabilities, times the temperature squared."""
    masked_weight: float = 2.0
    """Factor of the masked language model's loss."""
    hidden_weight: float = 1.0
    """Factor of one less the cosine of both last hidden states; 0 leaves it out."""
    teacher_size: int | None = None
    """Width of the teacher's hidden states, where it is another than the student's: the student's
    are then projected to it."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(self, "temperature", "logits_weight")
        check_at_least(0, self, "masked_weight", "hidden_weight")
        check_at_least(1, self, "teacher_size")

    @property
    def heads(self) -> tuple[Head, ...]:
        """The masked language model's, and a projection to the teacher's width."""
        if self.teacher_size is None:
            return (MASKED_LM,)
        return (MASKED_LM, LabelHead(name="to_teacher", size=self.teacher_size))

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each guessed token and for each token; the distance of directions."""
        masked = Loss(self.masked_weight, True, "masked LM", True)
        found = {"masked_lm": masked, "distil": Loss(self.logits_weight, shown="from the teacher")}
        if self.hidden_weight:
            found["hidden"] = Loss(self.hidden_weight, shown="hidden states")
        return found

    def networks(self, model: ModelConfig) -> Mapping[str, Network]:
        """The teacher, of the shape of the run that it starts from."""
        return {TEACHER: Network(heads=(MASKED_LM,), trained=False)}

    def check_networks(self, model: ModelConfig, networks: Mapping[str, ModelConfig]) -> None:
        """Both must guess among the same ids, and their hidden states have one width, or the
        student's be projected to the teacher's."""
        teacher = networks[TEACHER]
        if teacher.vocab_size != model.vocab_size:
            raise UserError(
                "teacher and student guess among different numbers of ids",
                where="model.vocab_size",
                expected=f"the teacher's, {teacher.vocab_size}",
                got=model.vocab_size,
                fix=f"set model.vocab_size={teacher.vocab_size}, which may be more than the "
                "tokenizer has",
            )
        width = model.hidden_size if self.teacher_size is None else self.teacher_size
        if self.hidden_weight and width != teacher.hidden_size:
            raise UserError(
                "teacher and student have hidden states of different widths",
                where="objective.teacher_size",
                expected=f"the teacher's hidden_size, {teacher.hidden_size}",
                got=self.teacher_size or f"none, for a student of hidden_size={width}",
                fix=f"set objective.teacher_size={teacher.hidden_size}, or "
                "objective.hidden_weight=0",
            )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of chosen tokens, and of all tokens."""
        real = jnp.sum(batch["segment_ids"] > 0).astype(jnp.float32)
        found = {"masked_lm": jnp.sum(batch["mask_weights"]), "distil": real, "hidden": real}
        return {name: found[name] for name in self.losses}

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """Hidden states of both; the teacher has no dropout."""
        teacher = model.network(TEACHER).encode(params, batch, None)
        return {
            "hidden": model.encode(params, batch, key),
            TEACHER: jax.lax.stop_gradient(teacher),
        }

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """The masked language model's cross entropy, the divergence, and the distance."""
        made = super().sums(model, params, outputs, batch, key)
        real = (batch["segment_ids"] > 0).astype(jnp.float32)
        loss, sums = self._divergence(model, params, outputs, real)
        losses = {**made.losses, "distil": loss}
        metrics = {
            **made.metrics,
            "nll/distil": (loss, jnp.sum(real)),
            "accuracy/teacher": (sums["agree"], jnp.sum(real)),
        }
        if self.hidden_weight:
            losses["hidden"] = self._distance(model, params, outputs, real, key, batch.get("row"))
            metrics["nll/hidden"] = (losses["hidden"], jnp.sum(real))
        return Sums(losses, metrics)

    def _divergence(
        self, model: Model, params: Params, outputs: Outputs, real: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """T^2 KL(teacher || student) of each token, summed; whole logits never exist."""
        teacher = model.network(TEACHER)

        def chunks(x):
            return filled_chunks(x, self.chunk, shards_of("sequence"))

        def one(own, hidden, constants, fixed):
            theirs, weights = constants
            log_q = model.head(own, "masked_lm", hidden) / self.temperature
            log_p = teacher.head(fixed, "masked_lm", theirs)
            log_q = jax.nn.log_softmax(upcast(log_q))
            log_p = jax.nn.log_softmax(upcast(log_p) / self.temperature)
            each = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1) * self.temperature**2
            agree = (jnp.argmax(log_p, -1) == jnp.argmax(log_q, -1)) * weights
            return jnp.sum(each * weights), {"agree": jnp.sum(agree)}

        own, fixed = (each.head_params(params, "masked_lm") for each in (model, teacher))
        hidden, constants = chunks(outputs["hidden"]), (chunks(outputs[TEACHER]), chunks(real))
        shards = spread(model.head_axes(params, "masked_lm"))
        return chunked_sum(one, own, hidden, constants, shards, fixed)

    def _distance(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        real: jax.Array,
        key: jax.Array | None,
        rows: jax.Array | None,
    ) -> jax.Array:
        """One less the cosine of both hidden states, summed over tokens."""
        own = outputs["hidden"]
        if self.teacher_size is not None:
            own = model.head(params, "to_teacher", own, key, rows)
        return jnp.sum((1 - _cosine(upcast(own), upcast(outputs[TEACHER]))) * real)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of vectors [..., H]."""
    norms = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(jnp.maximum(norms, 1e-16))
