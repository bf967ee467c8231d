"""Opening what a stream reads: its rows or tables, its objective with the labels that are there."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import sha256
from jaxssl.core.types import Batch
from jaxssl.data.config import DataConfig, ImportedData, StoreConfig, TablesConfig
from jaxssl.data.examples import ExampleData, Examples, boxes
from jaxssl.data.loader import Data, StoreData, make_plans, open_rows
from jaxssl.data.store.rows import RowSource
from jaxssl.data.store.store import TokenStore, check_tokenizer, check_vocabulary
from jaxssl.data.tables.read import read_splits, read_table
from jaxssl.data.tables.table import Note, Table, say
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.model import ModelConfig, check_length
from jaxssl.objectives.base import Objective
from jaxssl.parallel import hosts
from jaxssl.run.config import StreamConfig
from jaxssl.tasks.base import Encoded


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A stream whose data are open.

    Attributes:
      config: the objective with the labels of its training data.
      splits: its data by split.
      largest: a batch of the longest rows that training has.
      checksum: of all that is trained on.
      tokens_per_byte: of the splits that are text.
      unigram_entropy: in nats a token, of the splits that are text.
      summary: how much there is.
      warnings: what was cut off, and what else is said of the data before the run begins.
    """

    config: StreamConfig
    splits: Mapping[str, Data]
    largest: Batch
    checksum: str
    tokens_per_byte: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unigram_entropy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    summary: str = ""
    warnings: tuple[str, ...] = ()


def open_stream(
    config: StreamConfig, model: ModelConfig, tokenizer: Tokenizer, note: Note = say
) -> Opened:
    """Reads what a stream is trained and validated on.

    Raises:
      UserError: data that are not there or damaged, or that the objective has no use for.
    """
    check_length(model, *config.data.longest)
    return KINDS[type(config.data)].training(config, model, tokenizer, note)


# --- Token stores -------------------------------------------------------------------------------


def _open_store(
    config: StreamConfig, model: ModelConfig, tokenizer: Tokenizer, note: Note
) -> Opened:
    data = _as_read(config)
    if config.objective.tasks:
        raise UserError(
            "a token store has no labels",
            where="data.store",
            expected=f"data.tables, for {config.objective.tasks[0].name}",
            got=data.store,
        )
    store, wanted = _complete_store(data, config.validation), {"train"}
    wanted |= {config.validation} if config.validation is not None else set()
    check_tokenizer(store, tokenizer)
    check_vocabulary(store, model.vocab_size)
    splits = {}
    for name in sorted(wanted, key=lambda name: name != "train"):
        rows = open_rows(data, name, store, config.objective.reads_marks)
        config.objective.check_rows(spread_rows(rows))
        splits[name] = StoreData(rows)
    train, manifest = splits["train"], store.manifest
    per_epoch, left_over = divmod(train.num_rows, data.batch_size)
    left = train.source.tokens_left_over
    tokens = f" and {left} tokens" if left else ""
    return Opened(
        config=config,
        splits=splits,
        largest=train.source.rows(np.arange(data.batch_size) % train.num_rows, 0),
        checksum=sha256(Path(data.store) / "manifest.json"),
        tokens_per_byte={name: x for name in splits if (x := tokens_per_byte(store, name))},
        unigram_entropy={name: manifest.splits[name].unigram_entropy for name in splits},
        summary=f"{train.num_rows:,} rows of {data.sequence_length} tokens, {per_epoch:,} steps an "
        f"epoch ({left_over} rows{tokens} left over)",
        warnings=_of_fewer_pieces(store, tokenizer),
    )


def _of_fewer_pieces(store: TokenStore, tokenizer: Tokenizer) -> tuple[str, ...]:
    """A note of a store whose text was cut into the first pieces of the tokenizer alone."""
    if store.manifest.tokenizer.get("fingerprint") == tokenizer.fingerprint:
        return ()
    return (
        f"note: {store.path} was prepared with {store.vocab_size:,} of the tokenizer's "
        f"{tokenizer.vocab_size:,} pieces, which are its first ones",
    )


def _as_read(stream: StreamConfig) -> StoreConfig:
    """What a stream reads, its rows as long as its objective wants them from the store."""
    data = stream.data
    assert isinstance(data, StoreConfig)
    length = stream.objective.raw_length(data.sequence_length)
    return dataclasses.replace(data, sequence_length=length)


def _complete_store(data: StoreConfig, validation: str | None) -> TokenStore:
    """The token store with all that is needed of it; the first process sees to that for all.

    Each process compares the bytes that it will read: they may lie on a disk of its own.
    """

    def complete() -> int:
        store = TokenStore.open(data.store, verify=data.verify)
        if validation is not None:
            _check_validation(store, validation)
        make_plans(data, store, {"train", validation or "train"})
        return 0

    hosts.first_decides(complete)
    return TokenStore.open(data.store, verify=False if hosts.is_first() else data.verify)


def spread_rows(rows: RowSource, most: int = 4096) -> Batch:
    """At most so many rows, evenly over the split: what one batch shows may be an exception."""
    return rows.rows(np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows), dtype=int), 0)


