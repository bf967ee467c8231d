"""`jaxssl adapt`: continued pretraining of a run for a domain or a language.

from jaxssl.commands import adapt
adapt.adapt(Request(run=Path("runs/books"), out=Path("runs/law"), corpus=("law/*.txt",)))
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.origin import HfOrigin, find_origin
from jaxssl.core.errors import UserError
from jaxssl.data.config import StoreConfig
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.parallel import hosts
from jaxssl.report.adaptation import lines
from jaxssl.run import train
from jaxssl.run.adapting import corpus, measures, plan
from jaxssl.run.adapting.measures import HeldOut
from jaxssl.run.adapting.request import Request, check_model, old_stream, rotary_field
from jaxssl.run.config import RunConfig
from jaxssl.run.open import stream_from_here
from jaxssl.run.recipes import read_config
from jaxssl.train.stopping import EXIT_NOT_FINITE, EXIT_STOPPED, NotFinite

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """An adaptation whose data are there.

    Attributes:
      request: what was asked for, of a run of ours.
      config: of the run to make.
      base: of the run to go on from.
      before: the held-out documents of each domain, as the old model reads them.
      after: as the new one does.
      notes: what is said of it: what is not measured, and why.
    """

    request: Request
    config: RunConfig
    base: RunConfig
    before: Mapping[str, HeldOut]
    after: Mapping[str, HeldOut]
    notes: tuple[str, ...]


def adapt(request: Request, say: Say = print) -> int:
    """Adapts a run, or goes on with that, and prints what was gained and lost; the exit code.

    Raises:
      UserError: a mistake in the arguments, the corpus, the run or its old data.
    """
    try:
        return _run(planned_of(request), say)
    except NotFinite as error:
        print(f"stopped: {error}", file=sys.stderr)
        return EXIT_NOT_FINITE


def planned_of(request: Request) -> Planned:
    """Prepares the data of an adaptation, and its configuration.

    Raises:
      UserError: as `adapt`.
    """
    request.check()
    request = dataclasses.replace(request, run=_as_run(request))
    base = read_config(request.run)
    check_model(request, base)
    measures.check_out(request.out, request.run)
    old, notes = _old_domain(request, base)
    own = load_tokenizer(request.run / "tokenizer").vocab_size
    planned = str(request.beside / "store")  # mistakes come before a corpus is read
    plan.configured(request, base, planned, old, own + (request.pieces or 0))
    new = corpus.prepared(request)
    old = _checked_old(request, new.store, old, notes)
    pieces = TokenStore.open(new.store).vocab_size
    config = plan.configured(request, base, new.store, old, pieces)
    domains = {plan.NEW: (new.old_store, new.old_split, new.store, new.split)}
    if old is not None:
        domains[plan.OLD] = (old, "validation", old, "validation")
    if rotary_field(base) and request.length is not None and request.rotary_base is None:
        had = old_stream(base, request.stream)[1].data.longest[0]
        if request.length > had:
            notes.append(
                f"note: rows are longer than those of {request.run} ({had}), and the base of the "
                "rotary positions is the same (--rotary-base)"
            )
    notes += plan.notes(request, base, config)
    return Planned(
        request=request,
        config=config,
        base=base,
        before={name: HeldOut(store=x[0], split=x[1]) for name, x in domains.items()},
        after={name: HeldOut(store=x[2], split=x[3]) for name, x in domains.items()},
        notes=tuple(notes),
    )


def _as_run(request: Request) -> Path:
    """The run to go on from; a Hugging Face directory is made one, beside the run to make."""
    if not isinstance(find_origin(request.run), HfOrigin):
        return request.run
    from jaxssl.commands.import_hf import import_model

    made = request.beside / "base"
    if not made.exists():
        import_model(request.run, made)
    return made


def _old_domain(request: Request, base: RunConfig) -> tuple[str | None, list[str]]:
    """The token store of the old domain, and why there is none.

    Raises:
      UserError: replay is asked for, and there is none.
    """
    if request.replay is not None:
        return request.replay, []
    _, stream = old_stream(base, request.stream)
    if isinstance(stream.data, StoreConfig):
        try:
            store = stream_from_here(request.run, base, stream).data.source
            TokenStore.open(store)
            return store, []
        except UserError as error:
            why = f"the token store of {request.run} is not there: {error.where}"
    else:
        why = f"{request.run} was trained elsewhere, and has no token store"
    if request.replay_share:
        raise UserError(
            "there is nothing to replay",
            where="--replay-share",
            expected="the run's own token store, or one that is named",
            got=why,
            fix="give --replay STORE, or leave out --replay-share",
        )
    return None, [_not_measured(why)]


def _not_measured(why: str) -> str:
    return (
        f"warning: forgetting is not measured: {why} (--replay STORE, or --replay-share 0 with it)"
    )


def _checked_old(request: Request, store: str, old: str | None, notes: list[str]) -> str | None:
    """The old domain's store, if the new tokenizer's model can read it; what it cannot be used for
    is told.

    Raises:
      UserError: a store to replay whose tokenizer is not the beginning of the new one.
    """
    if old is None:
        return None
    place = Path(store) / "tokenizer"
    opened = TokenStore.open(old)
    where = "--replay" if request.replay is not None else "the run's own token store"
    try:
        corpus.check_store(opened, load_tokenizer(place), place, where)
    except UserError as error:
        if request.share or request.replay is not None:
            raise
        notes.append(_not_measured(f"{old}: {error.what}"))
        return None
    if "validation" in opened.manifest.splits:
        return old
    if request.share:
        raise UserError(
            "no document of the old domain is held out, and forgetting could not be measured",
            where=f"{where} {old}",
            expected="a split validation",
            got=", ".join(opened.manifest.splits),
            fix="prepare it again with a larger validation_fraction",
        )
    notes.append(_not_measured(f"{old} has no split validation"))
    return None


# --- Running ------------------------------------------------------------------------------------


def _run(planned: Planned, say: Say) -> int:
    config, out = planned.config, planned.request.out
    hosts.connect(config.distributed)
    tell = say if hosts.is_first() else _say_nothing
    for note in planned.notes:
        tell(note)
    record = _before(planned, tell)
    outcome = train.train_run(config, say)
    if outcome.stopped_by:
        return EXIT_STOPPED
    record = _after(planned, record, outcome.step, tell)
    if hosts.is_first():
        from jaxssl.report import write_report

        write_report(out)
        tell("\n".join(["", *lines(record)]))
    return 0


def _say_nothing(text: str) -> None:
    del text


def _longest(planned: Planned) -> int | None:
    """Up to where the loss is told by position: the rows of the new run, where they are longer or
    turn otherwise."""
    request = planned.request
    if request.length is None and request.rotary_base is None:
        return None
    return next(iter(planned.config.all_streams.values())).data.longest[0]


def _before(planned: Planned, tell: Say) -> dict[str, Any]:
    """The record with the numbers of the run that is adapted; measured unless they are there."""
    request = planned.request
    facts = measures.base_facts(planned.config, request.out)
    stores = {name: dataclasses.asdict(x) for name, x in planned.before.items()}
    noted = measures.read_record(request.out)
    asked = {"from": facts, "held_out": stores, "batches": request.batches}
    asked["longest"] = _longest(planned)
    if noted and all(noted.get(key) == value for key, value in asked.items()):
        return noted
    tell(f"measuring {request.run} on the held-out documents, before it is adapted")
    found = measures.measured(
        planned.config.init.run_dir,  # type: ignore[union-attr]
        facts["step"],
        planned.before,
        seed=planned.base.train.seed,
        stream=old_stream(planned.base, request.stream)[0],
        longest=asked["longest"],
        batches=request.batches,
    )
    record = {
        **asked,
        "pieces": {
            "before": load_tokenizer(request.run / "tokenizer").vocab_size,
            "after": TokenStore.open(planned.after[plan.NEW].store).vocab_size,
        },
        "length": {
            "before": old_stream(planned.base, request.stream)[1].data.longest[0],
            "after": next(iter(planned.config.all_streams.values())).data.longest[0],
        },
        "sees_both_sides": measures.sees_both_sides(
            old_stream(planned.base, request.stream)[1].objective
        ),
        "replay": plan.replayed(planned.config),
        "notes": list(planned.notes),
        "domains": {name: {"before": numbers} for name, numbers in found.items()},
    }
    measures.write_record(request.out, record)
    return record


def _after(planned: Planned, record: dict[str, Any], last: int, tell: Say) -> dict[str, Any]:
    """The record with the numbers of the run's best checkpoint, which is what other commands take;
    of one without validation it is the last."""
    request = planned.request
    domains = record["domains"]
    manager = CheckpointManager(request.out / "checkpoints", planned.config.checkpoint)
    step = hosts.first_decides(lambda: manager.choose("best"))
    measured = [numbers.get("after", {}).get("step") for numbers in domains.values()]
    if measured == [step] * len(domains) and record.get("last") == last:
        return record
    record["last"] = last
    tell(f"measuring step {step} of {request.out} on the held-out documents")
    found = measures.measured(
        request.out,
        step,
        planned.after,
        seed=planned.base.train.seed,
        longest=record["longest"],
        batches=request.batches,
    )
    record["domains"] = {
        name: {"before": numbers["before"], "after": found[name]}
        for name, numbers in domains.items()
    }
    measures.write_record(request.out, record)
    return record
