"""What would make a study's numbers look better, or worse, than they are: found before any training.

Every recording is decoded once. Reported, each with counts and file names:

    files       unreadable, too short, silent, clipped, offset from zero
    duplicates  the same bytes, the same samples, or the same sound re-encoded, cropped or at another gain;
                under two labels or two subjects first, since those break a study
    confounds   labels that go with site, session, a covariate, duration, level, bandwidth or sampling rate
    lookups     what is scored with no audio at all, see ``vagitus.shortcuts``
    leakage     what one model scores when recordings are divided at random, beside the same model with
                subjects kept whole, those that share audio as one; the first is marked WRONG, and no
                study reports it

Conventions
    rows, i, j  index the manifest given to ``audit``
    severity    "error": a study of this manifest would mislead, or a recording cannot be used;
                "warning": look before believing a number; "info": worth knowing
"""

import hashlib
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.audio import AudioError, read, resample
from vagitus.dataset import logmel_statistics
from vagitus.features import PRESETS, featurise
from vagitus.files import content_hash
from vagitus.fingerprint import FRAME_S, MIN_CORRELATION, Words, correlation, find_matches, fingerprint
from vagitus.manifest import Manifest
from vagitus.scale import Quarantined, spread
from vagitus.shortcuts import Association, Leakage, Probe, find_shortcuts
from vagitus.splits import merge_subjects
from vagitus.statistics import Interval

Floats = NDArray[np.float64]
Text = NDArray[np.str_]
Severity = Literal["error", "warning", "info"]
SEVERITIES = ("error", "warning", "info")
Result = TypeVar("Result")

AUDIT_FORMAT = 1
N_FILES_NAMED, N_FILES_SHOWN = 20, 5  # of each finding, in JSON and in text; the count is of all

MIN_DURATION_S = 0.1  # four windows of 25 ms; no cry, heart cycle or breath is shorter
# 16 bits reach down to -98 dBFS and phones hiss at -60; what lies below was recorded with nothing plugged in.
SILENT_DBFS = -75.0
# Clipping leaves runs of samples at one extreme, equal within 2 steps of 16 bits. A lossy codec smooths
# them away: what was clipped before it is not found.
PLATEAU_SAMPLES, PLATEAU_TOLERANCE = 3, 2 / 32768
CLIPPED_MIN_PEAK = 0.1  # below, a few steps of quantisation look like plateaus
CLIPPED_SHARE = 1e-3
# An offset of 1 % of full scale costs no headroom, but wherever a filter or a window starts it clicks.
DC_MIN, DC_SHARE_OF_RMS = 0.01, 0.1
ROLL_OFF = 0.95
SPECTRUM_SAMPLES = 2048

# Cohen's "medium" and "large" for V with one degree of freedom. His "medium" d of .5 is an AUROC of .64.
V_WARNING, V_ERROR = 0.3, 0.5
AUROC_WARNING = 0.65
P_WARNING = 0.05
GAP_WARNING = 0.02  # below, certain or not, a gap changes no conclusion

# The ends of stretches are rounded to samples, so that of two that meet each may take the sample between.
OVERLAP_MIN_SAMPLES = 2

MEASURED = ("duration_s", "sample_rate_hz", "level_dbfs", "peak", "clipped", "dc", "bandwidth_hz")
WIDTH = 80
FRONT_END = PRESETS["logmel64"]


@dataclass(frozen=True)
class Finding:
    """One thing found, in a sentence; ``files`` names the first of ``count``."""

    kind: str
    severity: Severity
    summary: str
    count: int
    files: tuple[str, ...] = ()


class Duplicate(NamedTuple):
    """Rows i < j that hold the same sound."""

    i: int
    j: int
    kind: Literal["bytes", "samples", "near", "overlap"]  # overlap: two stretches of one file
    similarity: float  # correlation of the waveforms where they overlap
    offset_s: float = 0.0  # how much later the shared sound stands in i than in j


