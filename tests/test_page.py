"""The page in a real browser, on a real server, with a real (fake) microphone: what a person would do and see."""

import asyncio
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
import soundfile
import torch
from webdriver import Browser, driver, find_chromium

from vagitus import calibration
from vagitus.checkpoint import ModelCard, save_model
from vagitus.export import OnnxModel, export_onnx
from vagitus.features import PRESETS
from vagitus.models import build_model
from vagitus.predict import Predictor
from vagitus.serve import make_app, make_server

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node: apt-get install nodejs")
PAGE = Path(__file__).resolve().parents[1] / "src" / "vagitus" / "page"
RATE_HZ = 8_000
WINDOW_FRAMES = 90


def noise(n_samples: int) -> np.ndarray:
    """It swells, so that windows differ."""
    rng = np.random.default_rng(n_samples)
    return rng.standard_normal(n_samples).clip(-3, 3) * np.geomspace(0.003, 0.25, n_samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every kind of statistics, and recordings."""
    folder = tmp_path_factory.mktemp("page")
    card = ModelCard(
        model="small",
        options={"n_mels": 40, "n_classes": 2, "width": 4},
        features=PRESETS["mfcc40"].vary(normalisation="mean_std"),
        window_s=0.9,
        class_names=("well", "ill"),
        positive="ill",
        threshold=0.45,
        calibration=calibration.Logistic(1.7, (0.0, 0.2)).to_dict(),
    )
    torch.manual_seed(0)
    model = build_model(card.model, **card.options)
    with torch.no_grad():
        model(torch.randn(8, 40, WINDOW_FRAMES))
    save_model(folder / "model.safetensors", model, card)
    export_onnx(folder / "model.safetensors", folder / "model.onnx")
    soundfile.write(folder / "cry.wav", noise(21_600), RATE_HZ)
    soundfile.write(folder / "short.wav", noise(5_000), RATE_HZ)
    soundfile.write(folder / "long.wav", noise(88_888), RATE_HZ)  # statistics of two stretches
    soundfile.write(folder / "phone.wav", noise(110_250), 44_100, "PCM_24")
    soundfile.write(folder / "phone.flac", noise(96_000), 48_000)
    soundfile.write(folder / "silent.wav", np.zeros(9_000), RATE_HZ)
    soundfile.write(folder / "two-hours.wav", np.zeros(7_200 * 1_000, np.int16), 1_000)
    soundfile.write(folder / "microphone.wav", noise(96_000), 48_000)
    (folder / "notes.wav").write_text("subject,label\nanna,ill\n")
    (folder / "cut.wav").write_bytes((folder / "cry.wav").read_bytes()[:-1_000])
    return folder


class Request(NamedTuple):
    method: str
    path: str
    n_bytes: int  # of its body
    query: bytes


class Recorded:
    """An application that keeps what it is asked."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app, self.requests = app, list[Request]()
        self.fails: set[str] = set()  # paths
        self.gives_model = threading.Event()
        self.gives_model.set()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        n_bytes = 0

        async def counted() -> "Message":
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            return message

        if scope["path"] in self.fails:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["path"] == "/model.onnx":
            await asyncio.to_thread(self.gives_model.wait, 30)
        await self.app(scope, counted, send)
        self.requests.append(Request(scope["method"], scope["path"], n_bytes, scope["query_string"]))


class Served:
    """The page on loopback, until it is stopped."""

    def __init__(self, model: Path) -> None:
        self.app = Recorded(make_app(model))
        self.server = make_server(self.app)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    served = Served(folder / "model.onnx")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser(folder: Path, served: Served) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium-driver")
    with driver() as started:
        browser = started(
            [
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
                "--autoplay-policy=no-user-gesture-required",
            ]
        )
        browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        phone(browser)
        browser.open(served.url)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Browser:
    """The page as it is when the model is ready, with nothing in its history."""
    ready(browser)
    browser.run(
        "document.getElementById('go-start').click(); return import('./history.js').then((h) => h.eraseAll())"
    )
    return browser


def phone(browser: Browser, width: int = 390, height: int = 844) -> None:
    browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )


