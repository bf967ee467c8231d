"""An argument parser that says what to do about a mistyped command; the options of predict,
embed and mine."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

PREDICT = """
Any number of rows is read, predicted and written a few thousand at a time, in the order of the
input: one row out for each row in. Labels need not be there.

Killed or stopped, the same command goes on after the rows that are written (FILE.part).

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

examples:
  jaxssl predict runs/sst2 --input reviews.jsonl --output predictions.jsonl
  jaxssl predict runs/base --adapter runs/sst2-lora --input reviews.jsonl --output out.jsonl
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

GENERATE = """
With --output a row is written for each text: the input's columns, text, log_probability (of the
model itself), num_tokens, ended_by (end, stop, length), and of several texts a prompt their sample.
Prompts are those of the files, in their order (csv, tsv, jsonl, json, parquet; .txt has one a
line), or of the command line. Killed or stopped, the same command goes on after the texts that are
written (FILE.part), and the file is the same, byte for byte.

examples:
  jaxssl generate runs/books "It was" --samples 3
  head prompts.txt | jaxssl generate runs/books -
  jaxssl generate runs/books --input prompts.jsonl --output texts.jsonl --tokens 64
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


ADAPT = """
Trains RUN further on text of a new domain or language, and says what that gained there and what it
cost on the old one. A token store is made of the corpus beside the new run (OUT-data/store), some
of its documents held out; then an ordinary run (OUT) starts from RUN: its objective, its rows, its
optimizer afresh, whose learning rate rises to RUN's peak once more and falls to a tenth of it, one
epoch of the new text. Killed or stopped, the same command goes on where it was.

The held-out documents of both domains are measured before and after, as by `jaxssl evaluate`; the
table is printed, kept in OUT/adaptation.json, and part of the report. The old domain's are those
of RUN's own token store, or of --replay.

--extend-vocabulary learns further pieces, which follow the old ones (WordPiece and byte-level BPE);
the rows of each begin as the mean of those of the pieces it was cut into before. Then nats per byte
of text are compared, on the same documents; of a masked model nothing is. A store to replay may
have the old pieces alone.

--length makes rows longer. A table of learned positions is tiled, so that rows as long as before
see what they saw (--positions stretch draws it apart); rotary positions may get another base.

examples:
  jaxssl adapt runs/books --corpus 'law/*.txt' --out runs/law --replay-share 0.2
  jaxssl adapt runs/books --corpus law.jsonl --extend-vocabulary 1000 train.steps=5000
  jaxssl adapt runs/llama --corpus long/ --length 2048 --rotary-base 500000 data.batch_size=8
  jaxssl adapt runs/books --corpus law/ --print-config
"""

CHAT = """
A line of the standard input is what the user says. What was said is kept, and so are its keys and
values: only what is new is read. Where the conversation becomes longer than the window, its oldest
turns are forgotten whole, which is said; the system prompt stays. Ctrl-D ends it.

Where the standard input or output is no terminal, answers alone are written.

examples:
  jaxssl chat runs/assistant --system "You are a librarian."
  printf 'Hello!\\nWho are you?\\n' | jaxssl chat runs/assistant --temperature 0
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
        words = [word for word in extras if word == "-" or not word.startswith("-")]
        if many and words:  # argparse took none of them where an option came first
            before = getattr(found, many[0].dest)
            kept = [] if before is None or before == many[0].default else before
            setattr(found, many[0].dest, [*kept, *words])
            extras = [word for word in extras if word not in words]
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


def add_adapt(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl adapt` takes besides a run."""
    parser.epilog = ADAPT
    parser.add_argument(
        "layers",
        nargs="*",
        metavar="recipe.yaml | a.b=c",
        help="changes of the new run; data. and objective. are those of both domains",
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="text of the new domain: files, folders or patterns (.jsonl has an object a line), or "
        "with --set source.name=hub a data set's name",
    )
    parser.add_argument(
        "--set",
        dest="options",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="how the corpus is prepared, a field of jaxssl prepare (source.documents=blank_lines, "
        "validation_fraction=0.1); repeatable",
    )
    parser.add_argument("--store", help="a token store of the new domain, instead of a corpus")
    parser.add_argument("--out", help="the new run (RUN-adapted)")
    parser.add_argument("--stream", help="which of RUN's streams goes on, where they differ")
    parser.add_argument(
        "--replay",
        metavar="STORE",
        help="a token store of the old domain, to train on too and to measure forgetting",
    )
    parser.add_argument(
        "--replay-share",
        type=float,
        metavar="SHARE",
        help="of the steps, for the old domain (0.2 with --replay, else 0); without --replay RUN's "
        "own token store is replayed",
    )
    parser.add_argument(
        "--extend-vocabulary", type=int, metavar="N", help="learn N further pieces on the corpus"
    )
    parser.add_argument("--length", type=int, metavar="L", help="tokens of a row (as RUN's)")
    parser.add_argument(
        "--positions",
        choices=("tile", "stretch"),
        default="tile",
        help="how a longer table of learned positions begins (%(default)s)",
    )
    parser.add_argument(
        "--rotary-base", type=float, metavar="X", help="base of the rotary positions (as RUN's)"
    )
    parser.add_argument(
        "--batches", type=int, help="measure at most so many of each held-out split (all)"
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="prepare the text, print the new run's configuration, and train nothing",
    )


def without_changes(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The words of an option that takes any number of paths, and the `a.b=c` changes that came
    right after them: those that are no files."""
    given = [*words]
    changes = [
        word
        for word in given
        if re.match(r"[a-z_]+(\.[\w-]+)*=", word) and not os.path.lexists(word)
    ]
    return [word for word in given if word not in changes], changes


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Adds the adapters that a run is used with."""
    parser.add_argument(
        "--adapter",
        dest="adapters",
        metavar="NAME_OR_DIR",
        action="append",
        default=[],
        help="use the run with this adapter: one of its own by name, without the others; or what "
        "another run (RUN, RUN#NAME) or PEFT's files have, on top; repeatable",
    )


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl predict` takes besides a run."""
    parser.epilog = PREDICT
    _add_files(parser, "a name that ends in .jsonl, .csv or .tsv; - is standard output, as jsonl")
    parser.add_argument("--stream", help="which of several that the run was trained on (the first)")


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Adds what `jaxssl generate` takes for prompts in files."""
    parser.epilog = GENERATE
    output = "a row for each text, in a .jsonl, .csv or .tsv; - is standard output, as jsonl"
    _add_files(parser, output, required=False)
    parser.add_argument(
        "--column", default="prompt", help="of the prompts in the input (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, help="prompts of a file at a time (%(default)s)"
    )


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


def _add_files(
    parser: argparse.ArgumentParser, output: str, keep: bool = True, required: bool = True
) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        required=required,
        default=[],
        metavar="FILE",
        help="files to read, or globs",
    )
    parser.add_argument("--output", required=required, metavar="FILE", help=output)
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
