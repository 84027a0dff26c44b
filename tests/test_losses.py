import math
from collections.abc import Callable

import pytest
import torch

from vagitus.losses import (
    LOSSES,
    cross_entropy,
    distillation,
    ge2e,
    multiclass_hinge,
    nt_xent,
    vicreg_terms,
)

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.2, 0.1, 0.4]])
Y = torch.tensor([0, 1])


def test_hinge_by_hand() -> None:
    # Row 0: 1 - 2 + .5 < 0 and 1 - 2 - 1 < 0, nothing. Row 1: 1 - .1 + .2 = 1.1 and 1 - .1 + .4 = 1.3, over 3.
    assert multiclass_hinge(LOGITS, Y).item() == pytest.approx((0 + (1.1 + 1.3) / 3) / 2)


def test_cross_entropy_by_hand() -> None:
    rows = [(2.0, (2.0, 0.5, -1.0)), (0.1, (0.2, 0.1, 0.4))]
    expected = sum(math.log(sum(map(math.exp, row))) - right for right, row in rows) / 2
    assert cross_entropy(LOGITS, Y).item() == pytest.approx(expected)


def test_cross_entropy_of_equal_logits_is_log_of_the_classes() -> None:
    assert cross_entropy(torch.full((4, 7), 3.0), torch.arange(4)).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_a_float32_mean_that_falls_along_its_gradient(name: str) -> None:
    logits = LOGITS.to(torch.bfloat16).requires_grad_()
    loss = LOSSES[name](logits, Y)
    assert loss.ndim == 0 and loss.dtype == torch.float32
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert LOSSES[name](logits - 0.1 * logits.grad, Y) < loss
    twice = LOSSES[name](torch.cat([LOGITS, LOGITS]), torch.cat([Y, Y]))
    assert twice.item() == pytest.approx(LOSSES[name](LOGITS, Y).item())


def ge2e_utterance_by_utterance(e: torch.Tensor, scale: float, bias: float) -> float:
    """Algorithm of arXiv:1710.10467, equations 5, 6, 8 and 9, one similarity at a time."""

    def similarity(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return scale * dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b)) + bias

    def mean(rows: list[list[float]]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    speakers: list[list[list[float]]] = e.tolist()
    losses = []
    for j, utterances in enumerate(speakers):
        for i, utterance in enumerate(utterances):
            others = utterances[:i] + utterances[i + 1 :]
            S = [similarity(utterance, mean(others if k == j else speakers[k])) for k in range(len(speakers))]
            losses.append(math.log(sum(math.exp(s) for s in S)) - S[j])
    return sum(losses) / len(losses)


def test_ge2e_by_hand() -> None:
    # Speaker 0 along x, speaker 1 at 0 and 90 degrees, so its centroid lies at 45.
    e = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    half = 1 / math.sqrt(2)
    first = math.log(math.exp(2 * 1) + math.exp(2 * half)) - 2 * 1  # both of speaker 0: own 1, other cos 45
    second = math.log(math.exp(2 * 1) + math.exp(2 * 0)) - 2 * 0  # own: the other at 90; other: along x
    third = math.log(math.exp(2 * 0) + math.exp(2 * 0)) - 2 * 0
    assert ge2e(e, 2.0, -5.0).item() == pytest.approx((2 * first + second + third) / 4)


def test_ge2e_agrees_with_the_paper_one_similarity_at_a_time() -> None:
    e = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert ge2e(e, 7.0, -2.0).item() == pytest.approx(ge2e_utterance_by_utterance(e, 7.0, -2.0), rel=1e-5)


def test_ge2e_of_identical_embeddings_is_log_of_the_speakers() -> None:
    assert ge2e(torch.ones(6, 3, 4), 10.0, -5.0).item() == pytest.approx(math.log(6))


def test_ge2e_is_float32_and_falls_along_its_gradients() -> None:
    e = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).requires_grad_()
    scale = torch.tensor(2.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ge2e(e, scale, -5.0)
    assert loss.ndim == 0 and loss.dtype == torch.float32
    torch.autograd.backward(loss)
    assert e.grad is not None and scale.grad is not None
    assert ge2e(e - 0.1 * e.grad, scale - 0.1 * scale.grad, -5.0) < loss


def test_ge2e_learns_nothing_from_its_bias() -> None:
    bias = torch.tensor(-5.0, requires_grad=True)
    torch.autograd.backward(
        ge2e(torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2)), 10.0, bias)
    )
    assert bias.grad is not None and abs(bias.grad.item()) < 1e-6


@pytest.mark.parametrize("shape", [(1, 4, 8), (4, 1, 8), (4, 8)])
def test_ge2e_needs_two_speakers_with_two_utterances(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"2 speakers and 2 utterances .* got \({shape[0]}, {shape[1]}"):
        ge2e(torch.ones(shape), 10.0, -5.0)


