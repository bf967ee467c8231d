"""LoRA (Hu et al., 2021): to a projection's output is added what x gives through two thin matrices.

y = W x + b + s B A dropout(x), with s = alpha / rank, or alpha / sqrt(rank) (Kalajdzievski, 2023).

DoRA (Liu et al., 2024) learns how long each output's row is beside where it points: with
V = W + s B A, z = dropout(x) and m, which begins as the lengths of W,
y = W x + b + (m / |V| - 1) W z + (m / |V|) s B A z. No gradient flows through |V|.

PiSSA (Meng et al., 2024) and OLoRA (Büyükakyüz, 2024) begin with A0 and B0 out of W, and
y = W x + b + s (B A - B0 A0) x. Their A and B are kept as what they differ by from A0 and B0: with
a = A - A0 and b = B - B0 both zero at first, B A - B0 A0 = b A + B0 a, which is exactly zero then,
in any dtype, and no large products cancel. A0 and B0 lie beside them and are not trained.

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

ZEROS, ONES = initializers.zeros, initializers.ones


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
    initialization: Literal["uniform", "normal", "orthogonal", "pissa", "olora"] = "uniform"
    """How the matrices begin; nothing is changed at first. The first is drawn from
    U(-1/sqrt(in), 1/sqrt(in)) (`uniform`) or N(0, 1/rank^2) (`normal`), and the second is zero; or
    each is drawn from N(0, 1/100) in one half of the rank and zero in the other (`orthogonal`); or
    they are the base's largest singular vectors (`pissa`), or the first columns and rows of its QR
    decomposition (`olora`), less what they are at first."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases of the model that are trained besides: all, or those of the changed projections."""
    layers: tuple[int, ...] | None = None
    """The layers of each stack that are changed, counted from 0; null is all. Several ranks or
    alphas, by layer: several adapters, each with its layers."""
    rank_by_target: Mapping[str, int] = field(default_factory=dict)
    """Other ranks, by target: {feed_forward/up: 32}. The first that fits counts."""
    alpha_by_target: Mapping[str, float] = field(default_factory=dict)
    """Other alphas, by target."""
    second_factor: float = 1.0
    """Learning rate of the second matrix over that of the first; 16 in LoRA+ (Hayou et al.,
    2024)."""
    weight: float = 1.0
    """Of what is added, too: a run's own, also of an adapter that was trained elsewhere."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "rank")
        check_above_zero(self, "alpha", "second_factor", "weight")
        if self.magnitude and self.weight != 1:
            raise UserError(
                "what DoRA changes has no weight: it is more than what is added",
                where="weight",
                expected="1, with magnitude=true",
                got=self.weight,
            )
        check_rates(dropout=self.dropout)
        self._check_even()
        self._check_layers()
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

    def rate_factor(self, parameter: str) -> float:
        """The second matrix has a factor of its own."""
        own = self.second_factor if parameter == "b" else 1.0
        return self.learning_rate_factor * own

    def _check_even(self) -> None:
        ranks = {"rank": self.rank}
        ranks |= {f"rank_by_target.{target}": x for target, x in self.rank_by_target.items()}
        for where, rank in ranks.items():
            if self.initialization == "orthogonal" and rank % 2:
                raise UserError(
                    "an orthogonal beginning takes an even rank, a half for each matrix",
                    where=where,
                    expected="2, 4, 6, ...",
                    got=rank,
                )

    def _check_layers(self) -> None:
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise UserError(
                "not a choice of layers",
                where="layers",
                expected="numbers from 0, or null for all layers",
                got=list(self.layers),
            )
        for where in ("targets", "rank_by_target", "alpha_by_target"):
            ranged = [target for target in getattr(self, where) if "layers[" in target]
            if ranged:
                raise UserError(
                    "targets are those of all layers, which are kept as one array",
                    where=where,
                    expected="names without numbers of layers",
                    got=", ".join(ranged),
                    fix="say which layers with `layers`; for several ranks or alphas take several "
                    "adapters, each with its layers: peft: {low: {name: lora, layers: [0, 1], "
                    "rank: 4}, high: {name: lora, layers: [2, 3], rank: 16}}",
                )

    def __hash__(self):
        values = {**vars(self)}
        values |= {name: tuple(x.items()) for name, x in values.items() if isinstance(x, Mapping)}
        return hash(tuple(values.items()))

    @property
    def wanted(self) -> Sequence[str]:
        """The targets, and those that have a rank or an alpha of their own."""
        return (*self.targets, *self.rank_by_target, *self.alpha_by_target)

    def trains_beside(self, modules: Sequence[str]) -> Sequence[str]:
        """Biases: none, all, or those of these modules in the layers that are changed."""
        if self.bias != "lora_only":
            return ("**/bias",) if self.bias == "all" else ()
        if self.layers is None:
            return [f"{module}/bias" for module in modules]
        within = [f"/layers[{layer}]/" for layer in self.layers]
        return [f"{m.replace('/layers/', part)}/bias" for part in within for m in modules]

    @property
    def changed_layers(self) -> Sequence[int] | None:
        """`layers`."""
        return self.layers

    def _is_target(self, path: str) -> bool:
        is_within = self.layers is None or "/layers/" in path
        return is_within and is_target(path, self.targets)

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
        if not self._is_target(site.path):
            return y
        module = site.module
        ins, outs = x.shape[x.ndim - module.num_in :], module.features
        first, second = self._matrices(site, ins)
        axes = module.axes[module.num_in :]
        length = site.parameter("m", ONES, axes, outs) if self.magnitude else None
        if self.is_outside("/".join(site.module.path)):
            return y
        dropped = dropout(x, self.dropout, site.dropout_key(), site.batch.get("row"))
        low = product(site, dropped, first, module.num_in)
        change = (product(site, low, second, 1) * self.scale_at(site.path)).astype(y.dtype)
        if length is None:
            return y + change
        if site.is_by_row:
            raise _no_lengths(site.path, "rows of one batch with different adapters")
        kernel = site.base("kernel").astype(jnp.promote_types(x.dtype, jnp.float32))
        whole = jax.lax.stop_gradient(self._whole(site.path, kernel, first, second))
        share = length / row_lengths(whole, len(outs))
        plain = y - site.base("bias").astype(y.dtype) if module.use_bias else y
        if dropped is not x:
            plain = product(site, dropped, site.base("kernel"), module.num_in)
        share = share.astype(y.dtype)
        return y + (share - 1) * plain + share * change

    def _matrices(self, site: Site, ins: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """The two thin matrices that are multiplied with, [*in, R] and [R, *out], or of rank 2 R;
        of several sets each row's."""
        module, rank = site.module, self.rank_at(site.path)
        ins_axes, outs_axes = module.axes[: module.num_in], module.axes[module.num_in :]

        def matrices(a: str, b: str, *drawn: initializers.Initializer) -> Arrays:
            return {
                a: site.parameter(a, drawn[0], (*ins_axes, None), (*ins, rank)),
                b: site.parameter(b, drawn[1], (None, *outs_axes), (rank, *module.features)),
            }

        if not self._has_first:
            half = self.initialization == "orthogonal"
            return _pair(matrices("a", "b", self._drawn(rank), _lower_half if half else ZEROS))
        _check_fits(site, rank, min(math.prod(ins), math.prod(module.features)))
        return _pair({**matrices("a", "b", ZEROS, ZEROS), **matrices("a0", "b0", ZEROS, ZEROS)})

    def _whole(self, path: str, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        """W + s A B, in the kernel's dtype."""
        change = jnp.tensordot(a.astype(kernel.dtype), b.astype(kernel.dtype), 1)
        return kernel + self.scale_at(path) * change

    @property
    def is_of_all_rows(self) -> bool:
        """With DoRA's lengths, and with beginnings out of the kernel."""
        return self.magnitude or self._has_first

    @property
    def _has_first(self) -> bool:
        """Whether it begins with matrices out of the kernel, which it keeps."""
        return self.initialization in ("pissa", "olora")

    @property
    def fixed(self) -> Sequence[str]:
        """The matrices that PiSSA and OLoRA begin with."""
        return ("a0", "b0") if self._has_first else ()

    @property
    def begun_from(self) -> Mapping[str, str]:
        """DoRA's lengths are those of the kernel's rows; PiSSA's and OLoRA's first matrices."""
        lengths = {"m": "kernel"} if self.magnitude else {}
        return {**lengths, **dict.fromkeys(self.fixed, "kernel")}

    def begin(self, name: str, path: str, own: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The lengths of a kernel's rows [*out], or one of its first matrices."""
        if name == "m":
            return row_lengths(own, len(shape))
        rank = shape[-1] if name == "a0" else shape[0]
        num_out = own.ndim - (len(shape) - 1) if name == "a0" else len(shape) - 1
        outs = math.prod(own.shape[own.ndim - num_out :])
        wide = own.astype(jnp.promote_types(own.dtype, jnp.float32)).reshape(-1, outs)
        if self.initialization == "olora":
            columns, rows = jnp.linalg.qr(wide.T)
            first, second = rows[:rank].T, columns[:, :rank].T
        else:
            left, values, right = jnp.linalg.svd(wide, full_matrices=False)
            roots = jnp.sqrt(values[:rank] / self.scale_at(path))
            first, second = left[:, :rank] * roots, right[:rank] * roots[:, None]
        return (first if name == "a0" else second).reshape(shape)

    def embedding(self, site: Site, compute: Compute, ids: jax.Array) -> jax.Array:
        """Rows of the table and s times those of a thin one, brought to its width."""
        y = compute(ids)
        if not self._is_target(site.path):
            return y
        if self.magnitude:
            raise _no_lengths(site.path, "a table")
        if self._has_first:
            raise _not_begun(site.path, "kernels of projections", "a table")
        module, rank = site.module, self.rank_at(site.path)
        a = site.parameter("a", ZEROS, (module.axes[0], None), (module.size, rank))
        b = site.parameter("b", initializers.normal(1.0), (None, "embed"), (rank, module.width))
        low = jax.vmap(_rows)(a, ids) if site.is_by_row else _rows(a, ids)
        return y + (product(site, low, b, 1) * self.scale_at(site.path)).astype(y.dtype)

    def merge(self, path: str, own: Arrays, added: Arrays) -> dict[str, jax.Array]:
        """Kernel or table + s A B; of DoRA its rows brought to their lengths."""
        name = "embedding" if "embedding" in own else "kernel"
        change = jnp.tensordot(*_pair(added), 1, precision="highest")
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
            "bias": self.bias,
            "use_rslora": False,
            "use_dora": self.magnitude,
            "init_lora_weights": True,
        }

    def peft_tensors(
        self, paths: Sequence[str], parts: Sequence[Arrays | None], sizes: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """A [R, in] and B [out, R] of a module (with PiSSA and OLoRA of rank 2 R), or of a table
        A [R, V] and B [width, R]; of projections that are one there each part's beside the others',
        or their one A where they share it. `scale` is what the product is multiplied by: of parts
        of different scales the first's, and the others' B hold the rest."""
        given = [part for part in parts if part is not None]
        pairs = [_pair({name: np.asarray(x) for name, x in part.items()}) for part in given]
        scales = [self.scale_at(path) for path, part in zip(paths, parts) if part is not None]
        rows = [np.moveaxis(np.asarray(a), -1, 0) for a, _ in pairs]
        rows = [a.reshape(len(a), -1) for a in rows]
        columns = [np.asarray(b).reshape(len(b), -1).T for _, b in pairs]
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
            if self.initialization == "orthogonal":
                half = jax.random.normal(key, (*shape[:-1], rank // 2), dtype) / 10
                return jnp.concatenate([half, jnp.zeros_like(half)], -1)
            bound = 1 / math.sqrt(math.prod(shape[:-1]))
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return draw


def _lower_half(key, shape, dtype=jnp.float32, out_sharding=None):
    """Where the first matrix of an orthogonal beginning is zero, the second is not: each row space
    is orthogonal to the other's, and their product is zero to the bit."""
    del out_sharding
    half = jax.random.normal(key, (shape[0] // 2, *shape[1:]), dtype) / 10
    return jnp.concatenate([jnp.zeros_like(half), half])


def _pair(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    """The two matrices of an adapter's arrays. What A and B have become since A0 and B0 is
    [A0 + a, a] times [b, B0]: two products of twice the rank, not four."""
    a, b = arrays["a"], arrays["b"]
    if "a0" not in arrays:
        return a, b
    first, second = arrays["a0"], arrays["b0"]
    join: Any = jnp.concatenate if isinstance(a, jax.Array) else np.concatenate
    return join([first + a, a], -1), join([b, second], 0)


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


def _check_fits(site: Site, rank: int, most: int) -> None:
    if site.sets is not None:
        raise _not_begun(site.path, "one set of parameters", f"{site.sets} sets of parameters")
    if rank > most:
        raise UserError(
            "a kernel has fewer singular vectors than the rank asks for",
            where=site.path,
            expected=f"a rank of at most {most}",
            got=rank,
            fix="lower the rank there (rank_by_target)",
        )


def _not_begun(path: str, expected: str, got: str) -> UserError:
    return UserError(
        "pissa and olora cannot begin here",
        where=path,
        expected=expected,
        got=got,
        fix="another initialization, or other targets",
    )


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table, ids, axis=0)
