import io
import math
import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr
from onnx_data import FEATURES, RATE_HZ, exported, noise

from vagitus import audio, stream
from vagitus.audio import resample
from vagitus.features import featurise
from vagitus.predict import Predictor
from vagitus.stream import Heard, Listener, Lost, Microphone, PcmReader, Summary

WINDOW_S = 0.61  # of both models: 61 frames of 40 samples
STEP = 30  # frames


@pytest.fixture(scope="module")
def plain() -> Predictor:
    """Normalises by nothing."""
    return Predictor(exported("res8")[1])


@pytest.fixture(scope="module")
def relative() -> Predictor:
    """Subtracts the means of the recording."""
    return Predictor(exported("small")[1])


def pieces(samples: np.ndarray, lengths: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Cut into pieces of these lengths, in turn."""
    first, turn = 0, 0
    while first < len(samples):
        n = lengths[turn % len(lengths)]
        yield samples[first : first + n]
        first, turn = first + n, turn + 1


def listen(listener: Listener, samples: np.ndarray, *lengths: int) -> tuple[list[Heard], Summary]:
    heard = [one for piece in pieces(samples, lengths or (len(samples),)) for one in listener.hear(piece)]
    last, summary = listener.finish()
    return heard + last, summary


@pytest.mark.parametrize("model", ["plain", "relative"])
@pytest.mark.parametrize("n_samples", [500, 2_439, 20_001])  # shorter than a window, one short of it, many
def test_the_verdict_on_an_input_is_that_of_predict_on_its_samples(
    model: str, n_samples: int, request: pytest.FixtureRequest
) -> None:
    predictor: Predictor = request.getfixturevalue(model)
    samples = noise(n_samples)
    _, summary = listen(Listener(predictor, RATE_HZ), samples, 1, 800, 0, 37)
    assert summary.prediction == predictor.predict(samples, RATE_HZ)
    assert (summary.from_s, summary.heard_s) == (0, n_samples / RATE_HZ)


def test_windows_of_a_model_without_statistics_score_live_as_they_do_offline(plain: Predictor) -> None:
    samples = noise(20_001)
    heard, summary = listen(Listener(plain, RATE_HZ), samples, 321)
    offline = plain.predict(samples, RATE_HZ).windows
    # Only the last window, which ends with the recording, waits for the end.
    assert len(heard) == summary.n_windows == len(offline) - 1
    for live, window in zip(heard, offline, strict=False):
        assert (live.start_s, live.end_s) == pytest.approx((window.start_s, window.end_s))
        assert live.score == pytest.approx(window.score, abs=1e-6)


def test_statistics_are_those_of_the_frames_heard_by_the_end_of_a_window(relative: Predictor) -> None:
    samples = noise(20_001)
    heard, _ = listen(Listener(relative, RATE_HZ), samples, 997)
    features = featurise(samples, FEATURES.vary(normalisation="none"))
    context = relative.model.context_samples
    padded = np.concatenate([np.zeros(context, np.float32), samples, np.zeros(context, np.float32)])
    for index, live in enumerate(heard):
        first = STEP * index
        cut = padded[first * 40 : (first + 60) * 40 + 2 * context]
        feed = {"waveform": cut[None], "mean": features[:, : first + 61].mean(axis=1)[None]}
        _, shown, p = relative.judge(relative.model.run([feed])[0])
        assert live.score == pytest.approx(p[shown], abs=1e-4)


def test_the_verdict_on_a_longer_input_is_that_on_the_history(relative: Predictor) -> None:
    samples = noise(30_000)
    _, summary = listen(Listener(relative, RATE_HZ, history_s=2.0), samples, 777)
    assert summary.prediction == relative.predict(samples[-8_000:], RATE_HZ)
    assert (summary.from_s, summary.heard_s) == (5.5, 7.5)


def test_statistics_forget_what_lies_before_the_history(relative: Predictor) -> None:
    """After a minute of other sound a window scores as if that had never been."""
    samples = noise(20_000)
    before = np.sin(0.5 * np.arange(240_000)).astype(np.float32)  # 318 Hz and little else
    alone, _ = listen(Listener(relative, RATE_HZ, history_s=2.0), samples)
    after, _ = listen(Listener(relative, RATE_HZ, history_s=2.0), np.concatenate([before, samples]))
    assert after[-1].so_far == pytest.approx(alone[-1].so_far, abs=1e-4)
    longer, _ = listen(Listener(relative, RATE_HZ, history_s=60.0), np.concatenate([before, samples]))
    assert abs(longer[-1].so_far - alone[-1].so_far) > 1e-3


def test_so_far_is_the_mean_logit_of_the_windows(plain: Predictor) -> None:
    samples = noise(20_001)
    heard, _ = listen(Listener(plain, RATE_HZ), samples, 500)
    scored = plain.model.score(lambda: [samples], len(samples))
    _, shown, p = plain.judge(scored.logits[: len(heard)].mean(axis=0))
    assert heard[-1].so_far == pytest.approx(p[shown], abs=1e-6)
    assert heard[0].so_far == pytest.approx(heard[0].score, abs=1e-9)


def test_pieces_of_any_length_change_nothing(relative: Predictor) -> None:
    samples = noise(9_001)
    whole, _ = listen(Listener(relative, RATE_HZ), samples)
    cut, _ = listen(Listener(relative, RATE_HZ), samples, 1, 0, 313)
    assert cut == whole


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 3_000])
def test_another_rate_is_resampled_as_a_file_is(rate_hz: int, relative: Predictor) -> None:
    samples = noise(round(2.3 * rate_hz))
    heard, summary = listen(Listener(relative, rate_hz), samples, 1_234, 7)
    assert summary.prediction == relative.predict(samples, rate_hz)
    assert len(heard) == len(summary.prediction.windows) - 1


def test_int16_and_floats_are_heard_alike(plain: Predictor) -> None:
    stored = np.rint(noise(6_000) * 32768).astype(np.int16)
    whole, _ = listen(Listener(plain, RATE_HZ), stored)
    assert listen(Listener(plain, RATE_HZ), stored / 32768)[0] == whole


def test_a_window_is_scored_as_soon_as_its_frames_have_been_heard(plain: Predictor) -> None:
    listener = Listener(plain, RATE_HZ)
    n_wanted = 60 * 40 + listener.delay_samples  # its last frame's centre, and half an analysis window
    samples = noise(n_wanted)
    assert listener.hear(samples[:-1]) == []
    assert len(listener.hear(samples[-1:])) == 1


def test_a_gap_keeps_its_place_and_is_named_where_it_falls(relative: Predictor) -> None:
    samples = noise(9_000)
    listener = Listener(relative, RATE_HZ)
    heard = listener.hear(samples[:4_000])
    heard += listener.lose(400)
    heard += listener.lose(0)  # of unknown length
    heard += listener.hear(samples[4_400:])
    last, summary = listener.finish()
    holed = samples.copy()
    holed[4_000:4_400] = 0
    assert summary.prediction == relative.predict(holed, RATE_HZ)
    assert (summary.heard_s, summary.lost_s, summary.n_gaps) == (2.25, 0.1, 2)
    for one in heard + last:
        inside = max(0.0, min(one.end_s, 1.1) - max(one.start_s, 1.0))
        assert one.lost_s == pytest.approx(inside)
    assert any(one.lost_s for one in heard) and not heard[0].lost_s


def test_a_window_of_which_nothing_arrived_is_lost_and_not_silent(plain: Predictor) -> None:
    listener = Listener(plain, RATE_HZ)
    heard = listener.hear(noise(4_000)) + listener.lose(9_000)
    assert heard[-1].reason == "lost: nothing of it arrived" and math.isnan(heard[-1].score)
    assert (heard[0].reason, heard[0].lost_s) == ("", 0)


def test_a_window_that_is_mostly_heard_is_scored_and_one_that_is_not_has_a_reason(plain: Predictor) -> None:
    window_samples = 61 * 40
    for share, scored in ((0.2, True), (0.3, False)):
        listener = Listener(plain, RATE_HZ)
        n_lost = round(share * window_samples)
        heard = listener.hear(noise(1_000)) + listener.lose(n_lost) + listener.hear(noise(4_000))
        assert heard[0].lost_s == pytest.approx(n_lost / RATE_HZ)
        assert math.isfinite(heard[0].score) is scored
        assert heard[0].reason == ("" if scored else f"lost: {n_lost / RATE_HZ:.2f} s of it did not arrive")


def test_no_window_joins_the_two_sides_of_a_gap_of_unknown_length(plain: Predictor) -> None:
    samples = noise(12_000)
    listener = Listener(plain, RATE_HZ)
    heard = listener.hear(samples[:5_000]) + listener.lose(0) + listener.hear(samples[5_000:])
    whole, _ = listen(Listener(plain, RATE_HZ), samples)
    joined = [one.start_s < 1.25 < one.end_s for one in heard]
    assert 1 < sum(joined) < len(heard)
    for one, other, spans in zip(heard, whole, joined, strict=True):
        assert one.reason == ("lost: a gap of unknown length falls in it" if spans else "")
        assert math.isnan(one.score) if spans else one.score == other.score
    # The running verdict knows nothing of the windows that were not scored.
    scored = plain.model.score(lambda: [samples], len(samples))
    kept = [i for i, spans in enumerate(joined) if not spans]
    _, shown, p = plain.judge(scored.logits[kept].mean(axis=0))
    assert heard[-1].so_far == pytest.approx(p[shown], abs=1e-6)


def test_statistics_do_not_hear_what_was_lost(relative: Predictor) -> None:
    """After a long gap a window scores as it would had listening begun after it."""
    samples = noise(6_000)
    step = 30 * 40  # windows begin on it, so that the two cut alike
    listener = Listener(relative, RATE_HZ)
    after = listener.lose(10 * step) + listener.hear(samples)
    alone, _ = listen(Listener(relative, RATE_HZ), samples)
    # Windows that reach into the gap by less than a quarter are none here: they begin every half.
    assert after[-1].score == pytest.approx(alone[-1].score, abs=1e-3)


def test_the_first_window_leaves_a_short_history_half_by_half(relative: Predictor) -> None:
    """With a history of one window, a window's statistics are its own, and not those of its second half."""
    samples = noise(9_000)
    window_s = 61 * 40 / RATE_HZ
    heard, _ = listen(Listener(relative, RATE_HZ, history_s=window_s), samples)
    features = featurise(samples, FEATURES.vary(normalisation="none"))
    context = relative.model.context_samples
    padded = np.concatenate([np.zeros(context, np.float32), samples, np.zeros(context, np.float32)])
    first = STEP
    cut = padded[first * 40 : (first + 60) * 40 + 2 * context]
    # 61 frames are two halves of 30 and one, which the history has no room for.
    feed = {"waveform": cut[None], "mean": features[:, first + 1 : first + 61].mean(axis=1)[None]}
    _, shown, p = relative.judge(relative.model.run([feed])[0])
    assert heard[1].score == pytest.approx(p[shown], abs=1e-4)


def test_what_is_no_number_is_lost_and_counted(plain: Predictor) -> None:
    samples = noise(6_000)
    broken = samples.copy()
    broken[100:104] = np.nan
    broken[5_000] = np.inf
    broken[5_002] = 1e30
    holed = np.where(np.isfinite(broken) & (broken < 9), broken, 0).astype(np.float32)
    _, summary = listen(Listener(plain, RATE_HZ), broken, 102)
    assert summary.prediction == plain.predict(holed, RATE_HZ)
    # The piece that ends at 102 divides the first.
    assert (summary.n_gaps, summary.lost_s) == (4, 6 / RATE_HZ)


def test_silence_has_no_score_and_says_so(plain: Predictor) -> None:
    listener = Listener(plain, RATE_HZ)
    silent = listener.hear(np.zeros(4_000, np.float32))
    assert [one.reason for one in silent] == ["silent: -inf dBFS"] * len(silent)
    assert math.isnan(silent[0].score) and math.isnan(silent[0].so_far) and silent[0].decision == ""
    loud = listener.hear(noise(6_000))[-1]
    assert loud.reason == "" and math.isfinite(loud.score) and math.isfinite(loud.so_far)


def test_nothing_heard_has_no_score(plain: Predictor) -> None:
    heard, summary = listen(Listener(plain, RATE_HZ), np.zeros(0, np.float32), 1)
    assert heard == [] and summary.n_windows == 0
    assert summary.prediction.reason.startswith("too short: 0.000 s")


def test_memory_does_not_grow_with_what_is_heard(relative: Predictor) -> None:
    listener = Listener(relative, RATE_HZ, history_s=2.0)
    block = noise(4_000)

    def minutes(n: int) -> int:
        for _ in range(60 * n):
            listener.hear(block)
        return tracemalloc.get_traced_memory()[0]

    listener.hear(block)
    tracemalloc.start()
    early = minutes(1)
    late = minutes(3)
    tracemalloc.stop()
    assert (
        late - early < 300_000
    )  # three minutes are three megabytes; other threads of the test process allocate too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate_hz": 0}, "a rate of 0 Hz"),
        ({"history_s": 0.5}, r"a history of 0\.5 s; give one from 0\.61 s, a window"),
        ({"history_s": math.nan}, "a history of nan s"),
        ({"history_s": 1e6}, r"to 3600 s"),
    ],
)
def test_a_listener_that_cannot_be_is_refused(
    options: dict[str, float], message: str, plain: Predictor
) -> None:
    values = {"sample_rate_hz": RATE_HZ, **options}
    with pytest.raises(ValueError, match=message):
        Listener(plain, **values)  # type: ignore[arg-type]


