"""Methods of adaptation: the contract of every row, batch-norm statistics of two domains, and a planted shift."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus.adapt import METHODS, OBJECTIVES, control_of, parse_method, regime_of
from vagitus.adapt.adaptation import Adapted, Sources, Target, adapt_network
from vagitus.adapt.adversarial import Dann
from vagitus.adapt.batch_norm import adapt_batch_norm
from vagitus.adapt.batches import DomainBatches
from vagitus.adapt.few_labels import choose_subjects, repeat_labelled
from vagitus.adapt.noise import background, inject, noise_of_site, quiet_stretches
from vagitus.adapt.objective import Adaptation, DomainBatch, Passed
from vagitus.adapt.self_training import (
    distil_sources,
    rank_shares,
    self_train,
    surest,
    surest_of_each_class,
)
from vagitus.adapt.tent import tent
from vagitus.adapt.transport import gaussian_map, move_head, standardise_sites
from vagitus.models import build_model
from vagitus.segment import Event
from vagitus.training import TrainConfig, fit, score_recordings

N_MELS, N_FRAMES = 8, 16
CONFIG = TrainConfig(epochs=6, patience=6, batch_size=32, lr=2e-3, mask=0.0, precision="32-true")
Float32 = NDArray[np.float32]


def recordings(
    n: int, seed: int, *, tilt: float = 0.0, loud: float = 1.0
) -> tuple[list[Float32], NDArray[np.int64]]:
    """Class 1 is louder in the upper bands; a site tilts the bands and stretches their range."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 2).astype(np.int64)
    slope = np.linspace(-1, 1, N_MELS)[:, None]
    x = [
        loud * (rng.standard_normal((N_MELS, N_FRAMES)) + (2 * k - 1) * 0.4 * slope) + tilt * slope for k in y
    ]
    return [each.astype(np.float32) for each in x], y


SOURCE_X, SOURCE_Y = recordings(64, 0)
SOURCES = Sources(SOURCE_X, SOURCE_Y, (np.arange(64) // 32).astype(np.int64))
TARGET_X, TARGET_Y = recordings(48, 1, tilt=2.5, loud=1.5)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = build_model("small", n_mels=N_MELS, n_classes=2, width=4)
    batches = DomainBatches(*SOURCES[:3], (), window_frames=N_FRAMES, config=CONFIG, seed=0)
    longer = CONFIG.model_copy(update={"epochs": 12, "patience": 12})
    fit(network, Adaptation(), batches, longer, steps_per_epoch=len(batches), seed=0)
    return network


def accuracy(network: nn.Module, x: list[Float32] = TARGET_X, y: NDArray[np.int64] = TARGET_Y) -> float:
    return float((score_recordings(network, x, window_frames=N_FRAMES).argmax(axis=1) == y).mean())


def noisy_copy() -> list[Float32]:
    rng = np.random.default_rng(5)
    slope = np.linspace(-1, 1, N_MELS, dtype=np.float32)[:, None]
    return [1.5 * x + 2.5 * slope + 0.3 * rng.standard_normal(x.shape).astype(np.float32) for x in SOURCE_X]


def adapt(network: nn.Module, method: str) -> Adapted:
    sources = SOURCES._replace(noisy=[noisy_copy()]) if "tni" in method else SOURCES
    target = Target(TARGET_X, TARGET_X[:6], TARGET_Y[:6]) if "few" in method else Target(TARGET_X)
    return adapt_network(network, sources, target, method, CONFIG, window_frames=N_FRAMES, seed=0)


# The tables.


def test_every_term_is_a_method() -> None:
    assert set(OBJECTIVES) < set(METHODS)
    assert all(METHODS[name].trains and METHODS[name].regime == "unlabelled" for name in OBJECTIVES)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.is_control])
def test_every_method_lifts_accuracy_on_the_planted_shift(name: str, model: nn.Module) -> None:
    assert accuracy(model) < 0.75
    assert accuracy(adapt(model, name).model) > accuracy(model) + 0.1


@pytest.mark.parametrize("name", ["safn+entropy+tni", "mcc+transport", "few-labels+coral"])
def test_combinations_are_made_by_listing_them(name: str, model: nn.Module) -> None:
    found = adapt(model, name)
    assert accuracy(found.model) > accuracy(model) + 0.1
    terms = set(found.history[0])
    assert {"safn_source", "safn_target", "entropy"} <= terms if "safn" in name else {"mcc", "coral"} & terms


