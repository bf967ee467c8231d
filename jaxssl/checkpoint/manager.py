"""Saving and restoring the steps of a run.

A step is a directory `checkpoints/<step>/` with Orbax's `state/`, our `meta.json` and, written
last, `manifest.json`. What has no manifest was never finished and is not looked at.
"""

import contextlib
import copy
import functools
import logging
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxssl.checkpoint import manifest
from jaxssl.checkpoint.orbax_paths import check_written, state_path
from jaxssl.core.errors import UserError
from jaxssl.core.seal import NewerVersion
from jaxssl.parallel import hosts

SHARED_BYTES = 1 << 20
"""The least that each of several devices writes of an array that all of them hold."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep. A validation that is the best so far
    saves, too, and its step is always kept (`evaluation.best_by`)."""

    every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 2
    """How many of the newest steps to keep."""
    keep_every: int | None = None
    """Keep every step that is a multiple of this for good; null keeps none for good."""
    verify: bool = True
    """Compare every file with its checksum before it is restored."""

    def __post_init__(self):
        keep_every = 1 if self.keep_every is None else self.keep_every
        if min(self.every, self.keep_last, keep_every) < 1:
            raise UserError(
                "a checkpoint setting is out of range",
                where="every, keep_last, keep_every",
                expected="at least 1",
                got=(self.every, self.keep_last, self.keep_every),
            )


