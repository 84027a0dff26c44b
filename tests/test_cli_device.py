"""The verbs that ship and run a model, as a person types them."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from in_process import Command, Run
from onnx_data import RATE_HZ, exported, model_file, noise

from vagitus import parity, stream
from vagitus.predict import Predictor

NOTICE = "Research use only, not a diagnosis."


def started(*words: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "vagitus", *map(str, words)], **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of 4 s in formats that phones and recorders write, and a manifest of them."""
    folder = tmp_path_factory.mktemp("device")
    samples = noise(16_000)
    soundfile.write(folder / "16-bit.wav", samples, RATE_HZ)
    soundfile.write(folder / "8-bit.wav", samples, RATE_HZ, subtype="PCM_U8")
    soundfile.write(folder / "24-bit.wav", samples, RATE_HZ, subtype="PCM_24")
    soundfile.write(folder / "96-kHz.flac", np.repeat(samples, 24), 96_000)
    soundfile.write(folder / "6-channels.wav", np.repeat(samples[:, None], 6, axis=1), RATE_HZ)
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"{name},{name},{('well', 'ill')[i % 2]}" for i, name in enumerate(names)]
    (folder / "m.csv").write_text("\n".join(["path,subject,label", *rows]) + "\n")
    (folder / "unlabelled.csv").write_text("\n".join(["path,subject", *(f"{n},{n}" for n in names)]) + "\n")
    return folder


BAD_AUDIO = {
    "notes.wav": b"a page of notes\n" * 9,
    "empty.wav": b"",
    "no-samples.wav": b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80>\0\0\2\0\x10\0data\0\0\0\0",
    "zeros.wav": bytes(1000),
}
BAD_MODELS: dict[str, tuple[bytes, str]] = {
    "text.onnx": (b"a page of notes\n" * 9, "not an ONNX model"),
    "empty.onnx": (b"", "empty file (0 bytes)"),
    "zeros.onnx": (bytes(1000), "m"),
    "pickle.onnx": (b"\x80\x04\x95" + bytes(90), "a pickled checkpoint"),
}


def refused(run: Run) -> str:
    """The one line of a refusal."""
    assert run.status == 2, run
    assert run.out == ""
    assert run.err.startswith("vagitus: ") and run.err.count("\n") == 1, run.err
    return run.err


# predict


def test_predict_prints_a_line_for_each_recording_and_the_notice(vagitus: Command, folder: Path) -> None:
    model = exported("small")[1]
    run = vagitus("predict", model, folder)
    assert run.status == 0
    lines = run.out.splitlines()
    assert len(lines) == 5 and NOTICE in run.err
    found = Predictor(model).predict(folder / "16-bit.wav")
    assert f"{folder / '16-bit.wav'}: {found.decision}, score {found.score:.3f} (from 0.450 on ill)" in lines


def test_every_sample_format_scores_alike(vagitus: Command, folder: Path) -> None:
    run = vagitus("predict", exported("small")[1], folder, "--json")
    said = json.loads(run.out)
    assert said["notice"] == NOTICE
    scores = {Path(row["path"]).name: row["score"] for row in said["predictions"]}
    for name in ("24-bit.wav", "6-channels.wav"):
        assert scores[name] == pytest.approx(scores["16-bit.wav"], abs=1e-3)
    # Eight bits are noise at -59 dB of a recording at -20 dB, and a repeated sample is not a resampled one.
    assert all(0 <= score <= 1 for score in scores.values())


def test_csv_has_a_row_for_each_recording_or_window(vagitus: Command, folder: Path) -> None:
    model, path = exported("small")[1], folder / "16-bit.wav"
    found = Predictor(model).predict(path)
    (row,) = csv.DictReader(io.StringIO(vagitus("predict", model, path, "--csv").out))
    assert (row["path"], row["decision"], float(row["score"])) == (str(path), found.decision, found.score)
    rows = list(csv.DictReader(io.StringIO(vagitus("predict", model, path, "--csv", "--per", "window").out)))
    assert [float(row["score"]) for row in rows] == [window.score for window in found.windows]
    shown = vagitus("predict", model, path, "--per", "event").out.splitlines()[1:]
    assert len(shown) == max(1, len(found.events))
    shown = vagitus("predict", model, path, "--per", "window").out.splitlines()
    assert len(shown) == 1 + len(found.windows) and shown[1].startswith("  0.00 to 0.61 s: 0.")


def test_an_abstention_is_an_answer_with_its_reason(vagitus: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), RATE_HZ)
    run = vagitus("predict", exported("small")[1], tmp_path / "silent.wav")
    assert run.status == 0
    assert run.out == f"{tmp_path / 'silent.wav'}: no score, silent: -inf dBFS; record it again\n"


