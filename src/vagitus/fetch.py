"""Downloads of public corpora: pinned, resumed, bounded, checked, and unpacked whole or not at all.

Conventions
    Nothing here runs unless a verb named ``fetch`` was called.
    Every download is verified: by the SHA-256 of the archive where its publisher's bytes are fixed, else by
    the commit that GitHub writes into the comment of the zip archives it makes. Those archives are packed
    anew now and then, so that no hash of the archive itself holds; the check there is TLS, the commit, the
    CRC of every member and, a least number of files.
    A broken download leaves ``NAME.part`` and ``NAME.part.json`` (the server's ETag and length) behind. The
    next try goes on from there if the server still has the same file, else starts again.
    An archive is unpacked into a temporary folder beside the target, which is renamed once everything in it
    was checked. A reader sees the whole corpus or none.

Standard library only: pooch, the usual choice, checks hashes but cannot resume, and corpora are gigabytes.
"""

import fnmatch
import hashlib
import json
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from vagitus.files import write_atomic

BLOCK_BYTES = 1 << 18
# What a public corpus may hold; beyond it an archive is a mistake or a bomb.
MAX_MEMBERS = 1_000_000
# Tries in a row that bring not one byte more than there ever was. A byte starts the count anew, so that only
# the deadline ends a download that creeps on.
MAX_IDLE_TRIES = 5
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
USER_AGENT = "vagitus-fetch"

DEADLINE_S = 4 * 3600.0  # LibriSpeech at 4 Mbit/s

# (bytes so far, bytes in all or None where the server does not say)
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Download:
    """One archive of a corpus, pinned to bytes (``sha256``) or to a commit (``commit``).

    Attributes:
        url: https, or http where ``sha256`` pins the bytes.
        archive: how it is packed.
        max_bytes: the archive is refused beyond this, whatever the server announces.
        max_unpacked_bytes: all its chosen files together are refused beyond this.
        sha256: hash of the archive, 64 hex digits.
        n_bytes: exact size of the archive, where its publisher states it.
        commit: 40 hex digits; must equal the comment of the zip.
        members: which files to unpack: shell patterns (``*`` crosses folders) over the path in the archive.
        min_files: fewer files that match ``members`` are an error.
        strip_top: drop the first folder of every path (GitHub's ``REPOSITORY-COMMIT/``).

    Raises:
        ValueError: nothing to verify with, or a field that contradicts another.
    """

    url: str
    archive: Literal["zip", "tar.gz"]
    max_bytes: int
    max_unpacked_bytes: int
    sha256: str | None = None
    n_bytes: int | None = None
    commit: str | None = None
    members: tuple[str, ...] = ("*",)
    min_files: int = 1
    strip_top: bool = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if self.sha256 is None and self.commit is None:
            raise ValueError(f"{self.url}: give sha256 or commit; nothing is fetched that cannot be verified")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.url}: sha256 is {self.sha256!r}, not 64 lower-case hex digits")
        if self.commit is not None and not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ValueError(f"{self.url}: commit is {self.commit!r}, not 40 lower-case hex digits")
        if self.commit is not None and self.archive != "zip":
            raise ValueError(
                f"{self.url}: a commit is checked in the comment of a zip, not of a {self.archive}"
            )
        # Without a hash only TLS vouches for the bytes; a server on this machine vouches for itself.
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (self.sha256 is not None or parts.hostname in LOOPBACK)
        ):
            raise ValueError(f"{self.url}: must be https, or http with sha256")
        if self.n_bytes is not None and self.n_bytes > self.max_bytes:
            raise ValueError(f"{self.url}: n_bytes {self.n_bytes} is beyond max_bytes {self.max_bytes}")


