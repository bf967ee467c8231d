"""Configuration: layers, overrides, strict types, every error at once."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.config import build, document, field_docs, load, parse_yaml, to_yaml
from jaxssl.core.config.layers import parse_override
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.core.registry import members


@dataclass(frozen=True, kw_only=True)
class Cosine:
    name: Literal["cosine"] = "cosine"
    """The shape."""
    floor: float = 0.0
    """Lowest share of the peak."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    name: Literal["linear"] = "linear"
    slope: int = 1

    def __post_init__(self):
        if self.slope < 0:
            raise UserError("too steep", where="slope", expected="at least 0", got=self.slope)


@dataclass(frozen=True, kw_only=True)
class Term:
    part: Cosine | Linear
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Model:
    name: Literal["small", "big"] = "small"
    hidden_size: int = 8
    """Width of the
    hidden states."""
    rate: float = 0.1
    bias: bool = True
    label: str = ""
    limit: int | None = None
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    out: str
    """Where it goes."""
    model: Model = Model()
    shape: Cosine | Linear = Cosine()
    stop: Linear | None = None
    terms: tuple[Term, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)


def run(*layers, overrides=()):
    return load(Run, [{"out": "x"}, *layers], overrides)


# --- YAML -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("3e-4", 3e-4),
        ("1e6", 1_000_000),
        ("1.0e6", 1e6),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("010", 10),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("'3'", "3"),
        ("[1, 2e0]", [1, 2]),
        (".inf", math.inf),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    got = parse_yaml(text, "here")
    assert got == value and type(got) is type(value)


def test_a_float_that_stands_for_an_integer_fills_an_integer_field():
    assert run({"model": {"hidden_size": parse_yaml("1e3", "")}}).model.hidden_size == 1000
    with pytest.raises(UserError, match="hidden_size"):
        run(overrides=["model.hidden_size=1.5e1"])


def test_repeated_keys_and_broken_yaml_are_refused(tmp_path):
    (tmp_path / "twice.yaml").write_text("out: a\nout: b\n")
    with pytest.raises(UserError, match="repeated key 'out'"):
        load(Run, [tmp_path / "twice.yaml"])
    (tmp_path / "broken.yaml").write_text("out: [a\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load(Run, [tmp_path / "broken.yaml"])
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="mapping"):
        load(Run, [tmp_path / "list.yaml"])
    with pytest.raises(UserError, match="cannot be read"):
        load(Run, [tmp_path / "absent.yaml"])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(Run, [tmp_path / "empty.yaml", {"out": "x"}]) == run()


# --- Layers -----------------------------------------------------------------------------------


def test_later_layers_win_key_by_key():
    got = run({"model": {"hidden_size": 4, "rate": 0.5}}, {"model": {"hidden_size": 16}})
    assert (got.model.hidden_size, got.model.rate) == (16, 0.5)
    assert run({"model": {"rate": 0.5}}, overrides=["model.rate=3e-4"]).model.rate == 3e-4


def test_a_layer_that_changes_the_name_drops_the_old_siblings():
    old = {"shape": {"name": "cosine", "floor": 0.5}}
    assert run(old, {"shape": {"name": "linear", "slope": 2}}).shape == Linear(slope=2)
    assert run(old, overrides=["shape.name=linear"]).shape == Linear()
    assert run(old, {"shape": {"name": "cosine"}}).shape == Cosine(floor=0.5)


def test_without_a_name_it_is_the_kind_that_the_field_has_by_default():
    assert run({"shape": {"floor": 0.5}}).shape == Cosine(floor=0.5)
    assert run(overrides=["shape.floor=0.5"]).shape == Cosine(floor=0.5)
    with pytest.raises(UserError, match="a name is missing"):
        run({"terms": [{"part": {"floor": 0.5}}]})


def test_overrides_do_not_drop_one_another():
    old = {"shape": {"name": "cosine", "floor": 0.5}}
    both = ["shape.slope=3", "shape.name=linear"]
    for overrides in (both, both[::-1]):
        assert run(old, overrides=overrides).shape == Linear(slope=3)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("a [b] #1/run", "a [b] #1/run"),
        ("#1", "#1"),
        ("'a' #1", None),
        ('"a #1"', "a #1"),
        ("  a  b ", "a  b"),
        ("a: #b", None),
        ("[a] #b", None),
        ("5 # b", None),
    ],
)
def test_a_hash_in_an_override_begins_no_comment(given, text):
    """Nothing of an argument is dropped: `out=x #1` and `out=x #2` would be one directory."""
    if text is not None:
        assert parse_override(f"out={given}") == {"out": text}
        return
    with pytest.raises(UserError, match="something behind its value"):
        parse_override(f"out={given}")


def test_an_override_may_be_null_a_list_or_a_mapping():
    got = run(
        {"stop": {"slope": 3}},
        overrides=["stop=null", "model.sizes=[1, 2]", "shape={name: linear, slope: 4}"],
    )
    assert (got.stop, got.model.sizes, got.shape) == (None, (1, 2), Linear(slope=4))


@pytest.mark.parametrize("bad", ["recipe.yaml", "=3", " =3"])
def test_an_argument_that_is_no_override_is_refused(bad):
    with pytest.raises(UserError, match="key=value"):
        run(overrides=[bad])


# --- Errors -----------------------------------------------------------------------------------


