"""The seal of a checkpoint."""

import hashlib
import json
import os

import pytest

from jaxssl.checkpoint import manifest
from jaxssl.core.errors import UserError
from jaxssl.core.seal import NewerVersion


@pytest.fixture
def step(tmp_path):
    (tmp_path / "state" / "d").mkdir(parents=True)
    (tmp_path / "state" / "d" / "array").write_bytes(bytes(range(256)))
    (tmp_path / "state" / "empty").write_bytes(b"")
    manifest.seal(tmp_path, {"step": 7, "selection": None})
    return tmp_path


def test_the_seal_names_every_file_with_size_and_checksum(step):
    manifest.verify(step)
    files = json.loads((step / "manifest.json").read_text())["files"]
    assert set(files) == {"meta.json", "state/d/array", "state/empty"}
    array = files["state/d/array"]
    assert array == {"bytes": 256, "sha256": hashlib.sha256(bytes(range(256))).hexdigest()}
    assert manifest.read_meta(step) == {"format": 1, "step": 7, "selection": None}


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxssl.core.seal.sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        manifest.seal(tmp_path, {})
    assert not manifest.is_sealed(tmp_path)


@pytest.mark.parametrize("name", ["state/d/array", "meta.json"])
def test_the_error_names_the_file(step, name):
    content = (step / name).read_bytes()
    (step / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(UserError, match="damaged") as raised:
        manifest.verify(step)
    assert raised.value.where == step / name


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "new"}', '{"format": null}'])
def test_an_unreadable_meta_is_damage(step, text):
    (step / "meta.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        manifest.read_meta(step)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_an_unreadable_manifest_is_damage(step, text):
    (step / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        manifest.verify(step)


def test_every_flipped_byte_of_meta_and_manifest_is_damage_or_changes_nothing(step):
    """`"bytds"` for `"bytes"` and `"format": 3` too: checksums come before content."""
    meta, refused = manifest.read_meta(step), 0
    for name in ("meta.json", "manifest.json"):
        content = (step / name).read_bytes()
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            (step / name).write_bytes(flipped)
            try:
                manifest.verify(step)
                assert manifest.read_meta(step) == meta
                assert content[place : place + 1].isspace()  # between values of the manifest
            except NewerVersion:
                pytest.fail(f"byte {place} of {name}: taken for a newer version")
            except UserError:
                refused += 1
        (step / name).write_bytes(content)
    assert refused > 500


@pytest.mark.parametrize("name", ["meta.json", "manifest.json", "state/d/array"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "broken link"])
def test_what_is_no_file_is_damage(step, name, kind):
    (step / name).unlink()
    if kind == "directory":
        (step / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(step / name)
    else:
        (step / name).symlink_to("nowhere")
    assert manifest.is_sealed(step)
    with pytest.raises(UserError, match="damaged"):
        manifest.read_meta(step)
        manifest.verify(step)


def test_a_newer_version_is_told_only_if_its_checksum_is_right(step, monkeypatch):
    monkeypatch.setattr("jaxssl.checkpoint.manifest.FORMAT", 2)
    monkeypatch.setattr("jaxssl.core.seal.FORMAT", 2)
    manifest.seal(step, {"step": 7})
    monkeypatch.undo()
    for read in (manifest.read_meta, manifest.verify):
        with pytest.raises(NewerVersion, match="newer version"):
            read(step)
    text = (step / "manifest.json").read_text()
    (step / "manifest.json").write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError, match="damaged"):
        manifest.verify(step)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "state/../../outside", ""])
def test_a_manifest_that_names_files_outside_is_refused(step, name):
    (step.parent / "outside").write_text("x")
    record = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    old = {"format": 1, "files": {name: record}}
    (step / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="damaged") as error:
        manifest.verify(step)
    assert "inside this directory" in str(error.value)


def test_a_manifest_of_version_0_1_is_read(step):
    content = json.loads((step / "manifest.json").read_text())
    del content["sha256"]
    (step / "manifest.json").write_text(json.dumps(content, indent=2))
    manifest.verify(step)
    assert manifest.read_meta(step)["step"] == 7
