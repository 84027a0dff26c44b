"""CryCeleb: expirations of 786 newborns, recorded after birth (B) and before discharge (D), 16 kHz.

Layout: ``metadata.csv`` (baby_id, period, duration, split, chronological_index, file_name, file_id) beside
``audio/SPLIT/BABY/PERIOD/BABY_PERIOD_INDEX.wav``. There are no health labels, and none can be made from it.
"""

import csv
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

TABLE = "metadata.csv"
PERIODS = ("B", "D")
COLUMNS = ("baby_id", "period", "split", "chronological_index", "file_name")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``identity`` (the infant) or ``period`` (B, D)."""
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(f"cryceleb: {folder / TABLE} is missing; download it beside audio/")
    with (folder / TABLE).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = sorted(set(COLUMNS) - set(reader.fieldnames or []))
        if missing:
            raise ValueError(f"{folder / TABLE}: has no column {missing[0]!r}; fetch it again")
        table = list(reader)
    files, notes = audio_files(folder)
    # The table may write paths from the corpus folder, from audio/, or bare names.
    by_name = {stem.rpartition("/")[2]: path for stem, path in files.items()}
    rows: list[Row] = []
    absent, unparsed, used = [], [], set()
    for number, entry in enumerate(table, start=2):
        name = Path(entry["file_name"]).stem
        path = files.get(entry["file_name"].rpartition(".")[0]) or by_name.get(name)
        if path is None:
            absent.append(name)
            continue
        if entry["period"] not in PERIODS:
            unparsed.append(f"row {number}")
            continue
        used.add(path)
        rows.append(
            {
                "path": path,
                "subject": entry["baby_id"],
                "label": entry["baby_id"] if task == "identity" else entry["period"],
                "session": f"{entry['baby_id']} {entry['period']}",
                # Told apart by infant, the parts of the split hold no infant to recognise again.
                "official_split": entry["split"] if task == "period" else "",
                "chronological_index": entry["chronological_index"],
            }
        )
    notes += skipped(unparsed, f"{TABLE} gives a period that is neither B nor D")
    notes += skipped(set(files.values()) - used, f"{TABLE} does not list them")
    if absent:
        notes.append(f"{len(absent):,} recordings of {TABLE} are not here")
    return Reading(rows, notes)


CORPUS = Corpus(
    name="cryceleb",
    title="CryCeleb: expirations of newborns for verification (gated; no health labels)",
    folder=("cryceleb", "CryCeleb2023"),
    marks=("audio/*/*/[BD]",),
    tasks=("identity", "period"),
    default_task="identity",
    positive={"period": "D"},
    licence="CC BY-NC-ND 4.0",
    citation="CryCeleb: A Speaker Verification Dataset Based on Infant Cry Sounds. arXiv:2305.00969 (2023)",
    preset="logmel80",
    read=read,
    notes=(
        "no health labels; the publisher chose the dev and test infants among those its baseline told apart "
        "best",
    ),
    gated="accept the terms at https://huggingface.co/datasets/Ubenwa/CryCeleb2023, download metadata.csv "
    "and audio.zip, and unpack them as cryceleb",
)