def ready(browser: Browser) -> None:
    browser.wait("document.body.dataset.ready")


def view(browser: Browser, name: str) -> None:
    browser.wait("document.body.dataset.view === arguments[0]", name)


def result(browser: Browser) -> str:
    view(browser, "result")
    return browser.text("#verdict")


def opened(browser: Browser, path: Path) -> dict[str, Any]:
    """The prediction that the page makes of a file, from its history."""
    browser.run("scrollTo(0, 0)")
    browser.click("#go-start")
    browser.type("#file", str(path))
    view(browser, "result")
    return last(browser)


def show_history(browser: Browser, n_entries: int) -> None:
    browser.run("scrollTo(0, 0)")
    browser.click("#go-history")
    view(browser, "history")
    assert browser.run("return document.querySelectorAll('#entries li').length") == n_entries


def last(browser: Browser) -> dict[str, Any]:
    entries: list[dict[str, Any]] = browser.run(
        "return import('./history.js').then((h) => h.all())"
        ".then((all) => all.map((e) => ({...e, sound: e.sound?.size ?? null})))"
    )
    return entries[0]


@pytest.mark.parametrize("name", ["cry.wav", "short.wav", "long.wav", "phone.wav", "phone.flac"])
def test_it_scores_as_predict_does(page: Browser, folder: Path, name: str) -> None:
    expected = Predictor(folder / "model.onnx").predict(folder / name)
    found = opened(page, folder / name)["prediction"]
    assert found["score"] == pytest.approx(expected.score, abs=1e-3)
    assert (found["decision"], found["threshold"]) == (expected.decision, expected.threshold)
    windows = [(w.start_s, w.end_s, w.score) for w in expected.windows]
    np.testing.assert_allclose(
        [(w["start_s"], w["end_s"], w["score"]) for w in found["windows"]], windows, atol=1e-3
    )
    assert f"{expected.score:.2f}" in result(page)


def test_the_recording_of_a_microphone_is_scored(page: Browser) -> None:
    page.click("#record")
    view(page, "recording")
    page.wait("document.getElementById('elapsed').textContent !== '0:00'")
    assert page.text("#level") in ("Good level", "Too loud: go further away", "Too quiet: go closer")
    page.click("#stop")
    assert "The model says" in result(page)
    prediction = last(page)["prediction"]
    assert prediction["duration_s"] > 0.9 and 0 < prediction["score"] < 1


def test_a_person_need_not_wait_for_the_model(page: Browser, served: Served, folder: Path) -> None:
    served.app.gives_model.clear()
    try:
        page.open(served.url)
        page.wait("!document.getElementById('open').disabled && !document.getElementById('record').disabled")
        page.type("#file", str(folder / "cry.wav"))
        page.wait("document.getElementById('busy-what').textContent === 'Getting the model ready…'")
        assert not page.run("return document.body.dataset.ready")
    finally:
        served.app.gives_model.set()
    assert "The model says" in result(page)


def test_what_cannot_be_erased_is_said_and_stays(page: Browser, folder: Path) -> None:
    opened(page, folder / "short.wav")
    show_history(page, 1)
    page.run(
        "for (const name of ['delete', 'clear'])"
        "  IDBObjectStore.prototype['own ' + name] ??= IDBObjectStore.prototype[name],"
        "  IDBObjectStore.prototype[name] = () => { throw new DOMException('no room', 'QuotaExceededError'); }"
    )
    try:
        for button in ("[aria-label='Erase short.wav']", "#erase-all"):
            page.run("document.getElementById('problem').hidden = true")
            page.click(button)
            page.click("#confirm [value=yes]")
            page.wait("!document.getElementById('problem').hidden")
            assert page.text("#problem").startswith("It could not be erased: this browser refused")
            assert page.run("return document.querySelectorAll('#entries li').length") == 1
    finally:
        page.run(
            "for (const name of ['delete', 'clear'])"
            "  IDBObjectStore.prototype[name] = IDBObjectStore.prototype['own ' + name]"
        )
    page.click("#erase-all")
    page.click("#confirm [value=yes]")
    page.wait("document.querySelectorAll('#entries li').length === 0")
    assert page.run("return document.getElementById('problem').hidden")


