"""What a model writes after each prompt of a file, in memory that does not grow with the file.

from jaxssl.commands.generate_file import generate_file
generate_file("runs/gpt", ["prompts.jsonl"], "texts.jsonl", Sampling(max_new_tokens=64))
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.commands.predict import Predicted, numbered, write_rows
from jaxssl.commands.rows_out import begun, content, identity
from jaxssl.core.bounds import refuse_below
from jaxssl.core.progress import bar, silent
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import file_paths, read_chunks
from jaxssl.data.tables.table import Note, Table, say
from jaxssl.data.tables.writers import check_output
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.generate.texts import Text, Writing
from jaxssl.parallel import hosts
from jaxssl.run.applied import apply, writes
from jaxssl.run.by_row import chosen_by_row, numbers_of
from jaxssl.run.open import (
    TextWriter,
    check_reads_no_tables,
    open_run,
    tell_special,
    writer_of,
)
from jaxssl.run.recipes import read_config

CHECKED_ROWS = 4096
"""Prompts that are looked at together before any text is written."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where prompts come from: files, or a table in memory.

    Attributes:
      column: of the prompts.
      adapter_column: of the adapters that rows use, where they choose.
      called: the adapters' numbers, as rows call them.
    """

    files: Sequence[TableFile]
    table: Table | None
    column: str
    adapter_column: str | None = None
    called: Mapping[str, int] | None = None

    def chunks(self, rows: int, note: Note) -> Iterator[Table]:
        """Tables of at most so many rows, that know their rows' numbers."""
        tables = (table for file in self.files for table in read_chunks(file, rows, note))
        if self.table is not None:
            starts = range(0, len(self.table), rows)
            whole = self.table
            tables = (whole.select(range(len(whole))[start : start + rows]) for start in starts)
        return numbered(tables)

    def prompts(self, table: Table) -> list[str]:
        """Those of a table. Raises UserError."""
        return table.strings(self.column, "--column")

    def adapter(self, table: Table) -> list[int] | None:
        """The number of each row's adapter, where rows choose. Raises UserError."""
        if self.adapter_column is None:
            return None
        rows = table.strings(self.adapter_column, "--adapter-column")
        return numbers_of(rows, table.places, self.called or {})

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others."""
        if self.table is None:
            chosen = {"adapter_column": self.adapter_column, "called": self.called}
            chosen = {} if self.adapter_column is None else chosen
            return {**content(self.files), "column": self.column, **chosen}
        texts = json.dumps(self.table.columns[self.column])
        return {"prompts": hashlib.sha256(texts.encode()).hexdigest()}


def generate_file(
    run_dir: str | Path,
    inputs: Sequence[str | Path],
    output: str | Path,
    sampling: Sampling,
    *,
    prompts: Sequence[str] = (),
    beams: Beams | None = None,
    choices: tuple[str, ...] = (),
    column: str = "prompt",
    batch_size: int = 16,
    format: str = "auto",
    options: Sequence[str] = (),
    keep_input: bool = True,
    overwrite: bool = False,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
    adapter_column: str | None = None,
    note: Note = say,
) -> int:
    """Writes a row for each text, `sampling.samples` for each prompt, in the order of the file. A
    text depends on the seed and its number, not on where a command was killed.

    Args:
      inputs, output, format, options, keep_input, overwrite: as for `predict.predict`.
      prompts: instead of inputs.
      column: of the prompts, in the inputs and in the output; what a .txt's lines are called.
      batch_size: prompts that are written after together.
      step, layers, adapters: as for `run.open.open_run`.
      adapter_column: of what says which one of the adapters a row uses, as `adapters` call it.
      note: told of what is not an error.

    Returns:
      How many rows there are.

    Raises:
      UserError: a mistake in the arguments or a prompt; no text is written then.
    """
    refuse_below(1, batch_size=batch_size)
    files = [input_file(str(path), format, options, column) for path in inputs]
    paths = [path for file in files for path in file_paths(file.path)]
    places = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    given = None if files else Table({column: list(prompts)}, places)
    run = apply(run_dir, adapters, writes).run_dir
    hosts.connect(read_config(run, layers).distributed)
    check_reads_no_tables(run, layers)
    hosts.first_decides(lambda: check_output(str(output), paths, overwrite) or 0)
    is_first = hosts.is_first()
    tell = note if is_first else lambda text: None
    writing = Writing(beams=beams, choices=choices)
    trained = open_run(run_dir, step, layers, alone=True, adapters=adapters, able=writes)
    called = None
    if adapter_column is not None:
        trained, called = chosen_by_row(trained, adapters)
    source = Source(files, given, column, adapter_column, called)
    writer = writer_of(trained, sampling, writing)
    count = _checked(writer, source, tell) * sampling.samples

    def settings() -> dict[str, Any]:
        how = {**dataclasses.asdict(sampling), **dataclasses.asdict(writing)}
        how |= {"keep_input": keep_input, "batch_size": batch_size}
        return {**identity(writer.trained), **source.settings, **how}

    with begun(str(output), settings, tell) as (rows, done):
        progress = bar(
            **{"total": count, "description": "generate", "unit": "text"},
            **{"initial": done.rows, "enabled": is_first, "note": "compiling"},
        )
        with progress, silent():
            tables = source.chunks(batch_size, lambda text: None)
            made = _written(writer, source, tables, done.rows, progress.update)
            if rows is not None:
                write_rows(rows, made, keep_input, tell)
            else:
                for _ in made:
                    pass
    return count


def _checked(writer: TextWriter, source: Source, note: Note) -> int:
    """How many prompts there are. Each is looked at first: to find one that is too long after hours
    would be late."""
    count, special = 0, {}
    for table in source.chunks(CHECKED_ROWS, note):
        prompts = source.prompts(table)
        writer.check(prompts, table.places)
        source.adapter(table)
        special |= dict.fromkeys(writer.trained.tokenizer.special_in(prompts))
        count += len(table)
    tell_special([*special])
    return count


def _written(
    writer: TextWriter, source: Source, tables: Iterable[Table], done: int, count: Any
) -> Predicted:
    """The rows of tables, each as often as it has texts, and these; without the first `done`."""
    samples = writer.sampling.samples
    for table in tables:
        assert table.row_numbers is not None
        first = table.row_numbers[0] * samples
        if first < done:
            continue
        adapter = source.adapter(table)
        texts = writer.write(source.prompts(table), first=first, adapter=adapter)
        yield (
            table.select(row for row in range(len(table)) for _ in range(samples)),
            [_row(text, number % samples, samples) for number, text in enumerate(texts)],
        )
        count(len(texts))


def _row(text: Text, sample: int, samples: int) -> dict[str, Any]:
    row = dataclasses.asdict(text)
    return {"sample": sample, **row} if samples > 1 else row
