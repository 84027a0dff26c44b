"""Log-mel speed, side by side with other libraries in one run: audio-hours per second.

    python benchmarks/features.py [--threads 1 2] [--rounds 9] [--json results.jsonl]

Sixty clips of 10 s at 16 kHz; 64 Slaney bands from 50 to 8000 Hz, 25/10 ms, n_fft 512, periodic Hann,
zero padding, power, natural log with floor 1e-10. Every library computes this definition but
kaldi-native-fbank, which has its own (no centring, other padding and Mel bands). A library that is not
installed is left out, and named.

Each library runs in a process of its own, with OMP, MKL and OPENBLAS held to one thread; two threads means two
Python threads that share out the clips, the way many recordings are featurised. The processes take turns
at a few clips each, one at a time, so that a drifting machine slows all alike; a round is over when all have
done all clips, a ratio is taken within a round, and what is shown is the median over rounds.

"limit" is the time of our five stages, each alone on one block: framing and window, rfft, power,
mel, log. What is above it is Python and memory traffic between the stages.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vagitus.features import PRESETS, featurise, hann_window, mel_filterbank

CONFIG = PRESETS["logmel64"]
CLIP_S = 10.0
SECONDS_PER_HOUR = 3600.0
CLIPS_PER_TURN = 6

Clip = NDArray[Any]
# Maps a clip (n_samples,) float32 to log-mel (n_bands, n_frames).
Featuriser = Callable[[Clip], NDArray[np.float32]]


def make_clips(n_clips: int) -> list[Clip]:
    """A gliding harmonic tone, as a cry's, in noise 30 dB below."""
    rng = np.random.default_rng(0)
    t = np.arange(round(CLIP_S * CONFIG.sample_rate_hz)) / CONFIG.sample_rate_hz
    clips = []
    for _ in range(n_clips):
        f0_hz = rng.uniform(300, 600) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * t))
        phase = 2 * np.pi * np.cumsum(f0_hz) / CONFIG.sample_rate_hz
        tone = sum(0.2 / h * np.sin(h * phase) for h in range(1, 11))
        clips.append((tone + 0.006 * rng.standard_normal(len(t))).astype(np.float32))
    return clips


def ours() -> Featuriser:
    return lambda clip: featurise(clip, CONFIG)


def ours_int16() -> Featuriser:
    return lambda clip: featurise(clip, CONFIG)