def test_no_sound_leaves_the_page(page: Browser, served: Served, folder: Path) -> None:
    served.app.requests.clear()
    page.open(served.url)
    ready(page)
    page.click("#record")
    view(page, "recording")
    page.wait("document.getElementById('elapsed').textContent !== '0:00'")
    page.click("#stop")
    view(page, "result")
    opened(page, folder / "cry.wav")
    page.click("#keep")
    page.click("#occlude")
    page.wait("!document.querySelector('.drops').hidden")
    asked = served.app.requests
    assert {request.path for request in asked} >= {"/", "/model.onnx", "/ort/ort-wasm-simd-threaded.wasm"}
    assert {request.method for request in asked} == {"GET"}
    assert {(request.n_bytes, request.query) for request in asked} == {(0, b"")}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("notes.wav", "“notes.wav” is not a recording that this browser can read."),
        ("cut.wav", "“cut.wav” is cut short: it ends before its header says."),
        ("two-hours.wav", "“two-hours.wav” lasts 120 minutes; this page takes up to 10 minutes."),
    ],
)
def test_what_it_cannot_take_is_said_in_a_sentence(
    page: Browser, folder: Path, name: str, sentence: str
) -> None:
    page.type("#file", str(folder / name))
    page.wait("!document.getElementById('problem').hidden")
    assert page.text("#problem").startswith(sentence)
    view(page, "start")


def test_it_abstains_as_predict_does(page: Browser, folder: Path) -> None:
    assert "silent" in Predictor(folder / "model.onnx").predict(folder / "silent.wav").reason
    prediction = opened(page, folder / "silent.wav")["prediction"]
    assert prediction["score"] is None and prediction["windows"] == []
    assert "No answer\nIt is silent: no sound at all." in result(page)


