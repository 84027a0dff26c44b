"""LibriSpeech: adults reading books aloud.

Layout: ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac`` (subsets as train-clean-100, test-other)
beside ``SPEAKERS.TXT`` (id, sex, subset, minutes and name, divided by ``|``). Flatter copies are read too:
the name alone says who and where, and any folder above it whose name ends in a subset's name says which.
"""

import re
from collections import Counter
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped
from vagitus.fetch import Download

UTTERANCE = re.compile(r"(\d+)-(\d+)-\d+")
SUBSET = re.compile(r"(?:^|.*_)((train|dev|test)-(?:clean|other)(?:-\d+)?)")
# Utterances of each subset, as published (openslr.org/12).
N_UTTERANCES = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}
SEXES = {"F": "female", "M": "male"}


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``speakers`` or ``gender`` (female, male)."""
    files, notes = audio_files(folder)
    gender_of: dict[str, str] = {}
    for table in sorted(folder.rglob("SPEAKERS.TXT")):
        gender_of |= _genders(table)
    if task == "gender" and not gender_of:
        raise FileNotFoundError(
            f"librispeech: {folder} holds no SPEAKERS.TXT, which says who is female; fetch it again"
        )
    rows: list[Row] = []
    unparsed, unknown = [], []
    for stem, path in files.items():
        parent, _, name = stem.rpartition("/")
        match = UTTERANCE.fullmatch(name)
        if match is None:
            unparsed.append(path)
            continue
        speaker, chapter = match.groups()
        subset = next((m for part in parent.split("/") if (m := SUBSET.fullmatch(part))), None)
        if task == "gender" and speaker not in gender_of:
            unknown.append(path)
        rows.append(
            {
                "path": path,
                "subject": speaker,
                "label": speaker if task == "speakers" else gender_of.get(speaker, ""),
                "session": f"{speaker}-{chapter}",
                # Told apart by speaker, the parts of the split hold no speaker to recognise again.
                "official_split": subset[2] if subset and task == "gender" else "",
                "subset": subset[1] if subset else "",
            }
        )
    notes += skipped(unparsed, "their names do not parse")
    for name, n in sorted(Counter(str(row["subset"]) for row in rows).items()):
        if n < N_UTTERANCES.get(name, 0):
            notes.append(f"a subset: {n:,} of {N_UTTERANCES[name]:,} utterances of {name} are here")
    if unknown:
        notes.append(f"{len(unknown):,} unlabelled: SPEAKERS.TXT lacks their speaker (first: {unknown[0]})")
    return Reading(rows, notes)


def _genders(table: Path) -> dict[str, str]:
    genders = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 1 and cells[1] in SEXES:  # which no comment line has
            genders[cells[0]] = SEXES[cells[1]]
    return genders


CORPUS = Corpus(
    name="librispeech",
    title="LibriSpeech: adults reading aloud, 16 kHz",
    folder=("LibriSpeech", "librispeech"),
    marks=("*train-clean-*", "*train-other-*", "*dev-clean", "*dev-other", "*test-clean", "*test-other"),
    tasks=("speakers", "gender"),
    default_task="speakers",
    positive={"gender": "female"},
    licence="CC BY 4.0",
    citation="Panayotov, V., Chen, G., Povey, D. and Khudanpur, S. LibriSpeech: an ASR corpus based on "
    "public domain audio books. ICASSP 2015",
    preset="logmel80",
    read=read,
    fetch=(
        Download(
            url="https://www.openslr.org/resources/12/train-clean-100.tar.gz",
            archive="tar.gz",
            max_bytes=6_500_000_000,
            max_unpacked_bytes=10_000_000_000,
            # As torchaudio pins it (torchaudio/datasets/librispeech.py).
            sha256="d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
            n_bytes=6_387_309_499,
        ),
    ),
    gated="fetch brings train-clean-100 (6.4 GB); other subsets are at https://www.openslr.org/12",
)
