"""`--help` of the verbs that read a recipe: a page of what is changed often, and of the topics that
have the rest."""

import argparse
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping

from jaxssl.core import config as configuration
from jaxssl.core.config.documentation import names_of
from jaxssl.core.config.pages import WIDTH
from jaxssl.core.config.settings import Setting, find, settings_of

Layer = Mapping[str, typing.Any]

OFTEN: dict[str, tuple[str, ...]] = {
    "pretrain": (
        *("out", "init.from", "data.store.store", "data.sequence_length", "data.batch_size"),
        *("train.steps", "train.accumulation", "train.seed", "optimizer.learning_rate"),
        *("optimizer.weight_decay", "optimizer.schedule.warmup", "evaluation.every"),
        *("checkpoint.every", "checkpoint.keep_last", "samples.prompts", "precision.compute"),
        "mesh.preset",
    ),
    "finetune": (
        *("out", "init.from", "objective.text", "objective.label", "objective.pooling"),
        *("data.tables.train.path", "data.max_length", "data.batch_size", "train.epochs"),
        *("train.seed", "optimizer.learning_rate", "optimizer.weight_decay"),
        *("optimizer.schedule.warmup", "freezing.preset", "evaluation.every_epochs"),
        *("evaluation.best_by", "checkpoint.keep_last", "precision.compute", "mesh.preset"),
    ),
    "baseline": (
        *("objective.text", "objective.pair", "objective.label", "data.tables.train.path"),
        *("data.tables.validation_fraction", "data.tables.test_fraction"),
    ),
}
"""What most commands change, by verb. `data.store` alone is the kind of data, not its field."""
OFTEN["config"] = OFTEN["pretrain"]

EXAMPLES = {
    "tokenizer": (
        "jaxssl tokenizer kind=byte_bpe vocab_size=8192 out=stores/pieces source.name=text \\\n"
        "    'source.paths=[books/*.txt]'",
        "jaxssl tokenizer extends=stores/pieces sentinels=100 out=stores/sentinels",
    ),
    "prepare": (
        "jaxssl prepare tokenizer=stores/pieces out=stores/books source.name=text \\\n"
        "    'source.paths=[books/*.txt]' source.documents=blank_lines validation_fraction=0.1",
    ),
    "pretrain": (
        "jaxssl pretrain objectives/bert-docstrings data.store=stores/books out=runs/books",
        "jaxssl pretrain pretrain/bert-base hardware/eight-devices data.store=stores/books",
        "jaxssl pretrain demo/bert --help optimizer     (with the recipe's values as defaults)",
    ),
    "finetune": (
        "jaxssl finetune finetune/sst2 init.from=runs/books out=runs/sst2",
        "jaxssl finetune finetune/sst2 init.from=downloads/bert-base-uncased --seeds 5",
        "jaxssl finetune finetune/sst2 --help data     (with the recipe's values as defaults)",
    ),
    "baseline": ("jaxssl baseline finetune/sst2",),
    "config": ("jaxssl config pretrain/bert-tiny train.steps=1000",),
}


def print_help(options: argparse.Namespace, cls: type, defaults: Layer) -> None:
    """Prints the page of a verb, or what `--help TOPIC` asks for.

    Args:
      options: `verb`, its `parser`, and the topic as `help`: empty, `all`, `model.bert`.
      cls: the configuration of the verb.
      defaults: a layer below all others, whose values are the defaults where it has any.

    Raises:
      UserError: there is no such topic.
    """
    if options.help:
        topic = None if options.help == "all" else _renamed(options.help, cls)
        print("\n".join(configuration.document(cls, defaults, topic)).rstrip())
        return
    print(options.parser.format_help())
    print("\n".join(_overview(options.verb, settings_of(cls, defaults))))


def _renamed(topic: str, cls: type) -> str:
    """In a recipe, `task` is another word for `objective`."""
    head, dot, rest = topic.partition(".")
    keys = [setting.key for setting in settings_of(cls, {})]
    known = head in keys or head != "task" or "objective" not in keys
    return topic if known else f"objective{dot}{rest}"


def _overview(verb: str, settings: list[Setting]) -> Iterator[str]:
    """The examples of a verb, a table of fields and one of topics."""
    yield "examples:"
    yield from (f"  {example}" for example in EXAMPLES[verb])
    alone = [setting.topic for setting in settings if not setting.choices]
    often = {name: _in_effect(settings, name) for name in OFTEN.get(verb, alone)}
    rows = [(x.topic, _default(settings, name), _what(x)) for name, x in often.items()]
    yield ""
    yield "fields, and what they are where no recipe says it:"
    yield from _table(rows)
    yield ""
    yield f"topics, for jaxssl {verb} --help TOPIC (all is everything):"
    rest = [each for each in settings if each.choices or each.topic not in often]
    yield from _table([(each.topic, _what(each)) for each in rest])


def _in_effect(settings: list[Setting], topic: str) -> Setting:
    """The field of a topic, of the choice that the defaults make."""
    found = find(settings, tuple(topic.split(".")))[0]
    assert isinstance(found, Setting), f"{topic} is a choice"
    return found


def _default(settings: list[Setting], topic: str) -> str:
    """A field's default; null of one of a mapping that is null itself (init.from)."""
    first = find(settings, (topic.partition(".")[0],))[0]
    below_null = isinstance(first, Setting) and first.default_text == "null"
    return "null" if below_null else _in_effect(settings, topic).default_text


def _what(setting: Setting) -> str:
    """A docstring to its first full stop, semicolon or colon, then what there is to choose from."""
    gist = re.split(r"[.;:](?: |$)", setting.doc, maxsplit=1)[0]
    if setting.is_chosen:
        names = names_of(setting.choices)
        known = [f"{x} (the default)" if x == setting.default_text else x for x in names]
        return f"{gist}: {', '.join(known)}"
    if typing.get_origin(setting.annotation) is typing.Literal:
        return f"{gist}: {', '.join(map(str, typing.get_args(setting.annotation)))}"
    return gist


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns, of which the last is wrapped; a value that is long pushes the next."""
    widths = [max(len(row[i]) for row in rows if len(row[i]) < 36) for i in range(len(rows[0]) - 1)]
    for *cells, text in rows:
        head = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths))
        yield from textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"  {head}",
            subsequent_indent=" " * (2 + sum(widths) + 2 * len(widths)),
            break_on_hyphens=False,
        )
