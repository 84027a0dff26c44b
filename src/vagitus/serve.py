"""The page that runs a model in the browser, as files or served here, and a small local API beside it.

    GET  /                  the page; it records or opens a sound and scores it where it is, in the browser
    GET  /model.onnx        the model, and beside it model.json: its header, and the SHA-256 of the file
    POST /predict           a recording, as the body or as one file of a multipart form; what ``predict.to_json``
                            writes comes back. Errors are JSON too: {"error": one sentence}

What is uploaded is held while it is scored and nowhere after: on Linux in memory and on no disk, elsewhere in a
temporary file. There is no log of requests.

    413  more than ``RequestLimits`` allows, in bytes or in seconds; bytes are counted as they come, and seconds where
         a header tells them and again as they are decoded
    415  a compressed body          422  not a recording, or one cut short
    401  the token is missing       403  asked for by another web page
    408  the upload took too long   421  a host name that is not this machine's
    429  too many from one client   503  as many as there are cores at once, or scoring took too long

A connection on which no request begins, or of whose answer nothing is taken, ends after ``IDLE_S`` to twice that, and
``MAX_CONNECTIONS`` are answered at once.

Bound to loopback it needs no token, but the name it is called by must be a loopback's, or a web page could reach it
through a name of its own (DNS rebinding). Bound to anything else it needs a token, for the page too: as
``Authorization: Bearer TOKEN``, or in a browser as the password, of any user. Without TLS in front of it a token
can be read on the way, and browsers give such a page no microphone.

Research use only, not a diagnosis: the page shows it always, and every answer has it as ``notice``.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import math
import os
import socket
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from vagitus.audio import AudioError, probe, stream
from vagitus.export import OnnxModel
from vagitus.files import write_atomic
from vagitus.predict import Prediction, Predictor, to_json

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
MIN_TOKEN_CHARACTERS = 16
MAX_CLIENTS = 10_000  # whose rate is remembered
MAX_CONNECTIONS = 64
IDLE_S = 10.0  # for the head of a request to come whole, and between two reads of an answer
MAX_NAME_CHARACTERS = 200  # of an upload's file name

# The page's own, in its <meta> too, for hosts that send no headers; frame-ancestors counts in a header only.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; "
    "media-src blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'"
)
HEADERS = {
    "content-security-policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
WORKER_BEGINS = b"const FILES = "  # sw.js; by it an earlier page is known
LICENCES = ".txt"  # shipped beside the page, but nothing that it loads


@dataclass(frozen=True)
class RequestLimits:
    """What ``POST /predict`` takes.

    Attributes:
        max_bytes: of a body, 20 MB; ten minutes at 16 kHz and 16 bits are 19.2 MB.
        max_duration_s: of a recording.
        n_at_once: uploads and scorings under way; one a core. One more is answered 503.
        n_per_minute: from one client address; also how many may come at once after a pause.
        upload_s: for a body to arrive.
        score_s: for decoding and scoring.

    Raises:
        ValueError: a limit is not above 0.
    """

    max_bytes: int = 20_000_000
    max_duration_s: float = 600.0
    n_at_once: int = field(default_factory=lambda: os.cpu_count() or 1)
    n_per_minute: int = 60
    upload_s: float = 30.0
    score_s: float = 120.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be > 0, got {value!r}")


def page_files(model_path: Path | str) -> dict[str, bytes]:
    """The page with a model in it: content by relative path, ``index.html`` among them.

    ``sw.js`` begins with a hash of every file, so that a browser that kept another set takes this one.

    Raises:
        FileNotFoundError: there is no such model, or this checkout has no onnxruntime-web.
        ValueError: not what ``export_onnx`` or ``quantise`` wrote.
    """
    path = Path(model_path)
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path}: the page runs model.onnx; write it with `vagitus export {path}` and serve that"
        )
    header = OnnxModel(path).header
    content = path.read_bytes()
    files = dict(_packaged(resources.files("vagitus") / "page"))
    if "ort/ort.js" not in files:
        raise FileNotFoundError("onnxruntime-web is not in src/vagitus/page/ort; `make page` brings it")
    files["model.onnx"] = content
    files["model.json"] = _json(header | {"sha256": hashlib.sha256(content).hexdigest()})
    hashes = {name: _short_hash(files[name]) for name in sorted(files) if not name.endswith(LICENCES)}
    hashes["sw.js"] = _short_hash(_json(hashes))  # names the set
    files["sw.js"] = WORKER_BEGINS + _json(hashes) + b";\n" + files["sw.js"]
    return files


def export_page(onnx_path: Path | str, out_dir: Path | str) -> list[Path]:
    """Write the page with a model in it as plain files, for any static host with https.

    A folder that holds an earlier page is brought up to date.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: not a model that the page can run, or ``out_dir`` holds something else.
        OSError: ``out_dir`` cannot be written.
    """
    files, out_dir = page_files(onnx_path), Path(out_dir)
    if out_dir.exists() and not (out_dir.is_dir() and (_is_page(out_dir) or not any(out_dir.iterdir()))):
        raise ValueError(f"{out_dir}: holds something that is no page; give an empty or a new folder")
    # sw.js last: with it a browser takes the new set, which must be there by then.
    names = sorted(files, key=lambda name: (name == "sw.js", name))
    for name in names:
        write_atomic(out_dir / name, files[name])
    return [out_dir / name for name in names]


def _is_page(folder: Path) -> bool:
    try:
        with (folder / "sw.js").open("rb") as file:
            return file.read(len(WORKER_BEGINS)) == WORKER_BEGINS
    except (FileNotFoundError, IsADirectoryError):
        return False


def make_app(
    model_path: Path | str,
    limits: RequestLimits | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = LOOPBACK_HOSTS,
) -> "FastAPI":
    """The application that ``serve`` runs; see the module for what it answers.

    Args:
        model_path: what ``export_onnx`` or ``quantise`` wrote; it is read once.
        limits: of POST /predict.
        token: that every request must bring; None for none.
        hosts: names by which it may be called, without the port; None for any.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: not a model that the page can run, or a token that is too short or not ASCII.
        ImportError: fastapi or python-multipart are missing.
    """
    try:
        import python_multipart  # noqa: F401 (starlette imports it, and says so less clearly)
        from fastapi import FastAPI, Request
        from starlette.exceptions import HTTPException
        from starlette.responses import Response
    except ImportError as error:
        raise ImportError("serving needs fastapi: pip install 'vagitus[serve]'") from error

    if token is not None and len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"the token has {len(token)} characters, at least {MIN_TOKEN_CHARACTERS}; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    if token is not None and not token.isascii():
        raise ValueError(
            "the token has characters beyond ASCII, which not every client sends alike; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    files = page_files(model_path)
    scorer = _Scorer(Predictor(model_path), limits or RequestLimits())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def explained(status_code: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
        headers = {**(headers or {}), "cache-control": "no-store"}
        return Response(_json({"error": reason}), status_code, headers, "application/json")

    async def refused(_: Request, error: _Refused) -> Response:
        return explained(error.status_code, error.reason, error.headers)

    async def unknown(_: Request, error: HTTPException) -> Response:
        return explained(error.status_code, f"{error.detail}; the API is POST /predict", error.headers)

    async def failed(_: Request, error: Exception) -> Response:
        reason = f"the server failed ({type(error).__name__}); its terminal says where"
        return explained(500, reason, HEADERS)  # starlette answers this one outside of _Guard

    app.add_exception_handler(_Refused, refused)  # type: ignore[arg-type]  # typed for any exception
    app.add_exception_handler(HTTPException, unknown)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, failed)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        answer = await scorer.answer(request)
        return Response(answer, media_type="application/json", headers={"cache-control": "no-store"})

    @app.api_route("/{name:path}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        name = name or "index.html"
        if name not in files:
            raise _Refused(404, f"there is no {name[:MAX_NAME_CHARACTERS]!r} here; the page is at /")
        tag = f'"{_short_hash(files[name])}"'
        # Kept by the browser, but asked for each time: another model may be served by now.
        headers = {"cache-control": "no-cache", "etag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)

    app.add_middleware(_Guard, token=token, hosts=hosts)
    return app


def serve(
    model_path: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    limits: RequestLimits | None = None,
) -> None:
    """Serve the page and the API until interrupted; prints the address.

    Args:
        model_path: what ``export_onnx`` or ``quantise`` wrote.
        host: an address or name of this machine; one that is no loopback needs a token.
        port: 0 for any that is free.
        token, limits: as in ``make_app``.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: not a model that the page can run, no token where one is needed or one that is too short or
            not ASCII, or a host or port that cannot be listened on.
        ImportError: fastapi, uvicorn or python-multipart are missing.
    """
    loopback = is_loopback(host)
    if token is None and not loopback:
        raise ValueError(f"host {host}: other machines could reach it, so it needs a token; give --token")
    shown = f"[{host}]" if ":" in host else host
    app = make_app(model_path, limits, token=token, hosts={*LOOPBACK_HOSTS, shown} if loopback else None)
    server = make_server(app)
    listening = _listen(host, port)
    print(f"http://{shown}:{listening.getsockname()[1]}/  Ctrl-C stops it", flush=True)
    with listening:
        server.run(sockets=[listening])


def make_server(app: "ASGIApp", *, idle_s: float = IDLE_S) -> "uvicorn.Server":
    """The server that ``serve`` runs an application in; see the module for what it bounds.

    Raises:
        ImportError: uvicorn is missing.
    """
    try:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as error:
        raise ImportError("serving needs uvicorn: pip install 'vagitus[serve]'") from error

    class Connection(H11Protocol):
        """uvicorn ends a connection that is idle after an answer, but not one that never asked, or stopped half-way."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self._look(None)

        def connection_lost(self, exc: Exception | None) -> None:
            self._next_look.cancel()
            super().connection_lost(exc)

        def _look(self, before: object) -> None:
            n_unsent = self.transport.get_write_buffer_size()
            answering = self.cycle is not None and not self.cycle.response_complete and not n_unsent
            now = (self.cycle, n_unsent)
            if now == before and not answering:  # which the application bounds
                self.transport.abort()
            self._next_look = self.loop.call_later(idle_s, self._look, now)

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # a client could name any address, and so escape its rate
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # Or a server stopped a moment ago would hold the port for a minute.
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()  # from here on a client waits, and is not refused
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ValueError(f"host {host}, port {port}: {error.strerror}; give another") from None
    return listening


