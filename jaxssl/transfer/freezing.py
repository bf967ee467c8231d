"""Which parameters are trained, and when, and how the stack is cut for it.

Each array is wholly trained or wholly frozen, in every stage of a run.

Frozen parameters get no gradient, no moments, no weight decay and no bytes in a checkpoint. They
are given to the step beside the state, so the backward pass ends where nothing below is trained.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax

from jaxssl.core.bounds import check_above_zero, check_at_least, check_unused
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import (
    LAYER,
    decide,
    depths,
    is_stacked,
    layer_names,
    matched,
    segments_for,
    stack_of,
)
from jaxssl.core.names import flatten, unflatten, unmatched


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which parameters are trained: a preset, and patterns that come before it.

    Patterns are over names such as `encoder/layers[3]/attention/query/kernel`; `layers[0:8]` stands
    for layers 0 to 7, `layers[-2:]` for the last two, `layers` for all. `freeze` comes before
    `train`, and both before the preset.
    """

    preset: Literal["full", "head", "top", "bias", "norms"] | None = None
    """What is trained besides adapters; null is `full`, or `head` with `peft`. `full` is all of it,
    `head` the task's head and the pooler (a linear probe), `top` those and the last layers, `bias`
    those and all biases (BitFit), `norms` those and all norms."""
    top: int = 2
    """For `top`: how many layers of each stack, counted from the last."""
    train: tuple[str, ...] = ()
    """Patterns of parameters to train whatever the preset says."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters to freeze whatever the preset says."""

    def __post_init__(self):
        check_at_least(1, self, "top")
        if self.preset != "top":
            fix = "set preset=top, or leave out top"
            check_unused(self, ["top"], where=f"with preset={self.kind}", fix=fix)

    @property
    def kind(self) -> str:
        """The preset."""
        return self.preset or "full"


