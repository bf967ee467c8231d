"""The training loop: one straight function from a configured run to a trained one.

The order of things in a step matters and is this: take the batch of this step, dispatch the step,
wait for an earlier one (two are in flight, so the device never idles and never runs far ahead),
look whether its update was finite, log, validate, save, and only then obey a signal.
"""

import collections
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxssl.checkpoint.manager import CheckpointManager, as_tree
from jaxssl.core.config import read_yaml
from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.core.types import batch_shape
from jaxssl.data.loader import TrainLoader
from jaxssl.data.mixture import check_seen
from jaxssl.generate.texts import LanguageModel
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.parallel.rules import use_mesh
from jaxssl.program.phase import Phases
from jaxssl.program.program import Program
from jaxssl.train.encode_once import encode_once, feature_bytes
from jaxssl.train.feeds import Feeds
from jaxssl.train.frozen_check import FrozenCheck
from jaxssl.train.learner import Learner
from jaxssl.train.metrics_file import read_metrics
from jaxssl.train.profile import Profiler
from jaxssl.train.samples import samples
from jaxssl.train.settings import Settings
from jaxssl.train.sinks import Sinks
from jaxssl.train.step_log import StepLog, progress_texts
from jaxssl.train.stopping import NotFinite, StopSignal
from jaxssl.train.validation import Validation
from jaxssl.train.watchdog import Watchdog

