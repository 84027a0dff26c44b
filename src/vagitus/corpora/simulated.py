"""Simulated infant cries from two hospitals or more: known subjects, labels and pitch, and a planted effect.

A source-filter model. The source is a band-limited pulse train: harmonics k of the fundamental F0(t) with
amplitude k^-tilt, so that nothing aliases; F0 rises and falls over every expiration, each glottal cycle
departs from it (jitter) and from its amplitude (shimmer), and breath noise is added. The filter is a row of
second-order resonances (formants), scaled to the infant. Expirations alternate with audible inspirations.
Hospitals differ in room, band, codec, noise and level, as recording sites do.

A case differs from a control in three ways, each growing with ``effect`` and none present at 0:
    F0           times (1 + 0.18 effect)
    jitter       times (1 + effect)
    expirations  divided by (1 + 0.35 effect)
Everything else about an infant is drawn without looking at the label.

Every random number comes from a stream of its own (seed, subject, recording), so that a recording is the
same, bit by bit, whatever else is generated with it; labels and hospitals are dealt in turn, every hospital
half cases. The effect's size and the hospitals are our own choice: no figure from here says anything about
infants.
"""

import hashlib
import inspect
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.corpora.corpus import Corpus, Reading, Row
from vagitus.files import atomic_path, write_atomic
from vagitus.manifest import Manifest, build_manifest, read_manifest, write_manifest

Signal = NDArray[np.float64]

# Part of the cache folder's name: raise it whenever the same options sound or are listed differently.
GENERATOR_VERSION = 1
MANIFEST = "manifest.csv"
TRUTH = "truth.csv"
CACHE_VARIABLE = "XDG_CACHE_HOME"

F0_EFFECT, JITTER_EFFECT, EXPIRATION_EFFECT = 0.18, 1.0, 0.35
MAX_EFFECT = 3.0
# A newborn's vocal tract is about 7.5 cm, a closed-open tube of which resonates at odd multiples of 1.15 kHz.
FORMANTS_HZ = (1150.0, 3400.0, 5600.0)
BANDWIDTHS_HZ = (180.0, 300.0, 450.0)
# First keys of the random streams: what a number is drawn for.
VOICE_STREAM, RECORDING_STREAM, ROOM_STREAM = 0, 1, 2


@dataclass(frozen=True)
class Hospital:
    """How one site records.

    Attributes:
        reverberation_s: time in which the room's echo falls by 60 dB.
        echo_db: energy of the echo against the direct sound.
        low_hz, high_hz: band that the microphone passes.
        codec: what the recorder does to the samples.
        noise_tilt_db: slope of the background noise per octave.
        snr_db: mean level of the cry over the noise.
        peak_dbfs: mean peak level.
    """

    name: str
    reverberation_s: float
    echo_db: float
    low_hz: float
    high_hz: float
    codec: Literal["pcm", "mulaw", "adaptive4"]
    noise_tilt_db: float
    snr_db: float
    peak_dbfs: float


HOSPITALS = (
    Hospital("north", 0.20, -16.0, 70.0, 7200.0, "pcm", -6.0, 26.0, -6.0),
    Hospital("south", 0.55, -6.0, 250.0, 3500.0, "mulaw", 0.0, 16.0, -14.0),
    Hospital("east", 0.90, -9.0, 120.0, 5500.0, "adaptive4", -3.0, 20.0, -10.0),
    Hospital("west", 0.35, -12.0, 180.0, 4300.0, "mulaw", -9.0, 18.0, -3.0),
)


@dataclass(frozen=True)
class Voice:
    """What one infant sounds like."""

    f0_hz: float  # mean over an expiration of ordinary height
    jitter: float  # standard deviation of a cycle's frequency, as a share of it
    shimmer: float  # standard deviation of a cycle's amplitude, as a share of it
    formant_scale: float
    tilt: float  # exponent of the harmonics' amplitudes
    breathiness: float  # noise against the voiced source
    expiration_s: float
    inspiration_s: float


class Cry(NamedTuple):
    """One recording as it left the mouth, and what is true of it."""

    samples: Signal
    f0_hz: Signal  # (n_samples,), NaN where nothing is voiced
    expirations: list[tuple[float, float]]  # start and end, s


