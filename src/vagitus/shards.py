"""Features of very many recordings, a thousand to a file: shards that a cluster writes and a training reads.

    FOLDER/features-000000.safetensors    recordings 0 to 999 of the manifest, in its order
    FOLDER/features-000001.safetensors    1000 to 1999
    FOLDER/index.json                     written last: the front end, and a line for each shard

The feature cache keeps a file for each recording, which a shared file system of a cluster is slow at, and a
study's feature table is written by one process. Shards are written by whoever is free and by no other, whole or not
at all, and depend on the recordings and the front end alone: bit by bit the same on one processor and on a cluster.

A shard holds ``frames`` (n_frames, n_rows) float32, its recordings one after another, and ``offsets``
(n_recordings + 1,) int64, recording k being frames offsets[k] to offsets[k + 1]. Its header says, of each
recording, where it came from, a hash of the file's bytes, and why it has no frames if it has none; and a
checksum of all that.

A rerun keeps each shard that is as it was written and is of the same recordings, front end and file sizes, and
computes the others; so it does one with a file that is there and could not be read at all, since that was the disk or
the network. To have the recordings tried again that could not be decoded, delete their shard.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vagitus.audio import AudioError
from vagitus.features import FEATURES_VERSION, FeatureConfig, Stretch, featurise_file
from vagitus.files import content_hash, locked, write_atomic
from vagitus.manifest import Manifest
from vagitus.scale import Quarantined, spread

Float32 = NDArray[np.float32]

SHARD_FORMAT = 1
INDEX, SHARD, TRIES = "index.json", ".safetensors", ".tries"
# Of 3 s of log-mel a thousand recordings make 80 MB: little to compute again, and a million are a thousand files.
N_PER_SHARD = 1000
MAX_HEADER_BYTES = 100_000_000  # what safetensors reads at most
MAX_ROUNDS = 10  # of shards whose process ended, each time at another recording
N_TRIES = 2
CRASHED = "ended the process that read it, twice; convert it to wav or flac"


class Row(NamedTuple):
    """A recording of a shard: as in the manifest, and what became of it."""

    path: str
    start_s: float
    end_s: float | None
    content: str  # hash of the file's bytes; "" if it cannot be read
    problem: str  # "" if it has features


class ShardLine(NamedTuple):
    """A shard as the index names it."""

    file: str
    n_recordings: int
    n_frames: int
    n_problems: int
    checksum: str


class Shards(Sequence[Float32]):
    """Features in shards, as ``write_shards`` left them; item i is (n_rows, n_frames), a view of its file.

    A recording without features has none: (n_rows, 0), and its row says why. What is read stays in the
    system's page cache and not in this process. Each shard that was read keeps a file open, of which a system
    allows a process a thousand or so: give ``write_shards`` more recordings a shard where there are millions.

    Attributes:
        folder: where they are.
        config: the front end.
        lines: the index.
        offsets: (n + 1,) int64, frames before each recording, as ``dataset.FeatureTable`` has them.
    """

    def __init__(self, folder: Path, config: FeatureConfig, lines: Sequence[ShardLine]) -> None:
        self.folder, self.config, self.lines = folder, config, tuple(lines)
        self._first = np.cumsum([0, *(line.n_recordings for line in lines)])
        self._n_before = np.cumsum([0, *(line.n_frames for line in lines)])
        self._mapped: dict[int, Float32] = {}
        parts = [_offsets(self.folder / line.file, line)[:-1] for line in lines]
        parts = [part + before for part, before in zip(parts, self._n_before, strict=False)]
        self.offsets: NDArray[np.int64] = np.concatenate([*parts, self._n_before[-1:]])

    def __len__(self) -> int:
        return int(self._first[-1])

    @overload
    def __getitem__(self, index: int) -> Float32: ...
    @overload
    def __getitem__(self, index: slice) -> list[Float32]: ...
    def __getitem__(self, index: int | slice) -> Float32 | list[Float32]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"recording {index} of {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        if shard not in self._mapped:
            path = self.folder / self.lines[shard].file
            self._mapped[shard] = _frames(path, (self.lines[shard].n_frames, self.config.n_rows))
        start, stop = self.offsets[index : index + 2] - self._n_before[shard]
        view: Float32 = self._mapped[shard][start:stop].T
        return view

    def take(self, indices: Iterable[int]) -> list[Float32]:
        """Views of the recordings at ``indices``, in that order."""
        return [self[int(i)] for i in indices]

    def rows(self) -> Iterator[Row]:
        """What is known of each recording, in the manifest's order; a shard's in memory at a time."""
        for line in self.lines:
            for row in _header(self.folder / line.file)["rows"]:
                yield Row(*row)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files itself instead of receiving their contents.
        return Shards, (self.folder, self.config, self.lines)


def write_shards(
    manifest: Manifest,
    config: FeatureConfig,
    folder: Path,
    *,
    n_per_shard: int = N_PER_SHARD,
    n_workers: int = 1,
    announce: Callable[[str], None] = lambda line: None,
) -> Shards:
    """Features of all recordings of a manifest into ``folder``; killed at any moment, the same call goes on.

    A recording that cannot be read, or at which two processes ended, has no features but a reason, and stops no
    other. Within ``scale.cluster`` its workers write, so ``folder`` must be on a file system that all see.

    Args:
        config: the front end.
        folder: made if it is not there.
        n_per_shard: recordings in a shard.
        n_workers: processes; memory is that of one shard each, whatever the number of recordings.
        announce: is given one line of progress at a time.

    Raises:
        ValueError: no recordings, ``n_per_shard`` below 1, or ``folder`` holds features of another front end, of
            other recordings or in shards of another size.
        OSError: ``folder`` cannot be written.
        RuntimeError: workers cannot start or keep ending; see ``scale.spread``.
    """
    if n_per_shard < 1:
        raise ValueError(f"a shard needs a recording or more, got {n_per_shard}")
    if len(manifest) == 0:
        raise ValueError(f"{manifest.source}: no recordings")
    with locked(folder, "featurising"):
        _refuse_others(folder, config, n_per_shard, str(manifest.path[0]))
        # Of a run that was killed, which says nothing about the recordings.
        for left in _ours(folder, TRIES):
            left.unlink()
        (folder / INDEX).unlink(missing_ok=True)
        starts = range(0, len(manifest), n_per_shard)
        lines: dict[int, ShardLine] = {}
        n_done = 0
        for _ in range(MAX_ROUNDS):
            waiting = [k for k in range(len(starts)) if k not in lines]
            jobs = (_job(manifest, starts[k], n_per_shard, folder / _name(k)) for k in waiting)
            with closing(spread(partial(_write_shard, config), jobs, n_workers, long=True)) as answers:
                for n, answer in answers:
                    if isinstance(answer, Quarantined):
                        if answer.error is not None:
                            raise RuntimeError(f"{_name(waiting[n])}: {answer}") from answer.error
                        continue  # what its process ended at is known now, and left out in the next round
                    lines[waiting[n]] = answer
                    n_done += answer.n_recordings
                    announce(f"{n_done}/{len(manifest)} recordings")
            if len(lines) == len(starts):
                break
        else:
            missing = next(k for k in range(len(starts)) if k not in lines)
            raise RuntimeError(
                f"{_name(missing)}: the processes that write it ended {N_TRIES * MAX_ROUNDS} times, at ever other "
                "recordings; see that they have memory enough"
            )
        for stale in set(_ours(folder, SHARD)) - {folder / _name(k) for k in lines}:
            stale.unlink()  # the manifest had more recordings then
        index = {
            "format": SHARD_FORMAT,
            "features": config.model_dump(mode="json"),
            "features_version": FEATURES_VERSION,
            "n_per_shard": n_per_shard,
            "n_recordings": len(manifest),
            "shards": [lines[k]._asdict() for k in range(len(starts))],
        }
        write_atomic(folder / INDEX, json.dumps(index, indent=1))
    return open_shards(folder)


def open_shards(folder: Path) -> Shards:
    """What ``write_shards`` finished writing. Reads headers only; ``check_shards`` reads all.

    Raises:
        FileNotFoundError: there is no index, so it was not finished.
        ValueError: the index or a shard is damaged, or of another format version.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `vagitus featurise` writes it when all shards are there"
        )
    try:
        index = json.loads(path.read_text())
        if index["format"] != SHARD_FORMAT:
            raise ValueError(f"format {index['format']!r}, this version reads {SHARD_FORMAT}")
        config = FeatureConfig(**index["features"])
        lines = [ShardLine(**line) for line in index["shards"]]
        if [line.file for line in lines] != [_name(k) for k in range(len(lines))]:
            raise ValueError("its shards are not numbered from zero on")
        if any(type(n) is not int or n < 0 for line in lines for n in line[1:4]):
            raise ValueError("a number of recordings or frames is none")
        n_recordings = int(index["n_recordings"])
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); delete it and featurise again"
        ) from error
    if sum(line.n_recordings for line in lines) != n_recordings:
        raise ValueError(f"{path}: its shards do not add up to {n_recordings} recordings; featurise again")
    return Shards(Path(folder), config, lines)


