import math

import pytest
import torch

from vagitus.losses import LOSSES, cross_entropy, distillation, ge2e, multiclass_hinge

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
