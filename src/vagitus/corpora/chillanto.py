"""Baby Chillanto: infant cries cut into one-second pieces, among them infants with asphyxia and deaf infants.

Access is restricted and no layout is published. We assume what users of the corpus describe: one folder a
class, ``1s_asphyxia``, ``1s_deaf``, ``1s_hunger``, ``1s_normal``, ``1s_pain`` (with or without ``1s_``), and
file names of which the first four characters say which infant was recorded, as in ``0033001012.wav``. Folders
of uncut recordings (``Full_…``) hold the same cries again and are not read.

Task ``asphyxia`` is that of Onu et al. (arXiv:1906.10199): asphyxia against the healthy infants' normal,
hunger and pain cries together; deaf infants are left out.
"""

import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

CLASS_FOLDER = re.compile(r"(?:1s?[_ -])?(asphyxia|deaf|hunger|hungry|normal|pain)", re.IGNORECASE)
UNCUT_FOLDER = re.compile(r"full.*", re.IGNORECASE)
CLASSES = {"hungry": "hunger"}
N_SUBJECT_CHARACTERS = 4


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``asphyxia`` (asphyxia, normal) or ``category`` (five classes)."""
    files, notes = audio_files(folder)
    rows: list[Row] = []
    unparsed, uncut, n_deaf = [], [], 0
    for stem, path in files.items():
        *folders, name = stem.split("/")
        if any(UNCUT_FOLDER.fullmatch(part) for part in folders):
            uncut.append(path)
            continue
        match = next((m for part in reversed(folders) if (m := CLASS_FOLDER.fullmatch(part))), None)
        if match is None or len(name) <= N_SUBJECT_CHARACTERS:
            unparsed.append(path)
            continue
        category = CLASSES.get(match[1].lower(), match[1].lower())
        if task == "category":
            label = category
        elif category == "deaf":
            n_deaf += 1
            continue
        else:
            label = "asphyxia" if category == "asphyxia" else "normal"
        rows.append({"path": path, "subject": name[:N_SUBJECT_CHARACTERS], "label": label})
    if n_deaf:
        notes.append(f"{n_deaf:,} recordings of deaf infants left out")
    notes += skipped(uncut, "they hold the one-second pieces uncut")
    notes += skipped(unparsed, "their names do not parse or their folder names no class")
    return Reading(rows, notes, n_found=len(rows) + n_deaf)


CORPUS = Corpus(
    name="chillanto",
    title="Baby Chillanto: infant cries, asphyxia and deafness (restricted access)",
    folder=("chillanto", "baby_chillanto", "baby-chillanto", "BabyChillanto"),
    marks=("*[Aa]sphyxia", "*[Dd]eaf"),
    tasks=("asphyxia", "category"),
    default_task="asphyxia",
    positive={"asphyxia": "asphyxia"},
    licence="restricted: on request from its owner, Instituto Nacional de Astrofísica, Óptica y Electrónica "
    "- CONACYT, Mexico",
    citation="Reyes-Galaviz, O. F., Cano-Ortiz, S. D. and Reyes-García, C. A. Evolutionary-Neural System to "
    "Classify Infant Cry Units for Pathologies Identification in Recently Born Babies. MICAI 2008",
    preset="mfcc40",
    read=read,
    notes=(
        "the first four characters of a file's name are taken for the infant, as users of the corpus "
        "describe",
    ),
    n_published=2268,
    gated="ask the Instituto Nacional de Astrofísica, Óptica y Electrónica (Mexico) for the Baby Chillanto "
    "Data Base and put its class folders into chillanto",
)