def voice(subject: int, *, is_case: bool, effect: float, seed: int) -> Voice:
    """Draw the voice of infant ``subject``; the label only scales what was drawn."""
    rng = _stream(seed, VOICE_STREAM, subject)
    drawn = Voice(
        f0_hz=float(420.0 * math.exp(0.10 * rng.standard_normal())),
        jitter=float(0.008 * math.exp(0.30 * rng.standard_normal())),
        shimmer=float(rng.uniform(0.03, 0.10)),
        formant_scale=float(rng.uniform(0.88, 1.14)),
        tilt=float(rng.uniform(0.7, 1.3)),
        breathiness=float(rng.uniform(0.01, 0.06)),
        expiration_s=float(rng.uniform(0.7, 1.1)),
        inspiration_s=float(rng.uniform(0.18, 0.35)),
    )
    strength = effect if is_case else 0.0
    return replace(
        drawn,
        f0_hz=drawn.f0_hz * (1.0 + F0_EFFECT * strength),
        jitter=drawn.jitter * (1.0 + JITTER_EFFECT * strength),
        expiration_s=drawn.expiration_s / (1.0 + EXPIRATION_EFFECT * strength),
    )


def cry(infant: Voice, rng: np.random.Generator, *, duration_s: float, sample_rate_hz: int) -> Cry:
    """One recording of crying, before any room or recorder.

    Args:
        infant: whose.
        rng: of this recording.
        duration_s: length.
        sample_rate_hz: rate.
    """
    n_samples = round(duration_s * sample_rate_hz)
    source, f0_hz = np.zeros(n_samples), np.full(n_samples, np.nan)
    expirations = []
    at_s = float(rng.uniform(0.02, 0.25))
    while at_s < duration_s:
        length_s = infant.expiration_s * float(rng.uniform(0.75, 1.25))
        gap_s = infant.inspiration_s * float(rng.uniform(0.7, 1.3))
        height = float(math.exp(0.04 * rng.standard_normal()))
        loudness = float(rng.uniform(0.6, 1.0))
        n, first = round(length_s * sample_rate_hz), round(at_s * sample_rate_hz)
        voiced, contour = _expiration(infant, rng, n=n, height=height, sample_rate_hz=sample_rate_hz)
        n_gap = round(gap_s * sample_rate_hz)
        inspiration = 0.04 * rng.standard_normal(n_gap) * np.hanning(n_gap)
        n_left = n_samples - first  # the last breath may be cut by the end of the recording
        source[first : first + n + n_gap] = np.concatenate([loudness * voiced, inspiration])[:n_left]
        f0_hz[first : first + n] = contour[:n_left]
        expirations.append((at_s, min(at_s + length_s, duration_s)))
        at_s += length_s + gap_s
    return Cry(_vocal_tract(source, infant.formant_scale, sample_rate_hz), f0_hz, expirations)


def record(clean: Signal, site: int, rng: np.random.Generator, *, sample_rate_hz: int, seed: int) -> Signal:
    """What hospital ``site`` records of a cry, by its room, noise, band, level and codec; within [-1, 1]."""
    from scipy.signal import butter, fftconvolve, sosfilt

    hospital = HOSPITALS[site]
    room = _room(hospital, _stream(seed, ROOM_STREAM, site), sample_rate_hz)
    sound = fftconvolve(clean, room)[: len(clean)]
    noise = _coloured_noise(rng, len(sound), hospital.noise_tilt_db)
    snr_db = hospital.snr_db + 3.0 * float(rng.standard_normal())
    sound = sound + noise * _rms(sound) / _rms(noise) * 10 ** (-snr_db / 20)
    # Just below Nyquist a filter has no upper edge left to make.
    high_hz = min(hospital.high_hz, 0.45 * sample_rate_hz)
    sound = sosfilt(butter(4, (hospital.low_hz, high_hz), "bandpass", fs=sample_rate_hz, output="sos"), sound)
    peak = min(10 ** ((hospital.peak_dbfs + 2.0 * float(rng.standard_normal())) / 20), 0.99)
    sound = sound * (peak / np.abs(sound).max())
    return _coded(sound, hospital.codec)


