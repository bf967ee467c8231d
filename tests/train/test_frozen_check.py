"""What was frozen is noted at the start, and only of a run that saved something."""

import json

import pytest

from jaxssl.core.errors import UserError
from jaxssl.train.frozen_check import FrozenCheck


def test_a_run_that_saved_nothing_may_freeze_something_else(tmp_path):
    FrozenCheck(tmp_path, {"a": 1, "b": 2}, resumed=False)
    with pytest.raises(UserError, match=r"(?s)not those the run was started with.*b"):
        FrozenCheck(tmp_path, {"a": 1}, resumed=True)
    assert FrozenCheck(tmp_path, {"a": 1}, resumed=False).moved({"a": 3}) == ["a"]
    assert json.loads((tmp_path / "frozen.json").read_text()) == {"a": 1}
    FrozenCheck(tmp_path, {}, resumed=False)
    assert not (tmp_path / "frozen.json").exists()
