"""YAML that is wrong, large or hostile is an error in words, soon, and never a traceback."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.config import build, parse_yaml, read_yaml
from jaxssl.core.errors import UserError
from jaxssl.run.config import RunConfig

NINE = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "text",
    [
        *("a: !!int x", "a: !!float y", "a: !!timestamp z", "a: !!binary '*'", "a: !!set [1]"),
        *("a: !!python/object:os.system x", "a: " + "9" * 5000, "[" * 2000, NINE, "&a [*a]"),
        *("{[1]: 2}", "? {a: 1}\n: 2", "a: \x00", "\ta: 1", "a: 1\na: 2", "a" * (9 << 20)),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_yaml_of_ours_is_refused_soon(text):
    started = time.monotonic()
    with pytest.raises(UserError, match="YAML") as error:
        parse_yaml(text, where="there")
    assert error.value.where == "there" and time.monotonic() - started < 20


def test_an_alias_of_a_few_values_is_read():
    assert parse_yaml("a: &x {b: 1}\nc: *x", where="") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    "data",
    [
        {"model": {"name": {"a": 1}}},
        {"optimizer": {"schedule": {"name": [1]}}},
        *({1: 2}, {None: 1}, {"model": {1: 2}}, {"model": [[]]}, {"data": "x"}),
    ],
)
def test_values_that_are_no_names_are_told_as_such(data):
    with pytest.raises(UserError) as error:
        build(RunConfig, data)
    assert "unhashable" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff: 1", b"- 1"])
def test_a_file_that_is_no_mapping_in_utf_8_is_refused(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match="configuration file"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="configuration file"):
        read_yaml(tmp_path)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="abn:{}[]&*!?|>-#'\"\\, \n\t0129.~<=", max_size=40))
def test_any_text_is_a_value_or_a_users_error(text):
    try:
        value = parse_yaml(text, where="there")
        build(RunConfig, {"model": value, "optimizer": value, "train": value})
    except UserError:
        pass
