"""What a model costs where it runs: a clip of a second on one core, a cold process, ten hours of sound, live.

    python benchmarks/deploy.py [--rounds 15] [--hours 10] [--json results.jsonl]

Untrained models on ``logmel64`` at 16 kHz, normalised by the recording's means; the time of a network does not depend
on what its weights are. All in one process with one thread each, but for the C header, which is compiled with -O2
by the system's compiler and times itself. They take turns, a few clips each, so that a drifting machine slows
all alike; what is shown is the median over rounds of the thread's CPU time for a clip, which waiting for a processor
is no part of. All else is time on the wall, and worth little on a busy machine: the load average is printed and kept.

    front end       our NumPy path
    statistics      the graph's pass for them: its front end, without the network
    onnx, int8      ``OnnxModel.score``: statistics, windows, network; what ``predict`` does but for the file
    torch           ``featurise`` and the module, eager, in inference mode
    C               ``export_c``, the whole clip; one pass for the statistics, one for the window

A cold process is a new Python that imports, opens the model and scores a file, five times; its memory is the
kernel's VmHWM, the most it ever held. The long recording is 16-bit PCM at 16 kHz, a sparse file of silence with a
second of noise every ten minutes. Live is what passes between the arrival of a window's last samples and its score, for
blocks of 10 ms; the window itself is heard half an analysis window later (``delay``).
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from vagitus.checkpoint import ModelCard, save_model
from vagitus.export import OnnxModel, export_onnx, quantise
from vagitus.export_c import export_c
from vagitus.features import PRESETS, featurise
from vagitus.manifest import build_manifest
from vagitus.models import build_model
from vagitus.parity import Limits
from vagitus.predict import Predictor
from vagitus.stream import Listener

FEATURES = PRESETS["logmel64"].vary(normalisation="mean")
RATE_HZ = FEATURES.sample_rate_hz
WINDOW_S = 1.01  # the 101 frames of a second, so that a clip is one window
HIDDEN = 256
NETWORKS: dict[str, dict[str, int]] = {
    "res8": {},
    "lstm": {"hidden_size": HIDDEN},
    "tt-lstm": {"hidden_size": HIDDEN},
}
C_NETWORKS = ("res8", "tt-lstm")
ANY = Limits(math.inf, 1.0, math.inf)  # untrained scores lie near their threshold
CLIPS_PER_TURN = 5
COLD_RUNS = 5
BURST_S, BURST_EVERY_S = 1.0, 600.0
BLOCK_S = 0.01

C_MAIN = """
#define {macro}_IMPLEMENTATION
#include "{header}"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static {prefix}_state state;
static float clip[{n_samples}];

int main(void)
{{
    {prefix}_result result;
    int n;
    if (fread(clip, sizeof *clip, {n_samples}, stdin) != {n_samples}) return 1;
    while (scanf("%d", &n) == 1) {{
        struct timespec begun, done;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begun);
        for (int i = 0; i < n; i++) {prefix}_classify(&state, clip, {n_samples}, &result);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &done);
        if (result.status != {macro}_OK) return 2;
        printf("%.9f\\n", (double)(done.tv_sec - begun.tv_sec) + 1e-9 * (double)(done.tv_nsec - begun.tv_nsec));
        fflush(stdout);
    }}
    return 0;
}}
"""

# A new process; prints the most memory it held, as the kernel counts it.
COLD = """
import json, sys
from vagitus.predict import Predictor
found = Predictor(sys.argv[1]).predict(sys.argv[2])
held = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"score": found.score, "reason": found.reason, "mb": int(held.split()[1]) * 1024 / 1e6}))
"""


def make_clip(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """A gliding harmonic tone, as a cry's, in noise."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(450 * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * t))) / RATE_HZ
    tone = sum(0.2 / h * np.sin(h * phase) for h in range(1, 11))
    rough = 0.006 * np.random.default_rng(seed).standard_normal(len(t))
    return (tone + rough).clip(-1, 1).astype(np.float32)