IN_FLIGHT = 2
Shapes = dict[str, tuple[int, ...]]
"""Of the tokens that a step took, by stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What a run does: what it computes, what it is fed, and for how long.

    Attributes:
      settings: with epochs turned into steps.
      phases: of the program.
    """

    program: Program
    feeds: Feeds
    settings: Settings
    phases: Phases


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: steps done.
      stopped_by: the signal that ended it early, or None.
      validation: the last validation's numbers.
      frozen_arrays: how many arrays were frozen throughout; each has the bits it started with.
    """

    step: int
    stopped_by: str | None
    validation: dict[str, float]
    frozen_arrays: int = 0


def fit(
    work: Work,
    run_dir: Path,
    say: Callable[[str], None],
    before_save: Callable[[], None] = lambda: None,
) -> Outcome:
    """Trains from the newest intact checkpoint in `run_dir`, or from scratch, to the last step."""
    with use_mesh(work.program.mesh), contextlib.ExitStack() as stack:
        return Loop(work, run_dir, say, before_save, stack).run()


class Loop:
    """The state of one `fit`: what `run` and its few branches share."""

    def __init__(
        self,
        work: Work,
        run_dir: Path,
        say: Callable[[str], None],
        before_save: Callable[[], None],
        stack: contextlib.ExitStack,
    ):
        self.program, self.feeds, self.settings = work.program, work.feeds, work.settings
        self.run_dir: Path = run_dir
        self.say, self.before_save = say, before_save
        self.checkpoints = CheckpointManager(run_dir / "checkpoints", self.settings.checkpoint)
        stack.callback(self.checkpoints.close)
        self.learner = Learner(self.program, self.checkpoints, work.phases)
        self.start, meta = self._begin_or_resume()
        self.frozen_check = FrozenCheck(
            run_dir, self.learner.fingerprints(), resumed=self.start > 0
        )
        self.data_offset: int = meta.get("data_offset", 0)
        place = str(self.checkpoints.path(self.start))
        check_seen(self.program.draws, self.start + self.data_offset, meta, place)
        self.log = StepLog(self.program, self.feeds, self.learner, meta)
        self.not_finite_count: int = meta.get("not_finite_count", 0)
        self._make_validation(meta.get("selections", []))
        if self.feeds.encodes_once and not self._is_complete():
            self._encode_once()
        self.sinks = self._open_sinks()
        stack.callback(self.sinks.close)
        self.sharding = batch_sharding(self.program.mesh)
        self.loaders = self._open_loaders(self.start)
        stack.callback(self._close_loaders)
        self.signal = stack.enter_context(StopSignal(say))
        stacks = run_dir / f"stacks-{jax.process_index()}.txt"
        self.watchdog = stack.enter_context(Watchdog(self.settings.watchdog, stacks))
        self.profiler = Profiler(self.settings.profile, run_dir / "profile", say)
        stack.callback(self.profiler.close)
        self.skipped = int(self.learner.state.skipped)
        self.saved = self.start
        self.in_flight: collections.deque[tuple[int, dict[str, Any], Shapes]] = collections.deque()

    # --- The loop ---

    def run(self) -> Outcome:
        """All steps that are left, then a last validation and checkpoint."""
        steps, step, stopped = self.settings.train.steps, self.start, None
        if self._is_complete():
            return self._already_done()
        in_flight = self.in_flight
        self.profiler.begin(step)
        self.log.start(step)
        self.progress = progress = bar(
            total=steps,
            initial=step,
            description="train",
            unit="step",
            enabled=self.settings.logging.progress and hosts.is_first(),
            note="compiling",
        )
        with progress:
            while step < steps:
                self.profiler.before(step, self.learner.state)
                batches = self._take_batches(step)
                if self.learner.begins_phase(step):
                    self._tell_of_phase(step)
                out = self.learner.train(step, batches)
                step += 1
                shapes = {name: batch_shape(batch) for name, batch in batches.items()}
                in_flight.append((step, out, shapes))
                progress.update(1)
                due = self._is_due(step) or step == steps or self._signalled_alone()
                while len(in_flight) > (0 if due else IN_FLIGHT):
                    rolled_back = self._finish(*in_flight.popleft())
                    if rolled_back is not None:
                        in_flight.clear()
                        step = rolled_back
                        progress.n = step
                        due = False
                if due:
                    if self._validate_and_save(step):
                        break
                    stopped = self._stop_requested(step)
                    if stopped:
                        break
        self.profiler.close(self.learner.state)
        self.checkpoints.wait()
        hosts.barrier("the last checkpoint is sealed")
        return Outcome(step, stopped, self.validation.values, self._frozen_arrays())

    def _take_batches(self, step: int) -> dict[str, dict[str, jax.Array]]:
        """The batches of a step by stream, laid out over the devices; rows that are refused end the
        run.

        What was trained so far is saved before. With several processes it is not: the others are
        in the middle of the step, and end when this process does.
        """
        batches = {}
        try:
            for stream in self.program.streams:
                if stream.name not in self.program.draws.at(step + self.data_offset):
                    continue
                rows = next(self.loaders[stream.name])
                stream.objective.check_rows(rows)
                size = self.feeds.streams[stream.name].config.batch_size
                batches[stream.name] = hosts.global_batch(rows, self.sharding, size)
        except UserError:
            if jax.process_count() == 1:
                self._log_in_flight()
                self._save(step)
                self.checkpoints.wait()
                self.say(f"saved step {step} before the rows that are refused")
            raise
        return batches

    def _is_due(self, step: int) -> bool:
        """Whether this step needs everything before it to be finished."""
        s = self.settings
        return (
            self.validation.is_due(step)
            or step % s.checkpoint.every == 0
            or self.learner.begins_phase(step)
            or (step % s.logging.every == 0 and jax.process_count() > 1)  # to look for a signal
        )

    def _signalled_alone(self) -> bool:
        """A signal to the only process; with several, all look together at steps that are due."""
        return self.signal.received is not None and jax.process_count() == 1

    def _finish(self, step: int, out: dict[str, Any], shapes: Shapes) -> int | None:
        """Waits for a step, looks at it and logs it; the step to go back to, if any."""
        out = jax.device_get(out)
        self.watchdog.beat()
        self.log.add(out, shapes)
        if int(out["skipped"]) > self.skipped:
            self.skipped = int(out["skipped"])
            return self._not_finite(step, out)
        if step % self.settings.logging.every == 0:
            self._log(step, out)
        return None

    def _log(self, step: int, out: dict[str, Any]) -> None:
        row = self.log.row(step, out, self.skipped, self.data_offset)
        self.sinks.write("train", step, **row)
        self.progress.set_postfix(progress_texts(row), refresh=False)

    # --- Validation, checkpoints, the end ---

    def _is_complete(self) -> bool:
        return self.start >= self.settings.train.steps or self.validation.stops_early

    def _already_done(self) -> Outcome:
        self.say(f"the run is complete at step {self.start}; nothing to do")
        rows = [row for row in read_metrics(self.run_dir) if row["kind"] == "validation"]
        numbers = (
            {name: v for name, v in rows[-1].items() if name not in ("kind", "step")}
            if rows
            else {}
        )
        return Outcome(self.start, None, numbers, self._frozen_arrays())

    def _frozen_arrays(self) -> int:
        """How many arrays were frozen throughout, after a look that each kept its bits."""
        moved = self.frozen_check.moved(self.learner.fingerprints())
        assert not moved, f"frozen parameters moved: {moved}"
        return len(self.frozen_check.started)

    def _validate_and_save(self, step: int) -> bool:
        """What is due after a step; whether it was the last.

        The save comes last: a step that was saved has all its rows in the metrics, so that a run
        killed at any moment loses none.
        """
        s = self.settings
        last = step == s.train.steps
        best = False
        if self.validation.is_due(step):
            self._validate(step)
            self._report(step)
            best = self.validation.is_best
        if not last and self.validation.stops_early:
            last = True
            self.sinks.note(step, "early stopping: validation no longer gets better")
            self.say(f"early stopping at step {step}")
        if last or best or step % s.checkpoint.every == 0:
            self._save(step)
        self.checkpoints.check()
        return last

    def _validate(self, step: int) -> None:
        self.watchdog.pause()
        values = self.validation.validate(step, self.learner.evaluated)
        self.sinks.write("validation", step, **values)
        for text in self.validation.alarms:
            self.sinks.note(step, text)
            self.say(f"step {step}: {text}")
        self.watchdog.beat()

    def _report(self, step: int) -> None:
        """Samples into the metrics; time spent here is not counted as training."""
        self.watchdog.pause()
        program, params = self.program, self.learner.evaluated
        model = LanguageModel(program.model, params, self.feeds.tokenizer, program.vocabulary)
        for kind, fields in samples(model, self.settings.samples):
            self.sinks.write(kind, step, **fields)
        self.watchdog.beat()
        self.log.start(step)

    def _save(self, step: int) -> None:
        if self.saved == step:
            return
        self.before_save()
        meta = {
            "data_offset": self.data_offset,
            "selection": self.validation.selection_at(step),
            "selections": self.validation.selections,
            "tokens": self.log.tokens,
            "tokens_by_stream": self.log.by_stream,
            "draws": self.program.draws.before(step + self.data_offset),
            "draws_history": self.program.draws.history(step + self.data_offset),
            "not_finite_count": self.not_finite_count,
        }
        self.checkpoints.save(step, as_tree(self.learner.state), meta)
        self.saved = step

    def _stop_requested(self, step: int) -> str | None:
        """The signal that any process received; saves first."""
        if not hosts.agree(self.signal.received is not None):
            return None
        name = self.signal.received or "a signal to another process"
        self._save(step)
        self.checkpoints.wait()
        self.say(f"{name}: saved step {step}; run the same command again to go on")
        return name

    # --- Beginnings and misfortunes ---

    def _begin_or_resume(self) -> tuple[int, dict[str, Any]]:
        """Takes the newest intact state, or a fresh one; its step and what was noted with it."""
        step = self.checkpoints.newest_intact(self.say)
        if step is None:
            self.learner.begin()
            return 0, {}
        self.learner.restore(step)
        self.say(f"resuming at step {step}")
        return step, self.checkpoints.meta(step)

    def _tell_of_phase(self, step: int) -> None:
        """Says that more is trained from here on; compiling its step takes time."""
        self.watchdog.pause()
        self.say(f"step {step}: more parameters are trained from here on; compiling")
        # Of the next step: a run that is killed now resumes at `step`, and must not note it twice.
        self.sinks.note(step + 1, "more parameters are trained from this step on")

    def _encode_once(self) -> None:
        """Takes the examples' hidden states in the place of their texts from here on."""
        self.feeds = encode_once(self.program, self.feeds, self.learner.params)
        self._make_validation(self.validation.selections)
        data: Any = self.feeds.first.train
        self.say(f"each example is encoded once: {feature_bytes(data):,} bytes of features")

    def _make_validation(self, selections: list[float]) -> None:
        self.validation = Validation(self.program, self.feeds, self.settings, selections)

    def _open_sinks(self) -> Sinks:
        if not hosts.is_first():
            return Sinks()
        logging = self.settings.logging
        project = logging.wandb_project
        return Sinks.open(
            self.run_dir,
            resume_step=self.start,
            tensorboard=logging.tensorboard,
            wandb_project=project,
            config=read_yaml(self.run_dir / "config.yaml") if project else None,
        )

    def _open_loaders(self, step: int) -> dict[str, TrainLoader]:
        """The streams' batches from a step on."""
        before = self.program.draws.before(step + self.data_offset)
        loaders = {}
        for name, feed in self.feeds.streams.items():
            places = hosts.local_places(self.sharding, feed.config.batch_size)
            loaders[name] = feed.loader(places, before[name])
        return loaders

    def _close_loaders(self) -> None:
        for loader in self.loaders.values():
            loader.close()

    def _not_finite(self, step: int, out: dict[str, Any]) -> int | None:
        """Obeys `train.not_finite`; the step to go back to for a rollback."""
        self.not_finite_count += 1
        train = self.settings.train
        found = f"loss {float(out['loss'])}, gradient norm {float(out['grad_norm'])}"
        give_up = train.not_finite == "abort" or self.not_finite_count > train.not_finite_limit
        self.say(f"step {step}: not finite ({found}); the update was left out")
        back = self._roll_back(step) if train.not_finite == "rollback" and not give_up else None
        self.sinks.note(step, f"not finite: {found}; the update was left out")
        if back is not None:
            self.sinks.note(step, f"went back to step {back}; the batches since are left out")
        if give_up:
            done = int(self.learner.state.step)
            self._log_in_flight()
            self._validate_and_save(done)
            self._save(done)
            self.checkpoints.wait()
            raise NotFinite(
                f"step {step} was not finite ({found}), and its update was left out. The state "
                f"after step {done}, which is finite, is saved. Start again with "
                "train.not_finite=skip or rollback to go on, or with a lower learning rate in "
                "another run directory."
            )
        return back

    def _log_in_flight(self) -> None:
        """The rows of the finite steps after one that ends the run: they are saved with it."""
        for step, out, shapes in self.in_flight:
            out = jax.device_get(out)
            self.log.add(out, shapes)
            is_finite = int(out["skipped"]) == self.skipped
            self.skipped = int(out["skipped"])
            if is_finite and step % self.settings.logging.every == 0:
                self._log(step, out)

    def _roll_back(self, step: int) -> int | None:
        self.checkpoints.wait()
        back = self.checkpoints.newest_intact(self.say)
        if back is None:
            self.say("no checkpoint to go back to; going on without the update")
            return None
        self.learner.restore(back)
        self.skipped = int(self.learner.state.skipped)
        self.data_offset += step - back
        self._close_loaders()
        self.loaders = self._open_loaders(back)
        self.sinks.rewind(back)
        meta = self.checkpoints.meta(back)
        self.validation.go_back(meta.get("selections", []))
        self.log.take(meta)
        self.saved = back
        self.say(f"rolled back to step {back}")
        self.log.start(back)
        return back
