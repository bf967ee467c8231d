"""Files that are gone on with after a kill: the same bytes, wherever it came."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.resumable import resumed_output

SIZES = (3, 1, 4, 2)
ROWS = [{"n": i, "text": f'caf\u00e9 \U0001f600, "{i}"\nnext', "more": i % 3} for i in range(10)]


class Killed(BaseException):
    """Comes instead of SIGKILL."""


def made(path, writes=9, how="so", expected=None):
    """Writes the batches that are not there yet, up to so many; returns how many rows were
    there."""
    with resumed_output(str(path), {"how": how, "sizes": SIZES}) as rows:
        there, start = rows.rows, 0
        assert expected in (None, there)
        assert [record["sum"] for record in rows.records] == [
            sum(SIZES[: i + 1]) for i in range(len(rows.records))
        ]
        for number, size in enumerate(SIZES):
            batch = ROWS[start : start + size]
            start += size
            if start <= there:
                continue
            if number >= writes:
                raise Killed
            rows.remember(sum=start)
            rows.write(["n", "text", "more"], batch, ["here"] * size)
    return there


def begun(path, writes):
    with pytest.raises(Killed):
        made(path, writes)
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.log")


@settings(max_examples=60, deadline=None)
@given(
    ending=st.sampled_from(["jsonl", "csv"]),
    writes=st.integers(0, len(SIZES) - 1),
    of_rows=st.floats(0, 1),
    of_log=st.floats(0, 1),
)
def test_wherever_both_files_are_cut_the_bytes_are_those_of_one_go(
    tmp_path_factory, ending, writes, of_rows, of_log
):
    place = tmp_path_factory.mktemp("cut")
    assert made(place / f"whole.{ending}") == 0
    out = place / f"out.{ending}"
    part, log = begun(out, writes)
    lines = log.read_bytes().splitlines(keepends=True)
    size = round(part.stat().st_size * of_rows)
    os.truncate(part, size)
    kept_log = len(lines[0]) + round((log.stat().st_size - len(lines[0])) * of_log)
    os.truncate(log, kept_log)
    fits = [0]
    for i in range(1, len(lines)):
        if len(b"".join(lines[: i + 1])) <= kept_log and json.loads(lines[i])["bytes"] <= size:
            fits.append(json.loads(lines[i])["rows"])
    then = min(writes + 1, len(SIZES) - 1)
    with pytest.raises(Killed):  # once more
        made(out, then, expected=fits[-1])
    assert made(out) == sum(SIZES[:then])  # no more is lost than must be
    assert out.read_bytes() == (place / f"whole.{ending}").read_bytes()
    assert {path.name for path in place.iterdir()} == {out.name, f"whole.{ending}"}


def test_rows_are_those_that_were_written(tmp_path):
    begun(tmp_path / "t.csv", 2)
    made(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in row.items()} for row in ROWS]


KILLED = """
import os, signal, sys
from jaxssl.data.tables.resumable import resumed_output
with resumed_output(sys.argv[1], {"how": "so"}) as rows:
    for i in range(rows.rows, 5):
        if i == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        rows.write(["n"], [{"n": i}], ["here"])
"""


def test_a_killed_process_is_gone_on_with_and_another_one_waits(tmp_path):
    path = tmp_path / "t.jsonl"
    program = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run([*program, "3"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists() and len(list(tmp_path.iterdir())) == 2
    with resumed_output(str(path), {"how": "so"}) as rows:
        assert rows.rows == 3
        second = subprocess.run([*program, "9"], capture_output=True, text=True)
        assert "another command writes this output" in second.stderr
        rows.write(["n"], [{"n": 3}, {"n": 4}], ["here"] * 2)
    assert path.read_text() == "".join(f'{{"n": {i}}}\n' for i in range(5))


def refused(path, how="so"):
    with pytest.raises(UserError) as error:
        made(path, how=how)
    return str(error.value)


def test_what_was_begun_otherwise_is_refused_and_left_as_it_is(tmp_path):
    part, log = begun(tmp_path / "t.jsonl", 2)
    before = part.read_bytes(), log.read_bytes()
    told = refused(tmp_path / "t.jsonl", how="otherwise")
    assert "a change of: how\n" in told and f"rm {part}" in told
    assert (part.read_bytes(), log.read_bytes()) == before
    log.unlink()
    assert "no such file" in refused(tmp_path / "t.jsonl")
    assert list(tmp_path.iterdir()) == [part]
    log.write_bytes(before[1][:5])
    assert "cannot be read" in refused(tmp_path / "t.jsonl")
    part.unlink()  # as told
    assert made(tmp_path / "t.jsonl") == 0


def test_a_mistake_deletes_what_it_cannot_go_on_with(tmp_path):
    begun(tmp_path / "t.jsonl", 2)
    with (
        pytest.raises(UserError),
        resumed_output(str(tmp_path / "t.jsonl"), {"how": "so", "sizes": SIZES}),
    ):
        raise UserError("a mistake in the input")
    assert not list(tmp_path.iterdir())
