"""Models with random weights and their exports, each made once for all tests of a run."""

import functools
import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vagitus import calibration
from vagitus.checkpoint import ModelCard, save_model
from vagitus.export import export_onnx
from vagitus.features import FeatureConfig
from vagitus.models import build_model

# Small, and odd where a formula could hide behind an even number: 4 kHz, a window of 124 samples, a hop of 40.
FEATURES = FeatureConfig(sample_rate_hz=4_000, window_ms=31.0, f_min_hz=60.0, f_max_hz=2_000.0, n_bands=40)
RATE_HZ = FEATURES.sample_rate_hz
SMALL: dict[str, dict[str, int]] = {
    "res8": {"width": 6},
    "small": {"width": 16},
    "cnn14": {"width": 4},
    "ecapa": {"width": 16, "bottleneck": 8},
    "lstm": {"hidden_size": 12},
    "gru": {"hidden_size": 12},
    "tt-lstm": {"hidden_size": 256},
    "tt-gru": {"hidden_size": 12},
    "transformer": {"width": 8, "depth": 1, "n_heads": 2},
}
# torch traces a recurrent layer step by step, twice: an export takes it a second for every eight frames.
FEW_FRAMES = ("gru", "lstm", "tt-gru", "tt-lstm", "ge2e")

# Every way to normalise, spread over the models so that each is exported once; "mean" for the others.
NORMALISATIONS: dict[str, dict[str, Any]] = {
    "res8": {"normalisation": "none"},
    "lstm": {"normalisation": "mean_std"},
    "tt-lstm": {"normalisation": "mean_std", "kind": "mfcc"},
    "gru": {"normalisation": "keep_level"},
    "transformer": {"normalisation": "keep_level", "kind": "mfcc"},
}
PROVENANCE = {
    "command": "vagitus study /home/doctor/cries.csv --out=/srv/results/ C:\\Users\\doctor\\x.csv a/b and/or",
    "source": "https://example.org/data",
    "trained_on": "wP/uEjRW",
}


def make_card(name: str, **changes: Any) -> ModelCard:
    options = {"n_mels": FEATURES.n_rows, "n_classes": 2, **SMALL.get(name, {})}
    values: dict[str, Any] = {
        "model": name,
        "options": options,
        "features": FEATURES.vary(**{"normalisation": "mean"} | NORMALISATIONS.get(name, {})),
        "window_s": 0.09 if name in FEW_FRAMES else 0.61,
        "class_names": ("well", "ill"),
        "positive": "ill",
        "threshold": 0.45,
        "calibration": calibration.Logistic(1.7, (0.0, 0.2)).to_dict(),
        "provenance": PROVENANCE,
    }
    return ModelCard(**values | changes)


def make_model(path: Path, card: ModelCard) -> Path:
    """Random weights, and batch-norm statistics that are not those of a fresh layer."""
    torch.manual_seed(0)
    model = build_model(card.model, **card.options)
    with torch.no_grad():
        model(3 * torch.randn(8, FEATURES.n_rows, 61) - 5)
    save_model(path, model, card)
    return path


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(n_samples) * np.linspace(0.01, 0.2, n_samples)
    return samples.clip(-0.9, 0.9).astype(np.float32)


@functools.cache
def model_file(name: str) -> Path:
    """model.safetensors of a model with random weights; read it, and leave it as it is."""
    return make_model(Path(_folder().name) / f"{name}.safetensors", make_card(name))


@functools.cache
def exported(name: str) -> tuple[Path, Path]:
    """The same and its model.onnx."""
    source = model_file(name)
    export_once(source, source.with_suffix(".onnx"))
    return source, source.with_suffix(".onnx")


def export_once(source: Path, path: Path) -> None:
    """``export_onnx`` without the collector, which torch's exporter keeps busy with a million live nodes."""
    gc.disable()
    try:
        export_onnx(source, path)
    finally:
        gc.enable()


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="vagitus-onnx-")