def test_everything_can_be_done_with_the_keyboard(page: Browser, folder: Path) -> None:
    def tab_to(element_id: str) -> None:
        for _ in range(30):
            page.press("Tab")
            if page.run("return document.activeElement.id") == element_id:
                return
        raise AssertionError(f"no way to #{element_id} with the Tab key")

    tab_to("record")
    page.press("Enter")
    view(page, "recording")
    assert page.run("return document.activeElement.id") == "recording-title"
    page.wait("document.getElementById('elapsed').textContent >= '0:02'")
    tab_to("stop")
    page.press("Space")
    result(page)
    assert page.run("return document.activeElement.id") == "result-title"
    for _ in range(10):
        page.press("Tab")
        if page.run("return document.activeElement.matches('.strip button')"):
            break
    page.press("Right")
    name = page.run("return document.activeElement.getAttribute('aria-label')")
    assert re.fullmatch(
        r"Part 2 of \d, 0\.[45] to 1\.[34] seconds, score 0\.\d\d, .* the threshold\. Play", name
    )
    page.press("Enter")
    assert page.run("return document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("Enter")
    assert page.run("return document.activeElement.getAttribute('aria-pressed')") == "false"
    tab_to("keep")
    page.press("Space")
    page.wait("document.getElementById('status').textContent === 'The sound is kept on this device.'")


def test_the_history_keeps_sound_only_where_it_was_asked_to_and_forgets(page: Browser, folder: Path) -> None:
    opened(page, folder / "short.wav")
    assert last(page)["sound"] is None
    opened(page, folder / "cry.wav")
    page.click("#keep")
    page.wait("document.getElementById('status').textContent === 'The sound is kept on this device.'")
    assert last(page)["sound"] == 44 + 2 * 21_600
    show_history(page, 2)
    page.click("[aria-label='Show short.wav']")
    assert "short.wav" in result(page)
    assert page.run("return document.querySelectorAll('#timeline canvas').length") == 0
    show_history(page, 2)
    page.click("[aria-label='Show cry.wav']")
    assert "cry.wav" in result(page)
    page.click("#occlude")  # the kept sound is there to listen to again
    page.wait("document.getElementById('timeline-words').textContent.startsWith('Each stretch')")
    show_history(page, 2)
    page.click("[aria-label='Erase cry.wav']")
    page.click("#confirm [value=yes]")
    page.wait("document.querySelectorAll('#entries li').length === 1")
    page.click("#erase-all")
    page.click("#confirm [value=no]")
    assert page.run("return document.querySelectorAll('#entries li').length") == 1
    page.click("#erase-all")
    page.click("#confirm [value=yes]")
    page.wait("document.querySelectorAll('#entries li').length === 0")
    assert page.run("return import('./history.js').then((h) => h.all())") == []


def test_a_result_of_another_model_is_not_explained_by_this_one(page: Browser, folder: Path) -> None:
    opened(page, folder / "cry.wav")
    page.click("#keep")
    page.wait("document.getElementById('status').textContent === 'The sound is kept on this device.'")
    page.run(
        "return import('./history.js').then(async (h) => {"
        "  const [{ id, ...entry }] = await h.all();"
        "  await h.add({ ...entry, name: 'other.wav', sha256: 'of another model' });"
        "})"
    )
    for name, hidden in [("cry.wav", False), ("other.wav", True)]:
        show_history(page, 2)
        page.click(f"[aria-label='Show {name}']")
        assert name in result(page)
        assert page.run("return document.getElementById('occlude').hidden") is hidden
        assert page.run("return document.querySelectorAll('#timeline canvas').length") == 2


def test_pages_in_other_folders_have_their_own_history(page: Browser) -> None:
    names = page.run("return indexedDB.databases().then((all) => all.map((own) => own.name))")
    assert names == ["vagitus /"]


def test_a_recorder_that_fails_lets_the_microphone_go(page: Browser) -> None:
    message, states = page.run(
        "const devices = navigator.mediaDevices, Node = AudioWorkletNode;"
        "let stream;"
        "devices.getUserMedia = async (asked) =>"
        "  (stream = await MediaDevices.prototype.getUserMedia.call(devices, asked));"
        "globalThis.AudioWorkletNode = class { constructor() { throw new TypeError('none'); } };"
        "return import('./recorder.js').then((r) => r.record(() => {}, () => {}))"
        "  .catch((error) => [error.message, stream.getTracks().map((track) => track.readyState)])"
        "  .finally(() => { delete devices.getUserMedia; globalThis.AudioWorkletNode = Node; })"
    )
    assert message.startswith("The microphone could not be listened to (TypeError).")
    assert states == ["ended"]


def test_reports_are_saved_without_sound(page: Browser, folder: Path) -> None:
    score = opened(page, folder / "cry.wav")["prediction"]["score"]
    page.click("#report-json")
    page.click("#report-html")
    (data,), (report,) = (saved(page, folder, f"vagitus cry.wav*.{kind}") for kind in ("json", "html"))
    described = json.loads(data)
    assert described["notice"] == "Research use only, not a diagnosis."
    assert described["predictions"][0]["score"] == score
    assert "Research use only, not a diagnosis." in report and f"{score:.2f}" in report
    assert not re.search(r"<script|https?:|audio/", report)


def saved(browser: Browser, folder: Path, pattern: str) -> list[str]:
    for _ in range(200):
        found = [path for path in folder.glob(pattern) if not path.name.endswith(".crdownload")]
        if found and all(path.stat().st_size for path in found):
            break
        browser.run("return new Promise((done) => setTimeout(done, 20))")
    return [path.read_text() for path in found]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_targets_are_large_the_notice_is_in_view_and_nothing_is_cut_off(
    page: Browser, folder: Path, width: int, height: int
) -> None:
    phone(page, width, height)
    try:
        for name in ("start", "result", "history"):
            if name == "result":
                opened(page, folder / "long.wav")
            if name == "history":
                show_history(page, 1)
            view(page, name)
            page.run("scrollTo(0, 1e6)")
            box = page.run("return document.getElementById('notice').getBoundingClientRect().toJSON()")
            assert box["top"] >= 0 and box["bottom"] <= height, name
            assert page.run("return document.documentElement.scrollWidth") <= width, name
            sizes = page.run(
                "return [...document.querySelectorAll('button, summary, .check')].filter((e) => e.offsetParent)"
                ".map((e) => [e.textContent.trim(), e.offsetWidth, e.offsetHeight])"
            )
            assert [size for size in sizes if size[1] < 44 or size[2] < 44] == [], name
    finally:
        phone(page)


def test_every_control_and_picture_has_a_name(page: Browser, folder: Path) -> None:
    opened(page, folder / "cry.wav")
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "img", "image", "checkbox", "region", "toolbar", "meter", "progressbar", "canvas"}
    shown = [node for node in nodes if node.get("role", {}).get("value") in roles and not node["ignored"]]
    assert len(shown) > 10
    assert [node for node in shown if not node.get("name", {}).get("value")] == []


