"""Every number of a run's configuration has bounds, and says them before anything begins."""

import dataclasses
import math
import typing

import pytest
import toy

from jaxssl import cli
from jaxssl.checkpoint.hf.sentence import SentenceConfig
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.core.errors import UserError
from jaxssl.core.registry import members
from jaxssl.data.chat.conversations import Dialogue
from jaxssl.data.config import StoreConfig, TablesConfig
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tables.config import TableFile, TableSplits
from jaxssl.data.tokenizer.training import TokenizerTrainConfig
from jaxssl.objectives.combine import Term
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.ul2 import Denoiser
from jaxssl.ops.rotary import Yarn
from jaxssl.optim.adafactor import Adafactor
from jaxssl.optim.sgd import Sgd
from jaxssl.run.config import RunConfig
from jaxssl.tasks.classify import Classify
from jaxssl.train.settings import TrainConfig
from jaxssl.transfer.freezing import Freezing, UnfreezingStage
from jaxssl.transfer.peft.fusion import Fusion, Sum
from jaxssl.transfer.peft.tokens import Tokens

SIZES = (
    *("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"),
    "max_positions",
)
SEEDS = [
    (f"{name}={value}", name, "0 to 4294967295")
    for name in ("train.seed", "data.seed", "samples.sampling.seed")
    for value in (-1, 2**32)
]
CASES = [
    *((f"model.{name}=0", f"model.{name}", "at least 1") for name in SIZES),
    ("model.type_vocab_size=-1", "model.type_vocab_size", "at least 0"),
    ("model.intermediate_size=-4", "model.intermediate_size", "at least 1"),
    ("model.norm_epsilon=0.0", "model.norm_epsilon", "above 0"),
    ("model.initializer_range=-0.02", "model.initializer_range", "above 0"),
    ("objective.chunk=0", "objective.chunk", "at least 1"),
    ("objective.slots=0", "objective.slots", "at least 1"),
    ("objective.max_predictions=0", "objective.max_predictions", "at least 1"),
    ("data.prefetch=-1", "data.prefetch", "at least 0"),
    ("data.batch_size=0", "data.batch_size", "at least 1"),
    ("data.sequence_length=0", "data.sequence_length", "at least 1"),
    ("train.steps=0", "train.steps", "at least 1"),
    ("train.accumulation=0", "train.accumulation", "at least 1"),
    ("logging.every=0", "logging.every", "at least 1"),
    ("samples.top=0", "samples.top", "at least 1"),
    ("profile={start: 0, stop: 0}", "profile.start, stop", "0 <= start < stop"),
    ("profile={start: -2, stop: 3}", "profile.start, stop", "0 <= start < stop"),
    ("profile.start=3", "profile.start, stop", "neither to trace nothing"),
    *SEEDS,
]
TABLE = TableFile(path="train.csv")
LEARNT = {"source": Docstrings(), "out": "here"}
TABLES = TableSplits(train=TABLE)
REQUIRED = {
    Dialogue: dict.fromkeys(("speaker", "text", "assistant", "episode"), "a"),
    Denoiser: {"mode": "regular", "rate": 0.15},
    StoreConfig: {"store": "here"},
    Fusion: {"of": ("a", "b")},
    InitConfig: {"from_": "runs/base"},
    TablesConfig: {"tables": TABLES},
    TableSplits: {"train": TABLE},
    TableFile: {"path": "train.csv"},
    SentenceConfig: {"pooling": ("mean",)},
    Sum: {"of": ("a", "b")},
    Sgd: {"learning_rate": 0.1},
    Term: {"objective": MaskedLm()},
    Tokens: {"ids": (1,)},
    UnfreezingStage: {"epoch": 1.0},
    Yarn: {"factor": 2.0, "original_positions": 128},
}
ANY_NUMBER = ("Answer.null_threshold", "Ranking.hard_negative_weight")
"""What may be below 0."""
CHECKED_LATER = {
    "MeshConfig": "with the number of devices, by `make_mesh`",
}


