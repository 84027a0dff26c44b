"""Cries told from what only sounds like one; decisions for a recording; finders held against annotated corpora."""

import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from vagitus import calibration, events
from vagitus.audio import read
from vagitus.checkpoint import ModelCard, save_model, shipped
from vagitus.corpora import circor, load_corpus, simulated, sprsound
from vagitus.events import (
    POOLINGS,
    CryDetector,
    Decider,
    Hearing,
    decider_from_dict,
    find_cries,
    fit_decider,
    fit_familiarity,
    log_odds,
    pool,
    probability,
)
from vagitus.features import FeatureConfig, featurise
from vagitus.metrics import auroc
from vagitus.models import build_model
from vagitus.pitch import track
from vagitus.segment import (
    HEART_STATES,
    Event,
    breaths,
    cry_expirations,
    event_agreement,
    frame_agreement,
    heart_cycles,
)
from vagitus.windows import cut_window, window_starts

Floats = NDArray[np.float64]
RATE_HZ = 4_000
FRONT_END = FeatureConfig(sample_rate_hz=RATE_HZ, f_min_hz=100, f_max_hz=2_000, n_bands=16, window_ms=32)


def card(**changes: Any) -> ModelCard:
    options = {"n_mels": 16, "n_classes": 2, "width": 2}
    made = ModelCard("small", options, FRONT_END, 0.6, ("other", "cry"), positive="cry", threshold=0.4)
    return replace(made, **changes)


def model_file(path: Path, **changes: Any) -> Path:
    torch.manual_seed(3)
    made = card(**changes)
    save_model(path, build_model(made.model, **made.options), made)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> CryDetector:
    """Random weights: it tells nothing, but always the same."""
    return CryDetector(model_file(tmp_path_factory.mktemp("model") / "m.safetensors"))


@pytest.fixture(scope="module")
def trained() -> CryDetector:
    """The one that comes with the package."""
    return CryDetector()


def crying(seed: int, rate_hz: int = 8_000) -> tuple[Floats, list[Event]]:
    rng = np.random.default_rng(seed)
    infant = simulated.voice(seed, is_case=bool(seed % 2), effect=1.0, seed=9)
    cry = simulated.cry(infant, rng, duration_s=8.0, sample_rate_hz=rate_hz)
    sound = simulated.record(cry.samples, seed, rng, sample_rate_hz=rate_hz, seed=9)
    return sound, [Event(start_s, end_s, "expiration") for start_s, end_s in cry.expirations]


def beeping(rate_hz: int = 8_000) -> Floats:
    """A monitor's beeps: loud and pitched, with pauses, and no cry; what level and pitch take for one."""
    t = np.arange(8 * rate_hz) / rate_hz
    tone = np.sin(2 * np.pi * 1_000 * t) * ((t % 1.0) < 0.6)
    return np.asarray(0.2 * tone + 0.001 * np.random.default_rng(0).standard_normal(len(t)))


# The detector on a stream.


def slow_scores(detector: CryDetector, samples: NDArray[Any]) -> tuple[Floats, Floats]:
    """All features at once, windows by ``windows.window_starts``: starts in seconds and log-odds."""
    rows = featurise(samples, detector.card.features)
    starts = window_starts(rows.shape[1], detector.window_frames, detector.hop_frames)
    windows = np.stack([cut_window(rows, int(start), detector.window_frames) for start in starts])
    return starts / detector.card.features.frames_per_s, detector.run(windows)[0]


@pytest.mark.parametrize("n_samples", [200, 1_000, 2_399, 2_400, 2_480, 9_999, 105_000, 107_001, 210_017])
def test_windows_of_a_stream_are_those_of_the_whole(detector: CryDetector, n_samples: int) -> None:
    samples = (0.1 * np.random.default_rng(n_samples).standard_normal(n_samples)).astype(np.float32)
    start_s, wanted = slow_scores(detector, samples)
    found = detector.score(samples, RATE_HZ)
    np.testing.assert_allclose(found.start_s, start_s)
    np.testing.assert_allclose(found.log_odds, wanted, atol=1e-4)


