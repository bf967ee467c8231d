"""Closed streams, small encodings, few open files, bytes that are no text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxssl

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(jaxssl.__file__).parent.parent)}


def shell(command: str, *arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess:
    """Runs `command`, in which $J is jaxssl and $1, $2, ... are the arguments."""
    environment = {**ENVIRONMENT, "J": f"{sys.executable} -m jaxssl", **variables}
    given = ["bash", "-c", command, "bash", *arguments]
    return subprocess.run(given, env=environment, capture_output=True, timeout=60)


def test_an_error_is_told_in_a_terminal_that_lacks_the_characters(tmp_path):
    path = str(tmp_path / "nowhere-äö中")
    for variables in (
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
    ):
        done = shell('$J inspect "$1"', path, **variables)
        assert done.returncode == 2, done.stderr
        assert b"nothing to inspect" in done.stderr and b"Traceback" not in done.stderr


def test_closed_streams_change_nothing_but_what_is_seen(tmp_path):
    for closed in ("2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        assert shell(f'$J inspect "$1" {closed}', str(tmp_path)).returncode == 2
        assert shell(f"$J --version {closed}").returncode == 0


def test_a_closed_descriptor_is_not_given_to_a_file():
    code = (
        "from jaxssl.core import terminal; terminal.make_safe(); "
        "import os; print(open(os.devnull).fileno(), file=open('/dev/stdout', 'w'))"
    )
    done = shell(f'{sys.executable} -c "{code}" 2>&-')
    assert int(done.stdout) > 2


def test_an_argument_that_is_no_text_is_refused(tmp_path):
    done = shell('$J inspect "$1"', os.fsencode(tmp_path) + b"/\xff\xfe")
    assert done.returncode == 2 and b"not text in UTF-8" in done.stderr
    assert b"\\xff\\xfe" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("limit", [16, 40])
def test_too_few_open_files_are_refused_at_once(limit, tmp_path):
    done = shell(f'ulimit -n {limit}; $J pretrain demo/bert out="$1"', str(tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert b"too few open files" in done.stderr and b"ulimit -n 4096" in done.stderr


def test_a_low_limit_of_open_files_is_raised():
    code = (
        "from jaxssl.core import terminal; terminal.allow_open_files(); "
        "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = shell(f'ulimit -S -n 32; {sys.executable} -c "{code}"')
    assert int(done.stdout) >= 64, done.stderr
