"""Jobs for worker processes, apart from the tests: a process starts with this module and nothing heavy."""

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(value: int) -> int:
    if value == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if value < 0:
        raise ValueError(f"negative: {value}")
    return value * value


def fail_once(folder: Path, value: int) -> int:
    if not (folder / f"{value}").exists():
        (folder / f"{value}").touch()
        raise ValueError("only now")
    return value


def die_once(marker: Path, value: int) -> int:
    if value == 7 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def fail_then_die(folder: Path, value: int) -> int:
    if (folder / f"{value}").exists() and value == 1 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return fail_once(folder, value)


def full_disk(_: int) -> int:
    raise OSError(28, "No space left on device", "cache")


def process(_: int) -> int:
    return os.getpid()


class Heavy:
    """What a function holds; counts how often it is sent."""

    n_sent = 0

    def __reduce__(self) -> Any:
        type(self).n_sent += 1
        return Heavy, ()


def hold(_: Heavy, value: int) -> int:
    return value


at_work: set[int] = set()


def beside(value: int) -> int:
    """How many of these this process worked on at once, long enough to be met."""
    at_work.add(value)
    time.sleep(0.05)
    n_at_once = len(at_work)
    at_work.discard(value)
    return n_at_once


def wait_for(path: Path, value: int) -> int:
    while not path.exists():
        time.sleep(0.01)
    return value


def crash_at(name: str, tried: Path, *job: Any) -> Any:
    """Write a shard in a process whose decoder ends it at one recording; says in ``tried`` when it did."""
    from vagitus import shards as module

    shards: Any = module
    whole = shards.featurise_file

    def decode(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            with tried.open("a") as said:
                said.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(path, *arguments, **options)

    shards.featurise_file = decode
    return shards._write_shard(*job)


def unreadable(name: str, tried: Path, *job: Any) -> Any:
    """Write a shard in a process whose disk cannot read one recording; says in ``tried`` when it was asked to."""
    from vagitus import shards as module

    shards: Any = module
    whole = shards.content_hash

    def content_hash(path: Path) -> Any:
        if path.name == name:
            with tried.open("a") as said:
                said.write(f"{name}\n")
            raise OSError(5, "Input/output error", str(path))
        return whole(path)

    shards.content_hash = content_hash
    return shards._write_shard(*job)
