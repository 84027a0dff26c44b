"""The one door to many jobs at once: a function over recordings, in this process, in others, or on a cluster.

    with cluster("tcp://10.0.0.1:8786"):                  # without it: processes of this machine
        for index, answer in spread(function, jobs, n_workers): ...

Whatever is mapped over recordings or over a study's fits is mapped here, so that all of it keeps these promises:

    once          every job is answered exactly once, in order of completion
    back-pressure jobs are read as workers become free; how many are held depends on the workers, not on the jobs
    retries       a job that raises, or whose process ends, is tried once more, for each of the two; then it is
                  ``Quarantined`` with the reason and stops no other. After a process has ended, what it worked on
                  is tried again alone, so that nothing else is blamed for it. An OSError, such as a full disk, is
                  raised at the second try: it is not the job's fault, and would come again
    the function  goes to each worker once, with all that it holds; a job carries its arguments alone

On a cluster every chunk of jobs is given to one worker by name, and not to dask's own scheduling: dask would run it
again on worker after worker until four had died of it, and could not say which of several it was. A cluster needs
the same vagitus on all its machines, and one file system that has the same paths on all of them.
"""

import logging
import os
import queue
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import vagitus
from vagitus.processes import Fate, JobArguments, LocalWorkers, Outcome, Raised, attempt

if TYPE_CHECKING:
    from distributed import Future, Security

Result = TypeVar("Result")

ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:\d+")
CONNECT_S = 10.0
# A chunk of jobs costs a cluster some milliseconds whatever is in it; in half a second that is a per cent or two.
CHUNK_S = 0.5
MAX_JOBS_A_CHUNK = 256
LOOK_S = 1.0  # how often a cluster is asked for workers that came and went
GATHER_S = 10.0  # an answer that is not here by then is looked for anew: its worker may be gone
GONE = "the scheduler is gone; the same command goes on from here, on another one"
# Processes that end one after another, with no answer between, do not end of the recordings.
MAX_LOST_IN_A_ROW = 20


@dataclass(frozen=True)
class Quarantined:
    """A job without an answer.

    Attributes:
        reason: why, for people.
        error: what it raised at the second try; None if it ended its process twice.
    """

    reason: str
    error: Exception | None = None

    def __str__(self) -> str:
        return self.reason


CRASHED = Quarantined("ended the process that worked on it, twice")


class Workers(Protocol):
    """Who works: ``processes.LocalWorkers`` and ``ClusterWorkers``."""

    @property
    def n_jobs_a_chunk(self) -> int: ...
    def has_room(self) -> bool: ...
    def give(self, ticket: int, chunk: list[JobArguments]) -> None: ...
    def wait(self) -> list[tuple[int, Outcome]]: ...
    def close(self) -> None: ...


Client = Any  # dask.distributed.Client, most of which has no types
_client: ContextVar[Client | None] = ContextVar("client", default=None)


@contextmanager
def cluster(address: str, *, security: "Security | None" = None) -> Iterator[None]:
    """Within this context whatever is spread runs on the workers of a dask scheduler.

    Args:
        address: ``tcp://HOST:PORT``, or ``tls://HOST:PORT``.
        security: certificates for TLS; default what dask's configuration names.

    Raises:
        ValueError: not such an address.
        RuntimeError: no scheduler answers there.
        ImportError: dask is not installed; with the install line.
    """
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"no scheduler's address: {address!r}; write tcp://HOST:PORT or tls://HOST:PORT")
    try:
        import distributed
    except ImportError as error:
        raise ImportError("a scheduler needs dask: pip install 'vagitus[scale]'") from error
    try:
        connect: Any = distributed.Client
        client = connect(address, timeout=CONNECT_S, security=security, set_as_default=False)
    except OSError as error:  # which a timeout is too
        raise RuntimeError(
            f"no scheduler answers at {address}; start one with `dask scheduler`, and workers with `dask worker`"
        ) from error
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)
        client.close()


def spread(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    n_workers: int = 1,
    *,
    long: bool = False,
) -> Generator[tuple[int, Result | Quarantined], None, None]:
    """Yield (index, ``function(*job)``) in order of completion, and keep the module's promises.

    Local workers are started afresh ("spawn"), so that a script calls this under
    ``if __name__ == "__main__"``.

    Args:
        function: of a module's top level, or a partial of one.
        jobs: arguments of one call each; read as workers become free.
        n_workers: processes; 1 works in this one, where a job that crashes takes all along. Within ``cluster``
            its workers count instead.
        long: jobs of seconds and more. They get processes of their own even if there is one, a worker of a
            cluster with several threads works on one at a time, none waits behind another, one that is tried
            again runs beside others, and leaving early does not wait for them.

    Raises:
        ValueError: ``n_workers`` is below 1.
        OSError: a job raised it, twice.
        RuntimeError: worker processes cannot start; the last 20 that did ended without an answer; or the cluster
            is gone or not set up alike.
    """
    if n_workers < 1:
        raise ValueError(f"n_workers must be 1 or more, got {n_workers}")
    client = _client.get()
    if client is not None:
        return _managed(lambda: ClusterWorkers(client, function, at_once=long), jobs, long)
    if n_workers == 1 and not long:
        return _here(function, jobs)
    return _managed(lambda: LocalWorkers(function, n_workers, at_once=long), jobs, long)


