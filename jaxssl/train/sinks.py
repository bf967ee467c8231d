"""Where a run's metrics go: metrics.jsonl always, TensorBoard and Weights & Biases on request.

Rows are those of `metrics_file`. Only one host writes; the others hold an empty `Sinks()`.
"""

import importlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.progress import tell
from jaxssl.train.metrics_file import TEXT_KINDS, MetricsFile, Row, plain


class Sink(Protocol):
    """Anything that takes rows."""

    def write(self, row: Row) -> None: ...

    def rewind(self, step: int) -> None:
        """Takes back the rows of later steps than `step`: they are done again."""
        ...

    def close(self) -> None: ...


def _import_tensorboardx() -> Any:
    """The package, kept from importing PyTorch where that is installed: only its plots of modules
    need it, and it takes more than a second of a run's start."""
    missing = object()
    torch = sys.modules.get("torch", missing)
    try:
        if torch is missing:
            sys.modules["torch"] = None  # type: ignore[assignment]  # importing it is an ImportError
        return importlib.import_module("tensorboardX")
    finally:
        if torch is missing:
            del sys.modules["torch"]


class TensorBoardSink:
    """Writes `events.*` files: numbers as scalars `kind/key`, text as text.

    Args:
      run_dir: the run directory.
      resume_step: the step that a resumed run goes on from; TensorBoard then hides what an earlier
        process wrote of later ones.
    """

    def __init__(self, run_dir: str | Path, *, resume_step: int | None = None):
        self._run_dir, self._files = str(run_dir), 0
        self._failed: BaseException | None = None
        self._before, threading.excepthook = threading.excepthook, self._note_failure
        self._writer = self._open(resume_step)

    def _open(self, resume_step: int | None) -> Any:
        self._files += 1  # files are named by the second: two of one second must differ
        return _import_tensorboardx().SummaryWriter(
            self._run_dir,
            purge_step=None if resume_step is None else resume_step + 1,
            filename_suffix=f".{os.getpid()}.{self._files}",
            flush_secs=10,
        )

    def _note_failure(self, failure: Any) -> None:
        """The package writes in a thread, whose failure would be printed and forgotten."""
        if type(failure.thread).__module__.partition(".")[0] == "tensorboardX":
            self._failed = failure.exc_value
        else:
            self._before(failure)

    def _check(self) -> None:
        error, self._failed = self._failed, None
        if isinstance(error, OSError):
            raise UserError(
                "TensorBoard's file cannot be written",
                where=self._run_dir,
                expected="a writable disk with room",
                got=error.strerror or error,
                fix="free space or set logging.tensorboard=false, and start the same command "
                "again: the run resumes",
            )
        if error is not None:
            raise error

    def rewind(self, step: int) -> None:
        """Starts another file, before which TensorBoard hides the rows of later steps."""
        self._writer.close()
        self._writer = self._open(step)

    def write(self, row: Row) -> None:
        self._check()
        kind, step = row["kind"], int(row["step"])
        if kind in TEXT_KINDS:
            self._writer.add_text(kind, _as_text(row), step)
            return
        for key, value in _numbers(row).items():
            if value == value:  # a share of nothing is no point of a curve, and would be warned of
                self._writer.add_scalar(f"{kind}/{key}", value, step)

    def close(self) -> None:
        if self._failed is None:  # else its queue would be waited for, which nobody reads
            self._writer.close()
        if self._failed is not None:
            tell(f"{self._run_dir}: the end of TensorBoard's file is missing: {self._failed}")


class WandbSink:
    """Sends rows to Weights & Biases; a resumed run continues under the same id.

    Args:
      run_dir: the run directory; the id is kept in its `wandb_id` file.
      project: the project's name.
      name: how the run is called there (default: the directory's name).
      config: the resolved configuration.

    Raises:
      UserError: the `wandb` package is not installed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        project: str,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "Weights & Biases was asked for, and the wandb package is not installed.",
                where="logging.wandb_project",
                fix="pip install 'jaxssl[wandb]' (or pip install wandb), or leave the key out",
            ) from error
        run_dir = Path(run_dir)
        self._run = wandb.init(
            project=project,
            name=name or run_dir.resolve().name,
            id=_kept_id(run_dir / "wandb_id"),
            resume="allow",
            dir=str(run_dir),
            config=dict(config or {}),
        )
        # Its own step only grows, and drops what a resumed run writes again: plot over ours.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        kind, step = row["kind"], int(row["step"])
        if kind in TEXT_KINDS:
            self._run.log({"step": step, kind: _as_text(row)})
        else:
            values = {f"{kind}/{key}": value for key, value in _numbers(row).items()}
            self._run.log({"step": step, **values})

    def rewind(self, step: int) -> None:
        """Nothing is taken back there: after a resume or a rollback, the steps that are done again
        have two points in its plots. `metrics.jsonl` and the report have the later one alone."""

    def close(self) -> None:
        self._run.finish()


class Sinks:
    """Hands each row to every sink, in order; `Sinks()` (the other hosts') does nothing."""

    def __init__(self, sinks: Sequence[Sink] = ()):
        self.sinks = tuple(sinks)

    @classmethod
    def open(
        cls,
        run_dir: str | Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        wandb_project: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> "Sinks":
        """The sinks of a run directory.

        Args:
          run_dir: the run directory.
          resume_step: the step of the restored checkpoint: later rows are removed, for they will
            be written again. None for a new run.
          tensorboard: whether to write event files.
          wandb_project: the Weights & Biases project, or None.
          config: the resolved configuration, for Weights & Biases.
        """
        metrics = MetricsFile(run_dir)
        sinks: list[Sink] = [metrics]
        if resume_step is not None:
            metrics.rewind(resume_step)
        if tensorboard:
            sinks.append(TensorBoardSink(run_dir, resume_step=resume_step))
        if wandb_project is not None:
            sinks.append(WandbSink(run_dir, project=wandb_project, config=config))
        return cls(sinks)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Writes `{"kind": kind, "step": step, **values}`; names with "/" come by `**{...}`."""
        row = {"kind": kind, "step": int(step), **values}
        for sink in self.sinks:
            sink.write(row)

    def rewind(self, step: int) -> None:
        """Takes back the rows of later steps: those steps are done again."""
        for sink in self.sinks:
            sink.rewind(step)

    def note(self, step: int, text: str) -> None:
        """Records an event of the run in words: a resume, a rollback, a skipped step."""
        self.write("note", step, text=text)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


def _numbers(row: Row) -> dict[str, float]:
    """The row's numbers but its step, NumPy and JAX scalars among them."""
    plain = {
        key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()
    }
    numbers = {key: value for key, value in plain.items() if type(value) in (int, float)}
    return {key: float(value) for key, value in numbers.items() if key != "step"}


def _as_text(row: Row) -> str:
    """A row of text as Markdown: strings as they are, the rest (predictions) as JSON."""
    parts = {key: plain(value) for key, value in row.items() if key not in ("kind", "step")}
    return "\n\n".join(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in parts.values()
    )


def _kept_id(path: Path) -> str:
    if not path.exists():
        with atomic_write(path) as file:
            file.write(uuid.uuid4().hex)
    return path.read_text().strip()
