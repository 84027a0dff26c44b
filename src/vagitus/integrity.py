"""Whether what a run wrote is still what it wrote, and whether its figures follow from its predictions.

Conventions
    OUT/run.json    {"format": 1, "files": {"results.jsonl": "<BLAKE2b, 32 hex digits>", ...}}, written last
    OUT/inputs.csv  path, blake2: each recording that was studied, path as in predictions.csv
    versions, seed, command and configuration stand in the first line of results.jsonl and in the card of a model
    file, which are among the files; nothing is said twice

A model file of ``train``, ``pretrain``, ``adapt`` or ``compress`` holds a hash of its own contents, and its card says
what it was made from.

A hash finds what a copy, a disk or a hand changed by chance. It does not say who wrote: whoever means to deceive can
write another run.json. A figure that was changed with it is still found, since figures are computed again from
predictions.csv; the intervals around them are not.
"""

import csv
import io
import json
import math
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.files import LOCK, MARK, PARTIAL, content_hash, refuse_pickle, sweep, write_atomic
from vagitus.manifest import Manifest
from vagitus.metrics import summarise

RECORD, INPUTS = "run.json", "inputs.csv"
FORMAT = 1
MAX_RECORD_BYTES = 1 << 26  # 64 MiB, some half a million files
# Of a figure that is computed again: the rows of a sum stand in another order.
TOLERANCE = 1e-9

Problem = Literal["changed", "missing", "extra", "left over", "disagrees"]


class Finding(NamedTuple):
    """One thing that is not as the run left it.

    Attributes:
        file: below the run's folder; of a recording, as in inputs.csv.
        problem: "changed" and "missing" against what was recorded, "extra" if nothing was; "left over" for a part
            of a file from a process that was killed; "disagrees" for a figure that predictions.csv does not give.
        detail: what was expected and what is there.
    """

    file: str
    problem: Problem
    detail: str = ""


class Verified(NamedTuple):
    """What was looked at, and what was found to be otherwise.

    Attributes:
        n_files, n_recordings, n_figures: that were compared.
    """

    n_files: int
    n_recordings: int
    n_figures: int
    findings: list[Finding]


def record_inputs(folder: Path, manifest: Manifest) -> None:
    """Write inputs.csv: the hash of every recording of a manifest, each file once.

    Raises:
        OSError: a recording cannot be read, or the file cannot be written.
    """
    files = {str(manifest.path[i]): manifest.file(i) for i in range(len(manifest))}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "blake2"])
    writer.writerows((path, content_hash(file)) for path, file in sorted(files.items()))
    write_atomic(folder / INPUTS, text.getvalue())


def seal(folder: Path) -> None:
    """Write run.json: the hash of every file below ``folder`` as it is now. Nothing may be writing there.

    Raises:
        OSError: a file cannot be read, or run.json cannot be written.
    """
    sweep(folder)
    files = {name: _told(folder / name) for name in sorted(_files(folder))}
    write_atomic(folder / RECORD, json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")


def verify(path: Path, *, data: Path | None = None) -> Verified:
    """Compare a run's folder, or one model file, with what was recorded when it was written.

    Args:
        path: the folder of a study, or a safetensors file.
        data: the folder that the recordings' paths start from, to compare them too.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: not a finished run, a pickle, another program's file, or a model file that holds no hash; its
            record is damaged, or names what is outside.
    """
    if path.is_file():
        refuse_pickle(path)
        return _verify_model(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or file")
    expected = _read_record(path)
    findings = []
    for name, digest in expected.items():
        file = path / name
        if not os.path.lexists(file):
            findings.append(Finding(name, "missing"))
        elif (found := _told(file)) != digest:
            findings.append(Finding(name, "changed", f"hash {found}, recorded {digest}"))
    # A folder that was moved elsewhere, with a link in its place, is still what it was.
    above = {str(folder) for name in expected for folder in PurePosixPath(name).parents}
    for name in sorted(set(_files(path)) - set(expected) - above):
        is_part = PARTIAL.fullmatch(Path(name).name) is not None
        findings.append(Finding(name, "left over" if is_part else "extra"))
    n_recordings = 0
    if data is not None:
        recorded = _read_inputs(path)
        n_recordings = len(recorded)
        findings += _changed_recordings(recorded, data)
    n_figures, disagreeing = _recompute(path)
    return Verified(len(expected), n_recordings, n_figures, findings + disagreeing)


def _files(folder: Path) -> Iterator[str]:
    """Every file below ``folder`` but what says nothing about the run; a link to a folder is named, not followed."""
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(above) / name).is_symlink()]
        for name in (*files, *links):
            found = (Path(above) / name).relative_to(folder).as_posix()
            if found != RECORD and name not in (LOCK, MARK):
                yield found


