"""Files under a seal: what was altered is named, and an edit can be accepted."""

import json

import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.seal import NewerVersion, check_seal, seal, write_sealed
from jaxssl.data.store.manifest import seal_store
from jaxssl.run.sealing import FILES, accept, seal_run


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    for name in ("config.yaml", "tokenizer/a.json", "metrics.jsonl"):
        (tmp_path / name).write_text(f"contents of {name}")
    seal(tmp_path, ["config.yaml", "not_there.json"], folders=["tokenizer"])
    return tmp_path


def test_files_as_they_were_pass_and_a_directory_without_a_seal_is_told_apart(sealed, tmp_path):
    assert check_seal(sealed)
    (sealed / "metrics.jsonl").write_text("more")
    assert check_seal(sealed)
    (sealed / "seal.json").unlink()
    assert not check_seal(sealed)


def test_each_altered_or_missing_file_is_named_with_the_way_to_accept_it(sealed):
    (sealed / "config.yaml").write_text("Contents of config.yaml")
    (sealed / "tokenizer/a.json").unlink()
    with pytest.raises(UserError, match="not what was written") as error:
        check_seal(sealed)
    assert error.value.where == f"{sealed}/config.yaml, {sealed}/tokenizer/a.json"
    assert f"jaxssl seal {sealed}" in str(error.value.fix)
    seal(sealed, ["config.yaml"])
    assert check_seal(sealed)


@pytest.mark.parametrize("name", ["not_there.json", "tokenizer/b.json", "tokenizer/more/c.txt"])
def test_a_file_that_was_not_there_is_named(name, sealed):
    (sealed / name).parent.mkdir(exist_ok=True)
    (sealed / name).write_text("{}")
    with pytest.raises(UserError, match="not what was written") as error:
        check_seal(sealed)
    assert error.value.where == str(sealed / name)
    assert error.value.got == "a file that was not there"
    assert str(error.value.fix).startswith("delete what was added; ")
    (sealed / "config.yaml").write_text("Contents of config.yaml")
    with pytest.raises(UserError) as error:
        check_seal(sealed)
    assert error.value.got == "other contents, a file that was not there"
    assert "restore it" in str(error.value.fix)


def test_hidden_files_are_nothing_to_a_seal(sealed):
    (sealed / "tokenizer" / ".a.json.0123456789abcdef.tmp").write_text("half")
    (sealed / "tokenizer" / ".checkpoints").mkdir()
    (sealed / "tokenizer" / ".checkpoints" / "a.json").write_text("{}")
    assert check_seal(sealed)


def test_a_seal_that_notes_no_absence_stays_valid(sealed):
    write_sealed(sealed / "seal.json", ["config.yaml"])
    assert {*json.loads((sealed / "seal.json").read_text())} == {"format", "files", "sha256"}
    (sealed / "not_there.json").touch()
    (sealed / "tokenizer" / "b.json").touch()
    assert check_seal(sealed)


@pytest.mark.parametrize("name", [*FILES[1:], "tokenizer/added_tokens.json"])
def test_a_note_or_a_tokenizers_file_that_is_added_to_a_run_is_found_and_accepted(name, sealed):
    seal_run(sealed)
    assert check_seal(sealed)
    (sealed / name).write_text("{}")
    with pytest.raises(UserError, match="a file that was not there"):
        check_seal(sealed)
    assert accept(sealed)[0] == f"accepted as it is now: {sealed / name}"
    assert check_seal(sealed)


def test_a_file_that_is_added_to_a_stores_tokenizer_is_found(sealed):
    (sealed / "manifest.json").write_text("{}")
    seal_store(sealed)
    (sealed / "train").mkdir()
    (sealed / "train" / "plan").touch()
    assert check_seal(sealed)
    (sealed / "tokenizer" / "added_tokens.json").write_text("{}")
    with pytest.raises(UserError, match="a file that was not there"):
        check_seal(sealed)


def test_a_seal_of_a_newer_version_is_not_made_an_older_one(sealed, monkeypatch):
    monkeypatch.setattr("jaxssl.core.seal.FORMAT", 2)
    seal_run(sealed)
    monkeypatch.undo()
    before = (sealed / "seal.json").read_bytes()
    with pytest.raises(NewerVersion, match="newer version of jaxssl"):
        accept(sealed)
    assert (sealed / "seal.json").read_bytes() == before


def test_every_flipped_byte_is_found_or_changes_nothing(sealed):
    for name in ("config.yaml", "tokenizer/a.json", "seal.json"):
        content = (sealed / name).read_bytes()
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            (sealed / name).write_bytes(flipped)
            try:
                check_seal(sealed)
                assert name == "seal.json" and content[place : place + 1].isspace()
            except UserError:
                continue
        (sealed / name).write_bytes(content)
    assert check_seal(sealed)
