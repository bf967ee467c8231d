"""The parameters of a run's checkpoint, whatever segments it was trained in, with its base's.

A fine-tuned run keeps only what it trained. Its other parameters are those of its base, which is
known by its checksum: another run's checkpoint, or a Hugging Face directory.
"""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.checkpoint import manifest
from jaxssl.checkpoint.bases import describe_base, read_bases
from jaxssl.checkpoint.hf.directory import CONFIG, fingerprint, open_model
from jaxssl.checkpoint.ledger import Entry, Leaf
from jaxssl.checkpoint.manager import read_arrays, stored_arrays
from jaxssl.core.errors import UserError
from jaxssl.core.files import sha256
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import canonical, is_stacked, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.data.tokenizer.with_transformers import files_checksum

BASE = "base.json"
PARTS = ("kept", "params", "ema")
"""Of a state: the frozen parameters that no base holds, those that are trained, and the averages of
these, which stand for them where there are any."""


@dataclass(frozen=True)
class Piece:
    """Some layers, or all, of a parameter, in an array of a checkpoint.

    Attributes:
      source: what holds the array.
      name: the array's path among its parameters.
      start: the first layer it is taken for.
      end: the layer after the last; None for an array that is no stack.
      offset: where the first layer lies in the array.
      shape: of the array.
      dtype: of the array.
    """

    source: "ParameterSource"
    name: str
    start: int
    end: int | None
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ParameterIndex:
    """Parameters by canonical name, where their pieces lie, and what there is to say of them."""

    pieces: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def leaves(self) -> dict[str, Leaf]:
        """Each parameter as a whole."""
        found = {}
        for name, pieces in self.pieces.items():
            shape = pieces[0].shape
            if pieces[-1].end is not None:
                shape = (pieces[-1].end, *shape[1:])
            found[name] = Leaf(shape, pieces[0].dtype)
        return found


def index_checkpoint(checkpoint: Path, base: ParameterIndex | None = None) -> ParameterIndex:
    """The parameters in the directory of a step, over those of its base."""
    pieces, source = dict(base.pieces) if base else {}, CheckpointSource(checkpoint)
    for path, (_, leaf) in saved_leaves(checkpoint).items():
        name, shape, dtype = canonical(path), tuple(leaf.shape), str(jnp.dtype(leaf.dtype))
        if not is_stacked(path):
            pieces[name] = (Piece(source, path, 0, None, 0, shape, dtype),)
            continue
        start, end = layer_range(path) or (0, shape[0])
        new = Piece(source, path, start, end, 0, shape, dtype)
        pieces[name] = _overlaid(pieces.get(name, ()), new)
    return ParameterIndex(pieces)


def saved_leaves(checkpoint: Path) -> dict[str, tuple[str, Any]]:
    """{path of a parameter: (the part of the state it is taken from, its shape and dtype)}."""
    tree = stored_arrays(checkpoint)
    return {
        path: (part, leaf) for part in PARTS for path, leaf in flatten(tree.get(part) or {}).items()
    }


