"""What is deleted when the work is done was made by us, and nothing else is."""

import re
import sys
from pathlib import Path

import pytest

from vagitus import cli
from vagitus.files import MARK, claim, locked


def test_a_folder_with_something_else_in_it_is_refused_and_stays(tmp_path: Path) -> None:
    work = tmp_path / "source-work"
    work.mkdir()
    (work / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=re.escape(f"{work}: holds something else, and would be deleted")):
        claim(work)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]


def test_a_lock_of_someone_else_is_no_sign_of_ours(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("do not open")
    with pytest.raises(ValueError, match="holds something else"):
        claim(tmp_path)


def test_a_new_an_empty_and_an_interrupted_folder_are_taken(tmp_path: Path) -> None:
    claim(tmp_path / "new" / "source-work")
    claim(tmp_path / "new" / "source-work")
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty")
    with locked(tmp_path / "before-there-was-a-mark", "a run"):
        pass
    claim(tmp_path / "before-there-was-a-mark")
    assert len(list(tmp_path.rglob(MARK))) == 3


@pytest.mark.parametrize("verb", ["pretrain", "train"])
def test_verbs_refuse_a_folder_that_is_not_theirs(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m-work").mkdir()
    (tmp_path / "m-work" / "thesis.txt").write_text("years of work")
    words = ["--corpus", "simulated", "--out", "m.safetensors", "--cache", str(tmp_path / "cache")]
    words += ["--task", "simclr"] if verb == "pretrain" else []
    monkeypatch.setattr(sys, "argv", ["vagitus", verb, *words])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2
    assert "m-work: holds something else" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "m-work" / "thesis.txt").read_text() == "years of work"


def test_a_network_beside_a_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--corpus", "simulated", "--task", "simclr", "--start", "a.safetensors", "--model", "res8"]
    monkeypatch.setattr(sys, "argv", ["vagitus", "pretrain", *words])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "vagitus: options: start goes on with the network of a.safetensors; leave model 'res8' out"
    )
