"""Events in long recordings: found where they were planted, the same in any blocks; measured and written right."""

import math
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus import segment
from vagitus.corpora import simulated
from vagitus.segment import (
    HEART_STATES,
    LAYOUTS,
    Agreement,
    Event,
    autocorrelation,
    bouts,
    breaths,
    cry_expirations,
    event_agreement,
    frame_agreement,
    framed,
    heart_cycles,
    read_events,
    write_events,
)

Signal = NDArray[np.float64]
Segmenter = Callable[..., Iterator[Event]]
RATE_HZ = 8_000


def crying(seed: int, *, site: int, duration_s: float = 8.0) -> tuple[Signal, list[Event]]:
    rng = np.random.default_rng(seed)
    infant = simulated.voice(seed, is_case=bool(seed % 2), effect=1.0, seed=9)
    cry = simulated.cry(infant, rng, duration_s=duration_s, sample_rate_hz=RATE_HZ)
    sound = simulated.record(cry.samples, site, rng, sample_rate_hz=RATE_HZ, seed=9)
    return sound, [Event(start_s, end_s, "expiration") for start_s, end_s in cry.expirations]


def heart(
    bpm: float, *, duration_s: float = 16.0, noise: float = 0.02, seed: int = 0
) -> tuple[Signal, list[Event]]:
    """Two bursts a beat, S1 lower and louder; beats vary by 5 %; the truth in four states."""
    rng = np.random.default_rng(seed)
    sound = noise * rng.standard_normal(round(duration_s * RATE_HZ))
    events: list[Event] = []
    at_s = 0.13
    while True:
        period_s = 60 / bpm * (1 + 0.05 * float(rng.uniform(-1, 1)))
        s2_s = at_s + min(0.2 + 6 / bpm, 0.42 * period_s)
        if at_s + period_s > duration_s:
            return sound, events
        lengths_s = 0.11 * min(1, period_s / 0.6), 0.085 * min(1, period_s / 0.6)
        for start_s, length_s, f_hz, peak in ((at_s, lengths_s[0], 50, 0.3), (s2_s, lengths_s[1], 70, 0.2)):
            i = np.arange(round(start_s * RATE_HZ), round((start_s + length_s) * RATE_HZ))
            t = i / RATE_HZ - start_s
            sound[i] += peak * np.sin(np.pi * t / length_s) * np.sin(2 * np.pi * f_hz * t)
        bounds_s = (at_s, at_s + lengths_s[0], s2_s, s2_s + lengths_s[1], at_s + period_s)
        events += [
            Event(start_s, end_s, kind)
            for (start_s, end_s), kind in zip(pairwise(bounds_s), HEART_STATES, strict=True)
        ]
        at_s += period_s


