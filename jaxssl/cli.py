"""The command line: one short function per verb, which imports what it needs when it runs."""

import argparse
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl import verbs

WITH_MODEL = (
    *("pretrain", "finetune", "evaluate", "predict", "embed", "generate", "fill-mask"),
    *("compare", "verify", "demo"),
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, without `arguments` that of this process; returns the exit code."""
    if arguments is None:
        from jaxssl.core import allocator
        from jaxssl.core.interrupts import ending_quietly

        if sys.argv[1:2] and sys.argv[1] in WITH_MODEL and not {"-h", "--help"} & {*sys.argv}:
            allocator.start_again()
        return ending_quietly(lambda: main(sys.argv[1:]))
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 0
    from jaxssl.core.errors import UserError, UserErrors

    try:
        return options.run(options)
    except UserErrors as errors:
        for error in errors.errors:
            print(f"error: {error}", file=sys.stderr)
        print(f"{len(errors.errors)} errors", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, AssertionError) as error:
        from jaxssl.parallel.backends import backend_mistake

        mistake = backend_mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        mistake = UserError(
            "a file cannot be written or read",
            where=error.filename,
            expected="a disk with room, and permission to use it",
            got=error.strerror,
            fix="free space or choose another place, and start the same command again",
        )
        print(f"error: {mistake}", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    return verbs.make_parser(
        {
            "tokenizer": _tokenizer,
            "prepare": _prepare,
            "pretrain": _pretrain,
            "finetune": _finetune,
            "baseline": _baseline,
            "config": _config,
            "evaluate": _evaluate,
            "predict": _predict,
            "embed": _embed,
            "generate": _generate,
            "fill-mask": _fill_mask,
            "compare": _compare,
            "import": _import,
            "verify": _verify,
            "export": _export,
            "report": _report,
            "inspect": _inspect,
            "demo": _demo,
        }
    )


def set_up_jax() -> None:
    """Turns on the compilation cache, so that a second start does not compile again.

    `JAX_COMPILATION_CACHE_DIR` chooses another place; the default is ~/.cache/jaxssl/xla.
    """
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxssl" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _split_layers(layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """Recipe files and overrides, in the order given."""
    return [x for x in layers if "=" not in x], [x for x in layers if "=" in x]


def _load(cls: type, options: argparse.Namespace) -> Any:
    """A configuration of `cls`, or None after printing its documentation."""
    from jaxssl.core import config as configuration
    from jaxssl.run.config import find_recipe

    if options.help:
        _document(cls, options)
        return None
    recipes, overrides = _split_layers(options.layers)
    return configuration.load(cls, [find_recipe(recipe) for recipe in recipes], overrides)


def _load_run(options: argparse.Namespace, defaults: Mapping[str, Any]) -> Any:
    """The configuration of a run, or None after printing its documentation.

    Args:
      defaults: what the verb begins with.
    """
    from jaxssl.core import config as configuration
    from jaxssl.core.errors import UserError, UserErrors
    from jaxssl.run.config import RunConfig, load_config

    if options.help:
        _document(RunConfig, options, defaults)
        return None
    recipes, overrides = _split_layers(options.layers)
    try:
        return load_config(recipes, overrides, defaults)
    except UserError as error:
        told = error.errors if isinstance(error, UserErrors) else [error]
        if recipes or all(e.what != configuration.MISSING for e in told):
            raise
        raise UserError(
            "no recipe was named",
            where="command line",
            expected="a recipe, then changes of it (a.b=c)",
            got=" ".join(overrides) or "nothing",
            fix=f"name a recipe, such as {_example(options)}: jaxssl {options.verb} "
            f"{_example(options)} {' '.join(overrides)}".rstrip(),
        ) from error


def _example(options: argparse.Namespace) -> str:
    return "finetune/sst2" if options.verb in ("finetune", "baseline") else "pretrain/bert-tiny"


def _document(
    cls: type, options: argparse.Namespace, defaults: Mapping[str, Any] | None = None
) -> None:
    from jaxssl.core import config as configuration

    print(f"usage: jaxssl {options.verb} recipe.yaml [more.yaml ...] [a.b=c ...]\n")
    print("\n".join(configuration.document(cls, defaults)))


def _tokenizer(options: argparse.Namespace) -> int:
    from jaxssl.data.tokenizer_training import TokenizerTrainConfig, train_tokenizer

    config = _load(TokenizerTrainConfig, options)
    if config is not None:
        tokenizer = train_tokenizer(config)
        print(f"{config.out}: {tokenizer.vocab_size:,} pieces")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from jaxssl.data.prepare import PrepareConfig, prepare

    config = _load(PrepareConfig, options)
    if config is not None:
        _print_store(prepare(config))
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.run.config import PRETRAIN

    config = _load_run(options, PRETRAIN)
    return 0 if config is None else _train_run(config)


def _finetune(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.run.config import FINETUNE

    config = _load_run(options, FINETUNE)
    if config is None:
        print(
            "\n--seeds N: train N runs in out/seed-0, out/seed-1, ... and tell mean and deviation"
        )
        return 0
    if options.seeds is None:
        return _train_run(config)
    from jaxssl import comparing
    from jaxssl.train.stopping import EXIT_STOPPED

    results = comparing.run_seeds(config, options.seeds)
    if results is None:
        return EXIT_STOPPED
    metric = config.labelled.objective.metric
    print("\n".join(["", *comparing.seeds_table(results, metric)]))
    return 0


def _baseline(options: argparse.Namespace) -> int:
    from jaxssl import baseline
    from jaxssl.run.config import FINETUNE

    config = _load_run(options, FINETUNE)
    if config is None:
        return 0
    for split, scores in baseline.bag_of_words(config).items():
        for name, value in scores.items():
            print(f"bag of words, {split} {name}: {value:.4f}")
    return 0


def _train_run(config: Any) -> int:
    """Trains a run and prints its last validation; the exit code."""
    from jaxssl.run.train import train_run
    from jaxssl.train.stopping import EXIT_NOT_FINITE, EXIT_STOPPED, NotFinite

    try:
        outcome = train_run(config)
    except NotFinite as error:
        print(f"stopped: {error}", file=sys.stderr)
        return EXIT_NOT_FINITE
    for name, value in _once(outcome.validation).items():
        print(f"validation {name}: {value:.4f}")
    return EXIT_STOPPED if outcome.stopped_by else 0


def _config(options: argparse.Namespace) -> int:
    from jaxssl.core.config import to_yaml
    from jaxssl.run.config import PRETRAIN

    config = _load_run(options, PRETRAIN)
    if config is not None:
        print(to_yaml(config), end="")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.parallel import hosts
    from jaxssl.run.open import evaluate_run

    values = evaluate_run(
        options.run_dir,
        split=options.split,
        step=options.step,
        store=options.store,
        batches=options.batches,
        stream=options.stream,
        layers=options.layers,
    )
    if hosts.is_first():
        step, rows = int(values.pop("step")), int(values.pop("rows"))
        print(f"{options.run_dir}: step {step:,}, split {options.split}, {rows:,} rows")
        for name, value in _once(values).items():
            print(f"{name}: {value:.6g}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import predicting
    from jaxssl.parallel import hosts

    rows = predicting.predict(
        options.run_dir,
        options.input,
        options.output,
        format=options.format,
        options=options.options,
        keep_input=options.keep_input,
        overwrite=options.overwrite,
        step=options.step,
        layers=options.layers,
    )
    if hosts.is_first():
        print(f"{options.output}: {rows:,} rows", file=sys.stderr)
    return 0


def _embed(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import embedding
    from jaxssl.parallel import hosts

    rows = embedding.embed_file(
        options.run_dir,
        options.input,
        options.output,
        text=options.text,
        format=options.format,
        options=options.options,
        keep_input=options.keep_input,
        overwrite=options.overwrite,
        pooling=options.pooling,
        normalize=options.normalize,
        max_length=options.max_length,
        batch_size=options.batch_size,
        step=options.step,
        layers=options.layers,
    )
    if hosts.is_first():
        print(f"{options.output}: {rows:,} rows", file=sys.stderr)
    return 0


def _once(values: dict[str, float]) -> dict[str, float]:
    """The values without the loss of the only objective, which is `loss` again."""
    parts = [name for name in values if name.startswith("loss/")]
    again = parts if len(parts) == 1 and values[parts[0]] == values.get("loss") else []
    return {name: value for name, value in values.items() if name not in again}


def _generate(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.generate.decode import Sampling
    from jaxssl.generate.shown import shown_sample
    from jaxssl.run.open import generate_texts

    sampling = Sampling(
        max_new_tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    prompts = options.prompts or [""]
    texts = generate_texts(options.run_dir, prompts, sampling, options.step, options.layers)
    print("\n\n".join(shown_sample(*both) for both in zip(prompts, texts)))
    return 0


def _fill_mask(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.generate.shown import shown_candidates
    from jaxssl.run.open import fill_masks

    filled = fill_masks(options.run_dir, options.texts, options.top, options.step, options.layers)
    for text, masks in zip(options.texts, filled):
        print(text)
        for predictions in masks:
            print(f"  {shown_candidates(predictions)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import importing

    made = importing.import_model(
        options.source,
        options.out,
        dtype=options.dtype,
        drop=options.drop,
        tokens=options.token,
        pad_vocab_to=options.pad_vocab_to,
        layers=options.overrides,
    )
    print(f"{made}: jaxssl inspect {made}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import verifying

    differences = verifying.verify(options.source, length=options.length)
    for found in differences:
        state = "equal" if found.is_small else "DIFFERENT"
        print(
            f"{found.what}: {state}; relative difference {found.relative:.1e} (limit "
            f"{verifying.LIMIT:.0e}), largest {found.largest:.1e}"
        )
    return 0 if all(found.is_small for found in differences) else 1


def _export(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import exporting
    from jaxssl.core.errors import UserError

    if options.check:
        name = exporting.check(options.run_dir, options.layers)
        print(f"{options.run_dir}: it exports as transformers.{name}")
        return 0
    if options.out is None:
        raise UserError(
            "no place to export to",
            where="jaxssl export RUN OUT",
            expected="a new directory, or --check",
            got="none",
        )
    name = exporting.export(
        options.run_dir,
        options.out,
        step=options.step,
        dtype=options.dtype,
        layers=options.layers,
    )
    print(f"{options.out}: transformers.{name}.from_pretrained({options.out!r})")
    return 0


def _report(options: argparse.Namespace) -> int:
    from jaxssl.report import summary_table, write_comparison, write_report

    runs = [Path(run) for run in options.runs]
    for run in runs:
        print(f"report: {write_report(run)}")
    if len(runs) > 1:
        out = Path(options.out) if options.out else runs[0].resolve().parent / "comparison.html"
        print(f"comparison: {write_comparison(runs, out)}")
        print(summary_table(runs))
    return 0


def _compare(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl import comparing

    compared = comparing.compare(
        options.runs, split=options.split, samples=options.samples, seed=options.seed
    )
    print("\n".join(comparing.comparison_table(*compared)))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from jaxssl.inspecting import inspect_path

    print("\n".join(inspect_path(Path(options.path), verify=options.verify)))
    return 0


def _demo(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.core.bounds import refuse_address
    from jaxssl.demo import demo

    refuse_address(options.out, "--out")
    return demo(Path(options.out), short=options.short)


def _print_store(store) -> None:
    for name, split in store.manifest.splits.items():
        print(
            f"{store.path}/{name}: {split.documents:,} documents, {split.tokens:,} tokens, "
            f"{split.bytes:,} bytes, unigram entropy {split.unigram_entropy:.3f} nats"
        )


if __name__ == "__main__":
    sys.exit(main())
