"""A small convolutional network for slow processors: four strided convolutions and a mean.

Nobody's published network: each convolution halves both axes and widens the channels, which keeps the cost of
the last three equal. Cost a window of one second, 40 rows by 101 frames: 3.7 million products (7.4 MFLOP)
against 37.2 million of res8.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

WIDENING = (
    1,
    2,
    4,
    6,
)  # channels of each convolution, in widths; 8 would cost a third more and no longer fit 100,000


class Small(nn.Module):
    """Rows brought to one scale, four 3x3 convolutions of stride 2, the mean over both axes.

    Every convolution, without bias, is followed by batch norm and ReLU. 79,090 parameters with 2 classes.

    Input (batch, n_mels, n_frames), both >= 1.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        width: channels of the first convolution; the others have 2, 4 and 6 times as many.
    """

    least_frames = 1

    def __init__(self, *, n_mels: int, n_classes: int, width: int = 16) -> None:
        super().__init__()
        channels = [1, *(times * width for times in WIDENING)]
        self.feature_dim = channels[-1]
        self.norm = nn.BatchNorm1d(n_mels, affine=False)
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, kernel_size=3, stride=2, padding=1, bias=False)
            for n_in, n_out in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n_out) for n_out in channels[1:])
        self.head = nn.Linear(self.feature_dim, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        x = self.norm(x).unsqueeze(1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))  # in the end (batch, 6 width, n_mels / 16, n_frames / 16)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