def test_samples_of_another_kind_are_refused(plain: Predictor) -> None:
    listener = Listener(plain, RATE_HZ)
    with pytest.raises(ValueError, match=r"\(n_samples,\) float or int16, got \(2, 5\)"):
        listener.hear(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="a gap of -1 samples"):
        listener.lose(-1)
    listener.finish()
    for after in (lambda: listener.hear(noise(5)), lambda: listener.lose(5), listener.finish):
        with pytest.raises(ValueError, match="has finished"):
            after()


# What soxr must do for a stream to be resampled as a file is.


def test_resampling_does_not_depend_on_the_pieces() -> None:
    samples = noise(5_000)
    streamed = soxr.ResampleStream(8_000, 4_000, 1, dtype="float32", quality="HQ")
    parts = [streamed.resample_chunk(piece) for piece in pieces(samples, (3, 700))]
    parts.append(streamed.resample_chunk(np.empty(0, np.float32), last=True))
    np.testing.assert_array_equal(np.concatenate(parts), resample(samples, 8_000, 4_000))


# Raw PCM.


class Drops(io.RawIOBase):
    """A pipe that gives what it has, a few bytes at a time."""

    def __init__(self, content: bytes, lengths: tuple[int, ...]) -> None:
        self._pieces = pieces(np.frombuffer(content, np.uint8), lengths)

    def read(self, size: int = -1, /) -> bytes:
        return bytes(next(self._pieces, np.empty(0, np.uint8)))