def test_distillation_worked_by_hand() -> None:
    """At T = 2 logits (2 ln 3, 0) say (3/4, 1/4); against (1/2, 1/2) the divergence is that of the two, times 4."""
    target = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert distillation(student, target, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_averages_over_the_batch_and_is_zero_for_what_says_the_same() -> None:
    target, student = torch.randn(5, 3), torch.randn(5, 3)
    rows = [distillation(s[None], t[None], 3.0).item() for s, t in zip(student, target, strict=True)]
    assert distillation(student, target, 3.0).item() == pytest.approx(sum(rows) / 5, rel=1e-5)
    assert distillation(target + 7, target, 3.0).item() == pytest.approx(
        0, abs=1e-6
    )  # softmax knows no offset


def test_distillation_gives_the_teacher_no_gradient() -> None:
    target, student = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    distillation(student, target, 1.0).backward()  # type: ignore[no-untyped-call]
    assert target.grad is None
    assert student.grad is not None


@pytest.mark.parametrize(
    ("shape", "temperature", "match"),
    [((2, 4), 1.0, r"\(2, 3\) and target \(2, 4\) differ"), ((2, 3), 0.0, "above 0, got 0.0")],
)
def test_distillation_refuses(shape: tuple[int, int], temperature: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        distillation(torch.zeros(2, 3), torch.zeros(shape), temperature)


def two_views(n: int = 3, dim: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randn(n, dim, generator=generator)


def nt_xent_pair_by_pair(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> float:
    """Algorithm 1 of arXiv:2002.05709: views 2k - 1 and 2k are of one recording; indices from 1."""
    n = len(z1)
    z: list[list[float]] = [row for pair in zip(z1.tolist(), z2.tolist(), strict=True) for row in pair]

    def s(i: int, j: int) -> float:
        a, b = z[i - 1], z[j - 1]
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    def loss(i: int, j: int) -> float:
        rest = sum(math.exp(s(i, k) / temperature) for k in range(1, 2 * n + 1) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / rest)

    return sum(loss(2 * k - 1, 2 * k) + loss(2 * k, 2 * k - 1) for k in range(1, n + 1)) / (2 * n)


def test_nt_xent_by_hand() -> None:
    # Both views of the first recording along x, of the second along y: cosine 1 with the right one, 0 with two.
    z1, z2 = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert nt_xent(z1, z2, 0.5).item() == pytest.approx(expected)


def test_nt_xent_agrees_with_the_paper_one_pair_at_a_time() -> None:
    z1, z2 = two_views()
    assert nt_xent(z1, z2, 0.3).item() == pytest.approx(nt_xent_pair_by_pair(z1, z2, 0.3), rel=1e-5)


@pytest.mark.parametrize("n", [2, 5])
def test_nt_xent_of_identical_rows_is_log_of_the_others(n: int) -> None:
    z = torch.full((n, 4), 0.7)
    assert nt_xent(z, z, 0.5).item() == pytest.approx(math.log(2 * n - 1))


def test_nt_xent_of_zeros_is_finite_and_so_is_its_gradient() -> None:
    z = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent(z, z, 0.5)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(math.log(5))
    assert z.grad is not None and bool(z.grad.isfinite().all())


def test_nt_xent_is_float32_and_falls_along_its_gradient() -> None:
    z1, z2 = (z.to(torch.bfloat16).requires_grad_() for z in two_views())
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.5)
    assert loss.ndim == 0 and loss.dtype == torch.float32
    torch.autograd.backward(loss)
    assert z1.grad is not None and z2.grad is not None
    assert nt_xent(z1 - 0.5 * z1.grad, z2 - 0.5 * z2.grad, 0.5) < loss


def vicreg_element_by_element(z1: torch.Tensor, z2: torch.Tensor) -> dict[str, float]:
    """Algorithm 1 of arXiv:2105.04906, one element at a time."""
    n, dim = z1.shape

    def covariance(z: list[list[float]], j: int, k: int) -> float:
        means = [sum(row[d] for row in z) / n for d in (j, k)]
        return sum((row[j] - means[0]) * (row[k] - means[1]) for row in z) / (n - 1)

    views = z1.tolist(), z2.tolist()
    dims = range(dim)
    return {
        "variance": sum(
            max(0.0, 1 - math.sqrt(covariance(z, j, j) + 1e-4)) / dim for z in views for j in dims
        ),
        "invariance": sum((views[0][i][j] - views[1][i][j]) ** 2 for i in range(n) for j in dims) / (n * dim),
        "covariance": sum(
            covariance(z, j, k) ** 2 / dim for z in views for j in dims for k in dims if j != k
        ),
    }


def test_vicreg_by_hand() -> None:
    # View 1: variances 2 and 2, covariance 2. View 2: the first dimension alone, variance .5.
    z1 = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    z2 = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    terms = vicreg_terms(z1, z2)
    expected = {
        "variance": ((1 - math.sqrt(0.5 + 1e-4)) + (1 - math.sqrt(1e-4))) / 2,  # view 1 is above 1: nothing
        "invariance": (2 * 0.5**2 + 2 * 1) / 4,
        "covariance": (2**2 + 2**2) / 2,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)


def test_vicreg_agrees_with_the_paper_one_element_at_a_time() -> None:
    z1, z2 = two_views(5, 3)
    found = {name: term.item() for name, term in vicreg_terms(z1, 0.4 * z2).items()}
    assert found == pytest.approx(vicreg_element_by_element(z1, 0.4 * z2), rel=1e-5)


def test_vicreg_of_constant_views_has_a_finite_gradient() -> None:
    z = torch.ones(4, 3, requires_grad=True)
    torch.autograd.backward(torch.stack(list(vicreg_terms(z, z).values())).sum())
    assert z.grad is not None and bool(z.grad.isfinite().all())


@pytest.mark.parametrize("loss", [lambda z1, z2: nt_xent(z1, z2, 0.5), vicreg_terms])
def test_losses_of_two_views_refuse_one_recording_and_other_shapes(loss: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="a batch of one recording"):
        loss(torch.ones(1, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(2, 4\)"):
        loss(torch.ones(3, 4), torch.ones(2, 4))


def test_nt_xent_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match=r"above 0, got 0\.0"):
        nt_xent(*two_views(), 0.0)
