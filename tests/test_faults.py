"""What goes wrong while a run writes: it is said, nothing half-written stands, and the next run goes on.

The slow ones, with real kills of whole runs, are ``benchmarks/faults.py``.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import Command

from vagitus.corpora.simulated import generate
from vagitus.files import (
    LOCK,
    MARK,
    PARTIAL,
    atomic_path,
    claim,
    discard,
    locked,
    sweep,
    working,
    write_atomic,
)

LIMITED = """
import resource, sys
from pathlib import Path
from vagitus.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
write_atomic(Path(sys.argv[1]), "x" * 6000)
"""
KILLED_WRITING = """
import os, signal, sys
from pathlib import Path
from vagitus.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDING = """
import sys, time
from pathlib import Path
from vagitus.files import locked
with locked(Path(sys.argv[1]), "a study"):
    print("held", flush=True)
    time.sleep(60)
"""


def script(text: str, *words: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    generate(folder, n_subjects=20, n_recordings_per_subject=2, duration_s=1.0, sample_rate_hz=8000)
    return folder / "manifest.csv"


def test_a_file_that_outgrows_what_may_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    write_atomic(target, "old")
    run = script(LIMITED, target)
    assert run.returncode == 1 and run.stderr.endswith(f"File too large: '{target}'\n")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_writer_killed_on_the_way_leaves_a_part_that_the_next_holder_removes(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    write_atomic(target, "old")
    assert script(KILLED_WRITING, target).returncode == -signal.SIGKILL
    (part,) = (path for path in tmp_path.iterdir() if path != target)
    assert PARTIAL.fullmatch(part.name) and part.read_text() == "half" and target.read_text() == "old"
    with locked(tmp_path, "a study"):
        assert not part.exists()
    assert target.read_text() == "old"


def test_only_parts_are_swept(tmp_path: Path) -> None:
    kept = [MARK, "scores.csv", ".partial-mine", ".partial-notes-2026.txt", "x.partial-y-abcd1234.csv"]
    for name in kept:
        (tmp_path / name).write_text("")
    with atomic_path(tmp_path / "report.html") as temporary:
        sweep(tmp_path)
        assert not temporary.exists()
        temporary.write_text("")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "report.html"])


def test_a_second_run_is_refused_with_the_first_ones_number_machine_and_beginning(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        named = rf"a study is running here \(process {holder.pid} on {re.escape(os.uname().nodename)} since \d{{4}}-"
        with pytest.raises(ValueError, match=named), locked(tmp_path, "a study"):
            pass
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    with locked(tmp_path, "a study"):  # what the killed one wrote into the lock holds nobody
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


def test_a_file_called_lock_that_no_run_left_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"canal lock, recorded in May, 9 \xb0C")
    with pytest.raises(ValueError, match="lock: is no lock of a run; move it"), locked(tmp_path, "a study"):
        pass
    assert (tmp_path / LOCK).read_bytes() == b"canal lock, recorded in May, 9 \xb0C"


def test_a_lock_from_the_future_is_no_lock(tmp_path: Path) -> None:
    """The clock was set back since: a time that stands in a file, or in its date, decides nothing."""
    (tmp_path / LOCK).write_text("4000000 on elsewhere since 2999-01-01T00:00:00Z")
    os.utime(tmp_path / LOCK, (32e9, 32e9))
    with locked(tmp_path, "a study"):
        pass


def test_a_folder_whose_deletion_was_interrupted_is_still_known_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(tmp_path / "work")
    (tmp_path / "work" / "a.state").write_text("")
    (tmp_path / "work" / "features.npy").write_text("")
    unlink, n_unlinked = Path.unlink, 0

    def unlink_once(path: Path, missing_ok: bool = False) -> None:
        nonlocal n_unlinked
        n_unlinked += 1
        if n_unlinked == 2:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_once)
    with pytest.raises(KeyboardInterrupt):
        discard(tmp_path / "work")
    assert len(list((tmp_path / "work").iterdir())) == 2
    claim(tmp_path / "work")
    discard(tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_state_is_kept_on_an_error_if_it_can_be_gone_on_from(tmp_path: Path, keep: bool) -> None:
    work = tmp_path / "m-work"
    with pytest.raises(ArithmeticError), working(work, "a training", keep=keep):
        (work / "a.state").write_text("")
        raise ArithmeticError
    assert work.exists() == keep
    with working(work, "a training"):
        assert (work / "a.state").exists() == keep
    assert not work.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["study", "MANIFEST", "--out", "OUT/study"],
        ["train", "MANIFEST", "--out", "OUT/m.safetensors"],
        ["pretrain", "MANIFEST", "--task", "speakers", "--out", "OUT/m.safetensors"],
        ["audit", "MANIFEST", "--out", "OUT/audit.json"],
    ],
)
def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    words: list[str], manifest: Path, tmp_path: Path, vagitus: Command
) -> None:
    """Root may write whatever the mode says: what nobody can write below is a file."""
    (tmp_path / "file").write_text("mine")
    named = {"MANIFEST": str(manifest), "OUT": str(tmp_path / "file")}
    for key, path in named.items():
        words = [word.replace(key, path) for word in words]
    words += ["--workers", "1"] if words[0] == "audit" else ["--workers", "1", "--cache", str(tmp_path / "c")]
    run = vagitus(*words)
    assert run.status == 2 and str(tmp_path / "file") in run.err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_a_second_run_of_a_verb_is_refused(
    verb: str, manifest: Path, tmp_path: Path, vagitus: Command
) -> None:
    work = tmp_path / "m-work"
    claim(work)
    words = ["--task", "speakers"] if verb == "pretrain" else []
    with locked(work, "something"):
        run = vagitus(verb, manifest, *words, "--out", tmp_path / "m.safetensors", "--cache", tmp_path / "c")
    assert run.status == 2 and f"is running here (process {os.getpid()} on " in run.err
    assert not (tmp_path / "m.safetensors").exists()
