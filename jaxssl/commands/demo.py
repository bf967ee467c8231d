"""The demo: from the docstrings of the installed packages to a small BERT and a small GPT, and from
the BERT to a classifier.

It runs the ordinary functions on two ordinary recipes (configs/demo), so what it does is what
`jaxssl tokenizer`, `jaxssl prepare`, `jaxssl pretrain` and `jaxssl finetune` do.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json

if TYPE_CHECKING:
    from jaxssl.data.corpus.sources import Jsonl

Kind = Literal["wordpiece", "byte_bpe"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything the demo takes."""

    corpus_bytes: int
    vocab_size: int
    examples: int
    """Of each library, to fine-tune on."""
    bert: tuple[str, ...] = ()
    gpt: tuple[str, ...] = ()
    library: tuple[str, ...] = ()


FULL = Scale(corpus_bytes=10_000_000, vocab_size=4096, examples=500)
SHORT = Scale(
    corpus_bytes=1_000_000,
    vocab_size=1024,
    examples=60,
    library=("train.epochs=1",),
    bert=("train.steps=20", "evaluation.every=10", "evaluation.batches=4", "checkpoint.every=10"),
    gpt=("train.steps=20", "evaluation.every=10", "evaluation.batches=4", "checkpoint.every=10"),
)


def demo(out: Path, *, short: bool = False) -> int:
    """Runs everything in `out`, or goes on where an earlier demo stopped; returns the exit code."""
    from jaxssl.data.corpus.sources import Docstrings
    from jaxssl.data.store.store import TokenStore
    from jaxssl.report import summary_table, write_comparison
    from jaxssl.run.recipes import load_config
    from jaxssl.run.train import train_run
    from jaxssl.train.stopping import EXIT_STOPPED

    started, scale = time.monotonic(), SHORT if short else FULL
    _check_scale(out, short)
    source = Docstrings(max_bytes=scale.corpus_bytes).collected(out / "corpus")
    runs = []
    models: tuple[tuple[str, Kind, tuple[str, ...]], ...] = (
        ("bert", "wordpiece", scale.bert),
        ("gpt", "byte_bpe", scale.gpt),
    )
    for name, kind, overrides in models:
        print(f"\n== {name}: tokenizer, token store, pretraining", flush=True)
        store = make_store(out, name, kind, scale.vocab_size, source)
        pieces = TokenStore.open(store).vocab_size  # fewer than asked for, if there is little text
        config = load_config(
            [f"demo/{name}"],
            [
                f"out={out / name}",
                f"data.store={store}",
                f"model.vocab_size={pieces}",
                *overrides,
            ],
        )
        outcome = train_run(config)
        if outcome.stopped_by:
            return EXIT_STOPPED
        runs.append(out / name)
    tuned = fine_tune(out, scale)
    if tuned is None:
        return EXIT_STOPPED
    report = write_comparison(runs, out / "report.html")
    print("\n".join(last_screen(runs)))
    print(f"\n{summary_table(runs)}")
    print("\n".join(["", *tuned]))
    print(f"\n{time.monotonic() - started:.0f} s in all. Open {report.absolute()} in a browser.")
    return 0


