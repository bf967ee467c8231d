"""A command that runs a model on a CPU starts itself again with other settings of malloc."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxssl import cli
from jaxssl.core import allocator

pytestmark = pytest.mark.skipif(not allocator._has_glibc(), reason="not glibc 2.35 or later")

# A verb that tells of its process, and of the page faults when 48 MiB (more than malloc ever keeps
# of itself) are freed and taken again 20 times: at least 24 a time with huge pages, 12,288 without.
PROGRAM = """
import ctypes, json, os, resource, sys
from jaxssl import cli

def command(options):
    libc, size, rounds = ctypes.CDLL(None), 48 * 2**20, 20
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    counts = []
    for _ in range(1 + rounds):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    told = {"pid": os.getpid(), "faults": counts[-1] - counts[0]}
    print(json.dumps({**told, "tunables": os.environ.get("GLIBC_TUNABLES"), "words": sys.argv[1:]}))
    return 75

cli._evaluate = cli._inspect = command
sys.exit(cli.main())
"""
SEEN = "import os; print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), file=open({path!r}, 'a'))"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in (allocator.TUNABLES, allocator.TURN_OFF, allocator._AGAIN):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", **more}


def told(*words: str, **more: str) -> dict:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    found = json.loads(out)
    assert found["pid"] == process.pid  # who waits for it, or sends it a signal, still can
    assert found["words"] == list(words)
    return found


def test_a_verb_with_a_model_keeps_what_it_frees():
    found = told("evaluate", "a run", "--with", "a.b=['x', \"y\"]")
    assert found["tunables"] == allocator.SETTINGS
    assert found["faults"] < 24


def test_other_tunables_stay():
    found = told("evaluate", "run", GLIBC_TUNABLES="glibc.rtld.nns=5")
    assert found["tunables"] == f"glibc.rtld.nns=5:{allocator.SETTINGS}"


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("evaluate", {"JAXSSL_MALLOC": "default"}),
        ("evaluate", {"JAX_PLATFORMS": "cuda"}),
        ("evaluate", {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}),
        ("evaluate", {"MALLOC_TOP_PAD_": "0"}),
        ("inspect", {}),
    ],
)
def test_it_is_left_alone(verb, more):
    found = told(verb, "run", **more)
    assert found["tunables"] == more.get("GLIBC_TUNABLES")
    assert found["faults"] >= 20 * 24


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "jaxssl"], [str(Path(sys.executable).with_name("jaxssl"))]]
)
def test_each_way_of_starting_starts_once_more_and_ends_with_its_own_code(command, tmp_path):
    starts = tmp_path / "starts"
    (tmp_path / "sitecustomize.py").write_text(SEEN.format(path=str(starts)))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(
        [*command, "evaluate", str(tmp_path / "no run")],
        env=environment(PYTHONPATH=path),
        stderr=subprocess.PIPE,
    )
    assert b"no run" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    lines = starts.read_text().splitlines()
    assert lines == [f"{process.pid} None", f"{process.pid} {allocator.SETTINGS}"]


def test_a_process_that_calls_the_command_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *words: pytest.fail("it was replaced"))
    assert cli.main(["evaluate", str(tmp_path / "no run")]) == 2


def test_what_is_in_force_is_told(monkeypatch):
    monkeypatch.setenv(allocator.TUNABLES, allocator.SETTINGS)
    assert "JAXSSL_MALLOC=default" in (allocator.summary() or "")
    monkeypatch.delenv(allocator.TUNABLES)
    assert allocator.summary() is None
