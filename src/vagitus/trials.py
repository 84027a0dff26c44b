"""Files of trials: tables of pairs of recordings, and CryCeleb's pairs and submissions.

Conventions are those of ``vagitus.verification``. Here too
    B, D        CryCeleb's two sessions of an infant: after birth, and before discharge from the hospital
    views       by path or by session: (n_views, dim) embeddings each, or (dim,) for one

What a file gets wrong is refused with its row: a recording that is not here, a trial twice, a label that
contradicts its subjects, a submission that lacks a pair.
"""

import csv
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.audio import read
from vagitus.corpora import load_corpus
from vagitus.encoders import Encoder
from vagitus.files import write_atomic
from vagitus.metrics import FloatArray, IntArray, equal_error_statistic
from vagitus.verification import (
    Verified,
    adaptive_norm,
    check_both_kinds,
    embed_session,
    evaluate,
    min_dcf_statistic,
    score_all,
    session_vectors,
)

Float32 = NDArray[np.float32]


# A table of trials between recordings.

SAME, DIFFERENT = {"1", "same"}, {"0", "different"}


@dataclass(frozen=True)
class TrialTable:
    """Trials between recordings, of ``read_trials``.

    Attributes:
        enrolled, tested: (n_trials,) paths.
        labels: (n_trials,) 1 for one subject, 0 for two; None if the table does not say.
        first, second: (n_trials,) subjects; None if the table does not say.
    """

    enrolled: tuple[Path, ...]
    tested: tuple[Path, ...]
    labels: IntArray | None
    first: tuple[str, ...] | None
    second: tuple[str, ...] | None


