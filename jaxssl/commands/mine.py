"""`jaxssl mine`: texts that look like the answer of each row and are none (hard negatives).

from jaxssl.commands import mine
mine.mine_file("runs/minilm", ["pairs.jsonl"], "triplets.jsonl", pair="answer", count=2)
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.commands.embed import Embedder, open_embedder
from jaxssl.commands.predict import write
from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import file_paths, read_table
from jaxssl.data.tables.table import Note, Table, join, say
from jaxssl.data.tables.writers import check_output
from jaxssl.parallel import hosts
from jaxssl.run.open import check_reads_no_tables
from jaxssl.run.recipes import read_config
from jaxssl.tasks.texts import read_texts

CHUNK = 256
"""Queries at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which candidates are negatives of a row.

    Attributes:
      count: how many a row has.
      skip: the best so many candidates are left out.
      margin: candidates whose cosine with the text is above that of its answer less this are left
        out: they are likely to be answers too.
      depth: how many of the best candidates are looked at.
    """

    count: int = 1
    skip: int = 0
    margin: float = 0.0
    depth: int = 100

    def __post_init__(self):
        refuse_below(1, count=self.count)
        refuse_below(0, skip=self.skip)
        if self.depth < self.skip + self.count:
            raise UserError(
                "fewer candidates are looked at than are wanted",
                where="--depth",
                expected=f"at least --skip + --count = {self.skip + self.count}",
                got=self.depth,
            )


def mine_file(
    run_dir: str | Path,
    inputs: Sequence[str],
    output: str,
    *,
    text: str = "text",
    pair: str = "pair",
    corpus: Sequence[str] = (),
    choice: Choice = Choice(),
    format: str = "auto",
    options: Sequence[str] = (),
    overwrite: bool = False,
    step: int | str = "best",
    layers: Sequence[str] = (),
    batch_size: int = 64,
    note: Note = say,
) -> int:
    """Writes each row with its hardest negatives, `negative`, or `negative1` and so on.

    Rows that have fewer are left out, and counted. Texts are embedded as the run was trained to,
    its prompts `query` and `passage` before them if it has these.

    Args:
      text, pair: the columns of the texts and of what belongs to them.
      corpus: files whose column `pair` has further candidates.
      format, options, overwrite, step, layers, batch_size: as for `embed.embed_file`.

    Returns:
      How many rows there were written.

    Raises:
      UserError: a mistake in the arguments or the input; there is no output then.
    """
    files = [input_file(path, format, options, text) for path in inputs]
    more = [input_file(path, format, options, pair) for path in corpus]
    paths = [path for file in (*files, *more) for path in file_paths(file.path)]
    hosts.connect(read_config(Path(run_dir), layers).distributed)
    check_reads_no_tables(run_dir, layers)
    hosts.first_decides(lambda: check_output(output, paths, overwrite) or 0)
    tables = [read_table(file, note) for file in files]
    for table in tables:
        table.check({"--text": text, "--pair": pair})
    rows = join(tables, ", ".join(inputs))
    queries, answers = read_texts(rows, text, "--text"), read_texts(rows, pair, "--pair")
    others = [each for file in more for each in read_texts(read_table(file, note), pair, "--pair")]
    candidates = _once([*answers, *others])
    embedder = open_embedder(run_dir, step=step, layers=layers, batch_size=batch_size)
    asked = _vectors(embedder, queries, "query")
    known = _vectors(embedder, candidates, "passage")
    found = hardest(asked, known, queries, answers, candidates, choice)
    if not hosts.is_first():
        return len(found)
    return _write(rows, found, candidates, output, choice, note)


def _once(texts: Sequence[str]) -> list[str]:
    """Those that differ in more than the whitespace around them, as they come first."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(text.strip(), text)
    return list(found.values())


def _vectors(embedder: Embedder, texts: Sequence[str], prompt: str) -> np.ndarray:
    """Vectors [N, H] of length 1, of texts behind a prompt of the model, if it has one so named."""
    prompts = embedder.sentence.prompts
    if prompt in prompts:
        embedder = dataclasses.replace(embedder, prompt=prompts[prompt])
    found = embedder.embed(texts)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def hardest(
    queries: np.ndarray,
    candidates: np.ndarray,
    texts: Sequence[str],
    answers: Sequence[str],
    names: Sequence[str],
    choice: Choice,
) -> dict[int, list[int]]:
    """{row: its negatives}, the likest first, of the rows that have as many as are wanted.

    Args:
      queries, candidates: vectors of length 1, [N, H] and [C, H].
      texts, answers: of each row.
      names: the candidates' texts, each once; the whitespace around a text is no part of it.
    """
    place = {name.strip(): number for number, name in enumerate(names)}
    own = np.array([place[answer.strip()] for answer in answers])
    texts = [text.strip() for text in texts]
    belonging: dict[str, set[int]] = {}
    for text, number in zip(texts, own.tolist()):
        belonging.setdefault(text, {place[text]} if text in place else set()).add(number)
    depth, found = min(choice.depth, len(names)), {}
    progress = bar(total=len(texts), description="mine", unit="row")
    for start in range(0, len(texts), CHUNK):
        scores = queries[start : start + CHUNK] @ candidates.T
        limits = scores[np.arange(len(scores)), own[start : start + CHUNK]] - choice.margin
        for row in range(len(scores)):
            scores[row, list(belonging[texts[start + row]])] = -np.inf
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        for row, (chosen, limit) in enumerate(zip(best, limits)):
            ordered = chosen[np.lexsort((chosen, -scores[row, chosen]))][choice.skip :]
            value = scores[row, ordered]
            kept = ordered[(value <= limit) & (value > -np.inf)][: choice.count]
            if len(kept) == choice.count:
                found[start + row] = kept.tolist()
        progress.update(len(scores))
    progress.close()
    return found


def _write(
    rows: Table,
    found: dict[int, list[int]],
    candidates: Sequence[str],
    output: str,
    choice: Choice,
    note: Note,
) -> int:
    if not found:
        raise UserError(
            "no row has enough negatives",
            where="jaxssl mine",
            expected=f"{choice.count} of {len(candidates):,} candidates for some row",
            got="none",
            fix="give more candidates (--corpus), or a smaller --margin, --skip or --count",
        )
    if len(found) < len(rows):
        note(
            f"mine: {len(rows) - len(found):,} of {len(rows):,} rows are left out: of their likest "
            f"{choice.depth} texts fewer than {choice.count} lie further away than the answer "
            f"(--margin, --depth, --skip)"
        )
    names = ["negative"] if choice.count == 1 else [f"negative{i + 1}" for i in range(choice.count)]
    made: list[dict[str, Any]] = [
        dict(zip(names, (candidates[number] for number in numbers))) for numbers in found.values()
    ]
    return write(iter([(rows.select(found), made)]), output, True, note)
