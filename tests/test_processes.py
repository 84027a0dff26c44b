import os
import signal
from pathlib import Path

import pytest

from vagitus.processes import in_processes


def square(value: int) -> int:
    if value == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if value < 0:
        raise ValueError(f"negative: {value}")
    return value * value


def die_once(marker: Path, value: int) -> int:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_job_is_answered_once(n_workers: int) -> None:
    answers = list(in_processes(square, ((i,) for i in range(10)), n_workers))
    assert sorted(answers) == [(i, i * i) for i in range(10)]


def test_a_job_that_kills_its_process_is_told_and_the_others_are_done() -> None:
    jobs = [(1,), (2,), (13,), (3,), (13,), (4,)]
    assert dict(in_processes(square, jobs, 2)) == {0: 1, 1: 4, 2: None, 3: 9, 4: None, 5: 16}


def test_a_job_is_tried_again_when_its_process_died_of_something_else(tmp_path: Path) -> None:
    jobs = [(tmp_path / "marker", 7), (tmp_path / "marker", 8)]
    assert dict(in_processes(die_once, jobs, 2)) == {0: 7, 1: 8}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_exception_is_raised_here(n_workers: int) -> None:
    with pytest.raises(ValueError, match="negative: -1"):
        list(in_processes(square, [(-1,)], n_workers))


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="n_workers must be 1 or more, got 0"):
        in_processes(square, [(1,)], 0)
