"""The command line: one short function per verb, which imports what it needs when it runs."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxssl.commands import parser
from jaxssl.core.interrupts import EXIT_STOPPED
from jaxssl.core.terminal import allow_open_files, check_arguments

WITH_MODEL = (
    *("pretrain", "adapt", "finetune", "evaluate", "predict", "embed", "mine", "generate"),
    *("chat", "fill-mask", "compare", "verify", "demo"),
)
"""The verbs that run a model."""


SHORTER = {
    "max_new_tokens": "--tokens",
    "min_new_tokens": "--min-tokens",
    "no_repeat_ngram": "--no-repeat",
}
"""Options whose names are not those of the settings."""


DRAWN = ("temperature", "top_k", "top_p", "min_p", "seed")
"""Options of how a token is drawn."""


SEARCHED = ("length_penalty", "alpha", "early_stopping")
"""Options of how beams are searched."""


TRAINING = ("pretrain", "adapt", "finetune", "demo")
"""The verbs that go on where they were when they are given again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, without `arguments` that of this process; returns the exit code."""
    if arguments is None:
        from jaxssl.core import allocator, terminal
        from jaxssl.core.interrupts import ending_quietly

        terminal.make_safe()
        verb = sys.argv[1] if sys.argv[1:] else None
        if verb in WITH_MODEL and not {"-h", "--help"} & {*sys.argv}:
            allocator.start_again()
        stopped = _stopped if verb in TRAINING else None
        return ending_quietly(lambda: main(sys.argv[1:]), stopped)
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 0
    try:
        check_arguments(arguments)
        if options.verb in WITH_MODEL:
            allow_open_files()
        _load_plugins(options)
        code, said = options.run(options), "see its own messages"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from jaxssl.commands.mistakes import code_of, mistakes_of

        _wait_for_others(error)
        mistakes = mistakes_of(error)
        if not mistakes and _partners() is None:
            raise
        for mistake in mistakes:
            print(f"error: {mistake}", file=sys.stderr)
        if len(mistakes) > 1:
            print(f"{len(mistakes)} errors", file=sys.stderr)
        if not mistakes:
            traceback.print_exc()
        code, said = code_of(error, mistakes), str(error).partition("\n")[0]
    if code not in (0, EXIT_STOPPED) and (partners := _partners()) is not None:
        partners.leave(code, said)
    return code


def _partners() -> Any:
    """The module that knows the other processes of a run, if there are some."""
    module = sys.modules.get("jaxssl.parallel.partners")
    return module if module is not None and module.is_joined() else None


def _wait_for_others(error: Exception) -> None:
    """What fails here may be another process's end: who it was is told in a moment."""
    if (partners := _partners()) is not None:
        partners.wait_for_news(type(error).__name__ == "JaxRuntimeError")


def _stopped(name: str) -> int:
    """Ends a command that a signal has met where nothing was to be saved."""
    text = f"{name}: run the same command again to go on"
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
    if (partners := _partners()) is not None:
        partners.leave(EXIT_STOPPED, text)
    return EXIT_STOPPED


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    return parser.make_parser(
        {
            "tokenizer": _tokenizer,
            "prepare": _prepare,
            "pretrain": _pretrain,
            "adapt": _adapt,
            "finetune": _finetune,
            "baseline": _baseline,
            "config": _config,
            "evaluate": _evaluate,
            "predict": _predict,
            "embed": _embed,
            "mine": _mine,
            "generate": _generate,
            "chat": _chat,
            "fill-mask": _fill_mask,
            "compare": _compare,
            "import": _import,
            "verify": _verify,
            "export": _export,
            "merge": _merge,
            "soup": _soup,
            "report": _report,
            "inspect": _inspect,
            "seal": _seal,
            "demo": _demo,
        }
    )


def set_up_jax() -> None:
    """Turns on the compilation cache, so that a second start does not compile again; simulated
    devices get threads enough.

    `JAX_COMPILATION_CACHE_DIR` chooses another place; the default is ~/.cache/jaxssl/xla.
    """
    import jax

    from jaxssl.core import cpu_devices

    cpu_devices.make_room()
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxssl" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _load_plugins(options: argparse.Namespace) -> None:
    """Imports what the command names, before any recipe is read."""
    if options.plugins:
        from jaxssl.run.plugins import load_plugins

        load_plugins(*options.plugins)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: x for name, x in _chosen(options, *names).items() if x is not None}


