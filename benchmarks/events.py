"""Speed of cry events and of trials on one core: ``python benchmarks/events.py``.

    events      an hour of sound as a 16-bit wav at 16 kHz, joined from donateacry, LibriSpeech and ESC-10 in turn:
                decoded, resampled, segmented, scored by the shipped detector, decided on, through
                ``vagitus.events.Hearing``. CPU seconds, and the peak memory of a process that does nothing else,
                for a quarter of an hour and for an hour.
    trials      the EER of ten million trials (one sort), and all cosines of N x M sessions (one product)

Aims: an hour in under 20 s on one core, memory flat; ten million trials in under 2 s. Without $VAGITUS_DATA the
hour is simulated cries in noise. ``--json benchmarks/results/events.jsonl`` writes the lines for ``make results``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import soundfile
from numpy.typing import NDArray

from vagitus.corpora import load_corpus, simulated
from vagitus.corpora.corpus import DATA_ROOT_VARIABLE
from vagitus.metrics import equal_error_rate
from vagitus.verification import score_all, session_vectors

RATE_HZ = 16_000
LIMIT_S, LIMIT_TRIALS_S = 20.0, 2.0
N_TRIALS = 10_000_000
N_SESSIONS, DIM = 4_000, 256
ROUNDS = 3

CHILD = """
import sys, time, json
import torch
torch.set_num_threads(1)
from vagitus.audio import stream
from vagitus.events import CryDetector, Hearing, decider_from_dict
detector = CryDetector()
started, cpu = time.perf_counter(), time.process_time()
hearing = Hearing(detector, int(sys.argv[2]))
n = sum(1 for _ in hearing.events(stream(sys.argv[1])))
found = hearing.summary()
decider = decider_from_dict(detector.card.provenance["recording"])
decider.decide(found.log_odds, cry_s=found.cry_s, attention=found.log_odds, features=found.features)
took = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu, "n_events": n}
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({**took, "duration_s": found.duration_s, "peak_mb": int(peak.split()[1]) / 1024}))
"""


def recordings() -> tuple[str, Iterator[NDArray[np.float32]]]:
    """What the hour is made of, and its pieces."""
    if os.environ.get(DATA_ROOT_VARIABLE):
        from vagitus.audio import AudioError, read

        corpora = ("donateacry", "librispeech", "esc")
        manifests = [
            load_corpus(name, task=task)
            for name, task in zip(corpora, ("platform", "speakers", "cry"), strict=True)
        ]

        def real() -> Iterator[NDArray[np.float32]]:
            for i in range(max(map(len, manifests))):
                for manifest in manifests:
                    try:
                        yield read(manifest.file(i % len(manifest)), sample_rate_hz=RATE_HZ).samples
                    except AudioError:
                        continue

        return ", ".join(corpora), real()

    def made() -> Iterator[NDArray[np.float32]]:
        for i in range(1000):
            rng = np.random.default_rng(i)
            infant = simulated.voice(i, is_case=False, effect=0.0, seed=0)
            cry = simulated.cry(infant, rng, duration_s=8.0, sample_rate_hz=RATE_HZ)
            yield simulated.record(cry.samples, i % 4, rng, sample_rate_hz=RATE_HZ, seed=0).astype(np.float32)

    return "simulated", made()


def write_hour(path: Path, duration_s: float) -> str:
    name, pieces = recordings()
    n_left = round(duration_s * RATE_HZ)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for piece in pieces:
            file.write(piece[:n_left])
            n_left -= len(piece[:n_left])
            if not n_left:
                return name
    raise ValueError(f"{name}: too few recordings for {duration_s:g} s; give more")


def events(minutes: float, folder: Path) -> dict[str, Any]:
    path = folder / f"{minutes:g}.wav"
    name = write_hour(path, 60 * minutes)
    runs = []
    for _ in range(ROUNDS):
        run = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(RATE_HZ)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(run.stdout))
    best = min(runs, key=lambda run: run["cpu_s"])
    return {"kind": "events_speed", "what": "segmented and scored", "data": name, "minutes": minutes, **best}


def trials() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    labels = (rng.random(N_TRIALS) < 0.01).astype(np.int64)
    scores = rng.standard_normal(N_TRIALS) + 2 * labels
    sessions = session_vectors(rng.standard_normal((N_SESSIONS, DIM)))  # type: ignore[arg-type]
    took: dict[str, list[float]] = {"eer": [], "product": []}
    for _ in range(ROUNDS):
        started = time.process_time()
        equal_error_rate(labels, scores)
        took["eer"].append(time.process_time() - started)
        started = time.process_time()
        score_all(sessions, sessions)
        took["product"].append(time.process_time() - started)
    return [
        {"kind": "events_speed", "what": "EER", "n_trials": N_TRIALS, "cpu_s": min(took["eer"])},
        {
            "kind": "events_speed",
            "what": "all cosines",
            "n_trials": N_SESSIONS**2,
            "dim": DIM,
            "cpu_s": min(took["product"]),
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the lines here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [events(15, Path(folder)), events(60, Path(folder)), *trials()]
    hour, eer = lines[1], lines[2]
    lines[1] |= {"limit_s": LIMIT_S, "is_met": hour["cpu_s"] < LIMIT_S}
    lines[2] |= {"limit_s": LIMIT_TRIALS_S, "is_met": eer["cpu_s"] < LIMIT_TRIALS_S}
    for line in lines:
        print(json.dumps(line))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