def make_models(folder: Path) -> dict[str, Path]:
    """Every network as model.safetensors and model.onnx, and res8 in int8."""
    found = {}
    for seed in range(20):
        soundfile.write(folder / f"{seed}.wav", make_clip(1.5, seed), RATE_HZ)
    recordings = build_manifest(
        ({"path": f"{seed}.wav", "subject": f"{seed}"} for seed in range(20)), folder, "clips"
    )
    for name, options in NETWORKS.items():
        torch.manual_seed(0)
        sized = {"n_mels": FEATURES.n_rows, "n_classes": 2, **options}
        card = ModelCard(name, sized, FEATURES, WINDOW_S, ("well", "ill"), "ill", 0.5)
        source = folder / f"{name}.safetensors"
        save_model(source, build_model(name, **sized), card)
        found[name] = source.with_suffix(".onnx")
        export_onnx(source, found[name])
    found["res8 int8"] = folder / "res8-int8.onnx"
    quantise(found["res8"], recordings, found["res8 int8"], limits=ANY)
    return found


def onnx_scorer(path: Path, clip: NDArray[np.float32]) -> Callable[[], object]:
    model = OnnxModel(path)
    return lambda: model.score(lambda: [clip], len(clip))


def graph_statistics(path: Path, clip: NDArray[np.float32]) -> Callable[[], object]:
    model = OnnxModel(path)
    silence = np.zeros(model.context_samples, np.float32)
    padded = np.concatenate([silence, clip, silence])
    return lambda: model.moments(padded)


def torch_scorer(source: Path, clip: NDArray[np.float32]) -> Callable[[], object]:
    from vagitus.checkpoint import load_model

    model, _ = load_model(source)
    window_frames = round(WINDOW_S * FEATURES.frames_per_s)

    @torch.inference_mode()
    def score() -> object:
        return model(torch.from_numpy(featurise(clip, FEATURES)[None, :, :window_frames]))

    return score


class CProgram:
    """A header compiled with a loop around it."""

    def __init__(self, source: Path, clip: NDArray[np.float32], bits: Any) -> None:
        prefix = f"{source.stem.replace('-', '_')}_{bits}"
        header = source.with_name(f"{prefix}.h")
        export_c(source, header, bits=bits)
        main = source.with_name(f"{prefix}.c")
        main.write_text(
            C_MAIN.format(prefix=prefix, macro=prefix.upper(), header=header.name, n_samples=len(clip))
        )
        program = main.with_suffix("")
        flags = ["-std=c99", "-D_POSIX_C_SOURCE=199309L", "-O2"]
        subprocess.run(["cc", *flags, "-o", program, main, "-lm"], check=True)
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._ask(clip.tobytes())

    def _ask(self, content: bytes) -> None:
        if self.process.stdin is None:
            raise RuntimeError("the program has no standard input")
        self.process.stdin.write(content)

    def seconds(self, n_clips: int) -> float:
        self._ask(f"{n_clips}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            more = self.process.stdout.read(64) if self.process.stdout else b""
            if not more:
                raise RuntimeError("the program ended early")
            answer += more
        return float(answer)


def time_clip(folder: Path, models: dict[str, Path], n_rounds: int) -> dict[str, float]:
    """Milliseconds of a clip of a second, by what computes it."""
    clip = make_clip(1.0)
    runs: dict[str, Callable[[], object]] = {
        "front end, NumPy": lambda: featurise(clip, FEATURES),
        "statistics, graph of res8": graph_statistics(models["res8"], clip),
    }
    for name, path in models.items():
        runs[f"{name}, onnx"] = onnx_scorer(path, clip)
    for name in NETWORKS:
        runs[f"{name}, torch"] = torch_scorer(folder / f"{name}.safetensors", clip)
    programs = {}
    if shutil.which("cc"):
        for name in C_NETWORKS:
            for bits in (32, 8):
                programs[f"{name}, C {bits} bits"] = CProgram(folder / f"{name}.safetensors", clip, bits)
    elapsed: dict[str, list[float]] = {name: [] for name in (*runs, *programs)}
    for one_round in range(n_rounds + 1):
        for name, run in runs.items():
            begun = time.thread_time()
            for _ in range(CLIPS_PER_TURN):
                run()
            elapsed[name].append((time.thread_time() - begun) / CLIPS_PER_TURN)
        for name, program in programs.items():
            elapsed[name].append(program.seconds(CLIPS_PER_TURN) / CLIPS_PER_TURN)
        if one_round == 0:  # it loads and allocates
            elapsed = {name: [] for name in elapsed}
    for program in programs.values():
        program.process.communicate()
    return {name: 1000 * statistics.median(times) for name, times in elapsed.items()}


def cold(model: Path, recording: Path) -> dict[str, float]:
    """Wall seconds from the start of a process to its end with a first score, and the most memory it held."""
    begun = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", COLD, str(model), str(recording)], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    said = json.loads(run.stdout)
    if said["reason"]:
        raise RuntimeError(f"{recording}: {said['reason']}")
    return {"s": seconds, "mb": said["mb"]}


def write_long(path: Path, seconds: float) -> None:
    """A sparse WAV: what is silent takes no room on a disk that knows holes."""
    n_bytes = 2 * round(seconds * RATE_HZ)
    # RIFF's lengths have 32 bits: 37 hours at this rate.
    header = b"RIFF" + (36 + n_bytes).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0"
    header += RATE_HZ.to_bytes(4, "little") + (2 * RATE_HZ).to_bytes(4, "little") + b"\2\0\x10\0data"
    header += n_bytes.to_bytes(4, "little")
    burst = np.rint(32767 * make_clip(min(BURST_S, seconds))).astype("<i2").tobytes()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + n_bytes)
        for begin_s in np.arange(0, seconds - BURST_S, BURST_EVERY_S):
            file.seek(len(header) + 2 * round(begin_s * RATE_HZ))
            file.write(burst)


