"""A run's data from another directory than the one that it was started in."""

import json
import os
import shutil
from pathlib import Path

import pytest

from jaxssl import cli
from jaxssl.core.config import build, to_dict
from jaxssl.core.errors import UserError
from jaxssl.data.config import ImportedData, StoreConfig, TablesConfig
from jaxssl.run.places import absolute_places, data_from_here
from jaxssl.run.sealing import seal_run

HUB = {"name": "hub", "dataset": "owner/name"}
TABLES = {"train": {"name": "file", "path": "tables/*.csv"}, "test": HUB}


@pytest.fixture
def started(tmp_path):
    """Where the run was started: it has the store and tables that its paths name."""
    place = tmp_path / "started"
    for name in ("stores/books", "tables"):
        (place / name).mkdir(parents=True)
    (place / "tables" / "a.csv").write_text("text,label\n")
    return place


@pytest.fixture
def here(tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def seen(started, data, given=None):
    """The data as they are read here of a run that was started there, and what is said of them."""
    run_dir, said, here = started / "run", [], Path.cwd()
    run_dir.mkdir(exist_ok=True)
    os.chdir(started)
    try:
        places = absolute_places({"data": to_dict(data), "streams": {}})
    finally:
        os.chdir(here)
    (run_dir / "run.json").write_text(json.dumps({"places": places}))
    return data_from_here(run_dir, data if given is None else given, said.append), said


def tables(**changes):
    return build(TablesConfig, {"tables": {**TABLES, **changes}})


def test_what_is_not_here_is_read_where_the_run_was_started_and_said(started, here):
    data, said = seen(started, StoreConfig(store="stores/books"))
    assert data.store == f"{started}/stores/books"
    assert said == [
        f"data.store: stores/books is not here: {started}/stores/books is read, as when the run "
        "was trained"
    ]
    data, said = seen(started, tables())
    assert data.tables.train.path == f"{started}/tables/*.csv"
    assert data.tables.test.dataset == "owner/name"  # a name on the hub
    assert len(said) == 1 and said[0].startswith("data.tables.train.path: tables/*.csv is not here")


def test_what_is_here_is_read_here_and_said(started, here):
    (here / "tables").mkdir()
    (here / "tables" / "b.csv").write_text("text,label\n")
    data, said = seen(started, tables())
    assert data.tables.train.path == "tables/*.csv"
    assert said == [
        f"data.tables.train.path: {here}/tables/*.csv is read; the run was trained on "
        f"{started}/tables/*.csv"
    ]


def test_nothing_is_said_where_both_are_the_same(started, here, monkeypatch):
    (here / "stores").symlink_to(started / "stores")
    config = StoreConfig(store="stores/books")
    assert seen(started, config) == (config, [])
    monkeypatch.chdir(started)
    assert seen(started, tables()) == (tables(), [])
    absolute = StoreConfig(store=f"{started}/stores/none")  # a mistake of its own, told later
    assert seen(started, absolute) == (absolute, [])


def test_a_path_that_is_given_anew_stays(started, here):
    (started / "other.csv").write_text("text,label\n")
    given = tables(train={"name": "file", "path": "other.csv"})
    assert seen(started, tables(), given) == (given, [])
    table = ImportedData(table=given.tables.train)
    assert seen(started, ImportedData(), table) == (table, [])


def test_data_that_are_at_neither_place_are_refused_with_both(started, here):
    (started / "run").mkdir()
    places = {"stores/gone": f"{started}/stores/gone"}
    (started / "run" / "run.json").write_text(json.dumps({"places": places}))
    with pytest.raises(UserError, match="not there any more") as raised:
        data_from_here(started / "run", StoreConfig(store="stores/gone"), print, "streams.a.data")
    assert f"{here}/stores/gone, or {started}/stores/gone" in str(raised.value.expected)
    assert raised.value.fix == "say where they are now: --with streams.a.data.store=PATH"


def test_only_relative_paths_to_something_are_kept_beside(started, monkeypatch):
    monkeypatch.chdir(started)
    streams = {
        "a": {"data": to_dict(tables())},
        "b": {"data": {"store": "stores/books"}},
        "c": {"data": {"store": f"{started}/stores/books"}},
    }
    assert absolute_places({"data": None, "streams": streams}) == {
        "tables/*.csv": f"{started}/tables/*.csv",
        "stores/books": f"{started}/stores/books",
    }


def test_a_run_that_does_not_say_where_it_was_started_is_read_as_it_stands(started, here):
    run_dir = started / "run"
    run_dir.mkdir()
    config = StoreConfig(store="stores/books")
    assert data_from_here(run_dir, config, print) == config
    (run_dir / "run.json").write_text('{"config": {}}')
    assert data_from_here(run_dir, config, print) == config


def test_a_fine_tuned_run_is_evaluated_from_another_directory(
    classifier, table, tmp_path, here, capsys
):
    """Its table was given by a relative path."""
    run_dir = tmp_path / "run"
    shutil.copytree(classifier, run_dir)
    text = (run_dir / "config.yaml").read_text()
    assert str(table) in text
    (run_dir / "config.yaml").write_text(text.replace(str(table), table.name))
    identity = json.loads((run_dir / "run.json").read_text())
    assert identity["places"] == {}  # it was given by an absolute path
    identity["places"] = {table.name: str(table)}
    (run_dir / "run.json").write_text(json.dumps(identity))
    seal_run(run_dir)

    assert cli.main(["evaluate", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert f"{table.name} is not here: {table} is read" in err
    assert cli.main(["evaluate", str(classifier)]) == 0
    assert out.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]
