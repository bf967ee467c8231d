"""Files of texts and predictions whose processes are killed: as many go on, or another number, and
what is written is not written again."""

import json
import shutil
import signal
import time

import pytest
import several
import talks
import toy

from jaxssl.parallel.partners import EXIT_MISSING

pytestmark = pytest.mark.slow
ROWS, BATCH = 600, 2
NEWLINE = b"\n"
OPTIONS = {
    "generate": ("--tokens", "8", "--samples", "2", "--batch-size", BATCH, "--seed", "3"),
    "predict": (),
}
"""Of each verb."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that answers, and a table of prompts that are conversations, too."""
    folder = talks.shared_run(tmp_path_factory)
    table = tmp_path_factory.mktemp("killed") / "rows.jsonl"
    rows = [[{"role": "user", "content": f"{i} sees a dog"}] for i in range(ROWS)]
    talks.write(table, rows)
    table.write_text(table.read_text().replace('{"messages"', '{"prompt": "a dog", "messages"'))
    return folder / "run", table


def command(verb, place, out):
    run, table = place
    return [verb, run, "--input", table, "--output", out, *OPTIONS[verb]]


def writes(part):
    """How many writes came to their end: a line each behind the first, which says how."""
    log = part.with_name(f"{part.name}.log")
    return max(0, len(log.read_bytes().splitlines()) - 1) if log.exists() else 0


def killed(given, count, who, part):
    """Starts a command and kills one of its processes as soon as some more rows are written; the
    others end with it."""
    before, until = writes(part), time.monotonic() + 600
    started = several.start_verb(given, count)
    while writes(part) <= before:
        assert all(process.poll() is None for process in started), [p.poll() for p in started]
        assert time.monotonic() < until
        time.sleep(0.005)
    started[who].kill()
    for process in started:
        code, _, err = toy.finish(process)
        wanted = -signal.SIGKILL if process is started[who] else EXIT_MISSING
        assert code == wanted and "Traceback" not in err, err


def finished(started):
    """What the first says of processes that come to their end."""
    ends = [toy.finish(process, 600) for process in started]
    assert all(code == 0 for code, _, _ in ends), ends
    return ends[0][2]


def test_texts_are_to_the_byte_those_of_one_go_however_many_processes_go_on(place, tmp_path):
    """The first of two is killed, then the last of three; one goes on. What is written stays as it
    is."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    finished(several.start_verb(command("generate", place, whole), 1))
    killed(command("generate", place, out), 2, 0, part)
    first, file = part.read_bytes(), part.stat().st_ino
    assert whole.read_bytes().startswith(first) and 0 < len(first) < whole.stat().st_size
    killed(command("generate", place, out), 3, 2, part)
    second = part.read_bytes()
    assert second.startswith(first) and len(second) > len(first)
    said = finished(several.start_verb(command("generate", place, out), 1))
    assert f"{second.count(NEWLINE):,} rows are there already" in said
    assert out.stat().st_ino == file and out.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [out, whole]


def test_predictions_are_those_of_one_go_on_as_many_devices_to_the_byte(place, tmp_path):
    """The last of two is killed, and two go on; three do, too, whose sums are rounded otherwise."""
    whole, out, other = (tmp_path / f"{name}.jsonl" for name in ("whole", "out", "other"))
    finished(several.start_verb(command("predict", place, whole), 2))
    killed(command("predict", place, out), 2, 1, tmp_path / "out.jsonl.part")
    for ending in (".part", ".part.log"):
        shutil.copy(f"{out}{ending}", f"{other}{ending}")
    first = (tmp_path / "other.jsonl.part").read_bytes()
    there = f"{first.count(NEWLINE):,} rows are there already"
    assert there in finished(several.start_verb(command("predict", place, out), 2))
    assert out.read_bytes() == whole.read_bytes() != first
    assert there in finished(several.start_verb(command("predict", place, other), 3))
    assert other.read_bytes().startswith(first)
    rows, wanted = (map(json.loads, path.read_text().splitlines()) for path in (other, whole))
    for row, want in zip(rows, wanted, strict=True):
        near = pytest.approx(want.pop("log_probability"), abs=1e-3)
        assert row.pop("log_probability") == near and row == want
    assert sorted(tmp_path.iterdir()) == [other, out, whole]
