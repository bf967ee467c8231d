"""What processes compare of the bases that a run starts from, which each may have at a place of its
own."""

import json
import shutil

import pytest
import tuned

from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.checkpoint.origin import open_origin
from jaxssl.checkpoint.parameter_index import base_record
from jaxssl.parallel.partners import differences
from jaxssl.run import train
from jaxssl.run.alike import BASE, data_facts_of


def record(run_dir):
    """What a run notes that starts from another."""
    init = InitConfig(from_=str(run_dir))
    source, _ = open_origin(init.run_dir).open(init, CheckpointConfig(), None)
    return base_record(source, [])


@pytest.fixture
def moved(base, tmp_path):
    return shutil.copytree(base, tmp_path / "moved")


def compared(*bases):
    """The keys that differ between processes that start from these."""
    facts = [data_facts_of("data", "tokenizer", base) for base in bases]
    return [line.partition(":")[0] for line in differences(dict(enumerate(facts)))]


def test_a_base_may_lie_elsewhere_for_each_process(base, moved):
    one, other = record(base), record(moved)
    assert one["run"] != other["run"]
    assert compared(one, other) == []
    assert compared({"networks": {"teacher": one}}, {"networks": {"teacher": other}}) == []


def test_a_run_compares_the_base_that_it_starts_from(base, table, tmp_path, monkeypatch):
    facts = {}

    def compare(*given):
        facts.update(data_facts_of(*given))
        raise InterruptedError  # before anything is trained

    monkeypatch.setattr(train, "check_data_alike", compare)
    with pytest.raises(InterruptedError):
        train.train_run(tuned.configured(base, table, tmp_path / "run"), lambda text: None)
    noted = record(base)
    assert {key: facts[f"init.from, {key}"] for key in BASE} == {key: noted[key] for key in BASE}
    assert facts["data"] and facts["tokenizer"]


def test_another_base_differs(base, moved):
    (manifest,) = moved.glob("checkpoints/*/manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=3))
    one, other = record(base), record(moved)
    assert compared(one, other) == ["init.from, manifest"]
    networks = [{**one, "networks": {"teacher": base}} for base in (one, other)]
    assert compared(*networks) == ["networks.teacher.init.from, manifest"]


@pytest.mark.parametrize(
    ("key", "value"), [("step", 8), ("tokenizer", "9f"), ("manifest", "9f"), ("run", "elsewhere")]
)
def test_all_but_the_place_says_which_base_it_is(key, value):
    one = {"run": "here", "step": 4, "manifest": "0a", "tokenizer": None, "names": {}}
    expected = [f"init.from, {key}"] if key != "run" else []
    assert compared(one, {**one, key: value}) == expected


def test_a_process_that_starts_afresh_differs_from_one_with_a_base():
    one = {"run": "here", "step": 4, "manifest": "0a", "tokenizer": None, "names": {}}
    assert compared(one, {}) == ["init.from, manifest", "init.from, step"]
