"""Real processes over loopback train as one device does, and go on where others stopped.

A masked and a causal language model, and a classifier that starts from the masked one, on one
device and on eight: in one process, in two and in four. What each step reads, masks and all, is
compared exactly (plugins/order.py), and losses within 1e-5.
"""

import itertools
import shutil
import signal
import time

import equal
import plugged
import pytest
import several
import toy
import tuned

from jaxssl.parallel.partners import EXIT_MISSING

pytestmark = pytest.mark.slow
STEPS, SAVED = 20, 10
ONE = (1, 1)
LAYOUTS = {  # processes x devices, and what lies across processes
    ONE: {},
    (1, 8): {"data": 2, "fsdp": 2, "tensor": 2},
    (2, 4): {"context": 4, "tensor": 2},  # context
    (4, 2): {"fsdp": 2, "tensor": 4},  # both
}
NAMES = ("masked", "gpt2", "classify")
MOVES = [
    pytest.param(NAMES[(i + j) % 3], a, b, id=f"{NAMES[(i + j) % 3]}, {a} to {b}")
    for (i, a), (j, b) in itertools.permutations(enumerate(LAYOUTS), 2)
]
"""Each layout goes on where each other one stopped."""
ORDER = plugged.named(plugged.PLUGINS / "order.py")


@pytest.fixture(scope="module")
def runs(words, table, tmp_path_factory):
    """Makes runs, and keeps those that went through."""
    return Runs(words, table, tmp_path_factory.mktemp("layouts"))


class Runs:
    """Each is made when it is first asked for."""

    def __init__(self, words, table, place):
        self.words, self.table, self.place, self.made = words, table, place, {}

    def whole(self, name, layout):
        """The directory of a run of `STEPS` steps by these processes."""
        if (name, layout) not in self.made:
            out = self.place / f"{name}-{layout[0]}-{layout[1]}"
            finish(self.start(name, layout, out))
            self.made[name, layout] = out
        return self.made[name, layout]

    def start(self, name, layout, out, *overrides):
        """The processes of a run."""
        plain = self.classifier(out) if name == "classify" else self.pretrained(name, out)
        seen = {"objective": {"name": "order"}}
        terms = [{"objective": plain.pop("objective", None) or plain.pop("task")}, seen]
        plain["objective"] = {"name": "combine", "terms": terms}
        plain["train"] = {"steps": STEPS}
        plain["evaluation"] = {"every": SAVED}
        plain["checkpoint"] = {"every": SAVED, "keep_last": 9}
        plain["logging"]["every"] = 1
        verb = "finetune" if name == "classify" else "pretrain"
        mesh = [f"mesh.{axis}={size}" for axis, size in {"data": 1, **LAYOUTS[layout]}.items()]
        path = toy.write_recipe(out.with_suffix(".json"), plain)
        command = [verb, path, *ORDER, *mesh, *overrides]
        return several.start_all(command, *layout)

    def pretrained(self, name, out):
        plain = toy.recipe(self.words, out, name)
        plain["model"]["num_heads"] = 8  # a share for each device of any axis
        return plain

    def classifier(self, out):
        return tuned.recipe(self.whole("masked", ONE), self.table, out)


def finish(started):
    for code, _, err in [toy.finish(process) for process in started]:
        assert code == 0, err


def difference(out, wanted, name, layout, record_property):
    """Of all losses, the largest; what was read is compared exactly, and the table gets a line."""
    got, want = toy.rows_of(out), toy.rows_of(wanted)
    for key in ("kind", "step", "tokens", "order"):
        assert [row.get(key) for row in got] == [row.get(key) for row in want], key
    read = [row["order"] for row in want if row["kind"] == "train"]
    assert len({*read}) == len(read), "each step reads something else"
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (got, want)]
    largest = equal.of_losses(*losses)
    shown = {"gpt2": "causal_lm", "masked": "masked_lm"}.get(name, name)
    equal.note(record_property, shown, LAYOUTS[layout], largest, processes=layout[0])
    assert largest <= equal.LOSSES, losses


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x != ONE], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_processes_train_as_one_device_does(name, layout, runs, record_property):
    out, one = runs.whole(name, layout), runs.whole(name, ONE)
    difference(out, one, name, layout, record_property)
    toy.assert_close_arrays(toy.restored(out, STEPS), toy.restored(one, STEPS))


@pytest.mark.parametrize("name, before, after", MOVES)
def test_a_run_goes_on_by_other_processes(name, before, after, runs, tmp_path, record_property):
    out = shutil.copytree(runs.whole(name, before), tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / str(STEPS))
    started = runs.start(name, after, out)
    finish(started)
    difference(out, runs.whole(name, ONE), name, after, record_property)


def test_one_of_four_is_killed_and_two_go_on(runs, tmp_path, record_property):
    out, killed = tmp_path / "run", 2
    started = runs.start("masked", (4, 2), out)
    while not (has_saved(out) and toy.last_logged(out) > SAVED):
        assert all(process.poll() is None for process in started), "it ended by itself"
        time.sleep(0.001)
    begin = time.monotonic()
    started[killed].kill()
    ends = [toy.finish(process) for process in started]
    assert time.monotonic() - begin < 30
    assert [code for code, _, _ in ends] == [
        -signal.SIGKILL if number == killed else EXIT_MISSING for number in range(4)
    ]
    for _, _, err in (end for number, end in enumerate(ends) if number != killed):
        assert err.count("is missing") == 1 and f"error: process {killed} (" in err, err
        assert "Traceback" not in err
    assert not (out / "checkpoints" / str(STEPS)).exists()
    finish(runs.start("masked", (2, 4), out))
    difference(out, runs.whole("masked", ONE), "masked", (2, 4), record_property)


def has_saved(out):
    return (out / "checkpoints" / str(SAVED) / "manifest.json").exists()
