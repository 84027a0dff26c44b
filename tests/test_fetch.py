"""Downloads against a server on this machine that resumes, breaks off, changes its file and lies."""

import hashlib
import io
import socket
import stat
import tarfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vagitus import fetch as fetch_module
from vagitus.corpora import CORPORA, fetch_corpus, load_corpus
from vagitus.fetch import Download, fetch

COMMIT = "c3a6c25d25028b84624972d3322ff18cf0686398"
# Incompressible, so that an archive is long enough to be cut into pieces.
NOISE = np.random.default_rng(0).bytes(200_000)
FILES = {"corpus-main/audio/a.wav": NOISE, "corpus-main/README.md": b"read me"}


@dataclass
class Served:
    """What the server does with one path; a list is used up request by request."""

    body: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of the answer's body, then the line goes dead
    statuses: list[int] = field(default_factory=list)
    announced: int | None = None  # Content-Length, if not the truth
    chunked: bool = False
    redirect: str | None = None
    ignores_condition: bool = False  # answers a Range as if If-Range were not there
    wrong_start: int = 0  # by how much a 206 begins elsewhere than asked
    stalls: list[float] = field(default_factory=list)  # s before the body
    drip_s: float = 0.0  # s between pieces of 1,000 bytes
    asked: list[str | None] = field(default_factory=list)  # Range of every request
    conditions: list[str | None] = field(default_factory=list)  # If-Range of every request
    sent: int = 0  # body bytes in all
    before_answer: Callable[["Served"], None] | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: dict[str, Served]

    def do_GET(self) -> None:
        served = self.served.get(self.path)
        if served is None:
            self.send_error(404, "Not Found")
            return
        served.asked.append(self.headers.get("Range"))
        served.conditions.append(self.headers.get("If-Range"))
        if served.before_answer:
            served.before_answer(served)
        self.close_connection = True
        if served.statuses and (status := served.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked and served.ranges and (served.ignores_condition or condition in {None, served.etag}):
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + served.wrong_start
        if start >= len(served.body):
            self.send_error(416)
            return
        body = served.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.body) - 1}/{len(served.body)}")
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header(
                "Content-Length", str(len(body) if served.announced is None else served.announced)
            )
        self.end_headers()
        if served.stalls:
            time.sleep(served.stalls.pop(0))
        self.send_body(served, body)

    def send_body(self, served: Served, body: bytes) -> None:
        n = served.cut_after.pop(0) if served.cut_after else len(body)
        try:
            if served.chunked:
                for i in range(0, n, 10_000):
                    piece = body[i : min(i + 10_000, n)]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if n == len(body):
                    self.wfile.write(b"0\r\n\r\n")
            elif served.drip_s:
                for i in range(0, n, 1000):
                    self.wfile.write(body[i : min(i + 1000, n)])
                    self.wfile.flush()
                    time.sleep(served.drip_s)
            else:
                self.wfile.write(body[:n])
            served.sent += n
        except OSError:
            pass  # the client hung up, as it may

    def log_message(self, format: str, *args: object) -> None:
        del format, args