@dataclass(frozen=True, eq=False)
class Audit:
    """What ``audit`` found; see the module for its words."""

    source: str
    description: str
    findings: tuple[Finding, ...]  # errors first
    usable: NDArray[np.bool_]  # (n,) readable, long enough and not silent
    problems: Text  # (n,) why a row is not usable, else ""
    recordings: dict[str, Floats]  # (n,) duration_s, sample_rate_hz, level_dbfs, …; NaN where unreadable
    duplicate_pairs: tuple[Duplicate, ...]
    duplicate_subjects: tuple[tuple[str, str], ...]  # for ``splits.merge_subjects``
    associations: tuple[Association, ...]  # strongest first
    lookups: tuple[Probe, ...]
    leakage: Leakage | None
    skipped: tuple[str, ...]  # what was not measured, and why
    n_classes: int

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON's own types, but for the table of recordings, of which quantiles are given."""
        quantiles = (0, 5, 50, 95, 100)
        measured = {
            name: dict(zip(map(str, quantiles), np.percentile(known, quantiles).tolist(), strict=True))
            for name, values in self.recordings.items()
            if len(known := values[np.isfinite(values)])
        }
        leakage = self.leakage and {
            "wrong": _probe_json(self.leakage.wrong),
            "right": _probe_json(self.leakage.right),
            "uar_gap": asdict(self.leakage.uar_gap),
            "auroc_gap": asdict(self.leakage.auroc_gap),
        }
        plain: dict[str, Any] = _plain(
            {
                "format": AUDIT_FORMAT,
                "source": self.source,
                "description": self.description,
                "n_recordings": len(self.usable),
                "n_usable": int(self.usable.sum()),
                "findings": [asdict(finding) for finding in self.findings],
                "unusable": self.problems[~self.usable].tolist(),
                "measured_percentiles": measured,
                "duplicate_pairs": [pair._asdict() for pair in self.duplicate_pairs],
                "duplicate_subjects": self.duplicate_subjects,
                "associations": [association._asdict() for association in self.associations],
                "lookups": [_probe_json(probe) for probe in self.lookups],
                "leakage": leakage,
                "skipped": self.skipped,
            }
        )
        return plain

    def to_text(self) -> str:
        """The same for a reader at a terminal, 80 columns but for file names."""
        lines = [f"Audit of {self.source}", *_wrapped(self.description), ""]
        for finding in self.findings:
            lines += _wrapped(f"{finding.severity.upper():9}{finding.summary}", indent=9)
            lines += [f"{'':9}{name}" for name in finding.files[:N_FILES_SHOWN]]
            if finding.files and finding.count > N_FILES_SHOWN:
                lines.append(f"{'':9}… {finding.count} in all")
        if not self.findings:
            lines.append("Nothing found.")
        lines += self._probes_as_text()
        if self.associations:
            lines += ["", f"{'The label goes with':23}{'':18}p"]
        for found in self.associations:
            effect = f"{found.measure} {found.effect:.2f}"
            p = "" if math.isnan(found.p) else f"{found.p:.1g}"
            lines.append(f"{found.column[:22]:23}{effect:18}{p:9}{found.detail}"[:WIDTH])
        if self.skipped:
            lines += ["", *_wrapped(f"Not measured: {'; '.join(self.skipped)}.", indent=2)]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def _probes_as_text(self) -> list[str]:
        probes = [*self.lookups, *([self.leakage.wrong, self.leakage.right] if self.leakage else [])]
        if not probes:
            return []
        lines = ["", f"{'Scored by':23}{'split':16}{'UAR':20}AUROC"]
        lines += [
            f"{probe.what:23}{probe.split:16}{_interval(probe.uar):20}{_interval(probe.auroc)}"
            for probe in probes
        ]
        lines.append(f"{'chance':39}{1 / self.n_classes:<20.3f}0.500")
        if self.leakage:
            gaps = "; ".join(
                f"{name} {gap.difference:+.3f} [{gap.low:+.2f}, {gap.high:+.2f}]"
                for name, gap in (("UAR", self.leakage.uar_gap), ("AUROC", self.leakage.auroc_gap))
            )
            lines += _wrapped(f"Random minus whole subjects, of the log-mel ridge: {gaps}.", indent=2)
        return lines