def read_trials(path: Path | str) -> TrialTable:
    """Read a CSV of trials: columns ``enrolled`` and ``tested`` (paths, relative to the file), and so far as known
    ``enrolled_subject`` and ``tested_subject``, or ``label`` (1 or same, 0 or different).

    Raises:
        FileNotFoundError: no such file, or a recording that is not there; names the row.
        ValueError: a column is missing, a trial stands there twice, a label is another word, or contradicts the
            subjects; names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    columns, rows = _table(path)
    for column in ("enrolled", "tested"):
        if column not in columns:
            raise ValueError(
                f"{path}: has no column {column!r}; a trial is a path in enrolled and one in tested"
            )
    if not rows:
        raise ValueError(f"{path}: holds no trial; give a row for each pair")
    has_subjects = "enrolled_subject" in columns
    if has_subjects != ("tested_subject" in columns):
        raise ValueError(
            f"{path}: has one of enrolled_subject and tested_subject; give both columns, or neither"
        )
    pairs: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=2):
        pair = (row["enrolled"] or "").strip(), (row["tested"] or "").strip()
        if "" in pair:
            raise ValueError(f"{path}, row {number}: a recording is blank; a trial needs both")
        # One file has one name: ./a.wav is a.wav.
        pair = os.path.normpath(pair[0]), os.path.normpath(pair[1])
        # Which of two is enrolled makes no difference to a cosine.
        if (before := pairs.get(pair) or pairs.get(pair[::-1])) is not None:
            raise ValueError(f"{path}, row {number}: repeats the trial of row {before}; give each once")
        if pair[0] == pair[1]:
            raise ValueError(f"{path}, row {number}: compares {pair[0]} with itself; leave it out")
        pairs[pair] = number
    found: dict[str, Path] = {}
    for pair, number in pairs.items():
        for name in pair:
            if name not in found:
                found[name] = path.parent / name
                if not found[name].is_file():
                    raise FileNotFoundError(
                        f"{path}, row {number}: {name} does not exist; paths start from {path.parent}"
                    )
    labels = first = second = None
    if has_subjects:
        first = tuple((row["enrolled_subject"] or "").strip() for row in rows)
        second = tuple((row["tested_subject"] or "").strip() for row in rows)
        if "" in (*first, *second):
            number = 2 + next(i for i, pair in enumerate(zip(first, second, strict=True)) if "" in pair)
            raise ValueError(f"{path}, row {number}: a subject is blank; name both, or leave the columns out")
        labels = np.array([a == b for a, b in zip(first, second, strict=True)], np.int64)
    if "label" in columns:
        given = np.array([_label(path, number, row["label"]) for number, row in enumerate(rows, start=2)])
        if labels is not None and (wrong := np.flatnonzero(given != labels)).size:
            raise ValueError(
                f"{path}, row {2 + wrong[0]}: label {given[wrong[0]]} contradicts the subjects; correct one"
            )
        labels = given
    enrolled, tested = (tuple(found[pair[side]] for pair in pairs) for side in (0, 1))
    return TrialTable(enrolled, tested, labels, first, second)


def _table(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Columns and rows of a CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no CSV in UTF-8 ({error}); save it as one") from error


def _label(path: Path, number: int, text: str | None) -> int:
    word = (text or "").strip().lower()
    if word not in SAME | DIFFERENT:
        raise ValueError(f"{path}, row {number}: label {text!r} is neither 1 (same) nor 0 (different)")
    return int(word in SAME)


def score_trials(
    trials: TrialTable, views: Mapping[Path, ArrayLike], cohort: Sequence[ArrayLike] = ()
) -> FloatArray:
    """Scores of a table's trials: (n_trials,). All recordings are compared at once, then the trials are looked up.

    Args:
        views: of every recording in the table, (n_views, dim) or (dim,).
        cohort: of recordings of other subjects, to normalise by (``adaptive_norm``); none for plain cosines.
    """
    enrolled, tested = (list(dict.fromkeys(side)) for side in (trials.enrolled, trials.tested))
    a, b = (session_vectors([views[path] for path in side]) for side in (enrolled, tested))
    scores = score_all(a, b)
    if len(cohort):
        others = session_vectors(cohort)
        scores = adaptive_norm(scores, score_all(a, others), score_all(b, others))
    row = {path: i for i, path in enumerate(enrolled)}
    column = {path: i for i, path in enumerate(tested)}
    return np.asarray(
        scores[[row[path] for path in trials.enrolled], [column[path] for path in trials.tested]]
    )


def error_rates(
    trials: TrialTable, scores: FloatArray, *, rng: np.random.Generator
) -> Verified | tuple[float, float]:
    """What a table's labels say of its scores: with subjects ``evaluate``, else EER and least cost alone.

    Raises:
        ValueError: the table has no labels, or trials of one kind alone.
    """
    if trials.labels is None:
        raise ValueError("the trials have no labels; add a column label, or the two subjects")
    check_both_kinds(trials.labels)
    if trials.first is not None and trials.second is not None:
        return evaluate(scores, trials.first, trials.second, rng=rng)
    weights = np.ones((1, len(scores)))
    eer = float(equal_error_statistic(trials.labels, scores)(weights)[0])
    return eer, float(min_dcf_statistic(trials.labels, scores)(weights)[0])


# CryCeleb's protocol: every infant's session after birth (B) against every infant's before discharge (D).

Session = tuple[str, str]  # infant, and B or D
PAIR_COLUMNS = ("baby_id_B", "baby_id_D", "id")
SUBMISSION_COLUMNS = ("id", "score")


@dataclass(frozen=True)
class Pairs:
    """Trials of CryCeleb, of ``read_pairs`` or ``all_pairs``.

    Attributes:
        ids: (n_pairs,) the publisher's name of each.
        born, discharged: (n_pairs,) the infant of the session B, and of the session D.
        labels: (n_pairs,) 1 for one infant, None where the publisher keeps them.
        source: the file, for errors.
    """

    ids: tuple[str, ...]
    born: tuple[str, ...]
    discharged: tuple[str, ...]
    labels: IntArray | None
    source: str

    @property
    def sessions(self) -> list[Session]:
        """Those that the pairs name, each once."""
        born, discharged = dict.fromkeys(self.born), dict.fromkeys(self.discharged)
        return [*((baby, "B") for baby in born), *((baby, "D") for baby in discharged)]

    @property
    def n_absent(self) -> int:
        """Of all B x D pairs of these infants, those that are not here: 0 in the publisher's files."""
        return len(set(self.born)) * len(set(self.discharged)) - len(self.ids)


