"""`jaxssl embed`: one vector for each text of a file, from any run.

from jaxssl.commands import embed
vectors = embed.open_embedder("runs/minilm").embed(["eat food", "eat bread"])
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.checkpoint.hf.sentence import SentenceConfig
from jaxssl.commands.predict import CHUNK_ROWS, write
from jaxssl.commands.without_text import WithoutText, chosen, rows_with_text
from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import atomic_write
from jaxssl.core.progress import bar, silent
from jaxssl.core.types import Batch, Params
from jaxssl.core.upcast import upcast
from jaxssl.data.encoding import Truncation, encode_rows
from jaxssl.data.examples import ExampleData, fixed_lengths
from jaxssl.data.tables.cells import is_missing
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import file_paths, read_chunks
from jaxssl.data.tables.table import Note, Table, say
from jaxssl.data.tables.writers import check_output, check_place
from jaxssl.data.tokenizer.tokenizer import Frame
from jaxssl.models.model import Model, check_length
from jaxssl.ops.pooling import Pooling, pool
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import batch_shards, replicated
from jaxssl.run.applied import apply, makes_vectors
from jaxssl.run.open import TrainedModel, check_reads_no_tables, open_run
from jaxssl.run.recipes import read_config
from jaxssl.run.sentences import sentence_of
from jaxssl.train.evaluation import DataPass, in_order, over_batches

NPY = ".npy"
MAX_LENGTH = 512
"""Tokens of a text, where no other number is asked for and the model has positions for them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
    """A run that is ready to embed texts.

    Attributes:
      sentence: how a vector is made of a text.
      prompt: what comes before each text.
      frame: special tokens around it; None for those of the tokenizer's rows.
      step: a jitted (params, batch) -> {"embedding" [B, W], ...}.
    """

    trained: TrainedModel
    sentence: SentenceConfig
    prompt: str
    frame: Frame | None
    batch_size: int
    step: Callable[[Params, Batch], dict[str, jax.Array]]

    @property
    def width(self) -> int:
        """Of a vector: the model's, as often as there are poolings."""
        return self.trained.model.config.hidden_size * len(self.sentence.pooling)

    @property
    def max_length(self) -> int:
        """Most tokens of a text, special ones included."""
        return self.sentence.max_length

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [N, W], in the order of the texts. What is too long is cut at its end."""
        return self.embed_counted(texts)[0]

    def embed_counted(self, texts: Sequence[str]) -> tuple[np.ndarray, Truncation]:
        """The same, and how much was cut."""
        trained = self.trained
        given = [self.prompt + text for text in texts]
        if self.sentence.lowercase:
            given = [text.lower() for text in given]
        examples, cut = encode_rows(
            trained.tokenizer, given, None, self.max_length, show=False, frame=self.frame
        )
        if not given:
            return np.zeros((0, self.width), np.float32), cut
        data = ExampleData(examples, fixed_lengths(self.max_length)[:, None], given)
        rows = DataPass(data=data, mesh=trained.mesh, batch_size=self.batch_size)
        with trained.in_use():
            _, found = in_order(list(over_batches(self.step, trained.params, rows)))
        return found["embedding"], cut


def open_embedder(
    run_dir: str | Path,
    *,
    pooling: Pooling | Sequence[Pooling] | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
    batch_size: int = 64,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> Embedder:
    """Restores a run. What is None is as the run was trained to make vectors, or as the
    sentence-transformers directory says that it was imported from.

    Args:
      pooling: what stands for a text, see `ops.pooling.pool`; several are concatenated. Else the
        mean.
      normalize: vectors of length 1. Else they are not.
      max_length: of a text in tokens, special ones included. Else 512, or what the model has.
      prompt: the name of the one that comes before each text; empty for none.
      batch_size: texts at a time.
      step, layers, adapters: as for `trained.open_run`.

    Raises:
      UserError: no such run; more tokens than the model has positions; no such prompt; the first
        token of a model in which it has seen nothing; less than one text or token at a time.
    """
    refuse_below(1, batch_size=batch_size, max_length=max_length)
    trained = open_run(run_dir, step, layers, alone=True, adapters=adapters, able=makes_vectors)
    declared = sentence_of(trained.config)
    poolings = (pooling,) if isinstance(pooling, str) else pooling
    sentence = _chosen(declared, trained.model, poolings, normalize, max_length)
    frame = None
    if declared is not None and trained.config.imported is not None:
        # Nothing is put around a text that the directory does not say.
        frame = trained.tokenizer.template(False) or ([], [], [])
    with trained.in_use():
        shards = batch_shards(trained.mesh)
    return Embedder(
        trained,
        sentence,
        _prompt(sentence, prompt),
        frame,
        -(-batch_size // shards) * shards,
        jax.jit(
            make_embed_step(trained.model, sentence.pooling, sentence.normalize),
            out_shardings=replicated(trained.mesh),
        ),
    )


def _chosen(
    declared: SentenceConfig | None,
    model: Model,
    pooling: Sequence[Pooling] | None,
    normalize: bool | None,
    max_length: int | None,
) -> SentenceConfig:
    """How a vector is made of a text: as asked for, else as declared, else as usual."""
    config, usual = model.config, min(MAX_LENGTH, model.max_positions)
    found = declared or SentenceConfig(pooling=("mean",), max_length=usual)
    asked = {
        "pooling": pooling and tuple(pooling),
        "normalize": normalize,
        "max_length": max_length,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    found = dataclasses.replace(found, **given)
    check_length(config, found.max_length, "--max-length", lead=model.taken)
    if "cls" in found.pooling and config.causal:
        raise UserError(
            "the first token of a causal model has seen nothing of the text",
            where="--pooling",
            expected="last, mean or weightedmean",
            got="cls",
        )
    return found


def _prompt(sentence: SentenceConfig, name: str | None) -> str:
    """The text of a prompt by its name; None for the default, empty for none."""
    name = sentence.default_prompt if name is None else name
    if name and name not in sentence.prompts:
        raise UserError(
            "the model has no such prompt",
            where="--prompt",
            expected=", ".join(sentence.prompts) or "none: write it into the texts",
            got=name,
            fix=did_you_mean(name, sentence.prompts),
        )
    return sentence.prompts[name] if name else ""


def make_embed_step(
    model: Model, pooling: Sequence[Pooling], normalize: bool
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """A function `(params, batch) -> {"embedding": float32 [B, W], ...}`."""

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        hidden = model.encode(params, batch)
        parts = [upcast(pool(hidden, batch["segment_ids"], how)) for how in pooling]
        vectors = jnp.concatenate(parts, axis=-1)
        if normalize:
            norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / jnp.maximum(norm, 1e-12)
        kept = {name: batch[name] for name in ("example_id", "example_weights")}
        return {"embedding": vectors, **kept}

    return step


# --- Files --------------------------------------------------------------------------------------


def embed_file(
    run_dir: str | Path,
    inputs: Sequence[str],
    output: str,
    *,
    text: str = "text",
    format: str = "auto",
    options: Sequence[str] = (),
    keep_input: bool = True,
    overwrite: bool = False,
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
    note: Note = say,
    **chosen: Any,
) -> int:
    """Embeds each row of files, in their order. Of several processes the first one writes.

    Args:
      inputs, format, options, keep_input, overwrite: as for `predicting.predict`.
      output: ends in .npy (float32 [N, W]), .jsonl, .csv or .tsv (a list in `embedding`). A row
        without text has not-a-number, or null.
      text: the column of the texts.
      layers, adapters: as for `trained.open_run`.
      chosen: what else `open_embedder` takes.

    Returns:
      How many rows there were.

    Raises:
      UserError: a mistake in the arguments or the input; there is no output then.
    """
    refuse_below(1, batch_size=chosen.get("batch_size"), max_length=chosen.get("max_length"))
    files = [input_file(path, format, options, text) for path in inputs]
    paths = [path for file in files for path in file_paths(file.path)]
    is_array = output.endswith(NPY)
    check = check_place if is_array else functools.partial(check_output, also=f"{NPY}, ")
    run = apply(run_dir, adapters, makes_vectors).run_dir
    hosts.connect(read_config(run, layers).distributed)
    check_reads_no_tables(run, layers)
    hosts.first_decides(lambda: check(output, paths, overwrite) or 0)
    is_first = hosts.is_first()
    embedder = open_embedder(run_dir, layers=layers, adapters=adapters, **chosen)
    tell = note if is_first else lambda text: None
    progress = bar(description="embed", unit="row", enabled=is_first)
    with progress, silent():
        tables = _embedded(embedder, files, text, progress.update, tell)
        if not is_first:
            return sum(len(table) for table, _, _ in tables)
        if is_array:
            return _write_array(output, embedder, (vectors for _, _, vectors in tables))
        rows = ((table, _as_rows(kept, vectors)) for table, kept, vectors in tables)
        return write(rows, output, keep_input, tell)


def _as_rows(kept: Sequence[int], vectors: np.ndarray) -> list[dict[str, Any]]:
    """A row for each vector; null for those that are not `kept`."""
    has_text = set(kept)
    return [
        {"embedding": vector.tolist() if i in has_text else None}
        for i, vector in enumerate(vectors)
    ]


def _embedded(
    embedder: Embedder,
    files: Sequence[TableFile],
    text: str,
    count: Callable[[int], Any],
    note: Note,
) -> Iterator[tuple[Table, list[int], np.ndarray]]:
    """Tables of some thousands of rows, which of their rows have text, and a vector for each row:
    not-a-number for the others."""
    size = -(-CHUNK_ROWS // embedder.batch_size) * embedder.batch_size
    cut, without = Truncation(0, 0, 0), WithoutText()
    for file in files:
        for table in read_chunks(file, size, note):
            values = table.column(text, "--text")
            kept = rows_with_text([values], lambda value: not is_missing(value))
            found, more = embedder.embed_counted(chosen(table, kept).strings(text, "--text"))
            vectors = np.full((len(table), found.shape[1]), np.nan, np.float32)
            vectors[kept] = found
            yield table, kept, vectors
            count(len(table))
            cut += more
            without.add(table, kept)
    for warning in (cut.warning(embedder.max_length, "embed"), without.note("embed")):
        if warning is not None:
            note(warning)


def _write_array(output: str, embedder: Embedder, parts: Iterator[np.ndarray]) -> int:
    """Writes float32 [N, W] part by part: the header, whose N is known at the end, comes last."""
    width, count = embedder.width, 0
    with atomic_write(output, "wb") as file:
        _write_header(file, (0, width))
        begin = file.tell()
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).data)
            count += len(part)
        file.seek(0)
        _write_header(file, (count, width))
        assert file.tell() == begin, "numpy leaves room for the number of rows"
        file.seek(0, 2)
    return count


def _write_header(file: Any, shape: tuple[int, int]) -> None:
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
