"""Adapters that a verb applies to a run (`--adapter`): some of the run's own, by name, and those
that other runs or PEFT's files have, by directory. Their effects add up.

A model that was only pretrained has no task. Then the task, its head and the tokenizer are those of
the first adapter's run that has one: that run is opened, provided that the model which was named is
the one it was trained on, and the other adapters are laid on top.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxssl.checkpoint.hf.places import ADAPTER
from jaxssl.checkpoint.init_config import InitConfig, split_checkpoint
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.origin import RUN_CONFIG, RunOrigin
from jaxssl.checkpoint.parameter_index import ParameterIndex, ParameterSource, read_base
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.models.heads import Use
from jaxssl.models.model import Model
from jaxssl.run.adapters import own_parameters
from jaxssl.run.adopted import Wanted, adopt, choose_adapter, method_there, split_place
from jaxssl.run.config import RunConfig
from jaxssl.run.networks import make_model
from jaxssl.run.other_codes import adapted_over_other_codes
from jaxssl.run.recipes import read_config
from jaxssl.run.same_model import check_begun_from
from jaxssl.run.sentences import sentence_of
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.start import Start

Able = Callable[[RunConfig], bool]
"""Whether a run says how to do what a verb is asked for."""
FIX = (
    "give the run that the adapter was trained on, and --step where that was not the best one; for "
    "PEFT's files, what `jaxssl import MODEL RUN` makes of their model"
)
OPTION = "--adapter"
DEFAULT = "default"
"""The name of an adapter that was given none."""


def has_task(config: RunConfig) -> bool:
    """Whether it was fine-tuned on a task."""
    return bool(config.tasks)


def makes_vectors(config: RunConfig) -> bool:
    """Whether it was trained to make vectors of texts."""
    return sentence_of(config) is not None


def fills(config: RunConfig) -> bool:
    """Whether it fills masks."""
    return _can(config, "fill")


def writes(config: RunConfig) -> bool:
    """Whether it was fine-tuned to write."""
    return has_task(config) and _can(config, "continue")


def _can(config: RunConfig, use: Use) -> bool:
    return any(head.use == use for head in config.heads)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A run, and the adapters that it is used with.

    Attributes:
      run_dir: whose task, heads and tokenizer are used.
      step: of its checkpoints.
      own: which of its own adapters are active, with what they take over; None is all.
      others: those from elsewhere, as `split_place` reads them.
      base: the model that was named, a run and a step, where that is not `run_dir`.
    """

    run_dir: Path
    step: int | str
    own: tuple[str, ...] | None = None
    others: tuple[str, ...] = ()
    base: tuple[Path, int | str] | None = None

    def config(self, layers: Sequence[str] = ()) -> RunConfig:
        """Of the run, with the adapters of its own that are active.

        Raises:
          UserError: it is no run; an adapter is left out that was trained with parameters of the
            model itself.
        """
        config = read_config(self.run_dir, layers)
        if self.own is None:
            return config
        active = {choose_adapter(n, config.peft, f"{self.run_dir}#{n}", OPTION) for n in self.own}
        active |= {part for name in active for part in config.peft[name].uses}
        for name, method in config.peft.items():
            if name not in active:
                _check_apart(method, self.run_dir, f"{name} is left out")
        kept = {name: method for name, method in config.peft.items() if name in active}
        return dataclasses.replace(config, peft=kept)

    def left_out(self) -> tuple[str, ...]:
        """Patterns of the parameters of the run's adapters that are not active."""
        return tuple(own_parameters(name) for name in self._unused())

    def _unused(self) -> list[str]:
        if self.own is None:
            return []
        return [name for name in read_config(self.run_dir).peft if name not in self.config().peft]

    def moved(self, config: RunConfig) -> RunConfig:
        """Where the base of the run is the model that was named, it is looked for there."""
        if self.base is None or config.init is None:
            return config
        source, _ = _opened(*self.base, config)
        noted = read_base(self.run_dir).get("")
        if noted is None or noted["manifest"] != source.checksum():
            return config
        init = dataclasses.replace(config.init, from_=str(self.base[0]), step="best")
        return dataclasses.replace(config, init=init)

    def onto(self, config: RunConfig, start: Start) -> tuple[RunConfig, Model, Start]:
        """The run with the adapters from elsewhere.

        Args:
          config: of the run.
          start: what its own parameters come from.

        Raises:
          UserError: an adapter of another model, or one that comes with no other run.
        """
        model = make_model(config)
        if self.base is not None:
            where = f"{OPTION} {self.run_dir}"
            _, stored = _opened(*self.base, config)
            theirs = start.stored.pieces
            check_begun_from(stored, model, theirs, self.run_dir, where=where, fix=FIX)
        if not self.others:
            return config, model, start
        taken = {*read_config(self.run_dir).peft}
        found = list(_adapters_of(self.others, taken, str(self.run_dir)))
        methods = {wanted.name: method for wanted, method in found}
        for wanted, method in found:
            if method.is_stored:
                methods[wanted.name] = dataclasses.replace(method, from_=wanted.given)
        init = config.init
        if config.is_fresh and config.imported is None:
            init = InitConfig(from_=str(self.run_dir))
        init = init and dataclasses.replace(init, cast=True)
        config = dataclasses.replace(config, init=init, peft={**config.peft, **methods})
        model = make_model(config)
        for wanted, method in found:
            if method.is_stored:
                start = adopt(start, config, model, wanted)
        return config, model, start

    def lines(self, config: RunConfig, start: Start) -> list[str]:
        """What is told: which adapters are active, and what is left of their runs.

        Args:
          config, start: as `onto` gave them.
        """
        if self == Applied(run_dir=self.run_dir, step=self.step):
            return []
        told = [
            f"{name} of {method.from_}" if name in start.adopted else name
            for name, method in config.peft.items()
        ]
        lines = [f"note: adapters: {', '.join(told)}"]
        if unused := self._unused():
            lines.append(f"note: of {self.run_dir}, not {', '.join(unused)}")
        if self.base is not None:
            lines.append(f"note: the task, its head and the tokenizer are those of {self.run_dir}")
        return [*lines, *adapted_over_other_codes(config), *start.stored.notes]


