import asyncio
import base64
import gzip
import http.client
import inspect
import io
import json
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from starlette.routing import Route

from vagitus import audio
from vagitus import serve as serving
from vagitus.predict import Predictor, to_json
from vagitus.serve import (
    CONTENT_SECURITY_POLICY,
    HEADERS,
    IDLE_S,
    RequestLimits,
    export_page,
    is_loopback,
    make_app,
    make_server,
    page_files,
    serve,
)

RATE_HZ = 8_000
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "src" / "vagitus" / "page"
TOKEN = "a-token-of-this-test"
MANY = 100_000


def make_onnx(path: Path, slope: float = 60.0) -> Path:
    """A graph by hand: the log-odds of the second class are ``slope`` times the mean absolute sample."""
    header = {
        "format": 1,
        "notice": "Research use only, not a diagnosis.",
        "numbers": "float32",
        "class_names": ["well", "ill"],
        "positive": "ill",
        "threshold": 0.45,
        "calibration": {},
        "sample_rate_hz": RATE_HZ,
        "hop_samples": 80,
        "context_samples": 160,
        "least_samples": 240,
        "window_frames": 100,
        "n_rows": 40,
        "silent_dbfs": -70.0,
        "card": {"model": "by hand"},
    }
    weight = numpy_helper.from_array(np.array([[0.0, slope]], np.float32), "weight")
    nodes = [
        helper.make_node("Abs", ["waveform"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude"], ["level"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["level", "weight"], ["logits"]),
    ]
    waveform = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "n_samples"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "by hand", [waveform], [logits], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"vagitus": json.dumps(header)})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_onnx(tmp_path_factory.mktemp("serve") / "model.onnx")


@contextmanager
def running(model: Path, **options: Any) -> Iterator[int]:
    """The port of a server of the application, in a thread."""
    options.setdefault("limits", RequestLimits(n_per_minute=MANY))
    idle_s = options.pop("idle_s", IDLE_S)
    with in_thread(make_server(make_app(model, options.pop("limits"), **options), idle_s=idle_s)) as port:
        yield port


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(model: Path) -> Iterator[int]:
    with running(model) as port:
        yield port


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def predict(port: int, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    status, _, content = ask(port, "POST", "/predict", body, headers)
    return status, json.loads(content)


def noise(n_samples: int, n_channels: int = 1) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(n_samples).standard_normal((n_samples, n_channels))
    return samples.astype(np.float32).clip(-1, 1)


def wav(
    n_samples: int = 14_000, rate_hz: int = RATE_HZ, n_channels: int = 1, subtype: str = "PCM_16"
) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, noise(n_samples, n_channels), rate_hz, subtype, format="WAV")
    return out.getvalue()


def form(content: bytes, name: str = "cry.wav") -> tuple[bytes, dict[str, str]]:
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n", {
        "Content-Type": "multipart/form-data; boundary=edge"
    }


def test_the_answer_is_what_the_predictor_says(port: int, model: Path, tmp_path: Path) -> None:
    (tmp_path / "cry.wav").write_bytes(wav())
    predictor = Predictor(model)
    expected = json.loads(to_json([predictor.predict(tmp_path / "cry.wav")], predictor.notice))
    assert 0 < expected["predictions"][0]["score"] < 1 and len(expected["predictions"][0]["windows"]) == 3
    for body, headers, name in [(wav(), {}, ""), (*form(wav(), r"C:\ward\cry.wav"), "cry.wav")]:
        status, answer = predict(port, body, headers)
        expected["predictions"][0]["path"] = name
        assert (status, answer) == (200, expected)


@pytest.mark.parametrize(
    ("n_samples", "rate_hz", "n_channels", "subtype"),
    [
        (9_000, 8_000, 1, "PCM_U8"),
        (9_000, 8_000, 2, "PCM_24"),
        (90_000, 96_000, 1, "PCM_16"),
        (9_000, 8_000, 6, "FLOAT"),
    ],
)
def test_unusual_recordings_are_scored(
    port: int, n_samples: int, rate_hz: int, n_channels: int, subtype: str
) -> None:
    status, answer = predict(port, wav(n_samples, rate_hz, n_channels, subtype))
    assert status == 200 and 0 < answer["predictions"][0]["score"] < 1


def test_a_silent_recording_gets_a_reason_and_no_score(port: int) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(8_000), RATE_HZ, format="WAV")
    status, answer = predict(port, out.getvalue())
    assert (status, answer["predictions"][0]["score"]) == (200, None)
    assert "silent" in answer["predictions"][0]["reason"]


