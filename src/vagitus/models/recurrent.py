"""Recurrent networks over frames: LSTM and GRU, dense or with weights that are tensor trains.

Source: Onu et al. 2020, arXiv:2010.04196, for the tensorized layers; the rest is the plainest network around one.
"""

from typing import Literal

from torch import Tensor, nn

from vagitus.tensor_train import TTGRU, TTLSTM

Layer = Literal["lstm", "gru", "tt-lstm", "tt-gru"]


class Recurrent(nn.Module):
    """Rows brought to one scale, one recurrent layer, the mean of its states over time.

    A mean rather than the last state: what tells recordings apart may stand anywhere in them.

    Input (batch, n_mels, n_frames), n_frames >= 1.

    Args:
        n_mels: rows of the input (mel bands or cepstral coefficients).
        n_classes: outputs of the head.
        layer: "lstm", "gru", or "tt-lstm", "tt-gru": the same with every weight a tensor train.
        hidden_size: of the recurrent layer.
        n_cores, rank: of the tensor trains; a dense layer has none and ignores them.
    """

    least_frames = 1

    def __init__(
        self,
        *,
        n_mels: int,
        n_classes: int,
        layer: Layer = "lstm",
        hidden_size: int = 256,
        n_cores: int = 3,
        rank: int = 4,
    ) -> None:
        super().__init__()
        self.feature_dim = hidden_size
        # Cepstral coefficients differ in spread by a factor of fifty, and gates saturate.
        self.norm = nn.BatchNorm1d(n_mels, affine=False)
        self.recurrent: nn.Module
        if layer in ("tt-lstm", "tt-gru"):
            kind = TTLSTM if layer == "tt-lstm" else TTGRU
            self.recurrent = kind(n_mels, hidden_size, batch_first=True, n_cores=n_cores, rank=rank)
        else:
            self.recurrent = (nn.LSTM if layer == "lstm" else nn.GRU)(n_mels, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> (batch, feature_dim)."""
        states, _ = self.recurrent(self.norm(x).transpose(1, 2))  # (batch, n_frames, hidden_size)
        mean: Tensor = states.mean(dim=1)
        return mean

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, n_frames) -> logits (batch, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