@dataclass(frozen=True, kw_only=True)
class UnfreezingStage(Selection):
    """What is trained from some point of the run on: all that was before, and more."""

    epoch: float
    """When it begins, in passes over the training data; fractions too."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(self, "epoch")


@dataclass(frozen=True, kw_only=True)
class Freezing(Selection):
    """Which parameters are trained, and when more of them are."""

    stages: tuple[UnfreezingStage, ...] = ()
    """Unfreezing by schedule: what is trained from later epochs on. Each stage compiles its step
    anew; moments that are there stay, and new ones begin with a count of their own."""
    gradual: float | None = None
    """Gradual unfreezing (Howard & Ruder, 2018): after every so many epochs one more layer is
    trained, from the top down, and the embeddings at last. With preset `head` or `top`."""
    cache: bool = True
    """Where nothing below the heads is trained, encode each example once, without dropout, and
    train on what comes out. It is kept in memory."""

    def __post_init__(self):
        super().__post_init__()
        if self.gradual is not None:
            check_above_zero(self, "gradual")
            if self.stages or self.preset not in ("head", "top"):
                raise UserError(
                    "gradual unfreezing starts from the head or the top layers, without stages",
                    where="gradual",
                    expected="preset head or top, and no stages",
                    got=f"preset {self.kind}, {len(self.stages)} stages",
                )
        epochs = [stage.epoch for stage in self.stages]
        if epochs != sorted(set(epochs)):
            raise UserError(
                "the stages are not in order",
                where="stages",
                expected="rising epochs",
                got=epochs,
            )

    def selections(self, depth: int) -> list[tuple[float, Selection]]:
        """(epoch, what is trained from then on), the first at epoch 0.

        Args:
          depth: layers of the deepest stack.
        """
        start = (0.0, self)
        if self.gradual is None:
            return [start, *((stage.epoch, stage) for stage in self.stages)]
        lowest = self.top if self.preset == "top" else 0
        patterns = Selection(train=self.train, freeze=self.freeze)
        later = [replace(patterns, preset="top", top=top) for top in range(lowest + 1, depth + 1)]
        later.append(replace(patterns, preset="full"))
        return [start, *((self.gradual * i, one) for i, one in enumerate(later, start=1))]


def make_rules(
    config: Selection, heads: Sequence[str], networks: Sequence[str] = ()
) -> list[tuple[str, bool]]:
    """(pattern, whether it is trained), first match wins; what none matches is frozen.

    Args:
      heads: the paths of all heads.
      networks: the names of those beside the main one.
    """
    leads = ("", *(f"{name}/" for name in networks))
    norms = [(f"{lead}{name}/**", True) for lead in leads for name in ("norm", "decoder_norm")]
    rules = [(pattern, False) for pattern in config.freeze]
    rules += [(pattern, True) for pattern in config.train]
    if config.kind == "full":
        return [*rules, ("**", True)]
    rules += [(f"{head}/**", True) for head in (*heads, *(f"{lead}pooler" for lead in leads))]
    rules += {
        "head": [],
        "top": [(f"**/layers[-{config.top}:]/**", True), *norms],
        "bias": [("**/bias", True)],
        "norms": [("**/norm/**", True), ("**/*_norm/**", True), *norms],
    }[config.kind]
    return rules


def choose(
    config: Selection,
    params: Mapping[str, Any],
    heads: Sequence[str],
    networks: Sequence[str] = (),
) -> dict[str, bool]:
    """{layer name: whether it is trained} of parameters whose stacks are in one segment.

    Args:
      params: the model's parameters (or shapes), not cut in segments, unboxed.
      heads: the task's heads.

    Raises:
      UserError: a pattern matches nothing, more layers than there are, nothing is trained, or a
        preset finds nothing in this model.
    """
    names = _names(params)
    for where, patterns in (("train", config.train), ("freeze", config.freeze)):
        for pattern in patterns:
            if not matched(pattern, names):
                raise unmatched(pattern, names, f"freezing.{where}")
    deepest = _deepest(names)
    if config.preset == "top" and config.top > deepest:
        raise UserError(
            "there are not so many layers",
            where="freezing.top",
            expected=f"at most {deepest}",
            got=config.top,
        )
    decisions = decide(make_rules(config, heads, networks), names, False)
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
            got=f"preset {config.kind}, freeze {list(config.freeze)}",
        )
    return decisions


def choose_stages(
    config: Freezing,
    params: Mapping[str, Any],
    heads: Sequence[str],
    networks: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> list[tuple[float, dict[str, bool]]]:
    """(epoch, `choose`) of each stage of the schedule, the first at epoch 0.

    Args:
      networks: the names of those beside the main one.
      fixed: those of them that no stage trains, such as a teacher.

    Raises:
      UserError: as `choose`; a stage freezes what was trained before it, or trains nothing more.
    """
    never = dict.fromkeys(_names({name: params[name] for name in fixed}), False)
    params = {name: x for name, x in params.items() if name not in fixed}
    stages = [
        (epoch, {**choose(selection, params, heads, networks), **never})
        for epoch, selection in config.selections(_deepest(_names(params)))
    ]
    for (_, before), (epoch, after) in zip(stages, stages[1:]):
        frozen_again = [name for name, value in before.items() if value and not after[name]]
        if frozen_again or before == after:
            raise UserError(
                "a stage of unfreezing must train all that was trained before, and more",
                where=f"freezing.stages, epoch {epoch:g}",
                expected="more parameters",
                got=f"no longer {frozen_again[0]}" if frozen_again else "the same parameters",
            )
    return stages


def _names(params: Mapping[str, Any]) -> list[str]:
    """The names of all layers, and of what is in none."""
    flat = flatten(params)
    return [name for path, leaf in flat.items() for name in layer_names(path, _depth(path, leaf))]


def _deepest(names: Sequence[str]) -> int:
    return max(depths(names).values(), default=0)


def _is_body(name: str, heads: Sequence[str]) -> bool:
    return "pooler" not in name.split("/")[:2] and not name.startswith(
        tuple(f"{head}/" for head in heads)
    )


def below(first: Mapping[str, int], decisions: Mapping[str, bool]) -> dict[str, bool]:
    """A decision over the same names that takes the layers below one of each stack, so that `cut`
    cuts there.

    Args:
      first: {stack: the layer}; of other stacks all are taken.
    """
    found = {name: LAYER.search(name) for name in decisions}
    limit = {name: first.get(stack_of(name) or "", math.inf) for name in decisions}
    return {name: at is not None and int(at[1]) < limit[name] for name, at in found.items()}


def cut(decisions: Sequence[Mapping[str, bool]]) -> dict[str, tuple[int, ...]]:
    """{stack: its segments} for these choices (one a stage), of stacks that one will not do for."""
    segments = segments_for(decisions)
    return {stack: sizes for stack, sizes in segments.items() if len(sizes) > 1}


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
