"""Files that are either whole or not there, and content hashes that name what was read."""

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HASH_BLOCK_BYTES = 1 << 20
MARK = ".vagitus-work"  # a file in a folder that is ours to delete
LOCK = "lock"
OUR_LOCK = re.compile(r"(\d+( on .* since \S*)?)?")  # a process, its machine, when it began
PICKLE_MARKS = (b"PK\x03\x04", b"\x80")  # torch's zip container; a bare pickle
PARTIAL = re.compile(r"\.partial-.*-[a-z0-9_]{8}(\.\w+)?")  # what a process that was killed leaves of a file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    A reader sees the old file or the new one, never a part. On any error, a full disk
    included, the temporary file is removed and ``path`` stays as it was.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because some writers choose their format by it.
    handle, name = tempfile.mkstemp(prefix=f".partial-{path.stem[:80]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; what we publish follows the user's umask.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, name):  # a full disk says no name, and that of the part would help nobody
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` whole or not at all. Raises OSError as ``atomic_path``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def claim(folder: Path) -> None:
    """Make a folder, or take one that an interrupted run left, to keep state in and to delete in the end.

    Raises:
        ValueError: the folder was there and holds what is not ours; names it.
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Runs before there was a mark left a lock with the number of their process.
    lock = folder / LOCK
    ours = (folder / MARK).exists() or (lock.is_file() and lock.read_bytes()[:20].split(b" ")[0].isdigit())
    if not ours and any(folder.iterdir()):
        raise ValueError(
            f"{folder}: holds something else, and would be deleted at the end; move it, or give another --out"
        )
    (folder / MARK).touch()


def discard(folder: Path) -> None:
    """Delete a claimed folder, its mark last: killed on the way, what is left is still known as ours."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    (folder / MARK).unlink(missing_ok=True)
    folder.rmdir()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` against a second process that asks for the same lock; a killed holder lets go.

    The system holds the lock as long as the process lives, so that what stands in the file decides nothing: it is
    there to be named. Parts of files that a killed holder left in the folder are removed. Where the system has no
    ``flock`` nothing is held.

    Raises:
        ValueError: another process holds it; names the folder, the process, its machine and when it began. Or a
            file of that name stands there that no run left.
        OSError: the folder cannot be made or written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise ValueError(
                f"{folder}: {what} is running here (process {holder}); wait for it, or give another --out"
            ) from None
        file.seek(0)
        if not OUR_LOCK.fullmatch(file.read(200)):
            raise ValueError(f"{folder / LOCK}: is no lock of a run; move it, or give another --out")
        file.truncate(0)
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        file.write(f"{os.getpid()} on {platform.node()} since {began}")
        file.flush()
        sweep(folder)
        yield


@contextmanager
def working(folder: Path, what: str, *, keep: bool = True) -> Iterator[None]:
    """A folder to keep state in: claimed, locked, deleted after the block.

    Args:
        keep: on an error, for the next call to go on from.

    Raises:
        ValueError, OSError: as ``claim`` and ``locked``.
    """
    claim(folder)
    with locked(folder, what):
        try:
            yield
        except BaseException:
            if not keep:
                discard(folder)
            raise
        discard(folder)


def sweep(folder: Path) -> None:
    """Remove the parts of files that processes left in a folder when they were killed; nobody may be writing there."""
    for path in folder.glob(".partial-*"):
        if PARTIAL.fullmatch(path.name):
            path.unlink()


def refuse_pickle(path: Path) -> None:
    """Refuse a model that is a pickle, which nothing here opens.

    Raises:
        ValueError: it begins as one does; says how to convert it.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        is_pickle = file.read(4).startswith(PICKLE_MARKS)
    if is_pickle:
        raise ValueError(
            f"{path}: a pickled checkpoint can run code when it is opened, so it is refused; convert it where it was "
            "made with safetensors.torch.save_file(state_dict, 'model.safetensors')"
        )


def content_hash(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits, read in blocks."""
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
