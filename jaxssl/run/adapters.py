"""The adapters of a run: whether they fit the model, and what they have trained."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.layer_names import ADAPTERS, changed_by, layer_names, matched, stack_of
from jaxssl.core.names import flatten, matches
from jaxssl.data.config import DataConfig, StoreConfig
from jaxssl.data.loader import Data
from jaxssl.data.store.documents import Documents
from jaxssl.data.store.pairs import Pairs
from jaxssl.models.adapters import Adapter, Attached, Compute, Site
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, check_length
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.feeds import Opened
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.peft.base import ALL_LINEAR, Arrays, Method
from jaxssl.transfer.peft.merge import by_module
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
        if not method.is_stored and (method.frozen or method.from_):
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
                raise _no_target(model, method, target, own, where)
        body = [path for path in paths if _is_of_body(path, model)]
        _check_layers(method, own, _depths(model), where)
        trained = method.trains_beside(sorted(own))
        is_found = bool(_matching(trained, _names(model, body)))
        if own and trained and not is_found:
            raise UserError(
                "what is changed has no biases that could be trained",
                where=f"{where}.bias",
                expected="none, in this model",
                got=f"no parameter {trained[0]}",
            )
        if not own and not method.uses and not is_found:
            raise UserError(
                f"this model has nothing that {method.name} changes",
                where=where,
                expected="parameters " + " or ".join(method.trains)
                if method.trains
                else "a model with such a part",
                got=f"none, of model.name={config.model.name}",
                fix="choose another method, such as lora",
            )


def _check_layers(
    method: Method, modules: Iterable[str], depths: Mapping[str, int], where: str
) -> None:
    """Refuses layers that no stack has where it changes something."""
    deepest = max((depths.get(stack_of(module) or "", 0) for module in modules), default=0)
    missing = [layer for layer in method.changed_layers or () if layer >= deepest]
    if missing and deepest:
        raise UserError(
            "the model has no such layer",
            where=f"{where}.layers",
            expected=f"0 to {deepest - 1}",
            got=", ".join(map(str, missing)),
        )


def _depths(model: Model) -> dict[str, int]:
    return {stack.name: stack.depth for stack in model.stacks}


def _names(model: Model, paths: Iterable[str]) -> list[str]:
    """The names of all layers of these parameters, of an uncut model."""
    depths = _depths(model)
    sizes = ((path, depths.get(changed_by(stack_of(path) or ""))) for path in paths)
    return [name for path, size in sizes for name in layer_names(path, size)]


def _matching(patterns: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """The patterns that match some name."""
    return tuple(pattern for pattern in patterns if matched(pattern, names))


def check_leads(config: RunConfig, model: Model, opened: Mapping[str, Opened]) -> None:
    """Refuses what the positions that adapters leave do not suffice for, and tokens before each
    text where rows of several texts have no room for them.

    Raises:
      UserError: says how long rows may be, or which rows to take.
    """
    for name, stream in config.all_streams.items():
        check_lead(model, stream, opened[name].splits["train"], f"streams.{name}." if name else "")


def check_lead(model: Model, stream: StreamConfig, data: Data | None, before: str = "") -> None:
    """As `check_leads`, of one stream.

    Args:
      data: its rows; of a token store its configuration says enough.
      before: what comes before its settings.

    Raises:
      UserError: says how long rows may be, or which rows to take.
    """
    if not model.taken:
        return
    length, key = stream.data.longest
    check_length(model.config, length, key, lead=model.taken)
    if not model.lead or model.config.causal or not _holds_several(stream.data, data):
        return
    is_store, adapters = isinstance(stream.data, StoreConfig), model.adapters
    raise UserError(
        "each text has tokens of an adapter before it, and rows hold several",
        where=f"{before}data.rows" if is_store else "task.packing",
        expected="rows of one text each, for models that see both ways",
        got=f"peft {', '.join(x.name for x in adapters if x.method.lead)}",
        fix=f"set {before}data.rows.name=documents" if is_store else "set task.packing=false",
    )


def _holds_several(config: DataConfig, data: Any) -> bool:
    if isinstance(config, StoreConfig):
        return not isinstance(config.rows, Documents | Pairs)
    return "segment_ids" in data.examples.per_token


def _is_named(path: str, target: str) -> bool:
    return f"/{path}".endswith(f"/{target}") or matches(target, path)


def _is_of_body(path: str, model: Model) -> bool:
    return path.split("/")[0] not in (*model.head_parts, ADAPTERS, "pooler")


def _no_target(
    model: Model, method: Method, target: str, own: Iterable[str], where: str
) -> UserError:
    fields = [x.name for x in dataclasses.fields(method)]
    within = (x for x in fields if isinstance(getattr(method, x), tuple | Mapping))
    field = next((x for x in within if target in getattr(method, x)), "targets")
    where = f"{where}.{field}"
    sites = {path.split("/layers/")[-1] for path in sites_of(model)}
    if field.endswith("_by_target") and any(_is_named(site, target) for site in sites):
        return UserError(
            "this adapter does not change what a setting is for",
            where=where,
            expected="some of " + ", ".join(sorted({x.split("/layers/")[-1] for x in own})),
            got=target,
            fix="name it in targets, too",
        )
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
    whole = unbox(uncut(model).abstract())
    names = _names(model, flatten(whole))
    added = by_module(whole.get(ADAPTERS, {}), model.adapters)
    named = [
        pattern
        for name, method in config.peft.items()
        for pattern in method.trains_beside(sorted(added.get(name, {})))
    ]
    patterns = [*_matching(dict.fromkeys(named), names)]
    if ADAPTERS in whole:
        patterns.insert(0, f"{ADAPTERS}/**")
    fresh = {str(entry.target).split("/")[0] for entry in start.entries if entry.action == "fresh"}
    language = {head.name for head in model.heads if head.use is not None}
    heads = [head for head in heads if head not in language or head in fresh]
    preset, train = chosen.preset or "head", (*chosen.train, *patterns)
    freeze = _matching(_frozen(config, model, added), names)
    stages = tuple(
        dataclasses.replace(stage, freeze=(*stage.freeze, *freeze)) for stage in chosen.stages
    )
    freeze = (*chosen.freeze, *freeze)
    changes = {"preset": preset, "train": train, "freeze": freeze, "stages": stages}
    return dataclasses.replace(chosen, **changes), heads


def _frozen(
    config: RunConfig, model: Model, added: Mapping[str, Mapping[str, Arrays]]
) -> Iterator[str]:
    """Patterns of the adapters' parameters that are not trained: those that are kept as they begin,
    and all in layers that are not changed.

    Args:
      added: {adapter: {module: its parameters, by name}}.
    """
    deepest = max(_depths(model).values(), default=0)
    for name, method in config.peft.items():
        if method.frozen:
            yield own_parameters(name)
        leaves = sorted({leaf for arrays in added.get(name, {}).values() for leaf in arrays})
        yield from (f"{ADAPTERS}/**/{name}_{leaf}" for leaf in method.fixed)
        for layer in range(deepest):
            if method.changed_layers is not None and layer not in method.changed_layers:
                yield f"{ADAPTERS}/**/layers[{layer}]/**/{name}_{{{','.join(leaves)}}}"


def rate_factors(config: RunConfig, model: Model, start: Start) -> Callable[[str], float] | None:
    """What the learning rate of each parameter is multiplied with, by path: of an adapter's, and of
    those of the model that its method trains, by the method; of heads that are trained with
    adapters, and the pooler, by the largest `learning_rate_factor`. All others, such as top layers
    that are thawed besides, have the optimizer's own. None without adapters."""
    if not config.peft:
        return None
    learning = [method for method in config.peft.values() if not method.frozen]
    fastest = max((method.learning_rate_factor for method in learning), default=1.0)
    longest_first = sorted(config.peft, key=len, reverse=True)
    heads = (*trained_with_adapters(config, model, start)[1], "pooler")
    added = by_module(unbox(uncut(model).abstract()).get(ADAPTERS, {}), model.adapters)
    beside = [
        (pattern, method.learning_rate_factor)
        for name, method in config.peft.items()
        for pattern in method.trains_beside(sorted(added.get(name, {})))
    ]

    def factor(path: str) -> float:
        if path.startswith(f"{ADAPTERS}/"):
            leaf = path.rsplit("/", 1)[1]
            name = next(name for name in longest_first if leaf.startswith(f"{name}_"))
            return config.peft[name].rate_factor(leaf.removeprefix(f"{name}_"))
        if path.split("/")[0] in heads:
            return fastest
        names = _names(model, [path])
        return max((rate for pattern, rate in beside if matched(pattern, names)), default=1.0)

    return factor


def own_parameters(name: str) -> str:
    """A pattern over the parameters of an adapter."""
    return f"{ADAPTERS}/**/{name}_*"
