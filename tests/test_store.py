"""The store of the enrolled: kept whole, found again, forgotten, and refused when it is not what it says."""

import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus.store import FORMAT, Store, create_store, open_store

DIM = 6


def vector(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((*shape, DIM))


def made(path: Path) -> Store:
    return create_store(path, identity="ge2e-1-abc", dim=DIM, sample_rate_hz=16_000)


def filled(path: Path) -> Path:
    with made(path) as store:
        store.enrol("ada", {"r1": vector(1), "r2": vector(2)})
        store.enrol("bo", {"r3": vector(3)})
    return path


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_enrolled_are_found_by_their_mean_cosine(tmp_path: Path) -> None:
    probe = vector(9)
    with open_store(filled(tmp_path / "s.db"), identity="ge2e-1-abc") as store:
        found = store.identify(probe)
    wanted = {
        "ada": (cosine(probe, vector(1)) + cosine(probe, vector(2))) / 2,
        "bo": cosine(probe, vector(3)),
    }
    assert [match.subject for match in found] == sorted(wanted, key=lambda name: -wanted[name])
    assert {match.subject: match.n_enrolled for match in found} == {"ada": 2, "bo": 1}
    for match in found:
        assert match.score == pytest.approx(wanted[match.subject], abs=1e-6)


def test_views_of_a_probe_and_of_the_enrolled_are_averaged(tmp_path: Path) -> None:
    views, others = vector(1, 3), vector(2, 2)
    with made(tmp_path / "s.db") as store:
        store.enrol("ada", {"r": views})
        (found,) = store.identify(others)
    assert found.score == pytest.approx(np.mean([cosine(a, b) for a in views for b in others]), abs=1e-6)


def test_equal_scores_come_by_name_and_no_more_than_asked_for(tmp_path: Path) -> None:
    with made(tmp_path / "s.db") as store:
        for name in ("cy", "ada", "bo"):
            store.enrol(name, {f"r {name}": vector(1)})
        assert [match.subject for match in store.identify(vector(1), n_best=2)] == ["ada", "bo"]


def test_a_recording_that_is_here_already_is_passed_over(tmp_path: Path) -> None:
    with made(tmp_path / "s.db") as store:
        assert store.enrol("ada", {"r1": vector(1), "r2": vector(2)}) == 2
        assert store.enrol("ada", {"r2": vector(2), "r3": vector(3)}) == 1
        assert store.subjects() == {"ada": 3}


def test_a_recording_of_another_subject_enrols_nothing(tmp_path: Path) -> None:
    with open_store(filled(tmp_path / "s.db")) as store:
        with pytest.raises(ValueError, match="r3 is enrolled for 'bo'"):
            store.enrol("ada", {"r9": vector(9), "r3": vector(3)})
        assert store.subjects() == {"ada": 2, "bo": 1}  # nor r9


def test_an_erased_subject_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    trace = (vector(1) / np.linalg.norm(vector(1))).astype("<f4").tobytes()
    assert trace in path.read_bytes() and b"ada" in path.read_bytes()
    with open_store(path) as store:
        assert store.erase("ada") == 2
    data = path.read_bytes()
    assert trace not in data and trace[:8] not in data and b"ada" not in data
    with open_store(path) as store:
        assert store.subjects() == {"bo": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s.db"]  # no journal, no copy


def test_the_journal_of_an_erasure_keeps_nothing_either(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    trace = (vector(1) / np.linalg.norm(vector(1))).astype("<f4").tobytes()
    kept: list[BinaryIO] = []  # what is deleted stays readable for who has it open

    def hold(_: str) -> None:
        if (journal := tmp_path / "s.db-journal").exists():
            kept.append(journal.open("rb"))

    with open_store(path) as store:
        store._connection.set_trace_callback(hold)
        store.erase("ada")
    assert kept
    for file in kept:
        with file:
            assert trace not in file.read()
    assert [p.name for p in tmp_path.iterdir()] == ["s.db"]


def test_after_an_erasure_others_may_write_again(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    with open_store(path) as first:
        first.erase("ada")
        with pytest.raises(ValueError, match="nobody named 'ada'"):
            first.erase("ada")
        with open_store(path) as second:
            second._connection.execute("PRAGMA busy_timeout = 0")
            assert second.enrol("ada", {"r1": vector(1)}) == 1
        assert first.subjects() == {"ada": 1, "bo": 1}


def test_a_store_that_another_process_holds_is_one_line(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    with open_store(path) as store:
        store._connection.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for read in (store.subjects, lambda: store.identify(vector(1))):
            with pytest.raises(ValueError, match="another process is writing"):
                read()
        other.close()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        open_store(tmp_path)


def test_nobody_of_that_name_is_an_error(tmp_path: Path) -> None:
    with (
        open_store(filled(tmp_path / "s.db")) as store,
        pytest.raises(ValueError, match="nobody named 'cy' is enrolled"),
    ):
        store.erase("cy")


def test_an_empty_store_identifies_nobody(tmp_path: Path) -> None:
    with made(tmp_path / "s.db") as store, pytest.raises(ValueError, match="nobody is enrolled; enrol"):
        store.identify(vector(1))


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    assert stat.S_IMODE(filled(tmp_path / "s.db").stat().st_mode) == 0o600


def test_a_store_is_not_made_over_a_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        made(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("subject", ["", " ada", "ada\n", "a\tb", "x" * 201])
def test_a_name_that_cannot_be_typed_again_is_refused(tmp_path: Path, subject: str) -> None:
    with made(tmp_path / "s.db") as store, pytest.raises(ValueError, match="printable characters"):
        store.enrol(subject, {"r": vector(1)})


@pytest.mark.parametrize(
    ("embedding", "match"),
    [(np.ones(5), r"are \(6,\), got \(5,\)"), (np.full(6, np.nan), "NaN"), (np.zeros(6), "all zeros")],
)
def test_a_wrong_embedding_is_refused(tmp_path: Path, embedding: NDArray[np.float64], match: str) -> None:
    with made(tmp_path / "s.db") as store, pytest.raises(ValueError, match=match):
        store.enrol("ada", {"r": embedding})


# Files that are not what they say.


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    whole = path.read_bytes()
    for n in [0, 1, 50, 99, 100, 1000, 4096, 8192, len(whole) - 4096, len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"s\.db: is (empty|cut off|no store|damaged)"):
            open_store(path)


def test_changed_pages_are_refused_or_found_by_their_checksum(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    whole = path.read_bytes()
    at = whole.index((vector(1) / np.linalg.norm(vector(1))).astype("<f4").tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with open_store(path) as store, pytest.raises(ValueError, match="embedding of 'ada' is damaged; erase"):
        store.identify(vector(2))
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    with pytest.raises(ValueError, match="damaged"):
        open_store(path)


def test_an_embedding_under_another_name_is_damage(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE enrolled SET subject = 'bo' WHERE recording = 'r1'")
    connection.close()
    with open_store(path) as store, pytest.raises(ValueError, match="damaged"):
        store.identify(vector(2))


@pytest.mark.parametrize(("version", "age"), [(FORMAT - 1, "an older"), (FORMAT + 1, "a newer")])
def test_another_version_is_refused(tmp_path: Path, version: int, age: str) -> None:
    path = filled(tmp_path / "s.db")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(ValueError, match=f"written by {age} version, in format {version}"):
        open_store(path)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    with pytest.raises(ValueError, match="made by encoder ge2e-1-abc, not onnx-1-def"):
        open_store(path, identity="onnx-1-def")


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(ValueError, match="another program's SQLite file"):
        open_store(path)


def test_a_store_with_something_more_in_its_schema_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON enrolled BEGIN DELETE FROM enrolled; END")
    connection.close()
    with pytest.raises(ValueError, match="tables are not a store's"):
        open_store(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("path,subject\n")
    with pytest.raises(ValueError, match="is no store"):
        open_store(tmp_path / "s.db")
    with pytest.raises(FileNotFoundError, match="`vagitus enrol` makes a store"):
        open_store(tmp_path / "nothing.db")


# Writers.

KILLED = """
import os, signal, sys
import numpy as np
from vagitus.store import open_store
store = open_store(sys.argv[1])
connection = store._connection
connection.execute("PRAGMA cache_size = 1")  # pages are written before the end
connection.execute("BEGIN IMMEDIATE")
for i in range(2000):
    connection.execute("INSERT INTO enrolled VALUES ('cy', ?, ?, ?)", (f"k{i}", bytes(24), bytes(16)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_killed_in_the_middle_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / "s.db-journal").exists()  # it was in the middle
    with open_store(path) as store:
        assert store.subjects() == {"ada": 2, "bo": 1}
        assert store.identify(vector(3))[0].subject == "bo"
        store.enrol("cy", {"r4": vector(4)})


def test_a_second_writer_waits_and_is_told(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.db")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with open_store(path) as store:
        store._connection.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(ValueError, match="another process is writing"):
            store.enrol("cy", {"r4": vector(4)})
    other.execute("ROLLBACK")
    other.close()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        made(tmp_path / "file" / "s.db")
