"""LoRA (Hu et al., 2021): to a projection's output is added what x gives through two thin matrices.

y = W x + b + s B A dropout(x), with s = alpha / rank, or alpha / sqrt(rank) (Kalajdzievski, 2023).

DoRA (Liu et al., 2024) learns how long each output's row is beside where it points: with
V = W + s B A, z = dropout(x) and m, which begins as the lengths of W,
y = W x + b + (m / |V| - 1) W z + (m / |V|) s B A z. No gradient flows through |V|.

Shapes: R rank; x [..., *in], y [..., *out].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Compute, Site
from jaxssl.models.transformer import check_rates
from jaxssl.ops.dropout import dropout
from jaxssl.transfer.peft.base import Arrays, Method, check_targets, is_target, product

ZEROS = initializers.zeros


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """Two thin matrices beside each chosen projection."""

    name: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    rank: int = 8
    """Width between the two matrices."""
    alpha: float = 16.0
    """What they give is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("query", "value")
    """What is changed: names of projections (query, key, value, output, up, gate, down), with what
    they lie in (cross_attention/query) or as patterns over whole paths; `all-linear` is all of the
    layers; `tokens` is the table of embeddings."""
    dropout: float = 0.0
    """Dropout on what the first matrix reads."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank)."""
    magnitude: bool = False
    """Learn the length of each output's row apart from its direction (DoRA)."""
    initialization: Literal["uniform", "normal"] = "uniform"
    """What the first matrix is drawn from: U(-1/sqrt(in), 1/sqrt(in)), or N(0, 1/rank^2). The
    second begins as zero, so that at first nothing is changed."""
    rank_by_target: Mapping[str, int] = field(default_factory=dict)
    """Other ranks, by target: {feed_forward/up: 32}. The first that fits counts."""
    alpha_by_target: Mapping[str, float] = field(default_factory=dict)
    """Other alphas, by target."""
    weight: float = 1.0
    """Of what is added, too: a run's own, also of an adapter that was trained elsewhere."""

    def __post_init__(self):
        check_at_least(1, self, "rank")
        check_above_zero(self, "alpha", "weight")
        if self.magnitude and self.weight != 1:
            raise UserError(
                "what DoRA changes has no weight: it is more than what is added",
                where="weight",
                expected="1, with magnitude=true",
                got=self.weight,
            )
        check_rates(dropout=self.dropout)
        check_targets(self.targets, "targets")
        for key, values in (("rank", self.rank_by_target), ("alpha", self.alpha_by_target)):
            for target, value in values.items():
                if value <= 0:
                    raise UserError(
                        f"{key} must be above 0",
                        where=f"{key}_by_target.{target}",
                        expected="1 or more" if key == "rank" else "above 0",
                        got=value,
                    )

    def __hash__(self):
        values = {**vars(self)}
        values |= {name: tuple(x.items()) for name, x in values.items() if isinstance(x, Mapping)}
        return hash(tuple(values.items()))

    @property
    def wanted(self) -> Sequence[str]:
        """The targets, and those that have a rank or an alpha of their own."""
        return (*self.targets, *self.rank_by_target, *self.alpha_by_target)

    def rank_at(self, path: str) -> int:
        """The rank at a site."""
        found = (rank for key, rank in self.rank_by_target.items() if is_target(path, (key,)))
        return next(found, self.rank)

    def scale_at(self, path: str) -> float:
        """What the product is multiplied by at a site."""
        found = (alpha for key, alpha in self.alpha_by_target.items() if is_target(path, (key,)))
        alpha, rank = next(found, self.alpha), self.rank_at(path)
        return self.weight * alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def projection(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """y and s B A dropout(x)."""
        y = compute(x)
        if not is_target(site.path, self.targets):
            return y
        module, rank = site.module, self.rank_at(site.path)
        ins, outs = x.shape[x.ndim - module.num_in :], module.features
        axes = module.axes
        a = site.parameter("a", self._drawn(rank), (*axes[: module.num_in], None), (*ins, rank))
        b = site.parameter("b", ZEROS, (None, *axes[module.num_in :]), (rank, *outs))
        dropped = dropout(x, self.dropout, site.dropout_key(), site.batch.get("row"))
        low = product(site, dropped, a, module.num_in)
        change = (product(site, low, b, 1) * self.scale_at(site.path)).astype(y.dtype)
        if not self.magnitude:
            return y + change
        if site.is_by_row:
            raise _no_lengths(site.path, "rows of one batch with different adapters")
        length = site.parameter("m", initializers.ones, axes[module.num_in :], outs)
        kernel = site.base("kernel").astype(jnp.promote_types(x.dtype, jnp.float32))
        whole = jax.lax.stop_gradient(self._whole(site.path, kernel, a, b))
        share = length / row_lengths(whole, len(outs))
        plain = y - site.base("bias").astype(y.dtype) if module.use_bias else y
        if dropped is not x:
            plain = product(site, dropped, site.base("kernel"), module.num_in)
        share = share.astype(y.dtype)
        return y + (share - 1) * plain + share * change

    def _whole(self, path: str, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        """W + s A B, in the kernel's dtype."""
        change = jnp.tensordot(a.astype(kernel.dtype), b.astype(kernel.dtype), 1)
        return kernel + self.scale_at(path) * change

    @property
    def begun_from(self) -> Mapping[str, str]:
        """DoRA's lengths are those of the kernel's rows."""
        return {"m": "kernel"} if self.magnitude else {}

    def begin(self, name: str, own: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The lengths of a kernel's rows [*out]."""
        return row_lengths(own, len(shape))

    def embedding(self, site: Site, compute: Compute, ids: jax.Array) -> jax.Array:
        """Rows of the table and s times those of a thin one, brought to its width."""
        y = compute(ids)
        if not is_target(site.path, self.targets):
            return y
        if self.magnitude:
            raise _no_lengths(site.path, "a table")
        module, rank = site.module, self.rank_at(site.path)
        a = site.parameter("a", ZEROS, (module.axes[0], None), (module.size, rank))
        b = site.parameter("b", initializers.normal(1.0), (None, "embed"), (rank, module.width))
        low = jax.vmap(_rows)(a, ids) if site.is_by_row else _rows(a, ids)
        return y + (product(site, low, b, 1) * self.scale_at(site.path)).astype(y.dtype)

    def merge(self, path: str, own: Arrays, added: Arrays) -> dict[str, jax.Array]:
        """Kernel or table + s A B; of DoRA its rows brought to their lengths."""
        name = "embedding" if "embedding" in own else "kernel"
        change = jnp.tensordot(added["a"], added["b"], 1, precision="highest")
        whole = own[name] + self.scale_at(path) * change
        if self.magnitude:
            whole = whole * (added["m"] / row_lengths(whole, added["m"].ndim))
        return {**own, name: whole}

    def peft_config(self) -> dict[str, Any]:
        """As PEFT's LoraConfig; scales are by rank, whatever they were made of."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "bias": "none",
            "use_rslora": False,
            "use_dora": self.magnitude,
            "init_lora_weights": True,
        }

    def peft_tensors(
        self, paths: Sequence[str], parts: Sequence[Arrays | None], sizes: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """A [R, in] and B [out, R] of a module, or of a table A [R, V] and B [width, R]; of
        projections that are one there each part's beside the others', or their one A where they
        share it. `scale` is what the product is multiplied by: of parts of different scales the
        first's, and the others' B hold the rest."""
        given = [part for part in parts if part is not None]
        scales = [self.scale_at(path) for path, part in zip(paths, parts) if part is not None]
        rows = [np.moveaxis(np.asarray(part["a"]), -1, 0) for part in given]
        rows = [a.reshape(len(a), -1) for a in rows]
        columns = [np.asarray(part["b"]).reshape(len(part["b"]), -1).T for part in given]
        columns = [b if x == scales[0] else b * (x / scales[0]) for b, x in zip(columns, scales)]
        if all(np.array_equal(a, rows[0]) for a in rows[1:]):
            rows, starts = rows[:1], [0] * len(rows)
        else:
            starts = np.cumsum([0, *(len(a) for a in rows)])[:-1].tolist()
        whole = np.zeros((sum(sizes), sum(map(len, rows))), columns[0].dtype)
        top, waiting = 0, iter(zip(columns, starts))
        for part, size in zip(parts, sizes):
            if part is not None:
                b, start = next(waiting)
                whole[top : top + size, start : start + b.shape[1]] = b
            top += size
        names = ("lora_A.weight", "lora_B.weight")
        if paths[0].endswith("/tokens"):
            names = ("lora_embedding_A", "lora_embedding_B")
        found = {names[0]: np.concatenate(rows), names[1]: whole}
        if self.magnitude:
            if len(given) < len(parts):
                raise _no_lengths(paths[0], "some of the projections that are one in transformers")
            found["lora_magnitude_vector"] = np.concatenate(
                [np.asarray(part["m"]).reshape(-1) for part in given]
            )
        return {**found, "scale": np.asarray(scales[0])}

    def _drawn(self, rank: int) -> initializers.Initializer:
        def draw(key, shape, dtype=jnp.float32, out_sharding=None):
            del out_sharding
            if self.initialization == "normal":
                return jax.random.normal(key, shape, dtype) / rank
            bound = 1 / math.sqrt(math.prod(shape[:-1]))
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return draw


def row_lengths(kernel: jax.Array, num_out: int) -> jax.Array:
    """The Euclidean length [*out] of each output's row of a kernel [*in, *out]."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - num_out))))


def _no_lengths(path: str, of: str) -> UserError:
    return UserError(
        f"lengths of rows are not learnt of {of}",
        where=path,
        expected="magnitude=false",
        got="magnitude=true (DoRA)",
    )


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table, ids, axis=0)
