"""Decode what phones and recorders write into mono samples; refuse, with the reason, what cannot be read.

Conventions
    samples     (n_samples,), mono: the mean of the channels. float32 with full scale at [-1, 1], or
                int16 where 32768 stands for 1.0. Float files and lossy decoders may pass full scale
                by a little: float32 keeps that, int16 clips it.
    stretch     samples round(start_s * rate) to round(end_s * rate) of the file, the end excluded, before
                any resampling; a resampled length is round(n_samples * to_hz / from_hz). An end up to
                ``END_TOLERANCE_S`` past the last sample means the last sample.
    errors      ``AudioError``, one line: file, reason, way out. A file that is not there is a
                ``FileNotFoundError``, an argument out of range a ``ValueError``.

A file is known by its first bytes, never by its suffix. libsndfile reads what it can; FFmpeg (PyAV, extra
``codecs``) the rest: 3gp/AMR, m4a/AAC, QuickTime ADPCM, webm, and an MP3 or FLAC that does not tell its
length, which libsndfile would have to guess.

A file that holds less than its header promises is refused: by any sample for PCM and FLAC, by more than
``LOSSY_TOLERANCE_S`` where FFmpeg or a lossy codec counts frames. MP3 without a length, ADTS, raw AMR and
live webm promise none; for au, w64, nist and voc libsndfile hides what is missing.

A stretch costs a seek where a seek is exact: PCM, FLAC. Ogg Vorbis, MP3 and webm are decoded from their
beginning. So are Opus and what FFmpeg reads of mp4, 3gp and caf, up to ``SEEK_FROM_S``; beyond, they are
decoded from ``PREROLL_S`` before the stretch. Times are exact, but Opus, AAC, AMR and IMA ADPCM remember
what came before, so the samples may differ slightly from those of the whole file; the same stretch always
gives the same samples.
"""

import ctypes
import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

INT16_SCALE = 32768
MAX_DURATION_S = 3 * 3600.0  # 0.7 GB of float32 at 16 kHz
MIN_RATE_HZ, MAX_RATE_HZ = 100, 768_000  # slow pressure sensors to the fastest converters sold
MAX_CHANNELS = 64
# Lossy decoders overshoot by a few dB; a float file beyond +18 dBFS was never scaled to [-1, 1].
MAX_PEAK = 8.0
BLOCK_VALUES = 1 << 18  # samples x channels decoded at once: 1 MB of float32, half a minute from a phone
HEAD_BYTES = 4096
MAX_CHUNKS = 1000  # of a RIFF-like file; real ones have a dozen before the audio
MAX_OGG_PAGE_BYTES = 65_307  # RFC 3533
# Some writers count the 44-byte header into the length of the audio; nothing is missing there.
HEADER_SLACK_BYTES = 64
LOSSY_TOLERANCE_S = 0.5  # encoder delay (AAC at 8 kHz: 0.26 s) and a last frame more or less
END_TOLERANCE_S = 0.1  # an annotated end may be rounded up to this far past the last sample
SEEK_FROM_S = 60.0  # decoding a minute takes FFmpeg about 50 ms
PREROLL_S = 2.0  # by then an AMR decoder has forgotten to 1e-6, Opus to 1e-3 or better
CODECS_INSTALL = "pip install 'vagitus[codecs]'"

Samples = NDArray[Any]  # float32 or int16


class AudioError(ValueError):
    """A recording that cannot be read as it claims: ``<path>: <reason>; <way out>``."""


class Audio(NamedTuple):
    """Mono samples, see the module's conventions, and their rate."""

    samples: Samples
    sample_rate_hz: int


@dataclass(frozen=True)
class AudioInfo:
    """What a header says. ``subtype`` is the stored sample format in the decoder's own words."""

    path: Path
    container: str
    codec: str
    sample_rate_hz: int
    n_channels: int
    n_samples: int | None  # per channel; None if the header does not say
    subtype: str

    @property
    def duration_s(self) -> float | None:
        return None if self.n_samples is None else self.n_samples / self.sample_rate_hz


