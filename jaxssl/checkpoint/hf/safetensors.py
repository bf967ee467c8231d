"""Reading and writing safetensors with numpy alone, a tensor at a time.

A file is eight bytes of length, a JSON header, and the tensors' bytes. It is mapped into memory and
read where it is looked at, so a shard of a device costs no more than itself.
"""

import errno
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from typing_extensions import TypedDict

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import parse_json, read_json
from jaxssl.core.seal import inside

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONVERT = (
    "pickled weights are not read, since a pickle can run any code; convert them where torch is "
    "installed: AutoModel.from_pretrained(SOURCE).save_pretrained(OUT), with the class that "
    "config.json's architectures name"
)
OTHER_KINDS = ("bin", "safetensors", "pth", "h5", "msgpack", "gguf", "onnx")
"""Ends of the names of files of weights that may be there instead."""
MAX_HEADER = 100 << 20
WHAT, FIX = "not a whole safetensors file", "copy or download it again"
PIECE = 1 << 20
"""Bytes that are written at once: of 4 MB and more Linux takes three times as long for each byte
(2.5 GB in 2.7 s instead of 0.8 s on ext4)."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
      start, end: its bytes in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numpy_dtype(self) -> np.dtype:
        """Its dtype in numpy; a `UserError` for one that no parameter has."""
        if self.dtype not in DTYPES:
            raise UserError(
                "a tensor has a dtype that cannot be read",
                where=self.file,
                expected=", ".join(DTYPES),
                got=self.dtype,
                fix="save the weights without quantisation, in float32, float16 or bfloat16",
            )
        return DTYPES[self.dtype]


def open_directory(directory: Path) -> dict[str, Tensor]:
    """{name: tensor} of `model.safetensors`, or of the files that its index lists.

    Raises:
      UserError: no such files, a missing or truncated one, or weights of another kind.
    """
    index, single = directory / INDEX, directory / SINGLE
    if index.is_file():
        return _open_shards(directory, index)
    if single.is_file():
        return open_file(single)
    others = [f.name for kind in OTHER_KINDS for f in sorted(directory.glob(f"*.{kind}"))]
    is_pickle = any(name.endswith(".bin") for name in others)
    raise UserError(
        "there are no safetensors here",
        where=directory,
        expected=f"{SINGLE}, or {INDEX} and the files it lists",
        got=", ".join(others[:4]) or "neither",
        fix=CONVERT if is_pickle else None,
    )


class Index(TypedDict):
    """`model.safetensors.index.json`."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    weight_map: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """A tensor in the header of a file: its place is counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _open_shards(directory: Path, index: Path) -> dict[str, Tensor]:
    what, fix = "the index of the weights is damaged", "copy or download the directory again"
    placed = read_json(index, Index, what=what, fix=fix)["weight_map"]
    files = sorted(set(placed.values()))
    for name in files:
        inside(directory, name, what=what, fix=fix)
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise UserError(
            "files of weights are missing",
            where=directory,
            expected=f"{len(files)} files, as {INDEX} lists",
            got=f"not there: {', '.join(missing[:3])}",
            fix="copy or download the directory again",
        )
    found: dict[str, Tensor] = {}
    for name in files:
        found.update(open_file(directory / name))
    if found.keys() != placed.keys():
        different = sorted(found.keys() ^ placed.keys())
        raise UserError(
            "the files do not hold what the index says",
            where=index,
            expected=f"{len(placed)} tensors",
            got=f"{len(found)}; the first difference: {different[0]}",
        )
    return found


def open_file(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of one file, from its header.

    Raises:
      UserError: it is no safetensors file, or not whole.
    """
    if not path.is_file():
        raise _damaged(path, "no regular file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        header, begin = _read_header(file, path, size)
    tensors = {}
    for name, entry in header.items():
        (start, end), shape = entry.data_offsets, entry.shape
        tensor = Tensor(path, entry.dtype, shape, begin + start, begin + end)
        if min(start, end - start, *shape) < 0:
            raise _damaged(path, f"tensor {name}: bytes {start} to {end}, shape {shape}")
        if tensor.dtype in DTYPES and end - start != math.prod(shape) * tensor.numpy_dtype.itemsize:
            raise _damaged(path, f"tensor {name}: {end - start} bytes for {shape} {tensor.dtype}")
        if tensor.end > size:
            raise UserError(
                "a file of weights is truncated",
                where=path,
                expected=f"at least {tensor.end:,} bytes, for {name}",
                got=f"{size:,}",
                fix="copy or download it again",
            )
        tensors[name] = tensor
    return tensors


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, "Entry"], int]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
    if not 0 < length <= min(size - 8, MAX_HEADER):
        raise _damaged(path, f"a file of {size:,} bytes whose header has no possible length")
    text = file.read(length)
    header = parse_json(text, dict[str, Any], where=path, what=WHAT, fix=FIX)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict | None):
        raise _damaged(path, "metadata that is no object")
    listed = json.dumps(header)
    return parse_json(listed, dict[str, Entry], where=path, what=WHAT, fix=FIX), 8 + length


def _damaged(path: Path, got: str) -> UserError:
    return UserError(
        WHAT,
        where=path,
        expected="a header and the tensors it lists",
        got=got,
        fix=FIX,
    )


class Reader:
    """Looks into tensors where they lie. What was looked at leaves the memory with `forget`."""

    def __init__(self):
        self._maps: dict[Path, mmap.mmap] = {}

    def view(self, tensor: Tensor) -> np.ndarray:
        """The tensor, read-only, nothing of it read yet."""
        if tensor.file not in self._maps:
            with open(tensor.file, "rb") as file:
                self._maps[tensor.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = math.prod(tensor.shape)
        flat = np.frombuffer(
            self._maps[tensor.file], tensor.numpy_dtype, count=count, offset=tensor.start
        )
        return flat.reshape(tensor.shape)

    def forget(self, tensor: Tensor, share: float = 1.0) -> None:
        """Gives the memory of its pages back, or of the first share of them."""
        page = mmap.ALLOCATIONGRANULARITY
        end = tensor.start + int(share * (tensor.end - tensor.start))
        start, found = tensor.start // page * page, self._maps.get(tensor.file)
        if found is not None and end > start:
            found.madvise(mmap.MADV_DONTNEED, start, end - start)


def write_file(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], data: Iterable[Any]):
    """Writes one file, tensor by tensor.

    Args:
      tensors: {name: (dtype in safetensors' words, shape)}, in order.
      data: the arrays in the same order; made one at a time, they need not be in memory together.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        _reserve(file, 8 + len(text) + at)
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, (dtype, shape)), array in zip(tensors.items(), data, strict=True):
            assert array.dtype == DTYPES[dtype] and array.shape == shape, name
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for start in range(0, len(flat), PIECE):
                file.write(flat[start : start + PIECE].data)


def _reserve(file: BinaryIO, size: int) -> None:
    """Takes the space that a file needs, so that a full disk is known at once."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise  # not that the system or the file system cannot do it
