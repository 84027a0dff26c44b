"""Run recipes and keep their results: ``python recipes/publish.py NAME ...`` (all without a name).

Each runs as ``vagitus study --recipe recipes/NAME.toml`` into out/NAME. Its results.jsonl lines, without
the training curves, go to recipes/results/NAME.jsonl; then the tables are made anew. Needs $VAGITUS_DATA.
"""

import json
import subprocess
import sys
from pathlib import Path

from tables import write_tables

from vagitus.files import write_atomic

RECIPES = Path(__file__).parent
ROOT = RECIPES.parent


def publish(name: str) -> None:
    """Run one recipe and keep its lines."""
    out = Path("out") / name
    # The path is relative and the data root comes from the environment: no path of this machine is recorded.
    command = ["vagitus", "study", "--recipe", f"recipes/{name}.toml", "--out", str(out)]
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True, cwd=ROOT)
    lines = [json.loads(line) for line in (ROOT / out / "results.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "history"} for line in lines]
    write_atomic(RECIPES / "results" / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


if __name__ == "__main__":
    for chosen in sys.argv[1:] or sorted(path.stem for path in RECIPES.glob("*.toml")):
        publish(chosen)
    write_tables()
