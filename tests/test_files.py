import errno
from pathlib import Path

import pytest

from vagitus.files import atomic_path, content_hash, write_atomic


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.html"
    write_atomic(target, "old and longer")
    write_atomic(target, "né")
    assert target.read_bytes() == "né".encode()
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    write_atomic(target, "old")
    with pytest.raises(OSError, match="No space left"), atomic_path(target) as temporary:
        temporary.write_text("half of the new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_really_full_device_is_reported_and_publishes_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    target = tmp_path / "scores.csv"
    with pytest.raises(OSError, match="No space left"), atomic_path(target) as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_text("x")
    assert not target.exists()


def test_published_files_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    write_atomic(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_content_hash_is_of_the_bytes_not_the_name(tmp_path: Path) -> None:
    for name, data in (("a", b"x" * (3 << 20)), ("b", b"x" * (3 << 20)), ("c", b"x" * (3 << 20) + b"y")):
        (tmp_path / name).write_bytes(data)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path / "c")
