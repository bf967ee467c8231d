"""A run with several adapters, of which each row of a batch uses one."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxssl.checkpoint.init_config import split_checkpoint
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.run.adopted import split_place
from jaxssl.run.open import TrainedModel
from jaxssl.transfer.peft.side_by_side import side_by_side


def chosen_by_row(
    trained: TrainedModel, given: Sequence[str]
) -> tuple[TrainedModel, dict[str, int]]:
    """The run with its adapters side by side, and the number of each, as rows call it.

    Args:
      given: the adapters that it was opened with, names or directories, which is what rows call
        them; none are all of its own, by name.

    Raises:
      UserError: a directory with several adapters, or adapters that cannot lie side by side.
    """
    with trained.in_use():
        model, params, numbers = side_by_side(trained.model, trained.params)
    called = {each: numbers[_name_of(trained, each)] for each in given or numbers}
    return dataclasses.replace(trained, model=model, params=params), called


def numbers_of(rows: Sequence[str], places: Sequence[str], called: Mapping[str, int]) -> list[int]:
    """The number of each row's adapter.

    Raises:
      UserError: names the place of a row that calls none of them.
    """
    for row, place in zip(rows, places):
        if row not in called:
            raise UserError(
                "a row names no adapter that is there",
                where=place,
                expected=", ".join(called),
                got=row,
                fix=did_you_mean(row, called) or "give it with --adapter, too",
            )
    return [called[row] for row in rows]


def _name_of(trained: TrainedModel, given: str) -> str:
    """What the adapter that was asked for by this is called in the run: one of its own, or one that
    was laid on it."""
    peft = trained.config.peft
    if given in peft:
        return given
    place, name = split_place(given)
    is_own = split_checkpoint(place)[0].resolve() == Path(trained.run_dir).resolve()
    found = []
    for each, method in peft.items():
        if each not in trained.adopted:
            fits = is_own and name in (None, each)
        else:
            of, chosen = split_place(str(method.from_))
            fits = of.resolve() == place.resolve() and name in (None, chosen)
        found += [each] if fits else []
    if len(found) != 1:
        raise UserError(
            "a row is to use one adapter" + (", and there are several" if found else ""),
            where=f"--adapter {given}",
            expected=f"one of them, {place}#NAME" if found else f"one of {', '.join(peft)}",
            got=", ".join(found) or given,
        )
    return found[0]