def fetch(
    downloads: Sequence[Download],
    folder: Path,
    *,
    deadline_s: float = DEADLINE_S,
    socket_timeout_s: float = 60.0,
    retry_wait_s: float = 2.0,
    progress: Progress | None = None,
) -> Path:
    """Download, verify and unpack ``downloads`` into ``folder``, which appears whole or not at all.

    Args:
        downloads: at least one; a later archive may not overwrite a file of an earlier one.
        folder: must not exist yet, or be empty.
        deadline_s: for all of it; what was downloaded by then stays for the next call.
        socket_timeout_s: longest silence of a server before the connection is tried again.
        retry_wait_s: wait before the second try, doubled for each further try without a byte.
        progress: called with (bytes so far, bytes in all or None) of the archive under way.

    Returns:
        ``folder``.

    Raises:
        ValueError: ``folder`` holds files, or what came is not what was pinned: size, hash, commit, unsafe or
            missing members. The refused archive is deleted.
        TimeoutError: the deadline passed.
        ConnectionError: the server refused, or five tries in a row brought nothing new.
        OSError: the disk.
    """
    if not downloads:
        raise ValueError(f"{folder}: nothing to download")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; remove it to fetch it again")
    give_up_at_s = time.monotonic() + deadline_s
    folder.parent.mkdir(parents=True, exist_ok=True)
    archives_folder = folder.parent / f".{folder.name}-download"
    archives_folder.mkdir(exist_ok=True)
    archives = []
    for item in downloads:
        archive = archives_folder / _archive_name(item)
        download(
            item,
            archive,
            give_up_at_s=give_up_at_s,
            socket_timeout_s=socket_timeout_s,
            retry_wait_s=retry_wait_s,
            progress=progress,
        )
        archives.append(archive)
    # Not mkdtemp, which ignores the umask: what is unpacked is published by a rename.
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        for item, archive in zip(downloads, archives, strict=True):
            try:
                unpack(item, archive, temporary)
            except ValueError:
                archive.unlink(missing_ok=True)
                raise
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(archives_folder, ignore_errors=True)
    return folder


def download(
    item: Download,
    path: Path,
    *,
    give_up_at_s: float,
    socket_timeout_s: float = 60.0,
    retry_wait_s: float = 2.0,
    progress: Progress | None = None,
) -> None:
    """Bring ``item`` to ``path``, going on from ``path.part`` where the server still has the same file.

    Args:
        item: what to bring; ``item.sha256`` and ``item.n_bytes`` are checked here, the commit by ``unpack``.
        path: an archive already there is kept if it verifies.
        give_up_at_s: on the clock of ``time.monotonic``.
        socket_timeout_s, retry_wait_s, progress: as ``fetch``.

    Raises:
        ValueError, TimeoutError, ConnectionError, OSError: as ``fetch``.
    """
    if path.is_file():
        if _problem(item, path) is None:
            return
        path.unlink()
    part, memo = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    idle_tries, most = 0, _size(part)
    reason = "no byte came"
    resumed = False
    while idle_tries < MAX_IDLE_TRIES:
        if time.monotonic() >= give_up_at_s:
            raise TimeoutError(_unfinished(item, part, f"the deadline passed ({reason})"))
        if idle_tries:
            time.sleep(min(retry_wait_s * 2 ** (idle_tries - 1), max(give_up_at_s - time.monotonic(), 0.0)))
        resumed |= _size(part) > 0
        try:
            complete = _receive(
                item,
                part,
                memo,
                give_up_at_s=give_up_at_s,
                socket_timeout_s=socket_timeout_s,
                progress=progress,
            )
            reason = "the connection ended early"
        except _RefusedError as error:
            raise ConnectionError(_unfinished(item, part, str(error))) from None
        except _BrokenError as error:
            complete, reason = False, str(error)
        if complete:
            problem = _problem(item, part)
            memo.unlink(missing_ok=True)
            if problem is None:
                part.replace(path)
                return
            part.unlink(missing_ok=True)
            if not resumed:
                raise ValueError(f"{item.url}: {problem}; nothing was kept, try again or report it")
            # The pieces may come from two versions of the file: once more, in one piece.
            resumed, most = False, 0
        idle_tries = 0 if _size(part) > most else idle_tries + 1
        most = max(most, _size(part))
    raise ConnectionError(_unfinished(item, part, reason))


