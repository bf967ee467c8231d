"""The verbs of the command line and what each takes."""

import argparse
from collections.abc import Callable, Mapping

from jaxssl.arguments import Parser, add_embed, add_predict

EPILOG = """
A recipe is a YAML file, or the name of one that comes with jaxssl (`jaxssl config
pretrain/bert-tiny`). Later files and a.b=c overrides win. `jaxssl VERB --help` documents every
field with its default.

exit codes: 0 done; 1 verify found a difference; 2 a mistake, explained; 3 the loss was not finite;
75 stopped by a signal after saving, run the same command again to go on; 130 interrupted.

On a CPU with glibc, verbs that run a model start themselves again with huge pages and freed memory
kept between steps; JAXSSL_MALLOC=default leaves the allocator as the system has it.
"""


def make_parser(run: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """The parser of all verbs.

    Args:
      run: what each verb does; it is left in the options as `run`.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="jaxssl",
        description="Raw text to a pretrained language model, in JAX.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, text: str, add_help: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=text, description=text, formatter_class=raw, add_help=add_help
        )
        sub.set_defaults(run=run[name])
        return sub

    for name, text in (
        ("tokenizer", "train a tokenizer on a corpus"),
        ("prepare", "turn a corpus into a token store"),
        ("pretrain", "pretrain a model, or resume its run"),
        ("finetune", "train a model on a labelled task, or resume its run"),
        ("baseline", "what a bag of words scores on a recipe's data"),
        ("config", "print the resolved configuration of a pretraining run"),
    ):
        sub = verb(name, text, add_help=False)
        sub.add_argument("layers", nargs="*", metavar="recipe.yaml | a.b=c")
        if name == "finetune":
            sub.add_argument("--seeds", type=int, metavar="N")
        sub.add_argument("-h", "--help", action="store_true", help="document every field")
    sub = verb("evaluate", "loss and metrics of a run over a split")
    _add_run(sub)
    sub.add_argument("--split", default="validation", help="split of the store (%(default)s)")
    sub.add_argument("--store", help="another token store than the run's own")
    sub.add_argument("--stream", help="which of several the run was trained on (the first)")
    sub.add_argument("--batches", type=int, help="at most so many batches (the whole split)")
    sub = verb("predict", "what a fine-tuned run says of each row of a file")
    _add_run(sub)
    add_predict(sub)
    sub = verb("embed", "one vector for each text of a file")
    _add_run(sub)
    add_embed(sub)
    sub = verb("generate", "continue prompts with a causal model")
    _add_run(sub)
    sub.add_argument("prompts", nargs="*", default=[""], help="texts to continue (an empty one)")
    sub.add_argument("--tokens", type=int, help="most new tokens (what fits, at most 64)")
    sub.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (%(default)s)")
    sub.add_argument("--top-k", type=int, default=50, help="among the k likeliest (%(default)s)")
    sub.add_argument("--top-p", type=float, help="among the likeliest that reach p (all)")
    sub.add_argument("--seed", type=int, default=0, help="of the choices (%(default)s)")
    sub = verb("fill-mask", "what a masked model would put at each mask")
    _add_run(sub)
    sub.add_argument("texts", nargs="+", help="texts with the mask token, [MASK] say")
    sub.add_argument("--top", type=int, default=5, help="candidates a mask (%(default)s)")
    sub = verb("compare", "fine-tuned runs against each other on the same examples")
    sub.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories, or those of finetune --seeds"
    )
    sub.add_argument("--split", default="validation", help="split of the data (%(default)s)")
    sub.add_argument("--samples", type=int, default=2000, help="of the bootstrap (%(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="of the bootstrap (%(default)s)")
    sub = verb("import", "make a run directory of a Hugging Face directory or hub model")
    sub.add_argument("source", help="a directory with config.json and safetensors, or a hub name")
    sub.add_argument("out", help="the new run directory")
    sub.add_argument("--dtype", help="of the parameters: float32 or bfloat16 (as in the files)")
    sub.add_argument(
        "--drop", metavar="PATTERN", action="append", default=[], help="tensors to leave behind"
    )
    sub.add_argument(
        "--token", action="append", default=[], help="add a token to the vocabulary (repeatable)"
    )
    sub.add_argument(
        "--pad-vocab-to",
        metavar="N",
        type=int,
        default=1,
        help="make the rows of the token embedding a multiple of N",
    )
    sub.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="such as model.max_positions=1024"
    )
    sub = verb("verify", "compare a Hugging Face model here and on torch")
    sub.add_argument("source", help="a directory with config.json and safetensors, or a hub name")
    sub.add_argument(
        "--length", type=int, help="of the rows that are compared, in tokens (192, if it has them)"
    )
    sub = verb("export", "write a run as a Hugging Face directory, for transformers")
    _add_run(sub)
    sub.add_argument("out", nargs="?", help="the new directory")
    sub.add_argument("--check", action="store_true", help="only say whether it can be, and as what")
    sub.add_argument("--dtype", help="float32, float16 or bfloat16 (as the run's parameters)")
    sub = verb("report", "write report.html of a run, or compare several")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    sub.add_argument("--out", help="file for a comparison of several runs (beside the first)")
    sub = verb("inspect", "show what a run, token store or checkpoint holds")
    sub.add_argument("path", help="a run, a token store, a checkpoint step or a tokenizer")
    sub.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    sub = verb("demo", "docstrings of the installed packages to a small BERT and GPT")
    sub.add_argument("--out", default="demo", help="directory for all of it (%(default)s)")
    sub.add_argument("--short", action="store_true", help="a minute's version, to see that it runs")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from jaxssl import __version__

        print(f"jaxssl {__version__}")
        parser.exit()


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="a run directory")
    parser.add_argument("--step", default="best", help="best, last or a number (%(default)s)")
    parser.add_argument(
        "--with",
        dest="layers",
        metavar="LAYER",
        action="append",
        default=[],
        help="a hardware file or a.b=c over the run's configuration (mesh.fsdp=8); repeatable",
    )