@pytest.mark.parametrize(("override", "where", "expected"), CASES, ids=[c[0] for c in CASES])
def test_a_number_out_of_range_is_told_with_its_bounds(override, where, expected, tmp_path, capsys):
    recipe = toy.recipe_of("masked", tmp_path / "store", tmp_path / "run", 136)
    path = toy.write_recipe(tmp_path / "recipe.json", recipe)
    assert cli.main(["config", str(path), override]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"where:    {where}\n" in err and expected in err and "got:" in err, err


FILE = TableFile(path="b.csv")
UNREAD = [
    (Freezing, {"preset": "head"}, {"top": 6}),
    (UnfreezingStage, {"preset": "full", "epoch": 1.0}, {"top": 1}),
    (TableSplits, {"train": TABLE, "validation": FILE}, {"validation_fraction": 0.2}),
    (Classify, {}, {"separator": ";"}),
    (Adafactor, {"parameter_scale": False}, {"smallest_scale": 1e-2}),
    (TrainConfig, {"not_finite": "abort"}, {"not_finite_limit": 3}),
    (TokenizerTrainConfig, {**LEARNT, "kind": "byte_bpe"}, {"character_coverage": 0.9}),
    (TokenizerTrainConfig, {**LEARNT, "kind": "sentencepiece_bpe"}, {"min_frequency": 3}),
    (
        TokenizerTrainConfig,
        {"extends": "there", "sentinels": 100, "special_tokens": ("<a>",), "out": "here"},
        {
            "source": Docstrings(),
            "kind": "byte_bpe",
            "vocab_size": 300,
            "lowercase": True,
            "min_frequency": 3,
            "character_coverage": 0.9,
            "extra_roles": ("pad",),
            "max_bytes": 1000,
        },
    ),
    (
        InitConfig,
        {"from_": "runs/base", "scratch": True},
        {
            "step": 5,
            "rename": {"a": "b"},
            "drop": ("a",),
            "fresh": ("a",),
            "resize": ("a",),
            "new_pieces": "mean",
            "new_positions": "tile",
            "fresh_top": 1,
            "cast": True,
            "optimizer": "restore",
        },
    ),
]


@pytest.mark.parametrize(("cls", "beside", "unread"), UNREAD, ids=[c[0].__name__ for c in UNREAD])
def test_what_would_be_ignored_is_refused_by_name(cls, beside, unread):
    cls(**beside)
    for given in (unread, *({name: value} for name, value in unread.items())):
        with pytest.raises(UserError, match="of no meaning") as error:
            cls(**beside, **given)
        assert error.value.where == ", ".join(given)


def test_what_is_read_beside_others_is_taken():
    Freezing(preset="top", top=6)
    TableSplits(train=TABLE, validation_fraction=0.2)
    TableSplits(train=TABLE, validation=FILE, validation_fraction=0)
    Classify(multi_label=True, separator=";")
    TrainConfig(not_finite="skip", not_finite_limit=3)
    InitConfig(from_="runs/base/checkpoints/500", scratch=True, network="teacher")


def dataclasses_of(annotation, found: set[type]) -> set[type]:
    """`found` with the dataclasses that a field's type names, and those of their fields."""
    inside = members(annotation) or typing.get_args(annotation)
    if not inside and dataclasses.is_dataclass(annotation) and annotation not in found:
        found.add(annotation)
        inside = typing.get_type_hints(annotation).values()
    for each in inside:
        dataclasses_of(each, found)
    return found


INTEGERS = (int, int | None)


def numbers(cls) -> list[str]:
    """The fields of a dataclass that take a number."""
    kinds = (int, float, int | None, float | None)
    return [name for name, hint in typing.get_type_hints(cls).items() if hint in kinds]


NUMBERS = [
    pytest.param(cls, name, id=f"{cls.__module__}.{cls.__name__}.{name}")
    for cls in sorted(dataclasses_of(RunConfig, set()), key=lambda c: (c.__name__, c.__module__))
    for name in numbers(cls)
    if cls.__name__ not in CHECKED_LATER and f"{cls.__name__}.{name}" not in ANY_NUMBER
]


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
def test_no_number_takes_minus_seven(cls, name):
    """Not one field of the configuration means anything by it."""
    with pytest.raises(UserError):
        cls(**{**REQUIRED.get(cls, {}), name: -7})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_weight_of_hard_negatives_is_any_finite_number(value):
    assert Ranking(hard_negative_weight=-7).hard_negative_weight == -7
    with pytest.raises(UserError, match="not finite"):
        Ranking(hard_negative_weight=value)


FLOATS = [p for p in NUMBERS if typing.get_type_hints(p.values[0])[p.values[1]] not in INTEGERS]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("cls", "name"), FLOATS)
def test_no_number_is_infinite_or_not_one(cls, name, value):
    with pytest.raises(UserError):
        cls(**{**REQUIRED.get(cls, {}), name: value})


def test_the_walk_finds_the_numbers_there_are():
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["evaluate", "RUN", "--batches", "0"], "--batches"),
        (["evaluate", "RUN", "--batches", "-1"], "--batches"),
        (["embed", "RUN", "--input", "a.txt", "--output", "a.npy", "--batch-size", "0"], "--batch"),
        (["embed", "RUN", "--input", "a.txt", "--output", "a.npy", "--max-length", "0"], "--max"),
        (["generate", "RUN", "a text", "--beams", "0"], "--beams"),
        (["generate", "RUN", "a text", "--min-tokens", "-1"], "--min-tokens"),
        (["generate", "RUN", "a text", "--samples", "0"], "--samples"),
        (["compare", "RUN", "OTHER", "--samples", "0"], "--samples"),
        (["compare", "RUN", "OTHER", "--seed", "-1"], "--seed"),
    ],
)
def test_an_option_out_of_range_is_told_before_a_run_is_opened(
    arguments, option, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a text")
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "a number is out of range" in err and option in err