def check_shards(folder: Path) -> Iterator[str]:
    """Read every shard again and say what is not as it was written; nothing said is nothing wrong.

    Each recording of the index is there once: every shard is whole, of the recordings that its place
    in the order says, and agrees with the index.

    Raises:
        As ``open_shards``.
    """
    shards = open_shards(folder)
    for line in shards.lines:
        path = shards.folder / line.file
        found = _read_whole(path)
        if found is None:
            yield f"{path}: is not as it was written; delete it and featurise again"
        elif found != line:
            yield f"{path}: is another shard than the index says; delete it and featurise again"


def _refuse_others(folder: Path, config: FeatureConfig, n_per_shard: int, first: str) -> None:
    """``first``: path of the first recording, by which a manifest that grew is told from another one."""
    for path in _ours(folder, SHARD)[:1]:
        try:
            header = _header(path)
            rows = [Row(*row) for row in header["rows"]]
        except (OSError, LookupError, TypeError, ValueError):
            continue  # it is computed again
        if header["features"] != config.model_dump(mode="json"):
            raise ValueError(f"{folder}: holds features of another front end; give another --out")
        if header["n_per_shard"] != n_per_shard:
            raise ValueError(
                f"{folder}: holds shards of {header['n_per_shard']} recordings, not {n_per_shard}; give that, or "
                "another --out"
            )
        if path.name == _name(0) and rows and rows[0].path != first:
            raise ValueError(
                f"{folder}: holds features of other recordings, first {rows[0].path} and here {first}, and they would "
                "be overwritten; give another --out"
            )


