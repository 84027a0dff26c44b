"""What a corpus is: where its publisher's folder lies, and how that folder becomes a manifest.

Conventions
    A corpus file reads its publisher's own layout and gives ``Reading``: rows for ``manifest.build_manifest``
    (column name → cell) and notes. It never opens audio unless a label depends on it.
    subject     who was recorded, as the publisher knows it; where nobody knows, the recording itself, with a
                note that then only a split across sites is safe.
    official_split
                the publisher's own division, always as a covariate. ``split`` repeats it only where it can be
                used: train, dev and test are all here and no subject stands in two of them.
    A partial copy is fine and is counted; files whose names do not parse are skipped, counted and named in
    the notes. Copies in another audio format than the publisher's are found by their name without its ending.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vagitus.fetch import Download
from vagitus.manifest import SPLITS, Manifest, build_manifest

# In order of preference, should one recording lie here in two formats.
AUDIO_SUFFIXES = (".wav", ".flac", ".caf", ".3gp", ".aiff", ".aif", ".ogg", ".opus", ".mp3", ".m4a", ".amr")
DATA_ROOT_VARIABLE = "VAGITUS_DATA"

Row = dict[str, object]


class Reading(NamedTuple):
    """What a corpus file makes of a folder; ``n_found`` where rows leave out recordings that are here."""

    rows: list[Row]
    notes: list[str]
    n_found: int | None = None


@dataclass(frozen=True)
class Corpus:
    """One corpus: what it is, where it may lie, and how to read and get it.

    Attributes:
        name: its name in ``CORPORA``.
        title: one line for people.
        folder: names that the corpus folder goes by below the data root; ``fetch`` puts it at the first.
        marks: shell patterns, relative to the corpus folder; a folder that holds one is this corpus.
        tasks: what can be learned from it; a task names the column ``label``.
        default_task: one of ``tasks``.
        positive: the positive class of each binary task; a task not named here has more classes than two.
        licence: of the recordings.
        citation: what a publication cites.
        preset: name of the feature preset (``features.PRESETS``) that suits it.
        read: (corpus folder, task) → rows and notes.
        notes: sentences to show with every number from this corpus.
        task_notes: the same, for one task.
        n_published: recordings in the full corpus, where the publisher says so.
        fetch: what to download; empty where the corpus cannot be fetched without asking somebody.
        gated: what to do instead, or first.
    """

    name: str
    title: str
    folder: tuple[str, ...]
    marks: tuple[str, ...]
    tasks: tuple[str, ...]
    default_task: str
    licence: str
    citation: str
    preset: str
    read: Callable[[Path, str], Reading]
    positive: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    task_notes: Mapping[str, str] = field(default_factory=dict)
    n_published: int | None = None
    fetch: tuple[Download, ...] = ()
    gated: str | None = None

    @property
    def how_to_get(self) -> str:
        """One sentence: the command that fetches it, or what to do instead."""
        command = f"get it with `vagitus corpus fetch {self.name}`" if self.fetch else None
        return "; ".join(way for way in (command, self.gated) if way)

    def find(self, root: Path | str | None = None) -> Path:
        """The corpus folder: one of ``folder`` below ``root``, or ``root`` itself.

        Args:
            root: the data root or the corpus folder; default ``$VAGITUS_DATA``.

        Raises:
            FileNotFoundError: neither is there; says where it looked and how to get the corpus.
        """
        given = root if root is not None else os.environ.get(DATA_ROOT_VARIABLE)
        if not given:
            raise FileNotFoundError(
                f"{self.name}: no data root; give --root or set ${DATA_ROOT_VARIABLE} to the folder that "
                f"holds the corpora ({self.how_to_get})"
            )
        base = Path(given)
        below = [base / name for name in self.folder]
        for candidate in (*below, base):
            if candidate.is_dir() and any(_has(candidate, mark) for mark in self.marks):
                return candidate
        raise FileNotFoundError(
            f"{self.name}: neither {base} nor {', '.join(self.folder)} in it holds "
            f"{' or '.join(self.marks)}; {self.how_to_get}"
        )

    def load(self, root: Path | str | None = None, task: str | None = None) -> Manifest:
        """The manifest of one task.

        Args:
            root: as ``find``.
            task: one of ``tasks``; default ``default_task``.

        Raises:
            FileNotFoundError: as ``find``, or a table the task needs is missing.
            ValueError: no such task, no recording, or a table that breaks its publisher's format.
        """
        task = self.default_task if task is None else task
        if task not in self.tasks:
            raise ValueError(f"{self.name} has no task {task!r}; choose from {', '.join(self.tasks)}")
        folder = self.find(root)
        rows, notes, n_found = self.read(folder, task)
        if not rows:
            named = f" ({notes[0]})" if notes else ""
            raise ValueError(
                f"{self.name}: no recording of task {task!r} in {folder}{named}; {self.how_to_get}"
            )
        n_found = len({row["path"] for row in rows}) if n_found is None else n_found
        said = [*self.notes, *filter(None, [self.task_notes.get(task)])]
        if self.n_published is not None and n_found < self.n_published:
            said.append(f"a subset: {n_found:,} of {self.n_published:,} recordings are here")
        notes = said + notes + _use_official_split(rows)
        return build_manifest(rows, folder, self.name, notes)


def audio_files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The audio files below ``folder``, by name without ending.

    Hidden files are no recordings (unpacked archives of some systems hold ``._x.wav``).

    Returns:
        Relative POSIX path without ending → with ending, sorted; and a note if recordings lie here in two
        formats, of which the first of ``AUDIO_SUFFIXES`` is taken.
    """
    rank = {suffix: i for i, suffix in enumerate(AUDIO_SUFFIXES)}
    found: dict[str, str] = {}
    n_doubled = 0
    # os.walk and strings: a Path for each of 200,000 files would take longer than the disk.
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            if name.startswith(".") or suffix.lower() not in rank:
                continue
            known = found.get(prefix + stem)
            n_doubled += known is not None
            if known is None or rank[suffix.lower()] < rank[Path(known).suffix.lower()]:
                found[prefix + stem] = prefix + name
    notes = [f"{n_doubled:,} recordings lie here in two formats; one of each was taken"] if n_doubled else []
    return dict(sorted(found.items())), notes


def skipped(names: Iterable[str], why: str) -> list[str]:
    """A note on files or rows that were left out: how many, why, and the first by name; none if none."""
    names = sorted(names)
    return [f"{len(names):,} left out, {why} (first: {names[0]})"] if names else []


def _has(folder: Path, mark: str) -> bool:
    return next(folder.glob(mark), None) is not None


def _use_official_split(rows: list[Row]) -> list[str]:
    """Fill ``split`` from ``official_split`` where it makes a fold; else say why not."""
    parts = Counter(str(row.get("official_split") or "") for row in rows)
    if set(parts) == {""}:
        return []
    missing = [part for part in SPLITS if not parts[part]]
    if missing:
        return [f"the publisher's split stays in official_split: it has no {' and no '.join(missing)} here"]
    where: dict[object, set[object]] = {}
    for row in rows:
        if row.get("official_split") in SPLITS:
            where.setdefault(row["subject"], set()).add(row["official_split"])
    n_crossing = sum(len(parts_of) > 1 for parts_of in where.values())
    if n_crossing:
        return [f"the publisher's split stays in official_split: {n_crossing:,} subjects stand on two sides"]
    for row in rows:
        row["split"] = row["official_split"] if row.get("official_split") in SPLITS else ""
    return []