def test_the_network_that_is_adapted_stays_as_it_was(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in METHODS:
        adapt(model, name)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["dann", "self-training", "steps"])
def test_the_same_seed_gives_the_same_weights(name: str, model: nn.Module) -> None:
    first, second = (adapt(model, name).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("method", "regime", "control"),
    [
        ("adabn", "unlabelled", ""),
        ("safn", "unlabelled", "steps+adabn"),
        ("tni", "noise", "steps"),
        ("safn+tni", "unlabelled", "steps+adabn"),
        ("self-training", "unlabelled", "self-distillation+adabn"),
        ("mcc+transport", "unlabelled", "steps+transport"),
        ("few-labels", "labels", "steps+adabn"),
        ("steps", "nothing", ""),
    ],
)
def test_every_combination_states_its_regime_and_its_control(method: str, regime: str, control: str) -> None:
    assert (regime_of(method), control_of(method)) == (regime, control)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("saffn", "no method 'saffn'; choose from .*did you mean 'safn'"),
        ("safn+safn", "named twice"),
        ("transport+safn", "one may be named, as the last"),
        ("tent+transport", "one may be named, as the last"),
        ("adabn+transport", "leave out adabn"),
    ],
)
def test_impossible_combinations_are_refused(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_method(text)


# Batch norm of two domains.


def test_target_scores_use_the_targets_statistics_and_source_scores_the_sources(model: nn.Module) -> None:
    found = adapt(model, "safn")
    by_hand = copy.deepcopy(found.model)
    adapt_batch_norm(by_hand, TARGET_X, window_frames=N_FRAMES)
    assert torch.allclose(
        by_hand.state_dict()["norm.running_mean"], found.model.state_dict()["norm.running_mean"]
    )
    adapt_batch_norm(by_hand, SOURCE_X, window_frames=N_FRAMES)
    same = by_hand.state_dict()["norm.running_mean"], found.at_sources.state_dict()["norm.running_mean"]
    assert torch.allclose(*same)
    weights = [name for name, _ in found.model.named_parameters()]
    assert all(torch.equal(found.model.state_dict()[n], found.at_sources.state_dict()[n]) for n in weights)


def test_adabn_by_hand() -> None:
    network = build_model("small", n_mels=N_MELS, n_classes=2, width=4)
    adapt_batch_norm(network, TARGET_X, window_frames=N_FRAMES)
    stacked = np.stack(TARGET_X)
    np.testing.assert_allclose(
        network.state_dict()["norm.running_mean"].numpy(), stacked.mean(axis=(0, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        network.state_dict()["norm.running_var"].numpy(), stacked.var(axis=(0, 2), ddof=1), rtol=1e-4
    )


def test_each_domain_is_normalised_by_its_own_batch() -> None:
    """The source's logits in training do not depend on what the target's batch holds."""

    class Recorder(nn.Module):
        def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
            seen.append((source.logits.detach().clone(), target.logits.detach().clone()))
            return {}

    seen: list[tuple[Tensor, Tensor]] = []
    torch.manual_seed(0)
    network = build_model("small", n_mels=N_MELS, n_classes=2, width=4).train()
    objective = Adaptation([Recorder()])
    x, y = torch.from_numpy(np.stack(SOURCE_X[:10])), torch.from_numpy(SOURCE_Y[:10])
    for shift in (0.0, 5.0):
        objective(
            network, DomainBatch(x, y, torch.zeros_like(y), torch.from_numpy(np.stack(TARGET_X[:6])) + shift)
        )
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.allclose(
        seen[0][1], seen[1][1], atol=1e-4
    )  # a shift of its own batch, which its norms remove


# Objectives.


def test_terms_of_one_name_are_refused() -> None:
    network = build_model("small", n_mels=N_MELS, n_classes=2, width=4)
    x = torch.from_numpy(np.stack(SOURCE_X[:4]))
    batch = DomainBatch(x, torch.tensor([0, 1, 0, 1]), torch.zeros(4, dtype=torch.int64), x)
    with pytest.raises(ValueError, match="two methods give a term 'mcc'"):
        Adaptation([OBJECTIVES["mcc"](), OBJECTIVES["mcc"]()])(network, batch)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_term_reaches_the_networks_weights(name: str) -> None:
    torch.manual_seed(0)
    network = build_model("small", n_mels=N_MELS, n_classes=2, width=4)
    options: dict[str, Any] = {}
    if name == "dann":
        options = {"feature_dim": network.feature_dim, "n_sources": 2, "total_steps": 4}
    term = OBJECTIVES[name](**options)
    if isinstance(term, Dann):
        term.step.fill_(2)
    x, x_target = torch.from_numpy(np.stack(SOURCE_X[:9])), torch.from_numpy(np.stack(TARGET_X[:5]))
    passed = []
    for each in (x, x_target):
        features = network.features(each)  # type: ignore[operator]
        passed.append(Passed(features, network.head(features)))  # type: ignore[operator]
    found = term(*passed, torch.arange(9) % 2)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in found.values())
    torch.autograd.backward(sum(found.values()))
    gradient = network.convs[0].weight.grad  # type: ignore[union-attr, index]
    assert isinstance(gradient, Tensor) and gradient.abs().sum() > 0


def test_dann_one_recording_at_a_time_with_unequal_domains() -> None:
    torch.manual_seed(0)
    dann = Dann(feature_dim=3, n_sources=2, total_steps=10)
    source, target = torch.randn(5, 3), torch.randn(2, 3)
    site = torch.tensor([0, 0, 0, 1, 1])
    value = dann(Passed(source, source), Passed(target, target), site)["dann"].item()
    logits = dann.discriminator(torch.cat([source, target])).tolist()
    domains = [*site.tolist(), 2, 2]
    by_domain: dict[int, list[float]] = {}
    for row, domain in zip(logits, domains, strict=True):
        by_domain.setdefault(domain, []).append(math.log(sum(map(math.exp, row))) - row[domain])
    expected = sum(sum(losses) / len(losses) for losses in by_domain.values()) / 3
    assert value == pytest.approx(expected, rel=1e-5)


def test_dann_turns_the_gradient_round_and_follows_its_schedule() -> None:
    torch.manual_seed(0)
    dann = Dann(feature_dim=3, n_sources=1, total_steps=4)
    dann.step.fill_(2)
    source = torch.randn(4, 3, requires_grad=True)
    target, site = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    (reversed_gradient,) = torch.autograd.grad(
        dann(Passed(source, source), Passed(target, target), site)["dann"], source
    )
    logits = dann.discriminator(torch.cat([source, target]))
    plain = nn.functional.cross_entropy(logits, torch.tensor([0] * 4 + [1] * 4))
    (gradient,) = torch.autograd.grad(plain, source)
    torch.testing.assert_close(reversed_gradient, -math.tanh(2.5) * gradient)
    assert dann.step.item() == 3
    dann.eval()(Passed(source, source), Passed(target, target), site)
    assert dann.step.item() == 3


# Batches.


def test_within_a_site_classes_come_equally_often_and_sites_by_their_size() -> None:
    y = np.array([0] * 30 + [1] * 10 + [1] * 15 + [0] * 5)
    sites = np.array([0] * 40 + [1] * 20)
    x = [np.full((N_MELS, N_FRAMES), i, np.float32) for i in range(60)]
    batches = DomainBatches(x, y, sites, TARGET_X, window_frames=N_FRAMES, config=CONFIG, seed=0)
    drawn = list(batches(0))
    assert len(drawn) == len(batches)
    seen = [(int(s), int(k)) for batch in drawn for s, k in zip(batch.site, batch.y, strict=True)]
    assert [seen.count((s, k)) for s in (0, 1) for k in (0, 1)] == [20, 20, 10, 10]
    rows = torch.cat([batch.x[:, 0, 0] for batch in drawn]).long().numpy()
    assert [(int(sites[i]), int(y[i])) for i in rows] == seen


def test_the_whole_target_is_walked_through() -> None:
    target = [np.full((N_MELS, N_FRAMES), i, np.float32) for i in range(40)]
    batches = DomainBatches(*SOURCES[:3], target, window_frames=N_FRAMES, config=CONFIG, seed=0)
    heard = {int(v) for epoch in range(2) for batch in batches(epoch) for v in batch.x_target[:, 0, 0]}
    assert heard == set(range(40))


def test_an_epoch_repeats_itself_and_differs_from_the_next() -> None:
    batches = DomainBatches(*SOURCES[:3], TARGET_X, window_frames=N_FRAMES, config=CONFIG, seed=0)
    first, again, other = (next(iter(batches(epoch))).x for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels": np.zeros(64, np.int64)}, "one class alone"),
        ({"sites": np.zeros(3, np.int64)}, "64 source recordings, 64 labels and 3 sites"),
        ({"target": TARGET_X[:1]}, "one target recording is no batch"),
        ({"augmented": [SOURCE_X[:2]]}, "a recording for every source recording"),
    ],
)
def test_bad_batches_are_refused(changes: dict[str, Any], match: str) -> None:
    given: dict[str, Any] = {"labels": SOURCE_Y, "sites": SOURCES.sites, "target": TARGET_X} | changes
    with pytest.raises(ValueError, match=match):
        DomainBatches(SOURCE_X, window_frames=N_FRAMES, config=CONFIG, seed=0, **given)


@pytest.mark.parametrize(
    ("method", "target", "match"),
    [
        ("tni", Target(TARGET_X), "tni needs source recordings with the target's noise"),
        ("few-labels", Target(TARGET_X), "few-labels needs labelled subjects"),
        ("safn", Target([]), "safn needs recordings of the target"),
        ("adabn", Target(TARGET_X[:5]), "5 recordings of the domain are too few for batch norm"),
        ("safn+adabn", Target(TARGET_X[:5]), "5 recordings of the domain are too few for batch norm"),
        ("safn+tent", Target(TARGET_X[:5]), "5 recordings of the domain are too few for batch norm"),
        ("transport", Target(TARGET_X[:5]), "5 target recordings are too few for their covariance"),
        ("safn+transport", Target(TARGET_X[:5]), "5 target recordings are too few for their covariance"),
    ],
)
def test_what_the_target_cannot_give_is_refused(
    method: str, target: Target, match: str, model: nn.Module
) -> None:
    epochs: list[Any] = []
    with pytest.raises(ValueError, match=match):
        adapt_network(
            model, SOURCES, target, method, CONFIG, window_frames=N_FRAMES, seed=0, on_epoch=epochs.append
        )
    assert not epochs, "refused after the training"


class WithoutNorm(nn.Module):
    """The contract of a model, and not a batch norm in it."""

    feature_dim, least_frames = 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(N_MELS, 4), nn.Linear(4, 2)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x.mean(dim=2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.features(x)))