def _name(k: int) -> str:
    return f"features-{k:06d}{SHARD}"


def _ours(folder: Path, suffix: str) -> list[Path]:
    """The files that ``write_shards`` named, in order, and no other that is like them."""
    found = folder.glob(f"features-*{suffix}")
    return sorted(path for path in found if path.name[len("features-") : -len(suffix)].isdecimal())


Listed = tuple[str, float, float | None]  # a path as the manifest has it, start_s, end_s


def _job(
    manifest: Manifest, start: int, n_per_shard: int, path: Path
) -> tuple[Path, Path, int, list[Listed]]:
    stop = min(start + n_per_shard, len(manifest))
    listed = [(str(manifest.path[i]), *manifest.stretch(i)) for i in range(start, stop)]
    return path, manifest.root, n_per_shard, listed


def _write_shard(
    config: FeatureConfig, path: Path, root: Path, n_per_shard: int, listed: list[Listed]
) -> ShardLine:
    """One shard, unless it is there; run by a worker."""
    n_bytes = [_n_bytes(root / name) for name, _, _ in listed]
    identity = _identity(config, listed, n_bytes)
    kept = _read_whole(path, identity)
    if kept is not None and not _was_out_of_reach(path, n_bytes):
        return kept
    given_up, tries = _given_up(path.with_suffix(TRIES))
    arrays: list[Float32] = []
    rows: list[Row] = []
    with path.with_suffix(TRIES).open("ab", buffering=0) as notes:
        notes.write(f"{tries}\n".encode())
        for k, (name, start_s, end_s) in enumerate(listed):
            features, content, problem = None, "", f"{name}: {CRASHED}"
            if k not in given_up:
                notes.write(f"{tries} {k}\n".encode())  # should this process end now, it was at k
                features, content, problem = _featurised(Stretch(root / name, start_s, end_s), config)
            rows.append(Row(name, start_s, end_s, content, problem.replace(f"{root}/", "")))
            arrays.append(np.zeros((config.n_rows, 0), np.float32) if features is None else features)
        notes.write(f"{tries}\n".encode())  # what ends it from here on is no recording
    offsets = np.cumsum([0, *(x.shape[1] for x in arrays)], dtype=np.int64)
    frames = np.ascontiguousarray(np.concatenate([x.T for x in arrays]))
    header = {
        "format": SHARD_FORMAT,
        "features": config.model_dump(mode="json"),
        "features_version": FEATURES_VERSION,
        "n_per_shard": n_per_shard,
        "identity": identity,
        "rows": rows,
    }
    header["checksum"] = _checksum(header, frames, offsets)
    text = json.dumps(header, sort_keys=True)
    write_atomic(path, save({"frames": frames, "offsets": offsets}, metadata={"vagitus": text}))
    path.with_suffix(TRIES).unlink(missing_ok=True)
    return _line(path, header, offsets)


