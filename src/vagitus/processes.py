"""A function over many jobs in processes, each answer as soon as it is there, whatever happens to a process.

Decoding audio holds Python's lock, so it needs processes; and a decoder can crash, which must cost
one recording and not the run.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Result = TypeVar("Result")


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], n_workers: int
) -> Iterator[tuple[int, Result | None]]:
    """Yield (index, ``function(*job)``) in order of completion; None for a job that twice ended its process.

    Workers are started afresh ("spawn"), so that a script calls this under ``if __name__ == "__main__"``.
    An exception of ``function`` is raised here.

    Args:
        function: of a module's top level, or a partial of one.
        jobs: arguments of one call each; read as workers become free.
        n_workers: processes; 1 works in this one.

    Raises:
        ValueError: ``n_workers`` is below 1.
        RuntimeError: worker processes cannot start.
    """
    if n_workers < 1:
        raise ValueError(f"n_workers must be 1 or more, got {n_workers}")
    if n_workers == 1:
        return ((index, function(*job)) for index, job in enumerate(jobs))
    return _in_workers(function, enumerate(jobs), n_workers)


class _Worker(Generic[Result]):
    """A process and the jobs sent to it, done in that order.

    Each has a pipe of its own, unlike in a ProcessPoolExecutor: a worker that is killed in the middle of an
    answer then ends its pipe, where it would leave a shared one half-written and everybody waiting. And the
    first of its jobs is the one that it died of.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        # fork would copy the locks of whatever threads the caller runs, torch's among them.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.jobs: list[tuple[int, tuple[Any, ...]]] = []

    def wait_for_start(self) -> None:
        try:
            self.connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                "worker processes cannot start; call this under if __name__ == '__main__', or with n_workers=1"
            ) from error

    def give(self, index: int, job: tuple[Any, ...]) -> None:
        self.jobs.append((index, job))
        with suppress(BrokenPipeError, ConnectionResetError):  # it died; its pipe will say so
            self.connection.send(job)

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection: "Connection[Any, Any]", function: Callable[..., Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted and closes the pipe
    connection.send(None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = connection.recv()
            try:
                answer = True, function(*job)
            except Exception as error:
                answer = False, error
            connection.send(answer)


def _in_workers(
    function: Callable[..., Result], jobs: Iterator[tuple[int, tuple[Any, ...]]], n_workers: int
) -> Iterator[tuple[int, Result | None]]:
    workers = [_Worker(function) for _ in range(n_workers)]
    returned: list[tuple[int, tuple[Any, ...]]] = []  # by workers that died
    tried: set[int] = set()
    try:
        for worker in workers:
            worker.wait_for_start()
        while True:
            # One job to work on and one to go on with, while an answer is being used; no more in memory.
            for depth in (1, 2):
                for worker in workers:
                    if len(worker.jobs) < depth:
                        job = returned.pop(0) if returned else next(jobs, None)
                        if job is not None:
                            worker.give(*job)
            busy = {worker.connection: worker for worker in workers if worker.jobs}
            if not busy:
                return
            for connection in multiprocessing.connection.wait(list(busy)):
                worker = busy[cast("Connection[Any, Any]", connection)]
                try:
                    succeeded, answer = worker.connection.recv()
                except (EOFError, OSError):
                    worker.close()
                    workers[workers.index(worker)] = replacement = _Worker(function)
                    replacement.wait_for_start()
                    suspect, *innocent = worker.jobs
                    returned += innocent
                    if suspect[0] not in tried:
                        tried.add(suspect[0])
                        returned.append(suspect)
                    else:
                        yield suspect[0], None
                    continue
                if not succeeded:
                    raise answer
                yield worker.jobs.pop(0)[0], answer
    finally:
        for worker in workers:
            worker.close()
