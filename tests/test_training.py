import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus.augment import mask_bands_and_frames
from vagitus.models import build_model
from vagitus.training import (
    CropBatches,
    LabelledBatch,
    Record,
    Supervised,
    TrainConfig,
    balanced_order,
    fit,
    learning_rate,
    score_recordings,
)

PLAIN = TrainConfig(epochs=4, batch_size=8, lr=3e-3, window_s=0.3, precision="32-true", warmup_epochs=0.5)


def planted(n: int = 40, seed: int = 0) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Recordings of different lengths whose class raises the middle bands."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    features = []
    for label in labels:
        x = rng.normal(size=(12, int(rng.integers(20, 60)))).astype(np.float32)
        x[4:8] += 1.5 * label
        features.append(x)
    return features, labels


def train(
    config: TrainConfig,
    state_path: Path | None = None,
    stop_after: int | None = None,
    rates: dict[str, float] | None = None,
) -> tuple[nn.Module, list[Record]]:
    """Train on the planted effect; ``stop_after`` breaks off as a kill would, after that many batches."""
    features, labels = planted()
    torch.manual_seed(1)
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    crops = CropBatches(features, labels, window_frames=30, config=config, seed=3)
    n_batches = 0

    def batches(epoch: int) -> Iterator[LabelledBatch]:
        nonlocal n_batches
        for batch in crops(epoch):
            n_batches += 1
            if stop_after is not None and n_batches > stop_after:
                raise KeyboardInterrupt
            yield batch

    def dev_score(model: nn.Module) -> float:
        logits = score_recordings(model, features[:20], window_frames=30)
        return float((logits.argmax(1) == labels[:20]).mean())

    history = fit(
        model,
        Supervised(config.loss),
        batches,
        config,
        steps_per_epoch=len(crops),
        seed=3,
        rates=rates,
        dev_score=dev_score,
        state_path=state_path,
    )
    return model, history


def test_it_learns_a_planted_effect_and_keeps_the_best_epoch() -> None:
    # Batch norm's running statistics need some 20 steps to leave their initial values.
    model, history = train(PLAIN.model_copy(update={"epochs": 8}))
    assert history[-1]["task"] < history[0]["task"]
    features, labels = planted(60, seed=9)
    scores = score_recordings(model, features, window_frames=30)
    assert (scores.argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_after", [7, 13])  # an epoch has 5 batches: in the second and in the third
def test_a_killed_training_ends_with_the_unbroken_numbers(
    tmp_path: Path, optimizer: str, stop_after: int
) -> None:
    config = PLAIN.model_copy(update={"optimizer": optimizer})
    unbroken, history = train(config)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, state, stop_after)
    assert state.exists()
    resumed, resumed_history = train(config, state)
    assert resumed_history == history
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    # The state of a finished training gives its result, without a batch.
    again, again_history = train(config, state, stop_after=0)
    assert again_history == history
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in unbroken.state_dict().items()
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_killed_training_with_rates_ends_with_the_unbroken_numbers(tmp_path: Path, optimizer: str) -> None:
    # Three groups, the second of which holds a parameter from the middle of the model.
    rates = {"convs.2.weight": 0.3, "stem.weight": 0.1}
    config = PLAIN.model_copy(update={"optimizer": optimizer})
    unbroken, history = train(config, rates=rates)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, state, 7, rates)
    resumed, resumed_history = train(config, state, rates=rates)
    assert resumed_history == history
    assert all(torch.equal(t, resumed.state_dict()[name]) for name, t in unbroken.state_dict().items())
    with pytest.raises(ValueError, match="other options; remove it"):
        train(config, state, rates={"stem.weight": 0.1})


class Sum(nn.Module):
    """Its gradient is 1 everywhere, whatever the weights."""

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        return {"sum": torch.stack([p.sum() for p in model.parameters()]).sum() + 0 * model(batch.x).sum()}


