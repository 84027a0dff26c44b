"""What is not a recording, or not a whole one, is refused with its name, the reason and a way out."""

import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_audio import ALL, encode, noisy_chirp

from vagitus.audio import AudioError, probe, read, stream


def refused(path: Path, match: str, **options: Any) -> None:
    """``read``, ``stream`` and the message: the path first, one line, a way out after the semicolon."""
    with pytest.raises(AudioError, match=match) as raised:
        read(path, **options)
    assert str(raised.value).startswith(f"{path}: ")
    assert "; " in str(raised.value) and "\n" not in str(raised.value)
    if not options:
        with pytest.raises(AudioError, match=match):
            list(stream(path))


def pcm_wav(samples: object = (0,) * 500, rate_hz: int = 8000, **options: Any) -> bytearray:
    file = BytesIO()
    soundfile.write(file, np.asarray(samples, np.int16), rate_hz, format="WAV", **options)
    return bytearray(file.getvalue())


def zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cry.wav", bytes(pcm_wav()))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"empty file \(0 bytes\); copy it again"),
        (zipped(), "a zip archive; unpack it"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF; name a recording"),
        (b"\n<!DOCTYPE html><html><body>404</body>", "a web page, perhaps a failed download"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "an image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "an image"),
        (b"RIFF\x10\0\0\0AVI LIST", "an AVI video; extract its sound"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "a compressed archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer; run git lfs pull"),
        (b"path,subject,label\na.wav,1,cry\n", "text .'path,subject,label"),
        ("âge,né\n".encode(), "text .'âge,né'"),
        ("path,subject".encode("utf-16"), "begins with bytes ff fe 70 00"),
        (b"\x93NUMPY\x01\0", "a data file"),
        (b"MThd\0\0\0\x06", "MIDI notes"),
        (bytes(5000), "zero bytes where its header should be"),
        (bytes(range(1, 200)), "no known audio format begins with bytes 01 02 03 04 05 06 07 08"),
        (b"R", "text"),
        (b"RIFF\0\0", "no known audio format"),
        (b"RIFF\x10\0\0\0WAVE", "wav: libsndfile: "),
        (b"fLaC", "flac: libsndfile: "),
        (b"OggS", "ends within an Ogg page"),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f", "mp3: "),
        (b"\xff\xfb\x90\0" + bytes(3000), "a.wav: "),
        (b"caff\0\x01\0\0", "caf: libsndfile: "),
        (b"\0\0\0\x18ftypisom", "mp4: FFmpeg: "),
    ],
)
def test_what_is_no_recording_is_named(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    refused(path, match)
    with pytest.raises(AudioError, match=match):
        probe(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    for call in (read, probe, lambda path: list(stream(path))):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.wav: no such file; check the path"):
            call(tmp_path / "nowhere.wav")


def test_a_folder_is_not_a_recording(tmp_path: Path) -> None:
    refused(tmp_path, "a folder; name a recording")


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    refused(tmp_path / "a.wav", "not a regular file")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm_wav())
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # root may read anything, another user may not
        os.seteuid(65534)
    try:
        refused(path, "Permission denied; make the file readable")
    finally:
        if is_root:
            os.seteuid(0)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(video.encode(None))
    refused(path, "holds no sound, only video; name a recording")


# Less than promised


@pytest.mark.parametrize("suffix", sorted(set(ALL) - {"untagged.mp3", "au", "w64", "nist", "voc"}))
@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    rate_hz, write, *_ = ALL[suffix]
    path = tmp_path / f"a.{suffix}"
    write(path, noisy_chirp(rate_hz, 4 * rate_hz), rate_hz)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path, "cut short: |decoding stopped: |Invalid data")


def test_half_an_mp3_that_promised_nothing_is_read(tmp_path: Path) -> None:
    rate_hz, write, *_ = ALL["untagged.mp3"]
    path = tmp_path / "a.mp3"
    write(path, noisy_chirp(rate_hz, 4 * rate_hz), rate_hz)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert len(read(path).samples) / rate_hz == pytest.approx(2, abs=0.3)


