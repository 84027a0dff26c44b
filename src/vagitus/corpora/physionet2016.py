"""PhysioNet/CinC Challenge 2016: heart sounds, normal or abnormal, from six databases.

Layout: ``training-a`` … ``training-f``, each with ``REFERENCE.csv`` (recording, 1 abnormal or -1 normal, no
header). The publisher's ``validation`` folder repeats recordings of the training folders and is not read.
"""

import csv
import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

LABELS = {"1": "abnormal", "-1": "normal"}
DATABASE = re.compile(r"training-([a-f])")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``abnormal`` (abnormal, normal); one site a database."""
    del task  # the only one
    rows: list[Row] = []
    notes: list[str] = []
    unlisted, n_absent = [], 0
    for database in sorted(path for path in folder.iterdir() if DATABASE.fullmatch(path.name)):
        label_of = _labels(database / "REFERENCE.csv")
        files, doubled = audio_files(database)
        notes += doubled
        n_absent += len(label_of.keys() - files.keys())
        for name, path in files.items():
            if name not in label_of:
                unlisted.append(f"{database.name}/{path}")
                continue
            rows.append(
                {
                    "path": f"{database.name}/{path}",
                    "subject": name,
                    "label": label_of[name],
                    "site": database.name[-1],
                }
            )
    if n_absent:
        notes.append(f"{n_absent:,} recordings of the REFERENCE.csv files are not here")
    return Reading(rows, notes + skipped(unlisted, "REFERENCE.csv does not list them"))


def _labels(table: Path) -> dict[str, str]:
    if not table.is_file():
        raise FileNotFoundError(f"physionet2016: {table} is missing; it holds the labels, fetch it again")
    labels = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if len(cells) < 2 or cells[1].strip() not in LABELS:
                raise ValueError(
                    f"{table}, row {number}: {','.join(cells)!r} is not RECORDING,1 or RECORDING,-1"
                )
            labels[cells[0].strip()] = LABELS[cells[1].strip()]
    return labels


CORPUS = Corpus(
    name="physionet2016",
    title="PhysioNet/CinC Challenge 2016: heart sounds from six databases",
    folder=("physionet2016", "challenge-2016", "challenge-2016/1.0.0", "training"),
    marks=("training-[a-f]/REFERENCE.csv",),
    tasks=("abnormal",),
    default_task="abnormal",
    positive={"abnormal": "abnormal"},
    licence="ODC-BY 1.0",
    citation="Liu, C. et al. An open access database for the evaluation of heart sound algorithms. Physiol. "
    "Meas. 37(12), 2181-2213 (2016); Goldberger, A. et al. PhysioBank, PhysioToolkit, and PhysioNet. "
    "Circulation 101(23), e215-e220 (2000)",
    preset="heart",
    read=read,
    notes=(
        "no subject ids exist, so every recording counts as a subject of its own: only a split across "
        "databases (sites) is subject-safe, and intervals within one are too narrow",
    ),
    n_published=3240,  # a 409, b 490, c 31, d 55, e 2,141, f 114
    gated="download training.zip from https://physionet.org/content/challenge-2016/1.0.0/ and unpack it as "
    "physionet2016",
)