def audit(
    manifest: Manifest,
    *,
    statistics: ArrayLike | None = None,
    n_workers: int = 1,
    quick: bool = False,
    seed: int = 0,
) -> Audit:
    """Look for all that the module's table lists.

    With more than one worker, processes are started afresh ("spawn"), so that a script calls this under
    ``if __name__ == "__main__"``; a file that crashes its decoder is then named and stops nothing.

    Args:
        manifest: labelled or not; without two classes there are no confounds, lookups or leakage.
        statistics: (n, n_features) what the leakage model sees of each recording, for example
            ``dataset.logmel_statistics``; None computes that of the "logmel64" front end.
        n_workers: processes that decode.
        quick: fewer repeats and resamples; the same findings on files and duplicates.
        seed: of folds and resampling.

    Raises:
        ValueError: ``statistics`` has not one finite row per recording, or ``n_workers`` is below 1.
    """
    if n_workers < 1:
        raise ValueError(f"n_workers must be 1 or more, got {n_workers}")
    x = None if statistics is None else np.asarray(statistics, dtype=np.float64)
    if x is not None and (x.ndim != 2 or len(x) != len(manifest) or not np.isfinite(x).all()):
        raise ValueError(f"statistics must be finite, one row for each of {len(manifest)} recordings")
    needs_x = (manifest.label != "") & (x is None and len(manifest.class_names) > 1)
    jobs = [(manifest.file(i), *manifest.stretch(i), bool(needs_x[i])) for i in range(len(manifest))]
    measured = _measure_all(jobs, n_workers)
    # The manifest names files from its root; so does the audit.
    problems = np.array([m.problem.replace(f"{manifest.root}/", "") for m in measured], dtype=np.str_)
    usable = problems == ""
    recordings = {name: np.array([getattr(m, name) for m in measured]) for name in MEASURED}
    pairs = _duplicates(manifest, measured, usable, n_workers)
    findings = [*_file_findings(manifest, problems, recordings), *_duplicate_findings(manifest, pairs)]
    labelled = np.flatnonzero(usable & (manifest.label != ""))
    if x is None:
        x = _filled([m.statistics for m in measured])
    heard = {name: values[labelled] for name, values in recordings.items()}
    chosen = manifest.select(labelled)
    shared = _shared_subjects(manifest, pairs)
    # Merged among all rows, since two labelled subjects may be tied by an unlabelled third.
    groups = merge_subjects(manifest.subject, shared)[labelled]
    shortcuts = find_shortcuts(chosen, heard, x[labelled], groups, quick=quick, seed=seed)
    findings += [*_label_findings(chosen, shortcuts.associations)]
    findings += _probe_findings(shortcuts.lookups, shortcuts.leakage, len(chosen.class_names))
    return Audit(
        source=manifest.source,
        description=_description(manifest, usable),
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        usable=usable,
        problems=problems,
        recordings=recordings,
        duplicate_pairs=tuple(pairs),
        duplicate_subjects=shared,
        associations=shortcuts.associations,
        lookups=shortcuts.lookups,
        leakage=shortcuts.leakage,
        skipped=shortcuts.skipped,
        n_classes=len(chosen.class_names),
    )


class _Measured(NamedTuple):
    """What one decoding of a recording tells."""

    problem: str
    duration_s: float = math.nan
    sample_rate_hz: float = math.nan
    level_dbfs: float = math.nan  # RMS about the mean
    peak: float = math.nan
    clipped: float = math.nan  # share of samples on a plateau at an extreme
    dc: float = math.nan
    bandwidth_hz: float = math.nan  # 95 % of the energy lies below
    pcm_hash: str = ""
    words: Words = np.zeros(0, np.uint32)
    statistics: NDArray[np.float32] = np.zeros(0, np.float32)


def _measure_all(jobs: list[tuple[Path, float, float | None, bool]], n_workers: int) -> list[_Measured]:
    crashed = "decoding it crashed the process; convert it to wav or flac"
    measured = [_Measured("")] * len(jobs)
    for i, result in spread(_measure, jobs, n_workers):
        if isinstance(result, Quarantined):
            measured[i] = _Measured(f"{jobs[i][0]}: {result if result.error else crashed}")
        else:
            measured[i] = result
    return measured


def _measure(path: Path, start_s: float, end_s: float | None, needs_statistics: bool) -> _Measured:
    try:
        x, rate_hz = read(path, start_s=start_s, end_s=end_s)
    except (AudioError, OSError) as error:
        return _Measured(str(error))
    dc = float(x.mean(dtype=np.float64))
    variance = float(np.square(x - np.float32(dc)).mean(dtype=np.float64))
    level_dbfs = 10 * math.log10(variance) if variance > 0 else -math.inf
    duration_s = len(x) / rate_hz
    problem = ""
    if duration_s < MIN_DURATION_S:
        problem = f"{path}: lasts {duration_s:.3f} s, at least {MIN_DURATION_S} s are needed; leave it out"
    elif level_dbfs < SILENT_DBFS:
        problem = f"{path}: silent ({level_dbfs:.0f} dBFS); leave it out or record it again"
    statistics = np.zeros(0, np.float32)
    if needs_statistics and not problem:
        logmel = featurise(resample(x, rate_hz, FRONT_END.sample_rate_hz), FRONT_END)
        statistics = logmel_statistics([logmel])[0]
    pcm = np.rint(x * 32768).astype("<i4").tobytes()
    return _Measured(
        problem=problem,
        duration_s=duration_s,
        sample_rate_hz=rate_hz,
        level_dbfs=level_dbfs,
        peak=float(np.abs(x).max()),
        clipped=_clipped_share(x),
        dc=dc,
        bandwidth_hz=_roll_off_hz(x - np.float32(dc), rate_hz),
        pcm_hash=hashlib.blake2b(pcm, digest_size=16, key=b"%d" % rate_hz).hexdigest(),
        words=np.zeros(0, np.uint32) if problem else fingerprint(x, rate_hz),
        statistics=statistics,
    )


