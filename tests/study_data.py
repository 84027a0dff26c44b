"""A small simulated study, built once for the tests that look at it from several sides."""

from pathlib import Path

import numpy as np

from vagitus.arms.contract import Budget
from vagitus.corpora.simulated import generate
from vagitus.dataset import Dataset
from vagitus.features import FeatureCache
from vagitus.manifest import Manifest
from vagitus.plan import StudyConfig, make_plan
from vagitus.training import TrainConfig

# Small enough for seconds; the network is not expected to be good.
BUDGET = Budget(
    n_inner_folds=2, n_members=1, grid="small", train=TrainConfig(epochs=2, batch_size=16, window_s=1.0)
)


def simulated(folder: Path) -> Manifest:
    return generate(
        folder, n_subjects=24, n_recordings_per_subject=2, effect=2.0, duration_s=1.5, sample_rate_hz=8000
    )


def config(**changes: object) -> StudyConfig:
    options = {"data": "manifest.csv", "n_folds": 3, "n_resamples": 400, "budget": BUDGET} | changes
    return StudyConfig.model_validate(options)


def dataset(folder: Path) -> Dataset:
    plan = make_plan(
        config(),
        simulated(folder / "audio"),
        folder / "out",
        "case",
        "",
        FeatureCache(folder / "cache"),
        1,
        print,
    )
    return plan.dataset


def recomputed_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Pairs of one positive and one negative that are ordered rightly, ties half: the definition."""
    positive, negative = scores[labels][:, None], scores[~labels][None, :]
    return float(np.mean((positive > negative) + 0.5 * (positive == negative)))