def time_live(path: Path) -> dict[str, float]:
    """Milliseconds from the arrival of a window's last block to its score, over a minute."""
    listener = Listener(Predictor(path), RATE_HZ)
    sound, n_block = make_clip(60.0), round(BLOCK_S * RATE_HZ)
    took = []
    for first in range(0, len(sound), n_block):
        begun = time.perf_counter()
        if listener.hear(sound[first : first + n_block]):
            took.append(1000 * (time.perf_counter() - begun))
    return {
        "delay_ms": 1000 * listener.delay_samples / RATE_HZ,
        "median_ms": statistics.median(took),
        "worst_ms": max(took),
        "n_windows": len(took),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--hours", type=float, default=10.0, help="of the long recording; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="append a line to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = make_models(folder)
        result: dict[str, Any] = {"benchmark": "deploy", "rounds": arguments.rounds}
        result["clip_ms"] = time_clip(folder, models, arguments.rounds)
        print(f"a clip of 1 s, one core, median of {arguments.rounds} rounds, ms of CPU")
        for what, elapsed_ms in result["clip_ms"].items():
            print(f"  {what:26} {elapsed_ms:8.2f}")

        result["file_bytes"] = {name: path.stat().st_size for name, path in models.items()}
        print("files, kB: " + ", ".join(f"{n} {size / 1000:.1f}" for n, size in result["file_bytes"].items()))

        result["live"] = {name: time_live(models[name]) for name in models}
        print(f"live, blocks of {1000 * BLOCK_S:.0f} ms")
        for what, live in result["live"].items():
            print(
                f"  {what:12} window heard after {live['delay_ms']:.0f} ms, scored {live['median_ms']:.2f} ms later "
                f"(worst of {live['n_windows']}: {live['worst_ms']:.2f})"
            )

        soundfile.write(folder / "second.wav", make_clip(1.0), RATE_HZ)
        runs = [cold(models["res8"], folder / "second.wav") for _ in range(COLD_RUNS)]
        result["cold"] = {key: statistics.median(run[key] for run in runs) for key in ("s", "mb")}
        print(f"cold process to a score: {result['cold']['s']:.2f} s, {result['cold']['mb']:.0f} MB")

        if arguments.hours:
            result["long"] = []
            for seconds in (120.0, 3600 * arguments.hours):  # both longer than what is kept decoded
                write_long(folder / "long.wav", seconds)
                run = cold(models["res8"], folder / "long.wav")
                result["long"].append({"seconds": seconds} | run)
                print(f"{seconds / 3600:.2f} h of sound: {run['s']:.1f} s, {run['mb']:.0f} MB")
    result["load"] = {"before": load_before, "after": os.getloadavg()}
    result["cpu"] = platform.processor() or platform.machine()
    result["versions"] = {name: version(name) for name in ("vagitus", "numpy", "onnxruntime", "torch")}
    print(f"load average before {load_before[0]:.2f}, after {os.getloadavg()[0]:.2f}")
    if arguments.json:
        with arguments.json.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
