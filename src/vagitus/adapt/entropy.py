"""Entropy minimisation: the classes should lie apart at the target too.

Source: Grandvalet & Bengio 2004; the thesis's weight of .1. With the diversity term it is the "information
maximisation" of Liang et al. 2020, arXiv:2002.08546.
"""

from torch import Tensor, nn

from vagitus.adapt.objective import Passed
from vagitus.losses import mean_prediction_entropy, prediction_entropy


class Entropy(nn.Module):
    """Mean entropy of the target's predictions, less ``diversity`` times the entropy of their mean.

    Args:
        weight: of both.
        diversity: >= 0; 0, the default, is the thesis's. Above 0 it keeps the target from being called one class,
            and presses towards equal classes.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, *, weight: float = 0.1, diversity: float = 0.0) -> None:
        super().__init__()
        if weight < 0 or diversity < 0:
            raise ValueError(f"weights must be 0 or above, got {weight!r} and {diversity!r}")
        self.weight, self.diversity = weight, diversity

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        del source, site
        found = {"entropy": self.weight * prediction_entropy(target.logits)}
        if self.diversity:
            found["diversity"] = -self.weight * self.diversity * mean_prediction_entropy(target.logits)
        return found
