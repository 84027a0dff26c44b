"""A small simulated study, built once for the tests that look at it from several sides."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from vagitus.arms import SOURCES
from vagitus.arms.contract import Budget
from vagitus.checkpoint import ModelCard, save_model
from vagitus.corpora.simulated import generate
from vagitus.dataset import Dataset
from vagitus.features import PRESETS, FeatureCache
from vagitus.manifest import Manifest
from vagitus.models import build_model
from vagitus.plan import StudyConfig, make_plan
from vagitus.training import TrainConfig

# Small enough for seconds; the network is not expected to be good.
BUDGET = Budget(
    n_inner_folds=2,
    n_members=1,
    grid="small",
    train=TrainConfig(epochs=2, batch_size=16, window_s=1.0),
    continued=TrainConfig(epochs=1, batch_size=8),
)


def simulated(folder: Path) -> Manifest:
    return generate(
        folder, n_subjects=24, n_recordings_per_subject=2, effect=2.0, duration_s=1.5, sample_rate_hz=8000
    )


def config(**changes: object) -> StudyConfig:
    options = {"data": "manifest.csv", "n_folds": 3, "n_resamples": 400, "budget": BUDGET} | changes
    return StudyConfig.model_validate(options)


def dataset(folder: Path) -> Dataset:
    """With every table, source and embedding that any arm reads."""
    arms = (
        "logmel+ridge",
        "svm",
        "scratch",
        "words",
        "speakers",
        "gender",
        "simclr+target",
        "vicreg+target",
        "encoder-probe",
    )
    made = config(
        arms=arms,
        sources={name: str(source(folder / f"{name}.safetensors")) for name in SOURCES},
        encoder=f"onnx:{encoder(folder / 'encoder.onnx')}",
    )
    plan = make_plan(
        made,
        simulated(folder / "audio"),
        folder / "out",
        "case",
        "",
        FeatureCache(folder / "cache"),
        1,
        print,
    )
    return plan.dataset


def source(path: Path) -> Path:
    """A narrow res8 with random weights, as ``pretrain`` would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    front_end = PRESETS["mfcc40"].vary(normalisation="mean")
    options = {"n_mels": front_end.n_rows, "n_classes": 5, "width": 6}
    torch.manual_seed(0)
    model = build_model("res8", **options)
    save_model(path, model, ModelCard("res8", options, front_end, 1.0, tuple("abcde")))
    return path


def encoder(path: Path, *, least_power: float = 0.0) -> Path:
    """waveform (1, n_samples) at 8 kHz -> its mean and ln(mean square - least_power), (1, 2); NaN for quieter ones."""
    least = helper.make_tensor("least", TensorProto.FLOAT, [1], [least_power])
    nodes = [
        helper.make_node("ReduceMean", ["waveform"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["waveform", "waveform"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["power"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["power", "least"], ["above"]),
        helper.make_node("Log", ["above"], ["level"]),
        helper.make_node("Concat", ["mean", "level"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, "n_samples"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 2])],
        [least],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"sample_rate_hz": "8000"})
    onnx.save(model, path)
    return path


def recomputed_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Pairs of one positive and one negative that are ordered rightly, ties half: the definition."""
    positive, negative = scores[labels][:, None], scores[~labels][None, :]
    return float(np.mean((positive > negative) + 0.5 * (positive == negative)))
