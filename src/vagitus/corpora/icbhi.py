"""ICBHI 2017: lung sounds of 126 patients from two countries and four recording devices, annotated by cycle.

Layout: ``PATIENT_RECORDING_LOCATION_MODE_DEVICE.wav`` with a ``.txt`` of the same name beside it (a line a
respiratory cycle: begin s, end s, crackles 0/1, wheezes 0/1); diagnoses in ``patient_diagnosis.csv`` or
``ICBHI_Challenge_diagnosis.txt``, demographics in ``demographic_info.txt`` or
``ICBHI_Challenge_demographic_information.txt``, the challenge's split in ``ICBHI_challenge_train_test.txt``.

The site is the device, which also differs in microphone and sampling rate. Patients recorded with two devices
stand at both.
"""

import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

NAME = re.compile(
    r"(?P<patient>\d{3})_(?P<recording>[0-9A-Za-z]+)_(?P<location>Tc|Al|Ar|Pl|Pr|Ll|Lr)_(?P<mode>sc|mc)"
    r"_(?P<device>AKGC417L|LittC2SE|Litt3200|Meditron)"
)
LOCATIONS = {
    "Tc": "trachea",
    "Al": "anterior left",
    "Ar": "anterior right",
    "Pl": "posterior left",
    "Pr": "posterior right",
    "Ll": "lateral left",
    "Lr": "lateral right",
}
MODES = {"sc": "single channel", "mc": "several channels"}
DIAGNOSES = ("patient_diagnosis.csv", "icbhi_challenge_diagnosis.txt")
DEMOGRAPHICS = ("demographic_info.txt", "icbhi_challenge_demographic_information.txt")
SPLIT = ("icbhi_challenge_train_test.txt",)
DEMOGRAPHIC_COLUMNS = ("age", "sex", "bmi", "child_weight_kg", "child_height_cm")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``crackle_or_wheeze`` (cycles: adventitious, normal) or ``diagnosis`` (recordings)."""
    files, notes = audio_files(folder)
    table_of = {path.name.lower(): path for path in sorted(folder.rglob("*.[tc][xs][tv]"))}
    diagnosis_of = {cells[0]: cells[1] for cells in _lines(table_of, DIAGNOSES) if len(cells) >= 2}
    if task == "diagnosis" and not diagnosis_of:
        raise FileNotFoundError(
            f"icbhi: {folder} holds no {' or '.join(DIAGNOSES)}; put it there, from the corpus's page"
        )
    demographics_of = {cells[0]: cells[1:] for cells in _lines(table_of, DEMOGRAPHICS)}
    part_of = {cells[0]: cells[1] for cells in _lines(table_of, SPLIT) if len(cells) >= 2}
    rows: list[Row] = []
    unparsed, unannotated, undiagnosed, n_empty = [], [], [], 0
    for stem, path in files.items():
        name = stem.rpartition("/")[2]
        match = NAME.fullmatch(name)
        if match is None:
            unparsed.append(path)
            continue
        demographics = demographics_of.get(match["patient"], [])
        row: Row = {
            "path": path,
            "subject": match["patient"],
            "site": match["device"],
            "session": f"{match['patient']} {match['recording']}",
            "location": LOCATIONS[match["location"]],
            "mode": MODES[match["mode"]],
            "official_split": part_of.get(name, ""),
            **{
                column: "" if value == "NA" else value
                for column, value in zip(DEMOGRAPHIC_COLUMNS, demographics, strict=False)
            },
        }
        if task == "diagnosis":
            if match["patient"] not in diagnosis_of:
                undiagnosed.append(path)
            rows.append(row | {"label": diagnosis_of.get(match["patient"], "")})
            continue
        annotation = folder / f"{stem}.txt"
        if not annotation.is_file():
            unannotated.append(path)
            continue
        for begin_s, end_s, label in _cycles(annotation):
            if begin_s < end_s:
                rows.append(row | {"start_s": begin_s, "end_s": end_s, "label": label})
            else:
                n_empty += 1
    notes += skipped(unparsed, "their names do not parse")
    notes += skipped(unannotated, "no annotation lies beside them")
    if undiagnosed:
        notes.append(
            f"{len(undiagnosed):,} unlabelled: no diagnosis of their patient (first: {undiagnosed[0]})"
        )
    if n_empty:
        notes.append(f"{n_empty:,} cycles of no length left out")
    return Reading(rows, notes)


def _lines(table_of: dict[str, Path], names: tuple[str, ...]) -> list[list[str]]:
    """The cells of the first table that is here, whether divided by commas, tabs or spaces."""
    for name in names:
        if name in table_of:
            text = table_of[name].read_text(encoding="utf-8-sig")
            return [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    return []


def _cycles(annotation: Path) -> list[tuple[float, float, str]]:
    cycles = []
    for number, line in enumerate(annotation.read_text(encoding="utf-8-sig").splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        try:
            begin_s, end_s, crackles, wheezes = (float(cell) for cell in cells)
        except ValueError:
            raise ValueError(
                f"{annotation}, row {number}: {line!r} is not begin, end, crackles, wheezes; fetch it again"
            ) from None
        cycles.append((begin_s, end_s, "adventitious" if crackles or wheezes else "normal"))
    return cycles


CORPUS = Corpus(
    name="icbhi",
    title="ICBHI 2017: lung sounds by respiratory cycle, four devices",
    folder=("icbhi", "ICBHI_final_database", "icbhi2017", "Respiratory_Sound_Database"),
    marks=("[12][0-9][0-9]_*_?c_*.*", "*/[12][0-9][0-9]_*_?c_*.*"),
    tasks=("crackle_or_wheeze", "diagnosis"),
    default_task="crackle_or_wheeze",
    positive={"crackle_or_wheeze": "adventitious"},
    licence="free for research, as its publisher states",
    citation="Rocha, B. M. et al. An open access database for the evaluation of respiratory sound "
    "classification algorithms. Physiol. Meas. 40(3), 035001 (2019), "
    "https://doi.org/10.1088/1361-6579/ab03ea",
    preset="lung",
    read=read,
    n_published=920,
    gated="download ICBHI_final_database.zip from https://bhichallenge.med.auth.gr/ and unpack it as "
    "ICBHI_final_database",
)
