"""MCC: no recording of the target should be torn between two classes; a site with other class shares is no harm.

Source: Jin et al. 2020, "Minimum class confusion", arXiv:1912.03699.
"""

from torch import Tensor, nn

from vagitus.adapt.objective import Passed
from vagitus.losses import minimum_class_confusion


class Mcc(nn.Module):
    """Class confusion of the target's predictions at the paper's temperature, 2.5."""

    def __init__(self, *, temperature: float = 2.5, weight: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        del source, site
        return {"mcc": self.weight * minimum_class_confusion(target.logits, self.temperature)}
