"""Files that are either whole or not there, and content hashes that name what was read."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HASH_BLOCK_BYTES = 1 << 20
MARK = ".vagitus-work"  # a file in a folder that is ours to delete


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
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; what we publish follows the user's umask.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
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
    lock = folder / "lock"
    ours = (folder / MARK).exists() or (lock.is_file() and lock.read_bytes()[:20].isdigit())
    if not ours and any(folder.iterdir()):
        raise ValueError(
            f"{folder}: holds something else, and would be deleted at the end; move it, or give another --out"
        )
    (folder / MARK).touch()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` against a second process that asks for the same lock; a killed holder lets go.

    Where the system has no ``flock`` nothing is held.

    Raises:
        ValueError: another process holds it; names the folder and the process.
        OSError: the folder cannot be made or written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise ValueError(
                f"{folder}: {what} is running here (process {holder}); wait for it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


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