def read_sessions(folder: Path | str, split: str = "") -> dict[Session, tuple[Path, ...]]:
    """The segments of every session of a CryCeleb folder, in their chronological order.

    Args:
        folder: the publisher's: ``metadata.csv`` beside ``audio/``.
        split: train, dev or test; all of them by default.

    Raises:
        FileNotFoundError: no such folder, or without its table.
        ValueError: no recording of that split.
    """
    manifest = load_corpus("cryceleb", root=folder, task="period")
    found: dict[Session, list[tuple[float, Path]]] = {}
    for i in range(len(manifest)):
        if split and manifest.covariates["official_split"][i] != split:
            continue
        session = str(manifest.subject[i]), str(manifest.label[i])
        index = float(manifest.covariates["chronological_index"][i])
        found.setdefault(session, []).append((index, manifest.file(i)))
    if not found:
        raise ValueError(f"{folder}: no recording of split {split!r}; there are train, dev and test")
    return {session: tuple(path for _, path in sorted(found[session])) for session in sorted(found)}


def all_pairs(sessions: Mapping[Session, object], source: str = "all pairs") -> Pairs:
    """Every B with every D session: what the publisher's pairs of dev and test are, for another split.

    Raises:
        ValueError: there is no session of B or of D.
    """
    born, discharged = ([baby for baby, period in sessions if period == wanted] for wanted in ("B", "D"))
    if not born or not discharged:
        raise ValueError(f"{source}: {len(born)} sessions B and {len(discharged)} D; a pair needs both")
    pairs = [(b, d) for b in born for d in discharged]
    return Pairs(
        ids=tuple(f"{b}_{d}" for b, d in pairs),
        born=tuple(b for b, _ in pairs),
        discharged=tuple(d for _, d in pairs),
        labels=np.array([b == d for b, d in pairs], np.int64),
        source=source,
    )