class _Refused(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that is answered with one sentence."""

    def __init__(self, status_code: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status_code, self.reason, self.headers = status_code, reason, headers


class _Guard:
    """Who may ask, before anything of a request is read; and the headers of every answer."""

    def __init__(self, app: "ASGIApp", *, token: str | None, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers
        from starlette.responses import Response

        async def safe(message: "Message") -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own),
                ]
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
        except _Refused as refused:
            headers = {**(refused.headers or {}), "cache-control": "no-store"}
            body = _json({"error": refused.reason})
            await Response(body, refused.status_code, headers, "application/json")(scope, receive, safe)
            return
        await self.app(scope, receive, safe)

    def _check(self, method: str, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if self.hosts is not None and name not in self.hosts:
            raise _Refused(
                421, f"called by the name {name[:100]!r}, which is not this machine's; use localhost"
            )
        if self.token is not None and not hmac.compare_digest(_given_token(headers), self.token):
            raise _Refused(
                401,
                "the token is missing or wrong; send Authorization: Bearer TOKEN",
                {"www-authenticate": 'Basic realm="vagitus", charset="UTF-8"'},
            )
        # A browser says whose page asks. Another's would not read the answer, but keep the cores busy. It may link
        # here, but a form that it sends is a navigation too; same-site is another port or a sister's name.
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        link = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
        origin = headers.get("origin")
        if (foreign and not link) or (method == "POST" and origin is not None and _host_of(origin) != host):
            raise _Refused(403, "asked for by another web page; open this one")


def _host_of(origin: str) -> str:
    """Name and port of an Origin header; "" for ``null`` and what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _given_token(headers: Mapping[str, str]) -> bytes:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


class _Rate:
    """A bucket for every client, filled ``n_per_minute`` times a minute up to as many."""

    def __init__(self, n_per_minute: int) -> None:
        self.most = n_per_minute
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when

    def wait_s(self, client: str, now_s: float) -> float:
        """Take one; 0, or how long until there is one to take."""
        left, then_s = self.left.pop(client, (float(self.most), now_s))
        left = min(self.most, left + (now_s - then_s) * self.most / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.most
        self.left[client] = (left if wait else left - 1, now_s)
        if len(self.left) > MAX_CLIENTS:
            self.left.popitem(last=False)
        return wait


class _Scorer:
    """POST /predict."""

    def __init__(self, predictor: Predictor, limits: RequestLimits) -> None:
        self.predictor, self.limits = predictor, limits
        self.rate = _Rate(limits.n_per_minute)
        self.threads = ThreadPoolExecutor(limits.n_at_once, thread_name_prefix="score")
        self.n_under_way = 0  # changed on the event loop's thread only

    async def answer(self, request: "Request") -> bytes:
        self._check(request)
        if self.n_under_way >= self.limits.n_at_once:
            raise _Refused(
                503, f"{self.n_under_way} recordings are being scored; try again", {"retry-after": "1"}
            )
        self.n_under_way += 1
        scoring: asyncio.Future[bytes] | None = None
        try:
            try:
                async with asyncio.timeout(self.limits.upload_s):
                    name, content = await self._body(request)
            except TimeoutError:
                raise _Refused(
                    408, f"the upload took over {self.limits.upload_s:g} s; send a shorter piece"
                ) from None
            scoring = asyncio.get_running_loop().run_in_executor(self.threads, self._score, name, content)
            scoring.add_done_callback(self._done)
            try:
                # A thread cannot be stopped: its place stays taken until it ends.
                return await asyncio.wait_for(asyncio.shield(scoring), self.limits.score_s)
            except TimeoutError:
                raise _Refused(
                    503, f"scoring took over {self.limits.score_s:g} s; send a shorter piece"
                ) from None
        finally:
            if scoring is None:
                self.n_under_way -= 1

    def _done(self, scoring: "asyncio.Future[bytes]") -> None:
        self.n_under_way -= 1
        if not scoring.cancelled():
            scoring.exception()  # seen, also where nobody waits for it any more

    def _check(self, request: "Request") -> None:
        wait_s = self.rate.wait_s(request.client.host if request.client else "", time.monotonic())
        if wait_s:
            raise _Refused(
                429,
                f"more than {self.limits.n_per_minute} recordings a minute; wait {math.ceil(wait_s)} s",
                {"retry-after": str(math.ceil(wait_s))},
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused(415, "the body is compressed; send the recording as it is")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limits.max_bytes:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"more than {self.limits.max_bytes / 1e6:g} MB; send a shorter piece")

    async def _body(self, request: "Request") -> tuple[str, bytes]:
        """File name and content of what is uploaded, in memory."""
        from starlette.formparsers import MultiPartException, MultiPartParser
        from starlette.requests import ClientDisconnect

        async def counted() -> AsyncGenerator[bytes, None]:
            n_bytes = 0
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes > self.limits.max_bytes:
                    raise self._too_large()
                yield chunk

        try:
            if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return "", b"".join([chunk async for chunk in counted()])
            parser = MultiPartParser(request.headers, counted(), max_files=1, max_fields=8)
            parser.spool_max_size = self.limits.max_bytes + 1  # starlette would use a disk beyond 1 MB
            form = await parser.parse()
        except MultiPartException as error:
            raise _Refused(422, f"not a multipart form ({error.message}); send one file") from None
        except ClientDisconnect:
            raise _Refused(400, "the connection ended before the upload did; send it again") from None
        uploads = [value for value in form.values() if not isinstance(value, str)]
        if not uploads:
            raise _Refused(422, "the form has no file; send the recording as its file")
        try:
            name = (uploads[0].filename or "").replace("\\", "/").rpartition("/")[2]
            return name[:MAX_NAME_CHARACTERS], await uploads[0].read()
        finally:
            await form.close()

    def _score(self, name: str, content: bytes) -> bytes:
        with _path_in_memory(content) as path:
            try:
                prediction = self._predict(path)
            except (AudioError, OSError) as error:
                # The decoder names the path, which means nothing to whoever sent it.
                reason = str(error).replace(str(path), name or "upload")
                raise _Refused(422, reason) from None
        answered = Prediction(**{**vars(prediction), "path": name})
        return to_json([answered], self.predictor.notice).encode()

    def _predict(self, path: Path) -> Prediction:
        rate_hz = self.predictor.model.sample_rate_hz
        deadline_s = time.monotonic() + self.limits.score_s
        too_long = _Refused(
            413, f"longer than {self.limits.max_duration_s / 60:g} minutes; send a shorter piece"
        )
        announced_s = probe(path).duration_s
        if announced_s is not None and announced_s > self.limits.max_duration_s:
            raise too_long
        blocks, n_samples = [], 0
        # A second at once: a header may say an hour and the file hold it, in a few bytes.
        for block in stream(path, sample_rate_hz=rate_hz, block_s=1.0):
            blocks.append(block)
            n_samples += len(block)
            if n_samples > self.limits.max_duration_s * rate_hz:
                raise too_long
            if time.monotonic() > deadline_s:
                raise _Refused(503, f"decoding took over {self.limits.score_s:g} s; send it as wav")
        return self.predictor.predict(np.concatenate(blocks) if blocks else np.empty(0, np.float32), rate_hz)


@contextmanager
def _path_in_memory(content: bytes) -> Iterator[Path]:
    """A path to read ``content`` from; where the system can, one that is on no disk."""
    if sys.platform == "linux":
        handle = os.memfd_create("vagitus-upload")
        with open(handle, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(content)
            file.flush()
            yield Path(f"/proc/self/fd/{handle}")
    else:
        with tempfile.TemporaryDirectory(prefix="vagitus-") as folder:
            path = Path(folder) / "upload"
            path.write_bytes(content)
            yield path


def _packaged(folder: Any, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _packaged(item, f"{prefix}{item.name}/")
        elif Path(item.name).suffix in MEDIA_TYPES:
            yield prefix + item.name, item.read_bytes()


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
