"""TENT: adapt while scoring, with nothing of the sources at hand: for a stream.

Every batch is normalised by its own statistics, its predictions are given out, and then the scale and shift of the
batch norms take one step against their entropy. All else of the network stays.

Source: Wang et al. 2021, "Tent: fully test-time adaptation by entropy minimization", arXiv:2006.10726.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from vagitus.losses import prediction_entropy

LEAST_BATCH = 8  # recordings, below which a batch's statistics say more of it than of the site


def tent(model: nn.Module, batches: Iterable[Tensor], *, lr: float = 1e-3) -> Iterator[Tensor]:
    """Score batches of unlabelled recordings, adapting after each, in place.

    Args:
        model: afterwards in evaluation mode, its running statistics those of the batches.
        batches: (n, n_mels, n_frames) each, ``LEAST_BATCH`` recordings or more.
        lr: of Adam.

    Yields:
        Logits (n, n_classes) of each batch, from before the step that it caused.

    Raises:
        ValueError: no batch norm with scale and shift in the model (res8's have none), or too small a batch.
    """
    return _tent(model, _norms(model), scales_and_shifts(model), batches, lr)


def scales_and_shifts(model: nn.Module) -> list[nn.Parameter]:
    """What TENT changes.

    Raises:
        ValueError: the model has none.
    """
    free = [p for norm in _norms(model) if norm.affine for p in (norm.weight, norm.bias)]
    if not free:
        raise ValueError(
            f"{type(model).__name__} has no batch norm with scale and shift, the only thing that TENT changes; "
            "take adabn, or a model such as small"
        )
    return free


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _tent(
    model: nn.Module,
    norms: list[nn.modules.batchnorm._BatchNorm],
    free: list[nn.Parameter],
    batches: Iterable[Tensor],
    lr: float,
) -> Iterator[Tensor]:
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    momenta = [norm.momentum for norm in norms]
    optimizer = torch.optim.Adam(free, lr=lr)
    model.eval()
    try:
        model.requires_grad_(False)
        for parameter in free:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for x in batches:
            if len(x) < LEAST_BATCH:
                raise ValueError(f"a batch of {len(x)} recordings is too small; give {LEAST_BATCH} or more")
            with torch.enable_grad():
                logits = model(x)
                optimizer.zero_grad()
                torch.autograd.backward(prediction_entropy(logits))
            optimizer.step()
            yield logits.detach()
    finally:
        for parameter, is_free in wanted.items():
            parameter.requires_grad_(is_free)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
