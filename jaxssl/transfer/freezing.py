"""Which parameters are trained, and how the stack is cut so that each array is wholly one or other.

Frozen parameters get no gradient, no moments, no weight decay and no bytes in a checkpoint. They
are given to the step beside the state, so the backward pass ends where nothing below is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import decide, expand, is_stacked, layer_names, segments_for
from jaxssl.core.names import flatten, matches, unflatten, unmatched


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """Which parameters are trained: a preset, and patterns that come before it.

    Patterns are over names such as `encoder/layers[3]/attention/query/kernel`; `layers[0:8]` stands
    for layers 0 to 7, `layers[-2:]` for the last two, `layers` for all. `freeze` comes before
    `train`, and both before the preset.
    """

    preset: Literal["full", "head", "top", "bias", "norms"] = "full"
    """`full` trains everything, `head` the task's head and the pooler (a linear probe), `top` those
    and the last layers, `bias` those and all biases (BitFit), `norms` those and all norms."""
    top: int = 2
    """For `top`: how many layers, counted from the last."""
    train: tuple[str, ...] = ()
    """Patterns of parameters to train whatever the preset says."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters to freeze whatever the preset says."""

    def __post_init__(self):
        check_at_least(1, self, "top")


def make_rules(config: Freezing, heads: Sequence[str]) -> list[tuple[str, bool]]:
    """(pattern, whether it is trained), first match wins; what none matches is frozen."""
    rules = [(pattern, False) for pattern in config.freeze]
    rules += [(pattern, True) for pattern in config.train]
    if config.preset == "full":
        return [*rules, ("**", True)]
    rules += [(f"{head}/**", True) for head in (*heads, "pooler")]
    rules += {
        "head": [],
        "top": [(f"*/layers[-{config.top}:]/**", True), ("norm/**", True)],
        "bias": [("**/bias", True)],
        "norms": [("**/{norm,attention_norm,feed_forward_norm}/**", True), ("norm/**", True)],
    }[config.preset]
    return rules


def choose(
    config: Freezing, params: Mapping[str, Any], heads: Sequence[str], num_layers: int
) -> dict[str, bool]:
    """{layer name: whether it is trained} of parameters in one segment.

    Args:
      params: the model's parameters (or shapes), not cut in segments, unboxed.
      heads: the task's heads.

    Raises:
      UserError: a pattern matches nothing, more layers than there are, nothing is trained, or a
        preset finds nothing in this model.
    """
    names = [
        name for path, leaf in flatten(params).items() for name in _names(path, leaf, num_layers)
    ]
    for where, patterns in (("train", config.train), ("freeze", config.freeze)):
        for pattern in patterns:
            if not any(matches(expand(pattern, num_layers), name) for name in names):
                raise unmatched(pattern, names, f"freezing.{where}")
    if config.preset == "top" and config.top > num_layers:
        raise UserError(
            "there are not so many layers",
            where="freezing.top",
            expected=f"at most {num_layers}",
            got=config.top,
        )
    decisions = decide(make_rules(config, heads), names, num_layers, False)
    body = [name for name, value in decisions.items() if value and _is_body(name, heads)]
    if config.preset in ("bias", "norms") and not body:
        raise UserError(
            f"this model has no {config.preset} to train",
            where="freezing.preset",
            expected="a model with some, or another preset",
            got=config.preset,
        )
    if not any(decisions.values()):
        raise UserError(
            "everything is frozen",
            where="freezing",
            expected="at least one parameter that is trained",
            got=f"preset {config.preset}, freeze {list(config.freeze)}",
        )
    return decisions


def _names(path: str, leaf: Any, num_layers: int) -> list[str]:
    return layer_names(path, leaf.shape[0] if is_stacked(path) else num_layers)


def _is_body(name: str, heads: Sequence[str]) -> bool:
    return name.split("/")[0] not in (*heads, "pooler")


def cut(decisions: Sequence[Mapping[str, bool]], num_layers: int) -> tuple[int, ...]:
    """The model's `segments` for these choices (one a stage): () where one segment will do."""
    segments = segments_for(decisions, num_layers)
    return segments if len(segments) > 1 else ()


def is_trained(decisions: Mapping[str, bool], path: str, leaf: Any) -> bool:
    """Whether a leaf of the model, cut in segments, is trained."""
    values = {decisions[name] for name in layer_names(path, _depth(path, leaf))}
    assert len(values) == 1, f"{path} is trained in part"
    return values.pop()


def _depth(path: str, leaf: Any) -> int | None:
    return leaf.shape[0] if is_stacked(path) else None


def trained_mask(decisions: Mapping[str, bool], params: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of booleans like `params`, True where trained: for plain Optax, say."""
    return unflatten(
        {path: is_trained(decisions, path, leaf) for path, leaf in flatten(params).items()}
    )


def count(params: Mapping[str, Any]) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
