"""Deep CORAL: the covariance of the features should be that of the sources.

Source: Sun & Saenko 2016, arXiv:1607.01719.
"""

from torch import Tensor, nn

from vagitus.adapt.objective import Passed
from vagitus.losses import coral


class Coral(nn.Module):
    """CORAL between the sources together and the target; ``weight`` 1 is where the paper ends."""

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        del site
        return {"coral": self.weight * coral(source.features, target.features)}
