"""Processes of this machine, to which ``vagitus.scale`` gives the jobs of one function.

Decoding audio holds Python's lock, so it needs processes; and a decoder can crash, which must cost
one recording and not the run.
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

JobArguments = tuple[Any, ...]  # of one call of the function
END_S = 5.0  # a process that was asked to end has this long to remove its temporary files


class Fate(Enum):
    """What became of a chunk whose process ended without an answer."""

    LOST = "the process ended while it worked on this"
    UNTOUCHED = "the process ended before it began on this"


class Raised(NamedTuple):
    """An exception in place of an answer."""

    error: Exception


Outcome = list[Any] | Fate  # an answer or a Raised for each job of a chunk


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def attempt(function: Callable[..., Any], chunk: Sequence[JobArguments]) -> list[Any]:
    """``function(*job)`` for each job of a chunk, its exception as ``Raised``."""
    answers: list[Any] = []
    for job in chunk:
        try:
            answers.append(function(*job))
        except Exception as error:
            answers.append(Raised(_sendable(error)))
    return answers


def _sendable(error: Exception) -> Exception:
    """An exception whose own arguments are not what its class takes cannot be sent: its text can."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class LocalWorkers:
    """Processes that hold ``function``, and the chunks of jobs given to each.

    Workers are started afresh ("spawn"); one that ends is replaced.

    Args:
        function: of a module's top level, or a partial of one; sent to each process once.
        n_workers: processes.
        at_once: each has one chunk and none waiting behind it, and ``close`` does not wait for it.

    Raises:
        RuntimeError: worker processes cannot start.
    """

    def __init__(self, function: Callable[..., Any], n_workers: int, *, at_once: bool) -> None:
        # One chunk to work on and one to go on with, while an answer is being used; no more in memory.
        self._depth = 1 if at_once else 2
        self._at_once, self._function = at_once, function
        self._workers: list[_Worker] = []
        try:
            for _ in range(n_workers):
                self._workers.append(_Worker(function))
            for worker in self._workers:
                worker.wait_for_start()
        except BaseException:
            self.close()
            raise

    @property
    def n_jobs_a_chunk(self) -> int:
        """One: a pipe costs microseconds, and a process that ends takes no other job with it."""
        return 1

    def has_room(self) -> bool:
        return any(len(worker.tickets) < self._depth for worker in self._workers)

    def give(self, ticket: int, chunk: list[JobArguments]) -> None:
        """Hand a chunk to the worker with the least to do."""
        min(self._workers, key=lambda worker: len(worker.tickets)).give(ticket, chunk)

    def wait(self) -> list[tuple[int, Outcome]]:
        """(ticket, outcome) of at least one chunk; to be called while some are given."""
        busy = {worker.connection: worker for worker in self._workers if worker.tickets}
        found: list[tuple[int, Outcome]] = []
        for connection in multiprocessing.connection.wait(list(busy)):
            worker = busy[cast("Connection[Any, Any]", connection)]
            try:
                answers = worker.connection.recv()
            except (EOFError, OSError):
                worker.close(at_once=False)
                self._workers[self._workers.index(worker)] = replacement = _Worker(self._function)
                replacement.wait_for_start()
                suspect, *innocent = worker.tickets
                found += [(suspect, Fate.LOST), *((ticket, Fate.UNTOUCHED) for ticket in innocent)]
            else:
                found.append((worker.tickets.pop(0), answers))
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.close(at_once=self._at_once)


class _Worker:
    """A process and the chunks sent to it, done in that order.

    Each has a pipe of its own, unlike in a ProcessPoolExecutor: a worker that is killed in the middle of an
    answer then ends its pipe, where it would leave a shared one half-written and everybody waiting. And the
    first of its chunks is the one that it died of.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        # fork would copy the locks of whatever threads the caller runs, torch's among them.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.tickets: list[int] = []

    def wait_for_start(self) -> None:
        try:
            self.connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                "worker processes cannot start; call this under if __name__ == '__main__', or with n_workers=1"
            ) from error

    def give(self, ticket: int, chunk: list[JobArguments]) -> None:
        self.tickets.append(ticket)
        with suppress(BrokenPipeError, ConnectionResetError):  # it died; its pipe will say so
            self.connection.send(chunk)

    def close(self, *, at_once: bool) -> None:
        self.connection.close()
        if at_once:
            if (
                self.tickets
            ):  # one without work ends by itself; a signal while it does so would print an error
                self.process.terminate()
            self.process.join(END_S)
            self.process.kill()
        self.process.join()


def _serve(connection: "Connection[Any, Any]", function: Callable[..., Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted and closes the pipe
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    # A run that is killed must not leave a worker behind, computing beside the one that goes on.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(attempt(function, connection.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
