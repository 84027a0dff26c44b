"""VCTK: 110 English speakers with various accents reading sentences, two microphones.

Layout of release 0.92: ``wav48_silence_trimmed/pNNN/pNNN_UTTERANCE_micM.flac``; of release 0.80:
``wav48/pNNN/pNNN_UTTERANCE.wav``; both with ``speaker-info.txt`` (id, age, gender, accent, region).

Only the first microphone is read: the second recorded the same utterances, and of two speakers it is missing.
"""

import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

UTTERANCE = re.compile(r"([ps]\d+)_(\d+)(?:_mic([12]))?")
AUDIO_FOLDERS = ("wav48_silence_trimmed", "wav48")
# Release 0.80 writes the id without its p.
SPEAKER = re.compile(r"([ps]?\d+)\s+(\d+)\s+([MF])\s+(\S+)")
SEXES = {"F": "female", "M": "male"}


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``speakers`` or ``gender`` (female, male)."""
    audio_folder = next(folder / name for name in AUDIO_FOLDERS if (folder / name).is_dir())
    files, notes = audio_files(audio_folder)
    speakers = _speakers(folder / "speaker-info.txt")
    if task == "gender" and not speakers:
        raise FileNotFoundError(
            f"vctk: {folder}/speaker-info.txt is missing; it says who is female, fetch it again"
        )
    rows: list[Row] = []
    unparsed, unknown, n_second = [], [], 0
    for stem, path in files.items():
        match = UTTERANCE.fullmatch(stem.rpartition("/")[2])
        if match is None:
            unparsed.append(path)
            continue
        if match[3] == "2":
            n_second += 1
            continue
        age, gender, accent = speakers.get(match[1], ("", "", ""))
        if task == "gender" and not gender:
            unknown.append(path)
        rows.append(
            {
                "path": f"{audio_folder.name}/{path}",
                "subject": match[1],
                "label": match[1] if task == "speakers" else gender,
                "age": age,
                "accent": accent,
            }
        )
    notes += skipped(unparsed, "their names do not parse")
    if n_second:
        notes.append(f"{n_second:,} recordings of the second microphone left out")
    if unknown:
        notes.append(
            f"{len(unknown):,} unlabelled: speaker-info.txt lacks their speaker (first: {unknown[0]})"
        )
    return Reading(rows, notes)


def _speakers(table: Path) -> dict[str, tuple[str, str, str]]:
    """Speaker → (age, gender, accent); empty without a table."""
    speakers = {}
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else []:
        match = SPEAKER.match(line.strip())
        if match:
            speaker = match[1] if match[1][0] in "ps" else f"p{match[1]}"
            speakers[speaker] = (match[2], SEXES[match[3]], match[4])
    return speakers


CORPUS = Corpus(
    name="vctk",
    title="VCTK: English speakers of various accents, 48 kHz",
    folder=("vctk", "VCTK-Corpus-0.92", "VCTK-Corpus", "VCTK"),
    marks=AUDIO_FOLDERS,
    tasks=("speakers", "gender"),
    default_task="speakers",
    positive={"gender": "female"},
    licence="CC BY 4.0 (release 0.92)",
    citation="Yamagishi, J., Veaux, C. and MacDonald, K. CSTR VCTK Corpus: English Multi-speaker Corpus for "
    "CSTR Voice Cloning Toolkit (version 0.92). University of Edinburgh (2019), "
    "https://doi.org/10.7488/ds/2645",
    preset="mfcc40",
    read=read,
    gated="download VCTK-Corpus-0.92.zip from https://doi.org/10.7488/ds/2645 and unpack it as "
    "VCTK-Corpus-0.92",
)