def test_a_network_without_batch_norm_is_trained_and_refused_for_adabn() -> None:
    assert adapt(WithoutNorm(), "safn").history
    with pytest.raises(ValueError, match="WithoutNorm has no batch norm to adapt"):
        adapt(WithoutNorm(), "adabn")


def test_a_network_without_what_a_method_changes_is_refused() -> None:
    res8 = build_model("res8", n_mels=N_MELS, n_classes=2, width=4)
    with pytest.raises(ValueError, match="no batch norm with scale and shift"):
        next(iter(tent(res8, [torch.zeros(8, N_MELS, N_FRAMES)])))
    with pytest.raises(ValueError, match="no batch norm to adapt"):
        adapt_batch_norm(nn.Linear(3, 2), TARGET_X, window_frames=N_FRAMES)


# TENT.


def test_tent_changes_scale_and_shift_alone_and_lowers_entropy(model: nn.Module) -> None:
    network = copy.deepcopy(model)
    x = torch.from_numpy(np.stack(TARGET_X))
    said = [torch.softmax(logits, dim=1) for logits in tent(network, [x] * 30, lr=5e-3)]
    entropies = [-(p * p.log()).sum(dim=1).mean().item() for p in (said[0], said[-1])]
    assert entropies[1] < entropies[0]
    changed = {
        name for name, p in network.named_parameters() if not torch.equal(p, model.get_parameter(name))
    }
    assert changed and all(name.startswith("norms.") for name in changed)
    assert all(p.requires_grad for p in network.parameters()) and not network.training


