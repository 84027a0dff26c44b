"""SPRSound: children's lung sounds, annotated by recording and by event (Shanghai Children's Medical Center).

Layout: ``*_wav`` folders (train_wav, or train2022_wav and test2022_wav of later releases), and for each
recording a ``.json`` of the same name in some other folder: ``record_annotation`` and ``event_annotation``
(start, end in ms, type). The name is patient_age_sex_location_number.

Not every test part of the publisher is of other patients (``intra_test_json`` is of the training patients),
so the parts are kept as ``official_split`` and the tasks are to be split by patient.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped
from vagitus.segment import Event

NAME = re.compile(r"(?P<patient>\d+)_(?P<age>\d+(?:\.\d+)?)_(?P<sex>[01])_(?P<location>p[1-4])_\d+")
SEXES = {"0": "male", "1": "female"}
LOCATIONS = {"p1": "left posterior", "p2": "left lateral", "p3": "right posterior", "p4": "right lateral"}
RECORD_CLASSES = ("Normal", "CAS", "DAS", "CAS & DAS", "Poor Quality")
EVENT_CLASSES = ("Normal", "Rhonchi", "Wheeze", "Stridor", "Coarse Crackle", "Fine Crackle", "Wheeze+Crackle")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``adventitious`` (adventitious, normal), ``record`` (5 classes) or ``events`` (7)."""
    files, notes = audio_files(folder)
    annotation_of: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.json")):
        annotation_of.setdefault(file.stem, file)
    rows: list[Row] = []
    seen: set[str] = set()
    unparsed, repeated, unannotated, left_out = [], [], [], Counter[str]()
    for stem, path in files.items():
        name = stem.rpartition("/")[2]
        match = NAME.fullmatch(name)
        if match is None:
            unparsed.append(path)
        elif name in seen:
            repeated.append(path)
        elif name not in annotation_of:
            unannotated.append(path)
        else:
            seen.add(name)
            annotation = _annotation(annotation_of[name])
            row: Row = {
                "path": path,
                "subject": match["patient"],
                "age": match["age"],
                "sex": SEXES[match["sex"]],
                "location": LOCATIONS[match["location"]],
                "official_split": _part(annotation_of[name].parent.name),
            }
            if task == "events":
                rows += _events(row, annotation, left_out)
            else:
                record = _record(annotation, annotation_of[name])
                if task == "record":
                    rows.append(row | {"label": record})
                elif record == "Poor Quality":
                    left_out["Poor Quality recordings"] += 1
                else:
                    rows.append(row | {"label": "normal" if record == "Normal" else "adventitious"})
    notes += [f"{n:,} {what} left out" for what, n in sorted(left_out.items())]
    notes += skipped(unparsed, "their names do not parse")
    notes += skipped(repeated, "the same name stands in another folder")
    notes += skipped(unannotated, "no annotation lies here")
    return Reading(rows, notes, n_found=len(seen))


def read_events(path: Path) -> list[Event]:
    """Events of one recording, from its ``.json``: kinds ``EVENT_CLASSES``, in order of time.

    As in task ``events``: other types, events that end before they start, and stretches given a second time
    are left out.

    Raises:
        ValueError: the file is not JSON or holds no annotation.
        FileNotFoundError: nothing at ``path``.
    """
    rows = _events({}, _annotation(path), Counter())
    return sorted(
        Event(float(str(row["start_s"])), float(str(row["end_s"])), str(row["label"])) for row in rows
    )


def _events(row: Row, annotation: dict[str, Any], left_out: Counter[str]) -> list[Row]:
    events: dict[tuple[float, float], Row] = {}
    for event in annotation.get("event_annotation", []):
        start_s, end_s = float(event["start"]) / 1000, float(event["end"]) / 1000
        if event["type"] not in EVENT_CLASSES:
            left_out[f"events of type {event['type']!r}"] += 1
        elif not 0 <= start_s < end_s:
            left_out["events that end before they start"] += 1
        elif (start_s, end_s) in events:
            left_out["events that repeat another's stretch"] += 1
        else:
            events[start_s, end_s] = row | {"start_s": start_s, "end_s": end_s, "label": event["type"]}
    return list(events.values())


def _record(annotation: dict[str, Any], path: Path) -> str:
    # The readme of the corpus says recording_annotation, its files say record_annotation.
    record = str(annotation.get("record_annotation", annotation.get("recording_annotation", "")))
    if record not in RECORD_CLASSES:
        raise ValueError(f"{path}: record_annotation is {record!r}, not one of {', '.join(RECORD_CLASSES)}")
    return record


def _annotation(path: Path) -> dict[str, Any]:
    try:
        annotation = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); fetch it again") from None
    if not isinstance(annotation, dict):
        raise ValueError(f"{path}: holds no annotation; fetch it again")
    return annotation


def _part(json_folder: str) -> str:
    """The publisher's part, by the name of the annotation's folder."""
    for part in ("inter_test", "intra_test", "train", "test", "valid"):
        if json_folder.startswith(part):
            return part
    return ""


CORPUS = Corpus(
    name="sprsound",
    title="SPRSound: children's lung sounds, by recording and by event",
    folder=("sprsound", "SPRSound", "SPRSound-main", "BioCAS2022"),
    marks=("*_wav/*_p[1-4]_*", "*/*_wav/*_p[1-4]_*"),
    tasks=("adventitious", "record", "events"),
    default_task="adventitious",
    positive={"adventitious": "adventitious"},
    licence="the repository ships a GPL-3.0 licence file",
    citation="Zhang, Q. et al. SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database. IEEE "
    "Trans. Biomed. Circuits Syst. 16(5), 867-881 (2022)",
    preset="lung",
    read=read,
    n_published=2683,  # of the release of 2022
    gated="clone https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound as SPRSound",
)