def test_a_cut_file_tells_promise_and_content(tmp_path: Path) -> None:
    wav, webm = tmp_path / "a.wav", tmp_path / "a.webm"
    wav.write_bytes(pcm_wav(np.zeros(5000))[: 44 + 1234])
    refused(wav, "its header promises 10000 bytes of audio, the file holds 1234; copy it again, or re-encode")
    encode(webm, noisy_chirp(48000, 4 * 48000), 48000, codec="libopus")
    webm.write_bytes(webm.read_bytes()[: webm.stat().st_size // 2])
    refused(webm, r"its header promises 4\.\d+ s, the file holds [12]\.\d+ s; copy it again")


def test_big_endian_and_64_bit_headers_are_checked_too(tmp_path: Path) -> None:
    for name, options in (("a.wav", {"endian": "BIG"}), ("a.rf64", {"format": "RF64"})):
        path = tmp_path / name
        soundfile.write(path, np.zeros(5000), 8000, **options)
        assert len(read(path).samples) == 5000
        path.write_bytes(path.read_bytes()[:-1000])
        refused(path, "promises 10000 bytes of audio, the file holds 9000")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, length: int) -> None:
    content = pcm_wav(np.arange(500))
    content[40:44] = struct.pack("<I", length)
    content[4:8] = struct.pack("<I", length)
    (tmp_path / "a.wav").write_bytes(content)
    assert read(tmp_path / "a.wav", dtype="int16").samples.tolist() == list(range(500))


def test_a_length_that_counts_the_header_in_is_forgiven(tmp_path: Path) -> None:
    content = pcm_wav(np.arange(500))
    content[40:44] = struct.pack("<I", 1000 + 44)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read(tmp_path / "a.wav").samples) == 500


def ten_hours_wav() -> bytes:
    content = pcm_wav(rate_hz=16000)
    content[40:44] = struct.pack("<I", 36000 * 16000 * 2)
    return bytes(content[:1024])


def ten_hours_flac() -> bytes:
    file = BytesIO()
    soundfile.write(file, noisy_chirp(16000, 4000), 16000, format="FLAC")
    content = bytearray(file.getvalue())
    packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | 36000 * 16000
    content[18:26] = packed.to_bytes(8, "big")
    return bytes(content)


def ten_hours_caf() -> bytes:
    description = struct.pack(">d4sIIIII", 16000, b"ima4", 0, 34, 64, 1, 0)
    table = struct.pack(">qqii", 9_000_000, 36000 * 16000, 0, 0)
    chunks = ((b"desc", description), (b"pakt", table), (b"data", bytes(4 + 34 * 20)))
    return b"caff\0\x01\0\0" + b"".join(name + struct.pack(">q", len(body)) + body for name, body in chunks)


@pytest.mark.parametrize(
    "content", [ten_hours_wav(), ten_hours_flac(), ten_hours_caf()], ids=["wav", "flac", "caf"]
)
def test_a_header_of_ten_hours_on_a_small_file_costs_no_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(AudioError):  # the decoders' own imports are not what is measured
        read(path)
    tracemalloc.start()
    try:
        choices: list[dict[str, Any]] = [
            {},
            {"max_duration_s": 1e9},
            {"max_duration_s": 1e9, "sample_rate_hz": 48000},
        ]
        for options in choices:
            with pytest.raises(AudioError, match=r"cut short|longer than max_duration_s|decoding stopped"):
                read(path, **options)
        with pytest.raises(AudioError):
            list(stream(path))
        assert tracemalloc.get_traced_memory()[1] < 8e6  # ten hours would be 2.3 GB
    finally:
        tracemalloc.stop()


