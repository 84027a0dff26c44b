"""The features of ``vagitus.features`` in torch: for training on waveforms and inside an exported graph.

The DFT is two small matrix products and no FFT operator, which exported graphs run slowly or not at all.
With n_fft = n_coarse * n_fine, n = n_fine * a + b and k = c + n_coarse * d,

    X[k] = sum_b e^(-2 pi i b k / n_fft)  sum_a x[n_fine * a + b] e^(-2 pi i a c / n_coarse),

the inner sum is one matrix for all b, the outer one a matrix for each c. The samples are real, so
c <= n_coarse / 2 is enough: bin k above n_fft / 2 is the mirror of n_fft - k. In logmel64 that is 31,000
products a frame against 206,000 of the plain matrix, and half its time in onnxruntime.

While a model is exported the matrices are computed in the graph, from tables of one sine, so that the file
holds the tables (12 KB) and not the matrices (150 KB); onnxruntime folds them into constants when it loads the
file. This needs ``torch.onnx.export(..., optimize=False)``: the exporter's own optimizer folds them before.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vagitus.features import LEVEL_REFERENCE, STD_FLOOR, FeatureConfig, hann_window, mel_filterbank


class Frontend(nn.Module):
    """Waveforms to features, differentiable, without parameters; nothing of it enters a state dict.

    Equal to ``featurise`` of each row up to float32 rounding. Always computed in float32, under autocast
    too, since the powers of a loud recording exceed half precision. Normalisation is over all frames of
    a row: rows padded with zeros to a common length have other statistics than the recordings.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.n_coarse, self.n_fine = _factors(config)
        self.n_steps = -(-config.window_samples // self.n_fine)  # a = 0 .. n_steps - 1 reach over the window

        # Bin of every (c, d), the mirrored ones included; all d that no band listens to are left out.
        bank = mel_filterbank(config)
        bins = np.arange(self.n_coarse // 2 + 1)[:, None] + self.n_coarse * np.arange(self.n_fine)
        bins = np.minimum(bins, config.n_fft - bins)
        audible = np.asarray(bank.any(axis=0))
        heard = np.asarray(audible[bins].any(axis=0))
        bins = bins[:, heard].ravel()
        # Some bins come twice, as themselves and as a mirror: the first carries the weight.
        once = np.zeros((len(bins), config.n_bands), np.float32)
        first = np.unique(bins, return_index=True)[1]
        once[first] = bank.T[bins[first]]
        weighted = np.flatnonzero(once)

        turn = 2 * np.pi * np.arange(config.n_fft) / config.n_fft
        dct_turn = 2 * np.pi * np.arange(4 * config.n_bands) / (4 * config.n_bands)
        tables = {
            "window": hann_window(config),
            "cosine": np.cos(turn),
            "minus_sine": -np.sin(turn),
            "dct_cosine": np.cos(dct_turn),
            "bank_weight": once.ravel()[weighted],
        }
        # Ranges are stored: onnxruntime folds what follows from a stored one, but no Range operator.
        ranges = {
            "a": np.arange(self.n_steps),
            "b": np.arange(self.n_fine),
            "c": np.arange(self.n_coarse // 2 + 1),
            "d": np.flatnonzero(heard),
            "band": np.arange(config.n_bands),
            "row": np.arange(config.n_rows),
            "bank_index": weighted,
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32), persistent=False)
        for name, numbers in ranges.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)
        for name, matrix in self._matrices().items():
            self.register_buffer(name, matrix, persistent=False)

    # What the constructor registers, for type checkers.
    window: Tensor
    cosine: Tensor
    minus_sine: Tensor
    dct_cosine: Tensor
    bank_weight: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    band: Tensor
    row: Tensor
    bank_index: Tensor
    inner: Tensor
    outer: Tensor
    bank: Tensor
    dct: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, n_samples) float32 in [-1, 1] -> (batch, n_rows, 1 + n_samples // hop) float32.

        Raises:
            ValueError: another shape or type, or fewer samples than one window. Not checked in an
                exported graph; nor are NaN and infinity, which come out as they went in.
        """
        if torch.compiler.is_exporting():
            return self._features(waveform, **self._matrices())
        self._check(waveform)
        with torch.autocast(waveform.device.type, enabled=False):
            return self._features(waveform, self.inner, self.outer, self.bank, self.dct)

    def _check(self, waveform: Tensor) -> None:
        if waveform.ndim != 2 or waveform.dtype != torch.float32:
            raise ValueError(
                f"waveform must be (batch, n_samples) float32, got {tuple(waveform.shape)} {waveform.dtype}"
            )
        if waveform.shape[1] < self.config.window_samples:
            raise ValueError(
                f"{waveform.shape[1]} samples are shorter than one window of {self.config.window_samples}; "
                f"pad them or leave the recording out"
            )

    def _features(self, waveform: Tensor, inner: Tensor, outer: Tensor, bank: Tensor, dct: Tensor) -> Tensor:
        frames = self._frames(waveform)  # (batch, n_frames, window_samples)
        batch, n_frames, window = frames.shape
        n_padded = self.n_steps * self.n_fine
        x = F.pad(frames * self.window, (0, n_padded - window)).reshape(-1, self.n_steps, self.n_fine)
        x = x.transpose(1, 2) @ inner  # (batch * n_frames, b, (c, re or im))
        n_c = len(outer)
        x = x.reshape(-1, self.n_fine, n_c, 2).permute(2, 0, 1, 3).reshape(n_c, -1, 2 * self.n_fine)
        x = torch.bmm(x, outer).square()  # (c, batch * n_frames, (re or im, d))
        n_d = outer.shape[2] // 2
        power = (x[..., :n_d] + x[..., n_d:]).permute(1, 0, 2).reshape(-1, n_c * n_d)
        y = (power @ bank).clamp(min=self.config.log_floor).log()
        if self.config.kind == "mfcc":
            y = y @ dct
        y = y.reshape(batch, n_frames, self.config.n_rows).transpose(1, 2)
        if self.config.normalisation != "none":
            means = y.mean(dim=2, keepdim=True)
            y = y - means
        if self.config.normalisation == "keep_level" and self.config.kind == "mfcc":
            level = means[:, :1] - math.sqrt(self.config.n_bands) * LEVEL_REFERENCE
            y = torch.cat([y[:, :1] + level, y[:, 1:]], dim=1)
        elif self.config.normalisation == "keep_level":
            y = y + (means.mean(dim=1, keepdim=True) - LEVEL_REFERENCE)
        if self.config.normalisation == "mean_std":
            # The floor goes below the root, where the gradient of a constant row stays finite.
            y = y / y.square().mean(dim=2, keepdim=True).clamp(min=STD_FLOOR**2).sqrt()
        return y

    def _frames(self, waveform: Tensor) -> Tensor:
        window, hop = self.config.window_samples, self.config.hop_samples
        n_frames, n_reached = 1 + waveform.shape[1] // hop, -(-window // hop)
        n_hops = n_frames - 1 + n_reached
        # Frame t is hops t .. t + n_reached - 1 laid end to end: slices and a copy, no gather.
        padded = F.pad(waveform, ((window + 1) // 2, n_reached * hop))
        hops = padded[:, : n_hops * hop].reshape(-1, n_hops, hop)
        return torch.cat([hops[:, q : q + n_frames] for q in range(n_reached)], dim=2)[..., :window]

    def _matrices(self) -> dict[str, Tensor]:
        config, n_c, n_d = self.config, len(self.c), len(self.d)
        cosine, minus_sine = self._rotation(self.n_fine * self.a[:, None] * self.c)
        inner = torch.stack([cosine, minus_sine], dim=2).reshape(self.n_steps, 2 * n_c)
        # (x + iy)(cos - i sin): rows take re and im of one b in turn, columns give all re and then all im.
        k = self.c[:, None] + self.n_coarse * self.d
        cosine, minus_sine = self._rotation(self.b[:, None] * k[:, None])
        columns = [torch.cat([cosine, minus_sine], dim=2), torch.cat([-minus_sine, cosine], dim=2)]
        outer = torch.stack(columns, dim=2).reshape(n_c, 2 * self.n_fine, 2 * n_d)
        bank = torch.zeros(n_c * n_d * config.n_bands, device=self.cosine.device)
        bank = bank.scatter(0, self.bank_index, self.bank_weight).reshape(n_c * n_d, config.n_bands)
        # Orthonormal DCT-II: sqrt(2 / n_bands) cos(pi (2 band + 1) row / (2 n_bands)), row 0 over sqrt(2).
        dct = self._look_up(self.dct_cosine, (2 * self.band[:, None] + 1) * self.row)
        dct = dct * torch.where(self.row == 0, config.n_bands**-0.5, (2 / config.n_bands) ** 0.5)
        return {"inner": inner, "outer": outer, "bank": bank, "dct": dct}

    def _rotation(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and minus sine of 2 pi index / n_fft."""
        return self._look_up(self.cosine, index), self._look_up(self.minus_sine, index)

    def _look_up(self, table: Tensor, index: Tensor) -> Tensor:
        flat = index.reshape(-1) % len(table)  # the table holds one period
        return table.index_select(0, flat).reshape(index.shape)


def _factors(config: FeatureConfig) -> tuple[int, int]:
    """(n_coarse, n_fine) with the fewest products a frame, see the module's formula."""

    def products(n_coarse: int) -> int:
        n_fine = config.n_fft // n_coarse
        n_kept = n_coarse // 2 + 1
        return 2 * n_kept * config.window_samples + n_kept * (2 * n_fine) ** 2

    n_coarse = min((n for n in range(1, config.n_fft + 1) if config.n_fft % n == 0), key=products)
    return n_coarse, config.n_fft // n_coarse