def _clipped_share(x: NDArray[np.float32]) -> float:
    if np.abs(x).max() < CLIPPED_MIN_PEAK:
        return 0.0
    n_clipped = 0
    for at_extreme in (x >= x.max() - PLATEAU_TOLERANCE, x <= x.min() + PLATEAU_TOLERANCE):
        edges = np.flatnonzero(np.diff(at_extreme.astype(np.int8), prepend=0, append=0))
        runs = edges[1::2] - edges[::2]
        n_clipped += int(runs[runs >= PLATEAU_SAMPLES].sum())
    return n_clipped / len(x)


def _roll_off_hz(x: NDArray[np.float32], rate_hz: int) -> float:
    n = min(len(x), SPECTRUM_SAMPLES)
    frames = x[: len(x) // n * n].reshape(-1, n)
    power = np.zeros(n // 2 + 1)
    for block in np.array_split(frames, -(-len(frames) // 1024)):  # memory does not grow with length
        power += (np.abs(np.fft.rfft(block * np.hanning(n), axis=1)) ** 2).sum(axis=0)
    total = np.cumsum(power)
    if total[-1] <= 0:
        return math.nan
    return float(np.searchsorted(total, ROLL_OFF * total[-1])) * rate_hz / n


def _file_findings(manifest: Manifest, problems: Text, recordings: dict[str, Floats]) -> Iterator[Finding]:
    duration_s, level_dbfs = recordings["duration_s"], recordings["level_dbfs"]
    unreadable = np.isnan(duration_s)
    short = duration_s < MIN_DURATION_S
    silent = (problems != "") & ~unreadable & ~short
    for kind, rows, what in (
        ("unreadable", unreadable, "cannot be read"),
        ("too short", short, f"last less than {MIN_DURATION_S} s"),
        ("silent", silent, f"are silent (below {SILENT_DBFS:.0f} dBFS)"),
    ):
        yield from _finding(manifest, kind, "error", rows, what, problems)
    clipped = (problems == "") & (recordings["clipped"] >= CLIPPED_SHARE)
    share = recordings["clipped"].max(initial=0, where=clipped)
    what = f"are clipped (up to {share:.0%} of their samples)"
    yield from _finding(manifest, "clipped", "warning", clipped, what)
    with np.errstate(invalid="ignore"):
        dc, rms = np.abs(recordings["dc"]), 10 ** (level_dbfs / 20)
        offset = (problems == "") & (dc >= DC_MIN) & (dc >= DC_SHARE_OF_RMS * rms)
    yield from _finding(manifest, "dc offset", "info", offset, "are offset from zero by 1 % or more")


def _finding(
    manifest: Manifest,
    kind: str,
    severity: Severity,
    rows: NDArray[np.bool_],
    what: str,
    problems: Text | None = None,
) -> Iterator[Finding]:
    where = np.flatnonzero(rows)
    if len(where):
        first = f": {problems[where[0]]}" if problems is not None else ""
        yield Finding(
            kind,
            severity,
            f"{len(where)} of {len(manifest)} recordings {what}{first}",
            len(where),
            tuple(manifest.path[where[:N_FILES_NAMED]].tolist()),
        )


def _duplicates(
    manifest: Manifest, measured: list[_Measured], usable: NDArray[np.bool_], n_workers: int
) -> list[Duplicate]:
    """All pairs, those under two subjects or two labels first, then the most alike."""
    pairs = _overlaps(manifest, measured)
    first_with: dict[str, int] = {}
    for i in np.flatnonzero(usable).tolist():
        first = first_with.setdefault(measured[i].pcm_hash, i)
        if manifest.path[first] != manifest.path[i]:
            kind: Literal["bytes", "samples"] = (
                "bytes" if _same_bytes(manifest.file(first), manifest.file(i)) else "samples"
            )
            pairs.append(Duplicate(first, i, kind, 1.0))
    # A copy sounds like its original: the first stands for all.
    rows = sorted(first_with.values())
    matches = [
        (rows[match.i], rows[match.j], match.offset)
        for match in find_matches([measured[i].words for i in rows])
        if manifest.path[rows[match.i]] != manifest.path[rows[match.j]]
    ]
    jobs = [
        (manifest.file(i), manifest.stretch(i), manifest.file(j), manifest.stretch(j), offset)
        for i, j, offset in matches
    ]
    # Starting processes takes a second, in which one decodes a hundred short recordings.
    for k, similarity in spread(_correlate, jobs, n_workers if len(jobs) > 50 else 1):
        if not isinstance(similarity, Quarantined) and similarity >= MIN_CORRELATION:
            i, j, offset = matches[k]
            pairs.append(Duplicate(i, j, "near", similarity, offset * FRAME_S))

    def rank(pair: Duplicate) -> tuple[bool, float, int, int]:
        harmless = all(column[pair.i] == column[pair.j] for column in (manifest.subject, manifest.label))
        return harmless, -pair.similarity, pair.i, pair.j

    return sorted(pairs, key=rank)


def _same_bytes(a: Path, b: Path) -> bool:
    return a.stat().st_size == b.stat().st_size and content_hash(a) == content_hash(b)


def _correlate(
    a: Path,
    a_stretch: tuple[float, float | None],
    b: Path,
    b_stretch: tuple[float, float | None],
    offset: int,
) -> float:
    x, y = (read(path, start_s=s, end_s=e) for path, (s, e) in ((a, a_stretch), (b, b_stretch)))
    return correlation(x.samples, x.sample_rate_hz, y.samples, y.sample_rate_hz, offset)


def _overlaps(manifest: Manifest, measured: list[_Measured]) -> list[Duplicate]:
    """Stretches of one file that reach ``OVERLAP_MIN_SAMPLES`` or more into a later one."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(manifest.path.tolist()):
        if not math.isnan(measured[i].duration_s):
            rows_of[path].append(i)

    def end_s(i: int) -> float:
        return float(manifest.start_s[i]) + measured[i].duration_s

    pairs = []
    for rows in rows_of.values():
        rows.sort(key=lambda i: manifest.start_s[i])
        longest = rows[0]  # of the stretches so far, the one that reaches furthest
        for row in rows[1:]:
            if end_s(longest) - manifest.start_s[row] >= OVERLAP_MIN_SAMPLES / measured[row].sample_rate_hz:
                i, j = sorted((longest, row))
                offset_s = float(manifest.start_s[j] - manifest.start_s[i])
                pairs.append(Duplicate(i, j, "overlap", 1.0, offset_s))
            longest = max(longest, row, key=end_s)
    return pairs


def _duplicate_findings(manifest: Manifest, pairs: list[Duplicate]) -> Iterator[Finding]:
    groups: dict[str, list[Duplicate]] = defaultdict(list)
    for pair in pairs:
        label_i, label_j = manifest.label[[pair.i, pair.j]]
        if manifest.subject[pair.i] != manifest.subject[pair.j]:
            groups["subjects"].append(pair)
        if label_i and label_j and label_i != label_j:
            groups["labels"].append(pair)
        elif manifest.subject[pair.i] == manifest.subject[pair.j]:
            groups["overlap" if pair.kind == "overlap" else "same"].append(pair)
    sentences: dict[str, tuple[Severity, str]] = {
        "labels": ("error", "hold the same sound under two labels; at least one of each is wrong"),
        "subjects": ("error", "hold the same sound under two subjects; merge these, or splits leak"),
        "same": ("warning", "hold the same sound of one subject and count twice"),
        "overlap": ("info", "are stretches of one file that overlap"),
    }
    for name, (severity, sentence) in sentences.items():
        if found := groups[name]:
            kinds = ", ".join(
                f"{sum(p.kind == k for p in found)} {k}" for k in dict.fromkeys(p.kind for p in found)
            )
            yield Finding(
                f"duplicate {name}" if name != "overlap" else name,
                severity,
                f"{len(found)} {'pair' if len(found) == 1 else 'pairs'} of recordings {sentence} ({kinds})",
                len(found),
                tuple(_named(manifest, pair) for pair in found[:N_FILES_NAMED]),
            )


def _named(manifest: Manifest, pair: Duplicate) -> str:
    offset = f", {pair.offset_s:+.2f} s" if pair.offset_s else ""
    return f"{manifest.path[pair.i]} = {manifest.path[pair.j]} ({pair.similarity:.2f}{offset})"


def _shared_subjects(manifest: Manifest, pairs: list[Duplicate]) -> tuple[tuple[str, str], ...]:
    shared = {tuple(sorted(manifest.subject[[pair.i, pair.j]].tolist())) for pair in pairs}
    return tuple((a, b) for a, b in sorted(shared) if a != b)


def _label_findings(manifest: Manifest, associations: Iterable[Association]) -> Iterator[Finding]:
    for found in associations:
        by_recorder = found.column in {"site", "session", "sample_rate_hz"}
        is_v = found.measure == "Cramer's V"
        if not (found.p < P_WARNING and found.effect >= (V_WARNING if is_v else AUROC_WARNING)):
            continue
        severity: Severity = "error" if by_recorder and found.effect >= V_ERROR else "warning"
        summary = (
            f"the label goes with {found.column} ({found.measure} {found.effect:.2f}, p {found.p:.1g}; "
            f"{found.detail}): a model may learn that instead"
        )
        yield Finding("confound", severity, summary, len(manifest))
    pairs = np.unique(np.stack([manifest.subject, manifest.label]), axis=1)
    subjects, n_labels = np.unique(pairs[0], return_counts=True)
    mixed = subjects[n_labels > 1]
    if len(mixed):
        named = ", ".join(mixed[:3].tolist()) + (", …" if len(mixed) > 3 else "")
        summary = f"{len(mixed)} of {manifest.n_subjects} subjects carry more than one label: {named}"
        yield Finding("several labels", "info", summary, len(mixed))


def _probe_findings(lookups: Iterable[Probe], leakage: Leakage | None, n_classes: int) -> Iterator[Finding]:
    for probe in lookups:
        if probe.uar.low > 1 / n_classes or probe.auroc.low > 0.5:
            scored = f"UAR {probe.uar.estimate:.3f} and AUROC {probe.auroc.estimate:.3f}"
            if probe.is_wrong:
                summary = f"divided at random, {probe.what} alone score {scored} without audio (WRONG)"
                yield Finding("lookup", "info", summary, probe.uar.n_units)
            else:
                summary = f"site, covariates and duration score {scored} without audio: do better"
                yield Finding("lookup", "warning", summary, probe.uar.n_units)
    gaps = (leakage.uar_gap, leakage.auroc_gap) if leakage else ()
    if leakage and any(gap.low > 0 and gap.difference >= GAP_WARNING for gap in gaps):
        summary = (
            f"divided at random, recordings score UAR {leakage.wrong.uar.estimate:.3f} and AUROC "
            f"{leakage.wrong.auroc.estimate:.3f} (WRONG); with subjects whole the same model scores "
            f"{leakage.right.uar.estimate:.3f} and {leakage.right.auroc.estimate:.3f}"
        )
        yield Finding("leakage", "warning", summary, leakage.uar_gap.n_units)


def _description(manifest: Manifest, usable: NDArray[np.bool_]) -> str:
    names, counts = np.unique(manifest.label[manifest.label != ""], return_counts=True)
    parts = [f"{len(manifest)} recordings, {int(usable.sum())} usable", f"{manifest.n_subjects} subjects"]
    if len(manifest.site_names) > 1:
        parts.append(f"{len(manifest.site_names)} sites")
    labels = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    parts.append(f"labels: {labels or 'none'}")
    return "; ".join([*parts, *(["simulated"] if manifest.simulated else []), *manifest.notes])


def _filled(rows: list[NDArray[np.float32]]) -> Floats:
    """(n, n_features) of rows some of which are empty, zeros for those."""
    x = np.zeros((len(rows), max(map(len, rows), default=0)))
    for i, row in enumerate(rows):
        x[i, : len(row)] = row
    return x


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False)


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.2f}, {interval.high:.2f}]"


def _probe_json(probe: Probe) -> dict[str, Any]:
    return {**probe._asdict(), "uar": asdict(probe.uar), "auroc": asdict(probe.auroc)}


def _plain(value: Any) -> Any:
    """JSON has no NaN, no infinity and no tuple: unknown is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