def test_a_length_too_long_to_hold_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(ten_hours_flac())
    refused(tmp_path / "a.flac", "longer than max_duration_s=10800 s", max_duration_s=10800)


def test_a_long_recording_asks_for_stretches(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm_wav(np.zeros(20000)))
    refused(path, r"longer than max_duration_s=2 s; read a stretch, or use stream\(\)", max_duration_s=2)
    assert len(read(path, start_s=1.5, max_duration_s=1).samples) == 8000
    assert len(read(path, end_s=2, max_duration_s=2).samples) == 16000


def test_a_long_recording_of_unknown_length_is_stopped_too(tmp_path: Path) -> None:
    path = tmp_path / "a.aac"
    encode(path, noisy_chirp(16000, 5 * 16000), 16000, codec="aac")
    assert probe(path).n_samples is None
    refused(path, "longer than max_duration_s=2 s", max_duration_s=2)


# Samples and headers without sense


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({3: np.nan}, "1 of 400 samples in a block are NaN or infinite; export it again"),
        ({3: np.nan, 5: np.inf, 399: -np.inf}, "3 of 400 samples in a block are NaN or infinite"),
        ({0: -32768.0}, "samples reach 32768, full scale is 1; scale the file"),
        ({0: 1e30}, r"samples reach 1e\+30, full scale is 1"),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_samples_that_are_no_sound_are_counted(
    tmp_path: Path, bad: dict[int, float], match: str, n_channels: int
) -> None:
    samples = np.full(400, 0.1, np.float32)
    samples[list(bad)] = list(bad.values())
    soundfile.write(tmp_path / "a.wav", samples.reshape(-1, n_channels), 8000, subtype="FLOAT")
    refused(tmp_path / "a.wav", match)


def test_bad_samples_outside_the_stretch_do_no_harm(tmp_path: Path) -> None:
    samples = np.full(8000, 0.1, np.float32)
    samples[7000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    assert len(read(tmp_path / "a.wav", end_s=0.5).samples) == 4000


def test_a_float64_beyond_float32_is_infinite_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    encode(path, np.array([0.125, 0.25, 0.375], np.float32), 8000, codec="pcm_f64le")
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<d", 0.25), struct.pack("<d", 1e200)))
    refused(path, "1 of 3 samples in a block are NaN or infinite")


def test_no_samples_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm_wav([]))
    refused(path, "holds no samples; leave the recording out")


def test_one_sample_may_be_too_few_for_a_lower_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm_wav([5], rate_hz=44100))
    assert len(read(path).samples) == 1
    refused(path, "too short for one sample at 8000 Hz", sample_rate_hz=8000)


@pytest.mark.parametrize("rate_hz", [1, 99, 768_001, 2_000_000_000])
def test_an_absurd_sample_rate_is_refused(tmp_path: Path, rate_hz: int) -> None:
    content = pcm_wav()
    content[24:28] = struct.pack("<I", rate_hz)
    (tmp_path / "a.wav").write_bytes(content)
    refused(tmp_path / "a.wav", f"a sample rate of {rate_hz} Hz is outside 100 to 768000 Hz")


def test_more_channels_than_any_microphone_array_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 65)), 8000)
    refused(tmp_path / "a.wav", "65 channels, at most 64 are read")
    soundfile.write(tmp_path / "b.wav", np.full((10, 64), 0.5), 8000)
    assert read(tmp_path / "b.wav").samples.tolist() == [0.5] * 10


def test_a_rate_that_changes_on_the_way_is_refused(tmp_path: Path) -> None:
    parts = []
    for rate_hz in (16000, 44100):
        encode(tmp_path / "part.aac", noisy_chirp(rate_hz, 2 * rate_hz), rate_hz, codec="aac")
        parts.append((tmp_path / "part.aac").read_bytes())
    (tmp_path / "a.aac").write_bytes(b"".join(parts))
    refused(tmp_path / "a.aac", "decoding stopped: .*rate.*; the file is damaged")