def test_what_tent_costs_at_the_sources_is_measured_with_the_weights_that_it_changed(
    model: nn.Module,
) -> None:
    found = adapt(model, "tent")
    of_target, of_sources = (dict(network.named_parameters()) for network in (found.model, found.at_sources))
    assert any(not torch.equal(p, model.get_parameter(name)) for name, p in of_target.items())
    assert all(torch.equal(p, of_sources[name]) for name, p in of_target.items())
    expected = copy.deepcopy(found.model)
    adapt_batch_norm(expected, SOURCE_X, window_frames=N_FRAMES)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.at_sources.state_dict()[name])


def test_tent_refuses_a_batch_too_small_for_statistics(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="a batch of 2 recordings is too small"):
        list(tent(copy.deepcopy(model), [torch.zeros(2, N_MELS, N_FRAMES)]))


# Transport.


def test_the_gaussian_map_gives_the_sources_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((500, 3)) @ np.array([[1.0, 0.4, 0], [0, 2, 0.3], [0, 0, 0.5]]) + 5
    target = rng.standard_normal((300, 3)) @ np.array([[0.5, 0, 0.2], [0, 1, 0], [0.1, 0, 3]]) - 2
    a, shift = gaussian_map(source, target)
    np.testing.assert_allclose(a, a.T, atol=1e-10)
    assert np.linalg.eigvalsh(a).min() > 0
    moved = target @ a.T + shift
    np.testing.assert_allclose(moved.mean(axis=0), source.mean(axis=0))
    # Both covariances have the same share of their mean variance on the diagonal.
    c_s, c_t = (np.cov(x, rowvar=False) for x in (source, target))
    c_s, c_t = (c + 0.1 * np.trace(c) / 3 * np.eye(3) for c in (c_s, c_t))
    np.testing.assert_allclose(a @ c_t @ a, c_s, atol=1e-9)


