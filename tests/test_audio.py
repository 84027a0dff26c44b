"""Decoding: the right samples, from every container, for any stretch, whole or in blocks."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from vagitus import audio
from vagitus.audio import AudioError, level_dbfs, probe, read, resample, stream

Writer = Callable[[Path, NDArray[np.float32], int], None]


def noisy_chirp(rate_hz: int, n_samples: int) -> NDArray[np.float32]:
    """No two moments alike, so that a shift shows; below 1.6 kHz, so that every codec keeps it."""
    t = np.arange(n_samples) / rate_hz
    noise = np.random.default_rng(7).standard_normal(n_samples)
    sweep = np.sin(2 * np.pi * (300 * t + 1200 * t**2 / (2 * t[-1])))
    envelope = 0.5 + 0.4 * np.sin(2 * np.pi * 1.7 * t)
    samples: NDArray[np.float32] = (0.5 * envelope * sweep + 0.01 * noise).astype(np.float32)
    return samples


def encode(path: Path, samples: NDArray[np.float32], rate_hz: int, *, codec: str, **options: str) -> None:
    """Write with FFmpeg; skip where its build lacks the encoder. Options ``muxer_*`` go to the container."""
    try:
        encoder = av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    muxer = {key.removeprefix("muxer_"): value for key, value in options.items() if key.startswith("muxer_")}
    options = {key: value for key, value in options.items() if not key.startswith("muxer_")}
    formats = {".aac": "adts", ".opus": "ogg", ".webm": "webm"}
    with av.open(str(path), "w", format=formats.get(path.suffix), options=muxer) as container:
        out: Any = container.add_stream(codec, rate=rate_hz, options=options, layout="mono")
        assert encoder.audio_formats
        converter = av.AudioResampler(format=encoder.audio_formats[0].name, layout="mono", rate=rate_hz)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        queue = av.AudioFifo()
        for converted in [*converter.resample(frame), *converter.resample(None)]:
            queue.write(converted)
        n_written = 0
        while (part := queue.read(out.codec_context.frame_size or 1024, partial=True)) is not None:
            part.pts, part.time_base = (
                n_written,
                Fraction(1, rate_hz),
            )  # else the encoder's delay is not noted
            n_written += part.samples
            container.mux(out.encode(part))
        container.mux(out.encode(None))


def by_ffmpeg(codec: str, **options: str) -> Writer:
    return lambda path, samples, rate_hz: encode(path, samples, rate_hz, codec=codec, **options)


def by_libsndfile(container: str, subtype: str) -> Writer:
    def write(path: Path, samples: NDArray[Any], rate_hz: int) -> None:
        with soundfile.SoundFile(path, "w", rate_hz, 1, subtype, format=container) as file:
            for i in range(0, len(samples), 8000):  # libsndfile can crash on a long Ogg in one call
                file.write(samples[i : i + 8000])

    return write


# suffix, rate, writer, container and codec as probed
LOSSLESS = {
    "wav": (16000, by_libsndfile("WAV", "PCM_16"), "wav", "pcm_16"),
    "rf64": (16000, by_libsndfile("RF64", "PCM_16"), "rf64", "pcm_16"),
    "w64": (16000, by_libsndfile("W64", "PCM_16"), "w64", "pcm_16"),
    "flac": (44100, by_libsndfile("FLAC", "PCM_16"), "flac", "flac"),
    "aiff": (16000, by_libsndfile("AIFF", "PCM_16"), "aiff", "pcm_16"),
    "pcm.caf": (16000, by_libsndfile("CAF", "PCM_16"), "caf", "pcm_16"),
    "au": (16000, by_libsndfile("AU", "PCM_16"), "au", "pcm_16"),
    "nist": (8000, by_libsndfile("NIST", "PCM_16"), "nist", "pcm_16"),
    "voc": (8000, by_libsndfile("VOC", "PCM_16"), "voc", "pcm_16"),
    "pcm.mov": (8000, by_ffmpeg("pcm_s16le"), "mp4", "pcm_s16le"),
    "pcm_s16.mkv": (8000, by_ffmpeg("pcm_s16le"), "matroska", "pcm_s16le"),
}
LOSSY = {
    "ogg": (16000, by_libsndfile("OGG", "VORBIS"), "ogg", "vorbis"),
    "mp3": (44100, by_ffmpeg("libmp3lame"), "mp3", "mp3"),
    "low.mp3": (16000, by_ffmpeg("libmp3lame"), "mp3", "mp3"),
    "untagged.mp3": (44100, by_ffmpeg("libmp3lame", muxer_write_xing="0"), "mp3", "mp3float"),
    "opus": (48000, by_ffmpeg("libopus"), "ogg", "opus"),
    "gsm.wav": (8000, by_libsndfile("WAV", "GSM610"), "wav", "gsm610"),
    "ima.wav": (8000, by_libsndfile("WAV", "IMA_ADPCM"), "wav", "ima_adpcm"),
    "webm": (48000, by_ffmpeg("libopus"), "matroska", "opus"),
    "m4a": (16000, by_ffmpeg("aac"), "mp4", "aac"),
    "aac": (16000, by_ffmpeg("aac"), "aac", "aac"),
    "caf": (16000, by_ffmpeg("adpcm_ima_qt"), "caf", "adpcm_ima_qt"),
    "3gp": (8000, by_ffmpeg("libopencore_amrnb"), "mp4", "amrnb"),
    "amr": (8000, by_ffmpeg("libopencore_amrnb"), "amr", "amrnb"),
}
ALL = LOSSLESS | LOSSY
SECONDS = 3.3


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("recordings")

    def make(suffix: str) -> Path:
        path = folder / f"chirp.{suffix}"
        if not path.exists():
            rate_hz, write, *_ = ALL[suffix]
            write(path, noisy_chirp(rate_hz, round(SECONDS * rate_hz)), rate_hz)
        return path

    return make


def write_pcm(path: Path, samples: object, rate_hz: int = 8000, **options: Any) -> Path:
    soundfile.write(path, np.asarray(samples), rate_hz, **options)
    return path


# The samples


def test_pcm_by_hand(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "a.wav", np.array([0, 16384, -32768, 32767, 1], np.int16))
    whole = read(path)
    assert whole.sample_rate_hz == 8000
    assert whole.samples.dtype == np.float32
    assert whole.samples.tolist() == [0, 0.5, -1, 32767 / 32768, 1 / 32768]
    as_int16 = read(path, dtype="int16").samples
    assert as_int16.dtype == np.int16
    assert as_int16.tolist() == [0, 16384, -32768, 32767, 1]


def test_mono_is_the_mean_of_the_channels_rounded_to_nearest(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "a.wav", np.array([[100, 201], [-3, -4], [5, 0], [32767, 32767]], np.int16))
    assert read(path, dtype="int16").samples.tolist() == [150, -4, 2, 32767]  # halves to even
    assert (read(path).samples * 32768).tolist() == [150.5, -3.5, 2.5, 32767]
    three = write_pcm(tmp_path / "b.wav", np.array([[1, 2, 4], [-9, 0, 1]], np.int16))
    assert read(three, dtype="int16").samples.tolist() == [2, -3]
    np.testing.assert_allclose(read(three).samples * 32768, [7 / 3, -8 / 3], rtol=1e-6)


def test_mono_of_a_float_file_is_the_mean_too(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "a.wav", [[0.5, 0.25], [-1.0, 0.5]], subtype="FLOAT")
    assert read(path).samples.tolist() == [0.375, -0.25]


def test_int16_of_a_float_file_is_rounded_and_clipped(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "a.wav", np.array([1.4, 1.6, -1.6, 40000, -40000]) / 32768, subtype="FLOAT")
    assert read(path, dtype="int16").samples.tolist() == [1, 2, -2, 32767, -32768]
    assert read(path).samples[3] == np.float32(40000 / 32768)  # float32 keeps what passes full scale


@pytest.mark.parametrize(
    ("codec", "name", "values"),
    [
        ("pcm_u8", "a.mov", [-1, -0.5, 0, 127 / 128]),
        ("pcm_s32le", "a.mov", [-1, -0.5, 0, 0.25]),
        ("pcm_f64le", "a.mov", [-1, -0.5, 0, 0.25]),
        ("pcm_s24le", "a.mkv", [-1, -0.5, 0, 0.25]),
    ],
)
def test_every_sample_format_of_ffmpeg_has_full_scale_at_one(
    tmp_path: Path, codec: str, name: str, values: list[float]
) -> None:
    encode(tmp_path / name, np.array(values, np.float32), 8000, codec=codec)
    assert read(tmp_path / name).samples.tolist() == values


@pytest.mark.parametrize("suffix", sorted(LOSSLESS))
def test_lossless_files_give_back_what_was_written(suffix: str, recording: Callable[[str], Path]) -> None:
    rate_hz = ALL[suffix][0]
    written = np.rint(noisy_chirp(rate_hz, round(SECONDS * rate_hz)) * 32768)
    samples = read(recording(suffix), dtype="int16").samples
    assert len(samples) == len(written)
    assert np.abs(samples - written).max() <= 1  # the writers' rounding


@pytest.mark.parametrize("suffix", sorted(LOSSY))
def test_lossy_files_sound_like_what_was_written_and_when(
    suffix: str, recording: Callable[[str], Path]
) -> None:
    rate_hz = ALL[suffix][0]
    written = noisy_chirp(rate_hz, round(SECONDS * rate_hz))
    samples = read(recording(suffix)).samples
    n = min(len(samples), len(written))
    assert abs(len(samples) - len(written)) / rate_hz < 0.2
    spectrum = np.fft.rfft(samples[:n], 2 * n) * np.fft.rfft(written[:n], 2 * n).conj()
    correlation = np.fft.irfft(spectrum) / np.linalg.norm(samples[:n]) / np.linalg.norm(written[:n])
    delay = int(correlation.argmax())
    delay_s = (delay if delay < n else delay - 2 * n) / rate_hz
    assert correlation.max() > 0.95
    # Without a gapless header the encoder's delay stays in (2 AAC frames, 1105 MP3 samples, 5 ms of AMR).
    allowed_s = {"aac": 0.13, "untagged.mp3": 0.06, "amr": 0.006, "3gp": 0.006}.get(suffix, 0.0005)
    assert abs(delay_s) <= allowed_s


@pytest.mark.parametrize("suffix", sorted(ALL))
def test_probe_says_what_read_finds(suffix: str, recording: Callable[[str], Path]) -> None:
    rate_hz, _, container, codec = ALL[suffix]
    info = probe(recording(suffix))
    assert (info.container, info.codec, info.sample_rate_hz, info.n_channels) == (
        container,
        codec,
        rate_hz,
        1,
    )
    assert info.path == recording(suffix)
    if suffix in ("aac", "amr", "untagged.mp3"):
        assert info.n_samples is None and info.duration_s is None
    else:
        assert info.duration_s == pytest.approx(len(read(recording(suffix)).samples) / rate_hz, abs=0.1)


def test_probe_reads_the_header_only(recording: Callable[[str], Path], tmp_path: Path) -> None:
    content = bytearray(recording("flac").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    damaged = tmp_path / "a.flac"
    damaged.write_bytes(content)
    assert probe(damaged).n_samples == round(SECONDS * 44100)
    with pytest.raises(AudioError, match=r"a\.flac: .*; "):
        read(damaged)


@pytest.mark.parametrize(
    ("suffix", "name"),
    [("wav", "a.mp3"), ("wav", "a.raw"), ("flac", "a.wav"), ("m4a", "a.txt"), ("mp3", "a.ogg"), ("ogg", "a")],
)
def test_content_decides_not_the_suffix(
    suffix: str, name: str, recording: Callable[[str], Path], tmp_path: Path
) -> None:
    renamed = tmp_path / name
    renamed.write_bytes(recording(suffix).read_bytes())
    np.testing.assert_array_equal(read(renamed).samples, read(recording(suffix)).samples)


@pytest.mark.parametrize("name", ["http:a.m4a", "concat:a|b.m4a", "crì %d [é]#?.m4a"])
def test_a_file_name_is_never_an_address(
    name: str, recording: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(recording("m4a").read_bytes())
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(name).samples, read(recording("m4a")).samples)


def test_a_title_in_another_encoding_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    encode(path, noisy_chirp(48000, 48000), 48000, codec="libopus")
    content = path.read_bytes()
    assert content.count(b"Lavf") > 1  # the name of the writer, as good a text as a title
    path.write_bytes(content.replace(b"Lavf", b"L\xe9\xff\xfe"))
    assert len(read(path).samples) == 48000


def test_an_id3_tag_before_mp3_is_skipped(recording: Callable[[str], Path], tmp_path: Path) -> None:
    mp3 = recording("mp3").read_bytes()
    start = mp3.index(b"\xff\xfb")
    tagged = tmp_path / "a.mp3"
    # 300 bytes of tag: 2 * 128 + 44, seven bits a byte.
    tagged.write_bytes(b"ID3\x04\0\0" + bytes([0, 0, 2, 44]) + bytes(300) + mp3[start:])
    assert probe(tagged).codec == "mp3"  # by libsndfile: the length was found behind the tag
    np.testing.assert_array_equal(read(tagged).samples, read(recording("mp3")).samples)


def test_a_flac_that_does_not_tell_its_length_is_read_to_its_end(
    recording: Callable[[str], Path], tmp_path: Path
) -> None:
    content = bytearray(recording("flac").read_bytes())
    packed = int.from_bytes(content[18:26], "big")  # rate, channels, bits, and 36 bits of length
    content[18:26] = (packed >> 36 << 36).to_bytes(8, "big")
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert probe(path).n_samples is None
    np.testing.assert_array_equal(read(path).samples, read(recording("flac")).samples)


def test_a_variable_rate_mp3_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    # Loud, then silent: libsndfile takes the first frames' size for all and would stop at a fraction.
    loud = np.random.default_rng(0).standard_normal(5 * 44100).astype(np.float32) * 0.2
    samples = np.concatenate([loud, np.zeros(20 * 44100, np.float32)])
    path = tmp_path / "a.mp3"
    options = {
        "flags": "+qscale",
        "global_quality": "472",
        "muxer_write_xing": "0",
        "muxer_id3v2_version": "0",
    }
    encode(path, samples, 44100, codec="libmp3lame", **options)
    assert len(read(path).samples) / 44100 == pytest.approx(25, abs=0.1)


# Stretches


@pytest.mark.parametrize("suffix", sorted(ALL))
def test_a_stretch_is_a_slice_of_the_whole(suffix: str, recording: Callable[[str], Path]) -> None:
    path = recording(suffix)
    whole, rate_hz = read(path)
    for start_s, end_s in [(0.0, 0.5), (0.3721, 0.9), (1.0, 1.0002), (2.123, None), (2.5, float("nan"))]:
        end = None if end_s is None or np.isnan(end_s) else round(end_s * rate_hz)
        expected = whole[round(start_s * rate_hz) : end]
        stretch = read(path, start_s=start_s, end_s=end_s).samples
        np.testing.assert_allclose(stretch, expected, rtol=0, atol=2e-7, strict=True)


def test_vorbis_stretches_begin_at_their_sample(tmp_path: Path) -> None:
    # Bursts make blocks of both lengths, beside which libsndfile's own seek lands in one of twenty places.
    path = tmp_path / "a.ogg"
    rng = np.random.default_rng(3)
    bursts = rng.standard_normal(80000) * 0.2 * np.repeat(rng.random(100) < 0.3, 800)
    by_libsndfile("OGG", "VORBIS")(path, bursts.astype(np.float32), 16000)
    whole = read(path).samples
    for start in rng.integers(0, len(bursts) - 500, 100):
        stretch = read(path, start_s=start / 16000, end_s=(start + 500) / 16000).samples
        np.testing.assert_array_equal(stretch, whole[start : start + 500])


@pytest.mark.parametrize(
    ("name", "rate_hz", "write", "tolerance"),
    [
        ("a.mov", 8000, by_ffmpeg("pcm_s16le"), 0),
        ("alac.m4a", 8000, by_ffmpeg("alac"), 0),
        ("a.m4a", 16000, by_ffmpeg("aac"), 1e-5),
        ("a.caf", 8000, by_ffmpeg("adpcm_ima_qt"), 0.004),
        ("a.3gp", 8000, by_ffmpeg("libopencore_amrnb"), 1e-4),
        ("a.opus", 48000, by_ffmpeg("libopus", b="6000"), 1e-3),
        ("a.webm", 48000, by_ffmpeg("libopus", b="6000"), 0),
        ("a.ogg", 8000, by_libsndfile("OGG", "VORBIS"), 0),
    ],
)
def test_a_stretch_far_into_a_file_is_a_slice_but_for_what_the_codec_remembers(
    tmp_path: Path, name: str, rate_hz: int, write: Writer, tolerance: float
) -> None:
    path = tmp_path / name
    write(path, noisy_chirp(rate_hz, round((audio.SEEK_FROM_S + 12) * rate_hz)), rate_hz)
    whole = read(path).samples
    for start_s in (audio.SEEK_FROM_S - 3.21, audio.SEEK_FROM_S + 2.3456, audio.SEEK_FROM_S + 9.87):
        expected = whole[round(start_s * rate_hz) : round((start_s + 1.25) * rate_hz)]
        stretch = read(path, start_s=start_s, end_s=start_s + 1.25).samples
        np.testing.assert_allclose(stretch, expected, rtol=0, atol=tolerance, strict=True)


def test_a_short_stretch_holds_no_more_than_its_samples(recording: Callable[[str], Path]) -> None:
    stretch = read(recording("wav"), start_s=1, end_s=1.1, dtype="int16").samples
    assert stretch.base is None or stretch.base.nbytes == stretch.nbytes == 3200


def test_an_end_rounded_up_means_the_last_sample(tmp_path: Path) -> None:
    path = write_pcm(tmp_path / "a.wav", np.arange(800, dtype=np.int16))
    assert len(read(path, start_s=0.05, end_s=0.15).samples) == 400


@pytest.mark.parametrize(
    ("start_s", "end_s", "match"),
    [
        (0.5, 1.2, r"a\.wav: a stretch reaches 1.2 s, the recording ends at 1 s; correct"),
        (1.0, None, r"reaches 1 s, the recording ends at 1 s"),
        (7.0, 8.0, r"reaches 7 s, the recording ends at 1 s"),
        (0.5, 0.50001, r"0.5 to 0.50001 s is less than a sample"),
    ],
)
def test_a_stretch_outside_the_recording_is_refused(
    tmp_path: Path, start_s: float, end_s: float | None, match: str
) -> None:
    path = write_pcm(tmp_path / "a.wav", np.zeros(8000, np.int16))
    with pytest.raises(AudioError, match=match):
        read(path, start_s=start_s, end_s=end_s)
    with pytest.raises(AudioError, match=match):
        list(stream(path, start_s=start_s, end_s=end_s))


def test_a_stretch_outside_a_recording_of_unknown_length_is_refused(recording: Callable[[str], Path]) -> None:
    with pytest.raises(AudioError, match=r"reaches 9 s, the recording ends at 3\.\d+ s"):
        read(recording("aac"), start_s=9)
    with pytest.raises(AudioError, match=r"reaches 5 s, the recording ends at 3\.\d+ s"):
        read(recording("aac"), start_s=1, end_s=5)


# Rates and levels


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (8000, 16000), (16000, 8000), (48000, 2000)])
def test_a_resampled_sine_is_the_sine_at_the_new_times(from_hz: int, to_hz: int) -> None:
    n_samples = from_hz + 37
    sine = np.sin(2 * np.pi * 440 * np.arange(n_samples) / from_hz).astype(np.float32)
    resampled = resample(sine, from_hz, to_hz)
    assert len(resampled) == int(n_samples * to_hz / from_hz + 0.5)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(resampled)) / to_hz)
    edge = to_hz // 20  # the filter sees zeros beyond the ends
    np.testing.assert_allclose(resampled[edge:-edge], expected[edge:-edge], atol=2e-5)


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    sine = np.sin(2 * np.pi * 5000 * np.arange(32000) / 16000).astype(np.float32)
    assert level_dbfs(resample(sine, 16000, 8000)[400:-400]) < -100


def test_int16_resampling_is_the_rounded_float_resampling() -> None:
    samples = np.rint(noisy_chirp(44100, 44100) * 32768).astype(np.int16)
    resampled = resample(samples, 44100, 16000)
    assert resampled.dtype == np.int16
    exact = resample(samples / np.float32(32768), 44100, 16000) * 32768
    assert np.abs(resampled - exact).max() <= 0.5  # dither would add 1


def test_int16_resampling_clips_the_overshoot_of_a_square_wave() -> None:
    square = np.where(np.arange(4000) // 50 % 2, 32767, -32768).astype(np.int16)
    resampled = resample(square, 8000, 16000)
    assert (resampled.min(), resampled.max()) == (-32768, 32767)
    assert np.abs(np.diff(resampled.astype(int))).max() < 40000  # nothing wrapped around


def test_equal_rates_change_nothing() -> None:
    samples = noisy_chirp(8000, 100)
    assert resample(samples, 8000, 8000) is samples


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_read_resamples_as_resample_does(dtype: Any, recording: Callable[[str], Path]) -> None:
    samples = read(recording("flac"), dtype=dtype).samples
    resampled = read(recording("flac"), dtype=dtype, sample_rate_hz=16000)
    assert resampled.sample_rate_hz == 16000
    np.testing.assert_array_equal(resampled.samples, resample(samples, 44100, 16000), strict=True)


def test_levels_by_hand() -> None:
    sine = np.sin(2 * np.pi * np.arange(8000) / 16).astype(np.float32)
    assert level_dbfs(sine) == pytest.approx(10 * np.log10(1 / 2))
    assert level_dbfs(sine * 0.1) == pytest.approx(10 * np.log10(1 / 200), abs=1e-5)
    assert level_dbfs(np.full(3, -32768, np.int16)) == 0
    assert level_dbfs(np.array([16384, 0, 0, 0], np.int16)) == pytest.approx(10 * np.log10(1 / 16))
    assert level_dbfs(np.zeros(5, np.float32)) == -np.inf


def test_the_level_of_a_long_recording_is_summed_over_blocks() -> None:
    samples = np.full(audio.BLOCK_VALUES + 100, 0.5, np.float32)
    samples[audio.BLOCK_VALUES :] = 1
    power = (0.25 * audio.BLOCK_VALUES + 100) / (audio.BLOCK_VALUES + 100)
    assert level_dbfs(samples) == pytest.approx(10 * np.log10(power))


# The stream


@pytest.mark.parametrize("suffix", sorted(ALL))
@pytest.mark.parametrize("sample_rate_hz", [None, 11025])
def test_the_stream_joined_is_what_read_returns(
    suffix: str, sample_rate_hz: int | None, recording: Callable[[str], Path]
) -> None:
    for start_s, end_s in [(0.0, None), (0.4, 2.9)]:
        stretch: Any = {"sample_rate_hz": sample_rate_hz, "start_s": start_s, "end_s": end_s}
        whole, rate_hz = read(recording(suffix), **stretch)
        blocks = list(stream(recording(suffix), block_s=0.7, **stretch))
        assert [len(block) for block in blocks[:-1]] == [round(0.7 * rate_hz)] * (
            len(whole) // round(0.7 * rate_hz)
        )
        assert all(block.dtype == np.float32 for block in blocks)
        np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=1e-6, strict=True)


@pytest.mark.parametrize("suffix", ["wav", "low.mp3", "opus", "caf"])
@pytest.mark.parametrize("block_values", [1 << 10, 54321])
def test_the_size_of_decoded_blocks_changes_nothing(
    suffix: str, block_values: int, recording: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # soundfile seeks after each read, which in MP3 loses the bit reservoir at every edge of a block.
    path = recording(suffix)
    whole = read(path).samples
    monkeypatch.setattr(audio, "BLOCK_VALUES", block_values)
    np.testing.assert_array_equal(read(path).samples, whole)
    np.testing.assert_array_equal(np.concatenate(list(stream(path))), whole)


def test_a_block_may_be_longer_than_the_recording(recording: Callable[[str], Path]) -> None:
    (block,) = stream(recording("wav"), block_s=1000)
    np.testing.assert_array_equal(block, read(recording("wav")).samples)


STREAM_AND_MEASURE = """
import sys
from pathlib import Path
from vagitus.audio import stream