def generate(
    folder: Path | str,
    *,
    n_subjects: int = 60,
    n_recordings_per_subject: int = 3,
    n_sites: int = 2,
    effect: float = 1.0,
    duration_s: float = 4.0,
    sample_rate_hz: int = 16_000,
    seed: int = 0,
) -> Manifest:
    """Write recordings (16-bit wav) and ``manifest.csv`` into ``folder``; the manifest comes last.

    Args:
        folder: made if need be; files of the same name are replaced.
        n_subjects: infants, ≥ 1; infant i is recorded at hospital i mod ``n_sites``, and every second infant
            of a hospital is a case.
        n_recordings_per_subject: ≥ 1.
        n_sites: 1 to 4 hospitals.
        effect: how much cases differ, 0 (not at all) to 3.
        duration_s: of each recording, 1 to 60 s.
        sample_rate_hz: 8,000 to 48,000.
        seed: ≥ 0; of everything.

    Returns:
        Labels ``case`` and ``control``. What only the generator knows of each recording stands beside the
        manifest, in ``truth.csv`` (``path``, ``f0_mean_hz`` of what is voiced, ``expiration_mean_s``): as
        covariates they would tell an arm without audio what it must not know.

    Raises:
        ValueError: an option out of its range.
        OSError: the folder cannot be written.
    """
    import soundfile

    _check_options(
        {
            "n_subjects": n_subjects,
            "n_recordings_per_subject": n_recordings_per_subject,
            "n_sites": n_sites,
            "effect": effect,
            "duration_s": duration_s,
            "sample_rate_hz": sample_rate_hz,
            "seed": seed,
        }
    )
    folder = Path(folder)
    rows: list[Row] = []
    truths: list[dict[str, str]] = []
    for subject in range(n_subjects):
        site = subject % n_sites
        is_case = (subject // n_sites) % 2 == 1
        infant = voice(subject, is_case=is_case, effect=effect, seed=seed)
        for recording in range(n_recordings_per_subject):
            rng = _stream(seed, RECORDING_STREAM, subject, recording)
            truth = cry(infant, rng, duration_s=duration_s, sample_rate_hz=sample_rate_hz)
            sound = record(truth.samples, site, rng, sample_rate_hz=sample_rate_hz, seed=seed)
            path = f"audio/s{subject:04d}_r{recording:02d}.wav"
            with atomic_path(folder / path) as temporary:
                soundfile.write(temporary, sound, sample_rate_hz, subtype="PCM_16")
            rows.append(
                {
                    "path": path,
                    "subject": f"s{subject:04d}",
                    "label": "case" if is_case else "control",
                    "site": HOSPITALS[site].name,
                    "session": f"s{subject:04d} r{recording:02d}",
                }
            )
            truths.append(
                {
                    "path": path,
                    "f0_mean_hz": f"{np.nanmean(truth.f0_hz):.2f}",
                    "expiration_mean_s": f"{_mean_expiration_s(truth):.4f}",
                }
            )
    notes = [*CORPUS.notes, f"planted effect {effect:g}, seed {seed}"]
    manifest = build_manifest(rows, folder, "simulated", notes, simulated=True)
    write_atomic(
        folder / TRUTH, "".join(",".join(row) + "\n" for row in (truths[0], *map(dict.values, truths)))
    )
    write_manifest(manifest, folder / MANIFEST)
    return manifest


def default_folder(**options: Any) -> Path:
    """Where ``load`` keeps what ``generate`` makes of these options: in the user's cache."""
    cache = os.environ.get(CACHE_VARIABLE)
    base = Path(cache) if cache else Path.home() / ".cache"
    return base / "vagitus" / _folder_name(options)


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``condition`` (case, control) or ``identity``, from a folder that ``generate`` wrote."""
    manifest = read_manifest(folder / MANIFEST)
    labels = manifest.label if task == "condition" else manifest.subject
    columns = {
        "path": manifest.path,
        "subject": manifest.subject,
        "label": labels,
        "site": manifest.site,
        "session": manifest.session,
        **manifest.covariates,
    }
    rows: list[Row] = [
        dict(zip(columns, cells, strict=True))
        for cells in zip(*(values.tolist() for values in columns.values()), strict=True)
    ]
    return Reading(rows, list(manifest.notes))


class SimulatedCorpus(Corpus):
    """A corpus that is made where it is missing, so that it needs no data root."""

    def find(self, root: Path | str | None = None, **options: Any) -> Path:
        """``root`` if ``generate`` wrote it, else the folder of these options below ``root`` or the cache."""
        if root is None:
            return default_folder(**options)
        if not options and (Path(root) / MANIFEST).is_file():
            return Path(root)
        return Path(root) / _folder_name(options)

    def load(self, root: Path | str | None = None, task: str | None = None, **options: Any) -> Manifest:
        """The manifest of one task; recordings are generated unless a complete set is there already.

        Args:
            root: a folder that ``generate`` wrote, or one to keep the recordings in; default the user's
                cache, even where ``$VAGITUS_DATA`` is set, which may be read-only.
            task: ``condition`` (case, control) or ``identity``.
            options: of ``generate``.

        Raises:
            ValueError: no such task, or an option out of its range.
            TypeError: ``generate`` has no such option.
            OSError: the folder cannot be written.
        """
        task = self.default_task if task is None else task
        if task not in self.tasks:
            raise ValueError(f"{self.name} has no task {task!r}; choose from {', '.join(self.tasks)}")
        folder = self.find(root, **options)
        try:  # the manifest is written last, and reading it looks for every recording
            reading = self.read(folder, task)
        except FileNotFoundError:
            generate(folder, **options)
            reading = self.read(folder, task)
        return build_manifest(reading.rows, folder, self.name, reading.notes, simulated=True)


def _mean_expiration_s(truth: Cry) -> float:
    # The last expiration may be cut by the end of the recording; it counts only where there is no other.
    whole = truth.expirations[:-1] or truth.expirations
    return float(np.mean([end_s - start_s for start_s, end_s in whole]))


def _expiration(
    infant: Voice, rng: np.random.Generator, *, n: int, height: float, sample_rate_hz: int
) -> tuple[Signal, Signal]:
    """One voiced breath of n samples, of about unit RMS, and its F0."""
    t = (np.arange(n) + 0.5) / n
    # Rises to 1.08 at two fifths and falls to 0.86 at the ends; its mean over the breath is 1.
    melody = infant.f0_hz * height * (0.86 + 0.22 * np.sin(np.pi * t**0.8))
    tremor_hz = float(rng.uniform(5.0, 8.0))
    melody *= 1.0 + 0.01 * np.sin(2 * np.pi * (tremor_hz * t * n / sample_rate_hz + rng.uniform()))
    cycle = np.floor(np.cumsum(melody) / sample_rate_hz).astype(np.int64)
    n_cycles = int(cycle[-1]) + 1
    f0_hz = melody * (1.0 + infant.jitter * rng.standard_normal(n_cycles).clip(-3.0, 3.0)[cycle])
    phase = np.cumsum(f0_hz) / sample_rate_hz
    amplitude = 1.0 + infant.shimmer * rng.standard_normal(n_cycles).clip(-3.0, 3.0)[cycle]
    # Powers of one rotation cost a multiplication a harmonic, not a cosine.
    turn = np.exp(2j * np.pi * phase)
    power = turn.copy()
    pulses, energy = np.zeros(n), 0.0
    for k in range(1, int(0.48 * sample_rate_hz / f0_hz.min()) + 1):
        pulses += np.where(k * f0_hz < 0.48 * sample_rate_hz, k**-infant.tilt * power.real, 0.0)
        energy += k ** (-2 * infant.tilt) / 2
        power *= turn
    breath = rng.standard_normal(n) * (0.5 + 0.5 * np.cos(2 * np.pi * phase))
    n_attack, n_release = (min(round(s * sample_rate_hz), n // 2) for s in (0.05, 0.10))
    envelope = np.ones(n)
    envelope[:n_attack] = 0.5 - 0.5 * np.cos(np.pi * (np.arange(n_attack) + 0.5) / n_attack)
    envelope[n - n_release :] = 0.5 + 0.5 * np.cos(np.pi * (np.arange(n_release) + 0.5) / n_release)
    return envelope * (amplitude * pulses / math.sqrt(energy) + infant.breathiness * breath), f0_hz


def _vocal_tract(source: Signal, formant_scale: float, sample_rate_hz: int) -> Signal:
    """Pass the source through the formants, each a pair of poles with unit gain at 0 Hz."""
    from scipy.signal import sosfilt

    sections = []
    for formant_hz, bandwidth_hz in zip(FORMANTS_HZ, BANDWIDTHS_HZ, strict=True):
        if formant_hz * formant_scale < 0.45 * sample_rate_hz:
            radius = math.exp(-math.pi * bandwidth_hz / sample_rate_hz)
            a1 = -2 * radius * math.cos(2 * math.pi * formant_hz * formant_scale / sample_rate_hz)
            a2 = radius**2
            sections.append([1 + a1 + a2, 0.0, 0.0, 1.0, a1, a2])
    return np.asarray(sosfilt(np.array(sections), source))


def _room(hospital: Hospital, rng: np.random.Generator, sample_rate_hz: int) -> Signal:
    """Impulse response: the direct sound, then 3 ms later a decaying noise."""
    n = round(hospital.reverberation_s * sample_rate_hz)
    echo = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    echo[: round(0.003 * sample_rate_hz)] = 0.0
    echo *= 10 ** (hospital.echo_db / 20) / np.linalg.norm(echo)
    echo[0] = 1.0
    return np.asarray(echo)


def _coloured_noise(rng: np.random.Generator, n_samples: int, tilt_db_per_octave: float) -> Signal:
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    # One bin below which the slope ends, or a steep one would be all rumble: 1/200 of Nyquist.
    bins = np.maximum(np.arange(len(spectrum)), len(spectrum) / 200)
    return np.fft.irfft(spectrum * bins ** (tilt_db_per_octave / (20 * math.log10(2))), n_samples)


def _coded(sound: Signal, codec: str) -> Signal:
    if codec == "mulaw":  # G.711's curve, 8 bits
        mu = 255.0
        companded = np.sign(sound) * np.log1p(mu * np.abs(sound)) / math.log1p(mu)
        steps = np.round(companded * 127.0) / 127.0
        return np.asarray(np.sign(steps) * np.expm1(np.abs(steps) * math.log1p(mu)) / mu)
    if (
        codec == "adaptive4"
    ):  # 4 bits against the peak of every 32 samples: the noise follows the level, as ADPCM's
        n_blocks = -(-len(sound) // 32)
        blocks = np.pad(sound, (0, n_blocks * 32 - len(sound))).reshape(n_blocks, 32)
        peak = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), 1e-6)
        return np.asarray((np.round(blocks / peak * 7.0) / 7.0 * peak).reshape(-1)[: len(sound)])
    return sound


def _rms(sound: Signal) -> float:
    return float(np.sqrt(np.mean(sound**2)))


def _stream(seed: int, *keys: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=keys))


def _check_options(options: dict[str, Any]) -> None:
    ranges = {
        "n_subjects": (1, 100_000),
        "n_recordings_per_subject": (1, 10_000),
        "n_sites": (1, len(HOSPITALS)),
        "effect": (0.0, MAX_EFFECT),
        "duration_s": (1.0, 60.0),
        "sample_rate_hz": (8_000, 48_000),
        "seed": (0, 2**63 - 1),
    }
    for name, (low, high) in ranges.items():
        if not low <= options[name] <= high:
            raise ValueError(f"simulated: {name} is {options[name]!r}; give {low:,} to {high:,}")


def _folder_name(options: dict[str, Any]) -> str:
    """Options as given to ``generate`` → the name of their folder; defaults named or not give the same."""
    bound = inspect.signature(generate).bind("", **options)
    bound.apply_defaults()
    key = json.dumps({**bound.arguments, "folder": "", "version": GENERATOR_VERSION}, sort_keys=True)
    return f"simulated-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


CORPUS = SimulatedCorpus(
    name="simulated",
    title="simulated infant cries: two hospitals or more, a planted effect, no patient",
    folder=("simulated",),
    marks=(MANIFEST,),
    tasks=("condition", "identity"),
    default_task="condition",
    positive={"condition": "case"},
    licence="MIT, as vagitus",
    citation="vagitus, module vagitus.corpora.simulated",
    preset="logmel64",
    read=read,
    notes=("simulated: no patient was recorded, and no number from it says anything about infants",),
    gated="nothing to get: it is generated where it is missing",
)