def breathing(
    *, duration_s: float = 16.0, period_s: float = 2.3, seed: int = 0
) -> tuple[Signal, list[Event]]:
    """Noise that swells by 20 dB for 1.1 s in every period."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * RATE_HZ)
    t = np.arange(n) / RATE_HZ
    phase_s = (t - 0.5) % period_s
    swell = np.where((phase_s < 1.1) & (t >= 0.5), np.abs(np.sin(np.pi * phase_s / 1.1)) ** 0.5, 0.0)
    starts_s = np.arange(0.5, duration_s - 1.1, period_s)
    sound = rng.standard_normal(n) * (0.01 + 0.09 * swell)
    return sound, [Event(float(s), float(s) + 1.1, "breath") for s in starts_s]


SOUNDS: dict[str, tuple[Segmenter, Callable[[], tuple[Signal, list[Event]]]]] = {
    "cry": (cry_expirations, lambda: crying(1, site=1, duration_s=16.0)),
    "heart": (heart_cycles, lambda: heart(95, duration_s=31.0)),
    "breath": (breaths, breathing),
}


@pytest.mark.parametrize("site", range(4))
def test_expirations_of_simulated_cries_are_found(site: int) -> None:
    sound, true = crying(3 + site, site=site)
    # The last breath may be cut to less than what counts as one.
    true = [event for event in true if event.end_s - event.start_s >= 0.25]
    found = list(cry_expirations([sound], RATE_HZ))
    found_right = event_agreement(true, found, onset_tolerance_s=0.1, offset_tolerance_s=0.15, offset_share=0)
    assert found_right.f1 > 0.9, (true, found)
    assert frame_agreement(true, found).f1 > 0.93


@pytest.mark.parametrize("bpm", [55, 80, 120, 150])
def test_heart_cycles_of_known_timing_are_found(bpm: float) -> None:
    sound, true = heart(bpm)
    found = list(heart_cycles([sound], RATE_HZ))
    sounds, found_sounds = ([e for e in events if e.kind in ("s1", "s2")] for events in (true, found))
    by_onset = event_agreement(sounds, found_sounds, onset_tolerance_s=0.06, offset_share=math.inf)
    assert by_onset.recall > 0.95, (sounds, found_sounds)
    assert frame_agreement(true, found).f1 > 0.85


def test_heart_states_follow_each_other_without_gaps() -> None:
    found = list(heart_cycles([heart(72)[0]], RATE_HZ))
    for before, after in pairwise(found):
        assert after.start_s == before.end_s
        assert HEART_STATES.index(after.kind) == (HEART_STATES.index(before.kind) + 1) % 4


def test_the_semi_markov_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    n_states, n_frames, n_longest = 3, 8, 4
    emission = rng.standard_normal((n_states, n_frames))
    duration = rng.standard_normal((n_states, n_longest)) - 1.5

    def likelihood(cuts: tuple[int, ...], first: int) -> tuple[float, list[int]]:
        bounds = (0, *cuts, n_frames)
        total, states = 0.0, []
        for k, (start, end) in enumerate(pairwise(bounds)):
            state = (first + k) % n_states
            states += [state] * (end - start)
            total += emission[state, start:end].sum()
            if end - start > n_longest:
                return -math.inf, states
            if start and end < n_frames:
                total += duration[state, end - start - 1]
        return total, states

    best, states = max(
        likelihood(cuts, first)
        for n_cuts in range(1, n_frames)
        for cuts in combinations(range(1, n_frames), n_cuts)
        for first in range(n_states)
    )
    found, found_likelihood = segment._segments(emission, duration)
    assert found_likelihood == pytest.approx(best)
    assert found.tolist() == states


def test_breaths_of_known_timing_are_found() -> None:
    sound, true = breathing()
    found = list(breaths([sound], RATE_HZ))
    assert event_agreement(true, found).f1 == 1.0, found


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("block_samples", [777, 100_000])
def test_events_do_not_depend_on_the_blocks(name: str, block_samples: int) -> None:
    segmenter, make = SOUNDS[name]
    sound = make()[0].astype(np.float32)
    blocks = [sound[i : i + block_samples] for i in range(0, len(sound), block_samples)]
    whole = list(segmenter([sound], RATE_HZ))
    assert len(whole) > 4
    assert list(segmenter([sound[:0], *blocks], RATE_HZ)) == whole


@pytest.mark.parametrize("name", SOUNDS)
def test_memory_does_not_grow_with_length(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The best path is of one window whatever the length, and slow to trace.
    monkeypatch.setattr(
        segment, "_segments", lambda emission, duration: (np.zeros(emission.shape[1], int), 0.0)
    )
    segmenter, make = SOUNDS[name]
    block = make()[0].astype(np.float32)

    def peak_bytes(n_blocks: int) -> int:
        tracemalloc.start()
        for _ in segmenter((block for _ in range(n_blocks)), RATE_HZ):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(9) < 1.15 * peak_bytes(3)


@pytest.mark.parametrize("name", SOUNDS)
def test_silence_holds_no_events(name: str) -> None:
    assert list(SOUNDS[name][0]([np.zeros(5 * RATE_HZ, np.float32)], RATE_HZ)) == []


def test_noise_holds_no_cry() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE_HZ)
    assert list(cry_expirations([noise], RATE_HZ)) == []


def test_noise_holds_no_heart() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE_HZ)
    assert list(heart_cycles([noise], RATE_HZ)) == []


BAD: dict[str, tuple[NDArray[Any], str]] = {
    "empty": (np.zeros(0, np.float32), "0 samples are shorter than one frame"),
    "short": (np.zeros(50, np.float32), "shorter than one frame"),
    "nan": (np.full(RATE_HZ, np.nan, np.float32), "NaN"),
    "stereo": (np.zeros((2, RATE_HZ), np.float32), "average the channels"),
    "integers": (np.zeros(RATE_HZ, np.int64), "convert them"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", SOUNDS)
def test_bad_samples_are_refused(name: str, what: str) -> None:
    samples, match = BAD[what]
    with pytest.raises(ValueError, match=match):
        list(SOUNDS[name][0]([samples], RATE_HZ))


@pytest.mark.parametrize("name", SOUNDS)
def test_too_low_a_rate_is_refused_at_the_call(name: str) -> None:
    with pytest.raises(ValueError, match="sample_rate_hz 400 does not hold"):
        SOUNDS[name][0]([np.zeros(4_000, np.float32)], 400)


def test_heart_rates_upside_down_are_refused() -> None:
    with pytest.raises(ValueError, match="min_bpm"):
        heart_cycles([np.zeros(4_000, np.float32)], RATE_HZ, min_bpm=200, max_bpm=100)


def test_breath_thresholds_upside_down_are_refused() -> None:
    with pytest.raises(ValueError, match="off_share"):
        breaths([np.zeros(4_000, np.float32)], RATE_HZ, on_share=0.3, off_share=0.5)


def test_frames_are_the_samples_from_every_hop_on() -> None:
    samples = np.arange(47, dtype=np.float32)
    chunks = [chunk.copy() for chunk in framed([samples[:3], samples[3:40], samples[40:]], 7, 3, n_chunk=4)]
    expected = [samples[i : i + 7] for i in range(0, 41, 3)]
    assert [len(chunk) for chunk in chunks] == [4, 4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), expected)


def test_autocorrelation_level_is_the_mean_square_of_a_tone() -> None:
    t = np.arange(400) / RATE_HZ
    frames = (0.2 * np.cos(2 * np.pi * 1000 * t)).astype(np.float32)[None]
    level_db, r = autocorrelation(frames, RATE_HZ, low_hz=200, high_hz=4000, n_lags=17, upsampling=2)
    assert level_db[0] == pytest.approx(10 * math.log10(0.2**2 / 2), abs=0.05)
    # 16 lags of 1 / 16 kHz are one period of 1 kHz, 8 are half of it.
    assert (r[0, 16], r[0, 8]) == (pytest.approx(1.0, abs=0.01), pytest.approx(-1.0, abs=0.01))


def test_bouts_by_hand() -> None:
    events = [Event(1.0, 2.0, "a", 0.5), Event(3.0, 3.5, "a", 0.8), Event(5.5, 6.0, "a", 0.1)]
    first, second = bouts(events, gap_s=2.0)
    assert (first[:3], second[:3]) == ((1.0, 3.5, "bout"), (5.5, 6.0, "bout"))
    np.testing.assert_allclose([first.score, second.score], [(0.5 * 1.0 + 0.8 * 0.5) / 1.5, 0.1])


def test_runs_join_over_short_gaps_and_short_ones_are_dropped() -> None:
    runs = segment._Hysteresis(n_gap=2, n_least=3, least_value=0.0)
    #                    off  run of 3 gap of 1     gap of 2  too short     never on
    evidence = [0.0, 0.6, 1.2, 0.7, 0.0, 1.5, 0.0, 0.0, 1.5, 1.5, 0.0, 0.0, 0.9, 0.9, 0.9]
    found = [*runs.push(evidence, evidence, 1.0, 0.5), *runs.finish()]
    assert [(run.first, run.last) for run in found] == [(1, 5)]


def event(start_s: float, end_s: float, kind: str = "cry") -> Event:
    return Event(start_s, end_s, kind)


def test_event_agreement_by_hand() -> None:
    true = [event(1.0, 2.0), event(3.0, 3.2), event(5.0, 9.0), event(10.0, 11.0)]
    found = [
        event(1.2, 1.5),  # .2 s late, ends half a duration early: both at the limit, matched
        event(3.0, 3.5),  # ends .3 s late where .2 s is allowed
        event(5.1, 7.0),  # ends 2 s early, half of 4 s: matched
        event(10.0, 11.0, "cough"),  # another kind
        event(20.0, 21.0),
    ]
    agreement = event_agreement(true, found)
    assert agreement == Agreement(n_true=4, n_found=5, n_matched=2)
    assert (agreement.precision, agreement.recall) == (0.4, 0.5)
    assert agreement.f1 == pytest.approx(4 / 9)


def test_the_largest_matching_is_found_where_the_first_come_takes_the_wrong_one() -> None:
    # The first true event may have either found one, the second only the earlier.
    true, found = [event(1.0, 2.0), event(0.7, 1.7)], [event(0.85, 1.85), event(1.15, 2.15)]
    assert event_agreement(true, found).n_matched == 2


def test_one_found_event_matches_one_true_event() -> None:
    assert event_agreement([event(1.0, 2.0), event(1.1, 2.1)], [event(1.05, 2.05)]).n_matched == 1


def test_frame_agreement_by_hand() -> None:
    # Frames of .5 s with centres .25, .75, ...: true 2 and 3, found 3 and 4, and one of another kind.
    agreement = frame_agreement([event(1.0, 2.0)], [event(1.5, 2.3), event(0.0, 0.5, "cough")], frame_s=0.5)
    assert agreement == Agreement(n_true=2, n_found=3, n_matched=1)


def test_nothing_true_and_nothing_found_is_unknown() -> None:
    agreement = event_agreement([], [])
    assert math.isnan(agreement.f1) and math.isnan(agreement.precision) and math.isnan(agreement.recall)


@pytest.mark.parametrize("measure", [event_agreement, frame_agreement])
def test_an_event_that_ends_before_it_starts_is_refused(measure: Callable[..., Agreement]) -> None:
    with pytest.raises(ValueError, match="start_s < end_s"):
        measure([event(2.0, 1.0)], [])


EVENTS = [Event(0.5, 1.25, "expiration", 0.75), Event(1.5, 2.125, "breath, loud")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_back(layout: segment.Layout, tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.txt"
    write_events(EVENTS, path, layout)
    found = read_events(path, layout)
    assert [e[:3] for e in found] == [e[:3] for e in EVENTS]
    kept = [math.nan, math.nan] if layout == "audacity" else [0.75, math.nan]
    np.testing.assert_array_equal([e.score for e in found], kept)
    assert [p.name for p in path.parent.iterdir()] == ["events.txt"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_events_are_a_file_too(layout: segment.Layout, tmp_path: Path) -> None:
    write_events([], tmp_path / "events", layout)
    assert read_events(tmp_path / "events", layout) == []


def test_an_audacity_label_track_is_three_columns(tmp_path: Path) -> None:
    write_events(EVENTS[:1], tmp_path / "labels.txt", "audacity")
    assert (tmp_path / "labels.txt").read_text() == "0.500000\t1.250000\texpiration\n"


def test_audacity_frequency_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0.5\t1.25\tcry\n\\\t200.0\t900.0\n")
    assert read_events(tmp_path / "labels.txt", "audacity")[0][:3] == (0.5, 1.25, "cry")


def test_a_raven_table_has_its_columns_and_counts_a_selection_once(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    write_events(EVENTS[:1], path, "raven", top_hz=4000)
    header, row = path.read_text().splitlines()
    assert header.startswith(
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
    )
    assert row.split("\t")[:7] == ["1", "Spectrogram 1", "1", "0.500000", "1.250000", "0", "4000"]
    path.write_text(f"{header}\n{row}\n{row.replace('Spectrogram', 'Waveform')}\n")
    assert len(read_events(path, "raven")) == 1


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="json, csv, audacity, raven"):
        write_events(EVENTS, tmp_path / "events", "praat")  # type: ignore[arg-type]


def test_a_kind_with_a_tab_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split by tabs"):
        write_events([event(0.0, 1.0, "a\tb")], tmp_path / "events", "csv")


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("json", "{}"),
        ("json", "nothing"),
        ("csv", "a,b\n1,2\n"),
        ("audacity", "0.5 1.0 cry\n"),
        ("raven", "a\tb\n"),
    ],
)
def test_a_file_of_another_layout_is_refused(layout: segment.Layout, text: str, tmp_path: Path) -> None:
    (tmp_path / "events").write_text(text)
    with pytest.raises(ValueError, match=f"events: is not {layout}"):
        read_events(tmp_path / "events", layout)
