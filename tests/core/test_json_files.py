"""Whatever a JSON file holds, reading it gives a value of the type that was asked for, or says why
not."""

import dataclasses
import json
import os
import time
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import MOST_DEPTH, STRICT, parse_json, read_json, read_json_lines


@dataclasses.dataclass(frozen=True)
class Record:
    __pydantic_config__: ClassVar = STRICT
    name: str
    sizes: tuple[int, ...]
    more: dict[str, float | None] = dataclasses.field(default_factory=dict)


GOOD = b'{"name": "a", "sizes": [1, 2], "more": {"x": 1.5, "y": null}}'


def parse(data, kind=dict):
    return parse_json(data, kind, where="there", what="it is damaged", fix="mend it")


def read(path, kind=Record):
    return read_json(path, kind, what="it is damaged", fix="mend it")


def test_a_record_is_read_as_its_type(tmp_path):
    (tmp_path / "a.json").write_bytes(GOOD)
    assert read(tmp_path / "a.json") == Record("a", (1, 2), {"x": 1.5, "y": None})


def deep(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[1]", "it is written"),
        (GOOD.replace(b'"sizes"', b'"sizds"'), "it is written"),
        (GOOD.replace(b"}}", b'}, "other": 1}'), "it is written"),
        (GOOD.replace(b"[1, 2]", b'[1, "2"]'), "sizes.1"),
        (GOOD.replace(b"[1, 2]", b"[1.5]"), "sizes.0"),
        (GOOD.replace(b"[1, 2]", b"[true]"), "sizes.0"),
        (GOOD.replace(b"[1, 2]", b"[" + b"9" * 5000 + b"]"), "JSON"),
        (GOOD.replace(b"a", b"\xe4", 1), "UTF-8"),
        (GOOD.replace(b'"a"', b'"\\ud800"'), "Unicode"),
        (GOOD.replace(b"[1, 2]", deep(100_000)), "deep"),
        (GOOD.replace(b"[1, 2]", deep(MOST_DEPTH)), "deep"),
    ],
)
def test_what_is_no_such_record_is_refused_with_its_place(data, expected):
    with pytest.raises(UserError, match="it is damaged") as error:
        parse(data, Record)
    assert expected in str(error.value.expected) and error.value.where == "there"


def test_a_byte_order_mark_and_pairs_of_surrogates_are_read():
    assert parse(b"\xef\xbb\xbf" + json.dumps({"a": "\U0001f600"}).encode()) == {"a": "\U0001f600"}


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name, got in (("pipe", "pipe"), ("folder", "a directory"), ("link", "none")):
        with pytest.raises(UserError, match="it is damaged") as error:
            read(tmp_path / name)
        assert got in str(error.value.got)
    with pytest.raises(UserError, match="it is damaged"):
        read("a\0b")
    monkeypatch.setattr("jaxssl.core.json_files.read_regular.__kwdefaults__", {"most_bytes": 10})
    (tmp_path / "large").write_bytes(GOOD)
    with pytest.raises(UserError, match="it is damaged") as error:
        read(tmp_path / "large")
    assert "at most 10 bytes" in str(error.value)


def test_the_line_of_a_fault_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n\n" + GOOD + b"\n{}\n")
    with pytest.raises(UserError) as error:
        read_json_lines(tmp_path / "a.jsonl", Record, what="it is damaged", fix="mend it")
    assert error.value.where == f"{tmp_path}/a.jsonl:4"


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    st.binary(max_size=60)
    | ANY.map(lambda x: json.dumps(x).encode())
    | st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=3)).map(
        lambda x: GOOD[: x[0]] + x[1] + GOOD[x[0] + 1 :]
    )
)
def test_any_bytes_are_a_record_or_a_users_error(data):
    for kind in (Record, dict[str, object]):
        try:
            value = parse(data, kind)
        except UserError:
            continue
        assert isinstance(value, Record if kind is Record else dict)


@pytest.mark.parametrize("kind", [dict, Record])
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "name": "b", "sizes": []}',
        '{"name": "a", "sizes": [], "more": {"x": 1, "y": 2, "x": 1}}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(kind, text):
    with pytest.raises(UserError, match=r"key '(name|x)' twice"):
        parse(text, kind)


def test_a_repeated_key_among_many_is_found_at_once():
    keys = ", ".join(f'"{i}": 0' for i in range(30_000))
    started = time.process_time()
    with pytest.raises(UserError, match="key '29999' twice"):
        parse(f'{{{keys}, "29999": 0}}')
    assert time.process_time() - started < 3
