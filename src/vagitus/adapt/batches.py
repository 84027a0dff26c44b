"""Batches of an adaptation: labelled crops of the sources, classes balanced within each site, and the target's."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vagitus.adapt.objective import DomainBatch
from vagitus.augment import mask_bands_and_frames
from vagitus.training import TrainConfig, balanced_order
from vagitus.windows import cut_window

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]


class DomainBatches:
    """What ``fit`` calls once an epoch: random crops of all sources and of the target.

    An epoch draws as many source crops as there are source recordings, each site its own number of them, and
    within a site every class equally often: where a site's class shares differ from another's, the site would
    otherwise give the class away. The target is walked through in random order, again and again.

    Args:
        features: one (n_rows, n_frames) array per labelled recording; may be memory-mapped.
        labels: (n,) class indices.
        sites: (n,) which source each is from, 0 to n_sources - 1.
        target: arrays of unlabelled recordings; empty for none, then ``x_target`` repeats the sources.
        window_frames: frames in a crop.
        config: ``batch_size`` of the sources and of the target each, ``balanced``, ``mask``.
        augmented: more versions of the labelled recordings, each a list as ``features``: every crop is cut from
            one of all versions at random. Target noise injection comes in here.

    Raises:
        ValueError: lengths that differ, no recording, one class, or a target of a single recording.
    """

    def __init__(
        self,
        features: Sequence[Float32],
        labels: Ints,
        sites: Ints,
        target: Sequence[Float32],
        *,
        window_frames: int,
        config: TrainConfig,
        seed: int,
        augmented: Sequence[Sequence[Float32]] = (),
    ) -> None:
        if not len(features) == len(labels) == len(sites) or len(features) == 0:
            raise ValueError(
                f"{len(features)} source recordings, {len(labels)} labels and {len(sites)} sites; need as many of "
                "each, at least one"
            )
        if len(np.unique(labels)) < 2:
            raise ValueError("the sources hold one class alone, so that there is nothing to tell apart")
        if len(target) == 1:
            raise ValueError("one target recording is no batch; give more")
        if any(len(version) != len(features) for version in augmented):
            raise ValueError("an augmented version must have a recording for every source recording")
        self.versions = [features, *augmented]
        self.labels, self.sites, self.target = labels, sites, target
        self.window_frames, self.config, self.seed = window_frames, config, seed

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.config.batch_size)

    def __call__(self, epoch: int) -> Iterator[DomainBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        order = self._order(rng)
        n_target = min(self.config.batch_size, len(self.target))
        waiting = np.empty(0, np.int64)
        for start in range(0, len(order), self.config.batch_size):
            chosen = order[start : start + self.config.batch_size]
            if len(chosen) == 1:  # a batch norm in training refuses a single recording
                chosen = np.concatenate([chosen, order[:1]])
            x = self._crops([self.versions[rng.integers(len(self.versions))][i] for i in chosen], rng)
            x_target = x
            if n_target:
                if len(waiting) < n_target:
                    waiting = np.concatenate([waiting, rng.permutation(len(self.target))])
                drawn, waiting = waiting[:n_target], waiting[n_target:]
                x_target = self._crops([self.target[i] for i in drawn], rng)
            yield DomainBatch(
                torch.from_numpy(x),
                torch.from_numpy(self.labels[chosen]),
                torch.from_numpy(self.sites[chosen]),
                torch.from_numpy(x_target),
            )

    def _order(self, rng: np.random.Generator) -> Ints:
        if not self.config.balanced:
            return rng.permutation(len(self.labels))
        drawn = []
        for site in np.unique(self.sites):
            members = np.flatnonzero(self.sites == site)
            drawn.append(members[balanced_order(self.labels[members], rng)])
        return rng.permutation(np.concatenate(drawn))

    def _crops(self, recordings: Sequence[Float32], rng: np.random.Generator) -> Float32:
        crops = []
        for features in recordings:
            slack = features.shape[1] - self.window_frames
            # A short recording is repeated to fill the window, so it may start anywhere.
            first = rng.integers(slack + 1) if slack >= 0 else rng.integers(features.shape[1])
            crops.append(cut_window(features, int(first), self.window_frames))
        x = np.stack(crops)
        if self.config.mask:
            mask_bands_and_frames(x, self.config.mask, rng)
        return x
