"""The adapters of a run: whether they fit the model, and what they have trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten, matches
from jaxssl.models.adapters import Adapter, Attached, Compute, Site
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.run.config import RunConfig
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.peft.base import ALL_LINEAR, Method
from jaxssl.transfer.start import Start, uncut


def attached(peft: Mapping[str, Method]) -> tuple[Attached, ...]:
    """The adapters of a model; those that others take over are part of these.

    Raises:
      UserError: one that is not there, or is taken over twice.
    """
    used = [part for method in peft.values() for part in method.uses]
    for name, method in peft.items():
        for part in method.uses:
            if part not in peft or used.count(part) > 1:
                raise UserError(
                    "an adapter is taken over twice" if part in peft else "no such adapter",
                    where=f"peft.{name}.of",
                    expected="names of other adapters, each in one place",
                    got=part,
                    fix=None if part in peft else did_you_mean(part, peft),
                )
    return tuple(
        Attached(name, method.joined({part: peft[part] for part in method.uses}))
        for name, method in peft.items()
        if name not in used
    )


def check_adapters(config: RunConfig, model: Model) -> None:
    """Refuses a method that finds nothing to change in the model, or not all that it names.

    Raises:
      UserError: names the adapter, and what there is.
    """
    paths = list(flatten(unbox(uncut(model).abstract()))) if config.peft else []
    for name, method in config.peft.items():
        where = f"peft.{name}"
        method.check(config.model)
        if method.trains and (method.frozen or method.from_):
            raise UserError(
                f"{method.name} has no parameters of its own",
                where=where,
                expected="neither `from` nor `frozen`",
                got=f"from={method.from_}, frozen={method.frozen}",
            )
        own = {
            path.rsplit("/", 1)[0].removeprefix(f"{ADAPTERS}/")
            for path in paths
            if path.startswith(f"{ADAPTERS}/") and path.rsplit("/", 1)[1].startswith(f"{name}_")
        }
        for target in method.wanted:
            if target != ALL_LINEAR and not any(_is_named(path, target) for path in own):
                raise _no_target(model, target, where)
        body = [path for path in paths if _is_of_body(path, model)]
        if (
            not own
            and not method.uses
            and not any(matches(p, path) for p in method.trains for path in body)
        ):
            raise UserError(
                f"this model has nothing that {method.name} changes",
                where=where,
                expected="parameters " + " or ".join(method.trains)
                if method.trains
                else "a model with such a part",
                got=f"none, of model.name={config.model.name}",
                fix="choose another method, such as lora",
            )


def _is_named(path: str, target: str) -> bool:
    return f"/{path}".endswith(f"/{target}") or matches(target, path)


def _is_of_body(path: str, model: Model) -> bool:
    return path.split("/")[0] not in (*model.head_parts, ADAPTERS, "pooler")


def _no_target(model: Model, target: str, where: str) -> UserError:
    sites = {path.split("/layers/")[-1] for path in sites_of(model)}
    return UserError(
        "a target is nowhere in the model",
        where=where,
        expected="some of " + ", ".join(sorted(sites)),
        got=target,
        fix=did_you_mean(target, [*sites, *(path.rsplit("/")[-1] for path in sites)]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Listing(Adapter):
    """Changes nothing and notes where it could."""

    found: Any = dataclasses.field(default_factory=list, hash=False, compare=False)

    def projection(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        self.found.append(site.path)
        return compute(x)

    def embedding(self, site: Site, compute: Compute, ids: jax.Array) -> jax.Array:
        self.found.append(site.path)
        return compute(ids)


def sites_of(model: Model) -> list[str]:
    """The paths of all projections and tables, `encoder/layers/attention/query` and such."""
    listing = _Listing(name="listing")
    seen = dataclasses.replace(uncut(model), adapters=(Attached("listing", listing),))
    jax.eval_shape(seen.init, jax.random.key(0))
    return sorted({*listing.found})


def trained_with_adapters(
    config: RunConfig, model: Model, start: Start
) -> tuple[Freezing, Sequence[str]]:
    """What is trained, and the heads that a preset means: with adapters what their methods train
    and, of the heads, those that are a task's or begin afresh; else as configured."""
    chosen, heads = config.freezing, model.head_parts
    if not config.peft:
        return chosen, heads
    paths = flatten(model.abstract())
    named = [pattern for method in config.peft.values() for pattern in method.trains]
    patterns = [pattern for pattern in named if any(matches(pattern, path) for path in paths)]
    if ADAPTERS in model.abstract():
        patterns.insert(0, f"{ADAPTERS}/**")
    fresh = {str(entry.target).split("/")[0] for entry in start.entries if entry.action == "fresh"}
    language = {head.name for head in model.heads if head.use is not None}
    heads = [head for head in heads if head not in language or head in fresh]
    preset, train = chosen.preset or "head", (*chosen.train, *patterns)
    frozen = [own_parameters(name) for name, method in config.peft.items() if method.frozen]
    freeze = (*chosen.freeze, *frozen)
    return dataclasses.replace(chosen, preset=preset, train=train, freeze=freeze), heads


def own_parameters(name: str) -> str:
    """A pattern over the parameters of an adapter."""
    return f"{ADAPTERS}/**/{name}_*"