def test_samples_are_put_together_from_halves() -> None:
    samples = np.random.default_rng(1).integers(-32768, 32767, 5_000).astype(np.int16)
    reader = PcmReader(Drops(samples.tobytes(), (1, 3, 8, 1_001)))
    np.testing.assert_array_equal(np.concatenate(list(reader)), samples)
    assert reader.n_stray_bytes == 0


def test_an_end_within_a_sample_is_told() -> None:
    reader = PcmReader(Drops(np.arange(1_000, dtype=np.int16).tobytes() + b"\x07", (64, 9)))
    assert sum(map(len, reader)) == 1_000
    assert reader.n_stray_bytes == 1


def test_one_byte_is_no_sample() -> None:
    reader = PcmReader(Drops(b"\x07", (1,)))
    assert list(reader) == [] and reader.n_stray_bytes == 1


def test_samples_are_given_before_the_pipe_is_full() -> None:
    """A listener must not wait for a block to fill."""
    read_end, write_end = os.pipe()
    with io.FileIO(read_end) as source, io.FileIO(write_end, "w") as sink:
        blocks = iter(PcmReader(source))
        for n_samples in (40, 25, 3):
            sink.write(bytes(2 * n_samples))
            assert len(next(blocks)) == n_samples


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "standard input: ended without a sample"),
        (b"RIFF$\x00\x00\x00WAVEfmt ", r"no raw PCM but wav \(b'RIFF'\), .* `vagitus predict`"),
        (b"OggS" + bytes(80), "no raw PCM but ogg"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(80), "no raw PCM but mp4"),
        (b"\x00\x00\x00\x18ftyp3gp4" + bytes(80), "no raw PCM but mp4"),
        (b"caff\x00\x01\x00\x00desc" + bytes(80), "no raw PCM but caf"),
        (b"#!AMR\n" + bytes(80), "no raw PCM but amr"),
        (b"ID3\x04" + bytes(80), "no raw PCM but an ID3 tag"),
        (b"PK\x03\x04" + bytes(80), "no raw PCM but a zip archive"),
        (b"RIFF\x10\x00\x00\x00AVI LIST" + bytes(80), "no raw PCM but an AVI video"),
        (3 * (b"\xff\xfb\x90\x64" + bytes(413)), "no raw PCM but mp3"),
        (3 * (b"\xff\xf1\x60\x40" + bytes(180)), "no raw PCM but aac"),
        ("Notes of a visit, \N{GREEK SMALL LETTER MU} and all\n".encode() * 9, "text"),
    ],
)
def test_what_is_no_pcm_is_refused_before_it_is_heard(head: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(iter(PcmReader(Drops(head, (5, 50)))))


def test_every_container_that_is_decoded_is_refused_as_pcm() -> None:
    """By audio's own table: what is added there is refused here."""
    heads = {
        "wav": b"RIFF....WAVE",
        "rf64": b"RF64....WAVE",
        "w64": b"riff\x2e\x91\xcf\x11",
        "flac": b"fLaC",
        "ogg": b"OggS",
        "aiff": b"FORM....AIFF",
        "caf": b"caff",
        "au": b".snd",
        "nist": b"NIST_1A",
        "voc": b"Creative Voice File",
        "mp4": b"....ftyp",
        "amr": b"#!AMR",
        "matroska": b"\x1a\x45\xdf\xa3",
        "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
        "aac": b"\xff\xf1\x60\x40",
        "mp3": b"\xff\xfb\x90\x64",
    }
    assert set(heads) == {container.name for container in audio._CONTAINERS}
    for name, head in heads.items():
        with pytest.raises(ValueError, match=f"no raw PCM but {name}"):
            next(iter(PcmReader(Drops(3 * (head + bytes(300)), (900,)))))


def test_samples_that_begin_as_a_frame_of_mp3_does_are_heard() -> None:
    samples = np.random.default_rng(2).integers(-9_000, 9_000, 6_000).astype("<i2")
    samples[0] = np.frombuffer(b"\xff\xe3", "<i2")[0]
    samples[1] = 0x10
    assert audio.announced(samples.tobytes()) in audio.SYNCED
    np.testing.assert_array_equal(
        np.concatenate(list(PcmReader(Drops(samples.tobytes(), (64, 700))))), samples
    )


def test_silence_is_no_file() -> None:
    assert audio.announced(bytes(64)) == ""


# The microphone. There is none where tests run, and PortAudio only on some machines.


def test_a_microphone_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(
        ImportError, match=r"pip install 'vagitus\[live\]'; or without it: arecord -t raw"
    ) as told:
        Microphone(None, 16_000)
    assert told.value.name is None  # ours: the command line prints it as it is


def test_a_microphone_without_portaudio_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the package does where the library is missing (sounddevice 0.5.6, at its import).
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(ImportError, match=r"PortAudio library not found\): apt install libportaudio2"):
        Microphone(None, 16_000)


class PortAudio(ModuleType):
    """PortAudio's side of the conversation: one device, which knows 48 kHz alone."""

    class PortAudioError(Exception):
        pass

    def query_devices(self, device: object = None, kind: str = "") -> object:
        if device == "none":
            raise ValueError("No input device matching 'none'")
        about = {"name": "ward", "max_input_channels": 1, "default_samplerate": 48_000.0}
        return about if kind else [about]

    def check_input_settings(self, device: object, *, samplerate: int, **_: object) -> None:
        if samplerate != 48_000:
            raise self.PortAudioError("Invalid sample rate")

    @contextmanager
    def RawInputStream(self, *, callback: Any, blocksize: int, **_: object) -> Iterator[None]:  # noqa: N802 (its name)
        def deliver(value: int, *, overflowed: bool = False) -> None:
            block = np.full(blocksize, value, np.int16).tobytes()
            callback(block, blocksize, None, SimpleNamespace(input_overflow=overflowed))

        self.n_block, self.deliver = blocksize, deliver
        for value in range(6):  # before anyone asks
            deliver(value)
        yield


def test_a_microphone_takes_the_rate_that_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio("sounddevice"))
    microphone = Microphone(None, 16_000)
    assert (microphone.name, microphone.sample_rate_hz) == ("ward", 48_000)
    with pytest.raises(ValueError, match=r"no input device 'none' .*; there are ward"):
        Microphone("none", 16_000)


def test_a_microphone_counts_what_came_while_nobody_listened(monkeypatch: pytest.MonkeyPatch) -> None:
    portaudio = PortAudio("sounddevice")
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    monkeypatch.setattr(stream, "MICROPHONE_SILENT_S", 0.01)  # then it is taken for unplugged
    monkeypatch.setattr(stream, "MICROPHONE_QUEUE_S", 0.15)  # three blocks
    heard = iter(Microphone(None, 48_000))
    found = [next(heard)]  # 0 to 2 waited, 3 to 5 are lost
    portaudio.deliver(6, overflowed=True)
    found += heard
    values = [one if isinstance(one, Lost) else int(one[0]) for one in found]
    assert values == [0, 1, 2, Lost(0), Lost(3 * portaudio.n_block), 6]
