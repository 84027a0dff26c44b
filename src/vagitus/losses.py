"""Losses as plain functions: tensors in, scalar out, no state, no knowledge of models.

Conventions
    logits   (batch, n_classes), before softmax
    y        (batch,) int64 class indices
    Every function returns a 0-d tensor averaged over the batch.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy, -mean log p_y, computed in float32 whatever the logits' precision."""
    return F.cross_entropy(logits.float(), y)


def multiclass_hinge(logits: Tensor, y: Tensor) -> Tensor:
    """The thesis's target loss: margins under 1 between the true class and each other one.

        L = mean_i 1/n_classes sum_{k != y_i} max(0, 1 - logit_{y_i} + logit_k)

    Source: Crammer & Singer's margin summed over classes; arXiv:1906.10199 uses PyTorch's form.
    """
    return F.multi_margin_loss(logits.float(), y)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "hinge": multiclass_hinge,
}
