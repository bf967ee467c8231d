"""Two processes train as one does, and their checkpoint is anyone's."""

import os
import socket

import numpy as np
import pytest
import toy

from jaxssl import trained

STEPS = 4


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def arguments(out, words, *overrides: str) -> list:
    recipe = toy.recipe(words, out, "bert")
    recipe |= {"train": {"steps": STEPS}, "evaluation": {"every": 2}, "checkpoint": {"every": 2}}
    recipe["logging"]["every"] = recipe["optimizer"]["schedule"]["warmup"] = 1
    return ["pretrain", toy.write_recipe(out.with_suffix(".json"), recipe), *overrides]


def train_in_two(out, words, *overrides: str):
    address = f"127.0.0.1:{free_port()}"
    os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    try:
        processes = [
            toy.start(
                arguments(
                    out,
                    words,
                    f"distributed.coordinator={address}",
                    "distributed.num_processes=2",
                    f"distributed.process_id={number}",
                    *overrides,
                )
            )
            for number in (0, 1)
        ]
    finally:
        del os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"]
    return [toy.finish(process) for process in processes]


@pytest.fixture(scope="module")
def both(words, tmp_path_factory):
    """(trained by two processes, trained by one, what the two said)."""
    two, one = (tmp_path_factory.mktemp("processes") / name for name in ("two", "one"))
    said = train_in_two(two, words)
    code, _, err = toy.finish(toy.start(arguments(one, words)))
    assert code == 0, err
    return two, one, said


def test_two_processes_end_where_one_does(both):
    two, one, said = both
    for code, _, err in said:
        assert code == 0, err
    got, want = toy.restored(two, STEPS), toy.restored(one, STEPS)
    assert got.keys() == want.keys()
    for name in want:
        if "['key']['bias']" in name:  # has no gradient but rounding: a softmax ignores it
            continue
        a, b = got[name].astype(np.float64), want[name].astype(np.float64)
        assert np.linalg.norm(a - b) <= 3e-6 * max(np.linalg.norm(b), 1e-2), name


def test_they_take_the_same_batches_and_write_every_row_once(both):
    two, one, _ = both
    rows, wanted = toy.rows_of(two), toy.rows_of(one)
    assert [(row["kind"], row["step"]) for row in rows] == [
        (row["kind"], row["step"]) for row in wanted
    ]
    for row, want in zip(rows, wanted, strict=True):
        for name in row.keys() - {"kind"}:
            assert row[name] == pytest.approx(want[name], rel=1e-5), name


def test_only_the_first_speaks(both):
    _, _, ((_, first, _), (_, second, _)) = both
    assert "parameters, objective combine, 2 cpu" in first and "report:" in first
    assert "report:" not in second and "parameters, objective" not in second


def test_one_process_goes_on_with_what_two_have_saved(both):
    two, _, _ = both
    assert trained.open_run(two, "last").step == STEPS
    assert trained.evaluate_run(two)["loss"] == pytest.approx(
        toy.rows_of(two, "validation")[-1]["loss"], rel=1e-5
    )


def test_a_mistake_found_by_the_first_process_ends_both(words, tmp_path):
    """The run directory holds something else: only the first looks, and neither waits for ever."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    (first, _, told), (second, _, other) = train_in_two(tmp_path / "run", words)
    assert first == 2 and "holds something else" in told
    assert second == 2 and "the first process failed" in other
