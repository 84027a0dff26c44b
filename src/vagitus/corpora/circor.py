"""CirCor DigiScope: heart sounds of children and young adults at four auscultation points, with murmurs.

Layout: ``training_data.csv`` (one row a patient) beside ``training_data/ID_LOC.wav``, or ``ID_LOC_N.wav``
where a point was recorded more than once; ``.tsv`` of the same name holds the heart cycles (start s, end s,
state), given as covariate ``segmentation``.

Some patients came to both screening campaigns and have two ids, the second in ``Additional ID``: they are one
subject here. Murmur and outcome are the patient's, as in the George B. Moody Challenge 2022: a murmur need
not be audible at every point.
"""

import csv
import re
from collections import Counter
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped
from vagitus.segment import HEART_STATES, Event

TABLE = "training_data.csv"
RECORDING = re.compile(r"(\d+)_(AV|PV|TV|MV|Phc)(?:_\d+)?")
LABEL_COLUMNS = {"murmur": "Murmur", "outcome": "Outcome"}
CLASSES = {"murmur": ("Present", "Absent"), "outcome": ("Abnormal", "Normal")}
COVARIATES = {
    "age": "Age",
    "sex": "Sex",
    "height_cm": "Height",
    "weight_kg": "Weight",
    "pregnant": "Pregnancy status",
    "campaign": "Campaign",
}


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``murmur`` (Present, Absent) or ``outcome`` (Abnormal, Normal)."""
    patients = _patients(folder / TABLE)
    subject_of = _subjects(patients)
    files, notes = audio_files(folder)
    rows: list[Row] = []
    present: set[str] = set()
    unparsed, unlisted, unlabelled = [], [], Counter[str]()
    for stem, path in files.items():
        match = RECORDING.fullmatch(stem.rpartition("/")[2])
        if match is None:
            unparsed.append(path)
            continue
        if match[1] not in patients:
            unlisted.append(path)
            continue
        patient = patients[match[1]]
        present.add(match[1])
        value = patient[LABEL_COLUMNS[task]]
        if value not in CLASSES[task]:
            unlabelled[value or "blank"] += 1
        segmentation = f"{stem}.tsv"
        rows.append(
            {
                "path": path,
                "subject": subject_of[match[1]],
                "label": value if value in CLASSES[task] else "",
                "session": patient["Campaign"],
                "location": match[2],
                "segmentation": segmentation if (folder / segmentation).is_file() else "",
                **{name: patient[column] for name, column in COVARIATES.items()},
            }
        )
    notes += skipped(unparsed, "their names do not parse")
    notes += skipped(unlisted, f"{TABLE} does not list their patients")
    notes += [
        f"{n:,} unlabelled: {LABEL_COLUMNS[task]} is {value}" for value, n in sorted(unlabelled.items())
    ]
    if len(present) < len(patients):
        notes.append(f"a subset: {len(present):,} of {len(patients):,} patients of {TABLE} are here")
    return Reading(rows, notes)


def read_segmentation(path: Path) -> list[Event]:
    """Heart cycles of one recording, from the ``.tsv`` that covariate ``segmentation`` names.

    A line is start s, end s, state: 1 to 4 are S1, systole, S2 and diastole (``HEART_STATES``), 0 is a stretch
    that nobody segmented and is left out. Some files give a stretch of no length at the seams; those too.

    Raises:
        ValueError: another state, or a line that does not parse; names the line.
        FileNotFoundError: nothing at ``path``.
    """
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            start, end, state = line.split("\t")
            start_s, end_s, index = float(start), float(end), int(float(state))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not start, end and state; fetch it again"
            ) from None
        if not 0 <= index <= len(HEART_STATES) or not 0 <= start_s <= end_s:
            raise ValueError(f"{path}, line {number}: {line!r} is no stretch of state 0 to 4; fetch it again")
        if index and start_s < end_s:
            events.append(Event(start_s, end_s, HEART_STATES[index - 1]))
    return events


def _patients(table: Path) -> dict[str, dict[str, str]]:
    """Patient id → the row of the table, ``nan`` as blank."""
    if not table.is_file():
        raise FileNotFoundError(f"circor: {table} is missing; it holds the labels, fetch it again")
    needed = {"Patient ID", "Additional ID", *LABEL_COLUMNS.values(), *COVARIATES.values()}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = sorted(needed - set(reader.fieldnames or []))
        if missing:
            raise ValueError(f"{table}: has no column {missing[0]!r}; fetch it again")
        rows = [
            {name: "" if row[name] in {"nan", None} else row[name].strip() for name in needed}
            for row in reader
        ]
    return {row["Patient ID"]: row for row in rows}


def _subjects(patients: dict[str, dict[str, str]]) -> dict[str, str]:
    """Patient id → one id for both campaigns, the smaller."""
    subject_of = {}
    for patient, row in patients.items():
        # Read as a number: beside blanks, the column was saved as floats (``50379.0``).
        other = row["Additional ID"].removesuffix(".0")
        subject_of[patient] = min(patient, other, key=int) if other.isdigit() else patient
    return subject_of


CORPUS = Corpus(
    name="circor",
    title="CirCor DigiScope: heart sounds at four points, with murmurs",
    folder=(
        "circor",
        "circor-heart-sound",
        "circor-heart-sound/1.0.3",
        "the-circor-digiscope-phonocardiogram-dataset-1.0.3",
    ),
    marks=(TABLE,),
    tasks=("murmur", "outcome"),
    default_task="murmur",
    positive={"murmur": "Present", "outcome": "Abnormal"},
    licence="ODC-BY 1.0",
    citation="Oliveira, J. et al. The CirCor DigiScope Dataset: From Murmur Detection to Murmur "
    "Classification. IEEE J. Biomed. Health Inform. 26(6), 2524-2535 (2022), "
    "https://doi.org/10.1109/JBHI.2021.3137048; Goldberger, A. et al. PhysioBank, PhysioToolkit, and "
    "PhysioNet. Circulation 101(23), e215-e220 (2000)",
    preset="heart",
    read=read,
    task_notes={
        "murmur": "the murmur is the patient's: it need not be audible at every auscultation point",
    },
    gated="download https://physionet.org/content/circor-heart-sound/1.0.3/ and unpack it as circor",
)
