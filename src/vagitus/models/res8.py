"""res8: the small residual network of keyword spotting, as the thesis uses it on one-second cries.

Source: Tang & Lin 2018, "Deep residual learning for small-footprint keyword spotting",
arXiv:1710.10361, table 1; the thesis adopts it unchanged (arXiv:1906.10199).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vagitus.models.pooled_convolution import pooled_convolution

POOL_MELS, POOL_FRAMES = 3, 4  # their (4, 3) is (time, frequency); our inputs are (frequency, time)
N_BLOCKS = 3  # of two convolutions each


class Res8(nn.Module):
    """One convolution, one average pool, six convolutions with a shortcut over every second one.

    Every block convolution is followed by ReLU, then by batch norm without affine
    parameters; convolutions carry no bias. The mean over both axes makes the network
    indifferent to the length of its input. 110,307 parameters with 12 classes.

    Input (batch, n_mels, n_frames), n_mels >= 3 and n_frames >= 4.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        width: channels of every convolution; the paper's 45.

    Raises:
        ValueError: ``n_mels`` is under 3, so that the pool would leave nothing.
    """

    least_frames = POOL_FRAMES

    def __init__(self, *, n_mels: int, n_classes: int, width: int = 45) -> None:
        super().__init__()
        if n_mels < POOL_MELS:
            raise ValueError(
                f"res8 pools {POOL_MELS} rows into one, so n_mels must be >= {POOL_MELS}, got {n_mels}"
            )
        self.feature_dim = width
        self.stem = nn.Conv2d(1, width, kernel_size=3, padding=1, bias=False)
        self.pool = nn.AvgPool2d((POOL_MELS, POOL_FRAMES))
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False) for _ in range(2 * N_BLOCKS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for _ in range(2 * N_BLOCKS))
        self.head = nn.Linear(width, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        x = pooled_convolution(
            self.stem, self.pool, x.unsqueeze(1)
        )  # (batch, width, n_mels / 3, n_frames / 4)
        shortcut = x
        for position, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(conv(x))
            if position % 2:
                x = shortcut = x + shortcut
            x = norm(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
