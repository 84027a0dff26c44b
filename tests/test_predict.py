import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from vagitus import calibration, export
from vagitus.audio import resample
from vagitus.checkpoint import ModelCard, load_model, save_model
from vagitus.export import export_onnx
from vagitus.features import PRESETS, featurise_file
from vagitus.models import build_model
from vagitus.predict import (
    Prediction,
    Predictor,
    Window,
    find_recordings,
    to_csv,
    to_json,
    to_stretches_csv,
)
from vagitus.results import decide
from vagitus.training import score_recordings

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter

RATE_HZ = 8_000
WINDOW_FRAMES = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in both forms and a recording of 2.7 s."""
    folder = tmp_path_factory.mktemp("predict")
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
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder / "model.onnx")


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(n_samples) * np.linspace(0.01, 0.2, n_samples)
    return samples.clip(-0.9, 0.9).astype(np.float32)


def test_a_file_scores_as_evaluate_scores_it(folder: Path, predictor: Predictor) -> None:
    model, card = load_model(folder / "model.safetensors")
    features = featurise_file(folder / "cry.wav", card.features)
    logits = score_recordings(model, [features], window_frames=WINDOW_FRAMES).astype(np.float64)
    p = calibration.from_dict(card.calibration).apply(logits)
    found = predictor.predict(folder / "cry.wav")
    assert found.score == pytest.approx(p[0, 1], abs=1e-4)
    assert found.decision == card.class_names[decide(logits, p, card.threshold)[0]]
    assert found.probabilities == {"well": pytest.approx(1 - found.score), "ill": found.score}
    assert (found.duration_s, found.threshold, found.reason) == (2.7, 0.45, "")


def test_windows_overlap_by_half_and_the_last_ends_with_the_recording(
    folder: Path, predictor: Predictor
) -> None:
    windows = predictor.predict(folder / "cry.wav").windows
    # 271 frames, windows of 90 every 45, and one at the end.
    assert [window.start_s for window in windows] == pytest.approx([0, 0.45, 0.9, 1.35, 1.8, 1.81])
    assert windows[-1].end_s == 2.7


def test_samples_and_int16_score_as_the_file_does(folder: Path, predictor: Predictor) -> None:
    stored, _ = soundfile.read(folder / "cry.wav", dtype="int16")
    whole = predictor.predict(folder / "cry.wav").score
    assert predictor.predict(stored, RATE_HZ).score == whole
    assert predictor.predict(stored / 32768, RATE_HZ).score == whole


def test_another_rate_is_resampled(folder: Path, predictor: Predictor) -> None:
    samples = noise(21_600)
    faster = resample(samples, RATE_HZ, 16_000)
    soundfile.write(folder / "fast.flac", faster, 16_000)
    by_file, by_samples = predictor.predict(folder / "fast.flac"), predictor.predict(faster, 16_000)
    assert by_file.duration_s == by_samples.duration_s == 2.7
    assert by_file.score == pytest.approx(by_samples.score, abs=1e-3)  # 16 bits


def test_a_stretch_is_a_recording_of_its_own(folder: Path, predictor: Predictor) -> None:
    stored, _ = soundfile.read(folder / "cry.wav", dtype="float32")
    stretch = predictor.predict(folder / "cry.wav", start_s=0.5, end_s=2.0)
    assert stretch.score == predictor.predict(stored[4_000:16_000], RATE_HZ).score


def test_a_long_file_is_decoded_again_and_scores_the_same(
    folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = predictor.predict(folder / "cry.wav")
    monkeypatch.setattr(export, "HELD_S", 0.1)
    monkeypatch.setattr(export, "STRETCH_FRAMES", 50)
    again = predictor.predict(folder / "cry.wav")
    assert again.score == pytest.approx(held.score, abs=1e-5)


def test_several_classes_are_decided_by_the_logits_and_show_the_decided_one() -> None:
    """Calibration pulls towards the commonest class; the decision does not follow."""
    predictor = Predictor.__new__(Predictor)
    logits = np.array([[0.0, 0.1, 0.3], [0.0, 0.1, 0.1]], np.float32)
    p = np.array([[0.7, 0.1, 0.2]])
    predictor.class_names = ("a", "b", "c")
    predictor.model = SimpleNamespace(  # type: ignore[assignment]
        sample_rate_hz=100,
        hop_samples=10,
        window_frames=5,
        least_samples=10,
        threshold=None,
        header={"silent_dbfs": -75},
        score=lambda *_: SimpleNamespace(starts=np.array([0, 2]), logits=logits, pooled=logits.mean(axis=0)),
        probabilities=lambda z: np.repeat(p, len(z), axis=0),
        decisions=lambda z, _: z.argmax(axis=1),
    )
    found = predictor._score("x.wav", lambda: [np.full(70, 0.1, np.float32)])
    assert (found.decision, found.score, found.threshold) == ("c", 0.2, None)
    assert found.windows == (Window(0.0, 0.5, 0.2), Window(0.2, 0.7, 0.2))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(8_000, np.float32), "silent: -inf dBFS"),
        (1e-5 * noise(8_000), "silent: -"),
        (noise(100), "too short: 0.013 s"),
        (np.zeros(0, np.float32), "too short: 0.000 s"),
        (np.full(8_000, np.nan, np.float32), "cannot be read: NaN or infinity"),
        (1e4 * noise(8_000), "cannot be read: samples reach"),
    ],
)
def test_it_abstains_and_says_why(samples: np.ndarray, reason: str, predictor: Predictor) -> None:
    found = predictor.predict(samples, RATE_HZ)
    assert found.reason.startswith(reason)
    assert math.isnan(found.score) and found.decision == "" and found.windows == ()


def test_a_file_that_cannot_be_read_stops_no_other(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "below").mkdir()
    soundfile.write(tmp_path / "below" / "b.WAV", noise(9_000), RATE_HZ, format="WAV")
    (tmp_path / "notes.txt").write_text("not a recording")
    broken, whole = predictor.predict_files([tmp_path])
    assert broken.path.endswith("a.wav") and "a.wav: " in broken.reason and math.isnan(broken.duration_s)
    assert whole.path.endswith("b.WAV") and whole.reason == ""


def test_processes_give_the_same_predictions_in_the_same_order(predictor: Predictor, tmp_path: Path) -> None:
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", noise(40_000 - 7_000 * i), RATE_HZ)
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    here, there = (to_json(list(predictor.predict_files([tmp_path], n_workers=n)), "") for n in (1, 2))
    assert there == here


def test_a_missing_path_is_named_before_anything_is_scored(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.wav: no such file"):
        find_recordings([folder / "cry.wav", folder / "none.wav"])
    with pytest.raises(FileNotFoundError, match="no recordings in this folder"):
        find_recordings([tmp_path])


def test_samples_need_a_rate_and_a_shape(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="give sample_rate_hz"):
        predictor.predict(noise(8_000))
    with pytest.raises(ValueError, match=r"\(n_samples,\) float or int16, got \(2, 50\)"):
        predictor.predict(noise(100).reshape(2, 50), RATE_HZ)
    with pytest.raises(ValueError, match="a file tells its own rate"):
        predictor.predict("cry.wav", RATE_HZ)


SCORED = Prediction("a.wav", 0.75, "ill", {"well": 0.25, "ill": 0.75}, 0.4, 1.5, (Window(0.0, 1.5, 0.75),))
ABSTAINED = Prediction("b, c.wav", math.nan, "", {}, None, math.nan, (), "silent")


def test_rows_of_csv_leave_the_unknown_blank() -> None:
    rows = list(csv.reader(io.StringIO(to_csv([SCORED, ABSTAINED], ("well", "ill")))))
    assert rows == [
        ["path", "score", "decision", "threshold", "duration_s", "reason", "p:well", "p:ill"],
        ["a.wav", "0.75", "ill", "0.4", "1.5", "", "0.25", "0.75"],
        ["b, c.wav", "", "", "", "", "silent", "", ""],
    ]


def test_json_has_the_notice_and_null_for_the_unknown() -> None:
    text = json.loads(to_json([SCORED, ABSTAINED], "Research use only, not a diagnosis."))
    assert text["notice"] == "Research use only, not a diagnosis."
    assert text["predictions"][0]["windows"] == [{"start_s": 0.0, "end_s": 1.5, "score": 0.75}]
    assert text["predictions"][1]["score"] is None


def test_a_prediction_loads_no_torch_and_no_training(folder: Path) -> None:
    heavy = "torch onnx onnxscript sklearn pandas matplotlib lightning_fabric pydantic scipy.signal vagitus.checkpoint"
    code = (
        "import sys; from vagitus.predict import Predictor\n"
        f"found = Predictor({str(folder / 'model.onnx')!r}).predict({str(folder / 'cry.wav')!r})\n"
        f"print(found.reason, [name for name in {heavy.split()!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def with_windows(scores: list[float], threshold: float | None) -> Prediction:
    windows = tuple(Window(0.5 * i, 0.5 * i + 1, score) for i, score in enumerate(scores))
    return Prediction("a.wav", 0.4, "ill", {}, threshold, 5.0, windows)


@pytest.mark.parametrize(
    ("threshold", "events"),
    [
        (
            0.3,
            [(0.0, 2.0, 0.9), (2.0, 3.0, 0.3)],
        ),  # at the threshold is enough, and one window below it divides
        (None, [(0.0, 1.0, 0.9)]),
        (0.95, []),
    ],
)
def test_an_event_is_windows_in_a_row_that_reach_the_threshold(
    threshold: float | None, events: list[tuple[float, float, float]]
) -> None:
    found = with_windows([0.9, 0.4, 0.35, 0.1, 0.3], threshold)
    assert [(event.start_s, event.end_s, event.score) for event in found.events] == events
    said = json.loads(to_json([found], "notice"))["predictions"][0]["events"]
    assert [(event["start_s"], event["end_s"], event["score"]) for event in said] == events
    rows = list(csv.DictReader(io.StringIO(to_stretches_csv([found], "event"))))
    assert [float(row["start_s"]) for row in rows if row["start_s"]] == [event[0] for event in events]
    assert len(rows) == max(1, len(events))  # a recording without any has a row too


def test_no_event_joins_what_lies_on_both_sides_of_a_window_below_the_threshold() -> None:
    assert len(with_windows([0.9, 0.1, 0.9], 0.5).events) == 2