def unpack(item: Download, archive: Path, folder: Path) -> None:
    """Unpack the chosen members of a verified archive into ``folder``; regular files only.

    Nothing leaves ``folder``: absolute paths, ``..``, backslashes and drive letters are refused, and so are
    links and devices among the chosen members. Sizes are counted as they are written, since a header can lie.

    Raises:
        ValueError: the archive is damaged, of another commit, unsafe, too large, or lacks files.
        OSError: the disk.
    """
    n_bytes_left = item.max_unpacked_bytes
    n_files = 0
    try:
        with _members(item, archive) as members:
            for n_seen, member in enumerate(members):
                if n_seen >= MAX_MEMBERS:
                    raise ValueError(f"{item.url}: holds more than {MAX_MEMBERS:,} members; not a corpus")
                name = _safe_name(member.name, item)
                if name is None or not any(fnmatch.fnmatchcase(name, p) for p in item.members):
                    continue
                if not member.is_file:
                    raise ValueError(f"{item.url}: member {member.name!r} is a link or a device; refused")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # "x": two members of one name, or of two archives, must not overwrite each other.
                with member.open() as source, target.open("xb") as sink:
                    while block := source.read(BLOCK_BYTES):
                        n_bytes_left -= len(block)
                        if n_bytes_left < 0:
                            raise ValueError(
                                f"{item.url}: unpacks to more than {item.max_unpacked_bytes:,} bytes; refused"
                            )
                        sink.write(block)
                n_files += 1
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"{item.url}: two members claim {Path(error.filename).name!r}; refused") from None
    except _damage() as error:
        raise ValueError(f"{item.url}: the archive is damaged ({error}); fetch it again") from None
    if n_files < max(item.min_files, 1):
        raise ValueError(
            f"{item.url}: {n_files:,} files match {', '.join(item.members)}, expected {item.min_files:,} or more"
        )


class _RefusedError(Exception):
    """The server's last word: trying again would not help."""


class _BrokenError(Exception):
    """The connection broke; another may bring the rest. Not an OSError: those are the disk's."""


@dataclass(frozen=True)
class _Member:
    name: str
    is_file: bool
    open: Callable[[], Any]


def _receive(
    item: Download,
    part: Path,
    memo: Path,
    *,
    give_up_at_s: float,
    socket_timeout_s: float,
    progress: Progress | None,
) -> bool:
    """One connection: append to ``part``; True when all of the file is there."""
    known = _read_memo(memo)
    # With a hash to check at the end, pieces may be joined on the length alone.
    resumable = known.get("etag") or (item.sha256 is not None and known.get("n_bytes"))
    start = _size(part) if resumable else 0
    if start and start == known.get("n_bytes"):
        return True
    with _connect(item, start, known, give_up_at_s, socket_timeout_s) as response:
        etag = _strong_etag(response.headers.get("ETag"))
        if response.status == 206:
            first, total = _content_range(response.headers.get("Content-Range"))
            total = known.get("n_bytes") if total is None else total
            changed = first != start or total != known.get("n_bytes") or etag not in {None, known.get("etag")}
        else:
            changed = response.status == 416  # what is here is longer than what is there
            total = _length(response.headers.get("Content-Length"))
        if changed:  # what is here belongs to another version of the file
            part.unlink(missing_ok=True)
            memo.unlink(missing_ok=True)
            return False
        if total is not None and total > item.max_bytes:
            raise ValueError(
                f"{item.url}: the server announces {total:,} bytes, more than the {item.max_bytes:,} allowed"
            )
        if total is not None and item.n_bytes not in {None, total}:
            raise ValueError(
                f"{item.url}: the server announces {total:,} bytes, the publisher states {item.n_bytes:,}"
            )
        if response.status == 200:
            # In this order: a memo of the new file must never stand beside bytes of the old one.
            start = 0
            part.unlink(missing_ok=True)
            write_atomic(memo, json.dumps({"etag": etag, "n_bytes": total}))
        n = start
        with part.open("ab") as sink:
            while block := _read(response):
                n += len(block)
                if n > item.max_bytes:
                    part.unlink()
                    memo.unlink(missing_ok=True)
                    raise ValueError(
                        f"{item.url}: the server sends more than {item.max_bytes:,} bytes; refused"
                    )
                sink.write(block)
                if progress is not None:
                    progress(n, total)
                if time.monotonic() >= give_up_at_s:
                    raise _BrokenError("it was still coming")
    # Without a length only a chunked body comes here, and one that ends early has raised in _read.
    return total is None or n == total


def _connect(
    item: Download, start: int, known: dict[str, Any], give_up_at_s: float, socket_timeout_s: float
) -> Any:
    """An open response of status 200, 206 or 416."""
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        item.url, headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
        if known.get("etag"):
            request.add_header("If-Range", known["etag"])
    timeout_s = max(min(socket_timeout_s, give_up_at_s - time.monotonic()), 0.01)
    try:
        response = _opener(item).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        raise (_BrokenError if error.code in RETRIED_STATUSES else _RefusedError)(reason) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _RefusedError(f"its certificate does not verify ({error.reason.verify_message})") from None
        raise _BrokenError(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_in_words(error)) from None
    if response.status not in {200, 206} or (response.status == 206 and not start):
        response.close()
        raise _RefusedError(f"the server answered {response.status} {response.reason}")
    return response