def lying(content: bytes, seconds: int) -> bytes:
    """A wav whose header promises so much."""
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", seconds * RATE_HZ * 2) + content[at + 4 :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"subject,label\nanna,ill\n", "text ('subject,label"),
        (b"", "empty file (0 bytes)"),
        (wav()[:-1_000], "cut short"),
        (lying(wav(), 7_200), "cut short"),
        (gzip.compress(bytes(1_000_000)), "a compressed archive; unpack it"),
        (b"RIFF", "text ('RIFF')"),
    ],
    ids=["text", "nothing", "truncated", "two hours promised", "gzip", "four bytes"],
)
def test_what_is_no_recording_is_refused_in_a_sentence(port: int, content: bytes, reason: str) -> None:
    status, answer = predict(port, *form(content, "ward.wav"))
    assert status == 422 and reason in answer["error"]
    assert answer["error"].startswith("ward.wav: ") and "/proc" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"not a form", "not a multipart form"), (b"--edge--\r\n", "the form has no file")],
)
def test_a_form_without_a_file_is_refused(port: int, body: bytes, reason: str) -> None:
    status, answer = predict(port, body, {"Content-Type": "multipart/form-data; boundary=edge"})
    assert status == 422 and answer["error"].startswith(reason)


def test_bytes_are_limited_by_what_is_announced_and_by_what_comes(model: Path) -> None:
    with running(model, limits=RequestLimits(max_bytes=40_000)) as port:
        assert predict(port, wav(19_000))[0] == 200
        announced = {"Content-Length": str(10**12)}
        assert predict(port, b"", announced) == (413, {"error": "more than 0.04 MB; send a shorter piece"})
        body, headers = form(wav(21_000))
        pieces = (body[i : i + 1_000] for i in range(0, len(body), 1_000))
        assert predict(port, pieces, headers)[0] == 413  # chunked: no length is announced


def test_two_hours_in_a_small_file_are_refused(port: int) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(7_200 * 1_000, np.int16), 1_000, format="FLAC")
    assert len(out.getvalue()) < 200_000
    status, answer = predict(port, out.getvalue())
    assert (status, answer["error"]) == (413, "longer than 10 minutes; send a shorter piece")


def test_a_slow_rate_is_made_a_fast_one_in_pieces() -> None:
    block = noise(6_000)[:, 0]  # a minute at 100 Hz; soxr itself gives about six seconds of it at once
    pieces = list(audio._resampled([block], 100, 16_000))
    assert sum(map(len, pieces)) == 60 * 16_000
    assert max(map(len, pieces)) <= 10 * 16_000


def test_a_length_that_is_announced_is_refused_before_decoding(model: Path) -> None:
    out = io.BytesIO()
    samples = np.zeros((200_000, 1), np.float32)
    samples[0] = np.nan  # the first block could not be read
    soundfile.write(out, samples, 100, "FLOAT", format="WAV")
    with running(model) as port:
        assert predict(port, out.getvalue())[0] == 413
    with running(model, limits=RequestLimits(max_duration_s=3_000)) as port:
        assert predict(port, out.getvalue())[0] == 422


def test_a_compressed_body_is_refused(port: int) -> None:
    status, answer = predict(port, gzip.compress(wav()), {"Content-Encoding": "gzip"})
    assert status == 415 and "compressed" in answer["error"]


def test_scoring_that_takes_too_long_is_given_up(model: Path) -> None:
    with running(model, limits=RequestLimits(score_s=1e-9)) as port:
        status, answer = predict(port, wav())
    assert status == 503 and "took over 1e-09 s" in answer["error"]


