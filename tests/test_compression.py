from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_data
import torch
from torch import Tensor, nn

from vagitus.arms.network import compress_trained, train_network
from vagitus.checkpoint import ModelCard, load_model, save_model
from vagitus.compression import CompressConfig, Distilled, compress_network
from vagitus.dataset import Dataset
from vagitus.features import PRESETS
from vagitus.models import build_model
from vagitus.splits import Fold, grouped_folds
from vagitus.study import compress_model, train_model
from vagitus.tensor_train.compress import count_parameters
from vagitus.training import LabelledBatch, TrainConfig

METHODS = {
    "tt": CompressConfig(rank=2),
    "tt int8": CompressConfig(rank=2, bits=8),
    "low_rank": CompressConfig(method="low_rank", rank=2),
    "prune": CompressConfig(method="prune", ratio=8),
    "prune int8": CompressConfig(method="prune", ratio=8, bits=8),
    "int8": CompressConfig(method="none", bits=8),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return study_data.dataset(tmp_path_factory.mktemp("compression"))


@pytest.fixture(scope="module")
def fold(dataset: Dataset) -> Fold:
    return grouped_folds(dataset.labels, dataset.groups, n_folds=3, seed=0)[0]


@pytest.fixture(scope="module")
def trained(dataset: Dataset, fold: Fold) -> nn.Module:
    return train_network(dataset, fold, study_data.BUDGET, None)[0]


def small_card(name: str, storage: dict[str, Any]) -> ModelCard:
    options = {"n_mels": 40, "n_classes": 2}
    return ModelCard(name, options, PRESETS["mfcc40"], 1.0, ("a", "b"), "b", 0.5, compression=storage)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["res8", "gru", "transformer"])
def test_a_compressed_model_comes_back_from_its_file_as_it_was(
    name: str, method: str, tmp_path: Path
) -> None:
    model = build_model(name, n_mels=40, n_classes=2).eval()
    small = compress_network(model, METHODS[method], dev_score=None)
    save_model(tmp_path / "small.safetensors", small.model, small_card(name, small.storage))
    again, _ = load_model(tmp_path / "small.safetensors")
    x = torch.randn(2, 40, 50)
    torch.testing.assert_close(again(x), small.model(x), rtol=0, atol=0)
    size = (tmp_path / "small.safetensors").stat().st_size
    assert small.n_bytes < size < 4 * count_parameters(model)