def torch_stft() -> Featuriser:
    import torch

    window = torch.tensor(hann_window(CONFIG), dtype=torch.float32)
    bank = torch.tensor(mel_filterbank(CONFIG))

    @torch.inference_mode()
    def featuriser(clip: Clip) -> NDArray[np.float32]:
        spectrum = torch.stft(
            torch.from_numpy(clip),
            CONFIG.n_fft,
            CONFIG.hop_samples,
            CONFIG.window_samples,
            window=window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        bands = bank @ spectrum.abs().square()
        features: NDArray[np.float32] = bands.clamp(min=CONFIG.log_floor).log().numpy()
        return features

    return featuriser


def librosa() -> Featuriser:
    from librosa.feature import melspectrogram

    def featuriser(clip: Clip) -> NDArray[np.float32]:
        bands = melspectrogram(
            y=clip,
            sr=CONFIG.sample_rate_hz,
            n_fft=CONFIG.n_fft,
            hop_length=CONFIG.hop_samples,
            win_length=CONFIG.window_samples,
            pad_mode="constant",
            n_mels=CONFIG.n_bands,
            fmin=CONFIG.f_min_hz,
            fmax=CONFIG.f_max_hz,
        )
        features: NDArray[np.float32] = np.log(np.maximum(bands, np.float32(CONFIG.log_floor)))
        return features

    return featuriser


def torchlibrosa() -> Featuriser:
    import torch
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    spectrogram = Spectrogram(
        n_fft=CONFIG.n_fft,
        hop_length=CONFIG.hop_samples,
        win_length=CONFIG.window_samples,
        pad_mode="constant",
    )
    logmel = LogmelFilterBank(
        sr=CONFIG.sample_rate_hz,
        n_fft=CONFIG.n_fft,
        n_mels=CONFIG.n_bands,
        fmin=CONFIG.f_min_hz,
        fmax=CONFIG.f_max_hz,
        amin=CONFIG.log_floor,
        top_db=None,
    )

    @torch.inference_mode()
    def featuriser(clip: Clip) -> NDArray[np.float32]:
        power_db = logmel(spectrogram(torch.from_numpy(clip)[None]))[0, 0].T
        features: NDArray[np.float32] = (power_db * (np.log(10) / 10)).numpy()
        return features

    return featuriser


def nn_audio() -> Featuriser:
    import torch
    from nnAudio.features import MelSpectrogram

    mel = MelSpectrogram(
        sr=CONFIG.sample_rate_hz,
        n_fft=CONFIG.n_fft,
        win_length=CONFIG.window_samples,
        hop_length=CONFIG.hop_samples,
        n_mels=CONFIG.n_bands,
        fmin=CONFIG.f_min_hz,
        fmax=CONFIG.f_max_hz,
        pad_mode="constant",
        verbose=False,
    )

    @torch.inference_mode()
    def featuriser(clip: Clip) -> NDArray[np.float32]:
        features: NDArray[np.float32] = (
            mel(torch.from_numpy(clip))[0].clamp(min=CONFIG.log_floor).log().numpy()
        )
        return features

    return featuriser


def torchaudio() -> Featuriser:
    import torch
    from torchaudio.transforms import MelSpectrogram  # type: ignore[import-not-found,unused-ignore]

    mel = MelSpectrogram(
        sample_rate=CONFIG.sample_rate_hz,
        n_fft=CONFIG.n_fft,
        win_length=CONFIG.window_samples,
        hop_length=CONFIG.hop_samples,
        f_min=CONFIG.f_min_hz,
        f_max=CONFIG.f_max_hz,
        n_mels=CONFIG.n_bands,
        pad_mode="constant",
        norm="slaney",
        mel_scale="slaney",
    )

    @torch.inference_mode()
    def featuriser(clip: Clip) -> NDArray[np.float32]:
        features: NDArray[np.float32] = mel(torch.from_numpy(clip)).clamp(min=CONFIG.log_floor).log().numpy()
        return features

    return featuriser


def kaldi_native_fbank() -> Featuriser:
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    options.frame_opts.samp_freq = CONFIG.sample_rate_hz
    options.frame_opts.frame_length_ms = CONFIG.window_ms
    options.frame_opts.frame_shift_ms = CONFIG.hop_ms
    options.frame_opts.window_type = "hann"
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = 0.0
    options.frame_opts.remove_dc_offset = False
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = CONFIG.n_bands
    options.mel_opts.low_freq = CONFIG.f_min_hz
    options.mel_opts.high_freq = CONFIG.f_max_hz

    def featuriser(clip: Clip) -> NDArray[np.float32]:
        fbank = kaldi.OnlineFbank(options)
        fbank.accept_waveform(CONFIG.sample_rate_hz, clip.tolist())
        fbank.input_finished()
        return np.stack([fbank.get_frame(t) for t in range(fbank.num_frames_ready)]).T

    return featuriser


# Row of the table -> (how to build it, package that must be there, whether it computes our definition).
PEERS: dict[str, tuple[Callable[[], Featuriser], str, bool]] = {
    "vagitus": (ours, "vagitus", True),
    "vagitus, int16": (ours_int16, "vagitus", True),
    "librosa": (librosa, "librosa", True),
    "torchlibrosa": (torchlibrosa, "torchlibrosa", True),
    "nnAudio": (nn_audio, "nnAudio", True),
    "torchaudio": (torchaudio, "torchaudio", True),
    "kaldi-native-fbank": (kaldi_native_fbank, "kaldi_native_fbank", False),
    "torch.stft by hand": (torch_stft, "torch", True),
}
LIBRARIES = ("librosa", "torchlibrosa", "nnAudio", "torchaudio")


def stage_limit_s(n_repeats: int = 20) -> float:
    """Seconds per frame of our stages, each timed alone on the same block, added up.

    Means, like a pass over the clips, so that what else runs on the machine weighs on both alike.
    """
    from scipy import fft
    from scipy.sparse import csr_array

    hop, window, n_fft, n_frames = CONFIG.hop_samples, CONFIG.window_samples, CONFIG.n_fft, 336
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((n_frames - 1) * hop + window).astype(np.float32)
    overlapping = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = np.zeros((n_frames, n_fft), np.float32)
    hann[:, :window] = hann_window(CONFIG)
    frames = np.zeros((n_frames, n_fft), np.float32)
    spectrum = fft.rfft(rng.standard_normal(frames.shape).astype(np.float32).T, axis=0)
    power = np.empty(spectrum.shape, np.float32)
    bank = csr_array(mel_filterbank(CONFIG))
    bands = np.empty((CONFIG.n_bands, n_frames), np.float32)
    logs = np.empty_like(bands)

    def frame() -> None:
        frames[:, :window] = overlapping
        np.multiply(frames, hann, out=frames)

    def transform() -> None:
        fft.rfft(frames.T, axis=0, workers=1)

    def square() -> None:
        np.square(np.abs(spectrum, out=power), out=power)

    def weigh() -> None:
        bands[:] = bank @ power

    def take_log() -> None:
        np.log(bands, out=logs)

    total_s = 0.0
    for stage in (frame, transform, square, weigh, take_log):
        for _ in range(n_repeats):
            begun = time.perf_counter()
            stage()
            total_s += time.perf_counter() - begun
    return total_s / n_repeats / n_frames


def work(name: str, n_threads: int, n_clips: int) -> None:
    """A worker: announce how far it is from our features, then time the clips from each number read on."""
    if "torch" in name or name == "nnAudio":
        import torch

        torch.set_num_threads(1)
    clips = make_clips(n_clips)
    featuriser = PEERS[name][0]()
    expected = featurise(clips[0], CONFIG)
    if name == "vagitus, int16":
        clips = [np.rint(clip * 32768).clip(-32768, 32767).astype(np.int16) for clip in clips]
        expected = featurise(clips[0] / np.float32(32768), CONFIG)
    found = featuriser(clips[0])
    same_shape = found.shape == expected.shape
    difference = float(np.abs(found - expected).max()) if same_shape else float("nan")
    print(json.dumps({"difference": difference}), flush=True)
    with ThreadPoolExecutor(n_threads) as pool:
        for line in sys.stdin:
            if line.strip() == "limit":
                print(json.dumps({"s": stage_limit_s()}), flush=True)
                continue
            turn = clips[int(line) : int(line) + CLIPS_PER_TURN]
            begun = time.perf_counter()
            if n_threads == 1:
                for clip in turn:
                    featuriser(clip)
            else:
                list(pool.map(featuriser, turn))
            print(json.dumps({"s": time.perf_counter() - begun}), flush=True)


class Worker:
    """One library in its own process, which computes only when asked."""

    def __init__(self, name: str, n_threads: int, n_clips: int) -> None:
        one = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
        )
        command = [
            sys.executable,
            __file__,
            "--work",
            name,
            "--threads",
            str(n_threads),
            "--clips",
            str(n_clips),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one}
        )
        self.difference: float = self._answer()["difference"]

    def ask(self, what: str) -> float:
        """Seconds of one turn, ``what`` being its first clip, or of a frame at the "limit"."""
        stdin = self.process.stdin
        if stdin is None:
            raise RuntimeError("worker has no standard input")
        stdin.write(f"{what}\n")
        stdin.flush()
        return float(self._answer()["s"])

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        stdout: IO[str] | None = self.process.stdout
        line = stdout.readline() if stdout else ""
        if not line:
            raise RuntimeError(f"worker ended: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]
        answer: dict[str, float] = json.loads(line)
        return answer


def compare(n_threads: int, n_clips: int, n_rounds: int) -> dict[str, Any]:
    """Time every installed library in turns; print the table and return what is in it."""
    names = [name for name, (_, package, _) in PEERS.items() if find_spec(package)]
    workers = {name: Worker(name, n_threads, n_clips) for name in names}
    try:
        for worker in workers.values():
            worker.ask("0")  # the first turn loads and allocates
        rounds = []
        for _ in range(n_rounds):
            elapsed = dict.fromkeys([*names, "limit"], 0.0)
            for first in range(0, n_clips, CLIPS_PER_TURN):
                for name, worker in workers.items():
                    elapsed[name] += worker.ask(str(first))
                elapsed["limit"] += workers["vagitus"].ask("limit") * CLIPS_PER_TURN / n_clips
            rounds.append(elapsed)
        differences = {name: worker.difference for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()

    audio_hours = n_clips * CLIP_S / SECONDS_PER_HOUR
    n_frames = n_clips * CONFIG.n_frames(round(CLIP_S * CONFIG.sample_rate_hz))
    hours_per_s = {name: audio_hours / statistics.median(r[name] for r in rounds) for name in names}
    ratio = {name: statistics.median(r[name] / r["vagitus"] for r in rounds) for name in names}
    limit_share = statistics.median(r["limit"] * n_frames / r["vagitus"] for r in rounds)
    print(f"\n{n_threads} thread{'s' * (n_threads > 1)}, median of {n_rounds} rounds")
    print(f"{'':20} {'audio h/s':>10} {'vagitus is':>11}  {'max |difference|':>16}")
    for name in names:
        note = f"{differences[name]:.1e}" if PEERS[name][2] else "other definition"
        print(f"{name:20} {hours_per_s[name]:10.2f} {ratio[name]:10.2f}x  {note:>16}")
    missing = [name for name in PEERS if name not in names]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    if n_threads == 1:
        print(f"share of the summed-stage limit: {limit_share:.0%}")
    fastest = min((name for name in LIBRARIES if name in names), key=ratio.__getitem__)
    rules = {
        f"2x the fastest library ({fastest})": ratio[fastest] >= 2,
        "3x librosa": "librosa" in ratio and ratio["librosa"] >= 3,
    }
    for rule, holds in rules.items():
        print(f"{rule}: {'yes' if holds else 'NO'}")
    return {
        "benchmark": "features",
        "threads": n_threads,
        "clips": n_clips,
        "rounds": n_rounds,
        "audio_hours_per_s": hours_per_s,
        "vagitus_ratio": ratio,
        "limit_share": limit_share if n_threads == 1 else None,
        "holds": all(rules.values()),
        "cpu": platform.processor() or platform.machine(),
        "versions": {name: _version(name) for name in ("vagitus", "numpy", "scipy", "torch", "librosa")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clips", type=int, default=60, help=f"a multiple of {CLIPS_PER_TURN}")
    parser.add_argument("--json", type=Path, help="append one line per number of threads to this file")
    parser.add_argument("--work", choices=list(PEERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clips < 1 or arguments.clips % CLIPS_PER_TURN:
        parser.error(f"--clips must be a multiple of {CLIPS_PER_TURN}, got {arguments.clips}")
    if arguments.work:
        work(arguments.work, arguments.threads[0], arguments.clips)
        return 0
    results = [compare(n, arguments.clips, arguments.rounds) for n in arguments.threads]
    if arguments.json:
        with arguments.json.open("a") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