@pytest.mark.parametrize("block_samples", [773, 50_000])
def test_what_is_heard_does_not_depend_on_the_blocks(trained: CryDetector, block_samples: int) -> None:
    sound = np.concatenate([crying(1)[0], beeping(), crying(2)[0], crying(3)[0]]).astype(np.float32)
    blocks = [sound[i : i + block_samples] for i in range(0, len(sound), block_samples)]
    whole, pieces = Hearing(trained, 8_000), Hearing(trained, 8_000)
    assert list(whole.events([sound])) == list(pieces.events([sound[:0], *blocks]))
    np.testing.assert_array_equal(whole.summary().log_odds, pieces.summary().log_odds)


def test_cries_are_confirmed_where_they_are(trained: CryDetector) -> None:
    for seed in range(3):
        sound, true = crying(seed)
        found = list(find_cries([sound], 8_000, trained))
        assert frame_agreement(true, found).f1 > 0.9
        assert all(event.score > 0.5 for event in found)


def test_beeps_are_loud_and_pitched_and_no_cry(trained: CryDetector) -> None:
    beeps = beeping()
    assert len(list(cry_expirations([beeps], 8_000))) > 4
    assert list(find_cries([beeps], 8_000, trained)) == []


def test_a_cry_among_beeps_is_found_where_it_is(trained: CryDetector) -> None:
    sound = np.concatenate([beeping(), crying(0)[0], beeping()])
    found = list(find_cries([sound], 8_000, trained))
    assert found and all(event.start_s > 7.5 and event.end_s < 16.5 for event in found)


def test_another_rate_and_integers_change_little(trained: CryDetector) -> None:
    sound = crying(1, 16_000)[0]
    stored = np.round(sound * 32_768).clip(-32_768, 32_767).astype(np.int16)
    as_floats = trained.score(sound.astype(np.float32), 16_000)
    np.testing.assert_allclose(trained.score(stored, 16_000).log_odds, as_floats.log_odds, atol=0.2)
    assert len(as_floats.log_odds) == len(trained.score(crying(1)[0], 8_000).log_odds)


def test_a_summary_counts_what_was_confirmed(trained: CryDetector) -> None:
    sound, _ = crying(2)
    hearing = Hearing(trained, 8_000)
    found = list(hearing.events([sound]))
    said = hearing.summary()
    assert said.duration_s == pytest.approx(8.0)
    assert said.n_expirations == len(found)
    assert said.cry_s == pytest.approx(sum(event.end_s - event.start_s for event in found))
    scores = trained.score(sound, 8_000)
    np.testing.assert_allclose(said.log_odds, scores.log_odds, atol=1e-5)
    p = probability(scores.log_odds)
    np.testing.assert_allclose(said.features, p @ scores.features / p.sum(), rtol=1e-5)


def test_memory_does_not_grow_with_length(detector: CryDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows that a long event may still ask for are kept so long; by three blocks they are at their most.
    monkeypatch.setattr(events, "MAX_EXPIRATION_S", 10.0)
    block = (0.1 * np.random.default_rng(0).standard_normal(20 * RATE_HZ)).astype(np.float32)

    def peak_bytes(n_blocks: int) -> int:
        hearing = Hearing(detector, RATE_HZ)
        tracemalloc.start()
        for _ in hearing.events(block for _ in range(n_blocks)):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(9) < 1.1 * peak_bytes(3)


def test_silence_holds_no_cry(trained: CryDetector) -> None:
    assert list(find_cries([np.zeros(80_000, np.float32)], 8_000, trained)) == []


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (np.zeros(0, np.float32), "0 samples are shorter than one frame"),
        (np.zeros(100, np.float32), "100 samples are shorter"),
        (np.full(8_000, np.nan, np.float32), "NaN"),
        (np.zeros((2, 8_000), np.float32), "average the channels"),
        (np.zeros(8_000, np.int64), "int64"),
    ],
)
def test_bad_samples_are_refused(detector: CryDetector, samples: NDArray[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(find_cries([samples], RATE_HZ, detector))
    with pytest.raises(ValueError, match=match):
        detector.score(samples, RATE_HZ)


def test_too_low_a_rate_is_refused(trained: CryDetector) -> None:
    with pytest.raises(ValueError, match="sample_rate_hz 4000 does not hold"):
        list(find_cries([np.zeros(8_000, np.float32)], 4_000, trained))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"class_names": ("normal", "ill"), "positive": "ill"}, "tells normal, ill and not cry"),
        ({"features": FRONT_END.vary(normalisation="mean")}, "normalises by mean over a recording"),
    ],
)
def test_a_model_that_is_no_detector_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CryDetector(model_file(tmp_path / "m.safetensors", **changes))


