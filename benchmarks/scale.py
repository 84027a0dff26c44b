"""Time and memory against recordings and workers: ``python benchmarks/scale.py --json benchmarks/results/scale.jsonl``.

    featurising   1,000, 10,000 and 100,000 recordings of a second at 8 kHz into shards (``vagitus featurise``), by one
                  process; 10,000 by 1, 2 and 4
    cluster       the 100,000 again on a LocalCluster of two workers, of which one is killed midway: every recording
                  must be there once, and every shard the same bit by bit
    overhead      what handing out a shard costs the driver and the scheduler: 300 jobs of a thousand names each that
                  do nothing, on the same cluster
    study         a whole study with the ridge on log-mel, of 1,000 and 10,000 recordings

Each run is a process of its own, whose highest memory (VmHWM) is the driver's; its workers' is read while they work.
CPU seconds are of the driver and its workers (of a cluster: of the driver alone, the workers' being read from /proc),
wall seconds of a machine that does other things as well.

The recordings are seconds of simulated cries: 250 cries of 12 s, each cut at 400 places, so that no two files are
alike. A study's are simulated one by one, since its audit would find the overlaps.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile

from vagitus.corpora.simulated import generate
from vagitus.features import PRESETS
from vagitus.manifest import Manifest, build_manifest, read_manifest, write_manifest
from vagitus.processes import n_processors
from vagitus.scale import cluster, spread
from vagitus.shards import Shards, check_shards, open_shards, write_shards

RATE_HZ = 8000
CRY_S, N_CRIES, N_CUTS = 12.0, 250, 400
SIZES = (1_000, 10_000, 100_000)
STUDY_SIZES = (1_000, 10_000)
WORKERS = (1, 2, 4)
N_JOBS = 300
FRONT_END = PRESETS["mfcc40"]
HERTZ = os.sysconf("SC_CLK_TCK")


def record(folder: Path, n: int) -> None:
    """``n`` recordings of a second below ``folder``, 400 to a folder, and their manifest."""
    cries = generate(
        folder / "cries",
        n_subjects=min(N_CRIES, -(-n // N_CUTS)),
        n_recordings_per_subject=1,
        duration_s=CRY_S,
        sample_rate_hz=RATE_HZ,
    )
    rows = []
    for i in range(n):
        cry, cut = divmod(i, N_CUTS)
        if cut == 0:
            x, _ = soundfile.read(cries.file(cry), dtype="int16")
            (folder / f"{cry:03d}").mkdir(exist_ok=True)
        start = cut * (len(x) - RATE_HZ) // N_CUTS
        rows.append({"path": f"{cry:03d}/{cut:03d}.wav", "subject": f"s{cry:03d}"})
        soundfile.write(folder / rows[-1]["path"], x[start : start + RATE_HZ], RATE_HZ, subtype="PCM_16")
    write_manifest(build_manifest(rows, folder, "seconds", simulated=True), folder / "manifest.csv")


def high_water_mb(pid: int | str = "self") -> float:
    """Highest resident memory of a process so far, MB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_s_of(pid: int) -> float:
    """CPU seconds of a process so far; 0 if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(words[11]) + int(words[12])) / HERTZ


class Watch:
    """Highest memory and CPU time of worker processes, seen each time a shard is done; kills one when told to."""

    def __init__(self, pids: Callable[[], list[int]], kill_after: int) -> None:
        self.pids, self.kill_after = pids, kill_after
        self.memory_mb, self.killed = 0.0, 0
        self.cpu_s: dict[int, float] = {}

    def __call__(self, line: str) -> None:
        pids = self.pids()
        self.memory_mb = max(self.memory_mb, *map(high_water_mb, pids))
        self.cpu_s |= {pid: max(cpu_s_of(pid), self.cpu_s.get(pid, 0.0)) for pid in pids}
        if self.kill_after and int(line.split("/", maxsplit=1)[0]) >= self.kill_after and not self.killed:
            self.killed = pids[0]
            os.kill(self.killed, signal.SIGKILL)


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def featurise(folder: Path, out: Path, n_workers: int, scheduler: str) -> dict[str, Any]:
    """One run, in this process; with a scheduler one of its workers is killed midway."""
    manifest = read_manifest(folder / "manifest.csv")
    idle_mb = high_water_mb()
    began, cpu_began = time.perf_counter(), time.process_time()
    pids: Callable[[], list[int]] = children
    where: Any = nullcontext()
    if scheduler:
        import distributed

        connect: Any = distributed.Client
        client = connect(scheduler, set_as_default=False)
        pids = lambda: list(client.run(os.getpid, on_error="ignore").values())  # noqa: E731
        where = cluster(scheduler)
    watch = Watch(pids, len(manifest) // 2 if scheduler else 0)
    with where:
        shards = write_shards(manifest, FRONT_END, out, n_workers=n_workers, announce=watch)
    workers_cpu_s = sum(watch.cpu_s.values())
    if not scheduler:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        workers_cpu_s = used.ru_utime + used.ru_stime
    return {
        "n_recordings": len(shards),
        "wall_s": time.perf_counter() - began,
        "driver_cpu_s": time.process_time() - cpu_began,
        "workers_cpu_s": workers_cpu_s,
        "manifest_mb": idle_mb,
        "driver_mb": high_water_mb(),
        "worker_mb": watch.memory_mb,
        "n_killed": int(watch.killed > 0),
    }


def hand_out(n_jobs: int, scheduler: str) -> dict[str, Any]:
    """Jobs as large as a shard's that do nothing: what is left is the cost of handing them out."""
    jobs = ([(f"{k:03d}/{i:03d}.wav", 0.0, None) for i in range(1000)] for k in range(n_jobs))
    with cluster(scheduler):
        began = time.process_time()
        n_done = sum(1 for _ in spread(len, ((listed,) for listed in jobs), long=True))
        return {"n_jobs": n_done, "driver_cpu_s": time.process_time() - began}