class CheckpointManager:
    """The checkpoints of one run directory. At most one save is under way at a time.

    Args:
      compress: needs another 0.6 of the arrays' memory while it saves; files of weights get little
        smaller by it.
    """

    def __init__(
        self,
        directory: str | Path,
        config: CheckpointConfig = CheckpointConfig(),
        *,
        compress: bool = True,
    ):
        self.directory, self.config = Path(directory).absolute(), config
        self.compress = compress
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_news)
        _silence_closed_loops()

    def steps(self) -> list[int]:
        """The finished steps, ascending."""
        if not self.directory.is_dir():
            return []
        found = [p for p in self.directory.iterdir() if p.name.isdigit() and manifest.is_sealed(p)]
        return sorted(int(path.name) for path in found)

    def path(self, step: int) -> Path:
        """The directory of a step."""
        return self.directory / str(step)

    def meta(self, step: int) -> dict[str, Any]:
        """What was noted with a step: `step`, `data_offset`, `selection`, ..."""
        return manifest.read_meta(self.path(step))

    def best(self) -> int | None:
        """The step with the lowest selection (a loss, or a score negated), the earliest of equals;
        None without any.

        Raises:
          UserError: a step is damaged, so that it may be the best.
          NewerVersion: a step is from a newer version.
        """
        known, unreadable = self._selections()
        for step, error in unreadable.items():
            if isinstance(error, NewerVersion):
                raise error
            raise UserError(
                f"which step is the best cannot be told, for step {step} is damaged",
                where=error.where,
                expected="the number that every step is chosen by",
                got=error.got,
                fix=f"copy it again if you have it; or name a step (--step {max(known, default=0)}"
                f" or --step last); or delete {self.path(step)} to choose among the others",
            )
        return _lowest(known)

    def _selections(self) -> tuple[dict[int, float | None], dict[int, UserError]]:
        """What each step is chosen by (None without), and why that of others cannot be read."""
        known: dict[int, float | None] = {}
        unreadable: dict[int, UserError] = {}
        for step in self.steps():
            try:
                value = self.meta(step).get("selection")
            except UserError as error:
                unreadable[step] = error
                continue
            known[step] = value if value is not None and math.isfinite(value) else None
        return known, unreadable

    def choose(self, step: int | str) -> int:
        """A finished, intact step: "best", "last" or a number.

        Raises:
          UserError: there is no such step, it is damaged, or another one that may be the best is.
        """
        steps = self.steps()
        if not steps:
            raise UserError(
                "the run has no checkpoint yet",
                where=self.directory,
                expected="at least one finished step",
                got="none",
                fix="start the run again with its configuration; it goes on",
            )
        wanted = int(step) if str(step).isdigit() else None
        if step == "best":
            best = self.best()
            wanted = steps[-1] if best is None else best
        elif step == "last":
            wanted = steps[-1]
        if wanted not in steps:
            raise UserError(
                "no such checkpoint",
                where=self.directory,
                expected="best, last or one of " + ", ".join(map(str, steps)),
                got=step,
            )
        self.meta(wanted)
        if self.config.verify:
            manifest.verify(self.path(wanted))
        return wanted

    # --- Saving ---

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts saving in the background; the arrays may be donated as soon as this returns.

        Raises:
          UserError: this or the previous save could not be written.
        """
        self.wait()
        path = self.path(step)
        if hosts.is_first() and path.exists():
            self._delete(step)  # left by a save that never finished, or of a step replayed
        hosts.barrier(f"save {step}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._checkpointer = self._checkpointer or _make_checkpointer(self.compress)
            self._checkpointer.save(state_path(path), args=ocp.args.PyTreeSave(state))
        except Exception as error:
            self._discard(step)
            raise self._cannot_save(step, error) from error
        noted = copy.deepcopy(meta)  # the run counts on while this is written
        arguments = step, len(jax.tree.leaves(state)), noted
        finish = threading.Thread(target=self._finish, args=arguments, name="checkpoint")
        self._thread = finish
        finish.start()

    def _finish(self, step: int, arrays: int, meta: dict[str, Any]) -> None:
        try:
            assert self._checkpointer is not None
            self._checkpointer.wait_until_finished()
            if hosts.is_first():
                check_written(self.path(step), arrays)
                manifest.seal(self.path(step), {"step": step, **meta})
        except BaseException as error:  # handed to the main thread by `check`
            self._discard(step)
            self._error = self._cannot_save(step, error)
            return
        try:
            if hosts.is_first():
                self._prune(step)
        except BaseException as error:
            self._error = error

    def _discard(self, step: int) -> None:
        """Frees the space of a save that failed."""
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            with contextlib.suppress(Exception):  # the error that brought us here, once more
                checkpointer.close()
        for _ in range(10 if hosts.is_first() else 0):
            shutil.rmtree(self.path(step), ignore_errors=True)
            time.sleep(0.05)  # Orbax's threads may still be writing, and make the directory again

    def _cannot_save(self, step: int, error: BaseException) -> UserError:
        steps = self.steps()
        then = f"it goes on from step {steps[-1]}" if steps else "no step was saved before"
        cause = str(error)  # the cause itself stands at the end of TensorStore's long messages
        cause = cause if len(cause) < 400 else f"{cause[:100]} ... {cause[-250:]}"
        return UserError(
            f"the checkpoint of step {step} could not be saved",
            where=self.path(step),
            expected="a writable disk with room for the state",
            got=f"{type(error).__name__}: {cause}",
            fix=f"free space and start the same command again; {then}",
        )

    def check(self) -> None:
        """Raises the error of a save that failed in the background, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits for the save under way, and raises its error if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Waits, and lets go of Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None

    def _prune(self, newest: int) -> None:
        """Deletes what the configuration does not keep, and what killed saves left behind."""
        steps = self.steps()
        for path in self.directory.iterdir():
            if path.name.isdigit() and int(path.name) not in (*steps, newest):
                shutil.rmtree(path)
        known, unreadable = self._selections()
        # What cannot be read may be the best; its arrays may be whole.
        kept = {*steps[-self.config.keep_last :], _lowest(known), *unreadable}
        if self.config.keep_every:
            kept |= {step for step in steps if step % self.config.keep_every == 0}
        for step in steps:
            if step not in kept:
                self._delete(step)

    def _delete(self, step: int) -> None:
        """The manifest goes first: a step half deleted must not look whole."""
        (self.path(step) / manifest.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path(step))

    # --- Restoring ---

    def newest_intact(self, say: Callable[[str], None] = print) -> int | None:
        """The newest step whose files are what was written; says so for each that is not.

        Damaged steps newer than it are set aside as `<step>.damaged`, for they will be made again.
        The first of several processes looks, and all get its answer.

        Raises:
          UserError: there are finished steps and none is intact, or one is from a newer version.
        """
        step = hosts.first_decides(lambda: self._find_intact(say))
        return None if step < 0 else step

    def _find_intact(self, say: Callable[[str], None]) -> int:
        steps = self.steps()
        damaged: dict[int, UserError] = {}
        for step in reversed(steps):
            try:
                self.meta(step)
                if self.config.verify:
                    manifest.verify(self.path(step))
            except NewerVersion:
                raise
            except UserError as error:
                damaged[step] = error
                continue
            for bad, error in damaged.items():
                aside = self._set_aside(bad)
                say(f"checkpoint {bad} is damaged; it is kept as {aside.name}\n{error}")
            if damaged:
                say(f"falling back to step {step}, the newest that is intact")
            return step
        if damaged:
            raise UserError(
                "no checkpoint of the run is intact",
                where=self.directory,
                expected="at least one step that matches its manifest",
                got="; ".join(f"step {step}: {e.where}: {e.got}" for step, e in damaged.items()),
                fix="copy the checkpoints again, or start afresh in another run directory",
            )
        return -1

    def _set_aside(self, step: int) -> Path:
        aside = self.path(step).with_name(f"{step}.damaged")
        if aside.exists():
            shutil.rmtree(aside)
        return self.path(step).rename(aside)

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """The whole state of a step, straight into the shardings of `abstract`.

        Raises:
          UserError: the step does not hold exactly these arrays.
        """
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(state_path(self.path(step)), abstract)
        except Exception as error:
            raise _cannot_restore(self.path(step), error) from error


