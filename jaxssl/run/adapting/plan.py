"""The configuration of a run that adapts another: an ordinary one, with changes on top."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.run.adapting.request import Request, is_alike, old_stream, rotary_field
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.networks import untrained
from jaxssl.run.recipes import load_config
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.regularize import Regularization

NEW, OLD = "new", "old"
"""The streams of a run that also reads the old domain."""
SCHEDULE = {"name": "cosine", "warmup": 0.05, "floor": 0.1}
"""The learning rate rises to the run's own peak again, and falls to a tenth of it (Ibrahim et al.,
2024). The share of the warm-up is larger than theirs: runs here are shorter."""
OFTEN = 0.1
"""Epochs of the new domain between validations."""


def configured(
    request: Request, base: RunConfig, store: str, old: str | None, pieces: int
) -> RunConfig:
    """The configuration of the run to make.

    Args:
      base: that of the run to go on from.
      store: the new domain's token store; it need not be there.
      pieces: how many its tokenizer has.
      old: the old domain's, to validate on and to replay by its share; None reads none of it.

    Raises:
      UserError: a mistake in the changes.
    """
    defaults = {
        "optimizer": {**_plain(base.optimizer), "schedule": SCHEDULE},
        "train": {"epochs": 1, "seed": base.train.seed, "accumulation": base.train.accumulation},
        "evaluation": {"every_epochs": OFTEN},
        "precision": _plain(base.precision),
        "samples": _plain(base.samples),
    }
    recipes = [x for x in request.changes if "=" not in x]
    changes = [x for x in request.changes if "=" in x]
    layer = {
        "out": str(request.out),
        "init": {"from": str(request.run), **_growth(request)},
        "model": _model(request, base, pieces),
        "networks": _networks(request, base),
        **_streams(request, base, store, old),
    }
    streams = [*(layer.get("streams") or ())]
    return load_config([layer, *recipes], [*_per_stream(changes, streams)], defaults)


def of_store(stream: StreamConfig, store: str, length: int | None = None) -> StreamConfig:
    """A stream of a run over another token store, with rows of its length or of another one."""
    data = stream.data.of_store(store)
    if length is not None:
        data = dataclasses.replace(data, sequence_length=length)
    return dataclasses.replace(stream, data=data, weight=1.0, validation="validation")


def notes(request: Request, base: RunConfig, config: RunConfig) -> list[str]:
    """What is told of a plan: what the run to go on from had, and the new one has not."""
    chosen, stream = old_stream(base, request.stream)
    found, run = [], request.run
    others = [name for name, other in base.streams.items() if not is_alike(other, stream)]
    if others:
        found.append(f"{run} goes on with its stream {chosen} alone, without {', '.join(others)}")
    moved: dict[str, float] = {}
    _held(_plain(stream.objective), "objective", moved)
    if moved:
        held = ", ".join(f"{key}={value:g}" for key, value in moved.items())
        found.append(f"what moved over the steps of {run} stays where it ended: {held}")
    dropped = _dropped(base, config)
    if dropped:
        found.append(
            f"{run} had {', '.join(dropped)}; not taken over, give them again where they are wanted"
        )
    given = any(change.startswith("optimizer.learning_rate=") for change in request.changes)
    rate = config.optimizer.learning_rate
    if base.imported is not None and not given and rate == base.optimizer.learning_rate:
        found.append(
            f"{run} was trained elsewhere, and no old peak of the learning rate is known: it rises "
            f"to {rate:g} (optimizer.learning_rate)"
        )
    return [f"note: {text}" for text in found]


def _dropped(base: RunConfig, config: RunConfig) -> list[str]:
    """The keys of what the old run had, and is no part of an adaptation unless it is asked for."""
    values = {
        "freezing": (base.freezing, config.freezing, Freezing()),
        "regularization": (base.regularization, config.regularization, Regularization()),
        "train.ema": (base.train.ema, config.train.ema, None),
    }
    return [key for key, (had, has, usual) in values.items() if had != usual and has == usual]


def _held(plain: Any, key: str, moved: dict[str, float]) -> Any:
    """Plain values with a number in the place of each that moves over steps, the one it ends at;
    these go into `moved`, by their keys. The steps are those of a run that is over."""
    if isinstance(plain, Mapping):
        if [*plain] == ["points"]:
            moved[key] = plain["points"][-1][1]
            return moved[key]
        return {name: _held(value, f"{key}.{name}", moved) for name, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_held(value, f"{key}[{i}]", moved) for i, value in enumerate(plain)]
    return plain


def _plain(part: Any) -> dict[str, Any]:
    return configuration.to_dict(part)


def _growth(request: Request) -> dict[str, str]:
    """How what is new begins."""
    pieces = {} if request.pieces is None else {"new_pieces": "mean"}
    positions = {} if request.length is None else {"new_positions": request.positions}
    return {**pieces, **positions}


def _model(request: Request, base: RunConfig, pieces: int) -> dict[str, Any]:
    """What the model has otherwise."""
    changed: dict[str, Any] = {"vocab_size": max(base.model.vocab_size, pieces)}
    if request.length is not None:
        changed["max_positions"] = max(base.model.max_positions, request.length)
    if request.rotary_base is not None:
        changed[str(rotary_field(base))] = request.rotary_base
    own = {key: getattr(base.model, key) for key in changed}
    return {key: value for key, value in changed.items() if value != own[key]}


def _networks(request: Request, base: RunConfig) -> dict[str, Any]:
    """The networks beside the main one: those that the run trained go on from it too, and others
    from where they started."""
    fixed, found = untrained(base), {}
    wanted = old_stream(base, request.stream)[1].objective.networks(base.model)
    for name, network in base.networks.items():
        if name not in wanted:
            continue
        if name in fixed:
            found[name] = _plain(network)
        else:
            found[name] = {"init": {"from": str(request.run), "network": name, **_growth(request)}}
    return found


def _streams(request: Request, base: RunConfig, store: str, old: str | None) -> dict[str, Any]:
    """What it is trained on: one stream, or two by turns."""
    stream = old_stream(base, request.stream)[1]
    new = of_store(stream, store, request.length)
    objective = _held(_plain(stream.objective), "objective", {})
    if old is None:
        return {"objective": objective, "data": _plain(new.data)}
    both = {NEW: (store, 1 - request.share), OLD: (old, request.share)}
    return {
        "mixture": {"name": "by_turns"},
        "streams": {
            name: {
                "objective": objective,
                "data": _plain(of_store(stream, place, request.length).data),
                "weight": weight,
            }
            for name, (place, weight) in both.items()
        },
    }


def _per_stream(changes: Iterable[str], streams: Iterable[str]) -> list[str]:
    """Changes in which `data.` and `objective.` are those of each stream."""
    streams, found = [*streams], []
    for change in changes:
        key = change.partition("=")[0]
        if key in ("out", "init.from", "data.store", "data"):
            raise UserError(
                "this is settled by the command itself",
                where=key,
                expected="changes of the run, such as train.steps=1000",
                got=change,
                fix="use --out" if key == "out" else "give RUN, --corpus or --store, and --replay",
            )
        is_shared = streams and key.partition(".")[0] in ("data", "objective")
        found += [f"streams.{name}.{change}" for name in streams] if is_shared else [change]
    return found


def replayed(config: RunConfig) -> float:
    """The share of the steps that the old domain has."""
    streams: Mapping[str, StreamConfig] = config.streams
    if OLD not in streams:
        return 0.0
    weights = {name: float(stream.weight) for name, stream in streams.items()}  # type: ignore
    return weights[OLD] / sum(weights.values())
