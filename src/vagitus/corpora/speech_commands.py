"""Speech Commands: one-second spoken words, English (Google) and Arabic.

Google's layout: a folder a word, ``WORD/SPEAKER_nohash_N.wav``, ``_background_noise_`` (not read), and
``validation_list.txt`` and ``testing_list.txt`` of paths; what neither lists is for training. The Arabic
layout: ``dataset/WORD/SPEAKER_NO_ROUND.wav`` and ``train.csv``, ``val.csv``, ``test.csv`` (file, class). Both
publishers divide by speaker. The lists name ``.wav`` files; copies in another format are found by name.
"""

import csv
import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped
from vagitus.fetch import Download

CLIP = re.compile(r"(?P<speaker>[0-9a-f]+)_nohash_\d+|(?P<contributor>\d+)_NO_\d+")
ARABIC_FOLDER = "dataset"
ARABIC_TABLES = {"train.csv": "train", "val.csv": "dev", "test.csv": "test"}
GOOGLE_LISTS = {"validation_list.txt": "dev", "testing_list.txt": "test"}
# Long recordings without words; some copies write it without underscores.
NOISE_FOLDERS = frozenset({"_background_noise_", "background_noise"})


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``words`` or ``speakers``."""
    files, notes = audio_files(folder)
    is_arabic = (folder / ARABIC_FOLDER).is_dir()
    part_of = _arabic_parts(folder) if is_arabic else _google_parts(folder)
    rows: list[Row] = []
    unparsed = []
    for stem, path in files.items():
        parent, _, name = stem.rpartition("/")
        word = parent.rpartition("/")[2]
        if NOISE_FOLDERS & set(parent.split("/")):
            continue
        match = CLIP.fullmatch(name)
        if match is None or not word:
            unparsed.append(path)
            continue
        speaker = match["speaker"] or match["contributor"]
        part = part_of.get(stem, "" if is_arabic else "train") if part_of else ""
        rows.append(
            {
                "path": path,
                "subject": speaker,
                "label": word if task == "words" else speaker,
                # Told apart by speaker, the parts of the split hold no speaker to recognise again.
                "official_split": part if task == "words" else "",
            }
        )
    notes += skipped(unparsed, "their names do not parse")
    if is_arabic and len(rows) < len(part_of):
        notes.append(f"a subset: {len(rows):,} of {len(part_of):,} recordings are here")
    return Reading(rows, notes)


def _google_parts(folder: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, part in GOOGLE_LISTS.items():
        path = folder / name
        if path.is_file():
            parts |= {
                line.strip().rpartition(".")[0]: part
                for line in path.read_text().splitlines()
                if line.strip()
            }
    return parts


def _arabic_parts(folder: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, part in ARABIC_TABLES.items():
        path = folder / name
        if path.is_file():
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                if "file" not in (reader.fieldnames or []):
                    raise ValueError(f"{path}: has no column 'file'; fetch it again")
                parts |= {row["file"].rpartition(".")[0]: part for row in reader}
    return parts


CORPUS = Corpus(
    name="speech_commands",
    title="Speech Commands, English (Google) or Arabic: spoken words",
    folder=(
        "speech_commands",
        "speech_commands_v0.02",
        "speech_commands_v0.01",
        "SpeechCommands/speech_commands_v0.02",
        "arabic_speech_commands",
        "arabic-speech-commands-dataset",
    ),
    marks=("*/*_nohash_*", f"{ARABIC_FOLDER}/*/*_NO_*"),
    tasks=("words", "speakers"),
    default_task="words",
    licence="CC BY 4.0",
    citation="English: Warden, P. Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition. "
    "arXiv:1804.03209 (2018). Arabic: Ghandoura, A., Hjabo, F. and Al Dakkak, O. Building and Benchmarking "
    "an Arabic Speech Commands Dataset for Small-Footprint Keyword Spotting. Eng. Appl. Artif. Intell. "
    "(2021)",
    preset="mfcc40",
    read=read,
    fetch=(
        Download(
            url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            archive="tar.gz",
            max_bytes=2_500_000_000,
            max_unpacked_bytes=4_000_000_000,
            # As torchaudio pins it (torchaudio/datasets/speechcommands.py).
            sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            n_bytes=2_428_923_189,
            strip_top=False,
        ),
    ),
    gated="fetch brings the English corpus; the Arabic one is at "
    "https://github.com/abdulkaderghandoura/arabic-speech-commands-dataset",
)