def test_a_threshold_that_is_no_probability_is_refused(detector: CryDetector) -> None:
    with pytest.raises(ValueError, match="threshold must be a probability"):
        Hearing(detector, RATE_HZ, threshold=1.5)


def test_the_shipped_detector_is_small_and_says_what_it_is() -> None:
    path = shipped("cry-detector")
    assert path.stat().st_size < 200_000
    said = path.with_suffix(".md").read_text()
    assert "not a diagnosis" in said and "python recipes/cry_detector.py" in said


# Pooling.


def test_pooling_by_hand() -> None:
    p = np.array([0.2, 0.5, 0.9])
    z = log_odds(p)
    wanted = {
        "mean": 1.6 / 3,
        "max": 0.9,
        "noisy_or": 1 - 0.8 * 0.5 * 0.1,
        # Weights of 1, 3 and 2.
        "attention": (0.2 + 3 * 0.5 + 2 * 0.9) / 6,
    }
    assert set(wanted) == set(POOLINGS)
    for how, value in wanted.items():
        found = pool(z, how, attention=np.log([1.0, 3.0, 2.0]))
        assert float(probability(found)) == pytest.approx(value, abs=1e-6), how


def test_pooling_one_window_is_that_window() -> None:
    for how in POOLINGS:
        assert pool([0.7], how, attention=[3.0]) == pytest.approx(0.7, abs=1e-6)


def test_noisy_or_of_many_sure_windows_is_finite() -> None:
    assert math.isfinite(pool(np.full(5000, 15.0), "noisy_or"))
    assert math.isfinite(pool(np.full(5000, -40.0), "noisy_or"))
    assert pool([-800.0], "noisy_or") < -700  # whose odds are less than a float can be