@pytest.mark.parametrize("method", METHODS)
def test_compressing_leaves_the_original_alone(method: str) -> None:
    model = build_model("res8", n_mels=40, n_classes=2).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compress_network(model, METHODS[method], dev_score=None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_eight_bits_change_a_score_less_than_a_rank_of_two() -> None:
    model = build_model("res8", n_mels=40, n_classes=2).eval()
    x = torch.randn(4, 40, 50)
    off = {
        method: (compress_network(model, METHODS[method], dev_score=None).model(x) - model(x)).abs().max()
        for method in ("int8", "tt")
    }
    assert 0 < off["int8"] < 0.1 * off["tt"]


def test_fine_tuning_brings_the_smaller_network_nearer_to_the_original() -> None:
    model: Any = build_model("gru", n_mels=20, n_classes=2, hidden_size=16).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that it has something to say
    x = torch.randn(32, 20, 15)
    small = compress_network(
        model,
        CompressConfig(rank=1, epochs=20),
        dev_score=None,
        batches=lambda epoch: [LabelledBatch(x, model(x).argmax(1))] * 4,
        steps_per_epoch=4,
        train=TrainConfig(lr=2e-2),
    )
    distances = [record["distil"] for record in small.history]
    assert len(distances) == 20
    assert distances[-1] < 0.7 * distances[0]


def test_a_ratio_is_kept_to_and_ranks_are_chosen_on_the_dev_part(
    trained: nn.Module, dataset: Dataset, fold: Fold
) -> None:
    small = compress_trained(
        trained, CompressConfig(ratio=12, epochs=1), dataset, fold, study_data.BUDGET, None, "study"
    )
    assert 12 * small.n_parameters <= count_parameters(trained)
    assert set(small.chosen["ranks"]) == {"stem", *(f"convs.{i}" for i in range(6))}
    turned = dataset.labels.copy()
    turned[fold.test] = 1 - turned[fold.test]
    again = compress_trained(
        trained,
        CompressConfig(ratio=12, epochs=1),
        replace(dataset, labels=turned),
        fold,
        study_data.BUDGET,
        None,
        "study",
    )
    assert again.chosen == small.chosen  # test labels say nothing


def test_pruned_weights_are_zero_after_fine_tuning(trained: nn.Module, dataset: Dataset, fold: Fold) -> None:
    config = CompressConfig(method="prune", ratio=10, epochs=1)
    small = compress_trained(trained, config, dataset, fold, study_data.BUDGET, None, "study")
    weights = torch.cat([conv.weight.flatten() for conv in small.model.convs])  # type: ignore[union-attr]
    assert (weights == 0).float().mean() > 0.85
    assert small.n_parameters < 0.15 * count_parameters(trained)


def test_fine_tuning_that_only_harms_is_thrown_away(dataset: Dataset, fold: Fold) -> None:
    model = build_model("res8", n_mels=40, n_classes=2).eval()
    cut = compress_network(model, CompressConfig(rank=4), dev_score=None).model
    calls = iter([1.0, 0.5, 0.5])
    x = torch.randn(8, 40, 30)
    tuned = compress_network(
        model,
        CompressConfig(rank=4, epochs=2),
        dev_score=lambda candidate: next(calls),
        batches=lambda epoch: [LabelledBatch(x, torch.arange(8) % 2)],
        steps_per_epoch=1,
        train=study_data.BUDGET.train,
    )
    assert len(tuned.history) == 2
    for name, tensor in tuned.model.state_dict().items():
        assert torch.equal(tensor, cut.state_dict()[name])


def test_the_teacher_is_not_trained_along() -> None:
    teacher = nn.Linear(3, 2)
    objective = Distilled(teacher, "cross_entropy", CompressConfig(rank=1))
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    student = nn.Linear(3, 2)
    student.load_state_dict(teacher.state_dict())
    batch = LabelledBatch(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))
    terms: dict[str, Tensor] = objective(student, batch)
    assert terms["distil"].item() == pytest.approx(0, abs=1e-6)  # it says what its teacher says


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ratio": 10, "rank": 2}, "give one of ratio, rank and tolerance, got ratio and rank"),
        ({"method": "prune", "rank": 2}, "pruning takes a ratio; rank belongs to tt and low_rank"),
        ({"method": "none"}, "give bits 8 or 16"),
        ({"method": "none", "bits": 8, "ratio": 3}, "and nothing else"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CompressConfig(**options)


def test_a_ratio_needs_recordings() -> None:
    model = build_model("res8", n_mels=40, n_classes=2)
    with pytest.raises(ValueError, match="give recordings, or a rank or tolerance"):
        compress_network(model, CompressConfig(), dev_score=None)


def test_a_model_file_is_compressed_with_its_recordings_and_only_once(tmp_path: Path) -> None:
    manifest = study_data.simulated(tmp_path / "audio")
    large, small = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    train_model(study_data.config(), manifest, large, positive="case", cache=tmp_path / "cache")
    config = CompressConfig(rank=2, epochs=1, bits=8)
    found = compress_model(
        large, small, config, manifest, budget=study_data.BUDGET, cache=tmp_path / "cache", n_workers=1
    )
    assert found["after"]["n_bytes"] < found["before"]["n_bytes"] / 10
    assert 0 <= found["after"]["dev_auroc"] <= 1
    model, card = load_model(small)
    assert count_parameters(model) == found["after"]["n_parameters"]
    assert 0 < (card.threshold or 0) < 1
    assert len(card.provenance["trained_on"]) == 8 * len(manifest)  # so that evaluate still refuses them
    assert "cross_validated" not in card.provenance
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audio",
        "cache",
        "large.safetensors",
        "small.safetensors",
    ]
    with pytest.raises(ValueError, match="is compressed already"):
        compress_model(small, tmp_path / "smaller.safetensors", config)


def test_labels_the_model_does_not_know_are_said_before_any_work(tmp_path: Path) -> None:
    manifest = study_data.simulated(tmp_path / "audio")
    model = build_model("res8", n_mels=40, n_classes=2)
    save_model(tmp_path / "model.safetensors", model, small_card("res8", {}))
    with pytest.raises(ValueError, match="label 'control' has no index; known: a, b"):
        compress_model(
            tmp_path / "model.safetensors", tmp_path / "small.safetensors", CompressConfig(rank=1), manifest
        )
    assert np.all([path.name in ("audio", "model.safetensors") for path in tmp_path.iterdir()])