def test_names_are_text_and_never_markup(page: Browser, folder: Path) -> None:
    name = "<img src=x onerror=alert(1)>.wav"
    (folder / name).write_bytes((folder / "short.wav").read_bytes())
    opened(page, folder / name)
    assert name in result(page)
    page.click("#report-html")
    (report,) = saved(page, folder, "vagitus -img*.html")
    assert "<img src=x" not in report and "&lt;img src=x" in report


@pytest.fixture(scope="module")
def cautious(folder: Path) -> Iterator[Browser]:
    """A second browser, whose person does not allow the microphone."""
    if find_chromium() is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium-driver")
    with driver() as started:
        browser = started()
        yield browser
        browser.close()


def test_a_microphone_that_is_not_allowed_is_said_in_a_sentence(cautious: Browser, served: Served) -> None:
    cautious.open(served.url)
    ready(cautious)
    denied = {"permission": {"name": "microphone"}, "setting": "denied", "origin": served.url}
    cautious.devtools("Browser.setPermission", **denied)
    cautious.click("#record")
    cautious.wait("!document.getElementById('problem').hidden")
    assert re.match(r"The microphone is not allowed|No microphone was found", cautious.text("#problem"))


def test_it_works_without_a_network(cautious: Browser, folder: Path) -> None:
    served = Served(folder / "model.onnx")
    try:
        cautious.open(served.url)
        ready(cautious)
        cautious.wait("document.body.dataset.offline")
    finally:
        served.stop()
    cautious.open(served.url)
    ready(cautious)
    found = opened(cautious, folder / "cry.wav")["prediction"]["score"]
    expected = Predictor(folder / "model.onnx").predict(folder / "cry.wav").score
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_page_that_could_not_be_kept_says_so_and_is_kept_the_next_time(
    cautious: Browser, folder: Path
) -> None:
    served = Served(folder / "model.onnx")
    try:
        served.app.fails.add("/icon-180.png")  # only the worker asks for it
        cautious.open(served.url)
        ready(cautious)
        cautious.wait(
            "document.getElementById('offline').textContent.startsWith('Needs the network: the page')"
        )
        assert not cautious.run("return document.body.dataset.offline")
        assert cautious.run("return caches.keys()") == []
        served.app.fails.clear()
        cautious.open(served.url)
        cautious.wait("document.body.dataset.offline")
        first = cautious.run("return caches.keys()")

        newer = onnx.load(folder / "model.onnx")
        newer.producer_version = "newer"
        onnx.save(newer, folder / "newer.onnx")
        served.app.app = make_app(folder / "newer.onnx")
        served.app.fails.add("/icon-180.png")
        cautious.open(served.url)
        cautious.wait("document.getElementById('offline').textContent.includes('an earlier page and model')")
        assert cautious.run("return caches.keys()") == first
        served.app.fails.clear()
        cautious.open(served.url)
        cautious.wait(f"caches.keys().then((names) => !names.includes({json.dumps(first[0])}))")
        assert "these could not" not in cautious.text("#offline")
    finally:
        served.stop()


def test_the_console_has_no_complaint(browser: Browser) -> None:
    """Over all tests before: no refused script, no failed request but those of the tests."""
    assert [entry["message"] for entry in browser.log("browser") if entry["level"] == "SEVERE"] == []


# Without a browser: the arithmetic, against the library's.