Serve = Callable[..., tuple[str, Served]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve bytes under a path; gives the URL and what the server records."""

    class Own(Handler):
        served: dict[str, Served] = {}  # noqa: RUF012 (one dict a server)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def add(body: bytes, path: str = "/archive", **options: Any) -> tuple[str, Served]:
        Own.served[path] = Served(body, **options)
        return f"http://127.0.0.1:{server.server_port}{path}", Own.served[path]

    yield add
    server.shutdown()
    thread.join()
    server.server_close()


def make_zip(files: dict[str, bytes], *, commit: str | None = COMMIT) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
        zipped.comment = (commit or "").encode()
    return buffer.getvalue()


def make_tar(files: dict[str, bytes], links: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tarred.addfile(info, io.BytesIO(data))
        for link in links:
            tarred.addfile(link)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pinned(url: str, body: bytes, **options: Any) -> Download:
    """A zip pinned by hash, with ample limits."""
    given: dict[str, Any] = {"archive": "zip", "max_bytes": 10**7, "max_unpacked_bytes": 10**7}
    return Download(url, **(given | {"sha256": sha256(body)} | options))


def get(item: Download, folder: Path, **options: float) -> Path:
    given: dict[str, Any] = {"deadline_s": 20.0, "retry_wait_s": 0.01}
    return fetch([item], folder, **(given | options))


def left_behind(parent: Path) -> list[str]:
    return sorted(str(path.relative_to(parent)) for path in parent.rglob("*"))


def test_a_zip_arrives_without_its_top_folder_and_leaves_nothing_else(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body)
    seen: list[tuple[int, int | None]] = []
    folder = fetch(
        [pinned(url, body)], tmp_path / "data" / "corpus", progress=lambda n, total: seen.append((n, total))
    )
    assert (folder / "audio" / "a.wav").read_bytes() == NOISE
    assert left_behind(tmp_path / "data") == [
        "corpus",
        "corpus/README.md",
        "corpus/audio",
        "corpus/audio/a.wav",
    ]
    assert served.asked == [None]
    assert seen[-1] == (len(body), len(body))
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


def test_a_tar_keeps_its_top_folder_if_told_so(serve: Serve, tmp_path: Path) -> None:
    body = make_tar({"./bed/one.wav": b"1", "validation_list.txt": b"2"})
    url, _ = serve(body)
    folder = get(pinned(url, body, archive="tar.gz", strip_top=False), tmp_path / "corpus")
    assert left_behind(folder) == ["bed", "bed/one.wav", "validation_list.txt"]


def test_a_broken_connection_is_resumed_where_it_broke(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, cut_after=[70_000, 50_000])
    folder = get(pinned(url, body), tmp_path / "corpus")
    assert (folder / "audio" / "a.wav").read_bytes() == NOISE
    assert served.asked == [None, "bytes=70000-", "bytes=120000-"]
    assert served.sent == len(body)  # nothing came twice


def test_a_killed_download_is_resumed_by_the_next_call(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, drip_s=0.0005)

    def kill(n: int, total: int | None) -> None:
        del total
        if n >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([pinned(url, body)], tmp_path / "corpus", progress=kill)
    assert not (tmp_path / "corpus").exists()
    served.drip_s = 0.0
    get(pinned(url, body), tmp_path / "corpus")
    assert served.asked[0] is None
    assert served.asked[1] is not None
    assert int(served.asked[1].removeprefix("bytes=").removesuffix("-")) >= 50_000


def test_without_an_etag_pieces_are_joined_on_the_word_of_the_hash(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, etag=None, cut_after=[70_000])
    get(pinned(url, body), tmp_path / "corpus")
    assert served.asked == [None, "bytes=70000-"]


def test_without_an_etag_or_hash_it_starts_again(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, etag='W/"weak"', cut_after=[70_000])
    get(pinned(url, body, sha256=None, commit=COMMIT), tmp_path / "corpus")
    assert served.asked == [None, None]


def test_a_server_without_ranges_sends_it_all_again(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, ranges=False, cut_after=[70_000])
    get(pinned(url, body), tmp_path / "corpus")
    assert served.asked == [None, "bytes=70000-"]
    assert served.sent == 70_000 + len(body)


@pytest.mark.parametrize("etag", ['"two"', None])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    serve: Serve, tmp_path: Path, etag: str | None
) -> None:
    old, new = make_zip({"top/old.wav": NOISE}), make_zip({"top/new.wav": NOISE[::-1]})

    def change(served: Served) -> None:
        if len(served.asked) == 2:
            served.body, served.etag = new, etag

    url, _ = serve(old, etag='"one"' if etag else None, cut_after=[70_000], before_answer=change)
    folder = get(pinned(url, new), tmp_path / "corpus")
    assert (folder / "new.wav").read_bytes() == NOISE[::-1]


@pytest.mark.parametrize(
    "fault", [{"ignores_condition": True}, {"ignores_condition": True, "wrong_start": -5000}]
)
def test_a_server_that_sends_the_wrong_piece_is_not_trusted(
    serve: Serve, tmp_path: Path, fault: dict[str, Any]
) -> None:
    """Pinned by commit alone, so that no hash would catch pieces of two files or of two places."""
    old, new = (make_zip({"top/a.wav": noise}) for noise in (NOISE, NOISE[::-1]))
    changes = not fault.get("wrong_start")

    def change(served: Served) -> None:
        if len(served.asked) == 2:
            served.body, served.etag = (new, '"two"') if changes else (old, '"one"')

    url, served = serve(old, cut_after=[70_000], before_answer=change, **fault)
    folder = get(pinned(url, b"", sha256=None, commit=COMMIT), tmp_path / "corpus")
    assert (folder / "a.wav").read_bytes() == (NOISE[::-1] if changes else NOISE)
    assert served.asked == [None, "bytes=70000-", None]
    assert served.conditions == [None, '"one"', None]


def test_a_part_that_is_whole_is_not_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body)

    def kill(n: int, total: int | None) -> None:
        if n == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([pinned(url, body)], tmp_path / "corpus", progress=kill)
    get(pinned(url, body), tmp_path / "corpus")
    assert served.asked == [None]


def test_a_part_longer_than_the_file_is_thrown_away(serve: Serve, tmp_path: Path) -> None:
    long, short = make_zip(FILES), make_zip({"top/b.wav": b"short"})
    url, served = serve(long, cut_after=[70_000])
    served.before_answer = lambda s: setattr(s, "body", long if len(s.asked) == 1 else short)
    folder = get(pinned(url, short), tmp_path / "corpus")
    assert (folder / "b.wav").read_bytes() == b"short"


def test_a_chunked_answer_that_breaks_off_is_not_taken_for_whole(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, chunked=True, ranges=False, etag=None, cut_after=[70_000])
    get(pinned(url, body, sha256=None, commit=COMMIT), tmp_path / "corpus")
    assert len(served.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(serve: Serve, tmp_path: Path, status: int) -> None:
    body = make_zip(FILES)
    url, served = serve(body, statuses=[status, 200])
    get(pinned(url, body), tmp_path / "corpus")
    assert len(served.asked) == 2


def test_a_server_that_stays_busy_is_given_up_after_five_tries(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, statuses=[503] * 9)
    with pytest.raises(ConnectionError, match=r"answered 503 .*; try again later"):
        get(pinned(url, body), tmp_path / "corpus")
    assert len(served.asked) == 5


def test_a_missing_file_is_not_asked_for_twice(serve: Serve, tmp_path: Path) -> None:
    url, _ = serve(b"", path="/other")
    with pytest.raises(
        ConnectionError, match=r"/archive: the server answered 404 Not Found; try again later"
    ):
        get(pinned(url.replace("other", "archive"), b""), tmp_path / "corpus")


def test_nobody_listening_is_said(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(ConnectionError, match=rf"{url}: .*refused.*; try again later"):
        get(pinned(url, b""), tmp_path / "corpus")


def test_a_silent_server_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, stalls=[3.0])
    get(pinned(url, body), tmp_path / "corpus", socket_timeout_s=0.1)
    assert len(served.asked) == 2


def test_the_deadline_ends_a_dripping_server_and_the_next_call_goes_on(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, drip_s=0.02)  # 4 s in all
    with pytest.raises(
        TimeoutError, match=r"the deadline passed .*; run it again to go on from [\d,]+ bytes"
    ):
        get(pinned(url, body), tmp_path / "corpus", deadline_s=0.3)
    served.drip_s = 0.0
    get(pinned(url, body), tmp_path / "corpus")
    assert served.asked[0] is None
    assert served.asked[-1] not in {None, "bytes=0-"}


def test_a_server_that_announces_more_than_it_sends_is_given_up(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body, announced=len(body) + 10)
    with pytest.raises(ConnectionError, match=rf"{url}: "):
        get(pinned(url, body), tmp_path / "corpus")
    assert len(served.asked) <= 12


def test_a_server_that_announces_less_is_caught_by_the_hash(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, _ = serve(body, announced=len(body) - 10)
    with pytest.raises(
        ValueError, match=f"sha256 is [0-9a-f]{{64}}, pinned is {sha256(body)}; nothing was kept"
    ):
        get(pinned(url, body), tmp_path / "corpus")
    assert left_behind(tmp_path) == [".corpus-download"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1000}, r"announces [\d,]+ bytes, more than the 1,000 allowed"),
        ({"n_bytes": 5000}, r"announces [\d,]+ bytes, the publisher states 5,000"),
        ({"sha256": "0" * 64}, "pinned is 0{64}; nothing was kept"),
    ],
)
def test_other_bytes_than_pinned_are_refused_and_not_kept(
    serve: Serve, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    body = make_zip(FILES)
    url, served = serve(body)
    with pytest.raises(ValueError, match=message):
        get(pinned(url, body, **options), tmp_path / "corpus")
    assert len(served.asked) == 1
    assert left_behind(tmp_path) == [".corpus-download"]


def test_a_stream_without_end_is_cut_at_the_limit(serve: Serve, tmp_path: Path) -> None:
    url, served = serve(NOISE * 50, chunked=True)
    with pytest.raises(ValueError, match="the server sends more than 300,000 bytes; refused"):
        get(pinned(url, b"", max_bytes=300_000), tmp_path / "corpus")
    assert left_behind(tmp_path) == [".corpus-download"]
    assert len(served.asked) == 1


def test_a_commit_is_read_from_the_comment(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, _ = serve(body)
    folder = get(pinned(url, body, sha256=None, commit=COMMIT), tmp_path / "corpus")
    assert (folder / "README.md").read_bytes() == b"read me"


def test_another_commit_is_refused_and_fetched_anew_next_time(serve: Serve, tmp_path: Path) -> None:
    url, served = serve(make_zip(FILES, commit="f" * 40))
    item = pinned(url, b"", sha256=None, commit=COMMIT)
    with pytest.raises(ValueError, match=rf"the archive is of commit '{'f' * 40}', pinned is {COMMIT}"):
        get(item, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    served.body = make_zip(FILES)
    get(item, tmp_path / "corpus")


def test_only_chosen_members_are_unpacked(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES | {"corpus-main/audio/b.txt": b"no", "corpus-main/.hidden": b"no"})
    url, _ = serve(body)
    folder = get(pinned(url, body, members=("audio/*.wav", "README*")), tmp_path / "corpus")
    assert left_behind(folder) == ["README.md", "audio", "audio/a.wav"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": ("video/*",)}, r"0 files match video/\*, expected 1 or more"),
        ({"min_files": 3}, r"2 files match \*, expected 3 or more"),
        ({"max_unpacked_bytes": 100_000}, "unpacks to more than 100,000 bytes; refused"),
    ],
)
def test_an_archive_that_is_not_the_corpus_is_refused(
    serve: Serve, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    body = make_zip(FILES)
    url, _ = serve(body)
    with pytest.raises(ValueError, match=message):
        get(pinned(url, body, **options), tmp_path / "corpus")
    assert left_behind(tmp_path) == [".corpus-download"]


def test_a_bomb_is_stopped_by_what_it_writes_not_by_what_it_says(serve: Serve, tmp_path: Path) -> None:
    body = make_zip({"top/zeros": bytes(50_000_000)})
    assert len(body) < 100_000
    url, _ = serve(body)
    with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
        get(pinned(url, body, max_unpacked_bytes=1_000_000), tmp_path / "corpus")
    assert left_behind(tmp_path) == [".corpus-download"]


@pytest.mark.parametrize(
    "name", ["top/../../evil", "/etc/evil", "../evil", "top/..\\evil", "C:/evil", "top/x/../../../evil"]
)
@pytest.mark.parametrize("archive", ["zip", "tar.gz"])
def test_a_member_that_would_leave_the_folder_is_refused(
    serve: Serve, tmp_path: Path, name: str, archive: str
) -> None:
    body = (make_zip if archive == "zip" else make_tar)({"top/ok": b"ok", name: b"evil"})
    url, _ = serve(body)
    with pytest.raises(ValueError, match=r"would be written outside its folder; refused"):
        get(pinned(url, body, archive=archive), tmp_path / "inner" / "corpus")
    assert not [path for path in left_behind(tmp_path) if path.endswith("evil")]


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("top/link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(serve: Serve, tmp_path: Path, kind: bytes) -> None:
    body = make_tar({"top/ok": b"ok"}, (link(kind),))
    url, _ = serve(body)
    with pytest.raises(ValueError, match="member 'top/link' is a link or a device; refused"):
        get(pinned(url, body, archive="tar.gz"), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_link_in_a_zip_is_refused_unless_nobody_chose_it(serve: Serve, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("top/audio/a.wav", b"a")
        info = zipfile.ZipInfo("top/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    body = buffer.getvalue()
    url, _ = serve(body)
    with pytest.raises(ValueError, match="member 'top/link' is a link or a device; refused"):
        get(pinned(url, body), tmp_path / "corpus")
    folder = get(pinned(url, body, members=("audio/*",)), tmp_path / "corpus")
    assert left_behind(folder) == ["audio", "audio/a.wav"]


def test_two_members_of_one_name_are_refused(serve: Serve, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr("top/a", b"1")
        zipped.writestr("top/a", b"2")
    body = buffer.getvalue()
    url, _ = serve(body)
    with pytest.raises(ValueError, match="two members claim 'a'; refused"):
        get(pinned(url, body), tmp_path / "corpus")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no archive"])
def test_a_damaged_archive_is_refused_and_deleted(serve: Serve, tmp_path: Path, damage: str) -> None:
    whole = bytearray(make_zip(FILES))
    if damage == "truncated":
        body = bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        whole[5000] ^= 0xFF
        body = bytes(whole)
    else:
        body = b"<html>rate limited</html>"
    url, _ = serve(body)
    with pytest.raises(ValueError, match=r"the archive is damaged \(.*\); fetch it again"):
        get(pinned(url, body, sha256=None, commit=COMMIT), tmp_path / "corpus")
    assert left_behind(tmp_path) == [".corpus-download"]


def test_several_archives_make_one_folder(serve: Serve, tmp_path: Path) -> None:
    first, second = make_zip({"a-1/x/one.wav": b"1"}), make_zip({"b-2/y/two.wav": b"2"})
    items = [
        pinned(serve(first, "/zip/first")[0], first),
        pinned(serve(second, "/zip/second")[0], second),
    ]
    folder = fetch(items, tmp_path / "corpus")
    assert left_behind(folder) == ["x", "x/one.wav", "y", "y/two.wav"]
    with pytest.raises(ValueError, match=r"two members claim 'one.wav'; refused"):
        fetch([items[0], items[0]], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_folder_that_holds_files_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    url, served = serve(body)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.wav").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"corpus exists already; remove it to fetch it again"):
        get(pinned(url, body), tmp_path / "corpus")
    assert served.asked == []
    (tmp_path / "corpus" / "mine.wav").unlink()
    assert (get(pinned(url, body), tmp_path / "corpus") / "README.md").is_file()


def test_a_redirect_is_followed(serve: Serve, tmp_path: Path) -> None:
    body = make_zip(FILES)
    target, _ = serve(body, "/there")
    url, _ = serve(b"", "/here", redirect=target)
    assert (get(pinned(url, body), tmp_path / "corpus") / "README.md").is_file()


def test_a_redirect_from_https_to_http_is_not() -> None:
    item = Download("https://example.org/x.zip", "zip", max_bytes=1, max_unpacked_bytes=1, commit=COMMIT)
    handler = next(h for h in fetch_module._opener(item).handlers if type(h).__name__ == "SameSchemeRedirect")
    request = urllib.request.Request(item.url)
    with pytest.raises(Exception, match=r"redirects from https to http://example.org"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://example.org/x.zip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give sha256 or commit; nothing is fetched that cannot be verified"),
        ({"sha256": "abc"}, "sha256 is 'abc', not 64 lower-case hex digits"),
        ({"commit": "main"}, "commit is 'main', not 40 lower-case hex digits"),
        (
            {"commit": COMMIT, "archive": "tar.gz"},
            "a commit is checked in the comment of a zip, not of a tar.gz",
        ),
        ({"commit": COMMIT, "url": "http://example.org/x.zip"}, "must be https, or http with sha256"),
        ({"sha256": "0" * 64, "url": "file:///etc/passwd"}, "must be https, or http with sha256"),
        ({"sha256": "0" * 64, "n_bytes": 11}, "n_bytes 11 is beyond max_bytes 10"),
    ],
)
def test_a_download_that_cannot_be_verified_cannot_be_written_down(
    options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "url": "https://example.org/x.zip",
        "archive": "zip",
        "max_bytes": 10,
        "max_unpacked_bytes": 10,
    }
    with pytest.raises(ValueError, match=message):
        Download(**(given | options))


def test_nothing_to_download_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to download"):
        fetch([], tmp_path / "corpus")


def wav(duration_s: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(duration_s * 1000)), 1000, format="WAV")
    return buffer.getvalue()


def test_a_fetched_corpus_loads(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """donateacry from two commits, as its row has it: the uploads, then the list of usable cries."""
    uuid = "0c8f14a9-6999-485b-97a2-913c1cbf099c"
    usable, rejected = f"{uuid}-1431028888092-1.7-m-26-hu", f"{uuid}-1431028899092-1.7-m-26-hu"
    top = "donateacry-corpus-main"
    archives = {
        "uploads": {
            f"{top}/donateacry-android-upload-bucket/{name}.wav": wav(4) for name in (usable, rejected)
        },
        "cleaned": {f"{top}/donateacry_corpus_cleaned_and_updated_data/hungry/{usable}.wav": wav(4)},
    }
    corpus = CORPORA["donateacry"]
    items = []
    for item, (name, files) in zip(corpus.fetch, archives.items(), strict=True):
        url, _ = serve(
            make_zip(files | {f"{top}/README.md": b"not asked for"}, commit=item.commit), f"/{name}"
        )
        items.append(replace(item, url=url, min_files=len(files)))
    monkeypatch.setitem(CORPORA, "donateacry", replace(corpus, fetch=tuple(items)))
    folder = fetch_corpus("donateacry", tmp_path)
    assert folder == tmp_path / "donateacry"
    assert not list(folder.rglob("README*"))
    manifest = load_corpus("donateacry", root=tmp_path)
    assert manifest.label.tolist() == ["usable", "rejected"]


def test_the_real_pins_are_complete() -> None:
    pins = {name: corpus.fetch for name, corpus in CORPORA.items() if corpus.fetch}
    assert set(pins) == {"donateacry", "esc", "speech_commands", "librispeech"}
    # A usable cry that is missing from the list would count as rejected: all 457 or none.
    assert [item.min_files for item in pins["donateacry"]] == [1127, 457]
    for items in pins.values():
        assert all(item.url.startswith("https://") for item in items)
        assert all(item.commit is None or item.commit in item.url for item in items)
