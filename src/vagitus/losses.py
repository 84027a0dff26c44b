"""Losses as plain functions: tensors in, scalar out, no state, no knowledge of models.

Conventions
    logits      (batch, n_classes), before softmax
    y           (batch,) int64 class indices
    embeddings  (n_speakers, n_utterances, dim), as many utterances of each speaker
    z1, z2      (batch, dim), projections of two views; row i of both is from recording i
    Every function returns a 0-d float32 tensor averaged over the batch, or several such by name.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VICREG_EPSILON = 1e-4  # the paper's; keeps the square root's slope finite where a dimension is constant


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy, -mean log p_y, computed in float32 whatever the logits' precision."""
    return F.cross_entropy(logits.float(), y)


def multiclass_hinge(logits: Tensor, y: Tensor) -> Tensor:
    """The thesis's target loss: margins under 1 between the true class and each other one.

        L = mean_i 1/n_classes sum_{k != y_i} max(0, 1 - logit_{y_i} + logit_k)

    Source: Crammer & Singer's margin summed over classes; arXiv:1906.10199 uses PyTorch's form.
    """
    return F.multi_margin_loss(logits.float(), y)


def ge2e(embeddings: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """Generalised end-to-end loss for verification, in its softmax form.

    Every utterance should lie nearer to its own speaker's centroid than to any other's:

        S_jik = scale cos(e_ji, c_k) + bias,  c_k = 1/M sum_m e_km;  for its own speaker, k = j, the
                centroid leaves the utterance out: c_j^(-i) = 1/(M-1) sum_{m != i} e_jm
        L     = mean_ji (log sum_k exp S_jik - S_jij)

    Identical embeddings give log n_speakers. A bias that all similarities share cancels in a softmax and gets
    no gradient; it is the paper's, whose contrast form needs it. Computed in float32 whatever the
    embeddings' precision. We average where the paper sums, so that the batch's size does not act as a
    learning rate.

    Args:
        embeddings: (n_speakers, n_utterances, dim), both at least 2. The paper gives them length 1, which
            weighs utterances equally in a centroid; the cosine here needs no length.
        scale: of the similarities, > 0, learned in the paper from 10.
        bias: of the similarities, learned in the paper from -5.

    Raises:
        ValueError: ``embeddings`` is not 3-D, or has fewer than 2 speakers or 2 utterances of each.

    Source: Wan et al. 2018, arXiv:1710.10467, equations 5, 6, 8 and 9.
    """
    if embeddings.ndim != 3 or min(embeddings.shape[:2]) < 2:
        raise ValueError(
            "embeddings must be (n_speakers, n_utterances, dim) with 2 speakers and 2 utterances of each at "
            f"least, got {tuple(embeddings.shape)}"
        )
    # A product of cosines in half precision under autocast would be off in its third digit.
    with torch.autocast(embeddings.device.type, enabled=False):
        e = embeddings.float()
        n_speakers, n_utterances, _ = e.shape
        sums = e.sum(dim=1)
        # Their directions are those of the means, and only directions count.
        centroids = F.normalize(sums, dim=-1)  # (n_speakers, dim)
        without = F.normalize(sums.unsqueeze(1) - e, dim=-1)  # (n_speakers, n_utterances, dim)
        e = F.normalize(e, dim=-1)
        own = (e * without).sum(dim=-1, keepdim=True)  # (n_speakers, n_utterances, 1)
        is_own = torch.eye(n_speakers, dtype=torch.bool, device=e.device).unsqueeze(1)
        cosine = torch.where(is_own, own, e @ centroids.T)  # (n_speakers, n_utterances, n_speakers)
        speaker = torch.arange(n_speakers, device=e.device).repeat_interleave(n_utterances)
        return F.cross_entropy((scale * cosine + bias).flatten(0, 1), speaker)


def distillation(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """How far a network is from another that it should imitate, in what both say at a temperature.

        L = T^2 mean_i sum_k p_ik (log p_ik - log q_ik),  p = softmax(target / T), q = softmax(logits / T)

    The factor keeps the gradient's size when T changes. Computed in float32. ``target`` gets no gradient.

    Args:
        logits, target: (batch, n_classes).
        temperature: T > 0; above 1 the small probabilities count for more.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature!r}")
    log_q = F.log_softmax(logits.float() / temperature, dim=1)
    log_p = F.log_softmax(target.detach().float() / temperature, dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's contrastive loss: each view should find the other one of its recording among all 2n - 1.

        s_ij = cos(z_i, z_j) / T,  z the 2n rows of both views
        L    = mean_i (log sum_{j != i} exp s_ij - s_ip(i)),  p(i) the other view of i's recording

    Identical rows give log(2n - 1). Computed in float32 whatever the projections' precision. A row of zeros
    has cosine 0 with everything and gets no gradient that is not finite.

    Args:
        z1, z2: (n, dim), n at least 2: with one recording there is nothing to tell it from, and the loss
            is 0 whatever the network does.
        temperature: T > 0; .5 in the paper.

    Raises:
        ValueError: the shapes differ or are not 2-D, one recording, or a temperature that is not above 0.

    Source: Chen et al. 2020, arXiv:2002.05709, section 2.1 and algorithm 1.
    """
    _check_views(z1, z2)
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature!r}")
    # A product of cosines in half precision under autocast would be off in its third digit.
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)  # (2n, dim)
        n = len(z1)
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        similarity = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
        other = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(similarity, other)


def vicreg_terms(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """VICReg's three terms, without their weights (25, 25 and 1 in the paper).

        variance    v(z1) + v(z2),  v(z) = mean_j max(0, 1 - sqrt(Var_i z_ij + 1e-4))
        invariance  mean_ij (z1_ij - z2_ij)^2
        covariance  c(z1) + c(z2),  c(z) = 1/dim sum_{j != k} Cov(z)_jk^2

    with variances and covariances over the batch, divided by n - 1. Computed in float32 whatever the
    projections' precision. The paper's equation 5 sums the invariance over dimensions where its
    algorithm 1, which the weights belong to, takes the mean: so do we.

    Args:
        z1, z2: (n, dim), n at least 2; not normalised.

    Raises:
        ValueError: the shapes differ or are not 2-D, or one recording, which has no variance.

    Source: Bardes et al. 2021, arXiv:2105.04906, section 4.1 and algorithm 1.
    """
    _check_views(z1, z2)
    with torch.autocast(z1.device.type, enabled=False):
        views = z1.float(), z2.float()
        deviations = [(z.var(dim=0) + VICREG_EPSILON).sqrt() for z in views]
        return {
            "variance": torch.stack([F.relu(1 - deviation).mean() for deviation in deviations]).sum(),
            "invariance": F.mse_loss(*views),
            "covariance": torch.stack([_off_diagonal_power(z) for z in views]).sum(),
        }


def _off_diagonal_power(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]


def _check_views(z1: Tensor, z2: Tensor) -> None:
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"two views must be (n, dim) each, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(z1) < 2:
        raise ValueError("a batch of one recording has no other to compare with; give 2 or more")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "hinge": multiclass_hinge,
}