@pytest.mark.parametrize(
    ("z", "how", "attention", "match"),
    [
        ([], "mean", None, "n at least 1"),
        ([0.1, math.nan], "mean", None, "finite"),
        ([0.1], "median", None, "choose from mean, max, attention, noisy_or"),
        ([0.1], "attention", None, "what to listen to"),
        ([0.1], "attention", [0.1, 0.2], r"attention must be \(1,\)"),
    ],
)
def test_what_cannot_be_pooled_is_refused(
    z: list[float], how: str, attention: list[float] | None, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        pool(z, how, attention=attention)


# Familiarity and the decision.


def test_distance_is_mahalanobis_per_dimension() -> None:
    x = np.random.default_rng(1).standard_normal((200, 3)) @ np.diag([1.0, 3.0, 0.5]) + 2.0
    seen = fit_familiarity(x, np.arange(200), shrinkage=1e-9)
    probe = np.array([3.0, -1.0, 2.5])
    off = probe - x.mean(axis=0)
    wanted = math.sqrt(off @ np.linalg.inv(np.cov(x, rowvar=False, bias=True)) @ off / 3)
    assert seen.distance(probe) == pytest.approx(wanted)


def test_the_limit_lets_the_asked_share_of_new_subjects_through() -> None:
    rng = np.random.default_rng(2)

    def make(n: int) -> Floats:
        return np.asarray(rng.standard_normal((n, 8)) @ np.diag(np.arange(1.0, 9.0)))

    seen = fit_familiarity(make(300), np.arange(300) // 2, share=0.9)
    inside = np.mean([seen.distance(row) <= seen.limit for row in make(400)])
    assert 0.84 < inside < 0.96
    assert all(seen.distance(row + 60) > seen.limit for row in make(20))


def test_familiarity_needs_subjects_to_hold_out() -> None:
    with pytest.raises(ValueError, match="5 subjects or more"):
        fit_familiarity(np.ones((6, 2)), [0, 0, 1, 1, 2, 2])


def decider(**changes: Any) -> Decider:
    made = Decider(("well", "ill"), "mean", calibration.Logistic(1.0, (0.0, 0.5)), threshold=0.6)
    return replace(made, **changes)


def test_a_decision_is_the_pooled_calibrated_score_against_the_threshold() -> None:
    z = log_odds([0.4, 0.6])
    found = decider().decide(z, cry_s=2.0)
    assert found.score == pytest.approx(float(probability(0.5)))  # the mean is .5, log-odds 0, bias .5
    assert (found.decision, found.reason) == ("ill", "")
    assert decider(threshold=0.63).decide(z, cry_s=2.0).decision == "well"


@pytest.mark.parametrize(
    ("z", "cry_s", "reason"),
    [([], 0.0, "no cry was found"), ([], 3.0, "too little"), ([1.0], 0.4, "0.4 s of crying, 1 s are needed")],
)
def test_too_little_cry_is_not_decided_on(z: list[float], cry_s: float, reason: str) -> None:
    found = decider().decide(z, cry_s=cry_s)
    assert math.isnan(found.score) and found.decision == "" and reason in found.reason


def test_what_is_unlike_all_that_was_seen_is_not_decided_on() -> None:
    seen = fit_familiarity(np.random.default_rng(0).standard_normal((50, 3)), np.arange(50))
    careful = decider(familiarity=seen)
    near, far = (careful.decide([1.0], cry_s=2.0, features=np.full(3, x)) for x in (0.1, 9.0))
    assert near.decision == "ill" and near.distance < 1
    assert far.decision == "" and "unlike what the model has seen" in far.reason and far.distance > 1
    with pytest.raises(ValueError, match="familiarity is judged by features"):
        careful.decide([1.0], cry_s=2.0)


def test_a_decider_is_read_back_from_json() -> None:
    seen = fit_familiarity(np.random.default_rng(0).standard_normal((50, 3)), np.arange(50))
    for made in (decider(), decider(familiarity=seen, pooling="noisy_or", least_cry_s=2.5)):
        assert decider_from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(ValueError, match="no decider of the fields"):
        decider_from_dict({"pooling": "mean"})


def test_a_fitted_decider_is_calibrated_and_decides() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    pooled = 3 * (2 * labels - 1 + 1.2 * rng.standard_normal(400))  # three times too sure
    made = fit_decider(pooled, labels, class_names=("a", "b"), pooling="max")
    verdicts = [made.decide([z], cry_s=5.0) for z in pooled]
    assert np.mean([v.score for v in verdicts]) == pytest.approx(labels.mean(), abs=0.02)
    assert np.mean([v.decision == ("a", "b")[y] for v, y in zip(verdicts, labels, strict=True)]) > 0.75


def test_a_decider_of_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="no pooling 'median'"):
        decider(pooling="median")


# On real recordings.


@pytest.mark.real
def test_real_cries_are_told_from_other_sounds(trained: CryDetector, data_root: Path) -> None:
    """Every eighth clip of ESC-10, all of which it heard in training: this holds the pipeline, not the network."""
    clips = load_corpus("esc", root=data_root, task="cry")
    rows = range(0, len(clips), 8)
    labels = [int(clips.label[i] == "cry") for i in rows]
    found = [trained.score(read(clips.file(i), sample_rate_hz=8_000).samples, 8_000).log_odds for i in rows]
    assert auroc(labels, [pool(z, "max") for z in found]) > 0.95


@pytest.mark.real
def test_real_speech_is_no_cry(trained: CryDetector, data_root: Path) -> None:
    speech = load_corpus("librispeech", root=data_root, task="speakers")
    rows = [i for i in range(len(speech)) if speech.covariates["subset"][i] == "test-other"][::5]
    joined = np.concatenate([read(speech.file(i), sample_rate_hz=8_000).samples for i in rows])
    n_proposed = len(list(cry_expirations([joined], 8_000)))
    n_confirmed = len(list(find_cries([joined], 8_000, trained)))
    assert n_proposed > 20 and n_confirmed < 0.1 * n_proposed, (n_confirmed, n_proposed)


# The finders of segment.py and pitch.py against what people marked.


def beating(bpm: float, duration_s: float, rate_hz: int) -> tuple[Floats, str]:
    """A heart, and CirCor's file of its cycles: start, end and state 1 to 4, the ends left unsegmented (0)."""
    rng = np.random.default_rng(round(bpm))
    sound = 0.01 * rng.standard_normal(round(duration_s * rate_hz))
    at_s, lines = 0.31, ["0.0\t0.31\t0"]
    while at_s + 60 / bpm < duration_s:
        period_s = 60 / bpm * (1 + 0.03 * float(rng.uniform(-1, 1)))
        bounds_s = (
            at_s,
            at_s + 0.11,
            at_s + 0.36 * period_s,
            at_s + 0.36 * period_s + 0.085,
            at_s + period_s,
        )
        for k, (f_hz, peak) in ((0, (45.0, 0.3)), (2, (65.0, 0.2))):
            i = np.arange(round(bounds_s[k] * rate_hz), round(bounds_s[k + 1] * rate_hz))
            t = i / rate_hz - bounds_s[k]
            length_s = bounds_s[k + 1] - bounds_s[k]
            sound[i] += peak * np.sin(np.pi * t / length_s) * np.sin(2 * np.pi * f_hz * t)
        lines += [f"{bounds_s[k]:.6f}\t{bounds_s[k + 1]:.6f}\t{k + 1}" for k in range(4)]
        at_s += period_s
    return sound, "\n".join([*lines, f"{at_s:.6f}\t{duration_s:.6f}\t0"]) + "\n"


@pytest.mark.parametrize("bpm", [68, 104])
def test_heart_cycles_agree_with_a_circor_segmentation(tmp_path: Path, bpm: float) -> None:
    sound, segmentation = beating(bpm, 20.0, 4_000)
    soundfile.write(tmp_path / "2530_AV.wav", sound, 4_000, subtype="PCM_16")
    (tmp_path / "2530_AV.tsv").write_text(segmentation)
    true = circor.read_segmentation(tmp_path / "2530_AV.tsv")
    assert {event.kind for event in true} == set(HEART_STATES)
    found = list(heart_cycles([read(tmp_path / "2530_AV.wav").samples], 4_000))
    within = [e for e in found if e.start_s >= true[0].start_s - 0.1 and e.end_s <= true[-1].end_s + 0.1]
    assert frame_agreement(true, within).f1 > 0.85
    sounds, heard = ([e for e in some if e.kind in ("s1", "s2")] for some in (true, within))
    assert event_agreement(sounds, heard, onset_tolerance_s=0.06, offset_share=math.inf).f1 > 0.9


def evenly_spaced(duration_s: float) -> Iterator[Event]:
    """Breaths that nobody listened for: a child's rate, half the time."""
    for start_s in np.arange(0.3, duration_s - 1.2, 2.4):
        yield Event(float(start_s), float(start_s) + 1.2, "breath")


@pytest.mark.real
def test_breaths_are_nearer_to_what_physicians_marked_than_even_ones(data_root: Path) -> None:
    folder = data_root / "sprsound"
    n_true, matched = 0, {"found": 0, "even": 0}
    counts = {"found": 0, "even": 0}
    for file in sorted((folder / "train_json").glob("*.json"))[::12]:
        true = [event._replace(kind="breath") for event in sprsound.read_events(file)]
        recording = next((folder / "train_wav").glob(f"{file.stem}.*"), None)
        if not true or recording is None:
            continue
        audio = read(recording)
        duration_s = len(audio.samples) / audio.sample_rate_hz
        some = {
            "found": list(breaths([audio.samples], audio.sample_rate_hz)),
            "even": list(evenly_spaced(duration_s)),
        }
        n_true += len(true)
        for name, own in some.items():
            counts[name] += len(own)
            matched[name] += event_agreement(true, own).n_matched
    f1 = {name: 2 * matched[name] / (n_true + counts[name]) for name in matched}
    assert n_true > 100 and f1["found"] > 1.3 * f1["even"], f1


@pytest.mark.real
def test_octave_errors_on_real_cries_are_rare(data_root: Path) -> None:
    """An F0 that leaves by an octave for less than 50 ms and comes back is an error, not a voice."""
    cries = load_corpus("donateacry", root=data_root, task="platform")
    n_voiced = n_wrong = 0
    for i in range(0, len(cries), 60):
        samples = read(cries.file(i), sample_rate_hz=8_000).samples
        if not samples.any():
            continue
        octave = np.log2(track(samples, 8_000).f0_hz)
        n_voiced += int(np.isfinite(octave).sum())
        for width in range(1, 6):
            before, inside, after = octave[: -width - 1], octave[1:-width], octave[width + 1 :]
            left = np.abs(np.abs(inside - before) - 1) < 0.15
            came_back = np.abs(after - before) < 0.15
            n_wrong += width * int((left & came_back).sum())
    assert n_voiced > 2_000
    assert n_wrong < 0.01 * n_voiced, (n_wrong, n_voiced)
