"""ESC-10 and ESC-50: five-second sounds from Freesound, 40 clips a class, baby cries among them.

Two layouts: ESC-50 since 2018, ``meta/esc50.csv`` beside ``audio/FOLD-SOURCE-TAKE-TARGET.wav``; and before
it, ESC-10 too, a folder a class, ``NNN - Class name/FOLD-SOURCE-TAKE.ogg``. Class names are the publisher's.

The subject is the Freesound clip that a recording was cut from: takes of one clip are as alike as recordings
of one person, and the publisher's five folds (covariate ``fold``) keep them together.
"""

import csv
import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped
from vagitus.fetch import Download

TABLE = "meta/esc50.csv"
# What the layouts call the class, letter case and underscores aside.
CRY_CLASSES = frozenset({"baby cry", "crying baby"})
CLIPS_PER_CLASS = 40
CLASS_FOLDER = re.compile(r"\d{3} - (.+)")
CLIP = re.compile(r"([1-5])-(\d+)-([A-Z])(?:-\d+)?")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``category`` (the publisher's classes) or ``cry`` (cry, other)."""
    files, notes = audio_files(folder)
    category_of = _categories(folder / TABLE)
    rows: list[Row] = []
    unparsed, unknown = [], []
    classes = set(category_of.values())
    for stem, path in files.items():
        parent, _, name = stem.rpartition("/")
        clip, class_folder = CLIP.fullmatch(name), CLASS_FOLDER.fullmatch(parent.rpartition("/")[2])
        category = category_of.get(name, "") if category_of else class_folder[1] if class_folder else ""
        if clip is None:
            unparsed.append(path)
            continue
        if not category:
            unknown.append(path)
            continue
        classes.add(category)
        is_cry = category.lower().replace("_", " ") in CRY_CLASSES
        rows.append(
            {
                "path": path,
                "subject": clip[2],
                "label": category if task == "category" else "cry" if is_cry else "other",
                "fold": clip[1],
            }
        )
    notes += skipped(unparsed, "their names do not parse")
    notes += skipped(unknown, f"{TABLE} does not list them" if category_of else "their folder names no class")
    n_published = CLIPS_PER_CLASS * len(classes)
    if len(rows) < n_published:
        notes.append(f"a subset: {len(rows):,} of {n_published:,} clips of these classes are here")
    return Reading(rows, notes)


def _categories(table: Path) -> dict[str, str]:
    """Clip name without ending → class; empty where the layout has no table."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"filename", "category"} - set(reader.fieldnames or [])
        if missing:
            raise ValueError(f"{table}: has no column {sorted(missing)[0]!r}; fetch it again")
        return {Path(row["filename"]).stem: row["category"] for row in reader}


ESC50_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"

CORPUS = Corpus(
    name="esc",
    title="ESC-10 / ESC-50: environmental sounds, baby cries among them",
    folder=("esc", "ESC-50", "ESC-50-master", "esc50", "ESC-10", "ESC-10-master", "esc10"),
    marks=(TABLE, "[0-9][0-9][0-9] - *"),
    tasks=("category", "cry"),
    default_task="category",
    positive={"cry": "cry"},
    licence="ESC-10: CC BY 3.0; ESC-50: CC BY-NC 3.0; authors of the clips are listed in the corpus",
    citation="Piczak, K. J. ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015, "
    "https://doi.org/10.1145/2733373.2806390",
    preset="logmel64",
    read=read,
    notes=("a subject is the Freesound clip that takes were cut from, not a person",),
    fetch=(
        Download(
            url=f"https://codeload.github.com/karolpiczak/ESC-50/zip/{ESC50_COMMIT}",
            archive="zip",
            max_bytes=1_000_000_000,
            max_unpacked_bytes=2_000_000_000,
            commit=ESC50_COMMIT,
            members=("audio/*.wav", TABLE, "LICENSE*", "README*"),
            min_files=2001,  # the clips and the table
        ),
    ),
)
