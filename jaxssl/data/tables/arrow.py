"""Readers of Arrow's tables: parquet files and hub data sets, with the names of their classes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile, TableHub
from jaxssl.data.tables.table import Table

PARQUET_ROWS = 1 << 16
"""Rows that are read at once, unless fewer are asked for."""


def read_parquet(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """A parquet file; class labels that its metadata (written by `datasets`) names get names."""
    import datasets

    count = 0
    for batch in _record_batches(path, rows or PARQUET_ROWS):
        columns: dict[str, list] = dict(
            zip(batch.schema.names, (column.to_pylist() for column in batch.columns))
        )
        if not config.class_ids and b"huggingface" in (batch.schema.metadata or {}):
            features = datasets.Features.from_arrow_schema(batch.schema)
            columns = {name: name_classes(v, features[name]) for name, v in columns.items()}
        places = [f"{path} row {i}" for i in range(count, count + batch.num_rows)]
        count += batch.num_rows
        yield Table(columns, places, path)


def _record_batches(path: str, rows: int) -> Iterator[Any]:
    """The file's record batches that have rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        # Opened here: given a path, pyarrow would read a folder or guess at partitions.
        with open(path, "rb") as opened:
            batches = pyarrow.parquet.ParquetFile(opened).iter_batches(batch_size=rows)
            yield from (batch for batch in batches if batch.num_rows)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(
            "a file that is not parquet",
            where=path,
            expected="a parquet file, whole",
            got=" ".join(str(error).split())[:200],
            fix="set format to what the file is",
        ) from error


def read_hub(config: TableHub) -> Table:
    """A split of a hub data set, or of a local folder of one."""
    import datasets

    if config.revision is not None and Path(config.dataset).exists():
        raise UserError(
            "a local folder has no revisions",
            where="revision",
            expected=f"null, for the folder {config.dataset}",
            got=config.revision,
        )
    subset = f" ({config.config})" if config.config else ""
    source = f"{config.dataset}{subset}, split {config.split}"
    try:
        found = datasets.load_dataset(
            config.dataset,
            name=config.config,
            split=config.split,
            revision=config.revision,
        )
        assert isinstance(found, datasets.Dataset)
        columns: dict[str, Any] = dict(found[:])
    except Exception as error:  # `datasets` raises whatever its loaders raise
        raise UserError(
            "a hub data set cannot be read",
            where=source + (f", revision {config.revision}" if config.revision else ""),
            expected="a data set, configuration, split and revision that exist",
            got=f"{type(error).__name__}: {error}",
            fix="check dataset, config, split and revision; without a network, use files",
        ) from error
    if not len(found):
        raise UserError("a table without rows", where=source, expected="rows", got="none")
    if not config.class_ids:
        columns = {n: name_classes(values, found.features[n]) for n, values in columns.items()}
    return Table(columns, [f"{source} row {i}" for i in range(len(found))], source)


def name_classes(values: Iterable, feature: Any) -> list:
    """Numbers of classes as their names, -1 as None, also in lists; other values as they are."""
    import datasets

    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names = feature.names
        return [None if value is None or value < 0 else names[value] for value in values]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return [value if value is None else name_classes(value, inner) for value in values]
    return list(values)
