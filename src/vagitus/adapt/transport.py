"""Embeddings of the target moved to where the sources' lie: linear optimal transport, and standardisation.

Both leave the network as it is and change what its linear head sees, which is the same as changing the head:

    W f(x) + b  becomes  W (A (f(x) - mu_t) + mu_s) + b,  so  W' = W A,  b' = b + W (mu_s - A mu_t)

so that the result is an ordinary model. Between two Gaussians the optimal map of squared distances is linear:

    A = C_t^(-1/2) (C_t^(1/2) C_s C_t^(1/2))^(1/2) C_t^(-1/2)

With covariances that are diagonal it is the ratio of the deviations: per-site feature standardisation.

Source: Knott & Smith 1984; Flamary et al. 2019, "Concentration bounds for linear Monge mapping estimation and
optimal transport domain adaptation", arXiv:1905.10155.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

Floats = NDArray[np.float64]

# Of the mean variance, added to every variance of both domains: a dimension that a domain does not use has none.
SHRINKAGE = 0.1
LEAST_RECORDINGS = 8  # of either domain, below which a mean and a deviation are chance


def gaussian_map(source: ArrayLike, target: ArrayLike, *, diagonal: bool = False) -> tuple[Floats, Floats]:
    """The affine map of target embeddings to the sources' mean and covariance: x -> A x + shift.

    Args:
        source: (n_s, d) embeddings.
        target: (n_t, d) embeddings.
        diagonal: standardise each dimension by itself.

    Returns:
        A (d, d), symmetric and positive, and shift (d,).

    Raises:
        ValueError: not 2-D, of different d, not finite, or fewer than ``LEAST_RECORDINGS`` of a domain.
    """
    x_s, x_t = (np.asarray(x, dtype=np.float64) for x in (source, target))
    if x_s.ndim != 2 or x_t.ndim != 2 or x_s.shape[1] != x_t.shape[1]:
        raise ValueError(f"embeddings must be (n, d) with one d, got {x_s.shape} and {x_t.shape}")
    check_domains(len(x_s), len(x_t))
    for name, x in (("source", x_s), ("target", x_t)):
        if not np.isfinite(x).all():
            raise ValueError(f"{name} embeddings hold NaN or infinity")
    mu_s, mu_t = x_s.mean(axis=0), x_t.mean(axis=0)
    c_s, c_t = (_shrunk(np.cov(x, rowvar=False).reshape(x.shape[1], -1), diagonal) for x in (x_s, x_t))
    root = _power(c_t, 0.5)
    inverse_root = _power(c_t, -0.5)
    a = inverse_root @ _power(root @ c_s @ root, 0.5) @ inverse_root
    return a, mu_s - a @ mu_t


def check_domains(n_source: int, n_target: int) -> None:
    """What ``gaussian_map`` refuses, to be said before the work.

    Raises:
        ValueError: fewer than ``LEAST_RECORDINGS`` of a domain.
    """
    for name, n in (("source", n_source), ("target", n_target)):
        if n < LEAST_RECORDINGS:
            raise ValueError(
                f"{n} {name} recordings are too few for their covariance; give {LEAST_RECORDINGS} or more"
            )


def move_head(model: nn.Module, a: Floats, shift: Floats) -> None:
    """Let the model's linear head see A f + shift in place of f, in place.

    Raises:
        ValueError: the head is not linear, or of another width.
    """
    head = linear_head(model)
    if a.shape != (head.in_features, head.in_features):
        raise ValueError(f"the map is {a.shape}, the head takes {head.in_features} features")
    with torch.no_grad():
        w = head.weight.double()
        as_tensor = torch.from_numpy(np.ascontiguousarray(a)).to(w)
        bias = head.bias.double() + w @ torch.from_numpy(shift).to(w)
        head.weight.copy_((w @ as_tensor).to(head.weight.dtype))
        head.bias.copy_(bias.to(head.bias.dtype))


def linear_head(model: nn.Module) -> nn.Linear:
    """The head that ``move_head`` changes.

    Raises:
        ValueError: the head is not linear.
    """
    head = model.head
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__} has no linear head to move; take another method")
    return head


def standardise_sites(x: ArrayLike, sites: ArrayLike) -> Floats:
    """Every feature with mean 0 and deviation 1 within each site; no label is needed.

    A feature that is constant at a site is 0 there.

    Args:
        x: (n, d).
        sites: (n,).
    """
    values, names = np.array(x, dtype=np.float64), np.asarray(sites)
    for site in np.unique(names):
        rows = names == site
        deviation = values[rows].std(axis=0)
        values[rows] = (values[rows] - values[rows].mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    return values


def _shrunk(covariance: Floats, diagonal: bool) -> Floats:
    if diagonal:
        covariance = np.diag(np.diag(covariance))
    mean_variance = float(np.trace(covariance)) / len(covariance)
    return np.asarray(covariance + max(SHRINKAGE * mean_variance, 1e-12) * np.eye(len(covariance)))


def _power(matrix: Floats, exponent: float) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 1e-15) ** exponent) @ vectors.T)
