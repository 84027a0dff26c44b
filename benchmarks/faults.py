"""Faults injected into runs, and what was lost: ``python benchmarks/faults.py [FAULT ...]``.

Each fault has an unbroken run of the same command beside it, in another folder and with a cache of its own. What is
broken is started again as its user would, with the same words, until it ends; then what both wrote is compared byte
by byte, but for times in results.jsonl. "Nothing" in the column lost means that every output is there and equal.

The recordings are simulated and the trainings short: what is measured is not how good a model is. Moments to kill at
are drawn with a seed, between the first file that a run leaves and its end. Lines of kind "faults" go to
``benchmarks/results/faults.jsonl``, one a fault; those that were not asked for stay.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vagitus.corpora.simulated import generate
from vagitus.files import write_atomic
from vagitus.manifest import write_manifest

RESULTS = Path(__file__).parent / "results" / "faults.jsonl"
TIMES = (
    "when",
    "seconds",
    "command",
)  # of a line of results.jsonl: what two runs of one command may differ in
LIMIT_S = 300.0
# Too small for a table of features; for that but not for the state of a network.
SMALL_DISK_BYTES, STATE_DISK_BYTES = 150_000, 1_200_000

STUDY = """
data = "{manifest}"
arms = ["prevalence", "logmel+ridge", "scratch"]
n_folds = 2
n_resamples = 100
[budget]
n_inner_folds = 2
n_members = 1
[budget.train]
epochs = 6
batch_size = 8
window_s = 0.5
"""
# Without a network, whose imports and export take most of a short study's time.
LIGHT = """
data = "{manifest}"
arms = ["prevalence", "logmel+ridge"]
n_folds = 3
n_resamples = 100
[budget]
n_inner_folds = 2
n_members = 1
"""
PRETRAIN = """
data = ["{manifest}"]
task = "speakers"
[train]
epochs = 20
optimizer = "sgd"
lr = 0.01
batch_size = 8
window_s = 0.5
precision = "32-true"
"""
BY_TWO = "pretrain by two"  # processes
WORDS = {
    "study": ["study", "--recipe", "study.toml", "--out", "out", "--no-audio"],
    "light study": ["study", "--recipe", "light.toml", "--out", "out", "--no-audio"],
    "pretrain": ["pretrain", "--recipe", "pretrain.toml", "--out", "source.safetensors"],
    BY_TWO: ["pretrain", "--recipe", "pretrain.toml", "--out", "source.safetensors"],
    "train": ["train", "north.csv", "--root", "../audio", "--quick", "--out", "model.safetensors"],
    "adapt": [
        *[
            "adapt",
            "north.safetensors",
            "--source",
            "north.csv",
            "--target",
            "south.csv",
            "--root",
            "../audio",
        ],
        *["--method", "safn", "--out", "adapted.safetensors"],
    ],
}
STUDIED = ("predictions.csv", "results.jsonl", "model.safetensors", "audit.json", "recipe.toml", "inputs.csv")
PRODUCTS = {
    "study": [f"out/{name}" for name in STUDIED],
    "light study": [f"out/{name}" for name in STUDIED if name != "model.safetensors"],
    "pretrain": ["source.safetensors"],
    BY_TWO: ["source.safetensors"],
    "train": ["model.safetensors"],
    "adapt": ["adapted.safetensors"],
}


@dataclass
class Place:
    """A folder in which one command runs, with its cache."""

    folder: Path
    verb: str

    def words(self) -> list[str]:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        cache = ["--cache", "cache", "--workers", "2" if self.verb == "study" else "1"]
        return [
            sys.executable,
            *(start if self.verb == BY_TWO else []),
            "-m",
            "vagitus",
            *WORDS[self.verb],
            *cache,
        ]

    def start(self, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, **options: Any) -> tuple[int, str]:
        """Its status and the last line that it said."""
        process = self.start(**options)
        _, said = process.communicate(timeout=LIMIT_S)
        own = [line for line in said.splitlines() if line.startswith("vagitus: ")]
        return process.returncode, (own or said.splitlines() or [""])[-1].removeprefix("vagitus: ")

    def outputs(self) -> dict[str, str]:
        """A hash of each product that is there."""
        found = {}
        for name in PRODUCTS[self.verb]:
            path = self.folder / name
            if path.is_file():
                data = path.read_bytes()
                if path.suffix == ".jsonl":
                    lines = [json.loads(line) for line in data.splitlines()]
                    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
                    data = json.dumps(kept).encode()
                found[name] = hashlib.blake2b(data, digest_size=16).hexdigest()
        return found

    def written(
        self, pattern: str, before: frozenset[tuple[Path, int]] = frozenset()
    ) -> frozenset[tuple[Path, int]]:
        """The files and when each was written, without those of ``before``."""
        found = set()
        for path in self.files(pattern):
            with suppress(FileNotFoundError):  # replaced just now
                found.add((path, path.stat().st_mtime_ns))
        return frozenset(found) - before

    def files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(pattern) if path.is_file())


class Bench:
    """The recordings, the unbroken runs and a new place for every fault."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole = folder, dict[str, Place]()
        self.n_places = 0
        options = {"n_recordings_per_subject": 2, "duration_s": 1.0, "sample_rate_hz": 8000, "effect": 2.0}
        self.manifest = generate(folder / "audio", n_subjects=24, **options)  # type: ignore[arg-type]

    def place(self, verb: str) -> Place:
        folder = self.folder / str(self.n_places)
        self.n_places += 1
        folder.mkdir()
        for name, text in (("study", STUDY), ("light", LIGHT), ("pretrain", PRETRAIN)):
            path = self.manifest.root / "manifest.csv"
            (folder / f"{name}.toml").write_text(text.format(manifest=path))
        for site in self.manifest.site_names:
            rows = self.manifest.select(self.manifest.site == site)
            write_manifest(rows, folder / f"{site}.csv", root=self.manifest.root)
        if verb == "adapt":
            source = self.unbroken("train").folder / "model.safetensors"
            shutil.copy(source, folder / "north.safetensors")
        return Place(folder, verb)

    def unbroken(self, verb: str) -> Place:
        if verb not in self.whole:
            place = self.whole[verb] = self.place(verb)
            status, said = place.run()
            if status:
                raise RuntimeError(f"{verb}: {said}")
        return self.whole[verb]

    def lost(self, place: Place) -> str:
        """Names of what is not as in the unbroken run."""
        expected, found = self.unbroken(place.verb).outputs(), place.outputs()
        wrong = [Path(name).name for name in expected if found.get(name) != expected[name]]
        return ", ".join(wrong) or "nothing"


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> bool:
    """Whether the condition held before the process ended."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        if condition():
            return True
        time.sleep(0.01)
    return False


def end(process: subprocess.Popen[str], pid: int | None = None) -> None:
    """Kill -9, of the process or of one that it started, and wait for its end."""
    os.kill(pid or process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)


def children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def killed(
    bench: Bench, verb: str, pattern: str, seed: int, *, n_kills: int = 2, within_s: float = 0.5
) -> dict[str, Any]:
    """Kill -9 at random moments after the first file of ``pattern`` is there; start again after each."""
    rng, place, n_killed = random.Random(seed), bench.place(verb), 0
    kept: list[int] = []
    for _ in range(n_kills):
        is_new = partial(place.written, pattern, place.written(pattern))
        process = place.start()
        if wait_for(is_new, process):
            time.sleep(rng.uniform(0, within_s))
        if process.poll() is None:
            end(process)
            n_killed += 1
        else:
            process.communicate()
        kept.append(len(place.files(pattern)))
    status, said = place.run()
    return {
        "where": f"{verb}, kill -9 {n_killed} times, each started again",
        "seen": f"status {status}" + (f": {said}" if status else f"; {kept[-1]} files of work kept"),
        "lost": bench.lost(place),
    }


def study_killed(bench: Bench) -> dict[str, Any]:
    return killed(bench, "study", "out/work/*.safetensors", 1, n_kills=3, within_s=1.5)


def pretraining_killed(bench: Bench) -> dict[str, Any]:
    return killed(bench, "pretrain", "source-work/*.state", 2)


def training_killed(bench: Bench) -> dict[str, Any]:
    return killed(bench, "train", "model-work/*state*", 3)


def adaptation_killed(bench: Bench) -> dict[str, Any]:
    return killed(bench, "adapt", "adapted-work/*.npy", 4)


def featurising_killed(bench: Bench) -> dict[str, Any]:
    place = bench.place("pretrain")
    process = place.start()
    wait_for(lambda: len(place.files("cache/*/*/*.npy")) >= 10, process)
    end(process)
    done = {path: path.stat().st_mtime_ns for path in place.files("cache/*/*/[!.]*.npy")}
    status, _ = place.run()
    again = sum(path.stat().st_mtime_ns != written for path, written in done.items())
    return {
        "where": "pretrain, kill -9 while features are computed",
        "seen": f"status {status}; {len(done)} recordings were done, {again} of them were computed again",
        "lost": bench.lost(place),
    }


def worker_lost(bench: Bench) -> dict[str, Any]:
    place = bench.place("study")
    process = place.start()
    victims: list[int] = []

    def busy() -> bool:
        found = [pid for pid in children(process.pid) if is_worker(pid)]
        victims[:] = found
        return bool(found) and bool(place.files("out/work/*.safetensors"))

    wait_for(busy, process)
    os.kill(victims[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT_S)
    first = process.returncode
    last = said.splitlines()[-1] if first else ""
    status = place.run()[0] if first else first
    return {
        "where": "study, kill -9 of one of its two worker processes",
        "seen": f"status {first}{': ' + last if last else ', the job was given to another'}"
        + (f"; started again: {status}" if first else ""),
        "lost": bench.lost(place),
    }


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def rank_lost(bench: Bench) -> dict[str, Any]:
    place = bench.place(BY_TWO)
    process = place.start()
    wait_for(lambda: place.files("source-work/*.state"), process)
    ranks = [pid for pid in children(process.pid) if b"vagitus" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    end(process, ranks[-1])
    status, _ = place.run()
    return {
        "where": "pretrain by torchrun on two processes, kill -9 of one of them",
        "seen": f"torchrun ended with {process.returncode}; started again, by two: {status}",
        "lost": bench.lost(place),
    }


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[str]:
    """A file system of so many bytes at ``folder`` if we may mount one; says what it is, "" if we may not."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={n_bytes}"
    words = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, check=False)
    try:
        yield f"a file system of {n_bytes // 1000} kB" if mounted.returncode == 0 else ""
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