def test_a_diagonal_map_is_the_ratio_of_deviations() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((50, 2)) * [1.0, 3.0], rng.standard_normal((40, 2)) * [2.0, 1.0]
    a, _ = gaussian_map(source, target, diagonal=True)
    variances = [x.var(axis=0, ddof=1) + 0.1 * x.var(axis=0, ddof=1).mean() for x in (source, target)]
    np.testing.assert_allclose(a, np.diag(np.sqrt(variances[0] / variances[1])))


def test_a_moved_head_says_of_the_target_what_it_said_of_the_moved_features(model: nn.Module) -> None:
    rng = np.random.default_rng(0)
    dim = int(model.feature_dim)  # type: ignore[arg-type]
    a, shift = gaussian_map(rng.standard_normal((60, dim)), 2 * rng.standard_normal((60, dim)) + 1)
    moved = copy.deepcopy(model)
    move_head(moved, a, shift)
    f = rng.standard_normal((4, dim))
    expected = model.head(torch.from_numpy(f @ a.T + shift).float())  # type: ignore[operator]
    torch.testing.assert_close(moved.head(torch.from_numpy(f).float()), expected, atol=1e-4, rtol=1e-4)  # type: ignore[operator]


def test_standardised_sites_by_hand() -> None:
    x = np.array([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0], [30.0, 2.0]])
    assert standardise_sites(x, ["a", "a", "b", "b"]).tolist() == [[-1, 0], [1, 0], [-1, -1], [1, 1]]


# Self-training.


def nearest_mean(
    x: NDArray[np.float64], y: NDArray[np.int64], new: NDArray[np.float64]
) -> NDArray[np.float64]:
    means = [x[y == k].mean(axis=0) for k in (0, 1)]
    return np.asarray(new @ (means[1] - means[0]))


def test_the_surest_come_from_both_ends() -> None:
    kept, pseudo = surest(rank_shares(np.array([5.0, 1, 9, 3, 7, 0, 8, 2, 6, 4])), 0.6)
    assert kept.tolist() == [5, 1, 7, 4, 6, 2] and pseudo.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_recording_is_taken_for_one_class_alone() -> None:
    # The first is the likeliest of classes 0 and 1, and the last two have nothing left but class 1.
    p = np.array([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7], [0.4, 0.3, 0.3]])
    rows, pseudo = surest_of_each_class(p, 1)
    assert rows.tolist() == [0, 1, 2] and pseudo.tolist() == [0, 1, 2]


