"""Files under a seal: what was altered is named, and an edit can be accepted."""

import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.seal import check_seal, seal


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    for name in ("config.yaml", "tokenizer/a.json", "metrics.jsonl"):
        (tmp_path / name).write_text(f"contents of {name}")
    seal(tmp_path, ["config.yaml", "tokenizer/a.json", "not_there.json"])
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
