"""donateacry: infant cries that parents recorded with a phone app, as uploaded.

Layout: ``donateacry-android-upload-bucket/*.3gp`` (AMR-NB, 8 kHz) and ``donateacry-ios-upload-bucket/*.caf``
(IMA-ADPCM, 16 kHz). The name says it all: app-instance UUID, epoch (ms on Android, s on iOS), app version,
gender, age, reason.

Which recordings hold a usable cry is known for those that somebody listened to: the publisher's folder
``donateacry_corpus_cleaned_and_updated_data`` (class folders of the kept files, as 8 kHz wav), or else a list
``cleaned.csv`` of their names (column ``stem``). A recording is ``usable`` if listed and ``rejected`` if it
has a tag that the listeners kept (hu bu bp dc ti ch), lasts 3 s or longer, and is not listed. The others were
never candidates and stay unlabelled.

A UUID names an installed app, neither a phone nor an infant: recordings are grouped by it, whatever its case.
Recordings of one UUID, gender and age are most likely of one infant (covariate ``infant``).
"""

import csv
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vagitus.audio import AudioError, probe
from vagitus.corpora.corpus import AUDIO_SUFFIXES, Corpus, Reading, Row, audio_files, skipped
from vagitus.fetch import Download

PLATFORMS = {"donateacry-android-upload-bucket": "android", "donateacry-ios-upload-bucket": "ios"}
CLEANED_FOLDER = "donateacry_corpus_cleaned_and_updated_data"
CLEANED_LIST = "cleaned.csv"
# Epochs beyond this are milliseconds: as seconds they would lie in the year 5138.
FIRST_MS_EPOCH = 1e11
MIN_CANDIDATE_S = 3.0

GENDERS = {"m": "male", "f": "female"}
# Words, so that nobody takes the codes for numbers: 72 is younger than 22.
AGES = {
    "04": "0-4 weeks",
    "48": "4-8 weeks",
    "26": "2-6 months",
    "72": "7 months-2 years",
    "22": "over 2 years",
}
# Cold/hot was merged into discomfort by those who cleaned the corpus.
CANDIDATE_REASONS = {
    "hu": "hungry",
    "bu": "burping",
    "bp": "belly_pain",
    "dc": "discomfort",
    "ch": "discomfort",
    "ti": "tired",
}
OTHER_REASONS = ("lo", "sc", "dk")  # lonely, scared, don't know

UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
# An early iOS version wrote a second UUID behind the version.
NAME = re.compile(
    rf"(?P<uuid>{UUID})-(?P<epoch>\d{{10,13}}(?:\.\d+)?)-(?P<version>\d+(?:\.\d+)*)(?:-{UUID})?"
    rf"-(?P<gender>[{''.join(GENDERS)}])-(?P<age>{'|'.join(AGES)})"
    rf"-(?P<reason>{'|'.join([*CANDIDATE_REASONS, *OTHER_REASONS])})"
)


