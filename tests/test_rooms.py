"""Imports run one way through the rooms of the package, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import vagitus

PACKAGE = Path(vagitus.__file__).parent
# The way a sound goes. A room may import only the rooms above it.
ORDER = [
    "files processes scale audio features frontend windows fingerprint segment pitch augment",
    "manifest splits metrics statistics cycles calibration fetch corpora losses ranks tensor_train models",
    "dataset checkpoint shards encoders training compression transfer views pretrain adapt verification trials",
    "store events arms robustness shift",
    "shortcuts audit config plan jobs results integrity gains evaluate study sites plots outcome figures report",
    "robustness_page parity onnx_graph export export_c predict stream serve",
    "cli_scale cli_device cli_adapt cli_verify cli_integrity cli __main__",
]
ROOMS = [room for line in ORDER for room in line.split()]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vagitus."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "vagitus":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vagitus.")}
    return found


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room == "__init__":
            continue
        assert room in ROOMS, f"{path.name}: a room without a place in the order"
        later = {other for other in imported_rooms(path) - {room} if ROOMS.index(other) >= ROOMS.index(room)}
        wrong += [f"{path.relative_to(PACKAGE)} imports {other}" for other in sorted(later)]
    assert wrong == []


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = "torch sklearn pandas scipy.signal matplotlib onnxruntime av lightning_fabric dask"
    code = f"import sys, vagitus.cli; print([m for m in {heavy.split()!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
