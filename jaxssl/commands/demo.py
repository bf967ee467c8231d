"""The demo: from the docstrings of the installed packages to a small BERT and a small GPT, and from
the BERT to a classifier that has seen few labels.

It runs the ordinary functions on two ordinary recipes (configs/demo), so what it does is what
`jaxssl tokenizer`, `jaxssl prepare`, `jaxssl pretrain` and `jaxssl finetune` do.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
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
    """Of each library, over all splits."""
    labels: tuple[int | None, ...]
    """Of each library, to fine-tune on; None is all."""
    seeds: int
    """Draws of as many labels."""
    bert: tuple[str, ...] = ()
    gpt: tuple[str, ...] = ()
    library: tuple[str, ...] = ()


FULL = Scale(corpus_bytes=10_000_000, vocab_size=4096, examples=500, labels=(16, 32, None), seeds=3)
SHORT = Scale(
    corpus_bytes=1_000_000,
    vocab_size=1024,
    examples=60,
    labels=(8, None),
    seeds=2,
    library=("train.steps=5",),
    bert=("train.steps=20", "evaluation.every=10", "evaluation.batches=4", "checkpoint.every=10"),
    gpt=("train.steps=20", "evaluation.every=10", "evaluation.batches=4", "checkpoint.every=10"),
)


READS = {"bert": ("streams.words.data", "streams.passages.data"), "gpt": ("data",)}
"""Where the recipes of the models name their store."""


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
    whole = Docstrings(max_bytes=scale.corpus_bytes).collected(out / "corpus")
    source = without_tested(out, whole, scale)
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
                *(f"{place}.store={store}" for place in READS[name]),
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


def without_tested(out: Path, source: "Jsonl", scale: Scale) -> "Jsonl":
    """Writes the classifier's tables; what is pretrained on has no module that it is tested on."""
    from jaxssl.data.corpus.libraries import write_libraries, write_rest

    (corpus,) = (Path(path) for path in source.paths)
    rest, tables = corpus.with_name("pretraining.jsonl"), out / "libraries"
    if not tables.is_dir():
        write_libraries(corpus, tables, per_label=scale.examples)
    if not rest.is_file():
        write_rest(corpus, rest)
    return dataclasses.replace(source, paths=(str(rest),))


WAYS = {
    "head": ("freezing.preset=head", "optimizer.learning_rate=1e-2"),
    "full": (),
    "scratch": ("init.scratch=true", "optimizer.learning_rate=1e-3"),
}
"""Ways of training the classifier, by what differs from the recipe; each at a learning rate that
suits it."""
BAG = "bag of words"


def fine_tune(out: Path, scale: Scale) -> list[str] | None:
    """Trains the demo's BERT to tell libraries apart, in all `WAYS`, from few labels to all; the
    table of what came out, or None where a signal stopped it."""
    from jaxssl.commands import baseline
    from jaxssl.run.recipes import FINETUNE, load_config
    from jaxssl.run.train import train_run

    found: dict[tuple[str, int | None], list[float]] = {}
    for labels in scale.labels:
        seeds = 1 if labels is None else scale.seeds
        print(f"\n== fine-tuning on {_amount(labels)}: which library is a docstring from?")
        for seed, (way, changes) in itertools.product(range(seeds), WAYS.items()):
            run_dir = out / "library" / f"{way}-{labels or 'all'}-{seed}"
            overrides = _of_library(out, run_dir, labels, seed)
            overrides += [*(FEW if labels else ()), *changes, *scale.library]
            config = load_config(["finetune/library"], overrides, FINETUNE)
            if train_run(config, _unsaid).stopped_by:
                return None
            found.setdefault((way, labels), []).append(_test_accuracy(run_dir))
            if way == "scratch":
                counted = baseline.bag_of_words(config)["test"]["accuracy"]
                found.setdefault((BAG, labels), []).append(counted)
        rows = [f"{way} {_mean(found[way, labels])}" for way in (*WAYS, BAG)]
        print("   ".join(rows), flush=True)
    return library_table(found, scale.labels, out / "library")


def _of_library(out: Path, run_dir: Path, labels: int | None, seed: int) -> list[str]:
    tables = out / "libraries"
    found = [f"out={run_dir}", f"init.from={out / 'bert'}"]
    found += [f"data.seed={seed}", "logging.compare_full=false"]
    for split in ("train", "validation", "test"):
        found.append(f"data.tables.{split}.path={tables / split}.jsonl")
    return [*found, f"data.tables.per_label={labels}"] if labels else found


FEW = (
    *("train.epochs=10", "data.batch_size=16", "data.row_lengths=1"),
    *("evaluation.every=0", "evaluation.every_epochs=null"),
)
"""With few labels: one shape, so that all draws share what is compiled, and no validation before
the end."""


def _unsaid(text: str) -> None:
    """Many runs say the same."""


def _amount(labels: int | None) -> str:
    return "all labels" if labels is None else f"{labels} labels a library"


def _mean(scores: list[float]) -> str:
    mean = f"{statistics.mean(scores):.3f}"
    return f"{mean} ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else mean


def _test_accuracy(run_dir: Path) -> float:
    """On the test split."""
    what, fix = "a run of the demo is damaged", f"delete {run_dir}"
    splits = read_json(run_dir / "scores.json", what=what, fix=fix)["splits"]
    return splits["test"]["scores"]["accuracy"]


def library_table(
    found: Mapping[tuple[str, int | None], list[float]], counts: Sequence[int | None], runs: Path
) -> list[str]:
    """The ways of training side by side, by how many labels they had; and who wins, in words."""
    heads = "".join(f"{_amount(count):>22}" for count in counts)
    lines = [f"{'which library?':<16}{heads}"]
    lines.append("-" * len(lines[0]))
    for way in (*WAYS, BAG):
        lines.append(f"{way:<16}" + "".join(f"{_mean(found[way, c]):>22}" for c in counts))
    pretrained = ("head", "full")
    for count in counts:
        means = {way: statistics.mean(found[way, count]) for way in (*WAYS, BAG)}
        best = max(means, key=lambda way: means[way])
        if best not in pretrained:
            lines.append(f"Of {_amount(count)}, {best} wins: pretraining did not pay there.")
    lines.append(
        f"Accuracy on modules that no model has read, mean ± deviation of draws of labels; the "
        f"reports are {runs}/*/report.html."
    )
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
