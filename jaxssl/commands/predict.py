"""What a fine-tuned run says of each row of a file, in memory that does not grow with the file.

from jaxssl.commands import predict
predict.predict("runs/sst2", ["reviews.csv"], "predictions.jsonl")
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from jaxssl.commands.rows_out import NOTHING_CUT, NOTHING_DONE, Done, begun, content, identity
from jaxssl.commands.without_text import Filled, WithoutText, chosen, rows_with_text
from jaxssl.core.errors import UserError
from jaxssl.core.prefetch import prefetch
from jaxssl.core.progress import bar, silent
from jaxssl.core.types import Batch, Params
from jaxssl.data.examples import fixed_lengths
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import file_paths, read_chunks
from jaxssl.data.tables.table import Note, Table, say
from jaxssl.data.tables.writers import check_output, open_output
from jaxssl.models.model import check_length
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import replicated
from jaxssl.program.step import make_predict_step
from jaxssl.run.applied import apply, has_task
from jaxssl.run.config import StreamConfig
from jaxssl.run.feeds import as_data
from jaxssl.run.open import (
    TrainedModel,
    check_reads_no_tables,
    choose_stream,
    fitting_size,
    open_run,
)
from jaxssl.run.recipes import read_config
from jaxssl.tasks.base import Encoded, Task
from jaxssl.train.evaluation import DataPass, in_order, over_batches

CHUNK_ROWS, WRITTEN_ROWS = 4096, 256
"""Rows, at least, that are read, sorted by length, predicted and written together; the latter where
the model writes a text for each, which takes long."""
PREFIX = "input_"
"""Comes before the name of an input's column that a prediction has, too."""
Prediction = dict[str, Any]
Predicted = Iterator[tuple[Table, list[Prediction]]]
"""Tables, and what the task makes of their rows."""


class Rows(Protocol):
    """What rows are written to: see `writers.Writer`."""

    def write(self, names: Sequence[str], rows: Sequence[Any], places: Sequence[str]) -> None:
        """Writes rows."""


