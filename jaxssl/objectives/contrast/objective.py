"""What objectives share that compare the vectors of a batch's texts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.core.upcast import upcast
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.vector_heads import ScaleHead, VectorHead
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.contrast.base import Contrast, Texts
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.ops.contrast import alignment, effective_rank, uniformity_terms, unit
from jaxssl.ops.pooling import Pooling, pool
from jaxssl.ops.texts import fold_texts, unfold_texts

PROJECTION = VectorHead(name="projection", tanh=True)
"""SimCSE's."""
COLLAPSED = -0.1
"""Vectors of a uniformity above this are one point, or near it: a mean cosine of 0.975 has it. It
does not depend on the size of the batch, as the effective rank does."""


@dataclass(frozen=True, kw_only=True)
class Contrasting(Objective):
    """A vector for each text, and a loss over those of the whole batch.

    Where a batch does not fit into memory, accumulation caches gradients: a row is told from all
    rows of the batch, not of its part (Gao et al., 2021).
    """

    loss: Contrast = Ranking()
    """What is made of the vectors: ranking, cosent, cosine or triplet."""
    pooling: Pooling = "mean"
    """What stands for a text: its first token (cls), the last, the mean of all, ..."""
    projection: bool = False
    """SimCSE's layer, a dense one and tanh, after it: in training alone."""
    widths: tuple[int, ...] = ()
    """Matryoshka: the loss of the first so many numbers of each vector, for each width, is added
    (Kusupati et al., 2022). Empty is the whole vector alone."""

    def __post_init__(self):
        super().__post_init__()
        for width in self.widths:
            if width < 1 or self.widths.count(width) > 1:
                raise UserError(
                    "these are no widths",
                    where="widths",
                    expected="different numbers, above 0",
                    got=list(self.widths),
                )

    @abstractmethod
    def texts_of(self, batch: Batch) -> list[Batch]:
        """Each row's texts, as batches [B, T] of their own: K of them. One that is there twice is
        the same text seen twice, with other dropout."""

    @abstractmethod
    def keys_of(self, batch: Batch) -> jax.Array:
        """uint32 [B, K, 2], equal where texts are."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """What is learnt beside the body."""
        found: list[Head] = [PROJECTION] if self.projection else []
        if self.loss.learns_scale:
            assert self.loss.scale is not None
            found.append(ScaleHead(name="similarity_scale", start=self.loss.scale))
        return tuple(found)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """One."""
        return {self.name: Loss(shown=self.loss.name)}

    @property
    def whole_batch(self) -> bool:
        """Rows are told from all others."""
        return True

    @property
    def least_rows(self) -> int:
        """Two, where a row is told from others."""
        return 2 if self.loss.reads_other_rows else 1

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """Vectors do not go through it."""
        return False

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The pooling and the widths must be some that the model has."""
        check_pooling(self.pooling, model)
        if max(self.widths, default=0) > model.hidden_size:
            raise UserError(
                "a vector has fewer numbers than one of the widths",
                where="objective.widths",
                expected=f"at most model.hidden_size={model.hidden_size}",
                got=list(self.widths),
            )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """As the loss has it."""
        return {self.name: self.loss.weight(_counted(batch))}

    def tokens(self, batch: Batch) -> jax.Array:
        """Those of all texts, as often as they are read."""
        return sum(
            (jnp.sum(text["segment_ids"] > 0) for text in self.texts_of(batch)), jnp.zeros([], int)
        )

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """`texts` [B, K, H] in float32 at least."""
        vectors = self._vectors(model, params, self.texts_of(batch), batch.get("row"), key)
        if self.projection and key is not None:
            vectors = model.head(params, PROJECTION.name, vectors)
        return {"texts": upcast(vectors)}

    def _vectors(
        self,
        model: Model,
        params: Params,
        texts: Sequence[Batch],
        rows: jax.Array | None,
        key: jax.Array | None,
    ) -> jax.Array:
        """[B, K, H]; texts of one length go through the model in one pass."""
        count = len(texts)
        if key is None and all(text is texts[0] for text in texts):
            return jnp.repeat(self._pooled(model, params, texts[0], None)[:, None], count, axis=1)
        if len({text["tokens"].shape for text in texts}) == 1:
            folded = {name: jnp.stack([t[name] for t in texts], axis=1) for name in _INPUTS}
            folded = fold_texts({**folded, **_places(rows)}, count)
            return unfold_texts(self._pooled(model, params, folded, key), count)
        found = []
        for number, text in enumerate(texts):
            place = None if rows is None else rows * count + number
            seen = {**{name: text[name] for name in _INPUTS}, **_places(place)}
            found.append(self._pooled(model, params, seen, key))
        return jnp.stack(found, axis=1)

    def _pooled(
        self, model: Model, params: Params, text: Batch, key: jax.Array | None
    ) -> jax.Array:
        hidden = model.encode(params, {name: text[name] for name in text}, key)
        return pool(hidden, text["segment_ids"], self.pooling)

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Nothing of a row by itself."""
        return Sums({}, {})

    def summary(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """The vectors."""
        return {"texts": outputs["texts"]}

    def whole_sums(
        self,
        model: Model,
        params: Params,
        summaries: Mapping[str, jax.Array],
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """The loss of all widths; the metrics are those of whole vectors."""
        vectors, counted = summaries["texts"], _counted(batch)
        scale = self.loss.scale
        if self.loss.learns_scale:
            scale = model.head(params, "similarity_scale", vectors[:, 0])
        texts = Texts(
            vectors=vectors,
            keys=self.keys_of(batch),
            real=_real(batch),
            counted=counted,
            labels=batch.get("labels"),
            scale=1.0 if scale is None else scale,
        )
        whole = self.loss.sums(texts)
        loss = sum(
            (
                whole.loss
                if width == vectors.shape[-1]
                else self.loss.sums(texts._replace(vectors=vectors[..., :width])).loss
                for width in self.widths or (vectors.shape[-1],)
            ),
            jnp.zeros([]),
        )
        metrics = {f"{name}/{self.name}": x for name, x in whole.metrics.items()}
        metrics[f"nll/{self.name}"] = (loss, self.loss.weight(counted))
        if self.loss.learns_scale:
            metrics["temperature"] = (1 / jnp.asarray(scale), jnp.ones([]))
        return Sums({self.name: loss}, {**metrics, **self._health(texts, training=key is not None)})

    def _health(self, texts: Texts, *, training: bool) -> dict[str, tuple[jax.Array, jax.Array]]:
        """How near what belongs together is, and how evenly all are spread; without a gradient."""
        vectors = unit(jax.lax.stop_gradient(texts.vectors))
        counted, rows = texts.counted, jnp.sum(texts.counted)
        found = {f"uniformity/{self.name}": uniformity_terms(vectors[:, 0], counted)}
        if texts.labels is None:
            near = jnp.sum(alignment(vectors[:, 0], vectors[:, 1]) * counted)
            found[f"alignment/{self.name}"] = (near, rows)
        if not training:  # singular values take time
            one = jnp.ones([])
            found[f"effective_rank/{self.name}"] = (effective_rank(vectors[:, 0], counted), one)
        return found

    def finish(self, metric: str, total: Any, weight: Any) -> dict[str, float]:
        """Uniformity is the logarithm of a mean."""
        if metric == f"uniformity/{self.name}":
            share = float(total) / float(weight) if weight else np.nan
            return {metric: float(np.log(share)) if share > 0 else np.nan}
        return super().finish(metric, total, weight)

    def is_lower_better(self, number: str) -> bool:
        """Vectors of what belongs together are to be near, and all of them far apart."""
        lower = ("uniformity", "alignment", "temperature", "equal_texts")
        return number.split("/")[0] in lower or super().is_lower_better(number)

    def alarms(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Vectors that are all the same."""
        uniformity = values.get(f"uniformity/{self.name}")
        if uniformity is None or not uniformity > COLLAPSED:
            return ()
        return (
            f"the vectors of texts have collapsed: their uniformity is {uniformity:.3f}, and 0 is "
            "a single point (-4: spread evenly). A lower learning rate, a larger batch or a longer "
            "warm-up may help",
        )


