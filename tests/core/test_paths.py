"""What is told of a path that is not there."""

import pytest

from jaxssl.core.paths import looked_up, suggestion


@pytest.fixture
def here(tmp_path, monkeypatch):
    """work/here, with runs/books above it and pieces/ in it."""
    place = tmp_path / "work" / "here"
    (place / "pieces").mkdir(parents=True)
    (tmp_path / "work" / "runs" / "books").mkdir(parents=True)
    monkeypatch.chdir(place)
    return place


def test_a_relative_path_is_told_with_where_it_was_looked_up(here):
    assert looked_up("runs/x") == f"runs/x, which does not exist in {here}"
    assert looked_up("/nowhere/x") == "/nowhere/x, which does not exist"


def test_a_path_that_a_directory_above_has_is_suggested(here):
    assert suggestion("runs/books") == f"did you mean '{here.parent}/runs/books'?"


def test_a_name_that_is_almost_there_is_suggested(here):
    assert suggestion("peices") == "did you mean 'pieces'?"
    assert suggestion(here / "peices") == f"did you mean '{here}/pieces'?"


def test_nothing_is_suggested_for_what_is_there_or_like_nothing(here):
    for path in ("pieces", "zebra", "no/such/thing", "/no/such/thing"):
        assert suggestion(path) is None
