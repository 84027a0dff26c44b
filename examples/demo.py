"""The main job on the best data at hand: a study of which recordings are usable cries.

Looks for donateacry under the data root ($VAGITUS_DATA, else ``../shared/data`` beside the
checkout), else fetches it (46 MB, pinned), else runs on simulated cries; says which.

    python examples/demo.py OUT
"""

import os
import subprocess
import sys
from pathlib import Path

from vagitus.corpora import fetch_corpus, find_corpus

BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"
FETCHED = Path("out") / "data"
FETCH_DEADLINE_S = 150.0  # the whole demo is to take minutes


def choose_data() -> list[str]:
    """The options of ``vagitus study`` that name the data."""
    for root in (os.environ.get("VAGITUS_DATA"), BESIDE_CHECKOUT, FETCHED):
        if root:
            try:
                folder = find_corpus("donateacry").find(root)
            except FileNotFoundError:
                continue
            print(f"demo: real recordings, donateacry in {folder}")
            return ["--corpus", "donateacry", "--root", str(root)]
    print("demo: no recordings under the data root; fetching donateacry (46 MB)")
    try:
        fetch_corpus("donateacry", FETCHED, deadline_s=FETCH_DEADLINE_S)
    except (OSError, ValueError) as error:
        print(f"demo: could not fetch it ({error}); on SIMULATED cries instead")
        return ["--corpus", "simulated"]
    return ["--corpus", "donateacry", "--root", str(FETCHED)]


def main() -> int:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out") / "demo"
    command = [sys.executable, "-m", "vagitus", "study", *choose_data(), "--quick", "--out", str(out)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
