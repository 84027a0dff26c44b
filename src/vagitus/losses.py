"""Losses as plain functions: tensors in, scalar out, no state, no knowledge of models.

Conventions
    logits      (batch, n_classes), before softmax
    y           (batch,) int64 class indices
    embeddings  (n_speakers, n_utterances, dim), as many utterances of each speaker
    z1, z2      (batch, dim), projections of two views; row i of both is from recording i
    features    (batch, feature_dim), what ``model.features`` returns, never made of length 1 here;
    source, target  the same of two domains, whose batches may differ in size
    Every function returns a 0-d float32 tensor averaged over the batch, or several such by name.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SINE_SQUARED = 1e-12  # of aam_softmax, at an embedding that lies on its class's direction
VICREG_EPSILON = 1e-4  # the paper's; keeps the square root's slope finite where a dimension is constant
LEAST_LENGTH = 1e-12  # of a feature vector: at zero the slope of a length is undefined


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


def aam_softmax(
    embeddings: Tensor, class_weights: Tensor, y: Tensor, *, margin: float = 0.2, scale: float = 30.0
) -> Tensor:
    """Additive angular margin: softmax over cosines, where the true class must win by an angle.

        cos_ik = e_i . w_k / (|e_i| |w_k|),  theta_i the angle of cos_{i,y_i}
        L      = mean_i (log(exp(s t_i) + sum_{k != y_i} exp(s cos_ik)) - s t_i)
        t_i    = cos(theta_i + m)  where theta_i + m <= pi,  else cos(theta_i) - m sin(m)

    The second branch goes on falling where the cosine would rise again; it is their published code's, not the
    paper's. Margin 0 is softmax cross-entropy of the scaled cosines. Computed in float32 whatever the
    embeddings' precision.

    Args:
        embeddings: (batch, dim), of any length but 0.
        class_weights: (n_classes, dim), a learned direction for each class.
        y: (batch,) int64.
        margin: m in radians, from 0 to below pi / 2.
        scale: s > 0.

    Raises:
        ValueError: the shapes do not fit, or margin or scale are out of range.

    Source: Deng et al. 2019, arXiv:1801.07698, equation 3; margin and scale of CryCeleb's baseline,
    arXiv:2305.00969.
    """
    if embeddings.ndim != 2 or class_weights.ndim != 2 or embeddings.shape[1] != class_weights.shape[1]:
        raise ValueError(
            f"embeddings {tuple(embeddings.shape)} and class_weights {tuple(class_weights.shape)} must be "
            "(batch, dim) and (n_classes, dim)"
        )
    if y.shape != embeddings.shape[:1]:  # gather would take a shorter one
        raise ValueError(f"y must be ({len(embeddings)},), a class for each embedding, got {tuple(y.shape)}")
    if not (0 <= margin < math.pi / 2 and scale > 0):
        raise ValueError(f"margin must be in [0, pi / 2) and scale above 0, got {margin!r} and {scale!r}")
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = F.normalize(embeddings.float(), dim=1) @ F.normalize(class_weights.float(), dim=1).T
        own = cosine.gather(1, y[:, None])  # (batch, 1)
        # The slope of the root is infinite at a cosine of 1.
        sine = (1 - own.square()).clamp(min=LEAST_SINE_SQUARED).sqrt()
        with_margin = torch.where(
            own >= -math.cos(margin),
            own * math.cos(margin) - sine * math.sin(margin),
            own - margin * math.sin(margin),
        )
        return F.cross_entropy(scale * cosine.scatter(1, y[:, None], with_margin), y)


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
        temperature: T > 0.

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


def hard_feature_norm(features: Tensor, radius: float) -> Tensor:
    """HAFN: pull the mean length of a domain's features towards one fixed radius.

        L = (mean_i ||f_i|| - R)^2

    Computed in float32 at least, whatever the features' precision.

    Args:
        features: (batch, feature_dim) of one domain; the paper adds the losses of both.
        radius: R > 0, in the units of the features; 25 in the paper.

    Raises:
        ValueError: ``features`` is not 2-D or empty, or the radius is not above 0.

    Source: Xu et al. 2019, "Larger norm more transferable", arXiv:1811.07456, section 3.2.
    """
    if radius <= 0:
        raise ValueError(f"the radius must be above 0, got {radius!r}")
    return (_lengths(features).mean() - radius) ** 2


def stepwise_feature_norm(features: Tensor, step: float) -> Tensor:
    """SAFN: every feature vector should be ``step`` longer than it is now.

        L = mean_i (||f_i|| - (stopgrad ||f_i|| + step))^2

    Its value is step^2 whatever the features are: only the gradient, -2 step / batch along each f_i's
    direction, speaks. To see progress, log the mean length. Computed in float32 at least.

    Args:
        features: (batch, feature_dim) of one domain; the paper adds the losses of both.
        step: Delta r > 0, in the units of the features; 1 in the paper.

    Raises:
        ValueError: ``features`` is not 2-D or empty, or the step is not above 0.

    Source: Xu et al. 2019, arXiv:1811.07456, section 3.3.
    """
    if step <= 0:
        raise ValueError(f"the step must be above 0, got {step!r}")
    length = _lengths(features)
    return (length - (length.detach() + step)).square().mean()


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of what is said of each recording, in nats: low when every answer is certain.

        L = -mean_i sum_k p_ik log p_ik,  p = softmax(logits)

    Alone it is least where all recordings are called the same: see ``mean_prediction_entropy``. Computed in
    float32 at least.

    Raises:
        ValueError: ``logits`` is not 2-D or empty.

    Source: Grandvalet & Bengio 2004, "Semi-supervised learning by entropy minimization", NeurIPS.
    """
    log_p = F.log_softmax(_at_least_float32(_checked(logits, "logits")), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()


def mean_prediction_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean answer of a batch, in nats: high when all classes are named equally often.

        H = -sum_k q_k log q_k,  q = mean_i softmax(logits_i)

    To be **subtracted**: it keeps entropy minimisation from calling everything the same, and presses towards
    equal classes, which is wrong where a site's are not. Computed in float32 at least.

    Raises:
        ValueError: ``logits`` is not 2-D or empty.

    Source: Liang et al. 2020, "Do we really need to access the source data?", arXiv:2002.08546, equation 3.
    """
    q = _at_least_float32(_checked(logits, "logits")).softmax(dim=1).mean(dim=0)
    # Where a class is never named, q log q is 0, and its slope must not be infinite.
    return -(q * q.clamp_min(torch.finfo(q.dtype).tiny).log()).sum()


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Deep CORAL: the features of both domains should vary together in the same way.

        L = 1 / (4 d^2) ||C_s - C_t||_F^2,  C the covariance over the batch, divided by n - 1

    Computed in float32 at least, whatever the features' precision.

    Args:
        source, target: (n_s, d) and (n_t, d), n_s and n_t at least 2.

    Raises:
        ValueError: not 2-D, of different d, or fewer than two recordings of a domain.

    Source: Sun & Saenko 2016, "Deep CORAL", arXiv:1607.01719, equations 1 to 3.
    """
    for name, features in (("source", source), ("target", target)):
        _checked(features, name)
        if len(features) < 2:
            raise ValueError(f"one {name} recording has no covariance; give 2 or more")
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"source and target features differ in length: {source.shape[1]}, {target.shape[1]}")
    with torch.autocast(source.device.type, enabled=False):
        difference = _covariance(_at_least_float32(source)) - _covariance(_at_least_float32(target))
        return difference.square().sum() / (4 * source.shape[1] ** 2)


