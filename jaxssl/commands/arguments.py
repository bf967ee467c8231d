"""An argument parser that says what to do about a mistyped command; the options of predict,
embed and mine."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

PREDICT = """
Any number of rows is read, predicted and written a few thousand at a time, in the order of the
input: one row out for each row in. Labels need not be there.

input: csv, tsv, jsonl, json (not lines; SQuAD's, too), parquet, conll or conllu, by the end of its
name (.gz, .bz2, .xz and .zst are unpacked), or .txt with a text a line for a task of single texts.
Columns have the names that they had in training; --with task.text=review says another. How the
run's own tables were read is not taken over: say with --set what this file needs, for example
  --set delimiter=';'  --set 'columns=[id, text]'  --set encoding=cp1252  --set positions.words=1

output: each row is the input's, then what the task says of it: label and probabilities, a number,
tags, an answer. jsonl leaves out what is null in the input; csv and tsv hold lists and objects as
JSON. An input's column that a prediction's name hides is called input_...: input_label. The file
gets its name when all of it is there, so one that is there is whole; standard output is not held
back.

Rows are sorted by length within some thousands and padded to 8, 16, 24, 32, 48, 64, 96, ... tokens,
up to the run's data.max_length; each of these lengths is compiled once. What is longer is cut, and
that is said. `--with data.batch_size=256` takes more rows at a time.

example:
  jaxssl predict runs/sst2 --input reviews.jsonl --output predictions.jsonl
"""

EMBED = """
One vector for each row, in the order of the input, a few thousand rows at a time: float32 [rows,
width] in .npy, or a list in the column "embedding". Input is read as by `jaxssl predict`; a .txt
has a text a line. What is longer than --max-length is cut, and that is said.

A run that was trained for vectors of texts (similarity, simcse), or was imported from a
sentence-transformers directory, makes them as that says: pooling, length 1 or not, the most tokens,
a prompt. What is given here stands above it.

example:
  jaxssl import downloads/all-MiniLM-L6-v2 runs/minilm
  jaxssl embed runs/minilm --input sentences.txt --output sentences.npy
"""

MINE = """
For each row of pairs (a question and its answer, say) the texts of other rows that the model finds
likest to the first, and that are not its answer: they make training with the task similarity
harder. Each row is written with them in the column "negative", or in negative1, negative2, ...
Texts that are equal to the row's own, or that belong to an equal first text, are never chosen, nor
those that lie nearer than its answer less --margin: these may well be answers.

example:
  jaxssl mine runs/minilm --input pairs.jsonl --output triplets.jsonl --skip 5 --margin 0.05
  jaxssl finetune init.from=runs/minilm objective.name=similarity objective.pair=pair \\
    'objective.negatives=[negative]' data.tables.train.path=triplets.jsonl out=runs/better
"""


class Parser(argparse.ArgumentParser):
    """Tells a mistake as `UserError` does, and exits with 2. Options are written out, and words
    may come before or after them."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, extras = super().parse_known_args(args, namespace)
        if self._subparsers is not None:
            return found, extras
        many = [each for each in self._actions if not each.option_strings and each.nargs == "*"]
        words = [word for word in extras if not word.startswith("-")]
        if many and words:  # argparse took none of them where an option came first
            before = getattr(found, many[0].dest)
            kept = [] if before is None or before == many[0].default else before
            setattr(found, many[0].dest, [*kept, *words])
            extras = [word for word in extras if word.startswith("-")]
        if extras:
            self._tell(_stray(extras, self._option_string_actions))
        return found, extras

    def error(self, message: str) -> NoReturn:
        from jaxssl.core.errors import UserError

        unknown = re.search(r"argument VERB: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown:
            mistake = _unknown_verb(unknown[1], re.findall(r"[\w-]+", unknown[2]))
        else:
            mistake = UserError(message, where=self.prog, fix=f"{self.prog} --help")
        self._tell(mistake)

    def _tell(self, mistake: Exception) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {mistake}\n")


def _unknown_verb(word: str, verbs: list[str]) -> Exception:
    from jaxssl.core.errors import UserError, did_you_mean

    return UserError(
        "no such verb",
        where=f"jaxssl {word}",
        expected="one of " + ", ".join(verbs),
        got=repr(word),
        fix=did_you_mean(word, verbs) or "jaxssl --help",
    )


def _stray(words: list[str], options: Iterable[str]) -> Exception:
    from jaxssl.core.errors import UserError, did_you_mean

    first = words[0]
    fix = "put a text with spaces between quotes; see jaxssl VERB --help for what there is"
    near = did_you_mean(first.partition("=")[0], options) if first.startswith("--") else None
    if near is not None:
        fix = near
    elif first.startswith("--") and "." in first.partition("=")[0]:
        override = first.lstrip("-") if "=" in first else f"{first.lstrip('-')}=..."
        fix = f"write {shlex.quote(override)}, without dashes"
        fix += " (after --with for a run that is there: evaluate, predict, generate, fill-mask)"
    elif "=" in first and not first.startswith("-") and "--with" in options:
        fix = f"a change of a run's configuration comes after --with: --with {shlex.quote(first)}"
    return UserError(
        "an argument that this verb does not take",
        where="command line",
        got=" ".join(words),
        fix=fix,
    )


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl predict` takes besides a run."""
    parser.epilog = PREDICT
    _add_files(parser, "a name that ends in .jsonl, .csv or .tsv; - is standard output, as jsonl")


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl embed` takes besides a run."""
    parser.epilog = EMBED
    _add_files(parser, "a name that ends in .npy, .jsonl, .csv or .tsv; - is standard output")
    parser.add_argument("--text", default="text", help="the column of the texts (%(default)s)")
    parser.add_argument(
        "--pooling",
        action="append",
        choices=("mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"),
        help="the mean of all tokens, the first or the last one, the largest of each feature, the "
        "sum over the root of their number, the mean with token n counted n times; repeat it to "
        "concatenate several (the model's own, or mean)",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="make vectors of length 1 (the model's own, or no)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="most tokens of a text (the model's own, or 512, or what it has positions for)",
    )
    parser.add_argument(
        "--prompt", metavar="NAME", help="the model's prompt before each text; '' for none"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="texts at a time (%(default)s)")


def add_mine(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl mine` takes besides a run."""
    parser.epilog = MINE
    _add_files(parser, "a name that ends in .jsonl, .csv or .tsv; - is standard output", keep=False)
    parser.add_argument("--text", default="text", help="the column of the texts (%(default)s)")
    parser.add_argument(
        "--pair", default="pair", help="the column of what belongs to them (%(default)s)"
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files whose column --pair has further candidates",
    )
    parser.add_argument("--count", type=int, default=1, help="negatives a row (%(default)s)")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out the likest so many (%(default)s)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        help="how much less like than the answer they must be, as a cosine (%(default)s)",
    )
    parser.add_argument(
        "--depth", type=int, default=100, help="look at the likest so many (%(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="texts at a time (%(default)s)")


def _add_files(parser: argparse.ArgumentParser, output: str, keep: bool = True) -> None:
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FILE", help="files to read, or globs"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=output)
    parser.add_argument(
        "--format",
        default="auto",
        help="of the input, instead of its name's: csv, tsv, jsonl, parquet, conll, conllu, json, "
        "squad, lines",
    )
    parser.add_argument(
        "--set",
        dest="options",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="how the input is read, a field of data.tables.train (jaxssl finetune --help "
        "data.tables.train.file); repeatable",
    )
    if keep:
        parser.add_argument(
            "--keep-input",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="begin each row with the columns of the input (the default)",
        )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