def _here(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]]
) -> Generator[tuple[int, Result | Quarantined], None, None]:
    for index, job in enumerate(jobs):
        [answer] = attempt(function, [job])
        if isinstance(answer, Raised):
            [answer] = attempt(function, [job])
        yield index, _judged(answer)


def _judged(answer: Any) -> Any:
    """The answer of a second try: itself, or what its exception means."""
    if not isinstance(answer, Raised):
        return answer
    if isinstance(answer.error, OSError):
        raise answer.error
    return Quarantined(" ".join(f"{type(answer.error).__name__}: {answer.error}".split()), answer.error)


class _Numbered(NamedTuple):
    number: int
    job: JobArguments


def _managed(
    start: Callable[[], Workers], jobs: Iterable[tuple[Any, ...]], long: bool
) -> Generator[tuple[int, Any], None, None]:
    workers = start()
    unread = (_Numbered(index, job) for index, job in enumerate(jobs))
    tickets = count()
    given: dict[int, list[_Numbered]] = {}
    returned: deque[list[_Numbered]] = deque()  # not their fault: to be given out again
    suspects: deque[_Numbered] = deque()  # what a process that ended was working on
    raised: set[int] = set()  # of the jobs in hand, those that raised once
    lost: set[int] = set()  # and those whose process ended once, of them or of another job in it
    n_lost_in_a_row = 0

    def give(chunk: list[_Numbered]) -> None:
        ticket = next(tickets)
        given[ticket] = chunk
        workers.give(ticket, [item.job for item in chunk])

    try:
        while True:
            if suspects and not long:  # alone
                if not given and workers.has_room():
                    give([suspects.popleft()])
            else:
                while workers.has_room():
                    if suspects:
                        chunk = [suspects.popleft()]
                    else:
                        chunk = (
                            returned.popleft() if returned else list(islice(unread, workers.n_jobs_a_chunk))
                        )
                    if not chunk:
                        break
                    give(chunk)
            if not given:
                return
            for ticket, outcome in workers.wait():
                chunk = given.pop(ticket)
                if outcome is Fate.UNTOUCHED:
                    returned.append(chunk)
                elif outcome is Fate.LOST:
                    n_lost_in_a_row += 1
                    if n_lost_in_a_row > MAX_LOST_IN_A_ROW:
                        raise RuntimeError(
                            f"{n_lost_in_a_row} worker processes ended one after another with nothing done; see "
                            "that they have memory enough, or try one recording with --workers 1"
                        )
                    for item in chunk:
                        if item.number in lost:
                            lost.discard(item.number)
                            raised.discard(item.number)
                            yield item.number, CRASHED
                        else:
                            lost.add(item.number)
                            suspects.append(item)
                else:
                    n_lost_in_a_row = 0
                    for item, answer in zip(chunk, outcome, strict=True):
                        if isinstance(answer, Raised) and item.number not in raised:
                            raised.add(item.number)
                            returned.append([item])
                        else:
                            raised.discard(item.number)
                            lost.discard(item.number)
                            yield item.number, _judged(answer)
    finally:
        workers.close()


# on a cluster


class _NotHeldError(Exception):
    """A worker was started anew since the function was sent to its address."""


_held: dict[str, Callable[..., Any]] = {}  # in a worker: functions by key, so that no job carries one


def _hold(key: str, function: Callable[..., Any], folder: str, version: str) -> str:
    """Run by a worker before its first job; gives what is wrong with it, "" for nothing."""
    if version != vagitus.__version__:
        return f"has vagitus {vagitus.__version__}, here it is {version}; install the same everywhere"
    try:
        os.chdir(folder)  # relative paths mean here what they mean where the run was started
    except OSError as error:
        return (
            f"cannot enter {folder} ({error.strerror}); the machines of a cluster need one file system, at the "
            "same paths"
        )
    _held[key] = function
    return ""


def _let_go(key: str) -> None:
    _held.pop(key, None)


def _work(key: str, chunk: list[JobArguments]) -> tuple[float, list[Any]]:
    """(seconds, answers) of a chunk."""
    function = _held.get(key)
    if function is None:
        raise _NotHeldError
    began = time.perf_counter()
    answers = attempt(function, chunk)
    return time.perf_counter() - began, answers


@dataclass
class _Slot:
    """A worker of the cluster, and the chunks given to it, in the order in which it does them."""

    n_threads: int
    tickets: list[int] = field(default_factory=list)


