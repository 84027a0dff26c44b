"""HAFN and SAFN: features of both domains grow to one length, since short ones do not transfer.

Source: Xu et al. 2019, "Larger norm more transferable", arXiv:1811.07456; the thesis takes R = 25, a step of 1 and
a weight of .05 for both.
"""

from torch import Tensor, nn

from vagitus.adapt.objective import Passed
from vagitus.losses import hard_feature_norm, stepwise_feature_norm

WEIGHT = 0.05


class Hafn(nn.Module):
    """The hard loss on either domain: mean length towards ``radius``."""

    def __init__(self, *, radius: float = 25.0, weight: float = WEIGHT) -> None:
        super().__init__()
        self.radius, self.weight = radius, weight

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        del site
        return {
            f"hafn_{name}": self.weight * hard_feature_norm(passed.features, self.radius)
            for name, passed in (("source", source), ("target", target))
        }


class Safn(nn.Module):
    """The stepwise loss on either domain: every feature vector a little longer than it is."""

    def __init__(self, *, step: float = 1.0, weight: float = WEIGHT) -> None:
        super().__init__()
        self.step, self.weight = step, weight

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        del site
        return {
            f"safn_{name}": self.weight * stepwise_feature_norm(passed.features, self.step)
            for name, passed in (("source", source), ("target", target))
        }
