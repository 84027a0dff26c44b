"""Whatever bytes come: a decoder, the local API and the readers of models answer or refuse, and never fail.

Hypothesis damages files of every container and both kinds of model; ``derandomize`` makes each run the same. Inputs
that once broke something are kept in ``fuzz_corpus`` and tried first, whatever they hold now. For a longer campaign:

    VAGITUS_FUZZ_EXAMPLES=20000 VAGITUS_FUZZ_SEED=1 python -m pytest tests/test_fuzz.py
"""

import contextlib
import gzip
import http.client
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from onnx_data import exported, model_file
from test_audio import ALL, noisy_chirp
from test_serve import form, make_onnx, running

from vagitus.audio import AudioError, probe, read
from vagitus.checkpoint import load_model, read_card
from vagitus.export import OnnxModel
from vagitus.predict import Predictor

CORPUS = Path(__file__).parent / "fuzz_corpus"
EXAMPLES = int(os.environ.get("VAGITUS_FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("VAGITUS_FUZZ_SEED", "0"))
HEAD_BYTES = 600  # where formats keep what a decoder believes
LENGTHS = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def fuzz(n_examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples, always the same; or a campaign, see above."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        bounded = settings(
            max_examples=EXAMPLES or n_examples,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(test)
        return seed(SEED)(bounded) if EXAMPLES else bounded

    return decorate


def kept(kind: str) -> list[Any]:
    found = sorted((CORPUS / kind).glob("*"))
    return [pytest.param(path, id=path.name) for path in found] or [pytest.param(None, id="none")]


# An edit is a function of content; where it falls is a share of the file, so that it fits any.
PLACES = st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True))
EDITS = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("put"), PLACES, st.binary(min_size=1, max_size=8)),
    st.tuples(
        st.just("put"),
        PLACES,
        st.sampled_from(LENGTHS).map(lambda n: struct.pack("<I", n)) | st.just(b"\0" * 9),
    ),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("drop"), PLACES, st.integers(1, 900)),
    st.tuples(st.just("cut"), PLACES, st.none()),
    st.tuples(st.just("repeat"), PLACES, st.integers(1, 400)),
)


def damaged(content: bytes, edits: list[tuple[str, tuple[bool, float], Any]]) -> bytes:
    for what, (near_start, share), value in edits:
        at = int(share * min(len(content), HEAD_BYTES if near_start else len(content)))
        if what == "flip":
            content = content[:at] + bytes(byte ^ value for byte in content[at : at + 1]) + content[at + 1 :]
        elif what == "put":
            content = content[:at] + value + content[at + len(value) :]
        elif what == "insert":
            content = content[:at] + value + content[at:]
        elif what == "drop":
            content = content[:at] + content[at + value :]
        elif what == "cut":
            content = content[:at]
        else:
            content = content[: at + value] + content[at:]
    return content


