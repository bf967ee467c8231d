"""Real processes over loopback train as one device does, and go on where others stopped.

A masked and a causal language model, and a classifier that starts from the masked one, on one
device and on eight: in one process, in two and in four. What each step reads, masks and all, is
compared exactly (plugins/order.py), losses within 1e-5.
"""

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
SAVED_WITHIN = 3e-5
"""The relative L2 of what is saved at the end: twenty steps of Adam make more of rounding."""
ONE, WHOLE, HALVES, QUARTERS = (1, 1), (1, 8), (2, 4), (4, 2)
LAYOUTS = {  # processes x devices, and what lies across processes
    ONE: {},
    QUARTERS: {"fsdp": 2, "tensor": 4},  # both
    HALVES: {"context": 4, "tensor": 2},  # context
    WHOLE: {"data": 2, "fsdp": 2, "tensor": 2},
}
TASKS = {"masked": "masked_lm", "gpt2": "causal_lm", "classify": "classify"}
MOVES = {  # a ring: what goes on there, and where it stopped
    QUARTERS: ("classify", ONE),
    HALVES: ("gpt2", QUARTERS),
    WHOLE: ("masked", HALVES),
    ONE: ("gpt2", WHOLE),
}
ORDER = plugged.named(plugged.PLUGINS / "order.py")


def shown(value):
    return value if isinstance(value, str) else "{} x {}".format(*value)


@pytest.fixture(scope="module")
def runs(words, table, tmp_path_factory):
    return Runs(words, table, tmp_path_factory.mktemp("layouts"))


class Runs:
    """Runs of each task by each layout, and what went on; made when they are first asked for."""

    def __init__(self, words, table, place):
        self.words, self.table, self.place, self.done = words, table, place, set()

    def whole(self, name, layout):
        """The directory of a run of `STEPS` steps."""
        out = self.path(name, layout)
        if layout not in self.done:
            commands = [self.command(each, layout, self.path(each, layout)) for each in TASKS]
            if layout != ONE:  # it is there already where the others are asked for
                commands.append(self.moving(layout))
            finish(several.start_in_turn(commands, *layout))
            self.done.add(layout)
        return out

    def moved(self, layout):
        """The directory of a run that went on there."""
        self.whole(MOVES[layout][0], layout)
        if layout == ONE:
            finish(several.start_in_turn([self.moving(ONE)], *ONE))
        return self.path("moved", layout)

    def path(self, name, layout):
        return self.place / "{}-{}-{}".format(name, *layout)

    def moving(self, layout):
        """The command that goes on with a copy of what another layout has saved half way."""
        name, before = MOVES[layout]
        out = shutil.copytree(self.whole(name, before), self.path("moved", layout))
        shutil.rmtree(out / "checkpoints" / str(STEPS))
        return self.command(name, layout, out)

    def command(self, name, layout, out, *overrides):
        """That of a run."""
        plain = self.classifier(out) if name == "classify" else self.pretrained(name, out)
        own = plain.pop("objective", None) or plain.pop("task")
        terms = [{"objective": own}, {"objective": {"name": "order"}}]
        plain["objective"] = {"name": "combine", "terms": terms}
        plain["train"], plain["evaluation"] = {"steps": STEPS}, {"every": 0}
        plain["checkpoint"] = {"every": SAVED, "keep_last": 9}
        plain["logging"]["every"] = 1
        plain["mesh"] = {"data": 1, **LAYOUTS[layout]}
        path = toy.write_recipe(out.with_suffix(".json"), plain)
        verb = "finetune" if name == "classify" else "pretrain"
        return [verb, path, *ORDER, *overrides]

    def pretrained(self, name, out):
        plain = toy.recipe(self.words, out, name)
        plain["model"]["num_heads"] = 8  # a share for each device of any axis
        return plain

    def classifier(self, out):
        plain = tuned.recipe(self.path("masked", ONE), self.table, out)
        plain["optimizer"]["learning_rate"] = 0.003
        return plain


def finish(started):
    for code, _, err in [toy.finish(process, 900) for process in started]:
        assert code == 0, err


READ = ("kind", "step", "tokens", "order")


def check(out, one, name, layout, record_property, sizes=None, keys=READ):
    """What was read is compared exactly, losses within their bound; the table gets a line."""
    got, want = toy.rows_of(out), toy.rows_of(one)
    for key in keys:
        assert [row.get(key) for row in got] == [row.get(key) for row in want], key
    read = [row["order"] for row in want if row["kind"] == "train"]
    assert len({*read}) == len(read) == STEPS, "each step reads something else"
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (got, want)]
    largest = equal.of_losses(*losses)
    sizes = sizes or LAYOUTS[layout]
    equal.note(record_property, TASKS[name], sizes, largest, processes=layout[0])
    assert largest <= equal.LOSSES, losses


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x != ONE], ids=shown)
@pytest.mark.parametrize("name", TASKS)
def test_processes_train_as_one_device_does(name, layout, runs, record_property):
    one, out = runs.whole(name, ONE), runs.whole(name, layout)
    check(out, one, name, layout, record_property)
    toy.assert_close_arrays(toy.restored(out, STEPS), toy.restored(one, STEPS), SAVED_WITHIN)


@pytest.mark.parametrize("layout", MOVES, ids=shown)
def test_a_run_goes_on_by_other_processes_on_another_mesh(layout, runs, record_property):
    name, _ = MOVES[layout]
    check(runs.moved(layout), runs.whole(name, ONE), name, layout, record_property)


def test_processes_may_gather_and_sum_once_a_step(runs, tmp_path, record_property):
    """The order of rows is that of each part, and not compared."""
    out, sizes = tmp_path / "run", {"fsdp": 4, "context": 2, "tensor": 1}
    given = ("train.accumulation=2", "mesh.gather_once=true")
    over = [f"mesh.{axis}={size}" for axis, size in sizes.items()]
    command = runs.command("gpt2", HALVES, out, *given, *over)
    finish(several.start_in_turn([command], *HALVES))
    one = runs.whole("gpt2", ONE)
    check(out, one, "gpt2", HALVES, record_property, sizes, READ[:-1])


def test_one_of_four_is_killed_and_two_go_on(runs, tmp_path, record_property):
    out, killed, saves = tmp_path / "run", 2, "checkpoint.every=2"
    command = runs.command("masked", QUARTERS, out, saves)
    started = several.start_in_turn([command], *QUARTERS)
    while newest(out) < 8:
        ended = [process for process in started if process.poll() is not None]
        assert not ended, [toy.finish(process) for process in ended]
        time.sleep(0.001)
    begin = time.monotonic()
    started[killed].kill()
    ends = [toy.finish(process) for process in started]
    assert time.monotonic() - begin < 30
    codes = [code for code, _, _ in ends]
    assert codes.pop(killed) == -signal.SIGKILL and {*codes} == {EXIT_MISSING}, ends
    for _, _, err in ends[:killed] + ends[killed + 1 :]:
        assert err.count("is missing") == 1 and f"error: process {killed} (" in err, err
        assert "Traceback" not in err
    assert 8 <= newest(out) < STEPS
    finish(several.start_in_turn([runs.command("masked", HALVES, out, saves)], *HALVES))
    check(out, runs.whole("masked", ONE), "masked", HALVES, record_property)


def newest(out):
    """The step of the newest checkpoint that was finished; 0 without any."""
    found = (out / "checkpoints").glob("[0-9]*/manifest.json")
    return max((int(path.parent.name) for path in found), default=0)