def test_every_error_is_reported_at_once_with_suggestions():
    with pytest.raises(UserErrors) as caught:
        build(
            Run,
            {
                "model": {"hiden_size": 4, "rate": "fast", "bias": 1},
                "shape": {"name": "cosin"},
                "terms": [{"part": {"name": "linear", "slop": 2}}],
            },
        )
    found = {error.where: error for error in caught.value.errors}
    assert set(found) == {
        "out",
        "model.hiden_size",
        "model.rate",
        "model.bias",
        "shape.name",
        "terms[0].part.slop",
    }
    assert found["model.hiden_size"].fix == "did you mean 'hidden_size'?"
    assert found["shape.name"].fix == "did you mean 'cosine'?"
    assert found["terms[0].part.slop"].fix == "did you mean 'slope'?"
    assert all(str(error) in str(caught.value) for error in found.values())


def test_a_setting_of_another_choice_is_told_whose_it_is():
    with pytest.raises(UserError, match="a setting of cosine") as caught:
        run({"shape": {"name": "linear", "floor": 0.5}})
    assert caught.value.where == "shape.floor"
    assert caught.value.fix == "leave it out, or set shape.name=cosine"


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_size", "3"),
        ("hidden_size", True),
        ("hidden_size", 3.5),
        ("hidden_size", None),
        ("rate", "0.1"),
        ("rate", False),
        ("bias", 1),
        ("bias", "true"),
        ("label", 3),
        ("limit", "none"),
        ("sizes", 3),
        ("sizes", ["a"]),
        ("name", "huge"),
    ],
)
def test_wrong_types_are_refused_and_never_cast(key, value):
    with pytest.raises(UserError) as caught:
        build(Run, {"out": "x", "model": {key: value}})
    assert caught.value.where.startswith(f"model.{key}")
    assert caught.value.got == repr(value[0] if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "key, value, fix",
    [
        ("hidden_size", "wide", "model.hidden_size=1000"),
        ("rate", "fast", "model.rate=0.1"),
        ("bias", 1, "model.bias=true"),
        ("label", 3, "'model.label=\"3\"'"),
        ("sizes", 3, "'model.sizes=[3]'"),
        ("name", "smal", "did you mean 'small'?"),
        ("name", "ig", "did you mean 'big'?"),
    ],
)
def test_a_wrong_value_is_answered_with_how_to_write_a_right_one(key, value, fix):
    with pytest.raises(UserError) as caught:
        build(Run, {"out": "x", "model": {key: value}})
    assert fix in str(caught.value.fix)


def test_an_integer_is_a_float_but_stays_exact():
    assert build(Model, {"rate": 1}).rate == 1.0
    assert isinstance(build(Model, {"rate": 1}).rate, float)


@pytest.mark.parametrize("bad", ["big", 3, ["small"]])
def test_a_scalar_where_a_mapping_belongs_is_refused(bad):
    with pytest.raises(UserError, match="a mapping"):
        build(Run, {"out": "x", "model": bad})


def test_a_dataclass_own_check_is_told_with_its_path():
    with pytest.raises(UserError) as caught:
        build(Run, {"out": "x", "stop": {"slope": -1}})
    assert caught.value.where == "stop.slope"


def test_a_list_of_sections_must_be_a_list():
    with pytest.raises(UserError, match="terms"):
        build(Run, {"out": "x", "terms": {"part": {"name": "linear"}}})


# --- Printing ---------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from("no 1e5 3e-4 08 1_0 null ~ true .inf 0x1 =".split(" ")),
)
NUMBERS = st.floats(allow_nan=False)
SHAPES = st.one_of(st.builds(Cosine, floor=NUMBERS), st.builds(Linear, slope=st.integers(0, 2**70)))
RUNS = st.builds(
    Run,
    out=TEXT,
    model=st.builds(
        Model,
        name=st.sampled_from(["small", "big"]),
        hidden_size=st.integers(-(2**40), 2**40),
        rate=NUMBERS,
        bias=st.booleans(),
        label=TEXT,
        limit=st.none() | st.integers(),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
    ),
    shape=SHAPES,
    stop=st.none() | st.builds(Linear),
    terms=st.lists(st.builds(Term, part=SHAPES), max_size=2).map(tuple),
    factors=st.dictionaries(TEXT, NUMBERS, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(RUNS)
def test_what_is_printed_is_read_back_equal(value):
    assert build(Run, parse_yaml(to_yaml(value), "printed")) == value


def test_a_file_round_trip(tmp_path):
    value = run({"model": {"label": "1e5"}})
    (tmp_path / "config.yaml").write_text(to_yaml(value))
    assert load(Run, [tmp_path / "config.yaml"]) == value


def test_attribute_docstrings_are_the_documentation():
    assert field_docs(Model) == {"hidden_size": "Width of the hidden states."}
    text = "\n".join(document(Run))
    assert "out: str  (required)" in text and "Where it goes." in text
    assert "hidden_size: int = 8" in text and "--- shape.name=linear" in text
    assert "stop: (or null)" in text


def test_every_option_of_a_run_is_documented():
    from jaxssl.run.config import RunConfig

    seen, missing = [RunConfig], []
    for cls in seen:
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if not field_docs(cls).get(f.name):
                missing.append(f"{cls.__name__}.{f.name}")
            for member in nested(hints[f.name]):
                if member not in seen:
                    seen.append(member)
    assert len(seen) > 12 and not missing, missing


def nested(annotation):
    if chosen := members(annotation):
        return list(chosen)
    if dataclasses.is_dataclass(annotation):
        return [annotation]
    return [m for part in typing.get_args(annotation) for m in nested(part)]