def _told(file: Path) -> str:
    """What is recorded of a file: its hash; of a link to a folder or to nothing, where it leads."""
    if file.is_symlink() and not file.is_file():
        return f"link to {file.readlink()}"
    # Opened, a pipe would wait for ever for somebody to write.
    return content_hash(file) if file.is_file() else "no file"


def _read_record(folder: Path) -> dict[str, str]:
    file = folder / RECORD
    if not file.is_file():
        raise ValueError(
            f"{folder}: has no {RECORD}: it is not the folder of a finished study; the command that began it ends it"
        )
    damaged = f"{file}: is damaged; the files cannot be compared, run the study's command again"
    if file.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(damaged)
    try:
        record = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(damaged) from None
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError(damaged)
    if record.get("format") != FORMAT:
        raise ValueError(f"{file}: format {record.get('format')!r}, this version reads {FORMAT}")
    if not files:
        raise ValueError(f"{file}: names no file, so nothing can be compared; it was not written by a study")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError(f"{file}: names a file outside its folder; it was not written by a study")
    return files


def _verify_model(path: Path) -> Verified:
    from safetensors import SafetensorError, safe_open

    from vagitus.checkpoint import has_hash, read_tensors

    try:
        with safe_open(path, framework="np") as file:
            is_ours = "vagitus" in (file.metadata() or {})
    except SafetensorError:
        is_ours = path.suffix == ".safetensors"  # and cut short
    if not is_ours:
        raise ValueError(f"{path}: neither the folder of a study nor a model file of vagitus")
    try:
        read_tensors(path)
    except ValueError as error:
        return Verified(1, 0, 0, [Finding(path.name, "changed", str(error))])
    if not has_hash(path):
        raise ValueError(f"{path}: holds no hash of its contents; it was written by an earlier version")
    return Verified(1, 0, 0, [])


def _read_inputs(folder: Path) -> dict[str, str]:
    try:
        with (folder / INPUTS).open(newline="", encoding="utf-8") as file:
            recorded = {row["path"] or "": row["blake2"] or "" for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{folder / INPUTS}: cannot be read ({type(error).__name__}); leave --root out to compare the rest"
        ) from None
    for name in recorded:  # as a manifest is refused that names such a path
        if name.startswith("/") or posixpath.normpath(name).split("/")[0] in ("..", "."):
            raise ValueError(
                f"{folder / INPUTS}: {name!r} is no recording below --root; it was not written by a study, leave "
                "--root out to compare the rest"
            )
    return recorded


def _changed_recordings(recorded: dict[str, str], data: Path) -> Iterator[Finding]:
    for name, digest in recorded.items():
        file = data / name
        if not file.is_file():
            yield Finding(name, "missing", f"recording, below {data}")
        elif (found := content_hash(file)) != digest:
            yield Finding(name, "changed", f"recording: hash {found}, studied {digest}")