def test_a_rate_scales_the_step_of_its_parameter_alone() -> None:
    features, labels = planted(8)
    config = PLAIN.model_copy(
        update={"epochs": 1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "gradient_clip": 1e9}
    )
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    crops = CropBatches(features, labels, window_frames=30, config=config, seed=0)
    history = fit(
        model, Sum(), crops, config, steps_per_epoch=1, seed=0, rates={"stem.weight": 0.25, "head.bias": 3.0}
    )
    scales = {
        name: (before[name] - p).mean().item() / history[0]["lr"] for name, p in model.named_parameters()
    }
    expected = dict.fromkeys(scales, 1.0) | {"stem.weight": 0.25, "head.bias": 3.0}
    assert scales == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        ({"stem.weights": 0.5}, "no parameter 'stem.weights'; did you mean 'stem.weight'"),
        (
            {"stem.weight": 0.0},
            "scale of stem.weight must be above 0, got 0.0; to keep it as it is, freeze it",
        ),
    ],
)
def test_rates_of_nothing_and_of_zero_are_refused(rates: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train(PLAIN, rates=rates)


def test_what_is_measured_is_logged_and_changes_nothing() -> None:
    features, labels = planted()
    crops = CropBatches(features, labels, window_frames=30, config=PLAIN, seed=0)

    def final(measure: Callable[[nn.Module], Record] | None) -> tuple[Tensor, list[Record]]:
        torch.manual_seed(1)
        model = build_model("res8", n_mels=12, n_classes=2, width=6)
        history = fit(model, Supervised("hinge"), crops, PLAIN, steps_per_epoch=5, seed=0, measure=measure)
        return model.get_parameter("head.weight"), history

    plain, _ = final(None)
    measured, history = final(lambda model: {"training": float(model.training), "answer": 42.0})
    assert torch.equal(plain, measured)
    assert [(record["training"], record["answer"]) for record in history] == [(0.0, 42.0)] * PLAIN.epochs


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = train(PLAIN)[0].state_dict(), train(PLAIN)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_state_of_other_options_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(PLAIN, state, 7)
    with pytest.raises(ValueError, match="other options; remove it"):
        train(PLAIN.model_copy(update={"lr": 1e-4}), state)


def test_training_stops_when_the_dev_score_does() -> None:
    features, labels = planted()
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    config = PLAIN.model_copy(update={"epochs": 30, "patience": 2})
    crops = CropBatches(features, labels, window_frames=30, config=config, seed=0)
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    history = fit(
        model,
        Supervised("cross_entropy"),
        crops,
        config,
        steps_per_epoch=5,
        seed=0,
        dev_score=lambda m: next(scores),
    )
    # Best at epoch 1; epochs 2 and 3 are no better (a tie is not); the third would be too many.
    assert [record["dev_score"] for record in history] == [0.5, 0.7, 0.6, 0.7]


class Exploding(nn.Module):
    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        return {"task": model(batch.x).mean(), "norm": torch.tensor(math.inf)}


def test_a_loss_that_is_not_finite_names_its_terms_and_step() -> None:
    features, labels = planted()
    crops = CropBatches(features, labels, window_frames=30, config=PLAIN, seed=0)
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 0: \{'task': .*'norm': inf\}"):
        fit(model, Exploding(), crops, PLAIN, steps_per_epoch=5, seed=0)


def test_an_empty_epoch_is_refused() -> None:
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(model, Supervised("hinge"), lambda epoch: [], PLAIN, steps_per_epoch=5, seed=0)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = TrainConfig(epochs=10, lr=0.2, warmup_epochs=2)
    rates = [learning_rate(step, 40, config, steps_per_epoch=4) for step in range(40)]
    assert rates[0] == pytest.approx(0.2 / 8)
    assert rates[20] == pytest.approx(0.1)  # half way down the cosine
    assert np.argmax(rates) == 7 and rates[-1] < 0.002


def test_learning_rate_drops_to_a_tenth_at_each_step_named() -> None:
    config = TrainConfig(epochs=10, lr=0.2, warmup_epochs=0, drops=(3, 5))
    rates = [learning_rate(step, 40, config, steps_per_epoch=4) for step in (0, 2, 3, 4, 5, 39)]
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_classes_are_drawn_equally_and_everyone_gets_a_turn() -> None:
    labels = np.array([0] * 9 + [1] * 3)
    order = balanced_order(labels, np.random.default_rng(0))
    assert np.bincount(labels[order]).tolist() == [6, 6]
    drawn = np.bincount(order, minlength=12)
    assert drawn[:9].max() == 1 and drawn[9:].tolist() == [2, 2, 2]


def test_a_recording_scores_the_mean_of_its_windows_alone_or_in_company() -> None:
    features, _ = planted(3)
    torch.manual_seed(0)
    model = build_model("res8", n_mels=12, n_classes=2, width=6).eval()
    together = score_recordings(model, features, window_frames=10)
    alone = score_recordings(model, features[1:2], window_frames=10)
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5)
    starts = [*range(0, features[1].shape[1] - 9, 5)]
    if starts[-1] != features[1].shape[1] - 10:
        starts.append(features[1].shape[1] - 10)
    with torch.no_grad():
        windows = torch.stack([torch.from_numpy(features[1][:, s : s + 10]) for s in starts])
        np.testing.assert_allclose(alone[0], model(windows).mean(0).numpy(), rtol=1e-5)


def test_masks_hide_one_run_of_bands_and_of_frames() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(50, 10, 20)).astype(np.float32)
    masked = clean.copy()
    mask_bands_and_frames(masked, 0.3, rng)
    for before, after in zip(clean, masked, strict=True):
        hidden = before != after
        rows, columns = hidden.all(axis=1), hidden.all(axis=0)
        assert rows.sum() <= 3 and columns.sum() <= 6
        assert np.array_equal(hidden, rows[:, None] | columns[None, :])
        assert np.abs(np.diff(np.flatnonzero(rows))).max(initial=1) == 1
        assert np.allclose(after[hidden], before.mean())
    assert not np.array_equal(clean, masked)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got 1"):
        mask_bands_and_frames(masked, 1, rng)


def test_a_shift_moves_what_a_short_recording_holds() -> None:
    x = np.zeros((3, 30), np.float32)
    x[:, 15] = 1.0  # a click in the middle
    config = PLAIN.model_copy(update={"mask": 0.0, "shift_s": 0.1, "batch_size": 64})
    crops = CropBatches(
        [x] * 64, np.zeros(64, np.int64), window_frames=30, config=config, seed=0, shift_frames=10
    )
    (batch,) = crops(0)
    places = batch.x[:, 0].argmax(dim=1)
    assert (batch.x.sum(dim=(1, 2)) == 3).all(), "the click left a crop"
    assert 5 <= places.min() < 8 and 22 < places.max() <= 25


def test_a_stretch_changes_how_long_a_sound_lasts_and_a_warp_what_band_it_is_in() -> None:
    x = np.zeros((4, 90), np.float32)
    x[1, 40:50] = 1.0
    swap = np.eye(4, dtype=np.float32)[[1, 0, 2, 3]]
    config = PLAIN.model_copy(update={"mask": 0.0, "stretch": 0.5, "batch_size": 64})
    crops = CropBatches(
        [x] * 64, np.zeros(64, np.int64), window_frames=90, config=config, seed=0, warps=[swap]
    )
    (batch,) = crops(0)
    lasts = batch.x[:, 0].sum(dim=1)
    assert batch.x.shape == (64, 4, 90) and (batch.x[:, 1:] == 0).all()
    assert lasts.min() < 8 and lasts.max() > 14