def node(script: str) -> Any:
    run = subprocess.run(
        ["node", "--input-type=module", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        cwd=PAGE,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_node
def test_calibrations_and_windows_are_those_of_the_library() -> None:
    from vagitus.windows import window_starts

    logits = [[0.3, -1.2], [-700.0, 2.5], [0.1, 0.1]]
    calibrators: list[calibration.Calibrator] = [
        calibration.Identity(),
        calibration.Temperature(2.3),
        calibration.Logistic(1.7, (0.0, -0.4)),
        calibration.Isotonic((-1.4, 0.2, 3.0), (0.1, 0.35, 0.8)),
    ]
    lengths = [(1, 90), (90, 90), (91, 90), (500, 90), (7, 1), (12, 5)]
    found = node(
        "import { calibrated, windowStarts } from './score.js';"
        f"const z = {json.dumps(logits)}, c = {json.dumps([own.to_dict() for own in calibrators])};"
        "console.log(JSON.stringify([c.map((own) => z.map((row) => calibrated(row, own))),"
        f"{json.dumps(lengths)}.map(([n, w]) => windowStarts(n, w))]))"
    )
    np.testing.assert_allclose(found[0], [own.apply(logits) for own in calibrators], atol=1e-12)
    assert found[1] == [window_starts(n, w, max(w // 2, 1)).tolist() for n, w in lengths]


@needs_node
@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(48_000, 8_000), (44_100, 16_000), (16_000, 44_100), (11_025, 8_000)]
)
def test_a_changed_rate_keeps_tones_and_lets_none_come_down(from_hz: int, to_hz: int) -> None:
    nyquist_hz = min(from_hz, to_hz) / 2

    def kept(rate_hz: int, n_samples: int) -> np.ndarray:
        t = np.arange(n_samples) / rate_hz
        low, high = 2 * np.pi * 0.11 * nyquist_hz * t, 2 * np.pi * 0.9 * nyquist_hz * t
        return np.asarray(0.5 * np.sin(low) + 0.3 * np.sin(high + 1))

    n_samples = from_hz // 5
    x = kept(from_hz, n_samples)
    if to_hz < from_hz:  # beyond what the new rate can hold
        x += 0.2 * np.sin(2 * np.pi * 1.02 * nyquist_hz * np.arange(n_samples) / from_hz)
    found = node(
        "import { resample } from './sound.js';"
        f"const x = Float32Array.from({json.dumps(x.tolist())});"
        f"console.log(JSON.stringify([...resample(x, {from_hz}, {to_hz})]))"
    )
    assert len(found) == round(n_samples * to_hz / from_hz)
    edge = to_hz // 20  # where the recording begins and ends
    np.testing.assert_allclose(found[edge:-edge], kept(to_hz, len(found))[edge:-edge], atol=2e-6)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_contrast_in_light_and_dark() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    themes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in blocks]
    assert len(themes) == 2
    for theme in themes:
        for ground in ("page", "surface"):
            for ink in ("ink", "muted", "accent"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
            assert contrast(theme["edge"], theme[ground]) >= 3, ground
        for ink, ground in (
            ("accent-ink", "accent"),
            ("bar-ink", "bar"),
            ("error", "error-tint"),
            ("error", "surface"),
            ("accent", "tint"),
        ):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)


def test_the_icon_of_a_home_screen_is_a_png_of_its_size() -> None:
    named = re.search(r'rel="apple-touch-icon" href="([\w.-]+)"', (PAGE / "index.html").read_text())
    assert named
    content = (PAGE / named[1]).read_bytes()  # iOS takes no SVG
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (180, 180)


def test_the_lockfile_pins_hashes_and_names_no_registry() -> None:
    text = (PAGE.parents[2] / "page" / "package-lock.json").read_text()
    packages = {name: own for name, own in json.loads(text)["packages"].items() if name}
    assert packages["node_modules/onnxruntime-web"]["version"] in (PAGE / "ort" / "ort.js").read_text()[:80]
    assert [name for name, own in packages.items() if not own["integrity"].startswith("sha512-")] == []
    assert "resolved" not in text


def test_the_model_of_these_tests_takes_statistics(folder: Path) -> None:
    assert OnnxModel(folder / "model.onnx")._inputs == ("waveform", "mean", "std")
