"""Whether an adapter was trained on a model: parameter by parameter the same arrays of the same
checkpoint, by checksum."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.origin import RUN_CONFIG
from jaxssl.checkpoint.parameter_index import ParameterIndex, ParameterSource, Piece
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.models.model import Model

Pieces = Mapping[str, tuple[Piece, ...]]
"""Of parameters, by path."""


def check_model(
    mine: Pieces, model: Model, theirs: ParameterIndex, run_dir: Path, *, where: str, fix: str
) -> None:
    """Refuses an adapter of another model. Of a run that was imported, what it was imported from
    must be the same.

    Args:
      mine: the parameters of this model; what is fresh is not there.
      theirs: those of the run that trained the adapter, which is in `run_dir`.
      where, fix: what the mistake says.

    Raises:
      UserError: names the first parameter that is another.
    """
    body = [path for path in theirs.pieces if is_of_body(path, model)]
    imported = imported_from(run_dir)
    if imported is not None:
        own = [mine.get(path, ()) for path in body]
        if not all(own) or not _are_of(imported, (piece for each in own for piece in each)):
            expected = f"checksum {imported[:16]}..."
            raise other_model(f"{where}, {run_dir}", expected, "another", fix)
        return
    for path in body:
        pieces, own = theirs.pieces[path], mine.get(path, ())
        if [_place(x) for x in own] != [_place(x) for x in pieces]:
            raise other_model(f"{where}, {path}", _named(pieces), _named(own), fix)


def check_begun_from(
    base: ParameterIndex, model: Model, theirs: Pieces, run_dir: Path, *, where: str, fix: str
) -> None:
    """Refuses a run that was not trained on this base: what it does not hold itself must be the
    base's.

    Args:
      base: the parameters of the base.
      theirs: those of the run in `run_dir`.
      where, fix: what the mistake says.

    Raises:
      UserError: names the first parameter that is another, or says that the run has none from it.
    """
    imported = imported_from(run_dir)
    there = [piece for pieces in base.pieces.values() for piece in pieces]
    if imported is not None:
        if not _are_of(imported, there):
            expected = f"checksum {imported[:16]}..."
            raise other_model(f"{where}, {run_dir}", expected, "another", fix)
        return
    known, run = {_array(piece) for piece in there}, run_dir.resolve()
    taken = {
        path: [piece for piece in pieces if piece.source.run.resolve() != run]
        for path, pieces in theirs.items()
        if is_of_body(path, model)
    }
    for path, pieces in taken.items():
        if any(_array(piece) not in known for piece in pieces):
            raise other_model(f"{where}, {path}", _named(pieces), _named(there), fix)
    if not any(taken.values()):
        raise other_model(f"{where}, {run_dir}", "its own parameters alone", _named(there), fix)


def is_of_body(path: str, model: Model) -> bool:
    """Whether a parameter is of the model itself, and neither of a head nor of an adapter."""
    part = path.split("/")[0]
    return part in model.body_parts and part != ADAPTERS


def _are_of(imported: str, pieces: Iterable[Piece]) -> bool:
    """Whether all pieces are of what has this checksum, or of a run that was imported from it."""
    sources = {piece.source for piece in pieces}
    return all(imported in (_checksum(x), imported_from(x.run)) for x in sources)


def imported_from(run_dir: Path) -> str | None:
    """The checksum of what a run was imported from; None of a run that was trained."""
    path = run_dir / RUN_CONFIG
    if not path.is_file() or not configuration.read_yaml(path).get("imported"):
        return None
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    file = run_dir / ledger.FILE_NAME
    noted = read_json(file, what=what, fix=fix)["from"] if file.is_file() else {}
    return noted.get("manifest")


def _place(piece: Piece) -> tuple[Any, ...]:
    """What parameters are told apart by."""
    return (*_array(piece)[:2], piece.start, piece.end, piece.offset)


def _array(piece: Piece) -> tuple[Any, ...]:
    """What layers are told apart by, however many of them a piece has."""
    return _checksum(piece.source), piece.name, piece.start - piece.offset


@functools.lru_cache(maxsize=64)
def _checksum(source: ParameterSource) -> str | None:
    return source.checksum()


def _named(pieces: Sequence[Piece]) -> str:
    """Where parameters lie, in words."""
    return ", ".join(sorted({str(piece.source.path) for piece in pieces})) or "fresh parameters"


def other_model(where: Any, expected: str, got: str, fix: str) -> UserError:
    """The mistake of an adapter of another model."""
    return UserError(
        "an adapter was trained on another model than this run starts from",
        where=where,
        expected=f"parameters from {expected}",
        got=got,
        fix=fix,
    )