# --- Tables -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A fine-tuned run that is ready to predict tables; labels need not be there.

    Attributes:
      max_length: of a row, in tokens.
      batch_size: that divides over the devices there are now.
      asked_size: of a batch, as the run has it: the same on any devices.
      lengths: to which rows are padded. Each is compiled once, when it is first needed.
      step: a jitted `make_predict_step`.
    """

    trained: TrainedModel
    task: Task
    max_length: int
    batch_size: int
    asked_size: int
    lengths: np.ndarray
    step: Callable[[Params, Batch], dict[str, jax.Array]]

    def predict(self, table: Table) -> list[Prediction]:
        """What the task makes of each row, in their order.

        Raises:
          UserError: a column is missing, or a value cannot be used.
        """
        return self.predict_encoded(self.encode(table)) if len(table) else []

    def encode(self, table: Table) -> Encoded:
        """The first half of `predict`, on the host."""
        where, tokenizer = f"{table.places[0]} to {table.places[-1]}", self.trained.tokenizer
        return self.task.encode(table, tokenizer, self.max_length, where, labelled=False)

    def predict_encoded(self, encoded: Encoded) -> list[Prediction]:
        """The second half, on the devices: rows of similar length together, then in order."""
        trained, task = self.trained, self.task
        predictions: Mapping[str, np.ndarray] = {}
        if encoded.examples.num_rows:
            data = as_data(encoded, self.lengths)
            rows = DataPass(data=data, mesh=trained.mesh, batch_size=self.batch_size)
            with trained.in_use():
                _, predictions = in_order(list(over_batches(self.step, trained.params, rows)))
        return task.outputs(predictions, encoded.references)


def open_predictor(
    run_dir: str | Path,
    step: int | str = "best",
    layers: Sequence[str] = (),
    stream: str | None = None,
    adapters: Sequence[str] = (),
) -> Predictor:
    """Restores a fine-tuned run; arguments and errors are those of `trained.open_run`, and of
    `labelled_stream`."""
    run = apply(run_dir, adapters, has_task).run_dir
    chosen = labelled_stream(run, layers, stream)
    task, (max_length, key) = chosen.objective.tasks[0], chosen.data.longest
    has_others = bool(task.networks(read_config(run, layers).model))
    trained = open_run(run_dir, step, layers, alone=not has_others, adapters=adapters)
    check_length(trained.config.model, max_length, key, lead=trained.model.lead)
    predict_step = make_predict_step(trained.model, task, trained.vocabulary)
    return Predictor(
        trained=trained,
        task=task,
        max_length=max_length,
        batch_size=fitting_size(trained, chosen.data.batch_size),
        asked_size=chosen.data.batch_size,
        lengths=fixed_lengths(max_length),
        step=jax.jit(predict_step, out_shardings=replicated(trained.mesh)),
    )


def labelled_stream(
    run_dir: str | Path, layers: Sequence[str] = (), stream: str | None = None
) -> StreamConfig:
    """The data and the task of a run that was fine-tuned, or imported with a task's head.

    Args:
      stream: which of several; None is the first with a task.

    Raises:
      UserError: it is no run, or one without a task; it has no such stream, or that has none.
    """
    config = read_config(Path(run_dir), layers)
    labelled = config.all_labelled
    if not labelled:
        raise UserError(
            "this run has no task: it cannot predict",
            where=run_dir,
            expected="a run that `jaxssl finetune` made",
            got=config.purpose,
            fix=f"jaxssl finetune RECIPE init.from={run_dir} out=...",
        )
    name = next(iter(labelled)) if stream is None else stream
    choose_stream(config, name)
    if name not in labelled:
        raise UserError(
            "this stream has no task: it cannot predict",
            where="--stream",
            expected="one of " + ", ".join(labelled),
            got=name,
        )
    check_length(config.model, *labelled[name].data.longest, lead=config.taken)
    return labelled[name]


def predictions_of(
    predictor: Predictor,
    files: Iterable[TableFile],
    note: Note = say,
    done: Done = NOTHING_DONE,
    remember: Callable[..., None] | None = None,
) -> Predicted:
    """The rows of files, a table of some thousands at a time, and what the task makes of each.

    Each table is read and encoded while the devices work on the one before it. A row without text
    gets null for each value.

    Args:
      note: told of rows left out or without text, and of what was cut off: in all, at the end.
      done: rows that are read and not predicted again; they end where a table did.
      remember: told of each table before it comes what `Done` has to know of it.

    Raises:
      UserError: what cannot be read or used, when the reader gets there; no row has a text.
    """
    chunk = rows_together(predictor)
    tables = (table for file in files for table in read_chunks(file, chunk, note))
    cut, without, filled = done.cut, WithoutText(), Filled(done.names)
    encoded_tables = (_encoded(predictor, t, done.rows) for t in numbered(tables))
    for table, kept, encoded in prefetch(encoded_tables):
        without.add(table, kept)
        if _is_done(table, done.rows):
            continue
        rows, more = [], NOTHING_CUT
        if encoded is not None:
            rows = predictor.predict_encoded(encoded)
            assert len(rows) == len(kept), "a task gives one output for each row"
            for text in encoded.notes:
                note(text)
            more = encoded.truncation or NOTHING_CUT
        cut += more
        for ready, made in filled.add(table, kept, rows):
            if remember is not None:
                here = more if ready is table else NOTHING_CUT
                remember(names=list(made[0]), cut=[here.rows, here.total, here.tokens, here.side])
            yield ready, made
    for text in (cut.warning(predictor.max_length, "predict"), without.note("predict")):
        if text is not None:
            note(text)


def rows_together(predictor: Predictor) -> int:
    """How many rows are predicted and written together: few batches of them hold padding. On other
    devices they are as many, so that a file is gone on with there."""
    least = WRITTEN_ROWS if predictor.task.writes else CHUNK_ROWS
    return -(-least // predictor.asked_size) * predictor.asked_size


def _is_done(table: Table, rows: int) -> bool:
    assert table.row_numbers is not None
    return table.row_numbers[-1] < rows


def _encoded(
    predictor: Predictor, table: Table, done: int
) -> tuple[Table, list[int], Encoded | None]:
    """A table, which of its rows have text, and these encoded; None if there are none, or the
    table is among the first `done` rows."""
    task = predictor.task
    table.check(task.needed_columns(labelled=False))
    columns = [table.column(column, key) for key, column in task.text_columns.items()]
    kept = rows_with_text(columns, task.has_text) if columns else list(range(len(table)))
    is_wanted = kept and not _is_done(table, done)
    return table, kept, predictor.encode(chosen(table, kept)) if is_wanted else None


def numbered(tables: Iterable[Table]) -> Iterator[Table]:
    """The tables, each knowing which rows it has of all."""
    start = 0
    for table in tables:
        yield dataclasses.replace(table, row_numbers=range(start, start + len(table)))
        start += len(table)


# --- Files --------------------------------------------------------------------------------------


def predict(
    run_dir: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    format: str = "auto",
    options: Sequence[str] = (),
    keep_input: bool = True,
    overwrite: bool = False,
    step: int | str = "best",
    layers: Sequence[str] = (),
    stream: str | None = None,
    adapters: Sequence[str] = (),
    note: Note = say,
) -> int:
    """Predicts each row of files and writes one row for each, in their order.

    Args:
      inputs: a file or a glob, or several; .txt is a text a line.
      output: ends in .jsonl, .csv or .tsv; "-" is standard output, as jsonl.
      format, options: how all inputs are read: see `data.table_inputs.input_file`. Nothing is
        taken over from the tables that the run was trained on but the names of their columns.
      keep_input: each row begins with the input's; what is null there is left out.
      overwrite: the output may replace a file.
      step, layers: as for `trained.open_run`.
      stream: which of the run's, where several have a task; None is the first, and is told.
      adapters: to use the run with, as for `trained.open_run`. Where it has no task, that of the
        first adapter's run is predicted.
      note: told of what is not an error.

    Returns:
      How many rows there were.

    Raises:
      UserError: a mistake in the arguments or the input. The output is not there then, or as it
        was before. What another end left is gone on with when the same is called again.
    """
    run = apply(run_dir, adapters, has_task).run_dir
    chosen = labelled_stream(run, layers, stream)
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    files = [
        input_file(str(x), format, options, chosen.objective.tasks[0].text_column) for x in given
    ]
    paths = [path for file in files for path in file_paths(file.path)]
    config = read_config(run, layers)
    hosts.connect(config.distributed)
    check_reads_no_tables(run, layers)
    hosts.first_decides(lambda: check_output(str(output), paths, overwrite) or 0)
    is_first = hosts.is_first()
    tell = note if is_first else lambda text: None
    if stream is None and len(config.all_labelled) > 1:
        first, *others = config.all_labelled
        tell(f"predicts as stream {first}; --stream chooses another: {', '.join(others)}")
    for file in files:
        unused = chosen.data.unused_options(file)
        if unused is not None:
            tell(f"{unused}; give them with --set where they hold")
    predictor = open_predictor(run_dir, step, layers, stream, adapters)

    def settings() -> dict[str, Any]:
        how = {"keep_input": keep_input, "rows at a time": rows_together(predictor)}
        how["stream"] = stream
        return {**identity(predictor.trained), **content(files), **how}

    with begun(str(output), settings, tell) as (rows, done):
        tables = predictions_of(predictor, files, tell, done, rows and rows.remember)
        progress = bar(
            description="predict", unit="row", enabled=is_first, note="compiling", initial=done.rows
        )
        with progress, silent():
            if rows is not None:
                write_rows(rows, _counted(tables, progress.update), keep_input, tell)
                return rows.rows
            return sum(len(table) for table, _ in tables)


def _counted(tables: Predicted, count: Callable[[int], Any]) -> Predicted:
    """`tables`; `count` is told how many rows each had."""
    for table, rows in tables:
        yield table, rows
        count(len(rows))


def write(tables: Predicted, output: str, keep_input: bool, note: Note) -> int:
    """Writes rows to a file that is whole or not there; see `write_rows`."""
    with open_output(output) as writer:
        return write_rows(writer, tables, keep_input, note)


def write_rows(writer: Rows, tables: Predicted, keep_input: bool, note: Note) -> int:
    """Writes predictions, after the rows they are of where `keep_input`; returns how many."""
    count = 0
    for table, rows in tables:
        names = list(dict.fromkeys(name for row in rows for name in row))
        if keep_input:
            copied = copied_names(table.columns, names)
            renamed = [f"{old} as {new}" for old, new in copied.items() if old != new]
            if renamed and not count:
                note(f"columns of the input whose names predictions have: {', '.join(renamed)}")
            kept = kept_rows(table, copied)
            rows = [{**old, **new} for old, new in zip(kept, rows, strict=True)]
            names = [*copied.values(), *names]
        writer.write(names, rows, table.places)
        count += len(rows)
    return count


def copied_names(columns: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """What each column of the input is called in the output: `label` is `input_label` where a
    prediction has a `label`, and `input_label` then `input_input_label`."""

    def is_taken(name: str) -> bool:
        return name in taken or (name.startswith(PREFIX) and is_taken(name[len(PREFIX) :]))

    return {name: PREFIX + name if is_taken(name) else name for name in columns}


def kept_rows(table: Table, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The table's rows under these names, without null and not-a-number."""
    for values in zip(*table.columns.values()):
        yield {
            name: value
            for name, value in zip(names.values(), values)
            if value is not None and value == value
        }
