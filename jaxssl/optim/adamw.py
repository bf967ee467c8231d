"""AdamW with weight decay by parameter name, with or without bias correction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical
from jaxssl.core.names import matches, unmatched
from jaxssl.core.precision import Float
from jaxssl.core.widen import widen
from jaxssl.optim.groups import GroupOf, by_group
from jaxssl.optim.layerwise import scale_by_depth
from jaxssl.optim.schedules import Schedule, make_schedule

NO_DECAY = ("**/bias", "**/scale")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"
    """The optimizer."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    bias_correction: bool = True
    """Divide the moments by 1 - b^t. The original BERT did not."""
    weight_decay: float = 0.01
    """Decay of the weights, times the learning rate, each step."""
    no_decay: tuple[str, ...] = NO_DECAY
    """Patterns of parameters without weight decay; each must match something."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; null does not clip."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below it, 0.65 to 0.95 (or 1 / 2.6:
    ULMFiT's discriminative rates); null is one rate for all."""
    electra_bug: bool = False
    """With `layer_decay`: one power more below the heads, as in ELECTRA's published code."""
    moment_dtype: Float | None = None
    """Dtype of the first moment; null is float32, as the second's always is."""

    def __post_init__(self):
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    "a decay is out of range",
                    where=name,
                    expected="at least 0 and below 1",
                    got=getattr(self, name),
                )
        check_at_least(0, self, "learning_rate", "weight_decay")
        check_above_zero(self, "epsilon", "clip_norm", "layer_decay")


def parameter_names(params: Mapping[str, Any]) -> Any:
    """A tree like `params` (boxed or not) with each leaf's name, `encoder/layers/.../kernel`."""

    def name(path, _):
        return "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))

    return jax.tree.map_with_path(name, params)


def decay_mask(patterns: tuple[str, ...], params: Mapping[str, Any]) -> Any:
    """True where weight decay applies: parameters that no pattern matches.

    Names are those of an uncut stack, `encoder/layers/...`, whatever the segments of `params`.
    """
    spared = lambda name: any(matches(pattern, canonical(name)) for pattern in patterns)
    return jax.tree.map(lambda name: not spared(name), parameter_names(params))


def check_no_decay(patterns: tuple[str, ...], params: Mapping[str, Any]) -> None:
    """Refuses patterns that match nothing in a model's parameters; those by default may.

    Args:
      params: all of the model's, also what is frozen.

    Raises:
      UserError: suggests the nearest name.
    """
    names = list(map(canonical, jax.tree.leaves(parameter_names(params))))
    for pattern in patterns:
        if pattern not in NO_DECAY and not any(matches(pattern, name) for name in names):
            raise unmatched(pattern, names, "optimizer.no_decay")


def make_optimizer(
    config: AdamW,
    total_steps: int,
    tokens_per_step: int,
    num_layers: int = 0,
    group_of: GroupOf | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate schedule.

    Args:
      num_layers: of the model, for `layer_decay`.
      group_of: parameters whose moments have a count of their own, by path; None is one for all.
    """
    schedule = make_schedule(config.schedule, config.learning_rate, total_steps, tokens_per_step)
    adam = scale_by_adam_uncorrected if not config.bias_correction else optax.scale_by_adam
    moments = None if config.moment_dtype is None else jnp.dtype(config.moment_dtype)
    mask = lambda params: decay_mask(config.no_decay, params)
    moved = widened(adam(b1=config.b1, b2=config.b2, eps=config.epsilon, mu_dtype=moments))
    parts = [
        moved if group_of is None else by_group(moved, group_of),
        optax.add_decayed_weights(config.weight_decay, mask=mask),
        optax.scale_by_learning_rate(schedule),
    ]
    if config.layer_decay is not None:
        parts.append(scale_by_depth(config.layer_decay, num_layers, config.electra_bug))
    if config.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts), schedule


def widened(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` over gradients in float32 at least: in bfloat16 a decay of 0.999 is 1."""
    wide = lambda tree: jax.tree.map(widen, tree)
    return optax.GradientTransformation(
        lambda params: inner.init(wide(params)),
        lambda updates, state, params=None: inner.update(wide(updates), state, params),
    )


def scale_by_adam_uncorrected(
    b1: float, b2: float, eps: float, mu_dtype: Any = None
) -> optax.GradientTransformation:
    """Adam's direction m / (sqrt(v) + eps) without bias correction (google-research/bert,
    optimization.py)."""

    def init(params):
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        mu = optax.tree.cast(mu, mu_dtype)
        return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)
