"""Corpora by name: a folder as its publisher lays it out → a manifest. Add a file and a row.

``simulated`` is always there; the others read what lies below the data root (``--root``, else
``$VAGITUS_DATA``).
"""

import difflib
from pathlib import Path

from vagitus.corpora import (
    chillanto,
    circor,
    cryceleb,
    donateacry,
    dspspeech20,
    esc,
    icbhi,
    librispeech,
    physionet2016,
    simulated,
    speech_commands,
    sprsound,
    vctk,
    vggsound,
)
from vagitus.corpora.corpus import Corpus
from vagitus.fetch import DEADLINE_S, Progress, fetch
from vagitus.manifest import Manifest, build_manifest

CORPORA: dict[str, Corpus] = {
    "simulated": simulated.CORPUS,
    # infant cries
    "donateacry": donateacry.CORPUS,
    "chillanto": chillanto.CORPUS,
    "cryceleb": cryceleb.CORPUS,
    # hearts and lungs
    "physionet2016": physionet2016.CORPUS,
    "circor": circor.CORPUS,
    "sprsound": sprsound.CORPUS,
    "icbhi": icbhi.CORPUS,
    # sources to transfer from
    "speech_commands": speech_commands.CORPUS,
    "librispeech": librispeech.CORPUS,
    "vctk": vctk.CORPUS,
    "dspspeech20": dspspeech20.CORPUS,
    "esc": esc.CORPUS,
    "vggsound": vggsound.CORPUS,
}


def find_corpus(name: str) -> Corpus:
    """The row of ``CORPORA``.

    Raises:
        ValueError: no corpus has that name; the message lists those that exist and the nearest.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no corpus {name!r}; {hint}choose from {', '.join(CORPORA)}")
    return CORPORA[name]


def load_corpus(name: str, *, root: Path | str | None = None, task: str | None = None) -> Manifest:
    """The manifest of one task of a corpus.

    Args:
        name: a key of ``CORPORA``.
        root: the data root or the corpus folder itself; default ``$VAGITUS_DATA``, for ``simulated`` the
            user's cache.
        task: one of the corpus's tasks; default its ``default_task``.

    Raises:
        FileNotFoundError: the corpus is not there; says where it looked and how to get it.
        ValueError: no such corpus or task, or a table that breaks its publisher's format.
    """
    return find_corpus(name).load(root, task)


def all_recordings(name: str, *, root: Path | str | None = None) -> Manifest:
    """Every recording that any task of a corpus reads, whole and once, with its subject alone.

    Args and errors as ``load_corpus``.
    """
    parts = [load_corpus(name, root=root, task=task) for task in find_corpus(name).tasks]
    subjects = {
        path: subject
        for part in parts
        for path, subject in zip(part.path.tolist(), part.subject.tolist(), strict=True)
    }
    rows = ({"path": path, "subject": subject} for path, subject in subjects.items())
    return build_manifest(rows, parts[0].root, name, simulated=parts[0].simulated)


def fetch_corpus(
    name: str, root: Path | str, *, deadline_s: float = DEADLINE_S, progress: Progress | None = None
) -> Path:
    """Download a corpus below ``root`` from its publisher, pinned and verified (``vagitus.fetch``).

    Returns:
        The corpus folder.

    Raises:
        ValueError: no such corpus, it cannot be fetched (the message says what to do instead), its folder is
            there already, or what came is not what was pinned.
        TimeoutError, ConnectionError, OSError: as ``vagitus.fetch.fetch``.
    """
    corpus = find_corpus(name)
    if not corpus.fetch:
        raise ValueError(f"{name} cannot be fetched; {corpus.how_to_get}")
    return fetch(corpus.fetch, Path(root) / corpus.folder[0], deadline_s=deadline_s, progress=progress)