def test_a_second_view_learns_from_a_weak_first() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    first = 1.5 * y + rng.standard_normal(200)
    second = np.stack([4.0 * y + rng.standard_normal(200), rng.standard_normal(200)], axis=1)
    found = self_train(first, second, nearest_mean, kept_share=0.4)
    assert ((found.scores > 0.5) == y).mean() > ((rank_shares(first) > 0.5) == y).mean() + 0.05
    assert len(found.kept) == 80 and (y[found.kept] == found.pseudo).mean() > 0.8
    rounds = self_train(first, second, nearest_mean, kept_share=0.4, rounds=3)
    assert ((rounds.scores > 0.5) == y).mean() >= ((found.scores > 0.5) == y).mean()


def test_the_control_is_fitted_on_the_sources_alone() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    source_second = np.stack([3.0 * y + rng.standard_normal(100)], axis=1)
    target_first = rng.standard_normal(60)
    one, other = (
        distil_sources(
            y + 0.5 * rng.standard_normal(100),
            source_second,
            target_first,
            sign * source_second[:60],
            nearest_mean,
            kept_share=0.5,
        )
        for sign in (1.0, -1.0)
    )
    # What it learned of the second view is the sources': turned round at the target, it is turned round here.
    shares = rank_shares(target_first)
    np.testing.assert_allclose((2 * one - shares) + (2 * other - shares), np.ones(60), atol=1e-9)


# Few labels.


def test_labelled_subjects_nest_and_are_not_measured() -> None:
    subjects = np.repeat([f"s{i}" for i in range(12)], 2)
    labels = np.repeat([0, 1, 0], 8)
    drawn = [choose_subjects(labels, subjects, k, seed=4) for k in (1, 2, 5)]
    assert set(drawn[0].subjects) < set(drawn[1].subjects) < set(drawn[2].subjects)
    assert {int(labels[subjects == s][0]) for s in drawn[1].subjects} == {0, 1}
    for found in drawn:
        assert not set(subjects[found.labelled]) & set(subjects[found.rest])
        assert len(found.labelled) + len(found.rest) == len(labels)


def test_a_few_labels_become_a_quarter_of_an_epoch() -> None:
    assert len(repeat_labelled(90, [4, 7])) == 30
    assert repeat_labelled(3, [4, 7, 9]).tolist() == [4, 7, 9]


# Noise.


def test_background_is_what_lies_outside_the_events() -> None:
    x = np.arange(1000, dtype=np.float32) / 1000
    left = background(x, 100, [Event(2.0, 3.0, "s1"), Event(5.0, 6.0, "systole")], ["s1"])
    assert left.tolist() == pytest.approx([*x[:197], *x[303:]])


def test_quiet_stretches_are_the_pauses() -> None:
    rng = np.random.default_rng(0)
    x = 0.01 * rng.standard_normal(8000)
    x[2000:6000] += np.sin(np.arange(4000))
    found = quiet_stretches(x.astype(np.float32), 1000)
    assert len(found) == 1600 and np.abs(found).max() < 0.1
    steady = quiet_stretches(rng.standard_normal(8000).astype(np.float32), 1000)
    assert len(steady) == 0


def test_injected_noise_has_the_ratio_that_was_drawn() -> None:
    rng = np.random.default_rng(0)
    x, noise = np.sin(np.arange(4000) / 5).astype(np.float32), rng.standard_normal(4000).astype(np.float32)
    added = inject(x, [noise], np.random.default_rng(1), snr_db=(6.0, 6.0)) - x
    assert 10 * np.log10(np.mean(x**2) / np.mean(added**2)) == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: noise_of_site([np.zeros(9000, np.float32)], 1000), "0.00 s of background sound found"),
        (lambda: inject(np.ones(10, np.float32), [], np.random.default_rng(0)), "no noise to inject"),
        (lambda: choose_subjects([0, 1], ["a", "b"], 2), "2 labelled subjects of 2 leave nobody"),
        (
            lambda: self_train(np.zeros(4), np.zeros((4, 1)), nearest_mean, kept_share=0.5),
            "4 recordings is too small",
        ),
        (
            lambda: self_train(np.zeros(9), np.zeros((9, 1)), nearest_mean, kept_share=0.0),
            r"must lie in \(0, 1\]",
        ),
        (lambda: gaussian_map(np.zeros((9, 2)), np.zeros((9, 3))), "with one d"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