def probe(path: Path | str) -> AudioInfo:
    """Read the header only.

    Raises:
        AudioError: not a recording, cut short, or a header that makes no sense.
        FileNotFoundError: nothing at ``path``.
    """
    with _opened(Path(path)) as decoder:
        return decoder.info


def read(
    path: Path | str,
    *,
    sample_rate_hz: int | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    max_duration_s: float = MAX_DURATION_S,
) -> Audio:
    """Decode a recording, or a stretch of it, to mono.

    16-bit PCM read as int16 at its own rate is never turned into floats. Resampling is soxr's HQ, in
    float32: soxr dithers int16 output, and then the same file in other blocks would give other samples.
    int16 is rounded to nearest.

    Args:
        sample_rate_hz: wanted rate; None keeps the file's.
        start_s, end_s: the stretch in seconds; an end of None or NaN is the end of the file.
        max_duration_s: longest stretch held in memory.

    Raises:
        AudioError: cannot be decoded, cut short, empty, longer than ``max_duration_s``, holds NaN or
            infinity or peaks beyond ``MAX_PEAK``, or ends before the stretch does.
        FileNotFoundError: nothing at ``path``.
        ValueError: an argument is out of range.
    """
    end_s = _check_arguments(start_s, end_s, sample_rate_hz)
    if dtype not in ("float32", "int16"):
        raise ValueError(f"dtype must be 'float32' or 'int16', got {dtype!r}")
    with _opened(Path(path)) as decoder:
        from_hz = decoder.info.sample_rate_hz
        to_hz = sample_rate_hz or from_hz
        stretch = _stretch(decoder, start_s, end_s, max_duration_s)
        if to_hz == from_hz:
            mono = _joined([_mono(block, dtype) for block in stretch])
        else:
            mono = _joined(list(_resampled((_mono(b, "float32") for b in stretch), from_hz, to_hz)))
    if not len(mono):
        raise AudioError(f"{path}: too short for one sample at {to_hz} Hz; leave the recording out")
    return Audio(_as_int16(mono) if dtype == "int16" else mono, to_hz)


def stream(
    path: Path | str,
    *,
    sample_rate_hz: int | None = None,
    block_s: float = 30.0,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield what ``read`` would return as float32, in blocks, in memory that does not grow with length.

    Args:
        block_s: length of a block in seconds; the last may be shorter.
        sample_rate_hz, start_s, end_s: as in ``read``.

    Raises:
        ValueError: an argument is out of range, at the call. The file's own errors (as in ``read``, but
            for ``max_duration_s``) come when a block is asked for: a damaged end after the good blocks.
    """
    end_s = _check_arguments(start_s, end_s, sample_rate_hz)
    if not (math.isfinite(block_s) and block_s > 0):
        raise ValueError(f"block_s must be > 0, got {block_s!r}")
    return _stream(Path(path), sample_rate_hz, block_s, start_s, end_s)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the rate with soxr HQ, keeping the type (int16 is rounded); equal rates return ``samples``.

    Args:
        samples: (n_samples,) float32 or int16.

    Raises:
        ValueError: not 1-D float32 or int16, or a rate out of ``MIN_RATE_HZ`` to ``MAX_RATE_HZ``.
    """
    _check_samples(samples)
    _check_rate("from_hz", from_hz)
    _check_rate("to_hz", to_hz)
    if from_hz == to_hz:
        return samples
    mono = _mono(samples[:, None], "float32")
    resampled = _joined(list(_resampled([mono], from_hz, to_hz)))
    return _as_int16(resampled) if samples.dtype == np.int16 else resampled


