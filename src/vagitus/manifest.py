"""The table of recordings: the only door to data.

Conventions
    row         the row a spreadsheet shows: the header is row 1, the first recording row 2.
    path        POSIX, relative to ``root`` (the manifest's folder, unless said otherwise), never outside it.
    subject     who was recorded; never blank. Groups are made of it, so a wrong one leaks.
    label       blank = unlabelled.
    site        hospital or device; blank = one site.
    session     visit or day of one subject; blank = one.
    start_s, end_s
                the stretch of the file; blank start = 0, blank end = the file's end (NaN in the table).
    split       a split somebody published: ``train``, ``dev``, ``test`` or blank.
    simulated   ``true`` where no patient was recorded; it follows the manifest into every report.
    note        a sentence to show wherever a number from these rows is shown ("subset", for one).
    Any other column is a covariate and stays text; ``Manifest.numeric_covariate`` reads it as numbers.

CSV is comma-separated UTF-8 with or without a byte-order mark. Semicolons and tabs are refused, not
sniffed: a spreadsheet that writes them also writes decimal commas, and ``1,5`` would be read as two cells
or as fifteen. Nothing is fixed in silence: a bad row is refused with file, row, rule, value and way out,
and the one repair made (spaces around a cell) is counted in ``Manifest.notes``.
"""

import csv
import datetime
import decimal
import difflib
import importlib
import io
import math
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.files import atomic_path, write_atomic

Text = NDArray[np.str_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUIRED = ("path", "subject")
TEXT_COLUMNS = ("path", "subject", "label", "site", "session", "split")
STRETCH_COLUMNS = ("start_s", "end_s")
ROW_COLUMNS = (*TEXT_COLUMNS, *STRETCH_COLUMNS, "row")
RESERVED = (*TEXT_COLUMNS, *STRETCH_COLUMNS, "simulated", "note")
SPLITS = ("train", "dev", "test")
TRUTH_WORDS = ("true", "false", "1", "0")
# What a cell of a Parquet file or a mapping may hold; each has one obvious text.
SIMPLE_TYPES = (str, bool, int, float, np.generic, decimal.Decimal, datetime.date, datetime.time)
# Several notes share one cell, and come apart again here.
NOTE_SEPARATOR = " | "
# numpy gives every row the width of its column's longest cell: this bounds 100,000 rows to 400 MB a column.
MAX_CELL_CHARACTERS = 1024
# What programs write for "nothing": read as a name, it would pool strangers into one subject or class.
BLANK_WORDS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "nat", "null"})
NOBODY_WORDS = BLANK_WORDS | {"none", "unknown", "unk", "?", "-", "-1"}
FROM_THE_START = "give seconds from the file's start"
# Headers seen in the wild that mean one of ours, for the hint in an error; they are never renamed in silence.
SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "audio", "wav", "recording"),
    "subject": ("patient", "patient_id", "subject_id", "speaker", "baby_id", "infant", "id", "uuid"),
    "label": ("class", "target", "diagnosis", "outcome", "category", "y"),
    "site": ("hospital", "device", "centre", "center", "domain"),
    "start_s": ("start", "onset", "begin"),
    "end_s": ("end", "offset", "stop"),
    "split": ("fold", "partition", "subset"),
}
# First bytes of what people hand over in place of a CSV.
MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "gzip-compressed; decompress it first",
    b"PAR1": "Parquet; give it the ending .parquet",
    b"RIFF": "a WAV recording, not a manifest; a manifest lists recordings, one a row",
    b"fLaC": "a FLAC recording, not a manifest; a manifest lists recordings, one a row",
    b"OggS": "an Ogg recording, not a manifest; a manifest lists recordings, one a row",
    b"\xff\xfe": "UTF-16 text; save it as CSV UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as CSV UTF-8",
}


