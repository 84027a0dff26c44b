"""A model file against labelled recordings that it was not trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vagitus import calibration
from vagitus.checkpoint import RESEARCH_ONLY, ModelCard, learned_rows, load_model
from vagitus.features import FeatureCache, featurise_files
from vagitus.manifest import Manifest
from vagitus.metrics import METRICS, statistic
from vagitus.results import NO_INTERVAL, decide
from vagitus.robustness import curves, default_conditions, robustness_lines, sweep
from vagitus.statistics import subject_bootstrap
from vagitus.training import score_recordings

# Names of subjects are not kept in a model file, so that it can be handed on.
CAUTION = (
    "recordings it was trained on are refused, but another recording of the same person is not recognised"
)


def evaluate(
    path: Path,
    manifest: Manifest,
    *,
    cache: Path,
    n_workers: int = 1,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of a model on a manifest's labelled recordings, with intervals that resample subjects.

    Calibration and threshold are the model's own; nothing is fitted here. Scores are computed in
    float32, as an exported model computes them.

    Args:
        path: a model file.
        manifest: its labels must be among the model's classes.
        cache: folder of the feature cache.

    Returns:
        ``metrics`` ({name: {estimate, low, high}}), counts, the threshold, and ``excluded`` recordings
        with their reasons.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: not a model, a label it does not know, no labelled recording, or a recording that
            it was trained on.
    """
    model, card, labelled, y = _load(path, manifest)
    jobs = [(labelled.file(i), *labelled.stretch(i)) for i in range(len(labelled))]
    found = dict(featurise_files(jobs, card.features, FeatureCache(cache), n_workers))
    excluded = {str(labelled.path[i]): str(x) for i, x in sorted(found.items()) if isinstance(x, Exception)}
    rows = [i for i in range(len(labelled)) if isinstance(found[i], np.ndarray)]
    if not rows:
        raise ValueError(
            f"{labelled.source}: no recording can be read; the first: {next(iter(excluded.values()))}"
        )
    window_frames = round(card.window_s * card.features.frames_per_s)
    features = [x for i in rows if isinstance(x := found[i], np.ndarray)]
    logits = score_recordings(model, features, window_frames=window_frames).astype(np.float64)
    probabilities = calibration.from_dict(card.calibration).apply(logits)
    decisions = decide(logits, probabilities, card.threshold)
    metrics = {}
    for name, metric in METRICS.items():
        if metric.applies(len(card.class_names)):
            interval = subject_bootstrap(
                statistic(name, y[rows], probabilities, decisions),
                labelled.subject[rows],
                rng=np.random.default_rng(seed),
                n_resamples=n_resamples,
            )
            low, high = (np.nan, np.nan) if name in NO_INTERVAL else (interval.low, interval.high)
            metrics[name] = {"estimate": interval.estimate, "low": low, "high": high}
    return {
        "notice": RESEARCH_ONLY,
        "caution": CAUTION,
        "trained_notes": [f"the model's training data: {note}" for note in card.provenance.get("notes", ())],
        "model": path.name,
        "data": labelled.source,
        "notes": list(labelled.notes),
        "n_recordings": len(rows),
        "n_subjects": len(np.unique(labelled.subject[rows])),
        "class_counts": {name: int((y[rows] == k).sum()) for k, name in enumerate(card.class_names)},
        "threshold": card.threshold,
        "metrics": metrics,
        "excluded": excluded,
    }


def measure_robustness(
    path: Path,
    manifest: Manifest,
    noises: Mapping[str, Sequence[Path]] | None = None,
    *,
    n_workers: int = 1,
    n_resamples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """How a model's ranking of a manifest's labelled recordings falls as they get worse.

    Every sweep of ``robustness.default_conditions``: noise, length, bands, codecs, filters, room, gain, clipping.

    Args:
        path: a model file.
        manifest: its labels must be among the model's classes.
        noises: clips by class, as ``robustness.noise_pool`` gives; gaussian noise is there without.

    Returns:
        ``lines`` (``robustness.robustness_lines``), ``coverage`` of their intervals, ``excluded`` recordings with
        their reasons, counts, notes, and whether the recordings are ``simulated``.

    Raises:
        FileNotFoundError, ValueError: as ``evaluate``, and as ``robustness.sweep``.
    """
    model, card, labelled, y = _load(path, manifest)
    found = sweep(
        {path.name: (model, card)},
        labelled,
        default_conditions([card.features], sorted(noises or ())),
        noises=noises,
        seed=seed,
        n_workers=n_workers,
    )
    made = curves(
        found,
        y[found.rows],
        labelled.subject[found.rows],
        metric="auroc" if len(card.class_names) == 2 else "macro_auroc",
        n_resamples=n_resamples,
        seed=seed,
    )
    return {
        "notice": RESEARCH_ONLY,
        "caution": CAUTION,
        "trained_notes": [f"the model's training data: {note}" for note in card.provenance.get("notes", ())],
        "model": path.name,
        "data": labelled.source,
        "notes": list(labelled.notes),
        "simulated": labelled.simulated,
        "n_recordings": len(found.rows),
        "n_subjects": len(np.unique(labelled.subject[found.rows])),
        "class_counts": {name: int((y[found.rows] == k).sum()) for k, name in enumerate(card.class_names)},
        "n_resamples": n_resamples,
        "coverage": made[0].area.level,
        "lines": robustness_lines(made),
        "excluded": {str(labelled.path[row]): reason for row, reason in found.excluded.items()},
    }


def _load(path: Path, manifest: Manifest) -> tuple[nn.Module, ModelCard, Manifest, NDArray[np.int64]]:
    """The model, its card, the labelled recordings, none of which it was trained on, and their classes."""
    model, card = load_model(path)
    labelled = manifest.labelled()
    if len(labelled) == 0:
        raise ValueError(f"{manifest.source}: no recording has a label; fill the column 'label'")
    y = labelled.encode_labels(card.class_names)
    seen = learned_rows(card, labelled)
    if seen:
        raise ValueError(
            f"{labelled.where(seen[0])}: {path.name} was trained on this recording and {len(seen) - 1} more of "
            f"these {len(labelled)}; evaluate on others (the study's predictions.csv has honest scores of these)"
        )
    return model, card, labelled, y
