"""The labelled recordings of a study with their features, shared between processes without a copy.

A feature table is one memory-mapped file, so that memory does not grow with the number of
recordings and every worker process reads the same pages.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vagitus.features import FeatureConfig
from vagitus.files import atomic_path
from vagitus.manifest import Manifest


class FeatureTable(Sequence[NDArray[np.float32]]):
    """Features of many recordings, packed frame after frame in one file; item i is (n_rows, n_frames).

    Args:
        path: what ``write_feature_table`` wrote, a (total_frames, n_rows) float32 array.
        config: the front end they were computed with.
        offsets: (n_recordings + 1,) int64, recording i is frames offsets[i] to offsets[i + 1].
    """

    def __init__(self, path: Path, config: FeatureConfig, offsets: NDArray[np.int64]) -> None:
        self.path, self.config, self.offsets = path, config, offsets
        self._frames = np.load(path, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> "list[NDArray[np.float32]]": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.float32] | list[NDArray[np.float32]]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"recording {index} of {len(self)}")
        index %= len(self)
        view: NDArray[np.float32] = self._frames[self.offsets[index] : self.offsets[index + 1]].T
        return view

    def take(self, indices: Iterable[int]) -> "list[NDArray[np.float32]]":
        """Views of the recordings at ``indices``, in that order."""
        return [self[int(i)] for i in indices]

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the file itself instead of receiving its contents.
        return FeatureTable, (self.path, self.config, self.offsets)


def write_feature_table(
    path: Path, config: FeatureConfig, lengths: Sequence[int], features: Iterable[NDArray[np.float32]]
) -> FeatureTable:
    """Pack features into one file, one recording in memory at a time, whole or not at all.

    Args:
        lengths: frames of each recording, known beforehand.
        features: (n_rows, n_frames) arrays in the same order.

    Raises:
        ValueError: an array's shape is not what ``config`` and ``lengths`` say.
        OSError: the file cannot be written.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with atomic_path(path) as temporary:
        packed = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(int(offsets[-1]), config.n_rows)
        )
        if hasattr(os, "posix_fallocate"):
            # On a full disk a mapped page that finds no room ends the process; here it is an error.
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        for start, end, array in zip(offsets[:-1], offsets[1:], features, strict=True):
            if array.shape != (config.n_rows, end - start):
                raise ValueError(
                    f"features of shape {array.shape}, expected {(config.n_rows, int(end - start))}"
                )
            packed[start:end] = array.T
        packed.flush()
        del packed
    return FeatureTable(path, config, offsets)


@dataclass(frozen=True)
class Dataset:
    """What every arm of a study sees: labelled recordings, and who belongs together.

    Attributes:
        manifest: the labelled, readable recordings, n of them.
        labels: (n,) int64 index into ``class_names``.
        class_names: in the order of logits; for two classes the positive one is last.
        groups: (n,) the subject, or the merged subjects where duplicates tie them together;
            no group stands on both sides of a split.
        duration_s: (n,) length of each recording or stretch.
        tables: feature tables by front end ("study", "logmel", "mfcc"; "study …" for what networks may
            choose instead of "study"; a source model's name for what it hears, and "… plain" for the
            log-mel of the same).
        sources: model files by the name of the source.
        embeddings: (n, dim) of each recording by an encoder that others trained; (0, 0) without one.
    """

    manifest: Manifest
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    groups: NDArray[np.str_]
    duration_s: NDArray[np.float64]
    tables: dict[str, FeatureTable]
    sources: Mapping[str, Path] = field(default_factory=dict)
    embeddings: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tables that a network may choose from."""
        return tuple(name for name in self.tables if name.split(" ")[0] == "study")

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


def logmel_statistics(features: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """What a ridge sees of a recording: how each band's level is distributed over time.

    Per band: mean, standard deviation, 10th, 50th and 90th percentile, and the mean
    absolute difference between neighbouring frames (0 for a single frame).

    Args:
        features: log-mel (n_bands, n_frames) per recording.

    Returns:
        (n_recordings, 6 * n_bands) float32.
    """
    return np.stack(list(_statistics(features)))


def _statistics(features: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for x in features:
        change = np.abs(np.diff(x, axis=1)).mean(axis=1) if x.shape[1] > 1 else np.zeros(len(x), np.float32)
        percentiles = np.percentile(x, (10, 50, 90), axis=1)
        yield np.concatenate([x.mean(axis=1), x.std(axis=1), *percentiles, change]).astype(np.float32)