def apply(
    run_dir: str | Path, adapters: Sequence[str], able: Able, step: int | str = "best"
) -> Applied:
    """What to open where a run is named with adapters.

    Args:
      adapters: names of the run's own, or directories: RUN, RUN#NAME, a checkpoint of it, or PEFT's
        files.
      able: what the verb needs; where the run lacks it, and an adapter's run has it, that one is
        opened.
      step: of the run that is named.

    Raises:
      UserError: one that is neither, or is given twice.
    """
    run_dir = Path(run_dir)
    if not adapters:
        return Applied(run_dir=run_dir, step=step)
    config = read_config(run_dir)
    names, places = _sorted_out(run_dir, config.peft, adapters)
    plain = Applied(run_dir=run_dir, step=step, own=names or None, others=places)
    if able(config):
        return plain
    for place in places:
        there = _run_of(place)
        if there is None or not able(read_config(split_checkpoint(there)[0])):
            continue
        host, at = split_checkpoint(there)
        chosen = [split_place(each)[1] for each in places if _run_of(each) == there]
        own = None if None in chosen else tuple(name for name in chosen if name is not None)
        rest = [each for each in places if _run_of(each) != there]
        if config.peft:
            rest = [*_own_places(run_dir, names, step), *rest]
        return Applied(
            run_dir=host,
            step="best" if at is None else at,
            own=own,
            others=tuple(rest),
            base=(run_dir, step),
        )
    return plain


