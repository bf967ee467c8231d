"""What a fine-tuned run adds to its report: every number as it was recorded."""

import html
import json
import re

import pytest

from jaxssl.report.labelled import sections
from jaxssl.report.record import read_run

SCORES = {
    "step": 40,
    "metric": "accuracy",
    "splits": {
        "validation": {
            "scores": {"accuracy": 0.875, "mcc": 0.5},
            "blind": {"accuracy": 0.25, "mcc": 0.0},
            "per_class": [
                {"label": "a<b", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 3},
                {"label": "c", "precision": 1.0, "recall": 0.25, "f1": 0.4, "support": 4},
            ],
            "confusion": {"labels": ["a<b", "c"], "counts": [[3, 0], [3, 1]]},
        },
        "test": {"scores": {"accuracy": 0.75}, "blind": {"accuracy": None}},
    },
}
COST = {"trained": 100, "optimizer_bytes": 800, "flops": 1e6, "memory_bytes": 4096}
RECEIPT = {
    "parameters": 1000,
    "rows": 8,
    "length": 24,
    "own": COST,
    "full": {"trained": 1000, "optimizer_bytes": 8000, "flops": 4e6, "memory_bytes": 8192},
}
ENTRY = {"source": "x/kernel", "shape": [2, 3], "detail": "", "is_cast": False}
LEDGER = {
    "from": {"run": "runs/base", "step": 7},
    "parameters": [
        {**ENTRY, "action": "restored", "target": "x/kernel"},
        {**ENTRY, "action": "fresh", "target": "head/bias", "source": None},
    ],
}


@pytest.fixture
def run(tmp_path):
    for name, content in (("scores", SCORES), ("receipt", RECEIPT), ("ledger", LEDGER)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "summary.json").write_text(json.dumps({"frozen_arrays": 12}))
    return read_run(tmp_path)


def cells(markup):
    return [
        html.unescape(re.sub("<[^>]*>", "", cell))
        for cell in re.findall("<t[hd].*?</t[hd]>", markup)
    ]


def test_scores_of_both_splits_stand_beside_the_majority_baseline(run):
    shown = sections(run)["Scores"]
    for value in ("0.8750", "0.7500", "0.2500"):
        assert value in cells(shown), value
    assert "step 40" in shown and "accuracy of the majority baseline" in shown


def test_the_confusion_matrix_has_every_count_and_shades_by_share_of_the_row(run):
    shown = sections(run)["Scores"]
    matrix = shown[shown.index('class="confusion"') :]
    assert [c for c in cells(matrix)[:9]] == ["", "a<b", "c", "a<b", "3", "", "c", "3", "1"]
    shares = re.findall(r'class="(right|wrong)" style="--share:([0-9.]+)"', matrix)
    assert shares == [
        ("right", "1.000"),
        ("wrong", "0.000"),
        ("wrong", "0.750"),
        ("right", "0.250"),
    ]


def test_the_receipt_tells_shares_and_what_kept_its_bits(run):
    shown = sections(run)["What was trained"]
    for text in ("100", "10.0%", "25.0%", "50.0%"):
        assert text in cells(shown), text
    assert "12 arrays were frozen" in shown


def test_a_receipt_of_the_run_alone_has_one_column(run, tmp_path):
    (tmp_path / "receipt.json").write_text(json.dumps({**RECEIPT, "full": None}))
    shown = sections(read_run(tmp_path))["What was trained"]
    assert cells(shown)[:2] == ["", "this run"] and "against full" not in shown
    assert not {"full", "share"} & {*cells(shown)}


def test_the_receipt_says_where_full_fine_tuning_does_not_fit(run, tmp_path):
    receipt = {**RECEIPT, "full": {**RECEIPT["full"], "memory_bytes": None}}
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    shown = sections(read_run(tmp_path))["What was trained"]
    assert cells(shown)[-3:] == ["4,096", "does not fit", ""]


def test_the_ledger_lists_every_array(run):
    shown = sections(run)["Where parameters come from"]
    assert "step 7 of runs/base" in shown and "1 arrays restored, 1 arrays fresh" in shown
    assert {"x/kernel", "head/bias", "2 x 3"} <= set(cells(shown))


def test_a_pretraining_run_has_none_of_them(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("out: x\n")
    assert sections(read_run(tmp_path)) == {}
