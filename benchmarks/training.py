"""Clips a second of the training loop against a plain PyTorch loop: ``python benchmarks/training.py``.

    plain       the same network, optimizer and precision; a batch is a slice of crops that were cut before and lie
                in memory: as little around the network as there can be
    cached      ``training.fit`` with ``CropBatches`` from a feature table on disk: crops are cut as they are needed,
                masked, and the loop checks, clips and logs
    augmented   the same with stretch, warp and shift
    from audio  the same with augmentation after the features of all files were computed, none cached: the time of
                both over the clips of all epochs

One thread, CPU time of the process, so that waiting for a processor is no part of it; they take turns, and what is
shown is the median over rounds of the ratio to the plain loop of the same round.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from torch import nn

from vagitus.augment import warp_matrices
from vagitus.dataset import FeatureTable, write_feature_table
from vagitus.features import PRESETS, FeatureCache, Stretch, featurise_files
from vagitus.losses import cross_entropy
from vagitus.models import build_model
from vagitus.training import CropBatches, Supervised, TrainConfig, fit

FRONT_END = PRESETS["mfcc40"].vary(normalisation="mean")
CLIP_S = 3.0
N_CLIPS = {
    "res8": 384,
    "cnn14": 32,
}  # an epoch of a few seconds; at least one batch of the size that is trained with
EPOCHS = {"res8": 5, "cnn14": 3}
AUGMENTED = {"stretch": 0.1, "warp": 0.1, "shift_s": 0.1}


@dataclass(frozen=True)
class Recordings:
    paths: list[Path]
    labels: np.ndarray
    table: FeatureTable


def record(folder: Path, n_clips: int) -> Recordings:
    """Noise in files, and its features in a table."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n_clips):
        paths.append(folder / f"{i}.wav")
        x = 0.1 * rng.standard_normal(round(CLIP_S * FRONT_END.sample_rate_hz))
        soundfile.write(paths[-1], x.astype(np.float32), FRONT_END.sample_rate_hz, subtype="PCM_16")
    return Recordings(paths, np.arange(n_clips) % 2, featurise(paths, folder / "warm"))


def featurise(paths: list[Path], folder: Path) -> FeatureTable:
    cache = FeatureCache(folder / "cache")
    stretches = [Stretch(path, 0.0, None) for path in paths]
    features = dict(featurise_files(stretches, FRONT_END, cache, 1))
    arrays = [np.asarray(features[i]) for i in range(len(paths))]
    return write_feature_table(folder / "table.npy", FRONT_END, [x.shape[1] for x in arrays], arrays)


def seeded(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, n_mels=FRONT_END.n_rows, n_classes=2)


def plain(name: str, data: Recordings, config: TrainConfig) -> None:
    window = round(config.window_s * FRONT_END.frames_per_s)
    x = torch.from_numpy(np.stack([features[:, :window] for features in data.table]))
    y = torch.from_numpy(data.labels)
    model = seeded(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x)).split(config.batch_size):  # type: ignore[no-untyped-call]
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def ours(name: str, data: Recordings, config: TrainConfig, table: FeatureTable) -> None:
    batches = CropBatches(
        table,
        data.labels,
        window_frames=round(config.window_s * FRONT_END.frames_per_s),
        config=config,
        seed=0,
        shift_frames=round(config.shift_s * FRONT_END.frames_per_s),
        warps=warp_matrices(FRONT_END, config.warp),
    )
    fit(seeded(name), Supervised("cross_entropy"), batches, config, steps_per_epoch=len(batches), seed=0)


def measure(name: str, n_rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = record(folder, N_CLIPS[name])
        config = TrainConfig(epochs=EPOCHS[name], window_s=2.0, batch_size=min(32, N_CLIPS[name]))
        augmented = config.model_copy(update=AUGMENTED)

        def from_audio() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as cold:
                ours(name, data, augmented, featurise(data.paths, Path(cold)))

        runs: dict[str, Callable[[], None]] = {
            "plain": lambda: plain(name, data, config),
            "cached": lambda: ours(name, data, config, data.table),
            "augmented": lambda: ours(name, data, augmented, data.table),
            "from audio": from_audio,
        }
        elapsed: dict[str, list[float]] = {what: [] for what in runs}
        for round_ in range(n_rounds + 1):
            for what, run in runs.items():
                began = time.process_time()
                run()
                if round_:  # the first warms up
                    elapsed[what].append(time.process_time() - began)
    n_clips = N_CLIPS[name] * EPOCHS[name]
    return {
        "kind": "training_speed",
        "network": name,
        "torch": torch.__version__,
        "n_rounds": n_rounds,
        "clips_per_s": {what: median(n_clips / s for s in times) for what, times in elapsed.items()},
        "ratios": {
            what: median(p / s for p, s in zip(elapsed["plain"], times, strict=True))
            for what, times in elapsed.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=N_CLIPS, nargs="+", default=list(N_CLIPS))
    parser.add_argument("--json", type=Path, help="append the lines to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.network:
        line = measure(name, arguments.rounds)
        print(f"{name}: clips/s {line['clips_per_s']}, ratio to plain {line['ratios']}", flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