def test_what_cannot_be_read_is_named_and_stops_no_other(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    for name, content in BAD_AUDIO.items():
        (tmp_path / name).write_bytes(content)
    run = vagitus("predict", exported("small")[1], tmp_path, folder / "16-bit.wav", "--csv")
    assert run.status == 1
    rows = list(csv.DictReader(io.StringIO(run.out)))
    assert [row["score"] != "" for row in rows] == [False] * 4 + [True]
    for name in BAD_AUDIO:
        assert f"cannot be read: {tmp_path / name}: " in run.err
    run = vagitus("predict", exported("small")[1], *(tmp_path / name for name in BAD_AUDIO))
    assert (run.status, run.out) == (2, "")
    assert run.err.splitlines()[-1] == "vagitus: none of 4 recordings can be read"


@pytest.mark.parametrize("name", sorted(BAD_AUDIO))
def test_one_file_that_cannot_be_read_costs_one_line(name: str, vagitus: Command, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BAD_AUDIO[name])
    for option in ((), ("--json",), ("--plot", tmp_path / "p.png")):
        assert name in refused(vagitus("predict", exported("small")[1], tmp_path / name, *option))
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("verb", ["predict", "listen", "serve"])
@pytest.mark.parametrize("name", sorted(BAD_MODELS))
def test_what_is_no_model_costs_one_line(name: str, verb: str, vagitus: Command, tmp_path: Path) -> None:
    content, message = BAD_MODELS[name]
    (tmp_path / name).write_bytes(content)
    own: dict[str, list[str | Path]] = {"predict": [tmp_path], "listen": ["-"], "serve": []}
    words = own[verb]
    line = refused(vagitus(verb, tmp_path / name, *words))
    assert name in line and message in line


@pytest.mark.parametrize("verb", ["predict", "listen", "serve"])
def test_a_model_of_another_format_or_kind_is_refused_with_the_way_out(
    verb: str, vagitus: Command, tmp_path: Path
) -> None:
    own: dict[str, list[str | Path]] = {"predict": [tmp_path], "listen": ["-"], "serve": []}
    words = own[verb]
    source, path = exported("small")
    line = refused(vagitus(verb, source, *words))
    assert "model.onnx" in line and re.search(r"`vagitus export \S*small\.safetensors`", line)
    model = onnx.load(path)
    header = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(header | {"format": 2})
    onnx.save(model, tmp_path / "newer.onnx")
    assert "ONNX format 2, this version reads 1" in refused(vagitus(verb, tmp_path / "newer.onnx", *words))
    assert "none.onnx: no such file" in refused(vagitus(verb, tmp_path / "none.onnx", *words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "MODEL", "none.wav"], "none.wav: no such file"),
        (["predict", "MODEL"], "Missing"),
        (["predict", "MODEL", "RECORDING", "--json", "--csv"], "--json or --csv, not both"),
        (["predict", "MODEL", "FOLDER", "--plot", "p.png"], "--plot shows one recording, 5 were given"),
        (["listen", "MODEL", "cry.wav"], "cry.wav: a recording is scored by `vagitus predict`"),
        (["listen", "MODEL", "-", "--device", "2"], "- or --device 2, not both"),
        (["listen", "MODEL", "--rate", "8000"], "a microphone tells its own"),
        (["listen", "MODEL", "-", "--rate", "3"], "a rate of 3 Hz"),
        (["listen", "MODEL", "-", "--rate", "0"], "a rate of 0 Hz"),
        (["listen", "MODEL", "-", "--history", "0.1"], "a history of 0.1 s"),
        (["serve", "MODEL", "--host", "0.0.0.0"], "token"),
        (["serve", "MODEL", "--port", "99999"], "less than or equal to 65535"),
        (["export", "MODEL"], "would be written over"),
        (["export", "MODEL", "--out", "m.onnx"], "is exported already"),
        (["export", "SOURCE", "--format", "tflite"], "tflite"),
        (["export", "SOURCE", "--format", "int8"], "int8 needs recordings"),
        (["export", "SOURCE", "--bits", "8"], "--bits 8: 8 or 32, of --format c"),
        (["export", "SOURCE", "MANIFEST", "--corpus", "donateacry"], "not both"),
        (["export", "SOURCE", "--task", "reason"], "--task reason: is of a corpus; give --corpus NAME"),
        (["export", "SOURCE", "MANIFEST", "--task", "reason"], "--task reason: is of a corpus"),
        (["export", "SOURCE", "--root", "."], "--root .: no recordings are named"),
        (["export", "MODEL", "--format", "page", "--licence", "MIT"], "the page carries it as it is"),
        (["export", "SOURCE", "--licence", "two\nlines"], "one line of up to 200 characters"),
        (["export", "none.safetensors"], "none.safetensors: no such file"),
        (["export", "MANIFEST"], "m.csv: not a whole safetensors file"),
    ],
)
def test_a_mistake_costs_one_line(
    words: list[str],
    message: str,
    vagitus: Command,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source, model = exported("small")
    named = {
        "MODEL": model,
        "SOURCE": source,
        "RECORDING": folder / "16-bit.wav",
        "FOLDER": folder,
        "MANIFEST": folder / "m.csv",
    }
    assert message in refused(vagitus(*(named.get(word, word) for word in words)))
    assert list(tmp_path.iterdir()) == []


def test_a_plot_is_a_png_of_one_recording(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cry.wav", noise(3_000), RATE_HZ)
    run = vagitus("predict", exported("small")[1], tmp_path / "cry.wav", "--plot", tmp_path / "p.png")
    assert run.status == 0 and "score 0." in run.out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


# listen


@pytest.fixture(scope="module")
def cry() -> bytes:
    """4.5 s of raw PCM at 8 kHz."""
    samples: np.ndarray = np.rint(32768 * noise(36_000)).astype("<i2")
    return samples.tobytes()


def test_listening_to_a_pipe_ends_with_what_predict_says(cry: bytes) -> None:
    model = exported("small")[1]
    with started(
        "listen", model, "-", "--rate", "8000", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        out, _ = run.communicate(cry + b"\x01")
    first, *windows, last = map(json.loads, out.decode().splitlines())
    assert run.returncode == 0
    assert (first["kind"], first["notice"], first["sample_rate_hz"]) == ("listening", NOTICE, 8000)
    found = Predictor(model).predict(np.frombuffer(cry, "<i2").astype(np.int16), 8000)
    assert (last["kind"], last["notice"], last["n_stray_bytes"]) == ("summary", NOTICE, 1)
    assert last["prediction"]["score"] == found.score
    assert last["n_windows"] == len(windows) == len(found.windows) - 1
    assert all(window["kind"] == "window" and 0 <= window["score"] <= 1 for window in windows)


def test_ctrl_c_ends_with_a_summary_and_status_0(cry: bytes) -> None:
    words: list[str | Path] = ["listen", exported("small")[1], "-", "--rate", "8000"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

    def as_typed() -> None:  # tests in the background have SIGINT ignored, and a child would inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with started(*words, preexec_fn=as_typed, **pipes) as run:
        assert run.stdin is not None and run.stdout is not None and run.stderr is not None
        run.stdin.write(cry)
        run.stdin.flush()
        shown = [run.stdout.readline()]  # a window has been scored, and more is waited for
        run.send_signal(signal.SIGINT)
        try:
            status = run.wait(timeout=60)
        finally:
            run.kill()
        shown += run.stdout.readlines()
        told = run.stderr.read().decode()
    assert status == 0, told
    assert shown[0].startswith(b"0.00 to 0.61 s: ")
    assert b"heard " in shown[-2] and b"score 0." in shown[-1]
    assert told.count(NOTICE) == 2 and "Traceback" not in told


@pytest.mark.parametrize(
    ("piped", "message"),
    [
        (b"", "ended without a sample"),
        (b"RIFF....WAVE" + bytes(90), "no raw PCM but wav"),
        (b"notes " * 99, "text"),
    ],
)
def test_what_is_no_pcm_costs_one_line(
    piped: bytes, message: str, vagitus: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pipe").write_bytes(piped)
    with (tmp_path / "pipe").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        run = vagitus("listen", exported("small")[1], "-")
    assert run.status == 2 and run.out == ""
    assert f"vagitus: standard input: {message}" in run.err.splitlines()[-1]


def heard_zeros(vagitus: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> Run:
    (tmp_path / "pipe").write_bytes(bytes(2 * 4 * RATE_HZ))
    with (tmp_path / "pipe").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return vagitus("listen", exported("small")[1], "-", *options)


def test_an_input_of_zeros_is_said_to_be_silent_and_is_no_success(
    vagitus: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = heard_zeros(vagitus, monkeypatch, tmp_path)
    assert run.status == 1
    assert run.err.splitlines()[-1] == (
        "vagitus: standard input: nothing was scored: the input is silent; see that it is not muted, "
        "or choose another input"
    )
    summary = json.loads(heard_zeros(vagitus, monkeypatch, tmp_path, "--json").out.splitlines()[-1])
    assert summary["n_windows"] > 0 and summary["n_scored"] == 0 and summary["prediction"]["score"] is None


def test_what_was_scored_before_a_long_silence_is_a_success(
    cry: bytes, vagitus: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pipe").write_bytes(cry + bytes(2 * 4 * RATE_HZ))
    with (tmp_path / "pipe").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        run = vagitus("listen", exported("small")[1], "-", "--history", "1")
    assert run.status == 0 and "the last 1.00 s: no score, silent" in run.out


class Muted(ModuleType):
    """PortAudio with a microphone that gives a few blocks and then no more."""

    class PortAudioError(Exception):
        pass

    def __init__(self, content: bytes) -> None:
        super().__init__("sounddevice")
        self.content = content

    def query_devices(self, device: object = None, kind: str = "") -> object:
        return {"name": "ward", "max_input_channels": 1, "default_samplerate": 4_000.0}

    def check_input_settings(self, device: object, **_: object) -> None:
        pass

    @contextmanager
    def RawInputStream(self, *, callback: Any, blocksize: int, **_: object) -> Iterator[None]:  # noqa: N802 (its name)
        for i in range(0, len(self.content), 2 * blocksize):
            block = self.content[i : i + 2 * blocksize]
            callback(block, len(block) // 2, None, SimpleNamespace(input_overflow=False))
        yield


def test_a_microphone_that_goes_away_is_said_to_have_gone(
    cry: bytes, vagitus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Muted(cry))
    monkeypatch.setattr(stream, "MICROPHONE_SILENT_S", 0.01)
    run = vagitus("listen", exported("small")[1])
    assert run.status == 1 and "score 0." in run.out
    assert run.err.splitlines()[-1].startswith("vagitus: ward: gives no more sound, so it ended here")


# export


def test_a_recording_that_cannot_be_compared_is_named_and_stops_no_export(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "good.wav", noise(8_000), RATE_HZ)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    long = noise(140 * RATE_HZ)
    soundfile.write(tmp_path / "damaged-late.wav", np.append(long, np.float32(np.nan)), RATE_HZ, "FLOAT")
    long[0] = np.nan
    soundfile.write(tmp_path / "damaged-early.wav", long, RATE_HZ, "FLOAT")
    names = ["good.wav", "damaged-late.wav", "damaged-early.wav", "broken.wav"]
    (tmp_path / "m.csv").write_text("\n".join(["path,subject", *(f"{n},{n}" for n in names)]) + "\n")
    source = exported("small")[0]
    for form in ("onnx", "c"):
        run = vagitus("export", source, tmp_path / "m.csv", "--format", form, "--out", tmp_path / f"m.{form}")
        assert run.status == 0, run.err
        assert "compared on 2 recordings" in run.out
        named = [line for line in run.err.splitlines() if line.startswith("not compared: ")]
        assert [Path(line.split(": ")[1]).name for line in named] == names[2:]


@pytest.mark.parametrize("form", ["onnx", "c", "page"])
def test_where_nothing_can_be_written_the_name_that_was_given_is_said(
    form: str, vagitus: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    source, model = exported("small")
    out = tmp_path / "file" / "m.h"
    line = refused(vagitus("export", model if form == "page" else source, "--format", form, "--out", out))
    assert re.match(rf"vagitus: {re.escape(str(out))}: cannot be written \(.+\); give another --out$", line)


def test_a_plot_that_cannot_be_written_is_named(vagitus: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    soundfile.write(tmp_path / "cry.wav", noise(3_000), RATE_HZ)
    out = tmp_path / "file" / "p.png"
    line = refused(vagitus("predict", exported("small")[1], tmp_path / "cry.wav", "--plot", out))
    assert f"{out}: cannot be written" in line and "give another --plot" in line


def test_a_licence_is_carried_and_by_default_said_not_to_be_stated(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    source = exported("small")[0]
    vagitus("export", source, "--licence", "CC BY 4.0", "--out", tmp_path / "m.onnx")
    vagitus("export", source, "--licence", "CC BY 4.0", "--format", "c", "--out", tmp_path / "m.h")
    words: list[str | Path] = ["export", tmp_path / "m.onnx", folder / "unlabelled.csv", "--format", "int8"]
    vagitus(*words, "--out", tmp_path / "m8.onnx")
    for name in ("m.onnx", "m8.onnx"):
        assert Predictor(tmp_path / name).model.header["licence"] == "CC BY 4.0"
    assert "licence      CC BY 4.0" in (tmp_path / "m.h").read_text()
    unstated = Predictor(exported("small")[1]).model.header["licence"]
    assert unstated == "not stated; that of the recordings it was trained on may bind it"


def test_export_says_how_it_compared_and_on_what(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    source = exported("small")[0]
    run = vagitus("export", source, folder / "m.csv", "--out", tmp_path / "m.onnx", "--json")
    assert run.status == 0 and run.err == ""
    said = json.loads(run.out)
    assert (said["notice"], said["format"], said["compared_on"]) == (NOTICE, "onnx", "5 recordings")
    assert said["written"] == str(tmp_path / "m.onnx")
    assert said["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert said["parity"]["max_difference"] < 1e-4 and said["parity"]["n_changed"] == 0
    assert said["parity"]["metric_before"] == said["parity"]["metric_after"]


def test_int8_of_an_exported_model_is_measured_on_recordings(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    path = exported("small")[1]
    words: list[str | Path] = ["export", path, folder / "unlabelled.csv", "--format", "int8"]
    run = vagitus(*words, "--out", tmp_path / "m8.onnx")
    assert run.status == 0, run.err
    assert "compared on 5 recordings: a probability differs by " in run.out and NOTICE in run.out
    assert Predictor(tmp_path / "m8.onnx").model.header["numbers"] == "int8"


def test_an_export_that_scores_otherwise_leaves_nothing_and_says_no(
    vagitus: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "INT8_LIMITS", parity.Limits(0.0, 0.0, 0.0))
    words: list[str | Path] = ["export", exported("small")[1], folder / "unlabelled.csv", "--format", "int8"]
    run = vagitus(*words, "--out", tmp_path / "m8.onnx")
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith("vagitus: not written: a probability differs by ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [[], ["--bits", "8"]])
def test_a_c_header_is_compared_too(bits: list[str], vagitus: Command, folder: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["export", model_file("tt-gru"), folder / "m.csv", "--format", "c", *bits]
    run = vagitus(*words, "--out", tmp_path / "cry.h", "--json")
    assert run.status == 0, run.err
    said = json.loads(run.out)
    assert said["compared_on"] == "5 recordings" and said["bytes"] < 64_000
    assert [path.name for path in tmp_path.iterdir()] == ["cry.h"]


def test_without_recordings_it_is_compared_on_noise_and_says_so(vagitus: Command, tmp_path: Path) -> None:
    run = vagitus("export", model_file("tt-gru"), "--format", "c", "--out", tmp_path / "cry.h")
    assert run.status == 0, run.err
    assert "compared on noise: " in run.out and "give recordings to see that" in run.out


def test_a_page_carries_the_model_as_it_is(vagitus: Command, tmp_path: Path) -> None:
    path = exported("small")[1]
    run = vagitus("export", path, "--format", "page", "--out", tmp_path / "page")
    assert run.status == 0, run.err
    assert "as it is, so nothing was compared" in run.out
    assert (tmp_path / "page" / "index.html").is_file()
    assert path.read_bytes() in [file.read_bytes() for file in (tmp_path / "page").rglob("*.onnx")]


# All of them


@pytest.mark.parametrize("verb", ["export", "predict", "listen", "serve"])
def test_help_names_units_and_the_notice(verb: str, vagitus: Command) -> None:
    run = vagitus(verb, "--help")
    assert run.status == 0 and NOTICE in run.out


def test_predicting_and_listening_load_no_torch(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cry.wav", noise(8_000), RATE_HZ)
    model = exported("small")[1]
    code = (
        "import sys, atexit; from vagitus.cli import main\n"
        "heavy = [name for name in ('torch', 'onnx', 'matplotlib', 'sklearn', 'pandas', 'fastapi')]\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
        "main()"
    )
    sound: np.ndarray = np.rint(32768 * noise(8_000)).astype("<i2")
    for words in (["predict", model, tmp_path / "cry.wav"], ["listen", model, "-"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            input=sound.tobytes(),
            capture_output=True,
            env=os.environ,
            check=True,
        )
        assert run.stdout.decode().splitlines()[-1] == "[]"


def test_the_documentation_names_only_options_that_exist(vagitus: Command) -> None:
    text = (Path(__file__).parents[1] / "docs" / "device.md").read_text()
    commands = re.findall(r"vagitus (export|predict|listen|serve)( .*?)(?:  +#.*)?$", text, re.MULTILINE)
    assert {verb for verb, _ in commands} >= {"export", "predict", "listen"}
    for verb, words in commands:
        known = vagitus(verb, "--help").out
        for option in re.findall(r"--[a-z0-9-]+", words):
            assert option in known, f"vagitus {verb}{words}: {option}"
