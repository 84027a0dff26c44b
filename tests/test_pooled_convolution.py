"""The convolution, ReLU and pool of res8 done by blocks, against the three done one after another."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vagitus.models import pooled_convolution as by_blocks
from vagitus.models.pooled_convolution import pooled_convolution
from vagitus.models.res8 import Res8


def parts(n_channels: int = 5) -> tuple[nn.Conv2d, nn.AvgPool2d]:
    return nn.Conv2d(1, n_channels, (3, 5), padding=(1, 2), bias=False), nn.AvgPool2d((3, 2))


def one_after_another(conv: nn.Conv2d, pool: nn.AvgPool2d, x: Tensor) -> Tensor:
    pooled: Tensor = pool(F.relu(conv(x)))
    return pooled


@pytest.mark.parametrize("size", [(3, 2), (11, 7), (40, 101)])
def test_values_and_gradients_equal_the_three_steps(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_blocks, "BLOCK_CELLS", 7)  # blocks that do not come out even
    torch.manual_seed(0)
    conv, pool = parts()
    conv.double()
    x = torch.randn(3, 1, *size, dtype=torch.float64)
    expected = one_after_another(conv, pool, x)
    direction = torch.randn_like(expected)
    (slope,) = torch.autograd.grad((expected * direction).sum(), conv.weight)
    found = pooled_convolution(conv, pool, x)
    assert found.grad_fn is not None and "PooledConvolution" in found.grad_fn.name()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * direction).sum(), conv.weight)[0], slope)


def test_the_gradient_is_the_slope_in_float64() -> None:
    torch.manual_seed(1)
    conv, _ = parts(2)
    x = torch.randn(2, 1, 6, 5, dtype=torch.float64)
    conv.double()

    def of(weight: Tensor) -> Tensor:
        found: Tensor = by_blocks._PooledConvolution.apply(x, weight, 3, 2)  # type: ignore[no-untyped-call]
        return found

    assert torch.autograd.gradcheck(of, conv.weight)


def test_in_half_precision_the_output_is_bfloat16_and_near() -> None:
    torch.manual_seed(2)
    conv, pool = parts()
    x = torch.randn(2, 1, 12, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled_convolution(conv, pool, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), one_after_another(conv, pool, x), atol=0.02, rtol=0.02)
    (slope,) = torch.autograd.grad(found.float().sum(), conv.weight)
    assert slope.dtype == torch.float32


def test_the_gradient_of_the_input_is_there_when_it_is_wanted() -> None:
    torch.manual_seed(3)
    model = Res8(n_mels=12, n_classes=2).eval()
    x = torch.randn(2, 12, 16, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_hooks_on_the_convolution_are_called() -> None:
    model = Res8(n_mels=12, n_classes=2).eval()
    seen: list[Tensor] = []
    handle = model.stem.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 12, 16)
    listened = model(x)
    handle.remove()
    assert seen[0].shape == (2, 45, 12, 16)
    torch.testing.assert_close(model(x), listened)


def test_per_example_gradients_still_come_out() -> None:
    torch.manual_seed(4)
    model = Res8(n_mels=12, n_classes=2).eval()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    x = torch.randn(3, 12, 16)

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        total: Tensor = torch.func.functional_call(model, weights, (row[None],)).sum()
        return total

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    alone = copy.deepcopy(model)
    alone(x[1:2]).sum().backward()
    torch.testing.assert_close(each["stem.weight"][1], alone.stem.weight.grad)