def _lowest(selections: Mapping[int, float | None]) -> int | None:
    """The step with the lowest selection, the earliest of equals; None without any."""
    found = {step: value for step, value in selections.items() if value is not None}
    return min(found, key=lambda step: (found[step], step)) if found else None


def read_arrays(checkpoint: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """The arrays `abstract`, a part of the tree in a step's directory, into its shardings.

    Raises:
      UserError: the step does not hold these arrays.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            arguments = ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            )
            return checkpointer.restore(state_path(checkpoint), args=arguments)
    except Exception as error:
        raise _cannot_restore(checkpoint, error) from error


def stored_arrays(checkpoint: Path) -> dict[str, Any]:
    """The tree in a step's directory, with a shape and a dtype for each array; nothing is read.

    Raises:
      UserError: the step cannot be read.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata: Any = checkpointer.metadata(state_path(checkpoint)).item_metadata
            return metadata.tree
    except Exception as error:
        raise _cannot_restore(checkpoint, error) from error


def _cannot_restore(checkpoint: Path, error: Exception) -> UserError:
    return UserError(
        f"the checkpoint of step {checkpoint.name} cannot be restored",
        where=checkpoint,
        expected="the arrays of this configuration's state",
        got=f"{type(error).__name__}: {str(error)[:500]}",
        fix="use the configuration the run was started with (config.yaml beside it)",
    )


@functools.cache
def _silence_closed_loops() -> None:
    """Orbax closes its event loop where a save fails; TensorStore's threads go on to hand it their
    failures, and each would be printed with a traceback. The error itself is ours to tell."""
    before = sys.unraisablehook

    def tell(ignored: "sys.UnraisableHookArgs") -> None:
        error = ignored.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(ignored)

    sys.unraisablehook = tell


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Orbax logs of errors which it also raises, and for what asyncio
    says of tasks of such a save: we tell the error."""
    return not (record.exc_info and ("orbax" in record.pathname or record.name == "asyncio"))


def _make_checkpointer(compress: bool) -> ocp.AsyncCheckpointer:
    """Writes in the background. Small arrays that several devices hold are written by one of them:
    to share one out, a program is compiled for each shape."""
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED_BYTES)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=compress)
    return ocp.AsyncCheckpointer(handler)


def as_tree(state: Any) -> dict[str, Any]:
    """A state dataclass as the dict that a checkpoint holds, without parts that are empty."""
    parts = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {name: part for name, part in parts.items() if not (isinstance(part, dict) and not part)}
