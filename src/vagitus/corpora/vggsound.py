"""VGGSound: ten-second sounds from YouTube in 309 classes.

The publisher lists the clips (``vggsound.csv``, no header: YouTube id, start in s, label, train or test); the
audio is collected by whoever uses it, as ``ID_START.wav`` with the start in six digits, in any folder below.
"""

import csv
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

TABLE = "vggsound.csv"


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``category``."""
    del task  # the only one
    files, notes = audio_files(folder)
    path_of = {stem.rpartition("/")[2]: path for stem, path in files.items()}
    rows: list[Row] = []
    n_absent = 0
    used = set()
    with (folder / TABLE).open(newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if len(cells) != 4 or not cells[1].strip().isdigit() or cells[3] not in {"train", "test"}:
                raise ValueError(
                    f"{folder / TABLE}, row {number}: {','.join(cells)!r} is not ID,START,LABEL,PART; "
                    "download it again"
                )
            video, start, label, part = cells
            path = path_of.get(f"{video}_{int(start):06d}")
            if path is None:
                n_absent += 1
                continue
            used.add(path)
            rows.append({"path": path, "subject": video, "label": label, "official_split": part})
    if n_absent:
        notes.append(f"{n_absent:,} of the clips that {TABLE} lists are not here")
    return Reading(rows, notes + skipped(set(files.values()) - used, f"{TABLE} does not list them"))


CORPUS = Corpus(
    name="vggsound",
    title="VGGSound: sounds from YouTube in 309 classes",
    folder=("vggsound", "VGGSound"),
    marks=(TABLE,),
    tasks=("category",),
    default_task="category",
    licence="CC BY 4.0 (the list; each video has its own)",
    citation="Chen, H., Xie, W., Vedaldi, A. and Zisserman, A. VGGSound: A Large-scale Audio-Visual "
    "Dataset. ICASSP 2020, arXiv:2004.14368",
    preset="logmel80",
    read=read,
    notes=("a subject is a YouTube video",),
    gated="download vggsound.csv from https://www.robots.ox.ac.uk/~vgg/data/vggsound/ and collect the clips "
    "yourself",
)
