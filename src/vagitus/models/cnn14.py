"""CNN14: the network of PANNs, large, and published with weights trained on AudioSet.

Source: Kong et al. 2020, "PANNs: Large-scale pretrained audio neural networks for audio pattern recognition",
arXiv:1912.10211, table 1 and section II. ``vagitus.encoders.load_panns`` reads their weights.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

N_BLOCKS = 6  # of two convolutions each; every block but the last halves both axes
LEAST = 2 ** (N_BLOCKS - 1)  # rows, and frames, of which one is left
DROPOUT_BLOCK, DROPOUT_FEATURES = 0.2, 0.5

# Where each layer of a published checkpoint goes.
PANNS_LAYERS = {
    "bn0": "norm",
    "conv_block1.conv1": "convs.0",
    "conv_block1.conv2": "convs.1",
    "conv_block2.conv1": "convs.2",
    "conv_block2.conv2": "convs.3",
    "conv_block3.conv1": "convs.4",
    "conv_block3.conv2": "convs.5",
    "conv_block4.conv1": "convs.6",
    "conv_block4.conv2": "convs.7",
    "conv_block5.conv1": "convs.8",
    "conv_block5.conv2": "convs.9",
    "conv_block6.conv1": "convs.10",
    "conv_block6.conv2": "convs.11",
    "conv_block1.bn1": "norms.0",
    "conv_block1.bn2": "norms.1",
    "conv_block2.bn1": "norms.2",
    "conv_block2.bn2": "norms.3",
    "conv_block3.bn1": "norms.4",
    "conv_block3.bn2": "norms.5",
    "conv_block4.bn1": "norms.6",
    "conv_block4.bn2": "norms.7",
    "conv_block5.bn1": "norms.8",
    "conv_block5.bn2": "norms.9",
    "conv_block6.bn1": "norms.10",
    "conv_block6.bn2": "norms.11",
    "fc1": "dense",
    "fc_audioset": "head",
}


class Cnn14(nn.Module):
    """Six blocks of two 3x3 convolutions, mean plus maximum over time, one dense layer.

    Rows are brought to one scale by batch norm. Every convolution, without bias, is followed by batch norm and
    ReLU, every block but the last by an average pool (2, 2). Dropout of 0.2 after a block, of 0.5 before the
    dense layer and before the head. 80,753,615 parameters with 64 rows and 527 classes, as published.

    Departures: the head gives logits, where PANNs give sigmoids of them, and what it reads passed a dropout,
    which theirs skips. SpecAugment and mixup belong to training.

    Input (batch, n_mels, n_frames), both >= 32.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        width: channels of the first block; each block has twice the one before. The published 64.

    Raises:
        ValueError: ``n_mels`` is under 32, so that the pools would leave nothing.
    """

    least_frames = LEAST

    def __init__(self, *, n_mels: int, n_classes: int, width: int = 64) -> None:
        super().__init__()
        if n_mels < LEAST:
            raise ValueError(f"cnn14 pools {LEAST} rows into one, so n_mels must be >= {LEAST}, got {n_mels}")
        channels = [1, *(width << block // 2 for block in range(2 * N_BLOCKS))]
        self.feature_dim = channels[-1]
        self.norm = nn.BatchNorm2d(n_mels)
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, kernel_size=3, padding=1, bias=False) for n_in, n_out in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n_out) for n_out in channels[1:])
        self.dense = nn.Linear(self.feature_dim, self.feature_dim)
        self.head = nn.Linear(self.feature_dim, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim), PANNs' embedding."""
        # Kernels are stored (time, frequency): the input turns rather than published weights.
        x = self.norm(x.unsqueeze(2)).permute(0, 2, 3, 1)  # (batch, 1, n_frames, n_mels)
        for position, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if position % 2:
                if position < 2 * N_BLOCKS - 1:
                    x = F.avg_pool2d(x, 2)
                x = F.dropout(x, DROPOUT_BLOCK, self.training)
        x = x.mean(dim=3)  # (batch, feature_dim, n_frames / 32)
        x = F.dropout(x.amax(dim=2) + x.mean(dim=2), DROPOUT_FEATURES, self.training)
        return F.dropout(F.relu(self.dense(x)), DROPOUT_FEATURES, self.training)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