def _check_scale(out: Path, short: bool) -> None:
    """The short and the full demo do not mix in one directory."""
    mark, wanted = out / "scale", "short" if short else "full"
    if mark.is_file() and mark.read_text() != wanted:
        raise UserError(
            "the directory holds the other demo",
            where=out,
            expected=wanted,
            got=mark.read_text(),
            fix="choose another directory with --out, or remove this one",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(wanted)
    except OSError as error:
        raise UserError(
            "the demo's directory cannot be written", where=out, got=error.strerror
        ) from error


def make_store(out: Path, name: str, kind: Kind, vocab_size: int, source: "Jsonl") -> Path:
    """Trains the tokenizer and prepares the token store of one model."""
    from jaxssl.data.corpus.config import PrepareConfig
    from jaxssl.data.corpus.prepare import prepare
    from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_tokenizer

    tokenizer = TokenizerTrainConfig(
        source=source,
        kind=kind,
        vocab_size=vocab_size,
        lowercase=kind == "wordpiece",
        out=str(out / f"tokenizer-{name}"),
    )
    train_tokenizer(tokenizer)
    store = prepare(
        PrepareConfig(
            source=source,
            tokenizer=tokenizer.out,
            out=str(out / f"store-{name}"),
            validation_fraction=0.05,
            tasks=2,
        )
    )
    return store.path


WAYS = {
    "head": ("freezing.preset=head", "optimizer.learning_rate=1e-2", "train.epochs=20"),
    "top": ("freezing.preset=top", "freezing.top=1"),
    "full": (),
    "scratch": ("init.scratch=true",),
}
"""Ways of training the classifier, by what differs from the recipe."""


def fine_tune(out: Path, scale: Scale) -> list[str] | None:
    """Trains the demo's BERT to tell libraries apart, in all `WAYS`; the table of what came out, or
    None where a signal stopped it."""
    from jaxssl.commands import baseline
    from jaxssl.data.corpus.libraries import write_libraries
    from jaxssl.run.recipes import FINETUNE, load_config
    from jaxssl.run.train import train_run

    tables = out / "libraries"
    if not tables.is_dir():
        write_libraries(out / "corpus" / "docstrings.jsonl", tables, per_label=scale.examples)
    rows, config = [], None
    for name, changes in WAYS.items():
        print(f"\n== fine-tuning, {name}: which library is a docstring from?", flush=True)
        overrides = [f"out={out / 'library' / name}", f"init.from={out / 'bert'}"]
        overrides += [
            f"data.tables.{split}.path={tables / split}.jsonl"
            for split in ("train", "validation", "test")
        ]
        overrides += [*changes, *scale.library]
        config = load_config(["finetune/library"], overrides, FINETUNE)
        started = time.monotonic()
        if train_run(config).stopped_by:
            return None
        rows.append((name, *_scored(Path(config.out)), time.monotonic() - started))
    assert config is not None
    started = time.monotonic()
    bag = baseline.bag_of_words(config)
    scores = [bag[split]["accuracy"] for split in ("validation", "test")]
    rows.append(("bag of words", None, *scores, time.monotonic() - started))
    return library_table(rows, out / "library")


def _scored(run_dir: Path) -> tuple[int, float, float]:
    """Trained parameters, and the accuracies on the validation and test splits."""
    what, fix = "a run of the demo is damaged", f"delete {run_dir}"
    scores = read_json(run_dir / "scores.json", what=what, fix=fix)["splits"]
    receipt = read_json(run_dir / "receipt.json", what=what, fix=fix)
    accuracy = {name: split["scores"]["accuracy"] for name, split in scores.items()}
    return receipt["own"]["trained"], accuracy["validation"], accuracy["test"]


def library_table(rows: list[tuple], runs: Path) -> list[str]:
    """The ways of training side by side."""
    lines = [f"{'which library?':<14}{'trained':>10}{'validation':>12}{'test':>8}{'time':>8}"]
    lines.append("-" * len(lines[0]))
    for name, trained, validation, test, seconds in rows:
        count = "-" if trained is None else f"{trained:,}"
        lines.append(f"{name:<14}{count:>10}{validation:>12.3f}{test:>8.3f}{seconds:>7.0f}s")
    full, scratch = (next(row for row in rows if row[0] == name) for name in ("full", "scratch"))
    if full[3] < scratch[3]:
        lines.append("Negative transfer: the pretrained model is worse than the same from scratch.")
    lines.append(f"Accuracy; the reports are {runs}/*/report.html.")
    return lines


def last_screen(runs: list[Path]) -> list[str]:
    """What the two models say, from their metrics."""
    from jaxssl.generate.formatting import format_candidates, format_sample
    from jaxssl.train.metrics_file import read_metrics

    lines = []
    for run_dir in runs:
        rows = [row for row in read_metrics(run_dir) if row["kind"] in ("sample", "fill_mask")]
        last = max((row["step"] for row in rows), default=0)
        lines.append(f"\n{run_dir.name} after step {last}\n")
        for row in (row for row in rows if row["step"] == last):
            if row["kind"] == "fill_mask":
                lines += [row["text"], f"    {format_candidates(row['predictions'])}"]
            else:
                lines += [format_sample(row["prompt"], row["text"].rstrip()), ""]
    return lines
