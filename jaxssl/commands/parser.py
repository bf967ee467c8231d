"""The verbs of the command line and what each takes."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxssl.commands.arguments import (
    CHAT,
    Parser,
    add_adapt,
    add_adapter,
    add_embed,
    add_generate,
    add_mine,
    add_predict,
)

EPILOG = """
A recipe is a YAML file, or the name of one that comes with jaxssl (`jaxssl config
pretrain/bert-tiny`). Later files and a.b=c overrides win. `jaxssl VERB --help` shows what is
changed often, and of verbs with recipes `jaxssl VERB --help TOPIC` (model, model.bert, train.steps,
all) every field with its default. Code of your own is named after the verb: `--plugin FILE.py`.

exit codes: 0 done; 1 verify found a difference; 2 a mistake, explained; 3 the loss was not finite;
69 another process of the run is missing, 75 stopped by a signal after saving: run the same command
again to go on; 130 interrupted.

On a CPU with glibc, verbs that run a model start themselves again with huge pages and freed memory
kept between steps; JAXSSL_MALLOC=default leaves the allocator as the system has it.
"""


def make_parser(run: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """The parser of all verbs.

    Args:
      run: what each verb does; it is left in the options as `run`.
    """
    parser = Parser(
        prog="jaxssl",
        description="Raw text to a pretrained language model, in JAX.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(plugins=[])
    verbs = Verbs(parser.add_subparsers(dest="verb", metavar="VERB"), run)
    _add_recipe_verbs(verbs)
    _add_adapt(verbs)
    _add_run_verbs(verbs)
    _add_text_verbs(verbs)
    _add_compare(verbs)
    _add_hugging_face_verbs(verbs)
    _add_showing_verbs(verbs)
    return parser


class Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the tables of recipes' fields, however wide the terminal is."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=100)


class Verbs(NamedTuple):
    """The verbs, and what each of them does."""

    subparsers: Any
    run: Mapping[str, Callable]

    def add(self, name: str, text: str, add_help: bool = True) -> argparse.ArgumentParser:
        """A parser of the arguments of one verb."""
        verb = self.subparsers.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=Formatter,
            add_help=add_help,
        )
        verb.set_defaults(run=self.run[name])
        return verb


def _add_recipe_verbs(verbs: Verbs) -> None:
    """Those that read a recipe, which documents itself."""
    for name, text in (
        ("tokenizer", "train a tokenizer on a corpus, or add special tokens to one"),
        ("prepare", "turn a corpus into a token store"),
        ("pretrain", "pretrain a model, or resume its run"),
        ("finetune", "train a model on a labelled task, or resume its run"),
        ("baseline", "what a bag of words scores on a recipe's data"),
        ("config", "print the resolved configuration of a pretraining run"),
    ):
        verb = verbs.add(name, text, add_help=False)
        verb.set_defaults(parser=verb)
        verb.add_argument(
            "layers",
            nargs="*",
            metavar="recipe.yaml | a.b=c",
            help="YAML files or names of recipes, and changes of them; later ones win",
        )
        if name == "finetune":
            verb.add_argument(
                "--seeds", type=int, metavar="N", help="train N runs: out/seed-0, out/seed-1, ..."
            )
        if name not in ("tokenizer", "prepare"):
            _add_plugin(verb)
        verb.add_argument(
            *("-h", "--help"),
            nargs="?",
            const="",
            metavar="TOPIC",
            help="this page, or all about one of its topics",
        )


def _add_adapt(verbs: Verbs) -> None:
    verb = verbs.add("adapt", "go on with pretraining a run, for a domain or a language")
    verb.add_argument("run_dir", metavar="RUN", help="a run directory, or Hugging Face's")
    add_adapt(verb)
    _add_plugin(verb)


def _add_run_verbs(verbs: Verbs) -> None:
    """Those that ask a run about data."""
    verb = verbs.add("evaluate", "loss and metrics of a run over a split")
    _add_run(verb)
    add_adapter(verb)
    verb.add_argument("--split", help="split of the run's data, or of --store (validation)")
    verb.add_argument("--store", help="another token store than the run's own")
    verb.add_argument("--stream", help="which of several the run was trained on (the first)")
    verb.add_argument("--batches", type=int, help="at most so many batches (the whole split)")
    verb = verbs.add("predict", "what a fine-tuned run says of each row of a file")
    _add_run(verb)
    add_adapter(verb)
    add_predict(verb)
    verb = verbs.add("embed", "one vector for each text of a file")
    _add_run(verb)
    add_adapter(verb)
    add_embed(verb)
    verb = verbs.add("mine", "texts that look like the answer of each row and are none")
    _add_run(verb)
    add_mine(verb)


def _add_text_verbs(verbs: Verbs) -> None:
    """Those that ask a language model for text."""
    _add_generate(verbs)
    _add_chat(verbs)
    verb = verbs.add("fill-mask", "what a masked model would put at each mask")
    _add_run(verb)
    add_adapter(verb)
    verb.add_argument("texts", nargs="+", help="texts with the mask token, [MASK] say")
    verb.add_argument("--top", type=int, default=5, help="candidates a mask (%(default)s)")


def _add_generate(verbs: Verbs) -> None:
    verb = verbs.add(
        "generate", "continue prompts with a causal model, or answer with a T5 or BART"
    )
    _add_run(verb)
    add_adapter(verb)
    verb.add_argument(
        "prompts",
        nargs="*",
        default=[""],
        help="texts to continue (an empty one); - is the lines of the standard input",
    )
    _add_sampling(verb, "what fits, at most 64")
    verb.add_argument("--samples", type=int, default=1, help="texts a prompt (%(default)s)")
    verb.add_argument("--beams", type=int, help="search the likeliest texts with so many beams")
    verb.add_argument(
        "--length-penalty",
        choices=("mean", "power", "gnmt", "none"),
        help="of beams: log-probability over n, n^alpha, ((5+n)/6)^alpha, or itself (mean)",
    )
    verb.add_argument("--alpha", type=float, help="of power and gnmt (1.0)")
    verb.add_argument(
        "--early-stopping",
        choices=("first", "likely", "never"),
        help="of beams: with as many texts as beams, when none gets better soon, or ever (likely)",
    )
    verb.add_argument(
        "--choice", metavar="TEXT", action="append", default=[], help="write this or another choice"
    )
    verb.add_argument(
        "--log-probabilities", action="store_true", help="say how likely each text is"
    )
    verb.add_argument(
        "--adapter-column",
        metavar="COLUMN",
        help="column of --input that names the one of the adapters that its row uses",
    )
    add_generate(verb)


def _add_chat(verbs: Verbs) -> None:
    verb = verbs.add("chat", "talk with a causal model whose tokenizer has a chat template")
    verb.epilog = CHAT
    _add_run(verb)
    add_adapter(verb)
    verb.add_argument("--system", metavar="TEXT", help="what stands before the conversation")
    verb.add_argument(
        "--template", help="chatml, or a file with a template (the run's own template)"
    )
    verb.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="most tokens of the conversation (the length of rows in training, or 4096)",
    )
    _add_sampling(verb, "half of the window, at most 256")


def _add_sampling(verb: argparse.ArgumentParser, most: str) -> None:
    """How a text is drawn.

    Args:
      most: what --tokens is by default.
    """
    verb.add_argument("--tokens", type=int, help=f"most new tokens ({most})")
    verb.add_argument("--min-tokens", type=int, default=0, help="fewest new tokens (%(default)s)")
    verb.add_argument("--temperature", type=float, help="0 is greedy (0.8)")
    verb.add_argument("--top-k", type=int, help="among the k likeliest (50)")
    verb.add_argument("--top-p", type=float, help="among the likeliest that reach p (all)")
    verb.add_argument("--min-p", type=float, help="at least this share of the largest (all)")
    verb.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        help="above 1, tokens that were there are less likely (%(default)s)",
    )
    verb.add_argument("--no-repeat", metavar="N", type=int, help="N tokens in a row come once")
    verb.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="ends a text (repeatable)"
    )
    verb.add_argument("--seed", type=int, help="of the choices (0)")


def _add_compare(verbs: Verbs) -> None:
    verb = verbs.add("compare", "fine-tuned runs against each other on the same examples")
    verb.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories, or those of finetune --seeds"
    )
    verb.add_argument("--split", default="validation", help="split of the data (%(default)s)")
    verb.add_argument("--samples", type=int, default=2000, help="of the bootstrap (%(default)s)")
    verb.add_argument("--seed", type=int, default=0, help="of the bootstrap (%(default)s)")
    _add_plugin(verb)


def _add_hugging_face_verbs(verbs: Verbs) -> None:
    """Those between a run and a Hugging Face directory."""
    _add_import(verbs)
    verb = verbs.add("verify", "compare a Hugging Face model here and on torch")
    verb.add_argument("source", help="a directory with config.json and safetensors, or a hub name")
    verb.add_argument(
        "--length", type=int, help="of the rows that are compared, in tokens (192, if it has them)"
    )
    _add_plugin(verb)
    verb = verbs.add("export", "write a run for transformers, or its adapters for PEFT")
    _add_run(verb)
    verb.add_argument("out", nargs="?", help="the new directory")
    verb.add_argument(
        "--check", action="store_true", help="only say whether it can be, and as what"
    )
    verb.add_argument("--dtype", help="float32, float16 or bfloat16 (as the run's parameters)")
    _add_soup(verbs)
    verb = verbs.add("merge", "make a run without adapters of one with, which gives the same")
    _add_run(verb)
    verb.add_argument("out", help="the new run directory")


def _add_soup(verbs: Verbs) -> None:
    verb = verbs.add("soup", "make one model of several that were fine-tuned from one")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    verb.add_argument("--out", required=True, help="the new run directory")
    verb.add_argument(
        "--method",
        default="uniform",
        help="uniform, arithmetic, ties, dare or slerp (%(default)s)",
    )
    verb.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the method: density=0.2 of ties and dare, at=0.3 of slerp; repeatable",
    )
    verb.add_argument(
        "--weights", type=float, nargs="+", default=[], help="a number for each run (1 each)"
    )
    verb.add_argument(
        "--greedy",
        action="store_true",
        help="uniform: take a run in only if the validation score does not fall",
    )
    verb.add_argument("--step", default="best", help="best, last or a number (%(default)s)")
    _add_plugin(verb)


def _add_import(verbs: Verbs) -> None:
    verb = verbs.add("import", "make a run directory of a Hugging Face directory or hub model")
    verb.add_argument("source", help="a directory with config.json and safetensors, or a hub name")
    verb.add_argument("out", help="the new run directory")
    verb.add_argument("--base", help="of an adapter of PEFT's: its model (the one it names)")
    verb.add_argument("--dtype", help="of the parameters: float32 or bfloat16 (as in the files)")
    verb.add_argument(
        "--drop", metavar="PATTERN", action="append", default=[], help="tensors to leave behind"
    )
    verb.add_argument(
        "--token", action="append", default=[], help="add a token to the vocabulary (repeatable)"
    )
    verb.add_argument(
        "--pad-vocab-to",
        metavar="N",
        type=int,
        default=1,
        help="make the rows of the token embedding a multiple of N",
    )
    verb.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="such as model.max_positions=1024"
    )
    _add_plugin(verb)


def _add_showing_verbs(verbs: Verbs) -> None:
    """Those that show what is there, and the demo."""
    verb = verbs.add("report", "write report.html of a run, or compare several")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    verb.add_argument(
        "--out", help="file to write (report.html in the run; comparison.html beside the first run)"
    )
    verb = verbs.add("inspect", "show what a run, token store, checkpoint or adapter holds")
    verb.add_argument(
        "path", help="a run, a token store, a checkpoint step, a tokenizer or PEFT's files"
    )
    verb.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    verb.add_argument(
        "--adapter",
        dest="adapters",
        metavar="NAME",
        action="append",
        default=[],
        help="one of a run's adapters alone; repeatable",
    )
    _add_layers(verb)
    verb.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="lay a run out on so many, which need not be there (those it was trained on)",
    )
    _add_plugin(verb)
    verb = verbs.add("seal", "accept a run's or token store's files as they are now, after an edit")
    verb.add_argument("directory", help="a run or a token store")
    verb = verbs.add("demo", "docstrings of the installed packages to a small BERT and GPT")
    verb.add_argument("--out", default="demo", help="directory for all of it (%(default)s)")
    verb.add_argument(
        "--short", action="store_true", help="a minute's version, to see that it runs"
    )


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from jaxssl import __version__

        print(f"jaxssl {__version__}")
        parser.exit()


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="a run directory")
    parser.add_argument("--step", default="best", help="best, last or a number (%(default)s)")
    _add_layers(parser)
    _add_plugin(parser)


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with",
        dest="layers",
        metavar="LAYER",
        action="append",
        default=[],
        help="a hardware file or a.b=c over the run's configuration (mesh.fsdp=8); repeatable",
    )


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        dest="plugins",
        metavar="FILE",
        action="append",
        default=[],
        help="code of your own to import: a .py file, or an installed module; repeatable",
    )
