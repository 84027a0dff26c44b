"""Training on several processes that together are as one: who holds which rows, and sums over all of them.

    torchrun --nproc-per-node 2 -m vagitus pretrain ...      a process for each processor or GPU, on one machine or many

Conventions
    rank        0 to n - 1; the process of rank 0 is the first. It alone reads manifests, writes and speaks
    batch       drawn alike by every process, which then reads its own rows of it (``share``); the rows of all in
                the order of ranks are the batch
    loss        of the whole batch, computed by every process from the outputs of all (``rows_of_all``); so the
                gradient of a weight is the sum over processes (``sum_gradients``), and a loss that is no mean over
                rows, as a contrast among all of them, is as right as one that is
    batch norm  with the statistics of the whole batch, in this module's own form: torch.nn.SyncBatchNorm has none
                for the CPU. With those of each process the result would depend on how many there are
    gloo on the CPU, nccl on GPUs; the processes trust each other, as those of ``multiprocessing`` do

Gradients are summed here after the backward pass and not by DistributedDataParallel, which takes their mean, knows
nothing of an objective's own weights, and refuses a network of which a head is unused.
"""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Made = TypeVar("Made")

LEAST_ROWS = 2  # of a process: a batch norm in training has no variance of one
# The first computes features of everything while the others wait; a process that died is noticed at once.
PATIENCE = timedelta(days=7)

_is_joint: ContextVar[bool] = ContextVar("_is_joint", default=False)  # whether all work on this batch


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for the time of the block; without torchrun this does nothing.

    Nor does it in a worker process of ``multiprocessing``, which inherits torchrun's variables but no rank.
    """
    if dist.is_initialized() or not dist.is_torchelastic_launched() or multiprocessing.parent_process():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 if it works alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_ranks() -> int:
    """Processes that train together; 1 if this one works alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine: the GPU that is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def share(n_rows: int, rank: int, n_ranks: int) -> slice:
    """The rows of a batch that a process takes, as many as any other to within one.

    A batch with fewer than LEAST_ROWS for each is the first process's alone.
    """
    if n_rows < LEAST_ROWS * n_ranks:
        return slice(0, n_rows if rank == 0 else 0)
    return slice(n_rows * rank // n_ranks, n_rows * (rank + 1) // n_ranks)


def from_first(make: Callable[[], Made]) -> Made:
    """What ``make`` gives in the first process, given to all; it runs in that one alone, and so does what it writes.

    Raises:
        Exception: what ``make`` raises there, everywhere.
    """
    if n_ranks() == 1:
        return make()
    answer: list[Any] = [None]
    if rank() == 0:
        try:
            answer = [(True, make())]
        except Exception as error:
            answer = [(False, error)]
            try:
                pickle.loads(pickle.dumps(error))  # between processes that are one, as a worker's answer is
            except Exception:  # an error that cannot be copied is told in its own words
                answer = [(False, RuntimeError(str(error)))]
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    succeeded, made = answer[0]
    if not succeeded:
        raise made
    result: Made = made
    return result


def counts_of_all(n: int) -> list[int]:
    """A number that each process has, of all of them in the order of ranks."""
    if n_ranks() == 1:
        return [n]
    counts = torch.zeros(n_ranks(), dtype=torch.int64)
    counts[rank()] = n
    dist.all_reduce(counts)
    return [int(count) for count in counts]


def copy_first(modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights and statistics."""
    if n_ranks() > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.data.copy_(whole)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over processes; none stays none where no process has one."""
    if n_ranks() == 1:
        return
    every = list(parameters)
    has = torch.tensor([parameter.grad is not None for parameter in every], dtype=torch.int64)
    dist.all_reduce(has)
    used = [parameter for parameter, n in zip(every, has.tolist(), strict=True) if n]
    if not used:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one exchange instead of one for each
    dist.all_reduce(flat)
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    for parameter, gradient, piece in zip(used, gradients, pieces, strict=True):
        gradient.copy_(piece.reshape(gradient.shape))
        parameter.grad = gradient


@contextmanager
def joint() -> Iterator[None]:
    """Within the block ``rows_of_all`` and ``joint_batch_norm`` are of all processes, all of which must be in it."""
    token = _is_joint.set(n_ranks() > 1)
    try:
        yield
    finally:
        _is_joint.reset(token)


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        counts = counts_of_all(len(x))
        ctx.first, ctx.n = sum(counts[: rank()]), len(x)
        padded = x.new_zeros((max(counts), *x.shape[1:]))  # an exchange takes pieces of one size
        padded[: len(x)] = x
        pieces = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:n] for piece, n in zip(pieces, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process computed the same loss of the same rows: what it says of our rows is the whole of it.
        return gradients[0][ctx.first : ctx.first + ctx.n]


def rows_of_all(x: Tensor) -> Tensor:
    """The rows of all processes in the order of ranks; gradients flow back into this process's own.

    ``x`` itself for a process that works alone. Half precision comes back as float32, in which losses are computed.

    Args:
        x: (n, ...), n of any size, the rest alike everywhere.
    """
    if not _is_joint.get():
        return x
    gathered: Tensor = _RowsOfAll.apply(  # type: ignore[no-untyped-call]
        x.float() if x.is_floating_point() and x.element_size() < 4 else x
    )
    return gathered


class _Normalised(torch.autograd.Function):
    """Batch norm over the rows of all processes: (y, mean, variance, count), the latter three without a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        # Sums in double precision, as torch's own on the CPU; the mean first, or large values would cancel.
        sums = torch.cat([x.sum(dims, dtype=torch.float64), x.new_ones(1, dtype=torch.float64)])
        sums[-1] = x.numel() / x.shape[1]
        dist.all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x.float() - mean.float().reshape(shape)
        squares = centred.square().sum(dims, dtype=torch.float64)
        dist.all_reduce(squares)
        variance = squares / count
        scale = (variance + epsilon).rsqrt().float().reshape(shape)
        normalised = centred * scale
        ctx.save_for_backward(normalised, scale, weight)
        ctx.dims, ctx.shape, ctx.count = dims, shape, count
        y = normalised if weight is None else normalised * weight.reshape(shape)
        y = y if bias is None else y + bias.reshape(shape)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normalised, scale, weight = ctx.saved_tensors
        g = gradients[0].float()
        own = torch.stack(
            [g.sum(ctx.dims, dtype=torch.float64), (g * normalised).sum(ctx.dims, dtype=torch.float64)]
        )
        sums = own.clone()
        dist.all_reduce(sums)
        of_mean, of_scale = (sums / ctx.count).float()
        x_gradient = scale * (g - of_mean.reshape(ctx.shape) - normalised * of_scale.reshape(ctx.shape))
        if weight is None:
            return x_gradient.to(gradients[0].dtype), None, None, None
        # Of weight and bias each process gives its own part: ``sum_gradients`` adds them.
        x_gradient = x_gradient * weight.reshape(ctx.shape)
        return x_gradient.to(gradients[0].dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not (norm.training and _is_joint.get()):
        return type(norm).forward(norm, x)
    y, mean, variance, count = _Normalised.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.eps
    )
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            share = 1 / float(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            unbiased = variance * count / (count - 1)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)
    normalised: Tensor = y
    return normalised


@contextmanager
def joint_batch_norm(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block the modules' batch norms, in training and in ``joint``, see the batch of all processes."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]
    if n_ranks() > 1:
        for norm in norms:
            # On the module itself and not in another class, so that weights, names and hooks stay as they are.
            vars(norm)["forward"] = _forward.__get__(norm)
    try:
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)
