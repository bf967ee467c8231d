"""Files are whole or absent."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, new_directory, sha256
from jaxssl.core.paths import suggestion


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_after_an_error_the_old_file_is_untouched_and_nothing_is_left(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_bytes_are_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    with atomic_write(tmp_path / "file.bin", "wb") as file:
        file.write(b"\x00\xff")
    assert calls == ["fsync", "rename", "fsync"], "file, name, directory"
    assert (tmp_path / "file.bin").read_bytes() == b"\x00\xff"


def test_text_is_utf8(tmp_path):
    with atomic_write(tmp_path / "file.txt") as file:
        file.write("é")
    assert (tmp_path / "file.txt").read_bytes() == b"\xc3\xa9"


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_directory_gets_its_name_when_all_of_it_is_there(tmp_path):
    out = tmp_path / "new" / "out"
    with new_directory(out) as directory:
        (directory / "a").write_text("x")
        assert not out.exists()
    assert (out / "a").read_text() == "x" and os.listdir(out.parent) == ["out"]
    with pytest.raises(UserError, match="already"), new_directory(out):
        raise AssertionError("it is refused before anything is done")


def test_a_name_that_another_has_taken_in_the_meantime_stays_the_others(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="already"), new_directory(out):
        out.mkdir()
        (out / "theirs").touch()
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["theirs"]


def test_what_a_killed_maker_left_is_deleted_and_what_another_makes_is_not(tmp_path, capsys):
    out = tmp_path / "out"
    script = """if 1:
        import os, signal, sys
        from jaxssl.core.files import new_directory
        with new_directory(sys.argv[1]) as directory:
            (directory / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", script, str(out)], timeout=60)
    (left,) = os.listdir(tmp_path)
    other = tmp_path / ".out.mine.tmp"
    other.mkdir()
    with new_directory(out) as directory:
        assert not (tmp_path / left).exists() and left in capsys.readouterr().err
        with pytest.raises(UserError, match="already"), new_directory(out):
            assert directory.is_dir()
            out.mkdir()
            (out / "first").touch()
        shutil.rmtree(out)
    assert sorted(os.listdir(tmp_path)) == [other.name, "out"]


def test_an_empty_directory_may_have_the_name(tmp_path):
    with new_directory(tmp_path) as directory:
        (directory / "a").touch()
    assert os.listdir(tmp_path) == ["a"]


def test_the_current_directory_may_be_made_anew(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    with new_directory(".") as directory:
        (directory / "a").touch()
    assert os.listdir(".") == os.listdir(out) == ["a"] and os.listdir(tmp_path) == ["out"]
    assert "cd ." in capsys.readouterr().err
    with pytest.raises(UserError, match="already"), new_directory("."):
        raise AssertionError("it is refused before anything is done")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_the_directory_that_it_names_is_made(is_there, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    if is_there:
        (other / "out").mkdir()
    (tmp_path / "link").symlink_to(other / "out")
    with new_directory(tmp_path / "link") as directory:
        (directory / "a").touch()
    assert (tmp_path / "link").readlink() == other / "out"
    assert os.listdir(other / "out") == ["a"]
    assert sorted(os.listdir(tmp_path)) == ["link", "other"] and os.listdir(other) == ["out"]


def test_a_place_where_a_file_system_is_mounted_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(UserError, match="mounted") as error, new_directory(tmp_path):
        raise AssertionError("it is refused before anything is done")
    assert f"{tmp_path}/new" in str(error.value.fix)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("runs/bsae", "runs/base"),
        ("rnus/base", "runs/base"),
        ("runs/base", None),  # it is there
        ("runs/other", None),
        ("rnus/other", None),
        ("nowhere/at/all", None),
    ],
)
def test_a_mistyped_path_is_answered_with_the_near_one(given, meant, tmp_path):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    wanted = None if meant is None else f"did you mean '{tmp_path / meant}'?"
    assert suggestion(tmp_path / given) == wanted
