"""Where the real recordings are: $VAGITUS_DATA, else ``../shared/data`` beside the checkout."""

import os
from pathlib import Path

import pytest

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