class Upload(NamedTuple):
    """One recording, as its name tells."""

    path: str
    name: str  # lower case, without ending
    uuid: str  # lower case
    platform: str
    recorded_at: datetime
    app_version: str
    gender: str
    age: str
    reason: str


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``usable`` (usable, rejected), ``reason`` (of five) or ``platform`` (android, ios)."""
    files, notes = audio_files(folder)
    uploads, unparsed = _uploads(files)
    listed = _listed(folder, files)
    if task == "usable":
        labels, remarks = _usable(folder, uploads, listed)
    elif task == "reason":
        labels, remarks = _reasons(uploads, listed)
    else:
        labels, remarks = [upload.platform for upload in uploads], []
    rows: list[Row] = [
        {
            "path": upload.path,
            "subject": upload.uuid,
            "label": label,
            "site": upload.platform,
            "session": f"{upload.uuid} {upload.recorded_at:%Y-%m-%d}",
            "gender": upload.gender,
            "age": upload.age,
            "app_version": upload.app_version,
            "recorded_at": upload.recorded_at.isoformat(timespec="seconds"),
            "infant": f"{upload.uuid}, {upload.gender}, {upload.age}",
        }
        for upload, label in zip(uploads, labels, strict=True)
    ]
    return Reading(rows, notes + skipped(unparsed, "their names do not parse") + remarks)


def _uploads(files: dict[str, str]) -> tuple[list[Upload], list[str]]:
    """The uploads, or where none is here the cleaned copies; and the paths whose names do not parse."""
    chosen = [path for path in files.values() if path.split("/")[0] in PLATFORMS]
    chosen = chosen or [path for path in files.values() if path.split("/")[0] == CLEANED_FOLDER]
    uploads, unparsed = [], []
    for path in chosen:
        match = NAME.fullmatch(_bare(path))
        if match is None:
            unparsed.append(path)
            continue
        epoch = float(match["epoch"])
        is_ms = epoch >= FIRST_MS_EPOCH
        uploads.append(
            Upload(
                path=path,
                name=match[0].lower(),
                uuid=match["uuid"].lower(),
                platform=PLATFORMS.get(path.split("/")[0]) or ("android" if is_ms else "ios"),
                recorded_at=datetime.fromtimestamp(epoch / 1000 if is_ms else epoch, tz=UTC),
                app_version=match["version"],
                gender=GENDERS[match["gender"]],
                age=AGES[match["age"]],
                reason=match["reason"],
            )
        )
    return uploads, unparsed


def _usable(
    folder: Path, uploads: list[Upload], listed: frozenset[str] | None
) -> tuple[list[str], list[str]]:
    if listed is None:
        raise FileNotFoundError(
            f"donateacry: {folder} holds neither {CLEANED_FOLDER}/ nor {CLEANED_LIST}, so nothing says which "
            "cries are usable; get them with `vagitus corpus fetch donateacry`"
        )
    if not any(upload.path.split("/")[0] in PLATFORMS for upload in uploads):
        raise FileNotFoundError(
            f"donateacry: {folder} holds no {' or '.join(PLATFORMS)}, so no rejected recording; get the "
            "uploads with `vagitus corpus fetch donateacry`"
        )
    labels: list[str] = []
    never_candidates: Counter[str] = Counter()
    unreadable: dict[str, AudioError] = {}
    for upload in uploads:
        label = ""
        if upload.name in listed:
            label = "usable"
        elif upload.reason not in CANDIDATE_REASONS:
            never_candidates["lonely, scared or unknown"] += 1
        else:
            try:
                if _duration_s(folder / upload.path) >= MIN_CANDIDATE_S:
                    label = "rejected"
                else:
                    never_candidates[f"shorter than {MIN_CANDIDATE_S:g} s"] += 1
            except AudioError as error:
                unreadable[upload.path] = error
        labels.append(label)
    if unreadable and "rejected" not in labels:
        # Not some broken files: the format itself cannot be opened here, and the error says what to install.
        raise next(iter(unreadable.values()))
    n_absent = len(listed - {upload.name for upload in uploads})
    notes = [f"{n:,} unlabelled: {why}" for why, n in sorted(never_candidates.items())]
    notes += skipped(unreadable, "unlabelled since their length cannot be read")
    if n_absent:
        notes.append(f"{n_absent:,} recordings listed as usable are not here")
    return labels, notes


def _reasons(uploads: list[Upload], listed: frozenset[str] | None) -> tuple[list[str], list[str]]:
    labels = [
        CANDIDATE_REASONS.get(upload.reason, "") if listed is None or upload.name in listed else ""
        for upload in uploads
    ]
    if listed is None:
        return labels, [
            "nothing says which recordings hold a usable cry; all with one of the reasons are labelled"
        ]
    return labels, [f"{labels.count(''):,} unlabelled: not listed as a usable cry"]


def _listed(folder: Path, files: dict[str, str]) -> frozenset[str] | None:
    """Lower-case names, without ending, of the recordings that were kept; None if nothing says so."""
    kept = [path for path in files.values() if path.startswith(f"{CLEANED_FOLDER}/")]
    if kept:
        return frozenset(_bare(path).lower() for path in kept)
    table = folder / CLEANED_LIST
    if not table.is_file():
        return None
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if "stem" not in (reader.fieldnames or []):
            found = ", ".join(reader.fieldnames or ["none"])
            raise ValueError(f"{table}: has no column 'stem'; found only: {found}")
        return frozenset(row["stem"].strip().lower() for row in reader)


def _bare(path: str) -> str:
    name = path.rpartition("/")[2]
    # Two uploads end ``.caf.caf``.
    while (suffix := Path(name).suffix).lower() in AUDIO_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _duration_s(path: Path) -> float:
    info = probe(path)
    if info.n_samples is None:
        raise AudioError(f"{path}: its header does not say how long it is; convert it to wav")
    return info.n_samples / info.sample_rate_hz


REPOSITORY_ZIP = "https://codeload.github.com/gveres/donateacry-corpus/zip"
UPLOADS_COMMIT = "c3a6c25d25028b84624972d3322ff18cf0686398"
CLEANED_COMMIT = "db5ecf70ea757fc1b3a2ed00fe27bdb8f21e3fe9"
N_UPLOADS, N_CLEANED = 1127, 457

CORPUS = Corpus(
    name="donateacry",
    title="donateacry: infant cries recorded by parents' phones, Android and iOS",
    folder=("donateacry", "donateacry-corpus", "donateacry-corpus-master"),
    marks=(*PLATFORMS, CLEANED_FOLDER),
    tasks=("usable", "reason", "platform"),
    default_task="usable",
    positive={"usable": "usable", "platform": "ios"},
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    citation="Veres, G. donateacry-corpus: an infant cry audio corpus (2015), "
    "https://github.com/gveres/donateacry-corpus",
    preset="mfcc40",
    read=read,
    notes=("a subject is an installed app, not an infant",),
    task_notes={
        "usable": "usable was decided by listening, for another purpose, and only among cries with a kept "
        "tag",
        "reason": "the reason is a parent's guess; grouped by subject it was read off no better than by "
        "chance (balanced accuracy .174 over five classes, chance .20, on 917 recordings), while random "
        "splits and a lookup of the subject look better: never report it from a random split",
        "platform": "measures how well the recording device is read off, not anything about an infant",
    },
    n_published=N_UPLOADS,
    # The uploads lie in one commit and the cleaned copies came in a later one; each is taken from the commit
    # that brought it.
    fetch=(
        Download(
            url=f"{REPOSITORY_ZIP}/{UPLOADS_COMMIT}",
            archive="zip",
            max_bytes=2_000_000_000,
            max_unpacked_bytes=4_000_000_000,
            commit=UPLOADS_COMMIT,
            members=tuple(f"{bucket}/*" for bucket in PLATFORMS),
            min_files=N_UPLOADS,
        ),
        Download(
            url=f"{REPOSITORY_ZIP}/{CLEANED_COMMIT}",
            archive="zip",
            max_bytes=2_000_000_000,
            max_unpacked_bytes=4_000_000_000,
            commit=CLEANED_COMMIT,
            members=(f"{CLEANED_FOLDER}/*.wav",),
            min_files=N_CLEANED,  # with fewer, usable cries would count as rejected
        ),
    ),
)
