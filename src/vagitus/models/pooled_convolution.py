"""A convolution of one channel, ReLU and average pooling as one operation on the CPU.

Done one after another they write the convolution's output to memory five times over, forward and backward: of
res8's training that was more than half. Here a cell of the pool is one row: the patch it depends on, 5 x 6 values
for a 3 x 3 kernel under a 3 x 4 pool, times a matrix that holds the kernel once for each place in the cell. A block
of rows stays in the cache from product to mean, and the backward pass computes it again instead of reading it.
"""

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_CELLS = 1024  # 1 MB of bfloat16 for res8, the size of a core's second cache


def pooled_convolution(conv: nn.Module, pool: nn.AvgPool2d, x: Tensor) -> Tensor:
    """``pool(relu(conv(x)))``; for a plain convolution of one channel on the CPU by blocks, else as written.

    Also as written where somebody listens to the convolution (hooks), wants the gradient of ``x``, or traces
    the network.

    Args:
        x: (batch, 1, height, width).

    Returns:
        (batch, channels, height / pool, width / pool), rounded down.
    """
    if _by_blocks(conv, x):
        height, width = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * 2
        pooled: Tensor = _PooledConvolution.apply(x, conv.weight, int(height), int(width))  # type: ignore[no-untyped-call]
        return pooled
    pooled = pool(F.relu(conv(x)))
    return pooled


def _by_blocks(conv: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.in_channels == 1
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.padding == tuple((size - 1) // 2 for size in conv.kernel_size)
        and x.device.type == "cpu"
        and not x.requires_grad
        and not conv._forward_hooks
        and not conv._forward_pre_hooks
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.peek_interpreter_stack()
    )


class _PooledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        n_channels, _, kernel_height, kernel_width = weight.shape
        padded = F.pad(x[:, 0].to(dtype), (kernel_width // 2,) * 2 + (kernel_height // 2,) * 2)
        patches = padded.unfold(1, height + kernel_height - 1, height)
        patches = patches.unfold(2, width + kernel_width - 1, width)
        n_rows, n_columns = patches.shape[1:3]
        cells = patches.reshape(-1, patches.shape[3] * patches.shape[4])  # (n_cells, patch)
        spread = _spread(weight.to(dtype), height, width)  # (patch, places * channels)
        pooled = torch.empty(len(cells), n_channels, dtype=dtype)
        for block, out in zip(torch.split(cells, BLOCK_CELLS), torch.split(pooled, BLOCK_CELLS), strict=True):
            places = torch.mm(block, spread).relu_().view(len(block), height * width, n_channels)
            torch.mean(places, 1, out=out)
        ctx.save_for_backward(cells, spread)
        ctx.pool, ctx.weight_shape, ctx.weight_dtype = (height, width), weight.shape, weight.dtype
        return pooled.view(len(x), n_rows, n_columns, n_channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        cells, spread = ctx.saved_tensors
        height, width = ctx.pool
        n_channels, _, kernel_height, kernel_width = ctx.weight_shape
        shares = gradient.permute(0, 2, 3, 1).reshape(-1, n_channels).to(spread.dtype) / (height * width)
        total = torch.zeros(spread.shape, dtype=ctx.weight_dtype)
        for block, share in zip(
            torch.split(cells, BLOCK_CELLS), torch.split(shares, BLOCK_CELLS), strict=True
        ):
            places = torch.mm(block, spread)
            passed = torch.ops.aten.threshold_backward(share.repeat(1, height * width), places, 0)
            total += torch.mm(block.T, passed)
        by_place = total.view(height + kernel_height - 1, width + kernel_width - 1, height, width, n_channels)
        taps = torch.zeros(kernel_height, kernel_width, n_channels, dtype=ctx.weight_dtype)
        for i in range(height):
            for j in range(width):
                taps += by_place[i : i + kernel_height, j : j + kernel_width, i, j]
        return None, taps.permute(2, 0, 1).unsqueeze(1), None, None


def _spread(weight: Tensor, height: int, width: int) -> Tensor:
    """The kernel at each place of a pool's cell: (patch, height * width * n_channels)."""
    n_channels, _, kernel_height, kernel_width = weight.shape
    shape = height + kernel_height - 1, width + kernel_width - 1, height, width, n_channels
    spread = weight.new_zeros(shape)
    for i in range(height):
        for j in range(width):
            spread[i : i + kernel_height, j : j + kernel_width, i, j] = weight[:, 0].permute(1, 2, 0)
    return spread.reshape(shape[0] * shape[1], -1)
