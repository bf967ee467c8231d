"""The networks of a run: the main one, and those that its objectives have beside it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.ledger import Entry
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.names import flatten, matches
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network, Tie
from jaxssl.objectives.union import unite_networks
from jaxssl.run.adapters import attached
from jaxssl.run.config import NetworkConfig, RunConfig, StreamConfig

RESERVED = ("adapters", "embeddings", "encoder", "decoder", "norm", "pooler")
RESERVED += ("decoder_embeddings", "decoder_norm")
"""Names at the root of the parameters that are no network's."""


def declared(config: RunConfig) -> dict[str, Network]:
    """What the objectives of a run want beside the main network."""
    return unite_networks(objective.networks(config.model) for objective in config.objectives)


def with_networks(config: RunConfig) -> RunConfig:
    """The configuration with the shape of each network in it, so that a run directory tells it.

    Raises:
      UserError: a network that no objective has, one of no known shape, or of two, or of a shape
        that an objective cannot be trained with.
    """
    wanted = {name: network for name, network in declared(config).items() if name}
    for name in config.networks:
        if name not in wanted:
            raise UserError(
                "no objective of this run has such a network",
                where="networks",
                expected=", ".join(wanted) or "none",
                got=name,
                fix=did_you_mean(name, wanted),
            )
    filled = {}
    for name, network in wanted.items():
        given = config.networks.get(name, NetworkConfig())
        model = given.model if network.config is None else network.config
        is_started = given.init is not None  # from another shape: the ledger has the say
        is_other = given.model is not None and not is_started and not _alike(given.model, model)
        if model is None or is_other:
            raise UserError(
                "the shape of a network is not known"
                if model is None
                else "a network has another shape than its objective wants",
                where=f"networks.{name}.model",
                expected="a model, or networks.NAME.init.from" if model is None else model,
                got=given.model,
                fix=f"set networks.{name}.init.from=RUN" if model is None else None,
            )
        filled[name] = dataclasses.replace(given, model=model)
    config = dataclasses.replace(config, networks=filled)
    for stream in config.all_streams.values() if filled else ():
        _check_shapes(config.model, stream, {name: each.model for name, each in filled.items()})
    return config


def _check_shapes(model: ModelConfig, stream: StreamConfig, shapes: Mapping[str, Any]) -> None:
    """Refuses networks that cannot read a stream's rows, or that its objective has no use for."""
    objective, length = stream.objective, stream.data.longest[0]
    for name in objective.networks(model):
        if name and length > shapes[name].max_positions:
            raise UserError(
                "a network has fewer positions than rows have tokens",
                where=stream.data.longest[1],
                expected=f"at most networks.{name}.model.max_positions="
                f"{shapes[name].max_positions}",
                got=length,
                fix="shorten the rows, or take a network that has more positions",
            )
    objective.check_networks(model, shapes)


def _alike(one: Any, other: Any) -> bool:
    """Whether two shapes are one but for how they are computed."""
    if one is None or other is None or type(one) is not type(other):
        return False
    return one == dataclasses.replace(other, remat=one.remat, unroll=one.unroll)


def make_model(config: RunConfig) -> Model:
    """The model of a run, with all its networks; `with_networks` has given their shapes.

    Raises:
      UserError: a name that is taken, or a tie to what is not there.
    """
    wanted = declared(config)
    main = wanted.pop("", Network())
    if main != Network(ties=main.ties):
        raise UserError(
            "of the main network an objective says alone what it borrows",
            where='networks(model)[""]',
            expected="ties and nothing else; its heads are the objective's `heads`",
            got=main,
        )
    adapters = attached(config.peft)
    model = Model(config.model, config.heads, config.precision, ties=main.ties, adapters=adapters)
    others = []
    for name, network in wanted.items():
        shape = config.networks[name].model
        assert shape is not None, name
        others.append(Model(shape, network.heads, config.precision, root=name, ties=network.ties))
    model = dataclasses.replace(model, others=tuple(others))
    _check(model)
    return model


def _check(model: Model) -> None:
    for head in model.heads:
        if head.name in RESERVED:
            raise UserError(
                "a head has the name of another part of the model",
                where="objective.head",
                expected=f"another name than {', '.join(RESERVED)}",
                got=head.name,
            )
    taken = (*RESERVED, *(head.name for head in model.heads))
    for other in model.others:
        if other.root in taken or "/" in other.root:
            raise UserError(
                "a network has a name that is taken",
                where="networks",
                expected=f"another name than {', '.join(taken)}, without a slash",
                got=other.root,
            )
    if any(network.ties for network in model.networks.values()):
        _check_ties(model)


def _check_ties(model: Model) -> None:
    """Refuses a tie of what is not there, or of another shape."""
    whole = flatten(unbox(model.abstract()))
    for network in model.networks.values():
        free = dataclasses.replace(network, root="", ties=())
        own = flatten(unbox(free.abstract()))
        for tie in network.ties:
            mine, theirs = _below(tie.own, own), _below(tie.of, whole)
            if not mine or mine != {path: theirs.get(path) for path in mine}:
                raise _wrong_tie(network.root, tie, mine, theirs)


def _below(part: str, flat: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """{path after `part`: shape and dtype}."""
    return {
        path.removeprefix(part): (x.shape, x.dtype.name)
        for path, x in flat.items()
        if path == part or path.startswith(f"{part}/")
    }


def _wrong_tie(network: str, tie: Tie, mine: Mapping, theirs: Mapping) -> UserError:
    return UserError(
        "a network cannot borrow these parameters",
        where=f"{network or 'the main network'}: {tie.own}, which is {tie.of}",
        expected=f"the same shapes: {dict(mine)}",
        got=dict(theirs) or "nothing there",
    )


def inits(config: RunConfig) -> dict[str, InitConfig | None]:
    """What each network starts from; the main one's name is empty."""
    return {"": config.init, **{name: each.init for name, each in config.networks.items()}}


def check_untrained(config: RunConfig, entries: Sequence[Entry]) -> None:
    """Refuses a network that is not trained and not restored whole: it would teach at random.

    Raises:
      UserError: names what would be fresh.
    """
    for name in untrained(config):
        init = config.networks[name].init
        fresh = [
            entry.target
            for entry in entries
            if entry.action == "fresh" and str(entry.target).startswith(f"{name}/")
        ]
        asked = init.fresh if init is not None else ()
        unasked = [
            path
            for path in map(str, fresh)
            if not any(matches(pattern, path.removeprefix(f"{name}/")) for pattern in asked)
        ]
        if init is None or init.scratch or unasked:
            raise UserError(
                "a network that is not trained would be random",
                where=f"networks.{name}.init",
                expected="a run that has all of its parameters",
                got=f"nothing stored for {unasked[0]}" if unasked else "no run to start from",
                fix=f"set networks.{name}.init.from=RUN, or name in init.fresh what may be random",
            )


def untrained(config: RunConfig) -> tuple[str, ...]:
    """The networks that keep their bits."""
    return tuple(name for name, each in declared(config).items() if name and not each.trained)