def limit_files(n_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def disk_full(bench: Bench, verb: str, out: str, n_bytes: int = SMALL_DISK_BYTES) -> dict[str, Any]:
    place = bench.place(verb)
    with small_disk(place.folder / out, n_bytes) as disk:
        status, said = place.run(preexec_fn=None if disk else partial(limit_files, n_bytes))
        parts = len([path for path in place.folder.rglob("*") if path.name.startswith(".partial-")])
        if disk:  # room is made: the same folder, with what stands in it, on a larger disk
            shutil.copytree(place.folder / out, place.folder / "saved", dirs_exist_ok=True)
    if disk:
        shutil.rmtree(place.folder / out)
        (place.folder / "saved").rename(place.folder / out)
    again, _ = place.run()
    return {
        "where": f"{verb} into {disk or f'files of at most {n_bytes // 1000} kB'}; then with room",
        "seen": f"status {status}: {shortened(said, place)}; {parts} parts of files left; started again: {again}",
        "lost": bench.lost(place),
    }


def shortened(said: str, place: Place) -> str:
    return said.replace(f"{place.folder}/", "")[:120]


def study_on_full_disk(bench: Bench) -> dict[str, Any]:
    return disk_full(bench, "light study", "out")


def pretraining_on_full_disk(bench: Bench) -> dict[str, Any]:
    return disk_full(bench, "pretrain", "source-work", STATE_DISK_BYTES)


def cache_on_full_disk(bench: Bench) -> dict[str, Any]:
    return disk_full(bench, "train", "cache")


def output_refused(bench: Bench) -> dict[str, Any]:
    place = bench.place("light study")
    (place.folder / "out").write_text("mine")
    status, said = place.run()
    stays, is_early = (place.folder / "out").read_text() == "mine", not (place.folder / "cache").exists()
    (place.folder / "out").unlink()
    again, _ = place.run()
    return {
        "where": "study, --out cannot be written (a file stands there)",
        "seen": f"status {status}{' before a recording was read' if is_early else ''}: {shortened(said, place)}; the "
        f"file {'stays' if stays else 'was changed'}; started again without it: {again}",
        "lost": bench.lost(place),
    }


def two_runs(bench: Bench) -> dict[str, Any]:
    place = bench.place("light study")
    first = place.start()
    wait_for(lambda: place.files("out/work/*.npy"), first)
    status, said = place.run()
    first.communicate(timeout=LIMIT_S)
    named = f"process {first.pid} on " in said
    return {
        "where": "study, a second one on the same folder while the first runs",
        "seen": f"the second: status {status}, {'names' if named else 'does not name'} the first's process, machine "
        f"and beginning; the first: status {first.returncode}",
        "lost": bench.lost(place),
    }


def clock_set_back(bench: Bench) -> dict[str, Any]:
    place = bench.place("light study")
    process = place.start()
    wait_for(lambda: len(place.files("out/work/*.safetensors")) >= 2, process)
    end(process)
    ten_years_on = time.time() + 10 * 365 * 86400
    for path in place.folder.rglob("*"):
        os.utime(path, (ten_years_on, ten_years_on))
    done = place.files("out/work/*.safetensors")
    status, _ = place.run()
    kept = sum(path.stat().st_mtime > time.time() + 86400 for path in done)
    return {
        "where": "study, killed; then every file it left is dated ten years ahead, as after a clock set back",
        "seen": f"status {status}; {kept} of {len(done)} jobs that were done are used and not done again",
        "lost": bench.lost(place),
    }


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cache_damaged(bench: Bench) -> dict[str, Any]:
    place = bench.place("pretrain")
    place.run()
    (place.folder / "source.safetensors").unlink()
    entries = place.files("cache/*/*/[!.]*.npy")[:2]
    whole = [entry.read_bytes() for entry in entries]
    flip(entries[0])
    entries[1].write_bytes(entries[1].read_bytes()[:100])
    status, _ = place.run()
    return {
        "where": "pretrain, of two features in the cache one has a wrong bit and one is cut short",
        "seen": f"status {status}, {sum(e.read_bytes() == was for e, was in zip(entries, whole, strict=True))} of 2 "
        "computed again",
        "lost": bench.lost(place),
    }


def job_damaged(bench: Bench) -> dict[str, Any]:
    place = bench.place("light study")
    place.run()
    flip(next(path for path in place.files("out/work/*.safetensors") if "ridge" in path.name))
    status, said = place.run()
    damaged = next(path for path in place.files("out/work/*.safetensors") if path.name in said)
    damaged.unlink()
    again, _ = place.run()
    return {
        "where": "study, one bit of a job's scores that a second run would use",
        "seen": f"status {status}: names the file; without it: {again}",
        "lost": bench.lost(place),
    }


def files_changed(bench: Bench) -> dict[str, Any]:
    place = bench.place("study")
    place.run()
    words = [sys.executable, "-m", "vagitus", "verify-run", "out", "--json"]

    def look() -> tuple[int, set[tuple[str, str]]]:
        run = subprocess.run(words, cwd=place.folder, capture_output=True, text=True, check=False)
        return run.returncode, {(f["file"], f["problem"]) for f in json.loads(run.stdout)["findings"]}

    before, _ = look()
    flip(place.folder / "out" / "model.safetensors")
    (place.folder / "out" / "report.html").unlink()
    lines = [json.loads(line) for line in (place.folder / "out" / "results.jsonl").read_text().splitlines()]
    next(line for line in lines if line["kind"] == "summary")["metrics"]["uar"]["estimate"] = 0.99
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place.folder / "out" / "results.jsonl").write_text(text)
    status, found = look()
    expected = {
        ("model.safetensors", "changed"),
        ("report.html", "missing"),
        ("results.jsonl", "changed"),
        ("results.jsonl", "disagrees"),
    }
    place.run()
    return {
        "where": "study, done: a bit of the model, the report deleted, a figure made better by hand",
        "seen": f"verify-run: {before} before; then {status}, {len(found & expected)} of {len(expected)} named; the "
        "study's command again",
        "lost": bench.lost(place),
    }


FAULTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "a study is killed": study_killed,
    "a worker is killed": worker_lost,
    "a pretraining is killed": pretraining_killed,
    "a process of two is killed": rank_lost,
    "featurising is killed": featurising_killed,
    "a training is killed": training_killed,
    "an adaptation is killed": adaptation_killed,
    "the disk is full: results": study_on_full_disk,
    "the disk is full: state": pretraining_on_full_disk,
    "the disk is full: cache": cache_on_full_disk,
    "the output cannot be written": output_refused,
    "two runs on one folder": two_runs,
    "the clock is set back": clock_set_back,
    "the cache is damaged": cache_damaged,
    "a job's scores are damaged": job_damaged,
    "outputs are changed": files_changed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="default all: " + "; ".join(FAULTS))
    chosen = parser.parse_args().faults or list(FAULTS)
    for unknown in set(chosen) - set(FAULTS):
        parser.error(f"no fault {unknown!r}; choose from {', '.join(FAULTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in chosen:
            began = time.monotonic()
            made = {"kind": "faults", "fault": name, **FAULTS[name](bench)}
            made["seconds"] = round(time.monotonic() - began, 1)
            print(json.dumps(made), flush=True)
            known = RESULTS.read_text().splitlines() if RESULTS.exists() else []
            lines = {line["fault"]: line for line in [*map(json.loads, known), made]}
            ordered = [lines[fault] for fault in FAULTS if fault in lines]
            write_atomic(RESULTS, "".join(json.dumps(line) + "\n" for line in ordered))


if __name__ == "__main__":
    main()