def _read(response: Any) -> bytes:
    import http.client

    try:
        # read1: what has come by now, so that a dripping server cannot hold us past the deadline.
        return bytes(response.read1(BLOCK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_in_words(error)) from None


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def _opener(item: Download) -> Any:
    import urllib.request

    class SameSchemeRedirect(urllib.request.HTTPRedirectHandler):
        """Redirects are followed, but never from https down to http, where anyone on the way may answer."""

        def redirect_request(
            self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
        ) -> urllib.request.Request | None:
            if urlsplit(item.url).scheme == "https" and urlsplit(newurl).scheme != "https":
                raise _RefusedError(f"it redirects from https to {newurl}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(SameSchemeRedirect)


def _archive_name(item: Download) -> str:
    # Two archives of one corpus may share the last part of their URL, so its hash comes first.
    return f"{hashlib.sha256(item.url.encode()).hexdigest()[:12]}.{item.archive}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_memo(memo: Path) -> dict[str, Any]:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _strong_etag(etag: str | None) -> str | None:
    # A weak ETag (W/"…") says "means the same", not "the same bytes": nothing can be appended on its word.
    return etag if etag and etag.startswith('"') else None


def _length(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _content_range(text: str | None) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text or "")
    if match is None:
        return -1, None  # equals no start, so the download begins again
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _problem(item: Download, path: Path) -> str | None:
    """Why the bytes at ``path`` are not those that were pinned; None if they are."""
    size = _size(path)
    if item.n_bytes is not None and size != item.n_bytes:
        return f"got {size:,} bytes, the publisher states {item.n_bytes:,}"
    if size > item.max_bytes:
        return f"got {size:,} bytes, more than the {item.max_bytes:,} allowed"
    if item.sha256 is not None:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        if digest.hexdigest() != item.sha256:
            return f"sha256 is {digest.hexdigest()}, pinned is {item.sha256}"
    return None


def _unfinished(item: Download, part: Path, reason: str) -> str:
    size = _size(part)
    way_out = f"run it again to go on from {size:,} bytes" if size else "try again later"
    return f"{item.url}: {reason}; {way_out}"


@contextmanager
def _members(item: Download, archive: Path) -> Iterator[Iterator[_Member]]:
    import tarfile
    import zipfile

    if item.archive == "zip":
        with zipfile.ZipFile(archive) as zipped:
            if item.commit is not None and zipped.comment != item.commit.encode():
                raise ValueError(
                    f"{item.url}: the archive is of commit {zipped.comment[:60].decode(errors='replace')!r}, "
                    f"pinned is {item.commit}"
                )
            yield (
                _Member(
                    info.filename,
                    # The upper half of external_attr is the Unix mode; 0 where the packer knew none.
                    stat.S_IFMT(info.external_attr >> 16) in {0, stat.S_IFREG},
                    partial(zipped.open, info),
                )
                for info in zipped.infolist()
                if not info.is_dir()
            )
    else:
        # "r|gz" reads forward only: a member is seen once, so a header cannot point back into the archive.
        with tarfile.open(archive, "r|gz") as tarred:
            yield (
                _Member(
                    info.name,
                    info.isreg() and not info.issparse(),
                    partial(tarred.extractfile, info),
                )
                for info in tarred
                if not info.isdir()
            )


def _safe_name(name: str, item: Download) -> str | None:
    """The member's path below the target folder; None for what stands beside the stripped top folder.

    Raises:
        ValueError: the path could leave the folder.
    """
    parts = PurePosixPath(name).parts
    if (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or not parts
        or re.match("[A-Za-z]:", name)
    ):
        raise ValueError(f"{item.url}: member {name!r} would be written outside its folder; refused")
    if item.strip_top:
        parts = parts[1:]
    return "/".join(parts) or None


def _damage() -> tuple[type[Exception], ...]:
    import gzip
    import tarfile
    import zipfile
    import zlib

    # RuntimeError is zipfile's word for "encrypted", EOFError for a member that ends early.
    return (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