def read_pairs(path: Path | str, sessions: Mapping[Session, object]) -> Pairs:
    """Read ``dev_pairs.csv`` or ``test_pairs.csv``: columns baby_id_B, baby_id_D, id, and label where it is known.

    Args:
        sessions: those that are here; of ``read_sessions``.

    Raises:
        FileNotFoundError: no such file, or a pair names a session of which nothing is here; names the row.
        ValueError: a column is missing, a pair or an id stands there twice, or a label contradicts the infants.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    columns, table = _table(path)
    if missing := [name for name in PAIR_COLUMNS if name not in columns]:
        raise ValueError(f"{path}: has no column {missing[0]!r}; download it again")
    rows = [{name: row[name] or "" for name in columns} for row in table]
    if not rows:
        raise ValueError(f"{path}: holds no pair; download it again")
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, start=2):
        pair = row["baby_id_B"], row["baby_id_D"]
        if not row["id"]:
            raise ValueError(f"{path}, row {number}: its id is blank; download it again")
        for session in zip(pair, "BD", strict=True):
            if session not in sessions:
                raise FileNotFoundError(
                    f"{path}, row {number}: names infant {session[0]}, period {session[1]}, of which no recording "
                    "is here; download the audio, or leave the pair out"
                )
        for key in (pair, (row["id"],)):
            if key in seen:
                raise ValueError(
                    f"{path}, row {number}: repeats {'pair' if key == pair else 'id'} {' '.join(key)} of row "
                    f"{seen[key]}; each stands there once"
                )
            seen[key] = number
    born, discharged = (tuple(row[name] for row in rows) for name in PAIR_COLUMNS[:2])
    labels = None
    if "label" in columns and any(row["label"] for row in rows):
        labels = np.array([_label(path, number, row["label"]) for number, row in enumerate(rows, start=2)])
        truth = np.array([b == d for b, d in zip(born, discharged, strict=True)], np.int64)
        if (wrong := np.flatnonzero(labels != truth)).size:
            raise ValueError(
                f"{path}, row {2 + wrong[0]}: label {labels[wrong[0]]} contradicts the infants' names; "
                "download it again"
            )
    return Pairs(tuple(row["id"] for row in rows), born, discharged, labels, str(path))


def embed_sessions(
    encoder: Encoder,
    sessions: Mapping[Session, Sequence[Path]],
    *,
    crop_s: float | None,
    n_views: int,
    seed: int,
) -> dict[Session, Float32]:
    """The views of every session, (n_views, dim) each; chance depends on the session and the seed, not on the others.

    Raises:
        AudioError: a recording that cannot be read or embedded; names it.
    """
    views = {}
    for (baby, period), paths in sessions.items():
        rng = np.random.default_rng([seed, zlib.crc32(f"{baby} {period}".encode())])
        segments = [read(path, sample_rate_hz=encoder.sample_rate_hz).samples for path in paths]
        try:
            views[baby, period] = embed_session(encoder, segments, crop_s=crop_s, n_views=n_views, rng=rng)
        except ValueError as error:
            raise ValueError(f"infant {baby}, period {period}: {error}") from error
    return views


def score_pairs(
    pairs: Pairs, views: Mapping[Session, ArrayLike], cohort: Sequence[ArrayLike] = ()
) -> FloatArray:
    """Scores (n_pairs,) of all pairs: one product of all B with all D sessions, then the pairs are looked up.

    Args:
        views: of every session that the pairs name.
        cohort: sessions of other infants, such as the training split's, to normalise by; none for plain cosines.
    """
    born, discharged = (list(dict.fromkeys(side)) for side in (pairs.born, pairs.discharged))
    b = session_vectors([views[baby, "B"] for baby in born])
    d = session_vectors([views[baby, "D"] for baby in discharged])
    scores = score_all(b, d)
    if len(cohort):
        others = session_vectors(cohort)
        scores = adaptive_norm(scores, score_all(b, others), score_all(d, others))
    row = {baby: i for i, baby in enumerate(born)}
    column = {baby: i for i, baby in enumerate(discharged)}
    return np.asarray(scores[[row[baby] for baby in pairs.born], [column[baby] for baby in pairs.discharged]])


def write_submission(path: Path | str, pairs: Pairs, scores: ArrayLike) -> None:
    """Write the scores as the challenge takes them: id and score, in the order of the pairs; whole or not at all.

    Raises:
        ValueError: not one finite score for each pair.
        OSError: the file cannot be written.
    """
    s = np.asarray(scores, np.float64)
    if s.shape != (len(pairs.ids),) or not np.isfinite(s).all():
        raise ValueError(f"{path}: needs a finite score for each of {len(pairs.ids)} pairs, got {s.shape}")
    text = io.StringIO()
    rows = ((name, repr(float(score))) for name, score in zip(pairs.ids, s, strict=True))
    csv.writer(text, lineterminator="\n").writerows([SUBMISSION_COLUMNS, *rows])
    write_atomic(Path(path), text.getvalue())


def read_submission(path: Path | str, pairs: Pairs) -> FloatArray:
    """Scores of a submission in the order of the pairs, (n_pairs,), every pair exactly once.

    Raises:
        FileNotFoundError: no such file.
        ValueError: columns other than id and score, an id that is no pair's, stands there twice or is missing, or a
            score that is no finite number; names the first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    index = {name: i for i, name in enumerate(pairs.ids)}
    scores = np.full(len(index), np.nan)
    columns, rows = _table(path)
    if tuple(columns) != SUBMISSION_COLUMNS:
        raise ValueError(f"{path}: its columns must be id,score, found {','.join(columns)}")
    for number, row in enumerate(rows, start=2):
        i = index.get(row["id"] or "")
        if i is None:
            raise ValueError(f"{path}, row {number}: id {row['id']!r} is no pair of {pairs.source}")
        if not np.isnan(scores[i]):
            raise ValueError(f"{path}, row {number}: id {row['id']!r} stands there twice; score a pair once")
        try:
            scores[i] = float(row["score"] or "")
        except ValueError:
            scores[i] = np.nan
        if not np.isfinite(scores[i]):
            raise ValueError(f"{path}, row {number}: score {row['score']!r} is no finite number")
    if (missing := np.flatnonzero(np.isnan(scores))).size:
        raise ValueError(
            f"{path}: {missing.size} of {len(index)} pairs are missing, first {pairs.ids[missing[0]]!r}; score all"
        )
    return scores
