"""A small audio transformer: patches of the spectrogram as tokens, self-attention between them.

Source: Gong et al. 2021, "AST: Audio Spectrogram Transformer", arXiv:2104.01778, at a thousandth of its cost.
Departures: patches do not overlap, blocks are narrow and four, the position in time is a sinusoid, so that any
length goes in, and the tokens' mean stands in for a class token.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_MELS, PATCH_FRAMES = 8, 10  # at 10 ms a hop a patch is 0.1 s, about a syllable's onset
LONGEST_PERIOD = 1e4  # of the sinusoids, in patches; Vaswani et al. 2017, section 3.5


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each added to what came in."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_tokens, width) -> the same shape."""
        y = self.norm_attention(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        z: Tensor = x + self.fall(F.gelu(self.rise(self.norm_mlp(x))))
        return z


class Transformer(nn.Module):
    """Patches of 8 rows by 10 frames, four blocks, the mean over tokens.

    Input (batch, n_mels, n_frames), n_mels >= 8 and n_frames >= 10; what does not fill a patch is left out.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        width: of a token; a multiple of ``n_heads``, and even.
        depth: blocks.
        n_heads: of the attention.

    Raises:
        ValueError: fewer rows than a patch has.
    """

    least_frames = PATCH_FRAMES

    def __init__(
        self, *, n_mels: int, n_classes: int, width: int = 96, depth: int = 4, n_heads: int = 4
    ) -> None:
        super().__init__()
        if n_mels < PATCH_MELS:
            raise ValueError(f"a patch has {PATCH_MELS} rows, so n_mels must be as many, got {n_mels}")
        self.feature_dim = width
        self.norm = nn.BatchNorm1d(n_mels, affine=False)
        self.patches = nn.Conv2d(1, width, (PATCH_MELS, PATCH_FRAMES), stride=(PATCH_MELS, PATCH_FRAMES))
        self.row_position = nn.Parameter(0.02 * torch.randn(width, n_mels // PATCH_MELS, 1))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        x = self.patches(self.norm(x).unsqueeze(1))  # (batch, width, n_mels / 8, n_frames / 10)
        x = x + self.row_position + sinusoids(x.shape[1], x.shape[3]).to(x)[:, None]
        x = x.flatten(2).transpose(1, 2)  # (batch, n_tokens, width)
        for block in self.blocks:
            x = block(x)
        mean: Tensor = self.norm_out(x).mean(dim=1)
        return mean

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def sinusoids(width: int, n_positions: int) -> Tensor:
    """(width, n_positions): sines, then cosines, of periods from 2 pi to 2 pi LONGEST_PERIOD positions."""
    half = width // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) / half * torch.arange(half))
    phases = rates[:, None] * torch.arange(n_positions)
    return torch.cat([phases.sin(), phases.cos()])