def _chosen(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options whose names are those of the parameters that they are for."""
    return {name: getattr(options, name) for name in names}


def _tokenizer(options: argparse.Namespace) -> int:
    from jaxssl.commands import recipes
    from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_tokenizer

    config = recipes.load(TokenizerTrainConfig, options)
    if config is not None:
        tokenizer = train_tokenizer(config)
        print(f"{config.out}: {tokenizer.vocab_size:,} pieces")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from jaxssl.commands import recipes
    from jaxssl.data.corpus.config import PrepareConfig
    from jaxssl.data.corpus.prepare import prepare

    config = recipes.load(PrepareConfig, options)
    if config is not None:
        _print_store(prepare(config))
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import recipes
    from jaxssl.run.recipes import PRETRAIN

    config = recipes.load_run(options, PRETRAIN)
    if config is None:
        return 0
    from jaxssl.commands.training import train_and_print

    return train_and_print(config)


def _adapt(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import adapt
    from jaxssl.commands.arguments import without_changes
    from jaxssl.core.config import to_yaml
    from jaxssl.run.adapting.request import Request

    chosen = _chosen(options, "store", "stream", "replay", "replay_share", "length", "positions")
    corpus, changes = without_changes(options.corpus)
    request = Request(
        run=Path(options.run_dir),
        out=Path(options.out or f"{options.run_dir.rstrip('/')}-adapted"),
        corpus=tuple(corpus),
        prepare=tuple(options.options),
        pieces=options.extend_vocabulary,
        changes=(*options.layers, *changes),
        **chosen,
        **_chosen(options, "rotary_base", "batches"),
    )
    if options.print_config:
        print(to_yaml(adapt.planned_of(request).config), end="")
        return 0
    return adapt.adapt(request)


def _finetune(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import recipes
    from jaxssl.run.recipes import FINETUNE

    config = recipes.load_run(options, FINETUNE)
    if config is None:
        return 0
    from jaxssl.commands.training import train_and_print, train_seeds_and_print

    if options.seeds is None:
        return train_and_print(config)
    return train_seeds_and_print(config, options.seeds)


def _baseline(options: argparse.Namespace) -> int:
    from jaxssl.commands import baseline, recipes
    from jaxssl.run.recipes import FINETUNE

    config = recipes.load_run(options, FINETUNE)
    scores_by_split = {} if config is None else baseline.bag_of_words(config)
    for split, scores in scores_by_split.items():
        for name, value in scores.items():
            print(f"bag of words, {split} {name}: {value:.4f}")
    return 0


def _config(options: argparse.Namespace) -> int:
    from jaxssl.commands import recipes
    from jaxssl.core.config import to_yaml
    from jaxssl.run.recipes import PRETRAIN

    config = recipes.load_run(options, PRETRAIN)
    if config is not None:
        print(to_yaml(config), end="")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands.training import without_repeated_loss
    from jaxssl.parallel import hosts
    from jaxssl.run.open import evaluate_run, split_read

    chosen = _chosen(options, "split", "store", "stream", "layers", "adapters")
    values = evaluate_run(options.run_dir, **chosen, **_chosen(options, "step", "batches"))
    if hosts.is_first():
        step, rows = int(values.pop("step")), int(values.pop("rows"))
        split = split_read(options.run_dir, **chosen)
        of_split = f", split {split}" if split is not None else ""
        print(f"{options.run_dir}: step {step:,}{of_split}, {rows:,} rows")
        for name, value in without_repeated_loss(values).items():
            print(f"{name}: {value:.6g}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import predict

    chosen = _chosen(options, "format", "options", "keep_input", "overwrite", "step", "layers")
    chosen |= _chosen(options, "stream", "adapters")
    rows = predict.predict(options.run_dir, options.input, options.output, **chosen)
    _print_rows(options.output, rows)
    return 0


def _embed(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import embed

    chosen = _chosen(options, "format", "options", "keep_input", "overwrite", "step", "layers")
    chosen |= _chosen(options, "text", "pooling", "normalize", "max_length", "batch_size", "prompt")
    chosen |= _chosen(options, "adapters")
    rows = embed.embed_file(options.run_dir, options.input, options.output, **chosen)
    _print_rows(options.output, rows)
    return 0


def _mine(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import mine

    chosen = _chosen(options, "format", "options", "overwrite", "step", "layers", "batch_size")
    chosen |= _chosen(options, "text", "pair", "corpus")
    choice = mine.Choice(**_chosen(options, "count", "skip", "margin", "depth"))
    inputs, output = options.input, options.output
    _print_rows(output, mine.mine_file(options.run_dir, inputs, output, choice=choice, **chosen))
    return 0


def _print_rows(output: str, rows: int) -> None:
    from jaxssl.parallel import hosts

    if hosts.is_first():
        print(f"{output}: {rows:,} rows", file=sys.stderr)


def _generate(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands.generate import check_searched, check_source, generate, given_prompts
    from jaxssl.core.errors import told_as
    from jaxssl.generate.settings import Beams

    sampling, beams = _sampling(options, samples=options.samples), None
    if options.beams is not None:
        with told_as({"count": "--beams", "alpha": "--alpha"}):
            beams = Beams(count=options.beams, **_given(options, *SEARCHED))
    check_searched(beams is not None, _given(options, *DRAWN), _given(options, *SEARCHED))
    check_source(options.prompts, options.input, options.output, options.adapter_column)
    how = {"beams": beams, "choices": tuple(options.choice)}
    how |= _chosen(options, "step", "layers", "adapters")
    prompts = [] if options.input else given_prompts(options.prompts or [""])
    if options.output is None:
        likely = options.log_probabilities
        return generate(options.run_dir, prompts, sampling, shows_likelihood=likely, **how)
    from jaxssl.commands.generate_file import generate_file

    how |= _chosen(options, "format", "options", "keep_input", "overwrite", "column", "batch_size")
    how |= _chosen(options, "adapter_column")
    rows = generate_file(
        options.run_dir, options.input, options.output, sampling, prompts=prompts, **how
    )
    _print_rows(options.output, rows)
    return 0


def _sampling(options: argparse.Namespace, **more: Any) -> Any:
    """How a text is drawn: `Sampling`."""
    from jaxssl.core.errors import told_as
    from jaxssl.generate.settings import Sampling

    given = {
        **{"max_new_tokens": options.tokens, "min_new_tokens": options.min_tokens},
        **{"no_repeat_ngram": options.no_repeat, "stop": tuple(options.stop)},
        **_given(options, "repetition_penalty", *DRAWN),
        **more,
    }
    with told_as({name: f"--{name.replace('_', '-')}" for name in given} | SHORTER):
        return Sampling(**given)


def _chat(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import chat

    return chat.chat(
        options.run_dir,
        _sampling(options),
        **_chosen(options, "system", "template", "window", "step", "layers", "adapters"),
    )


def _fill_mask(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.generate.formatting import format_candidates
    from jaxssl.parallel import hosts
    from jaxssl.run.open import fill_masks

    chosen = _chosen(options, "top", "step", "layers", "adapters")
    filled = fill_masks(options.run_dir, options.texts, **chosen)
    for text, masks in zip(options.texts, filled) if hosts.is_first() else ():
        print(text)
        for predictions in masks:
            print(f"  {format_candidates(predictions)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import import_hf

    chosen = _chosen(options, "dtype", "drop", "pad_vocab_to", "base")
    made = import_hf.import_model(
        options.source, options.out, tokens=options.token, layers=options.overrides, **chosen
    )
    print(f"{made}: jaxssl inspect {made}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import verify

    differences = verify.verify(options.source, length=options.length)
    for found in differences:
        state = "equal" if found.is_small else "DIFFERENT"
        print(
            f"{found.what}: {state}; relative difference {found.relative:.1e} (limit "
            f"{verify.LIMIT:.0e}), largest {found.largest:.1e}"
        )
    return 0 if all(found.is_small for found in differences) else 1


def _export(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import export

    if options.check:
        name = export.check(options.run_dir, options.out, options.dtype, options.layers)
        print(f"{options.run_dir}: it exports as transformers.{name}")
        return 0
    out = export.given_place(options.out)
    name = export.export(options.run_dir, out, **_chosen(options, "step", "dtype", "layers"))
    if (Path(out) / "config.json").is_file():
        print(f"{out}: transformers.{name}.from_pretrained({out!r})")
    return 0


def _merge(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import merge

    out = merge.merge(options.run_dir, options.out, **_chosen(options, "step", "layers"))
    print(f"{out}: a run without adapters")
    return 0


def _soup(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import soup
    from jaxssl.core import config

    given = [f"method.name={options.method}", *(f"method.{x}" for x in options.settings)]
    method = config.load(soup.SoupConfig, [], given).method
    chosen = _chosen(options, "weights", "greedy", "step")
    out = soup.soup(options.runs, options.out, method, **chosen)
    print(f"{out}: jaxssl evaluate {out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from jaxssl.report import summary_table, write_comparison, write_report

    runs = [Path(run) for run in options.runs]
    if len(runs) == 1:
        print(f"report: {write_report(runs[0], options.out)}")
        return 0
    for run in runs:
        print(f"report: {write_report(run)}")
    out = Path(options.out) if options.out else runs[0].resolve().parent / "comparison.html"
    print(f"comparison: {write_comparison(runs, out)}")
    print(summary_table(runs))
    return 0


def _compare(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands import compare

    compared = compare.compare(
        options.runs, split=options.split, samples=options.samples, seed=options.seed
    )
    print("\n".join(compare.comparison_table(*compared)))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from jaxssl.commands.inspect import inspect_path

    chosen = _chosen(options, "verify", "adapters", "layers", "devices")
    print("\n".join(inspect_path(Path(options.path), **chosen)))
    return 0


def _seal(options: argparse.Namespace) -> int:
    from jaxssl.run.sealing import accept

    print("\n".join(accept(Path(options.directory))))
    return 0


def _demo(options: argparse.Namespace) -> int:
    set_up_jax()
    from jaxssl.commands.demo import demo
    from jaxssl.core.bounds import refuse_address

    refuse_address(options.out, "--out")
    return demo(Path(options.out), short=options.short)


def _print_store(store) -> None:
    for name, split in store.manifest.splits.items():
        print(
            f"{store.path}/{name}: {split.documents:,} documents, {split.tokens:,} tokens, "
            f"{split.bytes:,} bytes, unigram entropy {split.unigram_entropy:.3f} nats"
        )
    for line in store.manifest.about_marks():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