@dataclass(frozen=True, eq=False)
class Manifest:
    """Recordings, or stretches of them, one a row; every column an array of n_rows.

    Made by ``read_manifest`` and ``build_manifest``, which check every rule of this module.
    """

    path: Text
    subject: Text
    label: Text
    site: Text
    session: Text
    split: Text
    start_s: Floats
    end_s: Floats  # NaN = to the end of the file
    covariates: dict[str, Text]
    root: Path
    source: str  # what messages call this manifest
    row: Ints  # where each row stood in the source, for messages
    notes: tuple[str, ...] = ()
    simulated: bool = False

    def __post_init__(self) -> None:
        n = len(self.path)
        columns = {name: getattr(self, name) for name in ROW_COLUMNS} | self.covariates
        for name, values in columns.items():
            if len(values) != n:
                raise ValueError(f"{self.source}: column {name!r} has {len(values)} rows, path has {n}")

    def __len__(self) -> int:
        return len(self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels that occur, sorted; blank is not one."""
        return tuple(str(name) for name in np.unique(self.label) if name)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites that occur, sorted; blank counts as one where it occurs."""
        return tuple(str(name) for name in np.unique(self.site))

    @property
    def n_subjects(self) -> int:
        return len(np.unique(self.subject))

    def file(self, i: int) -> Path:
        """Where the recording of row ``i`` lies."""
        return self.root / str(self.path[i])

    def stretch(self, i: int) -> tuple[float, float | None]:
        """(start_s, end_s) of row ``i``; end None = to the end of the file, as ``audio.read`` takes it."""
        end_s = float(self.end_s[i])
        return float(self.start_s[i]), None if math.isnan(end_s) else end_s

    def where(self, i: int) -> str:
        """``cries.csv, row 12``: the start of a message about row ``i``."""
        return f"{self.source}, row {self.row[i]}"

    def select(self, rows: ArrayLike) -> "Manifest":
        """The manifest of some rows, in the order given.

        Args:
            rows: indices (n_chosen,) int, or a mask (n_rows,) bool.

        Raises:
            ValueError: a mask of another length, or neither a mask nor indices.
            IndexError: an index beyond the rows.
        """
        chosen = np.asarray(rows)
        if chosen.size == 0 and chosen.dtype != bool:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "bui":
            raise ValueError(
                f"rows must be a 1-D mask or indices, got {chosen.dtype} of shape {chosen.shape}"
            )
        if chosen.dtype == bool and len(chosen) != len(self):
            raise ValueError(f"a mask of {len(chosen)} rows cannot choose from {len(self)}")
        return replace(
            self,
            **{name: getattr(self, name)[chosen] for name in ROW_COLUMNS},
            covariates={name: values[chosen] for name, values in self.covariates.items()},
        )

    def labelled(self) -> "Manifest":
        """The rows that have a label."""
        return self.select(self.label != "")

    def with_labels(self, labels: ArrayLike) -> "Manifest":
        """The same rows under other labels (n_rows,); blank = unlabelled."""
        return replace(self, label=np.asarray(labels, dtype=np.str_))

    def with_subjects(self, subjects: ArrayLike) -> "Manifest":
        """The same rows under other subjects (n_rows,), as ``splits.merge_subjects`` gives them.

        Raises:
            ValueError: a subject is blank.
        """
        names = np.asarray(subjects, dtype=np.str_)
        if (names == "").any():
            raise ValueError(
                f"{self.where(int((names == '').argmax()))}: subject is empty; every recording needs one"
            )
        return replace(self, subject=names)

    def encode_labels(self, class_names: Sequence[str] | None = None) -> Ints:
        """Labels as indices into ``class_names`` (default: the classes that occur, sorted).

        There is no index for "unlabelled": take ``labelled()`` first.

        Raises:
            ValueError: a row is unlabelled, or its label is not among ``class_names``.
        """
        names = tuple(self.class_names if class_names is None else class_names)
        index = {name: i for i, name in enumerate(names)}
        unknown = np.flatnonzero(~np.isin(self.label, names)) if names else np.arange(len(self))
        if len(unknown):
            label = str(self.label[unknown[0]])
            way_out = (
                f"{_nearest(label, names)}known: {', '.join(names)}" if label else "take labelled() first"
            )
            raise ValueError(f"{self.where(int(unknown[0]))}: label {label!r} has no index; {way_out}")
        values, inverse = np.unique(self.label, return_inverse=True)
        return np.array([index[str(value)] for value in values], dtype=np.int64)[inverse]

    def numeric_covariate(self, name: str) -> Floats | None:
        """A covariate as numbers (n_rows,), NaN where blank or "NA"; None if it is text or blank throughout.

        Raises:
            ValueError: no such covariate.
        """
        if name not in self.covariates:
            raise ValueError(
                f"{self.source} has no covariate {name!r}; {_nearest(name, self.covariates)}"
                f"known: {', '.join(self.covariates) or 'none'}"
            )
        values, inverse = np.unique(self.covariates[name], return_inverse=True)
        numbers = np.full(len(values), np.nan)
        for i, value in enumerate(values.tolist()):
            if value and value.casefold() not in BLANK_WORDS:
                number = _number(value)
                if number is None:
                    return None
                numbers[i] = number
        return None if np.isnan(numbers).all() else numbers[inverse]


def read_manifest(path: Path | str, *, root: Path | str | None = None) -> Manifest:
    """Read and check a manifest, ``.parquet`` by its ending, else CSV.

    Args:
        path: the manifest.
        root: the folder that its paths start from; default the manifest's own.

    Raises:
        FileNotFoundError: no such manifest, or recordings it names do not exist (first three and the count).
        ValueError: a rule of this module is broken; one line with file, row, rule, value and way out.
        ImportError: Parquet without pandas and pyarrow; with the install line.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; give a manifest, or make one with `vagitus corpus NAME --root {path}`"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest; give the path of a CSV or Parquet file")
    columns, rows = _read_parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _read_csv(path)
    folder = Path(root) if root is not None else path.parent
    return _checked(columns, rows, root=folder, source=path.name)


def build_manifest(
    rows: Iterable[Mapping[str, object]],
    root: Path | str,
    source: str,
    notes: Sequence[str] = (),
    *,
    simulated: bool = False,
) -> Manifest:
    """Make a manifest from one mapping a recording, under the same rules as a file.

    Args:
        rows: column name → text or number; None, NaN and absent keys are blank.
        root: the folder that the paths start from.
        source: what messages call it, say the corpus's name. Row 2 is the first mapping, as in a file.
        notes: sentences to show wherever a number from these rows is shown.
        simulated: no patient was recorded.

    Raises:
        FileNotFoundError, ValueError: as ``read_manifest``.
    """
    table = list(rows)
    names: dict[str, None] = {}
    for mapping in table:
        names.update(dict.fromkeys(mapping))
    columns = {}
    for name in names:
        values = [mapping.get(name) for mapping in table]
        columns[name] = _as_text(values, name, source)
    return _checked(
        columns,
        range(2, len(table) + 2),
        root=Path(root),
        source=source,
        notes=tuple(notes),
        simulated=simulated,
    )


def write_manifest(manifest: Manifest, path: Path | str, *, root: Path | str | None = None) -> None:
    """Write a manifest that ``read_manifest`` reads back the same, whole or not at all.

    Columns that are blank throughout are left out. ``.parquet`` by its ending, else CSV.

    Args:
        manifest: what to write.
        path: the file.
        root: the folder that written paths start from, ``manifest.root`` or above; default the file's own.
            With another than the default, read back with the same ``root``.

    Raises:
        ValueError: ``root`` does not hold ``manifest.root``, or a note holds the separator of notes.
        OSError: the file cannot be written.
    """
    path = Path(path)
    folder = _absolute(path.parent if root is None else Path(root))
    try:
        prefix = _absolute(manifest.root).relative_to(folder).as_posix()
    except ValueError:
        raise ValueError(
            f"{path}: paths from {folder} cannot reach the recordings in {manifest.root}; write it there or "
            f"above, or give root={str(manifest.root)!r} here and when reading"
        ) from None
    if any(NOTE_SEPARATOR in note for note in manifest.notes):
        raise ValueError(f"{path}: a note holds {NOTE_SEPARATOR!r}, which separates notes; reword it")
    n = len(manifest)
    columns: dict[str, list[str]] = {
        "path": [posixpath.normpath(f"{prefix}/{p}") for p in manifest.path.tolist()]
    }
    columns |= {"subject": manifest.subject.tolist(), "label": manifest.label.tolist()}
    optional: dict[str, list[str]] = {name: getattr(manifest, name).tolist() for name in ("site", "session")}
    optional["start_s"] = ["" if s == 0 else repr(s) for s in manifest.start_s.tolist()]
    optional["end_s"] = ["" if math.isnan(s) else repr(s) for s in manifest.end_s.tolist()]
    optional["split"] = manifest.split.tolist()
    columns |= {name: values for name, values in optional.items() if any(values)}
    columns |= {name: values.tolist() for name, values in manifest.covariates.items()}
    if manifest.simulated:
        columns["simulated"] = ["true"] * n
    if manifest.notes:
        columns["note"] = [NOTE_SEPARATOR.join(manifest.notes)] * n
    if path.suffix.lower() in {".parquet", ".pq"}:
        frame = _pandas(path).DataFrame(columns)
        with atomic_path(path) as temporary:
            frame.to_parquet(temporary, index=False)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomic(path, text.getvalue())


def subjects_needed(n_folds: int) -> int:
    """Subjects that a class needs to stand in train, dev and test of every one of ``n_folds``.

    With k ≥ 3 folds, k: one is tested and two remain at the least. With k = 2, four: the half that is not
    tested is divided into train and dev.

    Raises:
        ValueError: fewer than two folds.
    """
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}; at least 2 are needed to test on every subject")
    return 4 if n_folds == 2 else n_folds


def validate_for_study(manifest: Manifest, n_folds: int) -> tuple[str, ...]:
    """Check that every fold can hold every class in train, dev and test; return what a reader must be told.

    Args:
        manifest: unlabelled rows are allowed and not counted.
        n_folds: ≥ 2.

    Returns:
        Warnings, one sentence each: sites of one class, subjects under several labels.

    Raises:
        ValueError: fewer than two classes, or a class with too few subjects; names the class and the way out.
    """
    n_needed = subjects_needed(n_folds)
    labelled = manifest.labelled()
    names = labelled.class_names
    if not names:
        raise ValueError(
            f"{manifest.source}: no recording has a label; fill the column 'label' (blank = unlabelled)"
        )
    if len(names) == 1:
        raise ValueError(
            f"{manifest.source}: every labelled recording is {names[0]!r}; a study needs two classes or more"
        )
    # (2, n_pairs): each label with each of its subjects, once.
    pairs = np.unique(np.stack([labelled.label, labelled.subject]), axis=1)
    n_subjects = Counter(pairs[0].tolist())
    for name in names:
        n = n_subjects[name]
        if n < n_needed:
            has = "one subject" if n == 1 else f"{n} subjects"
            fewer = f"use {n} folds, " if 3 <= n < n_folds else ""
            raise ValueError(
                f"{manifest.source}: label {name!r} has {has}; {n_folds} folds with train, dev and test need "
                f"{n_needed}; {fewer}add subjects, or leave this class out"
            )
    warnings = []
    for site in labelled.site_names:
        held = np.unique(labelled.label[labelled.site == site])
        if len(held) == 1 and len(labelled.site_names) > 1:
            warnings.append(
                f"site {site or '(blank)'!r} holds only {str(held[0])!r}: a model may learn the site, "
                "and no AUROC exists there"
            )
    n_mixed = sum(count > 1 for count in Counter(pairs[1].tolist()).values())
    if n_mixed:
        warnings.append(f"{n_mixed} of {labelled.n_subjects} labelled subjects carry more than one label")
    return tuple(warnings)


def _read_csv(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    with path.open("rb") as file:
        start = file.read(4096)
        for magic, what in MAGIC.items():
            if start.startswith(magic):
                raise ValueError(f"{path.name} is {what}")
        raw = start + file.read() if b"\0" not in start else start
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: holds a NUL byte, so it is no text file; save it as CSV UTF-8"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as CSV UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    table: list[list[str]] = []
    rows: list[int] = []
    try:
        for number, cells in enumerate(reader, start=1):
            if cells:  # a blank line is none
                table.append(cells)
                rows.append(number)
    except csv.Error as error:
        raise ValueError(
            f"{path.name}, line {reader.line_num}: {error}; check the quotes around its cells"
        ) from None
    if not table:
        raise ValueError(f"{path.name} is empty; it needs a header with the columns path and subject")
    header = [name.strip() for name in table[0]]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        mark = "semicolons" if ";" in header[0] else "tabs"
        raise ValueError(
            f"{path.name} is separated by {mark}; save it separated by commas, with decimal points"
        )
    _check_header(header, path.name)
    for cells, row in zip(table, rows, strict=True):
        if len(cells) != len(header):
            raise ValueError(
                f"{path.name}, row {row}: {len(cells)} cells, the header has {len(header)}; put a cell that "
                "holds a comma between double quotes"
            )
    # One column at a time, since zip(*table) of an empty table has no columns.
    return {name: [cells[i] for cells in table[1:]] for i, name in enumerate(header)}, rows[1:]


def _read_parquet(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    try:
        frame = _pandas(path).read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} cannot be read as Parquet ({str(error).splitlines()[0]}); write it again"
        ) from None
    header = [str(name).strip() for name in frame.columns]
    _check_header(header, path.name)
    columns = {name: _as_text(frame.iloc[:, i].tolist(), name, path.name) for i, name in enumerate(header)}
    return columns, list(range(2, len(frame) + 2))


def _pandas(path: Path) -> Any:
    try:
        import pandas as pd

        importlib.import_module("pyarrow")
    except ImportError:
        raise ImportError(
            f"{path.name}: Parquet needs pandas and pyarrow; pip install 'vagitus[train]', or use CSV"
        ) from None
    return pd


def _as_text(values: list[Any], name: str, source: str) -> list[str]:
    """Cells as text: None and NaN blank; a column of floats that are all whole loses its ``.0``."""
    text = []
    floats = [v for v in values if isinstance(v, float | np.floating) and not math.isnan(v)]
    # One missing number turns a column of integers into floats; the subject is still 7 and not 7.0.
    whole = name not in STRETCH_COLUMNS and all(math.isfinite(v) and v == int(v) for v in floats)
    for i, value in enumerate(values):
        if value is None or (not isinstance(value, str) and str(value) in {"nan", "NaN", "<NA>", "NaT"}):
            text.append("")
        elif isinstance(value, np.bytes_ | np.void) or not isinstance(value, SIMPLE_TYPES):
            raise ValueError(
                f"{source}, row {i + 2}: column {name!r} holds {type(value).__name__}; a cell is text, a "
                "number, a truth value or a date: drop the column or convert it"
            )
        elif isinstance(value, float | np.floating):
            text.append(str(int(value)) if whole else repr(float(value)))
        else:
            text.append(str(value))
    return text


def _check_header(header: list[str], source: str) -> None:
    if "" in header:
        raise ValueError(
            f"{source}: column {header.index('') + 1} has no name; name it (pandas: to_csv(index=False))"
        )
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise ValueError(f"{source}: column {repeated[0]!r} stands in the header twice; rename or drop one")


@dataclass(frozen=True)
class _Rows:
    """Where rows stood in their source, to refuse one by its place."""

    source: str
    numbers: Sequence[int]

    def refuse(self, i: int, rule: str, way_out: str) -> NoReturn:
        raise ValueError(f"{self.source}, row {self.numbers[i]}: {rule}; {way_out}")


def _checked(
    columns: dict[str, list[str]],
    numbers: Sequence[int],
    *,
    root: Path,
    source: str,
    notes: tuple[str, ...] = (),
    simulated: bool = False,
) -> Manifest:
    remarks = _check_columns(columns, source)
    if not numbers:
        raise ValueError(f"{source} lists no recording; it needs one row a recording below the header")
    rows = _Rows(source, numbers)
    remarks += _strip_cells(columns, rows)
    text = {name: columns.get(name, [""] * len(numbers)) for name in TEXT_COLUMNS}
    _check_names(text["subject"], "subject", NOBODY_WORDS, "name who was recorded", rows)
    _check_names(text["label"], "label", BLANK_WORDS, "leave it blank if unlabelled", rows)
    _check_words(text["split"], "split", SPLITS, rows)
    _check_words([v.casefold() for v in columns.get("simulated", [])], "simulated", TRUTH_WORDS, rows)
    text["path"] = _check_paths(text["path"], rows)
    start_s = _seconds(columns.get("start_s", []), 0.0, "start_s", rows)
    end_s = _seconds(columns.get("end_s", []), math.nan, "end_s", rows)
    for i in np.flatnonzero(end_s <= start_s).tolist():
        rows.refuse(i, f"end_s {end_s[i]:g} is not after start_s {start_s[i]:g}", FROM_THE_START)
    _check_repeats(text["path"], start_s, end_s, rows)
    _check_files(text["path"], rows, root)
    for name in ("subject", "label", "site"):
        remarks += _look_alikes(text[name], name)
    cells = dict.fromkeys(columns.get("note", []))
    written = [note for cell in cells for note in cell.split(NOTE_SEPARATOR) if note]
    return Manifest(
        **{name: np.array(values, dtype=np.str_) for name, values in text.items()},
        start_s=start_s,
        end_s=end_s,
        covariates={name: np.array(v, dtype=np.str_) for name, v in columns.items() if name not in RESERVED},
        root=_absolute(root),
        source=source,
        row=np.array(numbers, dtype=np.int64),
        notes=tuple(dict.fromkeys([*notes, *written, *remarks])),
        simulated=simulated or any(v.casefold() in {"true", "1"} for v in columns.get("simulated", [])),
    )


def _check_columns(columns: dict[str, list[str]], source: str) -> list[str]:
    """Refuse a table without a required column; return remarks on columns that look misspelt."""
    remarks = []
    others = {column.casefold(): column for column in columns if column not in RESERVED}
    for name in RESERVED:
        if name in columns:
            continue
        close = [others[near] for near in difflib.get_close_matches(name, others, n=1, cutoff=0.75)]
        meant = close or [others[word] for word in SYNONYMS.get(name, ()) if word in others]
        if name in REQUIRED:
            hint = f"rename {meant[0]!r} if that is it" if meant else f"found: {', '.join(columns) or 'none'}"
            raise ValueError(f"{source} has no column {name!r}; {hint}")
        if name in others:
            raise ValueError(f"{source}: column {others[name]!r} must be written {name!r}; rename it")
        if close:
            remarks.append(f"column {close[0]!r} is a covariate; rename it to {name!r} if that was meant")
    return remarks


def _strip_cells(columns: dict[str, list[str]], rows: _Rows) -> list[str]:
    """Strip spaces around cells in place (not of paths: a file may be named so); remark with the count."""
    n_stripped = 0
    for name, values in columns.items():
        longest = max(map(len, values))
        if longest > MAX_CELL_CHARACTERS:
            i = next(i for i, value in enumerate(values) if len(value) == longest)
            rule = f"column {name!r} has a cell of {longest} characters, the most is {MAX_CELL_CHARACTERS}"
            rows.refuse(i, rule, "shorten it or drop the column")
        for mark in "\0\r":  # numpy would cut the first off, no CSV brings back the second
            if any(mark in value for value in values):
                i = next(i for i, value in enumerate(values) if mark in value)
                rows.refuse(i, f"column {name!r} is {values[i]!r}, with a control character", "remove it")
        if name != "path":
            stripped = [value.strip() for value in values]
            n_stripped += sum(map(str.__ne__, stripped, values))
            columns[name] = stripped
    return [f"{n_stripped} cells had spaces around them, which were removed"] if n_stripped else []


def _check_names(values: list[str], name: str, refused: frozenset[str], way_out: str, rows: _Rows) -> None:
    for value, count in Counter(values).items():
        if value == "" and name in REQUIRED:
            rule = f"{name} is empty{_and_more(count - 1)}"
            rows.refuse(values.index(value), rule, "every recording needs one, or splits would leak")
        if value.casefold() in refused:
            rows.refuse(values.index(value), f"{name} is {value!r}{_and_more(count - 1)}", way_out)


def _check_words(values: list[str], name: str, allowed: tuple[str, ...], rows: _Rows) -> None:
    for value in dict.fromkeys(values):
        if value and value not in allowed:
            way_out = f"use {', '.join(allowed)} or leave it blank"
            rows.refuse(values.index(value), f"{name} is {value!r}", way_out)


def _check_paths(values: list[str], rows: _Rows) -> list[str]:
    normal: dict[str, str] = {}
    for path in dict.fromkeys(values):
        problem = _path_problem(path)
        if problem:
            rows.refuse(values.index(path), *problem)
        normal[path] = posixpath.normpath(path)
    return [normal[path] for path in values]


def _path_problem(path: str) -> tuple[str, str] | None:
    """(rule, way out) that a path breaks, or None."""
    if not path.strip():
        return "path is empty", "name the recording's file, relative to the manifest"
    if "\n" in path:
        return f"path {path!r} holds a line break", "rename the file"
    if "\\" in path:
        return f"path {path!r} holds a backslash", "write / between folders, relative to the manifest"
    if path.startswith("/") or (path[0].isalpha() and path[1:2] == ":"):
        return f"path {path!r} is absolute", "write it relative to the manifest, so that both can be moved"
    if posixpath.normpath(path).split("/")[0] == "..":
        way_out = "move the manifest above the recordings, or give their folder as root"
        return f"path {path!r} leaves the manifest's folder", way_out
    return None


def _seconds(cells: list[str], blank: float, name: str, rows: _Rows) -> Floats:
    values = np.full(len(rows.numbers), blank)
    for i, cell in enumerate(cells):
        if cell:
            number = _number(cell)
            if number is None:
                rows.refuse(i, f"{name} is {cell!r}, not a number", "give seconds, with a decimal point")
            if number < 0:
                rows.refuse(i, f"{name} is {cell}, before the file begins", FROM_THE_START)
            values[i] = number
    return values


def _check_repeats(paths: list[str], start_s: Floats, end_s: Floats, rows: _Rows) -> None:
    ends = [None if math.isnan(s) else s for s in end_s.tolist()]  # NaN does not equal NaN
    seen: dict[tuple[str, float, float | None], int] = {}
    for i, key in enumerate(zip(paths, start_s.tolist(), ends, strict=True)):
        first = seen.setdefault(key, i)
        if first != i:
            rule = f"{key[0]!r} and its stretch stand in row {rows.numbers[first]} already"
            rows.refuse(i, rule, "remove one, or give start_s and end_s")


def _check_files(paths: list[str], rows: _Rows, root: Path) -> None:
    folder = os.fspath(root)
    # A Path for each of 100,000 files would cost more than asking the disk.
    missing = [path for path in dict.fromkeys(paths) if not os.path.isfile(f"{folder}/{path}")]  # noqa: PTH113
    if missing:
        named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{rows.source}, row {rows.numbers[paths.index(missing[0])]}: no file {missing[0]!r} in {root}; "
            f"{len(missing)} of {len(set(paths))} files are missing ({named}); paths start from the "
            "manifest's folder, or give the recordings' folder as root"
        )


def _look_alikes(values: list[str], name: str) -> list[str]:
    """Remarks on names that differ only by case, Unicode form or leading zeros: one as two would leak."""
    alike: dict[str | float, str] = {}
    pairs = []
    for value in sorted(set(values)):
        number = _number(value)
        key = unicodedata.normalize("NFKC", value).casefold() if number is None else number
        first = alike.setdefault(key, value)
        if first != value:
            pairs.append((first, value))
    if not pairs:
        return []
    return [
        f"{name}s {pairs[0][0]!r} and {pairs[0][1]!r} look alike but count as two"
        f"{_and_more(len(pairs) - 1, 'pair')}; write them the same if they are one"
    ]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in cell else None


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _and_more(n: int, what: str = "row") -> str:
    return f" (and {n} more {what}{'s' if n > 1 else ''})" if n > 0 else ""


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay: a linked data folder is the user's choice)