class _Scored(NamedTuple):
    """An arm's rows of predictions.csv in one repeat."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]  # (n,) of the positive class, or (n, n_classes)
    decisions: NDArray[np.int64]
    folds: NDArray[np.str_]
    sites: NDArray[np.str_]

    def metrics(self, rows: NDArray[np.bool_] | slice = slice(None)) -> dict[str, float]:
        return summarise(self.labels[rows], self.probabilities[rows], self.decisions[rows])


def _recompute(folder: Path) -> tuple[int, list[Finding]]:
    """How many figures of results.jsonl were computed again from predictions.csv, and those that differ."""
    results = folder / "results.jsonl"
    predictions = folder / "predictions.csv"
    if not (results.is_file() and predictions.is_file()):
        return 0, []
    try:
        lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
        scored = _read_predictions(predictions, lines[0]["class_names"])
        n_figures, findings = 0, []
        for line in lines:
            for name, stated, found in _figures(line, scored):
                n_figures += 1
                if not _agree(stated, found):
                    where = ", ".join(str(line[key]) for key in ("arm", "fold", "site") if key in line)
                    findings.append(
                        Finding(
                            results.name,
                            "disagrees",
                            f"{line['kind']} {where}: {name} is {stated}, predictions.csv gives {found:.6f}",
                        )
                    )
        return n_figures, findings
    except (
        AttributeError,
        IndexError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
        csv.Error,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        detail = f"its figures cannot be computed again ({type(error).__name__}: {reason})"
        return 0, [Finding(results.name, "disagrees", detail)]


def _read_predictions(path: Path, class_names: list[str]) -> dict[str, list[_Scored]]:
    """Of every arm its repeats, in order."""
    index = {name: k for k, name in enumerate(class_names)}
    grouped: dict[tuple[str, int], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            grouped.setdefault((row["arm"], int(row["repeat"])), []).append(row)
    scored: dict[str, list[_Scored]] = {}
    for (arm, _), rows in sorted(grouped.items()):
        columns = ["score"] if len(class_names) == 2 else [f"p:{name}" for name in class_names]
        p = np.array([[float(row[column]) for column in columns] for row in rows])
        scored.setdefault(arm, []).append(
            _Scored(
                labels=np.array([index[row["label"]] for row in rows]),
                probabilities=p[:, 0] if len(class_names) == 2 else p,
                decisions=np.array([index[row["decision"]] for row in rows]),
                folds=np.array([row["fold"] for row in rows]),
                sites=np.array([row["site"] for row in rows]),
            )
        )
    return scored


def _figures(
    line: dict[str, Any], scored: dict[str, list[_Scored]]
) -> Iterator[tuple[str, float | None, float]]:
    """Each metric of a line: (name, as stated, as predictions.csv gives it)."""
    match line["kind"]:
        case "fold":
            part = scored[line["arm"]][line["repeat"]]
            found = part.metrics(part.folds == line["fold"])
        case "site":
            found = _mean([part.metrics(part.sites == line["site"]) for part in scored[line["arm"]]])
        case "summary" if line["headline"] == "mean over sites":
            found = _mean(
                [
                    _mean([part.metrics(part.folds == fold) for fold in np.unique(part.folds)], known=True)
                    for part in scored[line["arm"]]
                ]
            )
        case "summary":
            found = _mean([part.metrics() for part in scored[line["arm"]]])
        case _:
            return
    for name, stated in line["metrics"].items():
        yield name, stated["estimate"] if isinstance(stated, dict) else stated, found[name]


def _mean(found: list[dict[str, float]], *, known: bool = False) -> dict[str, float]:
    """The mean of each metric; with ``known`` over where it has a value, as over sites."""
    means = {}
    for name in found[0]:
        values = [one[name] for one in found if not (known and math.isnan(one[name]))]
        means[name] = float(np.mean(values)) if values else math.nan
    return means


def _agree(stated: float | None, found: float) -> bool:
    if stated is None or not math.isfinite(found):  # results.jsonl writes both as null
        return stated is None and not math.isfinite(found)
    return abs(stated - found) <= TOLERANCE
