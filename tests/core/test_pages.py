"""The pages of `--help TOPIC`, on a configuration small enough to see all of it."""

from dataclasses import dataclass
from typing import Literal

import pytest

from jaxssl.core.config import document
from jaxssl.core.config.pages import WIDTH
from jaxssl.core.config.settings import settings_of, topics
from jaxssl.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    """The shape."""
    size: int = 1
    """How large it is."""
    color: str = "black"
    """Of its line."""


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    """It is round."""

    name: Literal["circle"] = "circle"
    """The shape."""
    size: int = 2


@dataclass(frozen=True, kw_only=True)
class Box(Shape):
    """It has corners.

    More than one sentence would be too long.
    """

    name: Literal["box"] = "box"
    """The shape."""
    corners: int = 4
    """How many corners it has."""


@dataclass(frozen=True, kw_only=True)
class Cube(Box):
    """It has depth."""

    name: Literal["cube"] = "cube"
    """The shape."""
    depth: int
    """How deep it is."""
    color: str = "black"
    """Of its edges."""
    inside: "Circle | Box | Cube | None" = None
    """What it holds."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    width: int = 3
    """Of the frame, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    title: str
    """What is written below."""
    shape: Circle | Box | Cube = Circle()
    """What is drawn."""
    others: tuple[Circle | Box | Cube, ...] = ()
    """What else is drawn."""
    frame: Frame = Frame()
    """What is around it."""


def page(topic=None, defaults=None) -> str:
    return "\n".join(document(Picture, defaults, topic))


SHAPES = """\
shape: circle | box | cube = circle
    What is drawn.

--- every kind of shape:
  size: int = 1
      How large it is.
  color: str = "black"
      Of its line.

--- shape.name=circle
    It is round.
  size: int = 2

--- shape.name=box
    It has corners.
  corners: int = 4
      How many corners it has.

--- shape.name=cube, as box, and:
    It has depth.
  color: str = "black"
      Of its edges.
  depth: int  (required)
      How deep it is.
  inside: circle | box | cube | null = null
      What it holds.
      (see --help shape)"""


def test_what_choices_inherit_is_described_once_and_then_what_differs():
    assert page("shape") == SHAPES
    assert page("shape.name") == SHAPES  # the name is what the headings tell


def test_one_choice_is_described_whole():
    lines = page("shape.cube").splitlines()
    assert lines[0] == "--- shape.name=cube"
    for field in ("size: int = 1", "corners: int = 4", "depth: int  (required)"):
        assert f"  {field}" in lines
    assert page("shape.name=cube") == page("shape.cube")


def test_a_field_of_several_choices_is_shown_of_each_where_they_differ():
    assert page("shape.size") == (
        "--- circle\nshape.size: int = 2\n    How large it is.\n\n"
        "--- box, cube\nshape.size: int = 1\n    How large it is."
    )
    assert page("shape.corners") == "shape.corners: int = 4\n    How many corners it has."
    assert page("shape.cube.color") == 'shape.color: str = "black"\n    Of its edges.'


def test_fields_of_a_mapping_stand_below_it():
    lines = [
        "frame:",
        "    What is around it.",
        "  width: int = 3",
        "      Of the frame, in pixels.",
    ]
    assert page("frame") == "\n".join(lines)
    assert page("frame.width") == "frame.width: int = 3\n    Of the frame, in pixels."


def test_everything_is_all_pages_with_each_kind_of_choice_once():
    text = page()
    assert text.count("How many corners it has.") == 1
    for topic in ("title", "shape", "frame"):
        assert page(topic) in text
    assert "others: circle | box | cube (a list) = []" in text


def test_defaults_come_from_the_layer_below():
    given = {"title": "Mona", "shape": {"name": "box", "corners": 5}, "frame": {"width": 9}}
    assert 'title: str = "Mona"' in page("title", given)
    assert page("shape", given).startswith("shape: circle | box | cube = box\n")
    assert page("shape.corners", given).startswith("--- box\nshape.corners: int = 5\n")
    assert page("frame.width", given).startswith("frame.width: int = 9")


def test_topics_are_all_paths_of_fields_and_choices():
    expected = "title shape shape.circle shape.box shape.cube shape.size shape.color"
    expected += " shape.corners shape.depth shape.inside others frame frame.width"
    assert topics(settings_of(Picture, {})) == expected.split()
    for topic in expected.split():
        assert page(topic)


@pytest.mark.parametrize(
    ("topic", "fix"),
    [
        ("shap", "did you mean 'shape'?"),
        ("cube", "did you mean 'shape.cube'?"),
        ("width", "did you mean 'frame.width'?"),
        ("title.width", "did you mean 'frame.width'?"),
        ("cornrs", "did you mean 'shape.corners'?"),
        ("shape.cub", "did you mean 'shape.cube'?"),
        ("al", "did you mean 'all'?"),
        ("qqqq", "--help alone lists what there is"),
        ("", "--help alone lists what there is"),
        (".", "--help alone lists what there is"),
    ],
)
def test_an_unknown_topic_is_answered_with_the_nearest(topic, fix):
    with pytest.raises(UserError, match="there is no help on this") as raised:
        page(topic)
    assert raised.value.fix == fix


def test_a_page_is_no_wider_than_it_says():
    assert WIDTH == 100
    assert max(map(len, page(None, {"title": "so " * 60}).splitlines())) <= WIDTH
