"""Many jobs at once: in this process, in others, and on a LocalCluster, with workers killed on the way."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scale_jobs import (
    Heavy,
    beside,
    die_once,
    fail_once,
    fail_then_die,
    full_disk,
    hold,
    process,
    square,
    wait_for,
)

from vagitus.processes import LocalWorkers
from vagitus.scale import Quarantined, cluster, spread

DOCUMENTATION = Path(__file__).parents[1] / "docs" / "scale.md"


@pytest.fixture(params=["here", "processes", "cluster"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., dict[int, Any]]]:
    """``spread`` in each of the three ways; answers by index, and each index once."""

    def spread_all(function: Callable[..., Any], jobs: Any, **options: Any) -> dict[int, Any]:
        answers = list(spread(function, jobs, 1 if request.param == "here" else 2, **options))
        found = dict(answers)
        assert len(found) == len(answers)
        return found

    where: Any = nullcontext()
    if request.param == "cluster":
        where = cluster(request.getfixturevalue("local_cluster").scheduler_address)
    with where:
        yield spread_all


def test_every_job_is_answered_once(run: Callable[..., dict[int, Any]]) -> None:
    assert run(square, ((i,) for i in range(10))) == {i: i * i for i in range(10)}


def test_a_job_that_raises_twice_is_quarantined_with_its_reason(run: Callable[..., dict[int, Any]]) -> None:
    found = run(square, [(2,), (-3,), (4,)])
    assert found[0] == 4
    assert found[2] == 16
    assert isinstance(found[1], Quarantined)
    assert str(found[1]) == "ValueError: negative: -3"
    assert isinstance(found[1].error, ValueError)


def test_a_job_that_raises_once_is_answered(run: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    assert run(partial(fail_once, tmp_path), [(i,) for i in range(3)]) == {0: 0, 1: 1, 2: 2}


def test_a_full_disk_stops_everything(run: Callable[..., dict[int, Any]]) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        run(full_disk, [(1,)])


@pytest.mark.parametrize(
    ("run", "long"), [("processes", False), ("processes", True), ("cluster", False)], indirect=["run"]
)
def test_a_job_that_twice_ends_its_process_is_quarantined_and_no_other(
    run: Callable[..., dict[int, Any]], long: bool
) -> None:
    found = run(square, [(i,) for i in (1, 2, 13, 3, 4)], long=long)
    assert str(found.pop(2)) == "ended the process that worked on it, twice"
    assert found == {0: 1, 1: 4, 3: 9, 4: 16}


@pytest.mark.parametrize("run", ["processes"], indirect=True)
def test_a_job_whose_process_died_of_something_else_is_answered(
    run: Callable[..., dict[int, Any]], tmp_path: Path
) -> None:
    assert run(partial(die_once, tmp_path / "marker"), [(i,) for i in range(20)]) == {i: i for i in range(20)}


@pytest.mark.parametrize("run", ["processes"], indirect=True)
def test_a_process_that_ends_is_not_the_second_time_that_a_job_raised(
    run: Callable[..., dict[int, Any]], tmp_path: Path
) -> None:
    assert run(partial(fail_then_die, tmp_path), [(i,) for i in range(3)]) == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("run", ["processes", "cluster"], indirect=True)
def test_the_function_goes_to_each_worker_once_and_not_with_a_job(
    run: Callable[..., dict[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Heavy, "n_sent", 0)
    assert len(run(partial(hold, Heavy()), [(i,) for i in range(50)])) == 50
    assert Heavy.n_sent <= 2


@pytest.mark.parametrize("run", ["processes", "cluster"], indirect=True)
def test_how_far_it_reads_ahead_depends_on_the_workers(
    run: Callable[..., dict[int, Any]],
) -> None:
    n_read = 0

    def jobs() -> Iterator[tuple[int]]:
        nonlocal n_read
        for i in range(100_000):
            n_read += 1
            yield (i,)

    answers = spread(square, ((i + 100,) for (i,) in jobs()), 2)
    for _ in range(5):
        next(answers)
    answers.close()
    assert n_read < 2_000


def test_a_long_job_runs_in_a_process_of_its_own() -> None:
    assert dict(spread(process, [(1,)]))[0] == os.getpid()
    assert dict(spread(process, [(1,)], long=True))[0] != os.getpid()


def test_workers_that_all_die_are_no_fault_of_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vagitus.scale.MAX_LOST_IN_A_ROW", 1)
    with pytest.raises(RuntimeError, match="ended one after another with nothing done"):
        list(spread(square, [(13,)] * 9, 2))


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="n_workers must be 1 or more, got 0"):
        spread(square, [(1,)], 0)


def test_a_cluster_whose_worker_is_killed_loses_nothing(local_cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with local_cluster.get_client() as client, cluster(local_cluster.scheduler_address):
        victim = next(iter(client.run(os.getpid).values()))

        def kill() -> None:
            os.kill(victim, signal.SIGKILL)
            gate.touch()

        timer = threading.Timer(0.5, kill)
        timer.start()
        answers = list(spread(partial(wait_for, gate), ((i,) for i in range(300))))
    timer.join()
    assert sorted(answers) == [(i, i) for i in range(300)]


def test_a_worker_of_several_threads_works_on_one_long_job_at_a_time() -> None:
    import distributed

    start: Any = distributed.LocalCluster
    options = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None}
    with (
        start(n_workers=1, threads_per_worker=3, processes=False, **options) as local,
        cluster(local.scheduler_address),
    ):
        answers = sorted(spread(beside, [(i,) for i in range(6)], long=True))
    assert answers == [(i, 1) for i in range(6)]


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example[1])
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "features" / "index.json").exists()


@pytest.mark.parametrize("address", ["10.0.0.1:8786", "tcp://host", "file:///tmp/x", ""])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="write tcp://HOST:PORT"), cluster(address):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vagitus.scale.CONNECT_S", 0.3)
    with (
        pytest.raises(RuntimeError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"),
        cluster("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_worker_of_another_version_is_refused(local_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vagitus.__version__", "0.0.1")
    with (
        cluster(local_cluster.scheduler_address),
        pytest.raises(RuntimeError, match=r"has vagitus .*, here it is 0\.0\.1; install the same everywhere"),
    ):
        list(spread(square, [(1,)]))


def test_a_worker_without_work_ends_by_itself_and_is_sent_no_signal() -> None:
    workers = LocalWorkers(square, 1, at_once=True)
    workers.give(0, [(3,)])
    assert workers.wait() == [(0, [9])]
    process = workers._workers[0].process
    workers.close()
    assert process.exitcode == 0  # 143 of one that was asked to end
