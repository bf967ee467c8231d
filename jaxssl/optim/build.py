"""From the settings of an optimizer to the optimizer."""

import functools
from collections.abc import Mapping

import jax
import optax

from jaxssl.core.upcast import upcast
from jaxssl.optim.base import Optimizer
from jaxssl.optim.factors import FactorOf, scale_by_path
from jaxssl.optim.groups import GroupOf, by_group
from jaxssl.optim.layerwise import scale_by_depth
from jaxssl.optim.weight_decay import decay_mask


def make_optimizer(
    config: Optimizer,
    total_steps: int,
    tokens_per_step: int | None,
    depths: Mapping[str, int] | None = None,
    group_of: GroupOf | None = None,
    factor_of: FactorOf | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate schedule.

    Args:
      total_steps: of the whole run.
      tokens_per_step: that the rows of a step have room for, for schedules in tokens.
      depths: {stack: its layers}, for `layer_decay`.
      group_of: parameters whose moments have a count of their own, by path; None is one for all.
        With groups, an update may leave whole groups out (`groups.by_group`).
      factor_of: what the learning rate of a parameter is multiplied with, by path; None is 1.
    """
    schedule = config.schedule.make(config.learning_rate, total_steps, tokens_per_step)
    direction = widened(config.direction())
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts += [
        direction if group_of is None else by_group(direction, group_of),
        optax.add_decayed_weights(
            config.weight_decay, mask=functools.partial(decay_mask, config.no_decay)
        ),
        optax.scale_by_learning_rate(schedule),
    ]
    if config.layer_decay is not None:
        parts.append(scale_by_depth(config.layer_decay, depths or {}, config.electra_bug))
    if factor_of is not None:
        parts.append(scale_by_path(factor_of))
    return optax.chain(*parts), schedule


def widened(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` over gradients in float32 at least: in bfloat16 a decay of 0.999 is 1."""

    def init(params):
        return inner.init(jax.tree.map(upcast, params))

    def update(updates, state, params=None):
        return inner.update(jax.tree.map(upcast, updates), state, params)

    return optax.GradientTransformation(init, update)