def minimum_class_confusion(logits: Tensor, temperature: float) -> Tensor:
    """MCC: a target's recordings should not be torn between the same two classes.

        p = softmax(logits / T),  w_i = n (1 + e^(-H(p_i))) / sum_j (1 + e^(-H(p_j)))
        C_kl = sum_i p_ik w_i p_il,  each row divided by its sum
        L = 1 / n_classes sum_{k != l} C_kl

    The weights w get no gradient, as in the authors' code; the paper does not say. Computed in float32 at least.

    Args:
        logits: (n, n_classes) of the target.
        temperature: T > 0; 2.5 in the paper.

    Raises:
        ValueError: ``logits`` is not 2-D or empty, or the temperature is not above 0.

    Source: Jin et al. 2020, "Minimum class confusion for versatile domain adaptation", arXiv:1912.03699.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature!r}")
    with torch.autocast(logits.device.type, enabled=False):
        log_p = F.log_softmax(_at_least_float32(_checked(logits, "logits")) / temperature, dim=1)
        p = log_p.exp()
        certainty = 1 + (log_p * p).sum(dim=1).exp().detach()  # 1 + e^-H
        weight = len(p) * certainty / certainty.sum()
        confusion = (p * weight.unsqueeze(1)).T @ p  # (n_classes, n_classes)
        confusion = confusion / confusion.sum(dim=1, keepdim=True)
        return (confusion.sum() - confusion.diagonal().sum()) / p.shape[1]


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round and scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """``x`` itself; what flows back through it is multiplied by -scale.

    What stands behind it learns to tell the domains apart, what stands before it to hide them.

    Source: Ganin et al. 2016, "Domain-adversarial training of neural networks", arXiv:1505.07818, section 4.2.
    """
    reversed_: Tensor = _Reversed.apply(x, scale)  # type: ignore[no-untyped-call]
    return reversed_


def reversal_scale(progress: float) -> float:
    """DANN's schedule: 0 at first, when the discriminator knows nothing yet, towards 1.

        lambda_p = 2 / (1 + e^(-10 p)) - 1

    Args:
        progress: p, the share of the training that is done, in [0, 1].

    Raises:
        ValueError: ``progress`` lies outside [0, 1].

    Source: Ganin et al. 2016, arXiv:1505.07818, section 5.2.2.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress!r}")
    return 2 / (1 + math.exp(-10 * progress)) - 1


def _lengths(features: Tensor) -> Tensor:
    x = _at_least_float32(_checked(features, "features"))
    return x.square().sum(dim=1).clamp_min(LEAST_LENGTH**2).sqrt()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _checked(x: Tensor, name: str) -> Tensor:
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"{name} must be (batch, size) with a row at least, got {tuple(x.shape)}")
    return x


def _off_diagonal_power(z: Tensor) -> Tensor:
    covariance = _covariance(z)
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