def test_ffmpeg_complains_to_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.m4a"
    encode(path, noisy_chirp(16000, 32000), 16000, codec="aac")
    content = bytearray(path.read_bytes())
    content[1000:1400] = os.urandom(400)
    path.write_bytes(content)
    with contextlib.suppress(AudioError):
        read(path)
    assert capfd.readouterr() == ("", "")


# Any damage at all


def tiny(name: str, codec: str = "", rate_hz: int = 8000, **options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if codec:
            encode(path, noisy_chirp(rate_hz, rate_hz // 8), rate_hz, codec=codec)
        else:
            soundfile.write(path, noisy_chirp(rate_hz, rate_hz // 8), rate_hz, **options)
        return path.read_bytes()


SEEDS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: tiny("a.wav"),
    "float.wav": lambda: tiny("a.wav", subtype="FLOAT"),
    "flac": lambda: tiny("a.flac"),
    "ogg": lambda: tiny("a.ogg"),
    "aiff": lambda: tiny("a.aiff"),
    "caf": lambda: tiny("a.caf", "adpcm_ima_qt"),
    "m4a": lambda: tiny("a.m4a", "aac"),
    "webm": lambda: tiny("a.webm", "libopus", 48000),
}
EDIT = st.tuples(
    st.sampled_from(["put", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)
)


@pytest.fixture(scope="module")
def peak_mb() -> Iterator[Callable[[], float]]:
    status = Path("/proc/self/status")

    def peak() -> float:
        if not status.exists():
            return 0.0
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    yield peak


@pytest.mark.parametrize("seed", sorted(SEEDS))
def test_a_damaged_header_raises_nothing_but_audio_errors(
    seed: str, tmp_path: Path, peak_mb: Callable[[], float]
) -> None:
    original = SEEDS[seed]()
    path = tmp_path / "a"
    path.write_bytes(original)
    read(path, sample_rate_hz=16000)
    before_mb = peak_mb()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(edits=st.lists(EDIT, min_size=1, max_size=4), near_start=st.booleans())
    def damage(edits: list[tuple[str, float, bytes]], near_start: bool) -> None:
        content = bytearray(original)
        for kind, where, data in edits:
            at = int(where * (min(96, len(content)) if near_start else len(content)))
            content[at : at + (0 if kind == "insert" else len(data))] = b"" if kind == "cut" else data
        path.write_bytes(content)
        for call in (
            probe,
            lambda p: read(p, dtype="int16"),
            lambda p: list(stream(p, sample_rate_hz=16000)),
        ):
            try:
                call(path)
            except AudioError as error:
                assert "\n" not in str(error)

    damage()
    # FFmpeg may believe a header as far as its own limits; ten hours of samples would be gigabytes.
    assert peak_mb() - before_mb < 300


def test_channels_in_an_order_of_the_files_own_are_refused_and_do_not_kill_the_process(
    tmp_path: Path,
) -> None:
    """A caf that describes its one channel as unused; glibc's own checks run in a process apart."""
    plain = tiny("a.caf", "adpcm_ima_qt")
    at = plain.index(b"chan")
    (size,) = struct.unpack(">q", plain[at + 4 : at + 12])
    # Layout tag 0: the channels are described one by one, by label, flags and three coordinates.
    described = struct.pack(">IIIII12x", 0, 0, 1, 0, 0)
    path = tmp_path / "a.caf"
    path.write_bytes(
        plain[:at] + b"chan" + struct.pack(">q", len(described)) + described + plain[at + 12 + size :]
    )
    for call in (probe, read):
        with pytest.raises(AudioError, match="an order of its own"):
            call(path)
    code = "import sys; from vagitus.audio import AudioError, read\n"
    code += "try: read(sys.argv[1])\nexcept AudioError: print('refused')"
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=False,  # the code it ends with is what is tested
        env=os.environ | {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "refused")