def check_pooling(pooling: Pooling, model: ModelConfig) -> None:
    """Refuses the first token of a causal model.

    Raises:
      UserError: says what to use.
    """
    if model.causal and pooling == "cls":
        raise UserError(
            "the first token of a causal model has seen nothing of the text",
            where="objective.pooling",
            expected="last or mean",
            got="cls",
        )


def check_text_alone(loss: Contrast) -> None:
    """Refuses a loss that needs more than text.

    Raises:
      UserError: says where such losses are at home.
    """
    if loss.reads_labels or loss.reads_negatives:
        raise UserError(
            "text alone has no labels and no negatives",
            where="loss.name",
            expected="ranking",
            got=loss.name,
            fix="for tables of pairs take the task similarity",
        )


def check_one_text(rows: Batch) -> None:
    """Refuses rows of several texts, where each needs a vector of its own.

    Raises:
      UserError: says which rows have one.
    """
    if rows["segment_ids"].max() > 1:
        raise UserError(
            "a row holds several texts, and each needs a vector of its own",
            where="data.rows.name",
            expected="documents: one a row",
            got="rows of several documents",
            fix="set data.rows.name=documents, or data.rows.unit=sentence beside it",
        )


_INPUTS = ("tokens", "segment_ids", "positions")


def _places(rows: jax.Array | None) -> dict[str, jax.Array]:
    return {} if rows is None else {"row": rows}


def _real(batch: Batch) -> jax.Array:
    """float32 [B]; 0 of rows that are padding."""
    return jnp.any(batch["segment_ids"] > 0, axis=1).astype(jnp.float32)


def _counted(batch: Batch) -> jax.Array:
    """float32 [B]; 0 also of rows that are there to be told from alone."""
    return _real(batch) * batch.get("example_weights", 1.0)