def _overlaid(old: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """Pieces in the order of layers, `new` in the place of what it covers."""
    assert new.end is not None
    result = []
    for piece in old:
        assert piece.end is not None
        if piece.start < new.start:
            result.append(dataclasses.replace(piece, end=min(piece.end, new.start)))
        if piece.end > new.end:
            start = max(piece.start, new.end)
            offset = piece.offset + start - piece.start
            result.append(dataclasses.replace(piece, start=start, offset=offset))
    return tuple(sorted([*result, new], key=lambda piece: piece.start))


def index_run(
    run_dir: Path,
    checkpoint: Path,
    moved: Mapping[str, Path] | None = None,
    *,
    verify: bool = True,
    networks: Collection[str] | None = None,
) -> ParameterIndex:
    """The parameters of a run at a checkpoint, those of its bases included.

    Args:
      moved: where the bases of its networks are now, by the network's name, empty for the main one;
        others are where they were.
      verify: compare the files of bases with their checksums.
      networks: those whose bases are looked for; None is all of them.

    Raises:
      UserError: a base that is not there, or is another one.
    """
    pieces: dict[str, tuple[Piece, ...]] = {}
    for network, noted in read_base(run_dir).items():
        if networks is not None and network not in networks:
            continue
        where = (moved or {}).get(network) or Path(noted["run"])
        pieces |= under(network, _of_base(noted, where.absolute(), network, verify)).pieces
    return index_checkpoint(checkpoint, ParameterIndex(pieces))


def _of_base(noted: Mapping[str, Any], where: Path, network: str, verify: bool) -> ParameterIndex:
    """What a run takes of a base; `where` is absolute, as Orbax wants it."""
    if noted["step"] is None:
        check_base(noted, HfSource(where), network)
        found = index_hf(where)
    else:
        base = where / "checkpoints" / str(noted["step"])
        check_base(noted, CheckpointSource(base), network)
        if verify:
            manifest.verify(base)
        parts = {origin.split("/")[0] for origin in noted["names"].values()}
        found = index_run(where, base, verify=verify, networks={"", *parts})
    gone = [origin for origin in noted["names"].values() if origin not in found.pieces]
    if gone:
        raise UserError(
            "a run's base lacks a parameter that the run takes from it",
            where=where,
            expected=gone[0],
            got="no parameter of this name",
            fix="restore the run's base.json from a copy",
        )
    return ParameterIndex({name: found.pieces[origin] for name, origin in noted["names"].items()})


def under(network: str, stored: ParameterIndex) -> ParameterIndex:
    """Parameters of a network, by their names in the tree of all networks."""
    lead = f"{network}/" if network else ""
    return ParameterIndex({lead + name: x for name, x in stored.pieces.items()}, stored.notes)


def within(network: str, stored: ParameterIndex) -> ParameterIndex:
    """The parameters of one network of several, by its own names."""
    lead = f"{network}/"
    mine = {name: x for name, x in stored.pieces.items() if name.startswith(lead)}
    return ParameterIndex({name.removeprefix(lead): x for name, x in mine.items()}, stored.notes)


def index_hf(path: Path) -> ParameterIndex:
    """The parameters in a Hugging Face directory; tensors that are none have their own names.

    Raises:
      UserError: no such model here, or not whole.
    """
    pieces, found, source = {}, open_model(path), HfSource(path)
    for name, leaf in found.leaves().items():
        end = leaf.shape[0] if is_stacked(name) else None
        pieces[name] = (Piece(source, name, 0, end, 0, leaf.shape, leaf.dtype),)
    return ParameterIndex(pieces, tuple(found.notes()))


RawArrays = dict[str, dict[str, jax.Array]]
"""{path of a source: {array's path: array}}."""


def read(stored: ParameterIndex, names: list[str], targets: Mapping[str, Any]) -> RawArrays:
    """Reads the arrays that hold `names`, laid out like the parameters they are for.

    Args:
      targets: {canonical name: what it is for, with a NamedSharding and a dtype}. An array that the
        sharding does not divide is whole on every device. Tensors of a Hugging Face directory come
        in the dtype, cast as they are read; arrays of a checkpoint in their own.
    """
    wanted: dict[ParameterSource, dict[str, jax.ShapeDtypeStruct]] = {}
    for name in names:
        for piece in stored.pieces[name]:
            target = targets[name]
            wanted.setdefault(piece.source, {})[piece.name] = jax.ShapeDtypeStruct(
                piece.shape,
                piece.source.read_dtype(piece.dtype, target.dtype),
                sharding=_dividing(target.sharding, piece.shape),
            )
    return {str(source.path): source.read(arrays) for source, arrays in wanted.items()}


def _dividing(sharding: Any, shape: tuple[int, ...]) -> Any:
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return jax.sharding.NamedSharding(sharding.mesh, type(sharding.spec)())
    return sharding


def assemble(
    stored: ParameterIndex, raw: Mapping[str, Mapping[str, jax.Array]], name: str
) -> jax.Array:
    """A parameter as a whole, of its pieces. May be traced."""
    parts = []
    for piece in stored.pieces[name]:
        array = raw[str(piece.source.path)][piece.name]
        if piece.end is None:
            return array
        parts.append(array[piece.offset : piece.offset + piece.end - piece.start])
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


# --- What holds arrays ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterSource(ABC):
    """A directory that parameters lie in."""

    path: Path

    @abstractmethod
    def read(self, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Arrays by name, in the shapes, dtypes and shardings that are asked for."""

    @abstractmethod
    def read_dtype(self, stored: str, wanted: Any) -> Any:
        """The dtype that an array is read in."""

    @abstractmethod
    def checksum(self) -> str | None:
        """Of all that it holds; None where nothing is there."""

    def tokenizer_checksum(self) -> str | None:
        """Of the tokenizer's files beside it, which a run keeps a copy of; None without any."""
        return None

    @property
    @abstractmethod
    def run(self) -> Path:
        """What `init.from` would name it by."""

    @property
    def step(self) -> int | None:
        """The step, of a run's checkpoint."""
        return None

    @property
    def has_averages(self) -> bool:
        """Whether averages stand in the place of what was trained."""
        return False


@dataclass(frozen=True)
class CheckpointSource(ParameterSource):
    """The directory of a run's step."""

    def read(self, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        there, nested = saved_leaves(self.path), {}
        for part in PARTS:
            chosen = {path: array for path, array in arrays.items() if there[path][0] == part}
            if chosen:
                nested[part] = unflatten(chosen)
        restored = read_arrays(self.path, nested)
        return {path: x for part in restored.values() for path, x in flatten(part).items()}

    def read_dtype(self, stored: str, wanted: Any) -> Any:
        return jnp.dtype(stored)

    def checksum(self) -> str | None:
        path = self.path / manifest.MANIFEST
        return sha256(path) if path.is_file() else None

    @property
    def run(self) -> Path:
        return self.path.parent.parent

    @property
    def step(self) -> int | None:
        return int(self.path.name)

    @property
    def has_averages(self) -> bool:
        return any(part == "ema" for part, _ in saved_leaves(self.path).values())


@dataclass(frozen=True)
class HfSource(ParameterSource):
    """A Hugging Face directory, whose tensors are cast as they are read."""

    def read(self, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        directory = open_model(self.path)
        return {name: directory.read(name, array) for name, array in arrays.items()}

    def read_dtype(self, stored: str, wanted: Any) -> Any:
        return wanted

    def checksum(self) -> str | None:
        return fingerprint(self.path) if (self.path / CONFIG).is_file() else None

    def tokenizer_checksum(self) -> str | None:
        return files_checksum(self.path)

    @property
    def run(self) -> Path:
        return self.path


# --- The base -----------------------------------------------------------------------------------


def base_record(
    source: ParameterSource, entries: Sequence[Entry], lead: str = ""
) -> dict[str, Any]:
    """What a run notes of where it starts from, and which of the parameters there it takes.

    Args:
      lead: what the names there begin with, before those in the entries.
    """
    return {
        "run": str(source.run.absolute()),
        "step": source.step,
        "manifest": source.checksum(),
        "tokenizer": source.tokenizer_checksum(),
        "names": {
            entry.target: f"{lead}{entry.source}"
            for entry in entries
            if entry.action in ("restored", "renamed") and not entry.is_cast
        },
    }


def read_base(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What a run noted of the base of each network; nothing of those without."""
    path = run_dir / BASE
    if not os.path.lexists(path):
        return {}
    what = "the note of a run's base is damaged"
    return read_bases(read_json(path, what=what, fix="restore it from a copy"), path)


def check_base(noted: Mapping[str, Any], source: ParameterSource, network: str = "") -> None:
    """Refuses parameters that are not those a run, or one network of it, was started with.

    Raises:
      UserError: says which are wanted.
    """
    found = source.checksum()
    if found != noted["manifest"]:
        raise UserError(
            "this is not the base that the run was trained on",
            where=source.path,
            expected=f"{describe_base(noted)}, with checksum {noted['manifest'][:16]}...",
            got="no such checkpoint" if found is None else f"checksum {found[:16]}...",
            fix=_moved(network),
        )
    wanted, found = noted.get("tokenizer"), source.tokenizer_checksum()
    if None not in (wanted, found) and found != wanted:
        raise UserError(
            "the tokenizer of the base is not the one that the run was started with",
            where=source.path,
            expected=f"files with checksum {str(wanted)[:16]}...",
            got=f"checksum {str(found)[:16]}...",
            fix="restore its tokenizer's files; or " + _moved(network),
        )


def _moved(network: str) -> str:
    key = f"networks.{network}.init.from" if network else "init.from"
    return (
        f"if it was moved, say where it is now: {key}=PATH (after --with, but for pretrain and "
        "finetune); if it was deleted, take it from a copy: what is frozen lies only there"
    )