def _check_validation(store: TokenStore, split: str) -> None:
    if split not in store.manifest.splits:
        raise UserError(
            "the token store has no such split to validate on",
            where="evaluation.split",
            expected="one of " + ", ".join(store.manifest.splits),
            got=split,
            fix="prepare the text with a larger validation_fraction (or documents=blank_lines, if "
            "it has few files), or train without validation: evaluation.split=null, or of a stream "
            "streams.NAME.validation=null",
        )


def tokens_per_byte(store: TokenStore, split: str) -> float | None:
    """Content tokens of a split (document ends left out) for each byte of its text."""
    record = store.manifest.splits[split]
    return (record.tokens - record.documents) / record.bytes if record.bytes else None


def _store_split(
    stream: StreamConfig, split: str | None, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[Data, float | None]:
    assert split is not None, "these data have splits"
    config = _as_read(stream)
    store = TokenStore.open(config.store, verify=config.verify)
    check_tokenizer(store, tokenizer)
    check_vocabulary(store, model.vocab_size)
    rows = open_rows(config, split, store, stream.objective.reads_marks)
    return StoreData(rows), tokens_per_byte(store, split)


# --- Tables -------------------------------------------------------------------------------------


def _open_tables(
    config: StreamConfig, model: ModelConfig, tokenizer: Tokenizer, note: Note
) -> Opened:
    data: Any = config.data
    tables = read_tables(config, note)
    objective = config.objective.learn_labels(tables["train"])
    encoded = {
        name: encode(objective, table, tokenizer, data.max_length, name)
        for name, table in tables.items()
    }
    edges = boxes(encoded["train"].examples.sizes, data.row_lengths)
    splits = {name: as_data(each, edges) for name, each in encoded.items()}
    if config.validation is not None and config.validation not in splits:
        raise UserError(
            "there is no such split to validate on",
            where="evaluation.split",
            expected="one of " + ", ".join(splits),
            got=config.validation,
            fix="give data.tables.validation, or a validation_fraction above 0",
        )
    cut = [x for name, each in encoded.items() for x in each.warnings(data.max_length, name)]
    lengths = ", ".join("+".join(map(str, box)) for box in edges.tolist())
    largest = _longest_batch(splits["train"], data.batch_size)
    objective.check_rows(largest)
    return Opened(
        config=dataclasses.replace(config, objective=objective),
        splits=splits,
        largest=largest,
        checksum=_checksum(encoded),
        summary=f"{splits['train'].num_rows:,} examples, rows of {lengths} tokens",
        warnings=tuple(cut),
    )


def read_tables(config: StreamConfig, note: Note = say) -> dict[str, Table]:
    """The splits of a stream's labelled data; see `read_splits`.

    Raises:
      UserError: no task among what it is trained on.
    """
    tasks, data = config.objective.tasks, config.data
    if not tasks or not isinstance(data, TablesConfig):
        raise UserError(
            "nothing here has labels",
            where="objective.name, data.tables",
            expected="a task and tables of labelled examples",
            got=f"{config.objective.name}, {config.data.source}",
        )
    task = tasks[0]
    return read_splits(
        data.tables,
        task.label,
        note,
        columns=needed_columns(config.objective),
        has_classes=task.has_classes,
        draw=data.seed,
    )


def needed_columns(objective: Objective) -> dict[str, str]:
    """The columns that an objective's tasks read, by the keys that name them."""
    return {
        f"{key} of {name}" if name else key: column
        for name, task in objective.named_tasks.items()
        for key, column in task.needed_columns(labelled=True).items()
    }


def encode(
    objective: Objective,
    table: Table,
    tokenizer: Tokenizer,
    max_length: int,
    split: str,
) -> Encoded:
    """A split as rows with all that an objective's tasks need of it.

    Raises:
      UserError: two tasks that cut the texts into different rows.
    """
    made = {
        name: task.encode(table, tokenizer, max_length, split)
        for name, task in objective.named_tasks.items()
    }
    if "" in made:
        return made[""]
    (first, encoded), *others = made.items()
    for name, other in others:
        if not _same_rows(encoded.examples, other.examples):
            raise UserError(
                "two tasks make different rows of one table",
                where=f"objective.terms, {first}, {name}",
                expected="the same texts, columns and special tokens",
                got=f"{encoded.examples.num_rows} and {other.examples.num_rows} rows",
                fix="give each a stream of its own (streams)",
            )
    return Encoded(
        dataclasses.replace(
            encoded.examples,
            per_row=_entries(made, "per_row"),
            per_token=_entries(made, "per_token"),
            sides=_entries(made, "sides"),
        ),
        {name: each.references for name, each in made.items()},
        tuple(dict.fromkeys(note for each in made.values() for note in each.notes)),
        encoded.truncation,
    )


def _same_rows(one: Examples, other: Examples) -> bool:
    pairs = ((one.tokens, other.tokens), (one.starts, other.starts), (one.second, other.second))
    return all(np.array_equal(a, b) for a, b in pairs)


def _entries(made: Mapping[str, Encoded], kind: str) -> dict[str, Any]:
    """What travels with rows or tokens, by the name of the task that it is for."""
    return {
        f"{name}/{entry}": values
        for name, each in made.items()
        for entry, values in vars(each.examples)[kind].items()
    }


def as_data(encoded: Encoded, edges: Any) -> ExampleData:
    """A split as data for the loop; rows longer than any seen in training get a length more.

    Args:
      edges: int [K, S]; or [K], of the first side alone: others get the length that fits them all.
    """
    (longest,) = boxes(encoded.examples.sizes, 1)
    edges = np.asarray(edges)
    if edges.ndim == 1:
        others = np.tile(longest[1:], (len(edges), 1))
        edges = np.concatenate([edges[:, None], others], axis=1)
    if (longest > edges[-1]).any():
        edges = [*edges, np.maximum(longest, edges[-1])]
    return ExampleData(encoded.examples, np.asarray(edges), encoded.references)


def _tables_split(
    stream: StreamConfig, split: str | None, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[Data, float | None]:
    assert split is not None, "these data have splits"
    return read_split(stream, tokenizer, split), None


def read_split(stream: StreamConfig, tokenizer: Tokenizer, split: str) -> ExampleData:
    """A split of a stream's labelled data; its objective has the labels already.

    Raises:
      UserError: no such split, or labels that the run does not know.
    """
    tables, data = read_tables(stream, lambda text: None), stream.data
    if split not in tables:
        raise UserError(
            "there is no such split",
            where="split",
            expected="one of " + ", ".join(tables),
            got=split,
            fix=did_you_mean(split, tables),
        )
    assert isinstance(data, TablesConfig)
    encoded = encode(stream.objective, tables[split], tokenizer, data.max_length, split)
    return as_data(encoded, boxes(encoded.examples.sizes, data.row_lengths))


def _longest_batch(data: ExampleData, batch_size: int) -> Batch:
    """A batch of the longest rows that training has."""
    rows = np.arange(batch_size) % data.num_rows
    shortened = np.where((data.examples.sizes[rows] <= data.edges[-1]).all(1), rows, -1)
    length, *others = data.edges[-1].tolist()
    return data.examples.rows(shortened, length, 0, *others)


def _checksum(splits: Mapping[str, Encoded]) -> str:
    """Of all tokens and labels: another order or another example is other data."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        examples = splits[name].examples
        labels = [*examples.per_row.values(), *(x for x, _ in examples.per_token.values())]
        sides = [x for side in examples.sides.values() for x in (side.tokens, side.starts)]
        for array in (examples.tokens, examples.starts, *labels, *sides):
            digest.update(array.tobytes())
    return digest.hexdigest()


# --- Nothing ------------------------------------------------------------------------------------


def _open_imported(
    config: StreamConfig, model: ModelConfig, tokenizer: Tokenizer, note: Note
) -> Opened:
    raise UserError(
        "an imported model has no data to train on",
        where="data",
        expected="data.store or data.tables",
        got="nothing",
        fix="train from it with a recipe: init.from=RUN",
    )


def _imported_split(
    stream: StreamConfig, split: str | None, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[Data, float | None]:
    data: Any = stream.data
    if data.table is None or not stream.objective.named_tasks:
        of_tables = bool(stream.objective.named_tasks)
        raise UserError(
            "an imported model has no data of its own",
            where="data.table" if of_tables else "--store",
            expected="labelled data" if of_tables else "a token store made with its tokenizer",
            got="none",
            fix="name a file: --with data.table.path=FILE"
            if of_tables
            else "jaxssl prepare tokenizer=RUN/tokenizer source=... out=STORE",
        )
    if split is not None:
        raise UserError(
            "the data of an imported model have no splits",
            where="--split",
            expected="all rows of data.table, without --split",
            got=split,
            fix="name the file of the split: --with data.table.path=FILE",
        )
    table = read_table(data.table)
    table.check(needed_columns(stream.objective))
    encoded = encode(stream.objective, table, tokenizer, data.max_length, table.source)
    return as_data(encoded, boxes(encoded.examples.sizes, 4)), None


def open_split(
    stream: StreamConfig, split: str | None, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[Data, float | None]:
    """One split of what a stream reads, to evaluate a model on; tokens for each byte of its text.

    Args:
      split: None for all of what has no splits: `usual_split` of the data.

    Raises:
      UserError: data that are not there, or that the model cannot read.
    """
    check_length(model, *stream.data.longest)
    return KINDS[type(stream.data)].split(stream, split, model, tokenizer)


class Kind(NamedTuple):
    """How one kind of data is opened.

    Attributes:
      training: all splits, with what training needs to know of them.
      split: one of them, to evaluate on; None for data without splits.
    """

    training: Callable[[StreamConfig, ModelConfig, Tokenizer, Note], Opened]
    split: Callable[[StreamConfig, str | None, ModelConfig, Tokenizer], tuple[Data, float | None]]


KINDS: Mapping[type[DataConfig], Kind] = {
    StoreConfig: Kind(_open_store, _store_split),
    TablesConfig: Kind(_open_tables, _tables_split),
    ImportedData: Kind(_open_imported, _imported_split),
}
