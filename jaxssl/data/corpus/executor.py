"""datatrove's local executor, made quiet and safe against workers that are killed."""

import contextlib
import copy
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from datatrove.executor import LocalPipelineExecutor

from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar


class QuietExecutor(LocalPipelineExecutor):
    """Runs the tasks that are not marked complete; logs go to files only.

    Differences to `LocalPipelineExecutor.run`: a killed worker is an error instead of an endless
    wait, workers end when the process that started them ends, the first failure cancels the tasks
    that wait, and each worker encodes with one thread.
    """

    def run(self) -> None:
        self._launched = True
        ranks = self.get_incomplete_ranks()
        workers = min(self.workers, len(ranks))
        with _one_thread():
            if workers <= 1:
                pipeline = self.pipeline
                for rank in ranks:
                    self.pipeline = copy.deepcopy(pipeline)
                    self._run_for_rank(rank)
                self.pipeline = pipeline
            else:
                self._run_in_processes(ranks, workers)

    def _run_in_processes(self, ranks: list[int], workers: int) -> None:
        # "spawn": a fork of a process with running threads (JAX's, a tokenizer's) may hang.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, _end_with_parent)
        try:
            for done in as_completed([pool.submit(self._run_for_rank, rank) for rank in ranks]):
                done.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed",
                where=self.logging_dir.path,
                expected="workers that end by themselves",
                got="one that ended at once, as when memory runs out",
                fix="run the same command again, with fewer workers; finished tasks are kept. A "
                'script that calls prepare() must do so under `if __name__ == "__main__":`',
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1):
        # datatrove logs to standard error too; errors reach the user as exceptions.
        with contextlib.redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


@contextlib.contextmanager
def show_progress(
    read: Callable[[], int], total: int | None, description: str, unit: str
) -> Iterator[None]:
    """A progress bar of what `read` returns, kept up to date by a thread."""
    stop = threading.Event()
    with bar(total=total, description=description, unit=unit) as progress:

        def poll() -> None:
            while not stop.wait(0.5):
                progress.update(read() - progress.n)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress.update(read() - progress.n)
            progress.total = progress.n


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The tasks are what runs in parallel: more threads would only get in each other's way."""
    key = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(key)
    os.environ[key] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _end_with_parent() -> None:
    """Started in each worker: ends it when the process that started it is gone."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
