"""Two random views of a recording without labels, the objectives that compare them, and whether features collapse.

Conventions
    views       x1, x2 (batch, n_rows, n_frames); row i of both is from recording i
    noise       is mixed into log-mel spectra as power, exp(a) + exp(b): independent sounds add in power on
                average, and features that are computed once serve every epoch. Waveforms would be exact, at
                the cost of decoding and transforming each recording twice an epoch.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from vagitus.augment import CODECS, mask_bands_and_frames
from vagitus.features import LEVEL_REFERENCE, STD_FLOOR, FeatureConfig
from vagitus.losses import nt_xent, vicreg_terms
from vagitus.ranks import from_first, rows_of_all, share
from vagitus.tensor_train.matrix import effective_rank
from vagitus.training import Record, TrainConfig, fit
from vagitus.windows import cut_window

Float32 = NDArray[np.float32]

LOG_PER_DB = math.log(10) / 10  # natural log of power
STOP_BAND_DB = 60.0  # by which a limited band is lowered: what 16 bits and a codec's filter leave of it

N_PROBED = 256  # recordings whose features are watched for collapse
# Fewer than two directions cannot tell three recordings apart; features spread evenly over the sphere have
# spread 1, those of a network that gives all recordings one direction 0.
COLLAPSED_RANK, COLLAPSED_SPREAD = 2.0, 0.1


class ViewConfig(BaseModel):
    """How a view differs from its recording. Frozen; an unknown key is an error.

    Attributes:
        gain_db: the level changes by up to this, up or down, in all bands alike. A front end that removes
            the recording's mean removes it again.
        noise_share: share of views that noise is mixed into, where there is a pool of it.
        snr_db: lowest and highest signal-to-noise ratio, of the mean power over bands and frames.
        band_limit_share: share of views that lose their highest bands.
        lowest_band_share: the share of bands that is left at least.
        codec_share: share of views that are of the recording as a codec left it. Needs its features once more: each
            recording goes through one of ``codecs``, at one of its bit rates, before training.
        codecs: rows of ``augment.CODECS``; but for ``mu_law`` they need the extra ``codecs``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain_db: float = Field(10.0, ge=0)
    noise_share: float = Field(0.5, ge=0, le=1)
    snr_db: tuple[float, float] = (0.0, 20.0)
    band_limit_share: float = Field(0.3, ge=0, le=1)
    lowest_band_share: float = Field(0.5, gt=0, le=1)
    codec_share: float = Field(0.0, ge=0, le=1)
    codecs: tuple[str, ...] = Field(("amr_nb", "opus"), min_length=1)

    @field_validator("codecs")
    @classmethod
    def _known_codecs(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if name not in CODECS:
                raise ValueError(f"no codec {name!r}; choose from {', '.join(CODECS)}")
        return given


class ViewBatch(NamedTuple):
    x1: Tensor  # (batch, n_rows, n_frames)
    x2: Tensor  # (batch, n_rows, n_frames)


class _View(NamedTuple):
    """What is random in a view but its mask."""

    start: int  # frame
    gain_db: float
    noise: tuple[int, int, float] | None  # which of the pool, from which frame, at which SNR in dB
    first_lost: int  # band, from which on the view has none
    coded: bool


class TwoViews:
    """Two random views of each recording, in batches: what ``fit`` calls once an epoch. Labels play no part.

    A view is a crop that starts at a random frame, of the recording or of what a codec left of it; then its
    level, noise, a limited band, the front end's normalisation, and SpecAugment's masks. Normalisation belongs to
    the whole recording, which would have to be changed whole: instead its mean is moved by as much as the crop's
    mean was. Batches are all of one size, since a contrast among fewer is another loss; what does not fill one
    waits for another epoch.

    Args:
        logmel: one (n_bands, n_frames) array per recording without normalisation; may be memory-mapped.
        front_end: what the network hears, log-mel or MFCC.
        window_frames: frames in a view.
        config: ``batch_size`` and ``mask``.
        views: how views differ.
        noise: log-mel arrays as ``logmel``; empty for none.
        coded: the recordings of ``logmel`` after a codec, frame by frame; for ``codec_share`` alone.

    Raises:
        ValueError: fewer than two recordings, a batch of one, arrays that are not this front end's log-mel, an
            SNR range upside down, a ``codec_share`` without ``coded`` or the reverse.
    """

    def __init__(
        self,
        logmel: Sequence[Float32],
        front_end: FeatureConfig,
        *,
        window_frames: int,
        config: TrainConfig,
        views: ViewConfig,
        seed: int,
        noise: Sequence[Float32] = (),
        coded: Sequence[Float32] = (),
    ) -> None:
        if len(logmel) < 2 or config.batch_size < 2:
            raise ValueError(
                f"got {len(logmel)} recordings in batches of {config.batch_size}; a batch of one recording has no "
                "other to compare with, give 2 or more of both"
            )
        if len(coded) != (len(logmel) if views.codec_share else 0):
            raise ValueError(
                f"codec_share is {views.codec_share:g} with {len(coded)} coded recordings of {len(logmel)}; give "
                "every recording as a codec left it, or a share of 0"
            )
        n_bands = {len(x) for x in (*logmel, *noise, *coded)}
        if n_bands != {front_end.n_bands}:
            raise ValueError(
                f"arrays have {sorted(n_bands)} rows, the front end {front_end.n_bands} mel bands"
            )
        if views.snr_db[0] > views.snr_db[1]:
            raise ValueError(f"snr_db must be (lowest, highest), got {views.snr_db}")
        self.logmel, self.front_end, self.window_frames = logmel, front_end, window_frames
        self.mask, self.views, self.seed, self.noise, self.coded = config.mask, views, seed, noise, coded
        self.batch_size = min(config.batch_size, len(logmel))
        self.means, self.deviations = from_first(self._statistics)  # not read through by every process

    def _statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """(n, n_bands) means and, where the normalisation divides by them, (n, n_rows) standard deviations."""
        means = np.stack([x.mean(axis=1, dtype=np.float64) for x in self.logmel])
        if self.front_end.normalisation != "mean_std":
            return means, None
        return means, np.stack([self._as_heard(x).std(axis=1, dtype=np.float64) for x in self.logmel])

    def __len__(self) -> int:
        return len(self.logmel) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[ViewBatch]:
        return self.share(epoch, 0, 1)

    def share(self, epoch: int, rank: int, n_ranks: int) -> Iterator[ViewBatch]:
        """One process's rows of each batch, the only ones that it reads; all draw the same random numbers."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.logmel))
        own = share(self.batch_size, rank, n_ranks)
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[first : first + self.batch_size]
            views = []
            for _ in range(2):
                drawn = [self._draw(int(i), rng) for i in chosen]
                x = np.zeros((len(chosen), self.front_end.n_rows, self.window_frames), np.float32)
                for row in range(own.start, own.stop):
                    x[row] = self._view(int(chosen[row]), drawn[row])
                views.append(x)
            for x in views if self.mask else ():
                mask_bands_and_frames(x, self.mask, rng)
            yield ViewBatch(*(torch.from_numpy(x[own]) for x in views))

    def view(self, i: int, rng: np.random.Generator) -> Float32:
        """A random view of recording ``i``, without masks: (n_rows, window_frames)."""
        return self._view(i, self._draw(i, rng))

    def _draw(self, i: int, rng: np.random.Generator) -> "_View":
        start = self._start(self.logmel[i], rng)
        gain_db = rng.uniform(-self.views.gain_db, self.views.gain_db)
        noise = None
        if len(self.noise) and rng.random() < self.views.noise_share:
            k = int(rng.integers(len(self.noise)))
            noise = k, self._start(self.noise[k], rng), float(rng.uniform(*self.views.snr_db))
        n_bands = first_lost = self.front_end.n_bands
        if rng.random() < self.views.band_limit_share:
            first_lost = int(rng.integers(math.ceil(self.views.lowest_band_share * n_bands), n_bands + 1))
        # Without coded recordings nothing is drawn for them: the views of a seed stay what they were.
        coded = len(self.coded) > 0 and rng.random() < self.views.codec_share
        return _View(start, gain_db, noise, first_lost, coded)

    def _view(self, i: int, drawn: "_View") -> Float32:
        clean = self._crop(self.logmel[i], drawn.start)
        y = self._crop(self.coded[i], drawn.start) if drawn.coded else clean
        y = y + LOG_PER_DB * drawn.gain_db
        if drawn.noise is not None:
            k, start, snr_db = drawn.noise
            y = mix_powers(y, self._crop(self.noise[k], start), snr_db)
        y[drawn.first_lost :] -= LOG_PER_DB * STOP_BAND_DB
        np.maximum(y, math.log(self.front_end.log_floor), out=y)
        return self._normalised(y, i, self.means[i] + (y - clean).mean(axis=1))

    def plain(self, i: int) -> Float32:
        """The middle of recording ``i`` as the network hears it, unchanged: (n_rows, window_frames)."""
        start = max(self.logmel[i].shape[1] - self.window_frames, 0) // 2
        crop = cut_window(self.logmel[i], start, self.window_frames).astype(np.float64)
        return self._normalised(crop, i, self.means[i])

    def _start(self, logmel: Float32, rng: np.random.Generator) -> int:
        slack = logmel.shape[1] - self.window_frames
        # A short recording is repeated to fill the window, so it may start anywhere.
        return int(rng.integers(slack + 1 if slack >= 0 else logmel.shape[1]))

    def _crop(self, logmel: Float32, start: int) -> NDArray[np.float64]:
        return cut_window(logmel, start, self.window_frames).astype(np.float64)

    def _normalised(self, y: NDArray[np.float64], i: int, means: NDArray[np.float64]) -> Float32:
        normalisation = self.front_end.normalisation
        if normalisation != "none":
            y = y - means[:, None]
        if normalisation == "keep_level":
            y = y + (means.mean() - LEVEL_REFERENCE)
        heard = self._as_heard(y)
        if self.deviations is not None:
            heard = heard / np.maximum(self.deviations[i], STD_FLOOR)[:, None]
        return heard.astype(np.float32)

    def _as_heard(self, logmel: NDArray[Any]) -> NDArray[Any]:
        if self.front_end.kind == "logmel":
            return logmel
        from scipy import fft

        coefficients: NDArray[Any] = fft.dct(logmel, type=2, norm="ortho", axis=0)[: self.front_end.n_rows]
        return coefficients


def mix_powers(logmel: NDArray[np.float64], noise: NDArray[np.float64], snr_db: float) -> NDArray[np.float64]:
    """Add noise to a log-mel spectrum at a signal-to-noise ratio, as if both were independent sounds.

        y = ln(exp(x) + g exp(n)),  g = mean exp(x) / mean exp(n) * 10^(-snr_db / 10)

    What the sum of two waveforms has on average; in a single frame their phases matter. The bands' triangles
    have area one, so that the ratio is one of mean power per Hz, each band counting alike.

    Args:
        logmel, noise: (n_bands, n_frames), natural log of power.
    """
    # The largest value is taken out, so that no level overflows.
    peak, noise_peak = logmel.max(), noise.max()
    gain = peak - noise_peak - LOG_PER_DB * snr_db
    gain += math.log(np.exp(logmel - peak).mean()) - math.log(np.exp(noise - noise_peak).mean())
    mixed: NDArray[np.float64] = np.logaddexp(logmel, noise + gain)
    return mixed


class Encoder(nn.Module):
    """A model up to its features, as a module of its own: ``fit`` looks after a forward, its precision above all."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_rows, n_frames) -> (batch, feature_dim)."""
        features: Tensor = self.model.features(x)  # type: ignore[operator]
        return features


class SimCLR(nn.Module):
    """The two views of a recording should be nearer to each other than to any other recording's.

    A projector of one hidden layer stands between features and loss and is thrown away afterwards. Both views
    go through the network as one batch, so that batch norm does not tell them apart.

    Args:
        feature_dim: of the model.
        width, dim: of the projector's hidden layer and output.
        temperature: of ``losses.nt_xent``.

    Source: Chen et al. 2020, arXiv:2002.05709; 128 dimensions are the paper's, and temperature .5 what it took for
    small images (.1 for large ones); the hidden layer is narrower, as the networks are here.
    """

    joins_processes = True  # the others to tell a recording from are those of all processes

    def __init__(
        self, feature_dim: int, *, width: int = 256, dim: int = 128, temperature: float = 0.5
    ) -> None:
        super().__init__()
        self.projector, self.temperature = _projector(feature_dim, width, dim), temperature

    def forward(self, encoder: nn.Module, batch: ViewBatch) -> dict[str, Tensor]:
        z1, z2 = self.projector(encoder(torch.cat(batch)).float()).chunk(2)
        return {"contrast": nt_xent(rows_of_all(z1), rows_of_all(z2), self.temperature)}


class VICReg(nn.Module):
    """The two views of a recording should have one projection, whose dimensions vary and say different things.

    Needs no others to compare with, so that small batches, and two recordings of one subject in a batch,
    harm it less.

    Args:
        feature_dim: of the model.
        width: of the projector's two hidden layers and its output.
        weights: of variance, invariance and covariance.

    Source: Bardes et al. 2021, arXiv:2105.04906; the weights are the paper's, whose layers have 8192 units.
    """

    joins_processes = True

    def __init__(
        self, feature_dim: int, *, width: int = 512, weights: tuple[float, float, float] = (25.0, 25.0, 1.0)
    ) -> None:
        super().__init__()
        self.projector = _projector(feature_dim, width, width, width)
        self.weights = dict(zip(("variance", "invariance", "covariance"), weights, strict=True))

    def forward(self, encoder: nn.Module, batch: ViewBatch) -> dict[str, Tensor]:
        z1, z2 = self.projector(encoder(torch.cat(batch)).float()).chunk(2)
        terms = vicreg_terms(rows_of_all(z1), rows_of_all(z2))
        return {name: self.weights[name] * term for name, term in terms.items()}


METHODS: dict[str, Callable[[int], nn.Module]] = {"simclr": SimCLR, "vicreg": VICReg}


def _projector(*widths: int) -> nn.Sequential:
    projector = nn.Sequential()
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        projector.extend([nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()])
    return projector.append(nn.Linear(widths[-2], widths[-1]))


def diversity(features: Tensor) -> Record:
    """How differently a network hears recordings; both fall as it collapses.

        feature_rank    effective rank of the features' covariance; 0 if they are all the same
        feature_spread  sqrt(d) mean_j std_i (f_ij / ||f_i||): 1 for directions spread evenly, 0 for one

    Args:
        features: (n, d), one row per recording, n at least 2.

    Raises:
        FloatingPointError: features are not finite.

    Source: Roy & Vetterli 2007 for the rank; Chen & He 2021, "Exploring simple Siamese representation learning",
    arXiv:2011.10566, figure 2, for the spread.
    """
    f = features.detach().double()
    if not f.isfinite().all():
        raise FloatingPointError("the network's features are not finite; lower the learning rate")
    rank = effective_rank(torch.cov(f.T).reshape(f.shape[1], f.shape[1]))
    spread = math.sqrt(f.shape[1]) * nn.functional.normalize(f, dim=1).std(dim=0).mean().item()
    return {"feature_rank": 0.0 if math.isnan(rank) else rank, "feature_spread": spread}


def describe_collapse(record: Record) -> str:
    """Why features of this ``diversity`` are taken to be collapsed; "" if they are not."""
    rank, spread = record["feature_rank"], record["feature_spread"]
    if rank < COLLAPSED_RANK:
        return f"collapsed: its features vary in {rank:.2f} directions, fewer than {COLLAPSED_RANK:g}"
    if spread < COLLAPSED_SPREAD:
        return f"collapsed: its features' spread is {spread:.3f}, less than {COLLAPSED_SPREAD:g}"
    return ""


def learn_from_views(
    model: nn.Module,
    method: str,
    views: TwoViews,
    config: TrainConfig,
    *,
    seed: int,
    state_path: Path | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Train ``model.features`` without labels, in place; the last epoch's weights are kept.

    Args:
        model: any of MODELS; its head is not touched.
        method: a row of METHODS.
        state_path: as ``fit`` takes it.

    Returns:
        ``fit``'s records, each with the ``diversity`` of recordings heard unchanged.

    Raises:
        ValueError: no such method; or as ``fit``.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; choose from {', '.join(METHODS)}")
    probed = np.unique(np.linspace(0, len(views.logmel) - 1, N_PROBED).astype(np.int64))
    crops = torch.from_numpy(np.stack([views.plain(int(i)) for i in probed]))

    @torch.no_grad()
    def measure(encoder: nn.Module) -> Record:
        return diversity(encoder(crops.to(next(encoder.parameters()).device)))

    return fit(
        Encoder(model),
        seeded(lambda: METHODS[method](feature_dim_of(model)), seed),
        views,
        # Without a dev score nothing says that an earlier epoch was better.
        config.model_copy(update={"patience": config.epochs}),
        steps_per_epoch=len(views),
        seed=seed,
        measure=measure,
        state_path=state_path,
        on_epoch=on_epoch,
    )


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What ``build`` makes with torch's random numbers from ``seed``, which are then as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def feature_dim_of(model: nn.Module) -> int:
    """``feature_dim`` of any of MODELS."""
    return int(getattr(model, "feature_dim"))  # noqa: B009 (nn.Module does not declare it)
