"""Parameters with named axes: projections, embeddings, norms."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.core.precision import Precision
from jaxssl.models.config import NormConfig
from jaxssl.ops.codes import Coded
from jaxssl.ops.linear import linear
from jaxssl.ops.lookup import look_up
from jaxssl.ops.norms import layer_norm, rms_norm
from jaxssl.parallel import rules
from jaxssl.parallel.axes import Gathered, constrain, into_shards, ring_by_ring, scattered

Names = tuple[str | None, ...]


def parameter(
    module: nn.Module,
    name: str,
    initializer: nn.initializers.Initializer,
    axes: Names,
    shape: tuple[int, ...],
    precision: Precision,
) -> jax.Array:
    """A parameter of `module` whose axes carry their logical names."""
    if module.has_variable("params", name):  # flax traces the initializer to compare the shape
        initializer = nn.initializers.zeros
    named = nn.with_logical_partitioning(initializer, axes)
    return cast(jax.Array, module.param(name, named, shape, precision.parameters))


def axes_of(module: nn.Module, name: str, axes: Names) -> rules.Names:
    """The logical axes of a parameter of `module`, laid out as a run asks for this one."""
    return rules.rules_in_force().of_parameter("/".join((*module.path, name)), axes)


def dropout_rng(module: nn.Module) -> jax.Array | None:
    """A dropout key for this place in the model, or None in evaluation."""
    return module.make_rng("dropout") if module.has_rng("dropout") else None


def is_boxed(leaf: Any) -> bool:
    """Whether `leaf` is an array in a box, with `names` and `value`."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def unbox(tree: Any) -> Any:
    """`tree` with every box replaced by its array."""
    return nn.unbox(tree)


def truncated_normal(deviation: float) -> nn.initializers.Initializer:
    """Normal of this scale cut at two of it, not rescaled: TensorFlow's, which BERT used."""
    return nn.initializers.truncated_normal(stddev=deviation, lower=-2.0, upper=2.0)


class Projection(nn.Module):
    """A dense layer over the last `num_in` axes: [..., *in] to [..., *features]. Its kernel may be
    in codes where it is frozen."""

    features: tuple[int, ...]
    axes: Names
    """Logical names of the kernel's axes, inputs first."""
    initializer: nn.initializers.Initializer
    precision: Precision
    num_in: int = 1
    use_bias: bool = True
    wide: bool = False
    """Give float32 at least, not rounded to the compute dtype: for logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p, shape = self.precision, x.shape[x.ndim - self.num_in :] + self.features
        kernel, axes = self.get_variable("params", "kernel"), axes_of(self, "kernel", self.axes)
        summed, gathered, bias = None, None, None
        if isinstance(kernel, Coded):
            gathered = Gathered(axes)
        else:
            kernel = parameter(self, "kernel", self.initializer, self.axes, shape, p)
            summed = into_shards(axes, x.shape[: x.ndim - self.num_in])
            gathered = ring_by_ring(summed)
            kernel = scattered(kernel, axes) if summed is None else kernel
        if self.use_bias:
            zeros, axes = nn.initializers.zeros, self.axes[self.num_in :]
            bias = parameter(self, "bias", zeros, axes, self.features, p)
        out = linear(x, kernel, bias, self.num_in, self.precision, self.wide, summed, gathered)
        return checkpoint_name(out, "projection")


class Embedding(nn.Module):
    """A table [size, width], looked up by id and, where tied, used as an output projection."""

    size: int
    width: int
    axes: Names
    initializer: nn.initializers.Initializer
    precision: Precision

    def setup(self):
        shape = (self.size, self.width)
        self.embedding = parameter(
            self, "embedding", self.initializer, self.axes, shape, self.precision
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Ids [B, ...] to [B, ..., width] in the compute dtype.

        The table is gathered over its width before the look-up: left sharded, XLA would
        rematerialise it whole. Its gradient is summed in its own dtype, so it is cast after the
        look-up, where that is XLA's.
        """
        axes, compute = axes_of(self, "embedding", self.axes), self.precision.compute
        summed = into_shards(axes, ids.shape)
        if summed is not None:
            gathered = ring_by_ring(summed) or Gathered(axes)
            return look_up(self.embedding, ids, compute, gathered, summed)
        table = constrain(self.embedding, (axes[0], None))
        return jnp.take(table, ids, axis=0).astype(compute)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """[..., width] to logits [..., size], in float32 at least."""
        return linear(hidden, self.embedding.T, None, 1, self.precision, True)


class LayerNorm(nn.Module):
    """Layer normalisation with scale and, unless told otherwise, bias."""

    epsilon: float
    precision: Precision
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, p, bias = x.shape[-1:], self.precision, None
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), shape, p)
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), shape, p)
        return layer_norm(x, scale, bias, self.epsilon)


class RmsNorm(nn.Module):
    """Root mean square normalisation with scale."""

    epsilon: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, p = x.shape[-1:], self.precision
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), shape, p)
        return rms_norm(x, scale, self.epsilon)


def make_norm(config: NormConfig, precision: Precision, name: str | None = None) -> nn.Module:
    """A norm of the network's type."""
    if config.type == "rms":
        return RmsNorm(config.epsilon, precision, name=name)
    return LayerNorm(config.epsilon, precision, config.type == "layer", name=name)
