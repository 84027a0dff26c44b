import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study_data

from vagitus.checkpoint import load_model
from vagitus.corpora.simulated import generate
from vagitus.evaluate import evaluate, measure_robustness
from vagitus.features import featurise_file
from vagitus.manifest import Manifest
from vagitus.study import run_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    run_study(
        study_data.config(arms=("scratch",), n_folds=2),
        study_data.simulated(folder / "audio"),
        folder / "out",
        positive="case",
        cache=folder / "cache",
        command="",
        n_workers=1,
    )
    return folder


@pytest.fixture(scope="module")
def others(folder: Path) -> Manifest:
    return generate(
        folder / "others",
        n_subjects=8,
        n_recordings_per_subject=2,
        duration_s=1.5,
        sample_rate_hz=8000,
        seed=7,
    )


def test_it_scores_new_recordings_as_the_model_does(folder: Path, others: Manifest) -> None:
    found = evaluate(folder / "out" / "model.safetensors", others, cache=folder / "cache", n_resamples=100)
    model, card = load_model(folder / "out" / "model.safetensors")
    import torch

    window_frames = round(card.window_s * 100)
    margins = []
    for i in range(len(others)):
        x = featurise_file(others.file(i), card.features)
        starts = [*range(0, x.shape[1] - window_frames, window_frames // 2), x.shape[1] - window_frames]
        with torch.no_grad():
            logits = model(torch.from_numpy(np.stack([x[:, s : s + window_frames] for s in starts]))).mean(0)
        margins.append(float(logits[1] - logits[0]))
    auroc = study_data.recomputed_auroc(others.label == "case", np.array(margins))
    assert found["metrics"]["auroc"]["estimate"] == pytest.approx(auroc)
    assert (found["n_recordings"], found["n_subjects"]) == (16, 8)
    assert found["class_counts"] == {"control": 8, "case": 8}


def test_recordings_it_was_trained_on_are_refused_under_any_name(folder: Path, others: Manifest) -> None:
    with (folder / "out" / "predictions.csv").open() as file:
        trained = next(csv.DictReader(file))["path"]
    kept = others.file(3).read_bytes()
    shutil.copy(folder / "audio" / trained, others.file(3))
    with pytest.raises(
        ValueError, match=r"row 5: model.safetensors was trained on this recording and 0 more of these 16"
    ):
        evaluate(folder / "out" / "model.safetensors", others, cache=folder / "cache")
    others.file(3).write_bytes(kept)


def test_a_label_it_does_not_know_is_refused(folder: Path, others: Manifest) -> None:
    strange = others.with_labels(np.where(others.label == "case", "asphyxia", "control"))
    with pytest.raises(ValueError, match="label 'asphyxia' has no index"):
        evaluate(folder / "out" / "model.safetensors", strange, cache=folder / "cache")


def test_a_broken_recording_is_left_out_and_named(folder: Path, others: Manifest, tmp_path: Path) -> None:
    shutil.copytree(folder / "others", tmp_path / "copy")
    copy = replace(others, root=tmp_path / "copy")
    copy.file(2).write_bytes(b"")
    found = evaluate(folder / "out" / "model.safetensors", copy, cache=folder / "cache", n_resamples=100)
    assert list(found["excluded"]) == [copy.path[2]] and found["n_recordings"] == 15


def test_robustness_starts_from_the_plain_metric_and_refuses_training_recordings(
    folder: Path, others: Manifest
) -> None:
    path = folder / "out" / "model.safetensors"
    plain = evaluate(path, others, cache=folder / "cache", n_resamples=100)
    found = measure_robustness(path, others, n_resamples=100)
    points = {
        (line["condition"], line["name"], line["level"]): line
        for line in found["lines"]
        if line["kind"] == "robustness"
    }
    assert points["clean", "", 0.0]["estimate"] == pytest.approx(plain["metrics"]["auroc"]["estimate"])
    assert points["length", "", 100]["estimate"] == points["clean", "", 0.0]["estimate"]
    assert {kind for kind, _, _ in points} >= {"noise", "length", "bands", "codec", "reverberation", "gain"}
    with pytest.raises(ValueError, match="was trained on this recording"):
        measure_robustness(path, study_data.simulated(folder / "audio"))
