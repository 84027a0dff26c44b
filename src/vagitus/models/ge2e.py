"""The GE2E speaker encoder: an LSTM whose last state is the voice.

Source: Wan et al. 2018, "Generalized end-to-end loss for speaker verification", arXiv:1710.10467, section 3, in
the size and with the ReLU of the published Resemblyzer 0.1.4, whose weights ``vagitus.encoders.load_ge2e`` reads.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Ge2e(nn.Module):
    """Three LSTM layers, the last state of the last one, linear, ReLU, unit length.

    ``features`` is the embedding, (batch, embedding), not negative and of Euclidean length one (or all
    zeros). 1,423,616 parameters without the head, with 40 rows.

    Departure: the paper projects every LSTM layer down and has no ReLU.

    Input (batch, n_mels, n_frames), n_frames >= 1.

    Args:
        n_mels: rows of the input. The published weights take 40 bands of mel power, not its logarithm.
        n_classes: outputs of the head.
        hidden_size: of each LSTM layer.
        n_layers: of the LSTM.
        embedding: length of the features.
    """

    least_frames = 1

    def __init__(
        self,
        *,
        n_mels: int,
        n_classes: int,
        hidden_size: int = 256,
        n_layers: int = 3,
        embedding: int = 256,
    ) -> None:
        super().__init__()
        self.feature_dim = embedding
        self.lstm = nn.LSTM(n_mels, hidden_size, n_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, embedding)
        self.head: nn.Module = nn.Linear(embedding, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        _, (states, _) = self.lstm(x.transpose(1, 2))  # (n_layers, batch, hidden_size)
        return F.normalize(F.relu(self.linear(states[-1])), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