def level_dbfs(samples: Samples) -> float:
    """Root-mean-square level: 10 log10(mean x^2), dB re 1.0; a full-scale sine is -3.01, silence -inf.

    Raises:
        ValueError: not 1-D float32 or int16, or no samples.
    """
    _check_samples(samples)
    if not len(samples):
        raise ValueError("no samples: an empty recording has no level")
    scale = INT16_SCALE if samples.dtype == np.int16 else 1
    # In blocks: a float64 copy of an hour is half a gigabyte.
    blocks = (samples[i : i + BLOCK_VALUES].astype(np.float64) for i in range(0, len(samples), BLOCK_VALUES))
    power = sum(float(block @ block) for block in blocks) / len(samples) / scale**2
    return 10 * math.log10(power) if power > 0 else -math.inf


# The file: what it is, and whether it is whole.


class _Container(NamedTuple):
    name: str
    magic: bytes  # regular expression over the first bytes
    ffmpeg: str  # FFmpeg's demuxer; forced, so that no file can call itself a playlist
    libsndfile: bool = True


_CONTAINERS = (
    _Container("wav", rb"(RIFF|RIFX)....WAVE", "wav"),
    _Container("rf64", rb"(RF64|BW64)....WAVE", "wav"),
    _Container("w64", rb"riff\x2e\x91\xcf\x11", "w64"),
    _Container("flac", rb"fLaC", "flac"),
    _Container("ogg", rb"OggS", "ogg"),
    _Container("aiff", rb"FORM....AIF[FC]", "aiff"),
    _Container("caf", rb"caff", "caf"),
    _Container("au", rb"\.snd", "au"),
    _Container("nist", rb"NIST_1A", "nistsphere"),
    _Container("voc", rb"Creative Voice File", "voc"),
    _Container("mp4", rb"....(ftyp|moov|mdat|wide|free|skip)", "mov", libsndfile=False),
    _Container("amr", rb"#!AMR", "amr", libsndfile=False),
    _Container("matroska", rb"\x1a\x45\xdf\xa3", "matroska", libsndfile=False),
    _Container("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", libsndfile=False),
    # Sync words: eleven ones, then version, layer 00 (ADTS) or II and III; layer I would claim UTF-16 text.
    _Container("aac", rb"\xff[\xf0\xf1\xf8\xf9]", "aac", libsndfile=False),
    _Container("mp3", rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][^\xf0-\xff]", "mp3"),
)
_MP3 = _CONTAINERS[-1]
SYNCED = ("aac", "mp3")
_ZEROS = rb"\0{16}"