def _sorted_out(
    run_dir: Path, own: Mapping[str, Method], adapters: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a run's own adapters, and the places of others."""
    names, places, seen = [], [], set()
    for given in adapters:
        place, name = split_place(given)
        found = (place.resolve(), name) if place.is_dir() else given
        if found in seen:
            raise UserError(
                "an adapter is given twice", where=OPTION, expected="each once", got=given
            )
        seen.add(found)
        if split_checkpoint(place)[0].resolve() == run_dir.resolve():
            raise UserError(
                "the run has its own adapters already",
                where=OPTION,
                expected="the name of one of its own, or another run",
                got=f"{given}, the run itself",
                fix=f"{OPTION} {name}" if name in own else f"leave out {OPTION} {given}",
            )
        if place.is_dir():
            places.append(given)
        elif given in own:
            names.append(given)
        else:
            raise UserError(
                "no such adapter",
                where=OPTION,
                expected=(f"{', '.join(own)} of {run_dir}" if own else "a directory")
                + f": a run that trained adapters, RUN#NAME, or one with {ADAPTER}",
                got=looked_up(place) if "/" in given else given,
                fix=did_you_mean(given, own) or suggestion(place),
            )
    return tuple(names), tuple(places)


def _own_places(run_dir: Path, names: Sequence[str], step: int | str) -> list[str]:
    """The adapters of a run, all of them or these, as those of another run are given."""
    place = run_dir
    if step != "best":
        chosen = CheckpointManager(run_dir / "checkpoints").choose(step)
        place = run_dir / "checkpoints" / str(chosen)
    return [f"{place}#{name}" for name in names] or [str(place)]


def _run_of(given: str) -> Path | None:
    """The run, or the checkpoint of it, that has an adapter; None of PEFT's files."""
    place, _ = split_place(given)
    return place if (split_checkpoint(place)[0] / RUN_CONFIG).is_file() else None


def _adapters_of(
    places: Sequence[str], taken: set[str], start: str
) -> Iterator[tuple[Wanted, Method]]:
    """Each adapter of these places with its settings, under a name of its own.

    Args:
      taken: names that others have.
      start: the run that they are laid on.
    """
    for given in places:
        place, chosen = split_place(given)
        there = _run_of(given)
        where = f"{OPTION} {given}"
        if there is None:
            name = _distinct(place.name, taken)
            wanted = Wanted(name=name, given=given, start=start, where=where, fix=FIX)
            yield wanted, method_there(wanted)
            continue
        run_dir, _ = split_checkpoint(there)
        peft = read_config(run_dir).peft
        names = list(peft)
        if chosen is not None or not peft:
            chosen = choose_adapter(chosen or "", peft, given, where)
            names = [*peft[chosen].uses, chosen]
        used = {part for name in names for part in peft[name].uses}
        for name in names:
            method = peft[name]
            _check_apart(method, run_dir, f"{name} is laid on another run")
            is_tied = name in used or method.uses
            new = name if is_tied else _distinct(run_dir.name if name == DEFAULT else name, taken)
            if is_tied:
                _take(name, taken, where)
            yield (
                Wanted(
                    name=new,
                    given=f"{there}#{name}",
                    start=start,
                    where=where,
                    fix=FIX,
                    beside=tuple(names),
                ),
                method,
            )


def _distinct(wanted: str, taken: set[str]) -> str:
    """A name of an adapter that no other has; it is taken then."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", wanted).strip("-")
    plain = plain if plain[:1].isalpha() else f"adapter-{plain}".strip("-")
    numbered = (f"{plain}-{i}" for i in range(2, len(taken) + 3))
    name = next(name for name in (plain, *numbered) if name not in taken)
    taken.add(name)
    return name


def _take(name: str, taken: set[str], where: str) -> None:
    """Takes a name that cannot be another: a fusion names its parts."""
    if name in taken:
        raise UserError(
            "two adapters have one name, and one of them is part of a fusion or a sum",
            where=where,
            expected=f"another name than {name}",
            got=name,
            fix="give the run with the fusion first, or train it with parts of other names",
        )
    taken.add(name)


def _check_apart(method: Method, run_dir: Path, why: str) -> None:
    """Refuses to part an adapter from its run where parameters of the model were trained with it:
    they stay as they are there, or are nowhere else."""
    if method.trains_beside(["module"]):
        raise UserError(
            f"with {method.name} parameters of the model itself were trained, which are "
            "in its run alone",
            where=f"{OPTION}, {run_dir}",
            expected="an adapter with all of its parameters beside the model's",
            got=f"{why}; it trained {method.trains_beside(['MODULE'])[0]}",
            fix=f"use {run_dir} itself, with all of its adapters",
        )


def _opened(
    run_dir: Path, step: int | str, config: RunConfig
) -> tuple[ParameterSource, ParameterIndex]:
    """What holds the parameters of a run, and these."""
    init = InitConfig(from_=str(run_dir), step=step)
    return RunOrigin(run_dir).open(init, config.checkpoint, None)
