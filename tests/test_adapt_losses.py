"""Losses of adaptation: by hand, against a slow second implementation, by finite differences, and refused input."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vagitus.losses import (
    coral,
    hard_feature_norm,
    mean_prediction_entropy,
    minimum_class_confusion,
    prediction_entropy,
    reversal_scale,
    reverse_gradient,
    stepwise_feature_norm,
)

GENERATOR = torch.Generator().manual_seed(0)
SOURCE = torch.randn(7, 5, generator=GENERATOR, dtype=torch.float64) + 1
TARGET = 2 * torch.randn(4, 5, generator=GENERATOR, dtype=torch.float64) - 1  # another size, another spread
LOGITS = 2 * torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)

# Losses as functions of one tensor, with constants that tell formulas apart (a step of 1 has its own square).
OF_ONE: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "hafn": (lambda x: hard_feature_norm(x, 2.5), SOURCE),
    "entropy": (prediction_entropy, LOGITS),
    "mean entropy": (mean_prediction_entropy, LOGITS),
    "coral of source": (lambda x: coral(x, TARGET), SOURCE),
    "coral of target": (lambda x: coral(SOURCE, x), TARGET),
}


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def test_hafn_by_hand() -> None:
    # Lengths 5 and 1: a mean of 3, one from the radius 4.
    assert hard_feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 4.0).item() == pytest.approx(1.0)


def test_hafn_row_by_row() -> None:
    lengths = [math.sqrt(sum(value**2 for value in row)) for row in SOURCE.tolist()]
    expected = (sum(lengths) / len(lengths) - 2.5) ** 2
    assert hard_feature_norm(SOURCE, 2.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0])
def test_safn_is_the_square_of_its_step_whatever_the_features(step: float) -> None:
    assert stepwise_feature_norm(SOURCE, step).item() == pytest.approx(step**2)
    assert stepwise_feature_norm(TARGET, step).item() == pytest.approx(step**2)


@pytest.mark.parametrize("step", [0.3, 2.0])
def test_safn_pushes_every_row_outwards_by_twice_its_step(step: float) -> None:
    x = SOURCE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(stepwise_feature_norm(x, step), x)
    for row, slope in zip(SOURCE.tolist(), gradient.tolist(), strict=True):
        length = math.sqrt(sum(value**2 for value in row))
        expected = [-2 * step / len(SOURCE) * value / length for value in row]
        assert slope == pytest.approx(expected)


def test_a_feature_of_length_zero_gets_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(stepwise_feature_norm(x, 2.0) + hard_feature_norm(x, 2.0), x)
    assert torch.isfinite(gradient).all()


def test_entropies_one_probability_at_a_time() -> None:
    rows = [softmax(row) for row in LOGITS.tolist()]
    expected = sum(-sum(p * math.log(p) for p in row) for row in rows) / len(rows)
    assert prediction_entropy(LOGITS).item() == pytest.approx(expected)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert mean_prediction_entropy(LOGITS).item() == pytest.approx(-sum(q * math.log(q) for q in mean))


def test_equal_logits_have_the_entropy_of_the_classes() -> None:
    assert prediction_entropy(torch.zeros(2, 5)).item() == pytest.approx(math.log(5))


def test_a_class_that_is_never_named_gives_no_nan() -> None:
    logits = torch.tensor([[200.0, -200.0], [300.0, -300.0]], requires_grad=True)
    loss = mean_prediction_entropy(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.0) and torch.isfinite(gradient).all()


def test_coral_by_hand() -> None:
    # Covariances [[2, 0], [0, 0]] and [[0, 0], [0, 8]] over n - 1 = 1: squares 4 + 64, over 4 times 4.
    source, target = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, -2.0]])
    assert coral(source, target).item() == pytest.approx(68 / 16)


def test_coral_with_numpy_at_unequal_batches() -> None:
    difference = np.cov(SOURCE.numpy(), rowvar=False) - np.cov(TARGET.numpy(), rowvar=False)
    assert coral(SOURCE, TARGET).item() == pytest.approx(float((difference**2).sum()) / (4 * 5**2))


def test_coral_does_not_see_a_shift_of_the_mean() -> None:
    assert coral(SOURCE, SOURCE[:, :] + 3).item() == pytest.approx(0.0)


def mcc_row_by_row(logits: list[list[float]], temperature: float) -> float:
    """Equations 3 to 6 of arXiv:1912.03699, one product at a time."""
    p = [softmax(row, temperature) for row in logits]
    n, n_classes = len(p), len(p[0])
    certainty = [1 + math.exp(sum(q * math.log(q) for q in row)) for row in p]
    weights = [n * value / sum(certainty) for value in certainty]
    confusion = [
        [sum(p[i][k] * weights[i] * p[i][m] for i in range(n)) for m in range(n_classes)]
        for k in range(n_classes)
    ]
    total = 0.0
    for k in range(n_classes):
        total += sum(confusion[k][m] for m in range(n_classes) if m != k) / sum(confusion[k])
    return total / n_classes


@pytest.mark.parametrize("temperature", [0.7, 2.5])
def test_mcc_row_by_row(temperature: float) -> None:
    expected = mcc_row_by_row(LOGITS.tolist(), temperature)
    assert minimum_class_confusion(LOGITS, temperature).item() == pytest.approx(expected)


def test_mcc_is_nothing_where_every_class_is_certain() -> None:
    assert minimum_class_confusion(50 * torch.eye(3), 1.0).item() == pytest.approx(0.0, abs=1e-9)


def test_mcc_falls_along_its_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = minimum_class_confusion(logits, 2.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert minimum_class_confusion(logits - 0.1 * gradient, 2.5) < loss


@pytest.mark.parametrize("name", OF_ONE)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    function, x = OF_ONE[name]
    assert torch.autograd.gradcheck(function, (x.clone().requires_grad_(),))


@pytest.mark.parametrize("name", OF_ONE)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    function, x = OF_ONE[name]
    assert torch.isfinite(function(x.to(torch.bfloat16))).all()


def test_a_reversed_gradient_is_turned_round_and_scaled() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((3 * y).sum(), x)
    assert gradient.tolist() == [-0.75, -0.75]


@pytest.mark.parametrize(("progress", "scale"), [(0.0, 0.0), (0.1, math.tanh(0.5)), (1.0, math.tanh(5.0))])
def test_the_reversal_grows_as_published(progress: float, scale: float) -> None:
    # 2 / (1 + e^-x) - 1 is the hyperbolic tangent of x / 2.
    assert reversal_scale(progress) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hard_feature_norm(SOURCE, 0.0), "radius must be above 0, got 0.0"),
        (lambda: hard_feature_norm(SOURCE[0], 1.0), r"features must be \(batch, size\)"),
        (lambda: stepwise_feature_norm(SOURCE, -1.0), "step must be above 0, got -1.0"),
        (lambda: stepwise_feature_norm(SOURCE[:0], 1.0), "with a row at least"),
        (lambda: prediction_entropy(LOGITS[:0]), "with a row at least"),
        (lambda: coral(SOURCE, TARGET[:, :3]), "differ in length: 5, 3"),
        (lambda: coral(SOURCE[:1], TARGET), "one source recording has no covariance"),
        (lambda: coral(SOURCE, TARGET[:1]), "one target recording has no covariance"),
        (lambda: minimum_class_confusion(LOGITS, 0.0), "temperature must be above 0"),
        (lambda: reversal_scale(1.5), r"progress must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_skada_agrees_on_coral() -> None:
    theirs = pytest.importorskip("skada.deep.losses", exc_type=ImportError).deepcoral_loss
    assert theirs(SOURCE, TARGET).item() == pytest.approx(coral(SOURCE, TARGET).item(), rel=1e-5)


def test_skada_agrees_on_mcc() -> None:
    theirs = pytest.importorskip("skada.deep.losses", exc_type=ImportError).mcc_loss
    assert theirs(LOGITS, T=2.5).item() == pytest.approx(
        minimum_class_confusion(LOGITS, 2.5).item(), rel=1e-5
    )
