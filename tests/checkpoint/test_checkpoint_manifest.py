"""The seal of a checkpoint."""

import hashlib
import json

import pytest

from jaxssl.checkpoint import manifest
from jaxssl.core.errors import UserError


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
    monkeypatch.setattr(manifest, "sha256", lambda path: 1 / 0)
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
