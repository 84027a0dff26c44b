"""Embeddings of the enrolled on disk: who is this, and forget them.

Conventions
    store       one SQLite file; nothing else is written, nothing leaves the machine
    subject     the name that whoever enrols gives; choose one that means nothing to others
    recording   a short hash of what was embedded, so that the same one is not enrolled twice; no path, no sound
    embedding   (dim,) float32 of one encoder, by its ``identity``; those of two encoders do not compare
    score       mean cosine of a probe with all that a subject has enrolled

A change is a transaction: a process that is killed leaves the store as it was before or after. A store is refused
that another version or another program wrote, that is cut off or damaged, or whose embeddings another
encoder made. Erasing overwrites what it erases with zeros, in the file (SQLite's secure_delete) and in the journal
of the change, and rewrites the file.
What a flash disk, a file system's snapshots or a backup keep of older states is beyond a file's reach.

An embedding of a voice is biometric data: the file is made readable for its owner alone.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.verification import score_all, session_vectors, unit_rows

FORMAT = 1
APPLICATION_ID = 0x76616769  # "vagi": what sqlite3 and file(1) see
MAX_DIM = 1 << 16
MAX_BYTES = 2 << 30
MAX_NAME = 200  # characters of a subject's name
CHECKSUM_BYTES = 16
PAGE_BYTES = 4096
SQLITE_MARK = b"SQLite format 3\0"

SCHEMA = (
    "CREATE TABLE encoder (identity TEXT NOT NULL, dim INTEGER NOT NULL, sample_rate_hz INTEGER NOT NULL)",
    "CREATE TABLE enrolled (subject TEXT NOT NULL, recording TEXT NOT NULL PRIMARY KEY, "
    "embedding BLOB NOT NULL, checksum BLOB NOT NULL)",
)


class Match(NamedTuple):
    """A subject of the store, and how alike a probe is."""

    subject: str
    score: float
    n_enrolled: int  # recordings of the subject


class Store:
    """An open store; a context manager that closes it. Made by ``create_store`` and ``open_store``."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, identity: str, dim: int, rate_hz: int
    ) -> None:
        self.path, self.identity, self.dim, self.sample_rate_hz = path, identity, dim, rate_hz
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def subjects(self) -> dict[str, int]:
        """Recordings enrolled of each subject, by name."""
        with _translated(self.path):
            rows = self._connection.execute(
                "SELECT subject, count(*) FROM enrolled GROUP BY subject ORDER BY subject"
            ).fetchall()
        return {str(subject): int(n) for subject, n in rows}

    def enrol(self, subject: str, recordings: Mapping[str, ArrayLike]) -> int:
        """Add recordings of a subject, all or none.

        Args:
            subject: 1 to ``MAX_NAME`` printable characters, without blanks at its ends.
            recordings: ``files.content_hash`` of each → (dim,), or (n_views, dim) of which the mean is kept.

        Returns:
            How many were new; the subject's own that are here already are passed over.

        Raises:
            ValueError: a bad name, an embedding of another length or not finite, a recording that is enrolled for
                another subject, a store that another process is writing.
        """
        check_name(subject)
        if not recordings:
            raise ValueError(f"{self.path}: nothing to enrol for {subject!r}; give a recording")
        rows = []
        for recording, views in recordings.items():
            vector = self._vector(views)
            data = vector.astype("<f4").tobytes()
            rows.append((recording, data, _checksum(subject, recording, data)))
        n_new = 0
        with self._changing() as connection:
            for recording, data, checksum in rows:
                owner = connection.execute(
                    "SELECT subject FROM enrolled WHERE recording = ?", (recording,)
                ).fetchone()
                if owner is None:
                    connection.execute(
                        "INSERT INTO enrolled VALUES (?, ?, ?, ?)", (subject, recording, data, checksum)
                    )
                    n_new += 1
                elif owner[0] != subject:
                    raise ValueError(
                        f"{self.path}: recording {recording} is enrolled for {owner[0]!r}; erase that subject "
                        "first, or give another recording"
                    )
        return n_new

    def identify(self, views: ArrayLike, *, n_best: int = 5) -> list[Match]:
        """The subjects that a probe is most like, best first; equal ones by name.

        All that is enrolled is compared in one matrix product. The best score says who of the enrolled is nearest,
        not that it is one of them: hold it against a threshold that was set on trials.

        Args:
            views: (dim,) or (n_views, dim) of the probe.
            n_best: at most so many.

        Raises:
            ValueError: an empty store, an embedding of another length, or a damaged row.
        """
        if n_best < 1:
            raise ValueError(f"n_best must be 1 or more, got {n_best}")
        probe = self._vector(views).astype(np.float64)
        subjects: list[str] = []
        rows: list[NDArray[np.float64]] = []
        with _translated(self.path):
            stored = self._connection.execute(
                "SELECT subject, recording, embedding, checksum FROM enrolled ORDER BY subject, recording"
            ).fetchall()
        for subject, recording, data, checksum in stored:
            if len(data) != 4 * self.dim or _checksum(subject, recording, data) != checksum:
                raise ValueError(
                    f"{self.path}: the embedding of {subject!r} is damaged; erase the subject and enrol again"
                )
            subjects.append(subject)
            rows.append(np.frombuffer(data, "<f4").astype(np.float64))
        if not rows:
            raise ValueError(f"{self.path}: nobody is enrolled; enrol somebody first")
        scores = score_all(probe[None], np.stack(rows))[0]
        names, row_of = np.unique(np.array(subjects), return_inverse=True)
        n_of = np.bincount(row_of)
        mean = np.bincount(row_of, scores) / n_of
        best = np.argsort(-mean, kind="stable")[:n_best]
        return [Match(str(names[i]), float(mean[i]), int(n_of[i])) for i in best]

    def erase(self, subject: str) -> int:
        """Forget a subject, and leave nothing of it in the file.

        Returns:
            Recordings erased.

        Raises:
            ValueError: nobody of that name is here, or another process is writing.
        """
        with self._journal_overwritten():
            with self._changing() as connection:
                n = connection.execute("DELETE FROM enrolled WHERE subject = ?", (subject,)).rowcount
                if not n:
                    raise ValueError(f"{self.path}: nobody named {subject!r} is enrolled")
            with _translated(self.path):
                self._connection.execute("VACUUM")
        return int(n)

    @contextmanager
    def _journal_overwritten(self) -> Iterator[None]:
        """Overwrite the journal before it is deleted: it holds the pages as they were before the change."""
        execute = self._connection.execute
        with _translated(self.path):
            execute("PRAGMA locking_mode = EXCLUSIVE")  # or the journal could be another process's by then
            execute("PRAGMA journal_mode = PERSIST")
            try:
                yield
                journal = _journal(self.path)
                with journal.open("r+b") as file:
                    for _ in range(0, journal.stat().st_size, PAGE_BYTES):
                        file.write(bytes(PAGE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                execute("PRAGMA locking_mode = NORMAL")
                execute("PRAGMA journal_mode = DELETE")
                execute("SELECT count(*) FROM encoder").fetchall()  # lets go of the lock

    def _vector(self, views: ArrayLike) -> NDArray[np.float32]:
        x = np.atleast_2d(np.asarray(views, np.float64))
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"{self.path}: its embeddings are ({self.dim},), got {np.shape(views)}; use its encoder"
            )
        return np.asarray(session_vectors([unit_rows(x)])[0], np.float32)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with _translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:  # after a full disk SQLite has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def check_name(subject: str) -> None:
    """Refuse a name that nobody could type again.

    Raises:
        ValueError: not 1 to ``MAX_NAME`` printable characters, or blanks at its ends.
    """
    if not 1 <= len(subject) <= MAX_NAME or subject != subject.strip() or not subject.isprintable():
        raise ValueError(
            f"subject {subject!r}: give 1 to {MAX_NAME} printable characters, no blanks at the ends"
        )


def create_store(path: Path | str, *, identity: str, dim: int, sample_rate_hz: int) -> Store:
    """Make an empty store and open it.

    Args:
        identity, dim, sample_rate_hz: of the ``Encoder`` whose embeddings it will hold.

    Raises:
        FileExistsError: there is a file of that name.
        ValueError: ``dim`` out of range.
        OSError: it cannot be written.
    """
    path = Path(path)
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"{path}: embeddings of {dim} numbers; 1 to {MAX_DIM} can be kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Exclusively, and before SQLite opens it, so that it is never readable for others.
    path.touch(mode=0o600, exist_ok=False)
    connection: sqlite3.Connection | None = None
    try:
        with _translated(path):
            connection = _connect(path)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO encoder VALUES (?, ?, ?)", (identity, dim, sample_rate_hz))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
    except BaseException:
        if connection is not None:
            connection.close()
        path.unlink(missing_ok=True)
        raise
    return Store(path, connection, identity, dim, sample_rate_hz)


def open_store(path: Path | str, *, identity: str | None = None) -> Store:
    """Open a store that is there, checked from its first page to its last.

    Args:
        identity: of the encoder that will be used; None where none will, as for erasing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a store, one of another version, cut off or damaged, or of another encoder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; a store is one file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `vagitus enrol` makes a store")
    _check_file(path)
    connection: sqlite3.Connection | None = None
    try:
        with _translated(path):
            connection = _connect(path)
            row = _checked(path, connection)
        if identity is not None and row[0] != identity:
            raise ValueError(
                f"{path}: its embeddings were made by encoder {row[0]}, not {identity}; use that one, or enrol anew"
            )
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return Store(path, connection, *row)


def _check_file(path: Path) -> None:
    """Before SQLite looks: is it one, is it ours, is it all there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(100)
    if not head:
        raise ValueError(
            f"{path}: is empty; it was cut off, or is no store: take a copy, or delete it and enrol anew"
        )
    if not head.startswith(SQLITE_MARK[: len(head)]):
        raise ValueError(f"{path}: is no store (no SQLite file); name one that `vagitus enrol` made")
    if size > MAX_BYTES:
        raise ValueError(f"{path}: over {MAX_BYTES >> 30} GiB, more than a store may have")
    page = int.from_bytes(head[16:18], "big") if len(head) == 100 else 0
    # 1 stands for 65,536, which does not fit into two bytes (sqlite.org/fileformat2.html, section 1.3.2).
    n_wanted = int.from_bytes(head[28:32], "big") * (page if page != 1 else 1 << 16)
    journal = _journal(path)
    # A process that was killed leaves its journal beside the file, from which SQLite puts it right.
    if (len(head) < 100 or size < n_wanted) and not journal.exists():
        raise ValueError(f"{path}: is cut off, {size:,} of {n_wanted:,} bytes; take a copy, or enrol anew")


def _checked(path: Path, connection: sqlite3.Connection) -> tuple[str, int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ValueError(f"{path}: is another program's SQLite file; name one that `vagitus enrol` made")
    if version != FORMAT:
        age = "an older" if version < FORMAT else "a newer"
        raise ValueError(
            f"{path}: was written by {age} version, in format {version} where this one has {FORMAT}; open it with "
            "that version, or enrol anew"
        )
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
    ).fetchall()
    if tuple(sql for (sql,) in found) != SCHEMA:
        raise ValueError(f"{path}: its tables are not a store's; take a copy, or enrol anew")
    problems = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problems != "ok":
        raise ValueError(f"{path}: is damaged ({' '.join(problems.split())}); take a copy, or enrol anew")
    rows = connection.execute("SELECT identity, dim, sample_rate_hz FROM encoder").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][1], int) or not 1 <= rows[0][1] <= MAX_DIM:
        raise ValueError(f"{path}: does not say what encoder it is for; take a copy, or enrol anew")
    identity, dim, rate_hz = rows[0]
    return str(identity), dim, int(rate_hz)


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")  # SQLite's name for it


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a name that is not there is an error and no new file. No transaction but those begun here.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=5.0
    )
    for pragma in (
        "trusted_schema = OFF",  # what a file made by a stranger defines is not run
        "cell_size_check = ON",
        "secure_delete = ON",
        "temp_store = MEMORY",  # or a rewrite would go through a file elsewhere
        "journal_mode = DELETE",  # a write-ahead log would keep what was erased
        "synchronous = FULL",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, in one line with the file and the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ValueError(f"{path}: another process is writing; try again when it has finished") from error
        raise ValueError(f"{path}: {error}; is its folder writable, its disk full?") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: is cut off or damaged ({error}); take a copy, or enrol anew") from error


def _checksum(subject: str, recording: str, data: bytes) -> bytes:
    # Of the names too: an embedding under another subject's name is damage of the worst kind.
    said = b"\0".join([subject.encode(), recording.encode(), data])
    return hashlib.blake2b(said, digest_size=CHECKSUM_BYTES).digest()