def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

n_samples, start_mb = 0, None
for block in stream(sys.argv[1], sample_rate_hz=16000, block_s=10):
    n_samples += len(block)
    if start_mb is None and n_samples >= 16000 * 120:  # every buffer is in use by now
        start_mb = peak_mb()
print(n_samples / 16000, peak_mb() - start_mb)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is read from /proc")
@pytest.mark.parametrize(
    ("name", "minutes", "write"),
    [
        ("a.wav", 60, by_libsndfile("WAV", "PCM_16")),
        ("a.ogg", 20, by_libsndfile("OGG", "VORBIS")),
        ("a.m4a", 20, by_ffmpeg("aac")),
    ],
)
def test_memory_does_not_grow_with_length(tmp_path: Path, name: str, minutes: int, write: Writer) -> None:
    path = tmp_path / name
    minute = noisy_chirp(8000, 60 * 8000)
    write(path, np.tile(minute, minutes), 8000)
    command = [sys.executable, "-c", STREAM_AND_MEASURE, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(printed[0]) == pytest.approx(60 * minutes, abs=0.2)
    assert float(printed[1]) < 8  # one hour at 16 kHz is 230 MB


# The house


def test_threads_read_what_one_thread_reads(recording: Callable[[str], Path]) -> None:
    paths = [recording(suffix) for suffix in ("wav", "flac", "ogg", "mp3", "m4a", "caf", "webm")] * 4
    alone = {path: read(path, sample_rate_hz=8000).samples for path in set(paths)}
    with ThreadPoolExecutor(8) as pool:
        for path, together in zip(
            paths, pool.map(lambda p: read(p, sample_rate_hz=8000), paths), strict=True
        ):
            np.testing.assert_array_equal(together.samples, alone[path])


def test_importing_loads_no_decoder() -> None:
    heavy = "{'av', 'soundfile', 'soxr', 'scipy', 'torch'}"
    code = f"import sys, vagitus.audio; sys.exit(len({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ffmpeg_the_error_says_how_to_get_it(
    recording: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    m4a, wav = recording("m4a"), recording("wav")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        AudioError, match=r"chirp\.m4a: mp4: may need FFmpeg.*; pip install 'vagitus\[codecs\]'"
    ):
        read(m4a)
    assert len(read(wav).samples) == round(SECONDS * 16000)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: read(p, start_s=-0.5), "start_s must be >= 0, got -0.5"),
        (lambda p: read(p, start_s=float("nan")), "start_s must be >= 0, got nan"),
        (lambda p: read(p, start_s=2, end_s=1.5), "end_s must be after start_s=2, got 1.5"),
        (lambda p: read(p, end_s=float("inf")), "end_s must be after start_s=0.0, got inf"),
        (lambda p: read(p, sample_rate_hz=0), "sample_rate_hz must be 100 to 768000 Hz, got 0"),
        (lambda p: read(p, dtype=cast(Any, "float64")), "dtype must be 'float32' or 'int16', got 'float64'"),
        (lambda p: stream(p, block_s=0), "block_s must be > 0, got 0"),
        (lambda p: stream(p, sample_rate_hz=10**6), "sample_rate_hz must be 100 to 768000 Hz"),
        (lambda p: resample(np.zeros((3, 2), np.float32), 8000, 16000), r"got \(3, 2\) float32"),
        (lambda p: resample(np.zeros(3), 8000, 16000), r"got \(3,\) float64"),
        (lambda p: resample(np.zeros(3, np.float32), 8, 16000), "from_hz must be 100 to 768000 Hz, got 8"),
        (lambda p: resample(np.zeros(3, np.float32), 16000, -1), "to_hz must be 100 to 768000 Hz, got -1"),
        (lambda p: level_dbfs(np.zeros(0, np.float32)), "no samples"),
        (lambda p: level_dbfs(np.zeros(3, np.int32)), r"got \(3,\) int32"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_call(
    call: Callable[[Path], object], match: str, recording: Callable[[str], Path]
) -> None:
    with pytest.raises(ValueError, match=match) as raised:
        call(recording("wav"))
    assert not isinstance(raised.value, AudioError)  # the caller's fault, not the file's


# Real recordings


@pytest.mark.real
@pytest.mark.parametrize(
    ("pattern", "container", "codec"),
    [
        ("donateacry/**/*.3gp", "mp4", "amrnb"),
        ("donateacry/**/*.caf", "caf", "adpcm_ima_qt"),
        ("esc10/**/*.ogg", "ogg", "vorbis"),
    ],
)
def test_every_real_recording_decodes(data_root: Path, pattern: str, container: str, codec: str) -> None:
    paths = sorted(data_root.glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern} under the data root")
    for path in paths:
        info = probe(path)
        assert (info.container, info.codec) == (container, codec)
        samples, rate_hz = read(path)
        assert info.duration_s == pytest.approx(len(samples) / rate_hz, abs=0.05)
        assert samples.shape == (len(samples),) and samples.dtype == np.float32


@pytest.mark.real
@pytest.mark.parametrize(
    "corpus", ["arabic_speech_commands", "librispeech", "dspspeech20", "physionet2016", "sprsound"]
)
def test_real_flac_is_read_as_soundfile_reads_it(data_root: Path, corpus: str) -> None:
    paths = sorted((data_root / corpus).rglob("*.flac"))[::100]
    if not paths:
        pytest.skip(f"no {corpus} under the data root")
    for path in paths:
        np.testing.assert_array_equal(
            read(path, dtype="int16").samples, soundfile.read(path, dtype="int16")[0]
        )


@pytest.mark.real
@pytest.mark.parametrize("pattern", ["donateacry/**/*.3gp", "donateacry/**/*.caf", "esc10/**/*.ogg"])
def test_real_streams_and_stretches_agree_with_the_whole(data_root: Path, pattern: str) -> None:
    paths = sorted(data_root.glob(pattern))[::60]
    if not paths:
        pytest.skip(f"no {pattern} under the data root")
    for path in paths:
        whole, rate_hz = read(path, sample_rate_hz=16000)
        np.testing.assert_array_equal(np.concatenate(list(stream(path, sample_rate_hz=16000))), whole)
        native, rate_hz = read(path)
        third = len(native) // 3
        stretch = read(path, start_s=third / rate_hz, end_s=2 * third / rate_hz).samples
        np.testing.assert_array_equal(stretch, native[third : 2 * third])