_NOT_AUDIO = (
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive; unpack it"),
    (rb"\x1f\x8b\x08|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed archive; unpack it"),
    (rb"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
    (rb"%PDF", "a PDF"),
    (rb"(?i)\s*<(!doctype html|html|head|body)", "a web page, perhaps a failed download; fetch it again"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", "an image"),
    (rb"RIFF....AVI ", "an AVI video; extract its sound"),
    (rb"MThd", "MIDI notes, not sound"),
    (rb"\x93NUMPY|\x89HDF|MATLAB|PAR1|SQLite", "a data file, not sound"),
    (rb"\x7fELF|MZ.\0", "a program"),
    (_ZEROS, "zero bytes where its header should be, so a copy that did not finish; copy it again"),
)


def announced(head: bytes) -> str:
    """What the first bytes of a file say it is: "wav", "mp3", "a zip archive"; "" for samples, text and the unknown.

    For a reader of raw samples, which would hear a header as noise. ``SYNCED`` say it by two bytes alone, 16 of the
    65,536 that samples may begin with too: look for them again.
    """
    if head.startswith(b"ID3"):
        return "an ID3 tag, as of mp3"
    for container in _CONTAINERS:
        if re.match(container.magic, head, re.DOTALL):
            return container.name
    for magic, what in _NOT_AUDIO:
        # Zeros are no header, but they are silence.
        if magic != _ZEROS and re.match(magic, head, re.DOTALL):
            return what.partition(";")[0].partition(",")[0]
    return ""


@contextmanager
def _opened(path: Path) -> Iterator["_Decoder"]:
    with _regular_file(path) as file:
        container, head = _identify(path, file)
        reason = _missing(file, container)
        if reason:
            raise AudioError(
                f"{path}: cut short: {reason}; copy it again, or re-encode it to keep what is there"
            )
        decoder = _decoder(path, file, container, head)
        try:
            _check_info(decoder.info)
            yield decoder
        finally:
            decoder.close()


def _regular_file(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise AudioError(f"{path}: {what}; name a recording")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file; check the path and the folder it is relative to"
        ) from None
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; make the file readable") from error


def _identify(path: Path, file: BinaryIO) -> tuple[_Container, bytes]:
    head = file.read(HEAD_BYTES)
    if not head:
        raise AudioError(f"{path}: empty file (0 bytes); copy it again")
    tagged = head[:3] == b"ID3" and len(head) >= 10
    if tagged:  # a tag of title and artist, before MP3 as a rule; its length has 7 bits a byte
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(10 + size)
        head = file.read(HEAD_BYTES)
    for container in _CONTAINERS:
        if re.match(container.magic, head, re.DOTALL) and (not tagged or container.name in ("flac", "aac")):
            return container, head
    if tagged:
        return _MP3, head
    for magic, what in _NOT_AUDIO:
        if re.match(magic, head, re.DOTALL):
            raise AudioError(f"{path}: {what if ';' in what else what + '; name a recording'}")
    text = head.decode("utf-8", "ignore" if len(head) == HEAD_BYTES else "replace")
    if all(char.isprintable() or char.isspace() for char in text) and "\ufffd" not in text:
        raise AudioError(f"{path}: text ({text.strip()[:30]!r}); name a recording")
    raise AudioError(
        f"{path}: no known audio format begins with bytes {head[:8].hex(' ')}; convert it to wav or flac"
    )


# RIFF and its kin: bytes before the first chunk, format of a chunk's length, name of the chunk of audio.
_CHUNKED = {
    "wav": (12, "<I", b"data"),
    "rf64": (12, "<I", b"data"),
    "aiff": (12, ">I", b"SSND"),
    "caf": (8, ">q", b"data"),
}


def _missing(file: BinaryIO, container: _Container) -> str:
    """Say what the end of the file lacks, "" for nothing. libsndfile hides it: it corrects the header."""
    n_bytes = os.fstat(file.fileno()).st_size
    if container.name == "ogg":
        file.seek(max(0, n_bytes - MAX_OGG_PAGE_BYTES))
        tail = file.read(MAX_OGG_PAGE_BYTES)
        page = tail[max(0, tail.rfind(b"OggS")) :]
        # A header of 27 bytes, the last the number of segments, then their lengths, then the segments.
        n_header = 27 + page[26] if len(page) >= 27 else len(page) + 1
        return "it ends within an Ogg page" if n_header + sum(page[27:n_header]) > len(page) else ""
    if container.name in _CHUNKED:
        file.seek(0)
        offset, length_format, audio_chunk = _CHUNKED[container.name]
        if file.read(4) == b"RIFX":
            length_format = ">I"
        width = struct.calcsize(length_format)
        long_length = -1
        for _ in range(MAX_CHUNKS):
            file.seek(offset)
            header = file.read(4 + width)
            if len(header) < 4 + width:
                break
            length = struct.unpack(length_format, header[4:])[0]
            offset += 4 + width
            if header[:4] == b"ds64" and len(sizes := file.read(16)) == 16:
                long_length = struct.unpack("<q", sizes[8:])[0]
            if header[:4] == audio_chunk:
                # Written to a pipe the length is not known: -1, or about the largest (sox: 0x7ffff000).
                if width == 4 and length >= 0x7FFFF000:
                    length = long_length
                if offset + length > n_bytes + HEADER_SLACK_BYTES:
                    return f"its header promises {length} bytes of audio, the file holds {n_bytes - offset}"
                break
            offset += length + (length % 2 if width == 4 else 0)  # 32-bit chunks are padded to even
            if not 0 < offset < n_bytes:
                break
    return ""


def _check_info(info: AudioInfo) -> None:
    if not MIN_RATE_HZ <= info.sample_rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{info.path}: a sample rate of {info.sample_rate_hz} Hz is outside "
            f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz; its header is damaged, copy it again"
        )
    if not 1 <= info.n_channels <= MAX_CHANNELS:
        raise AudioError(
            f"{info.path}: {info.n_channels} channels, at most {MAX_CHANNELS} are read; "
            "its header is damaged, or extract the channels you need"
        )


# The decoders: whatever the file, blocks of (n_samples, n_channels) int16 or float32.


class _Decoder(Protocol):
    info: AudioInfo
    tolerance_samples: int  # by how much an undamaged file may hold less than info.n_samples

    def seek(self, start: int) -> int:
        """Prepare ``blocks`` for sample ``start``; returns where they will begin, at most ``start``."""

    def blocks(self, n_most: int | None) -> Iterator[Samples]:
        """Decode to the end of the file, in blocks of at most ``n_most`` samples."""

    def close(self) -> None: ...


class _CannotOpenError(Exception):
    """One decoder's reason; another may still succeed."""


def _decoder(path: Path, file: BinaryIO, container: _Container, head: bytes) -> _Decoder:
    reasons = []
    for decoder in (_Libsndfile, _FFmpeg) if container.libsndfile else (_FFmpeg,):
        file.seek(0)
        try:
            return decoder(path, file, container, head)
        except _CannotOpenError as error:
            reasons.append(str(error))
    raise AudioError(f"{path}: {container.name}: {', '.join(reasons)}")


class _Libsndfile:
    def __init__(self, path: Path, file: BinaryIO, container: _Container, head: bytes) -> None:
        import soundfile

        # Without a Xing or VBRI header libsndfile guesses an MP3's length, and stops there.
        told = container is not _MP3 or re.search(rb"Xing|Info|VBRI", head)
        try:
            # The descriptor, not the path, whose suffix .raw soundfile would believe. On Windows a
            # descriptor does not cross C runtimes.
            source = file.fileno() if os.name == "posix" else file
            self._file = soundfile.SoundFile(source, closefd=False)
        except soundfile.LibsndfileError as error:
            raise _CannotOpenError(f"libsndfile: {_words(error)}") from error
        if not told or self._file.frames >= 1 << 62:
            self._file.close()
            raise _CannotOpenError("does not tell its length, which libsndfile needs")
        self._errors = soundfile.SoundFileError
        subtype = self._file.subtype
        self.info = AudioInfo(
            path=path,
            container=container.name,
            codec=container.name if container.name in ("flac", "mp3") else subtype.lower(),
            sample_rate_hz=self._file.samplerate,
            n_channels=self._file.channels,
            n_samples=self._file.frames,
            subtype=subtype,
        )
        if self.info.codec in ("vorbis", "mp3"):
            # libsndfile seeks beside the sample in Vorbis (github.com/libsndfile/libsndfile/issues/885) and loses
            # an MP3's bit reservoir, and soundfile seeks after every read of a file that says it is seekable.
            self._file.seekable = lambda: False
        lossy = container.name in ("ogg", "mp3")
        self.tolerance_samples = round(LOSSY_TOLERANCE_S * self._file.samplerate) if lossy else 0

    def seek(self, start: int) -> int:
        if not self._file.seekable():
            return 0
        if self.info.codec == "opus":
            start = _early(start, self.info.sample_rate_hz)
        with _decoding(self.info.path, self._errors):
            return int(self._file.seek(start))

    def blocks(self, n_most: int | None) -> Iterator[Samples]:
        n_channels = self.info.n_channels
        n_block = _block_samples(n_channels, n_most)
        dtype = "int16" if self.info.subtype == "PCM_16" else "float32"
        with _decoding(self.info.path, self._errors):
            n_left = self._file.frames - (self._file.tell() if self._file.seekable() else 0)
            while n_left > 0:
                block = np.empty((min(n_block, n_left), n_channels), dtype)
                n_read = self._file.buffer_read_into(block, dtype)
                if not n_read:
                    return
                n_left -= n_read
                yield block[:n_read]

    def close(self) -> None:
        self._file.close()


class _FFmpeg:
    def __init__(self, path: Path, file: BinaryIO, container: _Container, head: bytes) -> None:
        try:
            import av
        except ImportError as error:
            raise _CannotOpenError(f"may need FFmpeg, which is not installed; {CODECS_INSTALL}") from error
        self._errors = (av.FFmpegError, ValueError)
        try:
            # "file:", or FFmpeg might take the name for an address. Given the open file instead, PyAV prints
            # a traceback for every seek to where a damaged header points.
            self._container = av.open(f"file:{path}", "r", format=container.ffmpeg, metadata_errors="ignore")
        except self._errors as error:
            raise _CannotOpenError(f"FFmpeg: {_words(error)}; copy it again, or convert it to wav") from error
        streams = self._container.streams
        if not streams.audio:
            kinds = ", ".join(sorted({other.type for other in streams})) or "nothing"
            raise AudioError(f"{path}: holds no sound, only {kinds}; name a recording")
        self._stream = stream = streams.audio[0]
        context = stream.codec_context
        if context is None or not context.sample_rate or context.format is None:
            raise AudioError(f"{path}: FFmpeg has no decoder for its sound; convert it to wav")
        layout = context.layout
        if " channels (" in layout.name:
            # PyAV 18.1 frees the map of such a layout twice, with the layout and with its decoder, and the process
            # dies. Never freed itself, this one costs some hundred bytes; decoding would make others.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
            raise AudioError(
                f"{path}: places its channels in an order of its own, {layout.name}; convert it to wav"
            )
        duration_s: Fraction | None = None
        if container.name not in ("mp3", "aac", "amr"):  # there FFmpeg estimates, from the bit rate
            if stream.duration is not None and stream.time_base is not None:
                duration_s = stream.duration * stream.time_base
            elif self._container.duration is not None and len(streams) == 1:
                duration_s = Fraction(self._container.duration, av.time_base)
        self.info = AudioInfo(
            path=path,
            container=container.name,
            codec=context.name,
            sample_rate_hz=context.sample_rate,
            n_channels=layout.nb_channels,
            n_samples=round(duration_s * context.sample_rate) if duration_s and duration_s > 0 else None,
            subtype=context.format.name,
        )
        self.tolerance_samples = round(LOSSY_TOLERANCE_S * context.sample_rate)
        self._frames: Iterator[Any] = self._container.decode(stream)

    def seek(self, start: int) -> int:
        rate_hz, tick_s = self.info.sample_rate_hz, self._stream.time_base
        early = _early(start, rate_hz)
        if not early or self.info.container not in ("mp4", "caf") or tick_s is None or tick_s * rate_hz > 1:
            return 0
        begin = self._stream.start_time or 0
        with _decoding(self.info.path, self._errors):
            self._container.seek(begin + int(early / rate_hz / tick_s), stream=self._stream)
            first = next(self._frames, None)
            if first is not None and first.pts is not None:
                position = round((first.pts - begin) * tick_s * rate_hz)
                if 0 <= position <= start:
                    self._frames = chain([first], self._frames)
                    return int(position)
            self._container.seek(begin, stream=self._stream)
        self._frames = self._container.decode(self._stream)
        return 0

    def blocks(self, n_most: int | None) -> Iterator[Samples]:
        import av

        n_channels = self.info.n_channels
        n_block = _block_samples(n_channels, n_most)
        # The queue joins frames in C (those of caf hold 64 samples) and refuses another rate or format.
        queue = av.AudioFifo()
        with _decoding(self.info.path, self._errors):
            for frame in self._frames:
                if frame.layout.nb_channels != n_channels or frame.sample_rate != self.info.sample_rate_hz:
                    raise ValueError("the number of channels or the sample rate changes on the way")
                frame.pts = None  # samples are counted; a late timestamp is no reason to stop
                queue.write(frame)
                while queue.samples >= n_block:
                    yield self._values(queue.read(n_block))
            if queue.samples:
                yield self._values(queue.read())

    def _values(self, frame: Any) -> Samples:
        array = frame.to_ndarray()
        values: Samples = array.T if frame.format.is_planar else array.reshape(-1, self.info.n_channels)
        if values.dtype in (np.int16, np.float32):
            return values
        if values.dtype == np.uint8:  # 128 is silence
            return (values - np.float32(128)) / np.float32(128)
        scale = -float(np.iinfo(values.dtype).min) if values.dtype.kind == "i" else 1.0
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
            return (values / scale).astype(np.float32)

    def close(self) -> None:
        self._container.close()


def _early(start: int, rate_hz: int) -> int:
    """Where to begin for a codec with memory."""
    return start - round(PREROLL_S * rate_hz) if start > SEEK_FROM_S * rate_hz else 0


def _block_samples(n_channels: int, n_most: int | None) -> int:
    """Never more than a block at once, whatever the header announces."""
    n_block = max(1, BLOCK_VALUES // n_channels)
    return n_block if n_most is None else min(n_block, n_most)


@contextmanager
def _decoding(path: Path, errors: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise AudioError(
            f"{path}: decoding stopped: {_words(error)}; the file is damaged, copy it again or re-encode it"
        ) from error


def _words(error: Exception) -> str:
    """The library's reason on one line, without the address or descriptor it names."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(words.split()).rstrip(".")


# The way of the samples: stretch, mono, rate.


def _stretch(
    decoder: _Decoder, start_s: float, end_s: float | None, max_duration_s: float = math.inf
) -> Iterator[Samples]:
    """Yield the blocks of a stretch; refuse bad samples, an early end, and more than ``max_duration_s``."""
    info = decoder.info
    rate_hz = info.sample_rate_hz
    start = round(start_s * rate_hz)
    stop = None if end_s is None else round(end_s * rate_hz)
    known_stop = min((n for n in (stop, info.n_samples) if n is not None), default=0)
    too_long = (
        f"{info.path}: longer than max_duration_s={max_duration_s:g} s; read a stretch, or use stream()"
    )
    if known_stop - start > max_duration_s * rate_hz:
        raise AudioError(too_long)
    if start and info.n_samples is not None and start >= info.n_samples:
        raise AudioError(_past_end(info, start_s, info.n_samples))
    if stop is not None and stop <= start:
        raise AudioError(f"{info.path}: {start_s:g} to {end_s:g} s is less than a sample; correct end_s")
    position = decoder.seek(start)
    n_taken = 0
    for block in decoder.blocks(None if stop is None else stop - position):
        wanted = block[max(0, start - position) : None if stop is None else max(0, stop - position)]
        position += len(block)
        n_taken += len(wanted)
        if n_taken > max_duration_s * rate_hz:
            raise AudioError(too_long)
        if len(wanted):
            _check_values(info, wanted)
            yield wanted
        if stop is not None and position >= stop:
            return
    # The end of the file, and not of the stretch.
    if info.n_samples is not None and position < info.n_samples - decoder.tolerance_samples:
        raise AudioError(
            f"{info.path}: cut short: its header promises {info.n_samples / rate_hz:.3f} s, "
            f"the file holds {position / rate_hz:.3f} s; copy it again, or re-encode it to keep what is there"
        )
    if position == 0:
        raise AudioError(f"{info.path}: holds no samples; leave the recording out")
    if position <= start or (stop is not None and position + END_TOLERANCE_S * rate_hz < stop):
        raise AudioError(_past_end(info, start_s if position <= start or end_s is None else end_s, position))


def _past_end(info: AudioInfo, asked_s: float, n_samples: int) -> str:
    return (
        f"{info.path}: a stretch reaches {asked_s:g} s, the recording ends at "
        f"{n_samples / info.sample_rate_hz:g} s; correct start_s or end_s"
    )


def _check_values(info: AudioInfo, block: Samples) -> None:
    if block.dtype == np.int16:
        return
    peak = max(float(block.max()), -float(block.min()))  # NaN comes through both
    if peak <= MAX_PEAK:
        return
    n_bad = block.size - int(np.isfinite(block).sum())
    if n_bad:
        raise AudioError(
            f"{info.path}: {n_bad} of {block.size} samples in a block are NaN or infinite; export it again"
        )
    raise AudioError(f"{info.path}: samples reach {peak:g}, full scale is 1; scale the file to [-1, 1]")


def _mono(block: Samples, dtype: str) -> Samples:
    """The mean over channels, (n_samples, n_channels) to (n_samples,); int16 only from and for int16."""
    n_channels = block.shape[1]
    # float32 holds the sum of 64 int16 exactly.
    mean = (
        block[:, 0] if n_channels == 1 else block @ np.ones(n_channels, np.float32) / np.float32(n_channels)
    )
    if block.dtype != np.int16:
        return mean
    if dtype == "int16":
        return mean if n_channels == 1 else np.rint(mean).astype(np.int16)
    return mean * np.float32(1 / INT16_SCALE)


def _as_int16(samples: Samples) -> NDArray[np.int16]:
    if samples.dtype == np.int16:
        return samples
    return np.rint(samples * np.float32(INT16_SCALE)).clip(-INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def _resampled(blocks: Iterable[Samples], from_hz: int, to_hz: int) -> Iterator[NDArray[np.float32]]:
    import soxr

    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        # A second at once: a block from a slow rate is many minutes, which a fast rate would make gigabytes.
        for first in range(0, len(block), from_hz):
            yield resampler.resample_chunk(np.ascontiguousarray(block[first : first + from_hz]))
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _stream(
    path: Path, sample_rate_hz: int | None, block_s: float, start_s: float, end_s: float | None
) -> Iterator[NDArray[np.float32]]:
    with _opened(path) as decoder:
        from_hz = decoder.info.sample_rate_hz
        to_hz = sample_rate_hz or from_hz
        pieces: Iterator[Samples] = (_mono(b, "float32") for b in _stretch(decoder, start_s, end_s))
        if to_hz != from_hz:
            pieces = _resampled(pieces, from_hz, to_hz)
        n_block = max(1, round(block_s * to_hz))
        held: list[Samples] = []
        n_held = 0
        for piece in pieces:
            held.append(piece)
            n_held += len(piece)
            if n_held >= n_block:
                joined = _joined(held)
                n_whole = n_held - n_held % n_block
                yield from np.split(joined[:n_whole], n_whole // n_block)
                held, n_held = [joined[n_whole:]], n_held - n_whole
        if n_held:
            yield _joined(held)


def _joined(blocks: list[Samples]) -> Samples:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _check_arguments(start_s: float, end_s: float | None, sample_rate_hz: int | None) -> float | None:
    """Refuse what no file could satisfy; returns ``end_s`` with NaN, a table's blank, as None."""
    if not (math.isfinite(start_s) and start_s >= 0):
        raise ValueError(f"start_s must be >= 0, got {start_s!r}")
    if end_s is not None and math.isnan(end_s):
        end_s = None
    if end_s is not None and not (math.isfinite(end_s) and end_s > start_s):
        raise ValueError(f"end_s must be after start_s={start_s!r}, got {end_s!r}")
    if sample_rate_hz is not None:
        _check_rate("sample_rate_hz", sample_rate_hz)
    return end_s


def _check_rate(name: str, rate_hz: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"{name} must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz!r}")


def _check_samples(samples: Samples) -> None:
    if samples.ndim != 1 or samples.dtype not in (np.float32, np.int16):
        raise ValueError(
            f"samples must be (n_samples,) float32 or int16, got {samples.shape} {samples.dtype}"
        )
