"""What a command run within the test's own process gives; the fixture ``vagitus`` runs it."""

from pathlib import Path
from typing import NamedTuple, Protocol


class Run(NamedTuple):
    status: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *words: str | Path) -> Run: ...
