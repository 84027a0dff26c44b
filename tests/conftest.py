"""Where the real recordings are, $VAGITUS_DATA or else ``../shared/data`` beside the checkout; the command line."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import Command, Run

BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


def find_data_root() -> Path | None:
    root = Path(os.environ.get("VAGITUS_DATA") or BESIDE_CHECKOUT)
    return root.resolve() if root.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_data_root() is None:
        skip = pytest.mark.skip(
            reason="no real recordings: set VAGITUS_DATA to the folder that holds the corpora"
        )
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = find_data_root()
    if root is None:
        pytest.skip("no real recordings: set VAGITUS_DATA to the folder that holds the corpora")
    return root


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[Any]:
    """A dask cluster of two worker processes on this machine, on the loopback interface."""
    import distributed

    start: Any = distributed.LocalCluster
    options = {"host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0}
    with start(n_workers=2, threads_per_worker=1, **options) as cluster:
        yield cluster


@pytest.fixture
def vagitus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command within this process, which spares a second of imports for every call."""

    def run(*words: str | Path) -> Run:
        from vagitus import cli

        monkeypatch.setattr(sys, "argv", ["vagitus", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert isinstance(done.value.code, int)
        return Run(done.value.code, *capsys.readouterr())

    return run