def test_nothing_is_written_to_a_disk(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("uploads are held in a temporary folder where the system has no files in memory")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert predict(port, *form(wav(900_000)))[0] == 200  # 1.8 MB; starlette would spool from 1 MB


@contextmanager
def begun(port: int, body: bytes) -> Iterator[socket.socket]:
    """An upload of which only the head has come."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def test_one_more_than_there_are_places_is_told_to_wait(model: Path) -> None:
    body = wav()
    limits = RequestLimits(n_at_once=1, n_per_minute=MANY)
    with running(model, limits=limits) as port, begun(port, body) as first:
        for _ in range(1_000):  # until the server has read the head of the first
            status, headers, content = ask(port, "POST", "/predict", body)
            if status != 200:
                break
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(content) == {"error": "1 recordings are being scored; try again"}
        first.sendall(body)
        assert first.recv(12) == b"HTTP/1.1 200"
        assert predict(port, body)[0] == 200


def test_a_slow_upload_is_ended_and_its_place_given_back(model: Path) -> None:
    limits = RequestLimits(n_at_once=1, upload_s=0.05)
    with running(model, limits=limits) as port, begun(port, wav()) as slow:
        assert slow.recv(12) == b"HTTP/1.1 408"
        assert predict(port, b"")[0] == 422


def ends(connection: socket.socket) -> bool:
    """Whether the server ends it, whatever it says before."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


HEAD = b"GET /model.json HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, HEAD + b"\r\n" + HEAD, HEAD + b"Content-Length: 9\r\n\r\n"],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
def test_a_connection_that_asks_nothing_is_ended(model: Path, sent: bytes) -> None:
    with (
        running(model, idle_s=0.05) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(sent)
        assert ends(connection)  # socket.timeout otherwise


def test_a_head_that_comes_byte_by_byte_is_ended(model: Path) -> None:
    with (
        running(model, idle_s=0.05) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        pytest.raises(ConnectionError),
    ):
        for _ in range(2_000):
            connection.sendall(b"G")
            select.select([connection], [], [], 0.01)


def test_a_client_that_does_not_take_its_answer_is_ended(model: Path) -> None:
    server = make_server(make_app(model), idle_s=0.05)
    with in_thread(server) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /ort/ort-wasm-simd-threaded.wasm HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert select.select([connection], [], [], 20)[0]  # the answer has begun
        for _ in range(2_000):
            if not server.server_state.connections:
                break
            select.select([], [], [], 0.01)
        assert not server.server_state.connections


def test_an_answer_that_is_being_made_is_waited_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    score = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda *given: go_on.wait(20) and score(*given))
    with running(model, idle_s=0.01) as port, begun(port, wav()) as connection:
        connection.sendall(wav())
        with pytest.raises(TimeoutError):
            connection.settimeout(0.2)
            connection.recv(1)
        go_on.set()
        connection.settimeout(20)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_client_has_so_many_a_minute(model: Path) -> None:
    with running(model, limits=RequestLimits(n_per_minute=2)) as port:
        assert [predict(port, b"")[0] for _ in range(2)] == [422, 422]
        status, headers, content = ask(port, "POST", "/predict", b"")
        assert status == 429 and 1 <= int(headers["retry-after"]) <= 30
        assert "more than 2 recordings a minute" in json.loads(content)["error"]


def test_a_rate_fills_up_again_with_time_and_for_every_client_apart() -> None:
    rate = serving._Rate(30)  # one every two seconds
    assert [rate.wait_s("a", 10.0) for _ in range(30)] == [0.0] * 30
    assert rate.wait_s("a", 10.5) == pytest.approx(1.5)
    assert rate.wait_s("b", 10.5) == 0
    assert rate.wait_s("a", 12.0) == 0
    assert rate.wait_s("a", 12.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer another-token-altogether", 401),
        (f"Bearer {TOKEN}", 200),
        (f"Basic {base64.b64encode(f'anyone:{TOKEN}'.encode()).decode()}", 200),
        ("Basic not-base64!", 401),
        (f"Digest {TOKEN}", 401),
    ],
)
def test_a_token_guards_the_page_and_the_api(guarded: int, authorization: str, status: int) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    assert predict(guarded, wav(), headers)[0] == status
    assert ask(guarded, "GET", "/model.onnx", headers=headers)[0] == status


@pytest.fixture(scope="module")
def guarded(model: Path) -> Iterator[int]:
    with running(model, token=TOKEN, hosts=None) as port:
        yield port


def test_a_short_token_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="the token has 6 characters, at least 16"):
        make_app(model, token="secret")


def test_a_token_beyond_ascii_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="the token has characters beyond ASCII"):
        make_app(model, token="schlüssel-zur-station")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 421),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),  # another port of this machine
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),  # a link to the page
    ],
)
def test_other_web_pages_cannot_ask(port: int, headers: dict[str, str], status: int) -> None:
    assert ask(port, "GET", "/model.json", headers=headers)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),  # a form that is sent here
        ({"Host": "localhost:8000", "Origin": "https://attacker.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://[broken"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
    ],
)
def test_other_web_pages_cannot_have_recordings_scored(
    port: int, headers: dict[str, str], status: int
) -> None:
    assert predict(port, wav(), headers)[0] == status


def test_every_answer_has_safe_headers(port: int, guarded: int) -> None:
    answers = [
        (ask(port, "GET", "/"), 200, "no-cache"),
        (ask(port, "HEAD", "/"), 200, "no-cache"),
        (ask(port, "GET", "/../pyproject.toml"), 404, "no-store"),
        (ask(port, "PUT", "/predict"), 405, "no-store"),
        (ask(port, "POST", "/predict", wav()), 200, "no-store"),
        (ask(port, "POST", "/predict", b""), 422, "no-store"),
        (ask(guarded, "GET", "/"), 401, "no-store"),
    ]
    for (status, headers, body), expected, cached in answers:
        assert (status, headers["cache-control"]) == (expected, cached)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert headers["server"] is None
        if status >= 400:
            assert list(json.loads(body)) == ["error"]


def test_a_failure_of_the_server_has_safe_headers_too(model: Path) -> None:
    async def fails(_: object) -> None:
        raise ZeroDivisionError

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = make_app(model)
    app.router.routes.insert(0, Route("/fails", fails))
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/fails",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    with pytest.raises(ZeroDivisionError):  # for the log of the server
        asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[0]["status"] == 500 and headers.items() >= HEADERS.items()


