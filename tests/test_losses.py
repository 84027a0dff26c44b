import math

import pytest
import torch

from vagitus.losses import LOSSES, cross_entropy, multiclass_hinge

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