def _featurised(stretch: Stretch, config: FeatureConfig) -> tuple[Float32 | None, str, str]:
    """(features, hash of the file's bytes, problem); tried again, since a network's file system has bad moments."""
    content = problem = ""
    for _ in range(N_TRIES):
        try:
            content = content_hash(stretch.path)
            features = featurise_file(stretch.path, config, start_s=stretch.start_s, end_s=stretch.end_s)
        except FileNotFoundError:
            content, problem = "", f"{stretch.path}: no such file"
        except AudioError as error:
            problem = str(error)
        except OSError as error:
            content, problem = "", f"{stretch.path}: {error.strerror or error}"
        except Exception as error:  # of a decoder, at one recording among a million
            problem = f"{stretch.path}: {type(error).__name__}: {error}"
        else:
            return features, content, ""
    return None, content, problem


def _given_up(path: Path) -> tuple[set[int], int]:
    """Recordings at which processes ended N_TRIES times, and how many tries of this shard there were."""
    try:
        said = [line.split() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return set(), 0
    ended_at = [list(run)[-1][1:] for _, run in groupby(said, key=lambda words: words[0])]
    places = [int(words[0]) for words in ended_at if words]
    return {k for k in places if places.count(k) >= N_TRIES}, len(ended_at)


def _was_out_of_reach(path: Path, n_bytes: list[int]) -> bool:
    """Whether a file is there now that could not be read at all when a shard was written."""
    rows = [Row(*row) for row in _header(path)["rows"]]
    return any(
        n >= 0 and not row.content and not row.problem.endswith(CRASHED)
        for row, n in zip(rows, n_bytes, strict=True)
    )


def _identity(config: FeatureConfig, listed: list[Listed], n_bytes: list[int]) -> str:
    """A hash of what a shard is made from, as far as that is known without reading the recordings."""
    facts = [SHARD_FORMAT, FEATURES_VERSION, config.model_dump(mode="json"), listed, n_bytes]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _n_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _checksum(header: dict[str, Any], frames: Float32, offsets: NDArray[np.int64]) -> str:
    told = {name: value for name, value in header.items() if name != "checksum"}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    digest.update(offsets.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(frames, "<f4").data)
    return digest.hexdigest()


def _line(path: Path, header: dict[str, Any], offsets: NDArray[np.int64]) -> ShardLine:
    rows = [Row(*row) for row in header["rows"]]
    n_problems = sum(row.problem != "" for row in rows)
    return ShardLine(path.name, len(rows), int(offsets[-1]), n_problems, header["checksum"])


def _read_whole(path: Path, identity: str | None = None) -> ShardLine | None:
    """A shard's line if it is as it was written, and of this identity where one is given."""
    try:
        header = _header(path)
        if identity is not None and header["identity"] != identity:
            return None
        tensors = load(path.read_bytes())
        if _checksum(header, tensors["frames"], tensors["offsets"]) != header["checksum"]:
            return None
        return _line(path, header, tensors["offsets"])
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return None


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(_read_head(path)[0]["__metadata__"]["vagitus"])
        if header["format"] != SHARD_FORMAT:
            raise ValueError(f"format {header['format']!r}, this version reads {SHARD_FORMAT}")
        return dict(header)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a whole shard of features ({error}); featurise again") from error


def _read_head(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's JSON, and where its data starts: 8 bytes of length, the JSON, the data."""
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"{path}: not a safetensors file; featurise again")
        try:
            return dict(json.loads(file.read(n_bytes))), 8 + n_bytes
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a safetensors file ({error}); featurise again") from error


def _offsets(path: Path, line: ShardLine) -> NDArray[np.int64]:
    start = _start(path, "offsets", "I64", (line.n_recordings + 1,))
    with path.open("rb") as file:
        offsets = np.fromfile(file, "<i8", line.n_recordings + 1, offset=start)
    ends = len(offsets) > line.n_recordings and (offsets[0], offsets[-1]) == (0, line.n_frames)
    if not ends or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path}: its recordings are not those of the index; featurise again")
    return offsets


def _frames(path: Path, shape: tuple[int, int]) -> Float32:
    start = _start(path, "frames", "F32", shape)
    if 0 in shape:  # nothing to map
        return np.zeros(shape, np.float32)
    if path.stat().st_size < start + 4 * shape[0] * shape[1]:
        raise ValueError(f"{path}: is cut short; delete it and featurise again")
    return np.memmap(path, "<f4", "r", start, shape)


def _start(path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """Where a tensor begins in its file."""
    head, start = _read_head(path)
    match head.get(name):
        case {"dtype": found, "shape": n, "data_offsets": [int(first), int()]} if first >= 0:
            if (found, n) == (dtype, list(shape)):
                return start + first
    raise ValueError(f"{path}: does not hold what the index says; featurise again")