class ClusterWorkers:
    """The workers of a dask cluster, those that come later included. Arguments as ``LocalWorkers``.

    Raises:
        RuntimeError: a worker has another version or other files; the cluster is gone.
    """

    def __init__(self, client: Client, function: Callable[..., Any], *, at_once: bool) -> None:
        self._client, self._function = client, function
        self._at_once = at_once
        self._depth = 1 if at_once else 2
        self._key = uuid.uuid4().hex
        self._slots: dict[str, _Slot] = {}
        self._futures: dict[int, Future[Any]] = {}
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()  # filled by dask's threads
        self._finished: deque[int] = deque()  # what was in the queue and is to be fetched
        self._ended: list[tuple[int, Outcome]] = []  # of workers that went
        self._looked = -LOOK_S
        self._seconds_a_job = CHUNK_S

    @property
    def n_jobs_a_chunk(self) -> int:
        if self._at_once:
            return 1
        return max(1, min(MAX_JOBS_A_CHUNK, int(CHUNK_S / max(self._seconds_a_job, 1e-6))))

    def has_room(self) -> bool:
        """Waits as long as there is no worker at all: a cluster's queue may take its time."""
        self._look()
        while not self._slots and not self._ended:
            logging.getLogger(__name__).warning("waiting for workers at %s", self._client.scheduler.address)
            while not self._slots:
                time.sleep(LOOK_S)
                self._look()
        return any(len(slot.tickets) < self._depth * slot.n_threads for slot in self._slots.values())

    def give(self, ticket: int, chunk: list[JobArguments]) -> None:
        """Hand a chunk to the worker with the least to do a thread."""
        address = min(
            self._slots, key=lambda name: len(self._slots[name].tickets) / self._slots[name].n_threads
        )
        self._slots[address].tickets.append(ticket)
        future: Any = self._client.submit(
            _work,
            self._key,
            chunk,
            key=f"vagitus-{self._key}-{ticket}",
            pure=False,
            workers=[address],
            allow_other_workers=False,
        )
        self._futures[ticket] = future
        future.add_done_callback(lambda _: self._done.put(ticket))

    def wait(self) -> list[tuple[int, Outcome]]:
        while not self._ended:
            if not self._finished:
                try:
                    self._finished.append(self._done.get(timeout=LOOK_S))
                except queue.Empty:
                    self._look()
                    continue
            ticket = self._finished.popleft()
            if ticket in self._futures:  # else it was given up with its worker
                outcome = self._fetched(ticket)
                if outcome is not None:
                    return [(ticket, outcome)]
            self._look()
        found, self._ended = self._ended, []
        return found

    def _fetched(self, ticket: int) -> list[Any] | None:
        """The answers of a chunk that is done; None if they went with their worker."""
        from distributed import CancelledError, KilledWorker

        address = next(name for name, slot in self._slots.items() if ticket in slot.tickets)
        while True:
            future = self._futures.get(ticket)
            if future is None:
                return None
            try:
                seconds, answers = future.result(timeout=GATHER_S)
            except CancelledError as error:
                raise RuntimeError(GONE) from error
            except TimeoutError:
                self._finished.append(ticket)  # it was done: whatever its worker died of, it is not this
                self._look(now=True)
                if self._finished and self._finished[-1] == ticket:
                    self._finished.pop()
                continue
            except (_NotHeldError, KilledWorker):  # another process at its address
                self._drop(address)
                return None
            self._slots[address].tickets.remove(ticket)
            del self._futures[ticket]
            if answers:
                # The newest counts a quarter: jobs differ, and the first of a worker imports what it needs.
                self._seconds_a_job += (seconds / len(answers) - self._seconds_a_job) / 4
            return list(answers)

    def _look(self, *, now: bool = False) -> None:
        """See which workers came, and send them the function, and which went."""
        if not now and time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            n_threads: dict[str, int] = self._client.nthreads()
        except (OSError, TypeError) as error:
            raise RuntimeError(GONE) from error
        for address in set(self._slots) - set(n_threads):
            self._drop(address)
        new = sorted(set(n_threads) - set(self._slots))
        if not new:
            return
        told = self._client.run(
            _hold,
            self._key,
            self._function,
            str(Path.cwd()),
            vagitus.__version__,
            workers=new,
            on_error="return",
        )
        for address, problem in told.items():
            if problem == "":
                # A training seeds its process and sets its threads: a second in the same would draw other numbers.
                self._slots[address] = _Slot(1 if self._at_once else n_threads[address])
            elif isinstance(problem, str):
                raise RuntimeError(f"the worker at {address} {problem}")
            elif not isinstance(problem, OSError):  # one that went meanwhile is not looked for
                raise RuntimeError(f"the worker at {address} cannot be set up: {problem}") from problem

    def _drop(self, address: str) -> None:
        """Give up a worker's process: what it worked on is lost, what waited there was not touched."""
        while not self._done.empty():
            self._finished.append(self._done.get())
        slot = self._slots.pop(address)
        n_working = slot.n_threads
        for ticket in slot.tickets:
            future = self._futures.pop(ticket)
            was_done = ticket in self._finished
            self._ended.append((ticket, Fate.UNTOUCHED if was_done or n_working < 1 else Fate.LOST))
            n_working -= not was_done
            self._cancel([future])

    def _cancel(self, futures: "list[Future[Any]]") -> None:
        if self._client.status == "running":
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        self._cancel(list(self._futures.values()))
        if self._slots and self._client.status == "running":
            self._client.run(_let_go, self._key, workers=list(self._slots), on_error="ignore")