def study(n: int, folder: Path) -> dict[str, Any]:
    """One study of ``n`` simulated recordings, five of each subject."""
    from vagitus.plan import QUICK, StudyConfig
    from vagitus.study import run_study

    manifest = generate(
        folder / "audio",
        n_subjects=n // 5,
        n_recordings_per_subject=5,
        duration_s=1.0,
        sample_rate_hz=RATE_HZ,
    )
    config = StudyConfig(data="manifest.csv", arms=("logmel+ridge",), n_folds=3, budget=QUICK)
    began, cpu_began = time.perf_counter(), time.process_time()
    stages: list[tuple[float, str]] = []

    def announce(line: str) -> None:
        stages.append((time.perf_counter() - began, line.split(" ", maxsplit=1)[0]))

    run_study(
        config,
        manifest,
        folder / "out",
        positive="case",
        cache=folder / "cache",
        command="benchmarks/scale.py",
        n_workers=2,
        announce=announce,
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s = time.perf_counter() - began
    at_s = {stage: at for at, stage in reversed(stages)}
    return {
        "n_recordings": len(manifest),
        "wall_s": wall_s,
        "driver_cpu_s": time.process_time() - cpu_began,
        "workers_cpu_s": used.ru_utime + used.ru_stime,
        "audit_s": at_s["computing"] - at_s["auditing"],
        "driver_mb": high_water_mb(),
    }


def same(a: Shards, b: Shards) -> bool:
    """Whether two runs wrote the same files."""
    return a.lines == b.lines and all(
        (a.folder / line.file).read_bytes() == (b.folder / line.file).read_bytes() for line in a.lines
    )


def counted(manifest: Manifest, shards: Shards) -> dict[str, int]:
    """How many recordings are there, how many once, in the manifest's order and with contents of their own."""
    rows = list(shards.rows())
    in_order = sum(row.path == path for row, path in zip(rows, manifest.path.tolist(), strict=True))
    return {
        "n_rows": len(rows),
        "n_in_place": in_order,
        "n_contents": len({row.content for row in rows}),
        "n_without_features": sum(row.problem != "" for row in rows),
        "n_damaged_shards": len(list(check_shards(shards.folder))),
    }


def alone(*words: object) -> dict[str, Any]:
    """Run this file with ``words`` in a process of its own; what it prints last."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def benchmark(work: Path, sizes: tuple[int, ...], say: Callable[[dict[str, Any]], None]) -> None:
    import distributed

    start_cluster: Any = distributed.LocalCluster
    about = {"kind": "scale", "n_processors": n_processors(), "distributed": version("distributed")}
    for n in sizes:
        record(work / f"{n}", n)
        found = alone("--one", work / f"{n}", "--out", work / f"{n}-1")
        say(about | {"what": "featurising", "how": "processes", "n_workers": 1} | found)
    middle = sizes[len(sizes) // 2]
    for n_workers in WORKERS[1:]:
        out = work / f"{middle}-{n_workers}"
        found = alone("--one", work / f"{middle}", "--out", out, "--workers", n_workers)
        equal = same(open_shards(out), open_shards(work / f"{middle}-1"))
        say(
            about | {"what": "featurising", "how": "processes", "n_workers": n_workers, "same": equal} | found
        )
    largest = sizes[-1]
    with start_cluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
    ) as made:
        began = time.process_time()
        out = work / f"{largest}-cluster"
        found = alone("--one", work / f"{largest}", "--out", out, "--scheduler", made.scheduler_address)
        found["scheduler_cpu_s"] = time.process_time() - began
        began = time.process_time()
        handed = alone("--jobs", N_JOBS, "--scheduler", made.scheduler_address)
        handed["scheduler_cpu_s"] = time.process_time() - began
        say(about | {"what": "overhead", "how": "LocalCluster", "n_workers": 2} | handed)
    shards = open_shards(out)
    manifest = read_manifest(work / f"{largest}" / "manifest.csv")
    found |= counted(manifest, shards) | {"same": same(shards, open_shards(work / f"{largest}-1"))}
    say(about | {"what": "featurising", "how": "LocalCluster", "n_workers": 2} | found)
    for n in STUDY_SIZES:
        if n <= largest:
            found = alone("--study", n, "--out", work / f"study-{n}")
            say(about | {"what": "study", "how": "processes", "n_workers": 2} | found)
            shutil.rmtree(work / f"study-{n}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", type=Path, help="write the lines to this file, each as it comes")
    parser.add_argument(
        "--work", type=Path, help="where recordings are kept meanwhile; default a temporary folder"
    )
    # One run, in the process that benchmark starts for it.
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--study", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--scheduler", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(featurise(arguments.one, arguments.out, arguments.workers, arguments.scheduler)))
        return
    if arguments.jobs:
        print(json.dumps(hand_out(arguments.jobs, arguments.scheduler)))
        return
    if arguments.study:
        print(json.dumps(study(arguments.study, arguments.out)))
        return
    lines: list[dict[str, Any]] = []

    def say(line: dict[str, Any]) -> None:
        lines.append({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()})
        print(json.dumps(lines[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text("".join(json.dumps(line) + "\n" for line in lines))

    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.work) as folder:
        benchmark(Path(folder), tuple(arguments.sizes), say)


if __name__ == "__main__":
    main()