def test_a_file_that_did_not_change_is_not_sent_again(port: int) -> None:
    tag = ask(port, "GET", "/model.onnx")[1]["etag"]
    status, _, body = ask(port, "GET", "/model.onnx", headers={"If-None-Match": tag})
    assert (status, body) == (304, b"")


def test_the_page_has_the_same_policy_in_itself() -> None:
    html = (PAGE / "index.html").read_text()
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert found and found[1] == CONTENT_SECURITY_POLICY


def files_of_worker(files: dict[str, bytes]) -> dict[str, str]:
    first = files["sw.js"].split(b"\n", 1)[0].decode()
    listed: dict[str, str] = json.loads(first.removeprefix("const FILES = ").removesuffix(";"))
    return listed


def test_the_worker_keeps_everything_and_another_model_makes_another_worker(
    model: Path, tmp_path: Path
) -> None:
    files = page_files(model)
    listed = files_of_worker(files)
    assert set(listed) == {name for name in files if not name.endswith(".txt")}
    assert files["model.onnx"] == model.read_bytes()
    assert json.loads(files["model.json"])["class_names"] == ["well", "ill"]
    other = files_of_worker(page_files(make_onnx(tmp_path / "other.onnx", slope=61.0)))
    changed = {name for name in listed if listed[name] != other[name]}
    assert changed == {"model.onnx", "model.json", "sw.js"}


def test_everything_that_the_page_names_is_there(model: Path) -> None:
    files = page_files(model)
    for name, content in files.items():
        if name.endswith((".html", ".js", ".webmanifest")) and not name.startswith("ort/"):
            text = content.decode()
            named = re.findall(r'(?:from |import |src=|href=|new URL\(|"src": )"(?:\./)?([\w./-]+)"', text)
            assert {other for other in named if other not in files} == set(), name


def test_no_file_of_the_page_names_another_host(model: Path) -> None:
    for name, content in page_files(model).items():
        if not name.startswith(("ort/", "model.")):
            addresses = re.findall(rb"https?://[\w./-]+", content)
            assert set(addresses) <= {b"http://www.w3.org/2000/svg"}, name


def test_the_wheel_takes_every_file_of_the_page() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = settings["tool"]["setuptools"]["package-data"]["vagitus"]
    names = [path.relative_to(PAGE.parent) for path in PAGE.rglob("*") if path.is_file()]
    assert [name for name in names if not any(fnmatch(str(name), pattern) for pattern in globs)] == []
    assert sum((PAGE.parent / name).stat().st_size for name in names) < 15e6


def test_a_page_is_written_and_brought_up_to_date(model: Path, tmp_path: Path) -> None:
    written = export_page(model, tmp_path / "page")
    assert written[-1].name == "sw.js"
    other = make_onnx(tmp_path / "other.onnx", slope=61.0)
    export_page(other, tmp_path / "page")
    for name, content in page_files(other).items():
        assert (tmp_path / "page" / name).read_bytes() == content


def test_a_page_is_not_written_over_something_else(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sw.js").write_text("// another worker\n")
    with pytest.raises(ValueError, match="holds something that is no page"):
        export_page(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sw.js"]


def test_what_the_page_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the page runs model\.onnx; write it with `vagitus export"):
        make_app(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        export_page(tmp_path / "none.onnx", tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "name", ["max_bytes", "max_duration_s", "n_at_once", "n_per_minute", "upload_s", "score_s"]
)
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be > 0, got 0"):
        RequestLimits(**{name: 0})


def test_loopback_is_told_from_the_rest() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.4", "ward.example")] == [False] * 4


def test_where_it_cannot_or_must_not_listen_is_refused(model: Path, port: int) -> None:
    with pytest.raises(
        ValueError, match=r"host 0\.0\.0\.0: other machines could reach it, so it needs a token"
    ):
        serve(model, host="0.0.0.0")
    with pytest.raises(ValueError, match=f"host 127.0.0.1, port {port}: .*; give another"):
        serve(model, port=port)
    with pytest.raises(ValueError, match="port must be 0 to 65535, got 70000"):
        serve(model, port=70_000)


def test_it_says_where_it_is_and_ends_when_it_is_interrupted(model: Path) -> None:
    code = f"from vagitus.serve import serve; serve({str(model)!r}, port=0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found and predict(int(found[1]), wav())[0] == 200
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()


def test_a_report_leads_to_where_the_page_is() -> None:
    html = (PAGE.parent / "report.html").read_text()
    address = re.search(r'<code>vagitus serve model\.onnx</code>, then open <a href="([^"]+)"', html)
    defaults = inspect.signature(serve).parameters
    assert address and address[1] == f"http://{defaults['host'].default}:{defaults['port'].default}/"
