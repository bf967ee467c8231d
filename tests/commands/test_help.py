"""`--help` of the verbs that read a recipe: a page that fits a screen or two, and topics with every
field."""

import dataclasses
import types
import typing

import pytest

from jaxssl import cli
from jaxssl.commands.help import EXAMPLES, OFTEN
from jaxssl.core import config as configuration
from jaxssl.core.registry import choice_name, members
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.tokenizer.training import TokenizerTrainConfig
from jaxssl.run.config import RunConfig
from jaxssl.run.recipes import FINETUNE

CLASSES = {
    **dict.fromkeys(("pretrain", "finetune", "config", "baseline"), RunConfig),
    "prepare": PrepareConfig,
    "tokenizer": TokenizerTrainConfig,
}


def told(capsys, *arguments: str) -> str:
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def fields(cls: type, path: str = "", seen: set[type] | None = None):
    """(path in `--help`, class, field) of all that can be configured below `cls`, by annotations
    alone; each class where it comes first."""
    seen, hints = seen if seen is not None else set(), typing.get_type_hints(cls)
    seen.add(cls)
    for field in dataclasses.fields(cls):
        here = f"{path}.{configuration.key_of(field)}".lstrip(".")
        yield here, cls, field
        for choice, several in dataclasses_in(hints[field.name]):
            if choice not in seen:
                name = f".{choice_name(choice)}" if several else ""
                yield from fields(choice, here + name, seen)


def dataclasses_in(annotation):
    """(class, whether there are others or could be) of all that an annotation holds."""
    parts = typing.get_args(annotation)
    if parts and typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        yield from (found for part in parts for found in dataclasses_in(part))
        return
    kinds = [kind for part in parts or (annotation,) for kind in members(part) or (part,)]
    single = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    several = len(single) > 1 or any(members(part) for part in parts or (annotation,))
    yield from ((kind, several) for kind in single)
    if not single:
        yield from (found for part in parts for found in dataclasses_in(part))


@pytest.mark.parametrize("cls", sorted(set(CLASSES.values()), key=str))
def test_every_field_has_a_topic_that_documents_it(cls):
    everything, found = " ".join(page(cls).split()), list(fields(cls))
    assert len(found) > 15
    for path, owner, field in found:
        chosen = choice_name(owner) if field.name == "name" else None
        words = " ".join(page(cls, path.removesuffix(".name") if chosen else path).split())
        for text in (words, f" {everything}"):
            if chosen:
                assert f".name={chosen}" in text, path
            else:
                doc = configuration.field_docs(owner)[field.name]
                assert doc and doc in text and f"{configuration.key_of(field)}:" in text, path


def page(cls: type, topic: str | None = None) -> str:
    return "\n".join(configuration.document(cls, None, topic))


@pytest.mark.parametrize("verb", CLASSES)
def test_the_page_of_a_verb_fits_a_screen_or_two(verb, capsys):
    lines = told(capsys, verb, "--help").splitlines()
    assert len(lines) <= 75 and max(map(len, lines)) <= 100
    assert lines[0].startswith(f"usage: jaxssl {verb} ")
    assert all(line in lines for example in EXAMPLES[verb] for line in f"  {example}".split("\n"))
    named = {line.split()[0] for line in lines if line.startswith("  ") and line.strip()}
    assert {f.name for f in dataclasses.fields(CLASSES[verb])} <= named  # each section is named


def test_the_fields_of_a_page_have_the_defaults_of_the_verb(capsys):
    text = told(capsys, "finetune", "--help")
    assert (
        "  optimizer.learning_rate    5e-05 " in text and "  train.epochs               3 " in text
    )
    text = told(capsys, "pretrain", "--help")
    assert "  optimizer.learning_rate    0.0001 " in text
    assert "  data.store                 (required) " in text
    assert "  init.from                  null " in text  # required only of an `init` that is there


def test_what_a_recipe_says_is_shown_as_the_default(capsys):
    given = (
        "objectives/bert-docstrings",
        "--help",
        "optimizer.learning_rate",
        "optimizer.learning_rate=7.5e-3",
    )
    text = told(capsys, "pretrain", *given)
    assert "= 0.0075" in text
    assert "data.batch_size            32 " in told(
        capsys, "pretrain", "objectives/bert-docstrings", "--help"
    )
    assert "= 64" in told(
        capsys, "pretrain", "objectives/bert-docstrings", "--help", "data.sequence_length"
    )


@pytest.mark.parametrize(
    ("verb", "topic", "shown"),
    [
        ("finetune", "task", "objective: masked_lm |"),  # as recipes may call it
        ("finetune", "task.pooling", "objective.pooling: 'auto'"),
        ("pretrain", "model", "--- model.name=qwen3, as llama, and:"),
        ("pretrain", "model.bert", "  vocab_size: int = 30522"),
        ("pretrain", "train.steps", "train.steps: int = 1000"),
        ("pretrain", "streams.objective.masked_lm", "mask_share: float = 0.8"),
        ("prepare", "source.text", "documents: 'file' | 'blank_lines' = \"file\""),
        ("tokenizer", "vocab_size", "vocab_size: int = 8192"),
    ],
)
def test_a_topic_is_shown(verb, topic, shown, capsys):
    assert shown in told(capsys, verb, "--help", topic)
    assert shown in told(capsys, verb, f"--help={topic}")


@pytest.mark.parametrize(
    ("verb", "topic", "fix"),
    [
        ("pretrain", "modle", "did you mean 'model'?"),
        ("pretrain", "bert", "did you mean 'model.bert'?"),
        ("finetune", "learning_rte", "did you mean 'optimizer.learning_rate'?"),
        ("prepare", "train", "--help alone lists what there is"),
        ("tokenizer", "task", "--help alone lists what there is"),
    ],
)
def test_a_misspelt_topic_is_refused(verb, topic, fix, capsys):
    assert cli.main([verb, "--help", topic]) == 2
    assert f"fix:      {fix}\n" in capsys.readouterr().err


def test_a_topic_needs_fewer_lines_than_all_of_its_choices():
    """What nine families share is told once."""
    once = page(RunConfig, "model").count("What the backward pass computes again")
    assert once == 1
    apart = sum(len(page(RunConfig, f"model.{m.name}").splitlines()) for m in families())
    assert len(page(RunConfig, "model").splitlines()) < apart / 2


def families():
    from jaxssl.models.model import ModelConfig

    return members(ModelConfig)


def test_the_fields_of_every_page_are_known():
    assert OFTEN.keys() <= CLASSES.keys() == EXAMPLES.keys()
    for verb, names in OFTEN.items():
        given = FINETUNE if verb in ("finetune", "baseline") else None
        for name in names:
            assert "".join(configuration.document(CLASSES[verb], given, name))