# Sound.


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A short recording in every container and codec, of unusual widths, rates and channels; and what is none."""
    folder = tmp_path_factory.mktemp("sounds")
    found = {}
    for suffix, (rate_hz, write, *_) in ALL.items():
        path = folder / f"a.{suffix}"
        # FFmpeg builds differ in their encoders, and the writer skips the test then.
        with contextlib.suppress(pytest.skip.Exception):
            write(path, noisy_chirp(rate_hz, rate_hz // 4), rate_hz)
            found[suffix] = path.read_bytes()
    for name, rate_hz, n_channels, subtype in (
        ("8-bit", 8_000, 1, "PCM_U8"),
        ("24-bit", 44_100, 2, "PCM_24"),
        ("96-kHz", 96_000, 1, "PCM_16"),
        ("6-channels", 16_000, 6, "FLOAT"),
    ):
        out = io.BytesIO()
        soundfile.write(out, np.zeros((rate_hz // 8, n_channels)) + 0.1, rate_hz, subtype, format="WAV")
        found[name] = out.getvalue()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.wav", bytes(5_000_000))
    long = io.BytesIO()
    soundfile.write(long, np.zeros(7_200 * 100, np.int16), 100, format="FLAC")
    found |= {
        "two-hours.flac": long.getvalue(),
        "zip-bomb": bomb.getvalue(),
        "gzip-bomb": gzip.compress(bytes(5_000_000)),
        "text": b"path,subject,label\na.wav,anna,ill\n" * 9,
        "video.avi": b"RIFF\x24\0\0\0AVI LIST" + bytes(99),
        "nothing": b"",
        "zeros": bytes(999),
    }
    return found


def is_read_or_refused(path: Path) -> None:
    try:
        info = probe(path)
        samples, rate_hz = read(path, sample_rate_hz=8_000, max_duration_s=20.0)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert info.n_channels >= 1 and rate_hz == 8_000
        assert np.isfinite(samples).all() and len(samples)


@fuzz(260)
@given(data=st.data())
def test_any_bytes_are_decoded_or_refused(
    data: st.DataObject, sounds: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(sorted(sounds)))
    content = damaged(sounds[name], data.draw(st.lists(EDITS, max_size=4)))
    path = tmp_path_factory.getbasetemp() / "fuzzed.wav"
    path.write_bytes(content)
    is_read_or_refused(path)


@pytest.mark.parametrize("path", kept("audio"))
def test_sounds_that_once_broke_something(path: Path | None) -> None:
    if path is not None:
        is_read_or_refused(path)


# The local API.


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running(make_onnx(tmp_path_factory.mktemp("fuzz") / "model.onnx")) as port:
        yield port


def is_answered(port: int, body: bytes, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/predict", body, headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    assert response.status == 200 or 400 <= response.status < 500, (response.status, content)
    said = json.loads(content)
    assert set(said) == ({"notice", "predictions"} if response.status == 200 else {"error"})
    assert "/proc" not in content.decode() and "Traceback" not in content.decode()


HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@fuzz(120)
@given(data=st.data())
def test_any_upload_is_answered_with_a_result_or_a_sentence(
    data: st.DataObject, sounds: dict[str, bytes], port: int
) -> None:
    name = data.draw(st.sampled_from(sorted(sounds)))
    content = damaged(sounds[name], data.draw(st.lists(EDITS, max_size=3)))
    headers: dict[str, str] = {}
    kind = data.draw(st.sampled_from(["body", "form", "damaged form", "headers"]))
    if kind.endswith("form"):
        file_name = data.draw(HEADER_TEXT.map(lambda text: text.replace('"', "")))
        content, headers = form(content, file_name)
    if kind == "damaged form":
        content = damaged(content, data.draw(st.lists(EDITS, min_size=1, max_size=3)))
    if kind == "headers":
        names = st.sampled_from(["Content-Type", "Content-Encoding", "Accept", "X-Forwarded-For", "Range"])
        headers = data.draw(st.dictionaries(names, HEADER_TEXT, max_size=3))
    is_answered(port, content, headers)


@pytest.mark.parametrize("path", kept("predict"))
def test_uploads_that_once_broke_something(path: Path | None, port: int) -> None:
    if path is not None:
        is_answered(port, path.read_bytes(), {"Content-Type": "multipart/form-data; boundary=edge"})
        is_answered(port, path.read_bytes(), {})


# Models.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def onnx_scores_or_is_refused(path: Path) -> None:
    """The reader alone: what a stranger's graph computes is a matter of onnxruntime."""
    try:
        OnnxModel(path)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error)


@fuzz(60)
@given(edits=st.lists(EDITS, max_size=3))
def test_any_onnx_is_opened_or_refused(edits: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(damaged(exported("small")[1].read_bytes(), edits))
    onnx_scores_or_is_refused(path)


def safetensors_loads_or_is_refused(path: Path) -> None:
    for reader in (read_card, load_model):
        try:
            reader(path)
        except ValueError as error:
            assert path.name in str(error), error


@fuzz(60)
@given(edits=st.lists(EDITS, max_size=3), name=st.sampled_from(["small", "tt-gru"]))
def test_any_safetensors_is_loaded_or_refused(
    edits: list[Any], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(damaged(model_file(name).read_bytes(), edits))
    safetensors_loads_or_is_refused(path)


CARD_ENTRIES = [
    *("format", "model", "options", "features", "window_s", "class_names", "positive", "threshold"),
    *("calibration", "compression", "provenance", "options.hidden_size", "options.n_mels", "options.rank"),
    *("features.n_bands", "features.n_fft", "compression.plan", "compression.bits", "calibration.name"),
]


def with_card(content: bytes, changes: dict[str, Any]) -> bytes:
    """A safetensors file with other entries in its card, and an index that fits."""
    length = struct.unpack("<Q", content[:8])[0]
    index = json.loads(content[8 : 8 + length])
    card = json.loads(index["__metadata__"]["vagitus"])
    for name, value in changes.items():
        own, _, inner = name.partition(".")
        if inner and isinstance(card.get(own), dict):
            card[own] = card[own] | {inner: value}
        else:
            card[own] = value
    index["__metadata__"]["vagitus"] = json.dumps(card)
    text = json.dumps(index).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@fuzz(120)
@given(
    changes=st.dictionaries(
        st.sampled_from(CARD_ENTRIES),
        ANYTHING | st.sampled_from([10**6, 10**12, 2**63, -1, 0, "res8", "cnn14", ["a"], {}]),
        min_size=1,
        max_size=2,
    )
)
def test_any_card_loads_or_is_refused(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-card.safetensors"
    path.write_bytes(with_card(model_file("tt-gru").read_bytes(), changes))
    safetensors_loads_or_is_refused(path)


@pytest.mark.parametrize("path", kept("onnx"))
def test_onnx_that_once_broke_something(path: Path | None) -> None:
    if path is not None:
        onnx_scores_or_is_refused(path)


@pytest.mark.parametrize("path", kept("safetensors"))
def test_safetensors_that_once_broke_something(path: Path | None) -> None:
    if path is not None:
        safetensors_loads_or_is_refused(path)


def test_a_damaged_onnx_costs_predict_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported("small")[1].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"m\.onnx: not an ONNX model that can be run"):
        Predictor(path)
