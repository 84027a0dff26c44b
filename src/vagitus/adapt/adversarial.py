"""DANN: a discriminator learns where a recording is from, and the network to hide it.

Source: Ganin et al. 2016, "Domain-adversarial training of neural networks", arXiv:1505.07818.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vagitus.adapt.objective import Passed
from vagitus.losses import reversal_scale, reverse_gradient


class Dann(nn.Module):
    """Cross-entropy of a discriminator behind reversed gradients.

    With several sources it names the site, the target being one of them (Zhao et al. 2018, "Adversarial multiple
    source domain adaptation", in its simplest form); with one it tells source from target, as published. Its
    domains weigh equally, whatever their batches hold.

    Args:
        feature_dim: of the network.
        n_sources: >= 1.
        total_steps: of the training, for the schedule of the reversal.
        hidden: units of the discriminator's one layer.

    Raises:
        ValueError: no source, or no step.
    """

    step: Tensor

    def __init__(self, *, feature_dim: int, n_sources: int, total_steps: int, hidden: int = 64) -> None:
        super().__init__()
        if n_sources < 1 or total_steps < 1:
            raise ValueError(f"needs a source and a step at least, got {n_sources} and {total_steps}")
        self.n_sources, self.total_steps = n_sources, total_steps
        self.discriminator = nn.Sequential(
            nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, n_sources + 1)
        )
        # A buffer, so that a training that was killed goes on at the right strength.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        scale = reversal_scale(min(1.0, self.step.item() / self.total_steps))
        if self.training:
            self.step += 1
        both = reverse_gradient(torch.cat([source.features, target.features]), scale)
        domain = torch.cat([site, torch.full_like(site[:1], self.n_sources).expand(len(target.features))])
        counts = torch.bincount(domain, minlength=self.n_sources + 1)
        present = counts > 0
        weight = torch.where(present, len(domain) / (present.sum() * counts.clamp_min(1)), 0.0)
        loss = F.cross_entropy(self.discriminator(both).float(), domain, weight=weight.float())
        return {"dann": loss}
