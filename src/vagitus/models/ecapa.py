"""ECAPA-TDNN: the speaker encoder that CryCeleb's baseline uses.

Source: Desplanques et al. 2020, "ECAPA-TDNN: emphasized channel attention, propagation and aggregation in TDNN
based speaker verification", arXiv:2005.07143, section 3. Every convolution is followed by ReLU, then batch norm,
as their figure 2 has it; padding is zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 8  # groups of channels in a Res2 convolution
DILATIONS = (2, 3, 4)  # of the three blocks
LEAST_VARIANCE = 1e-12  # below the root, where the gradient of a constant row stays finite


class Tdnn(nn.Module):
    """A convolution over time that keeps the length, ReLU, batch norm."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, kernel_size, dilation=dilation, padding="same")
        self.norm = nn.BatchNorm1d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, n_frames) -> (batch, n_out, n_frames)."""
        y: Tensor = self.norm(F.relu(self.conv(x)))
        return y


class SERes2Block(nn.Module):
    """Tdnn, Res2 convolution, Tdnn, squeeze and excitation, with a shortcut over all (their figure 1).

    The Res2 convolution takes SCALE groups of channels in turn: the first passes, each other one is convolved
    after the output of the one before was added. Squeeze and excitation scales every channel by a sigmoid of
    all channels' means over time.
    """

    def __init__(self, width: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.narrow = Tdnn(width, width)
        group = width // SCALE
        self.groups = nn.ModuleList(Tdnn(group, group, 3, dilation) for _ in range(SCALE - 1))
        self.widen = Tdnn(width, width)
        self.squeeze, self.excite = nn.Conv1d(width, bottleneck, 1), nn.Conv1d(bottleneck, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, n_frames) -> the same shape."""
        first, second, *others = self.narrow(x).chunk(SCALE, dim=1)
        groups = [first, self.groups[0](second)]
        for group, tdnn in zip(others, self.groups[1:], strict=True):
            groups.append(tdnn(group + groups[-1]))
        y = self.widen(torch.cat(groups, dim=1))
        scale = self.excite(F.relu(self.squeeze(y.mean(dim=2, keepdim=True)))).sigmoid()
        z: Tensor = x + scale * y
        return z


class AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation over time, the weights per channel and frame (their section 3.1).

    What the attention sees of a frame is the frame with the recording's own mean and standard deviation.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.attend = Tdnn(3 * width, bottleneck)
        self.weigh = nn.Conv1d(bottleneck, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, n_frames) -> (batch, 2 width)."""
        context = moments(x, torch.full_like(x, 1 / x.shape[2]))
        seen = torch.cat([x, *(moment.expand_as(x) for moment in context)], dim=1)
        weights = self.weigh(self.attend(seen).tanh()).softmax(dim=2)
        return torch.cat(moments(x, weights), dim=1).squeeze(2)


class Ecapa(nn.Module):
    """One convolution, three SE-Res2 blocks, their aggregation, attentive statistics, the embedding.

    A block's input is the sum of all outputs before it. ``features`` is the embedding; for verification
    compare two by their cosine. Parameters without the head, with 80 rows and an embedding of 192:

        width 128 (the default)           763,568
        width 512, aggregated 1536      6,194,048    the paper's smaller one
        width 1024, aggregated 1536    14,660,416    the paper's larger one
        width 1024                     20,767,552    SpeechBrain's VoxCeleb encoder, CryCeleb's baseline

    Departure: the paper has one more batch norm, after the embedding.

    Input (batch, n_mels, n_frames), n_frames >= 1.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        width: channels of the convolution and the blocks, a multiple of 8. The default is for two cores;
            published are 512 and 1024.
        aggregated: channels after aggregation; default three times ``width``.
        bottleneck: of squeeze and excitation and of the attention.
        embedding: length of the features.

    Raises:
        ValueError: ``width`` is no multiple of 8.
    """

    least_frames = 1

    def __init__(
        self,
        *,
        n_mels: int,
        n_classes: int,
        width: int = 128,
        aggregated: int | None = None,
        bottleneck: int = 128,
        embedding: int = 192,
    ) -> None:
        super().__init__()
        if width < SCALE or width % SCALE:
            raise ValueError(
                f"ecapa splits its channels into {SCALE} groups, so width must be a multiple, got {width}"
            )
        n_statistics = 2 * (aggregated or len(DILATIONS) * width)
        self.feature_dim = embedding
        self.stem = Tdnn(n_mels, width, 5)
        self.blocks = nn.ModuleList(SERes2Block(width, bottleneck, dilation) for dilation in DILATIONS)
        self.aggregate = Tdnn(len(DILATIONS) * width, n_statistics // 2)
        self.pool = AttentiveStatistics(n_statistics // 2, bottleneck)
        self.norm = nn.BatchNorm1d(n_statistics)
        self.embed = nn.Linear(n_statistics, embedding)
        self.head = nn.Linear(embedding, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        total = self.stem(x)  # (batch, width, n_frames)
        outputs = []
        for block in self.blocks:
            outputs.append(block(total))
            total = total + outputs[-1]
        statistics = self.pool(self.aggregate(torch.cat(outputs, dim=1)))  # (batch, 2 aggregated)
        if self.training and len(statistics) == 1:
            # An epoch may end on a batch of one, whose variance is no one's: the running statistics serve.
            norm = self.norm
            statistics = F.batch_norm(statistics, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        else:
            statistics = self.norm(statistics)
        embedding: Tensor = self.embed(statistics)
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time, weights summing to one there: twice (batch, width, 1)."""
    mean = (weights * x).sum(dim=2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(dim=2, keepdim=True)
    return mean, variance.clamp(min=LEAST_VARIANCE).sqrt()
