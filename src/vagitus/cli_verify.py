"""The verbs of cry events and of who is crying: segment, verify, enrol, identify, erase.

See ``cli`` for the exit status. A store is changed by ``enrol`` and ``erase`` alone.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vagitus.cli_device import RESEARCH_ONLY, AsJson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vagitus.encoders import Encoder
    from vagitus.events import CryDetector, Verdict
    from vagitus.segment import Event
    from vagitus.statistics import Interval
    from vagitus.trials import Pairs, TrialTable

NOT_A_PROOF = (
    "How alike two sounds are is no proof of who was recorded: a shared phone or room sounds alike too."
)

Voice = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        show_default=False,
        help="What embeds a voice: ge2e:FILE, onnx:FILE, panns:FILE or a model.safetensors.",
    ),
]
StoreFile = Annotated[Path, typer.Argument(metavar="STORE", show_default=False, help="File of the enrolled.")]
Views = Annotated[
    int,
    typer.Option(
        "--views", min=1, help="Shuffled concatenations of a session's segments, whose scores are averaged."
    ),
]
Crop = Annotated[
    float | None,
    typer.Option("--crop", help="Seconds of each concatenation. Default all of it.", show_default=False),
]
Cut = Annotated[
    bool, typer.Option("--cut", help="Embed only the expirations that the cry detector finds in a recording.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the order of segments, and of resampling.")]


class Kind(StrEnum):
    """What `segment` looks for."""

    CRY = "cry"
    HEART = "heart"
    BREATH = "breath"


class Layout(StrEnum):
    """What `segment --out` writes."""

    JSON = "json"
    CSV = "csv"
    AUDACITY = "audacity"
    RAVEN = "raven"


ENDINGS = {Layout.JSON: ".json", Layout.CSV: ".csv", Layout.AUDACITY: ".txt", Layout.RAVEN: ".selections.txt"}


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to the command line."""
    for verb in (segment, verify, enrol, identify, erase):
        app.command(epilog=RESEARCH_ONLY)(verb)


# segment


def segment(
    audio: Annotated[
        list[Path],
        typer.Argument(metavar="AUDIO...", show_default=False, help="Recordings, or folders of them."),
    ],
    kind: Annotated[
        Kind, typer.Option("--kind", help="cry (expirations), heart (S1, systole, S2, diastole) or breath.")
    ] = Kind.CRY,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for a label file of each recording.", show_default=False),
    ] = None,
    layout: Annotated[
        Layout, typer.Option("--layout", help="Of the label files: json, csv, audacity or raven.")
    ] = Layout.JSON,
    detector: Annotated[
        Path | None,
        typer.Option(
            "--detector", help="Cry detector. Default the one that comes along.", show_default=False
        ),
    ] = None,
    use_detector: Annotated[
        bool,
        typer.Option(
            "--detect/--no-detect", help="Confirm cries by the detector, or take level and pitch alone."
        ),
    ] = True,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", help="Least probability of crying. Default the detector's.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Find cries, heart cycles or breaths. Status 1 if nothing was found, or some recordings cannot be read."""
    from vagitus.audio import AudioError
    from vagitus.predict import find_recordings, without_nan
    from vagitus.segment import write_events

    is_cry = kind is Kind.CRY
    if not is_cry and (detector or not use_detector or threshold is not None):
        raise ValueError(
            f"--detector, --no-detect and --threshold are of cries; leave them out for {kind.value}"
        )
    if not use_detector and (detector or threshold is not None):
        raise ValueError("--no-detect takes level and pitch alone; leave --detector and --threshold out")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be a probability, 0 to 1, got {threshold:g}")
    paths = find_recordings(audio)
    if out is not None and len({path.stem for path in paths}) < len(paths):
        raise ValueError(
            "--out names a label file by its recording, and two have the same name; give them apart"
        )
    model = _detector(detector) if is_cry and use_detector else None
    rows: list[dict[str, Any]] = []
    reasons: dict[Path, str] = {}
    for path in paths:
        try:
            events, verdict, duration_s = _events(path, kind, model, threshold)
        except AudioError as error:
            reasons[path] = str(error)
            if len(paths) > 1:
                print(f"cannot be read: {error}", file=sys.stderr)
            continue
        if out is not None:
            write_events(events, out / f"{path.stem}{ENDINGS[layout]}", layout.value)
        found = [without_nan(event._asdict()) for event in events]
        rows.append({"path": str(path), "duration_s": duration_s, "events": found})
        if verdict is not None:
            rows[-1]["verdict"] = without_nan(asdict(verdict))
        if not as_json:
            for line in _segment_lines(path, kind, events, verdict, is_listed=out is None):
                print(line)
    if not rows:
        raise ValueError(
            next(iter(reasons.values())) if len(paths) == 1 else f"none of {len(paths)} can be read"
        )
    if as_json:
        unread = [{"path": str(path), "reason": reason} for path, reason in reasons.items()]
        print(
            json.dumps({"notice": RESEARCH_ONLY, "recordings": rows, "unreadable": unread}, allow_nan=False)
        )
    elif model is not None:
        print(RESEARCH_ONLY, file=sys.stderr)
    return int(bool(reasons) or not any(row["events"] for row in rows))


def _detector(path: Path | None) -> "CryDetector":
    from vagitus.events import CryDetector

    return CryDetector(path)


def _events(
    path: Path, kind: Kind, model: "CryDetector | None", threshold: float | None
) -> "tuple[list[Event], Verdict | None, float]":
    """Events of one recording, what is decided about it, and its length; it is decoded once, in pieces."""
    from vagitus.audio import AudioError, probe, stream
    from vagitus.segment import breaths, cry_expirations, heart_cycles

    rate_hz = probe(path).sample_rate_hz
    n_samples = 0

    def counted() -> "Iterator[NDArray[Any]]":
        nonlocal n_samples
        for block in stream(path, sample_rate_hz=rate_hz):
            n_samples += len(block)
            yield block

    try:
        if model is not None:
            from vagitus.events import Hearing

            hearing = Hearing(model, rate_hz, threshold=threshold)
            events = list(hearing.events(counted()))
            return events, _verdict(model, hearing), n_samples / rate_hz
        if kind is Kind.CRY:
            events = list(cry_expirations(counted(), rate_hz))
        elif kind is Kind.HEART:
            events = list(heart_cycles(counted(), rate_hz))
        else:
            events = list(breaths(counted(), rate_hz))
        return events, None, n_samples / rate_hz
    except AudioError:
        raise
    except ValueError as error:
        raise AudioError(f"{path}: {error}") from error


def _verdict(model: "CryDetector", hearing: Any) -> "Verdict | None":
    """Of a detector that brings a decision for whole recordings."""
    from vagitus.events import decider_from_dict

    said = model.card.provenance.get("recording")
    if not said:
        return None
    found = hearing.summary()
    return decider_from_dict(said).decide(
        found.log_odds, cry_s=found.cry_s, attention=found.log_odds, features=found.features
    )


def _segment_lines(
    path: Path, kind: Kind, events: "Sequence[Event]", verdict: "Verdict | None", *, is_listed: bool
) -> Iterator[str]:
    total_s = sum(event.end_s - event.start_s for event in events)
    what = {Kind.CRY: "expirations", Kind.HEART: "heart states", Kind.BREATH: "breaths"}[kind]
    found = f"{len(events)} {what}, {total_s:.1f} s" if events else f"no {kind.value} was found"
    said = ""
    if verdict is not None:
        said = f"; {verdict.reason}" if verdict.reason else f"; {verdict.decision}, score {verdict.score:.3f}"
    yield f"{path}: {found}{said}"
    if is_listed:
        for event in events:
            score = "" if math.isnan(event.score) else f" {event.score:.3f}"
            yield f"  {event.start_s:.3f} to {event.end_s:.3f} s {event.kind}{score}"


# verify


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="ge2e:FILE, onnx:FILE, panns:FILE or a model.safetensors.",
        ),
    ],
    trials: Annotated[
        Path,
        typer.Argument(
            metavar="TRIALS",
            show_default=False,
            help="CSV: enrolled, tested, and label or the two subjects. Or CryCeleb's dev_pairs.csv or test_pairs.csv, "
            "or its folder (with --split).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Scores to write; of CryCeleb's pairs, the submission.", show_default=False
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="CryCeleb's folder. Default that of its pairs.", show_default=False),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of a CryCeleb folder: all B x D pairs of train, dev or test.")
    ] = "",
    cohort: Annotated[
        str,
        typer.Option(
            "--cohort",
            help="Normalise scores by these: a manifest; of CryCeleb, train for its training infants.",
        ),
    ] = "",
    views: Views = 8,
    crop: Crop = None,
    cut: Cut = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score pairs of recordings, and where it is known who is who, say how often that errs."""
    from vagitus.verification import check_crop, open_voice

    check_crop(crop)
    if not trials.exists():
        raise FileNotFoundError(f"{trials}: no such file")
    is_folder = trials.is_dir()
    if split and not is_folder:
        raise ValueError(
            f"--split {split} is of a CryCeleb folder, and {trials} is a file of pairs; leave it out"
        )
    protocol = is_folder or _is_cryceleb(trials)
    if root and is_folder:
        raise ValueError(f"--root is the folder of a file of pairs, and {trials} is a folder; leave it out")
    if root and not protocol:
        raise ValueError(f"--root is of CryCeleb's pairs; paths in {trials} start from its own folder")
    if cut and protocol:
        raise ValueError("--cut finds cries in recordings; CryCeleb's segments are cut already")
    encoder = open_voice(model)
    options: dict[str, Any] = {"views": views, "crop_s": crop, "seed": seed}
    if protocol:
        found = _verify_cryceleb(encoder, trials, root, split, cohort, out, **options)
    else:
        found = _verify_table(encoder, trials, cohort, out, cut=cut, **options)
    said = {"notice": RESEARCH_ONLY, "caution": NOT_A_PROOF, "model": encoder.identity, **options, **found}
    if as_json:
        from vagitus.predict import without_nan

        print(json.dumps(without_nan(said), allow_nan=False))
        return
    print(f"{found['n_trials']:,} trials of {found['source']}")
    for note in found["notes"]:
        print(f"note: {note}")
    for name in ("eer", "min_dcf"):
        if name in found:
            print(f"{name}: {_interval(found[name])}")
    if out is not None:
        print(f"scores: {out}")
    print(f"{NOT_A_PROOF} {RESEARCH_ONLY}", file=sys.stderr)


def _is_cryceleb(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "baby_id_B" in file.readline(4096)


def _verify_cryceleb(
    encoder: "Encoder",
    trials: Path,
    root: Path | None,
    split: str,
    cohort: str,
    out: Path | None,
    *,
    views: int,
    crop_s: float | None,
    seed: int,
) -> dict[str, Any]:
    import numpy as np

    from vagitus.trials import (
        all_pairs,
        embed_sessions,
        read_pairs,
        read_sessions,
        score_pairs,
        write_submission,
    )
    from vagitus.verification import evaluate

    folder = trials if trials.is_dir() else root or trials.parent
    sessions = read_sessions(folder, split)
    pairs: Pairs
    pairs = (
        all_pairs(sessions, f"{folder}, {split or 'all of it'}")
        if trials.is_dir()
        else read_pairs(trials, sessions)
    )
    _check_labels(pairs.labels, pairs.source, out)
    wanted = {session: sessions[session] for session in pairs.sessions}
    found = embed_sessions(encoder, wanted, crop_s=crop_s, n_views=views, seed=seed)
    others = []
    if cohort:
        if cohort != "train":
            raise ValueError(f"--cohort {cohort}: of CryCeleb, give train, its training infants")
        strangers = read_sessions(folder, "train")
        if shared := {baby for baby, _ in strangers} & {baby for baby, _ in wanted}:
            raise ValueError(
                f"--cohort train holds infant {min(shared)}, who is in a trial; score dev or test"
            )
        others = list(embed_sessions(encoder, strangers, crop_s=crop_s, n_views=views, seed=seed).values())
    scores = score_pairs(pairs, found, others)
    if out is not None:
        write_submission(out, pairs, scores)
    notes = (
        []
        if not pairs.n_absent
        else [f"{pairs.n_absent:,} of all B x D pairs of these infants are not among them"]
    )
    about = {"source": pairs.source, "n_trials": len(pairs.ids), "notes": notes}
    if pairs.labels is None:
        return about
    measured = evaluate(scores, pairs.born, pairs.discharged, rng=np.random.default_rng(seed))
    return {**about, **asdict(measured)}


def _verify_table(
    encoder: "Encoder",
    trials: Path,
    cohort: str,
    out: Path | None,
    *,
    cut: bool,
    views: int,
    crop_s: float | None,
    seed: int,
) -> dict[str, Any]:
    import numpy as np

    from vagitus.files import write_atomic
    from vagitus.manifest import read_manifest
    from vagitus.trials import error_rates, read_trials, score_trials
    from vagitus.verification import Verified

    table: TrialTable = read_trials(trials)
    _check_labels(table.labels, str(trials), out)
    files = list(dict.fromkeys((*table.enrolled, *table.tested)))
    strangers: list[Path] = []
    if cohort:
        manifest = read_manifest(Path(cohort))
        strangers = [manifest.file(i) for i in range(len(manifest))]
        if shared := {file.resolve() for file in files} & {file.resolve() for file in strangers}:
            raise ValueError(
                f"--cohort {cohort}: holds {min(shared)}, which is in a trial; give other recordings"
            )
        tried = {*(table.first or ()), *(table.second or ())}
        if known := tried & set(map(str, manifest.subject)):
            raise ValueError(
                f"--cohort {cohort}: holds subject {min(known)!r}, who is in a trial; give other subjects"
            )
    ear = _detector(None) if cut else None
    embedded = [_embedded(encoder, path, ear, views, crop_s, seed) for path in (*files, *strangers)]
    scores = score_trials(table, dict(zip(files, embedded, strict=False)), embedded[len(files) :])
    if out is not None:
        text = io.StringIO()
        names = ((_as_given(path, trials.parent) for path in side) for side in (table.enrolled, table.tested))
        rows = zip(*names, (f"{score:.9g}" for score in scores), strict=True)
        csv.writer(text, lineterminator="\n").writerows([("enrolled", "tested", "score"), *rows])
        write_atomic(out, text.getvalue())
    about: dict[str, Any] = {"source": str(trials), "n_trials": len(scores), "notes": []}
    if table.labels is None:
        return about
    measured = error_rates(table, scores, rng=np.random.default_rng(seed))
    if isinstance(measured, Verified):
        return {**about, **asdict(measured)}
    about["notes"] = [
        "no subjects are named, so there is no interval; add enrolled_subject and tested_subject"
    ]
    return {**about, "eer": measured[0], "min_dcf": measured[1]}


def _as_given(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _check_labels(labels: "NDArray[Any] | None", source: str, out: Path | None) -> None:
    """Before anything is embedded, which takes its time."""
    from vagitus.verification import check_both_kinds

    if labels is not None:
        try:
            check_both_kinds(labels)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    elif out is None:
        raise ValueError(
            f"{source}: does not say who is who, so there are only scores to give; add --out FILE"
        )


def _embedded(
    encoder: "Encoder",
    path: Path,
    detector: "CryDetector | None",
    n_views: int,
    crop_s: float | None,
    seed: int,
) -> "NDArray[Any]":
    """The views of one recording, of its expirations alone if there is a detector."""
    import numpy as np

    from vagitus.audio import AudioError, read
    from vagitus.verification import embed_session

    samples = read(path, sample_rate_hz=encoder.sample_rate_hz).samples
    segments = [samples]
    try:
        if detector is not None:
            events, _, _ = _events(path, Kind.CRY, detector, None)
            if not events:
                raise ValueError(
                    "no cry was found; leave the recording out, or embed all of it without --cut"
                )
            rate_hz = encoder.sample_rate_hz
            segments = [samples[round(e.start_s * rate_hz) : round(e.end_s * rate_hz)] for e in events]
        rng = np.random.default_rng(seed)
        return embed_session(encoder, segments, crop_s=crop_s, n_views=n_views, rng=rng)
    except AudioError:
        raise
    except ValueError as error:
        raise AudioError(f"{path}: {error}") from error


def _interval(value: "float | dict[str, Any] | Interval") -> str:
    if isinstance(value, dict):
        return f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}], subjects resampled"
    return f"{value:.3f}"


# The store.


def enrol(
    store: StoreFile,
    subject: Annotated[
        str,
        typer.Argument(show_default=False, help="A name that means nothing to others, such as infant-07."),
    ],
    audio: Annotated[
        list[Path], typer.Argument(metavar="AUDIO...", show_default=False, help="Recordings of that subject.")
    ],
    model: Voice,
    views: Views = 8,
    crop: Crop = None,
    cut: Cut = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Keep embeddings of a subject's recordings, all or none; makes the store if there is none."""
    from vagitus.files import content_hash
    from vagitus.predict import find_recordings
    from vagitus.store import check_name, create_store, open_store
    from vagitus.verification import check_crop, open_voice

    # What can be refused at once is, and not after an hour of embedding.
    check_name(subject)
    check_crop(crop)
    encoder = open_voice(model)
    if store.exists():
        open_store(store, identity=encoder.identity).close()
    ear = _detector(None) if cut else None
    paths = find_recordings(audio)
    named = {content_hash(path): _embedded(encoder, path, ear, views, crop, seed) for path in paths}
    if store.exists():
        opened = open_store(store, identity=encoder.identity)
    else:
        opened = create_store(
            store, identity=encoder.identity, dim=encoder.dim, sample_rate_hz=encoder.sample_rate_hz
        )
    with opened:
        n_new = opened.enrol(subject, named)
        n_all = opened.subjects()[subject]
    if as_json:
        print(json.dumps({"store": str(store), "subject": subject, "n_new": n_new, "n_enrolled": n_all}))
    else:
        known = "" if n_new == len(paths) else f", {len(paths) - n_new} were here already"
        print(f"{store}: {subject} has {n_all} recordings, {n_new} of them new{known}. {RESEARCH_ONLY}")


def identify(
    store: StoreFile,
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", show_default=False, help="One recording.")],
    model: Voice,
    top: Annotated[int, typer.Option("--top", min=1, help="Subjects to name, best first.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Score below which it is nobody of the store; set it by `verify`. Default none.",
            show_default=False,
        ),
    ] = None,
    views: Views = 8,
    crop: Crop = None,
    cut: Cut = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Whom of the enrolled a recording is most like. Status 1 if nobody reaches --threshold."""
    from vagitus.store import open_store
    from vagitus.verification import check_crop, open_voice

    check_crop(crop)
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"--threshold {threshold}: give a number")
    encoder = open_voice(model)
    with open_store(store, identity=encoder.identity) as opened:
        found = opened.identify(
            _embedded(encoder, audio, _detector(None) if cut else None, views, crop, seed), n_best=top
        )
    kept = [match for match in found if threshold is None or match.score >= threshold]
    if as_json:
        matches = [match._asdict() for match in kept]
        print(
            json.dumps(
                {"notice": RESEARCH_ONLY, "caution": NOT_A_PROOF, "threshold": threshold, "matches": matches}
            )
        )
    else:
        for rank, match in enumerate(kept, start=1):
            print(f"{rank}. {match.subject}: score {match.score:.3f}, {match.n_enrolled} recordings")
        if not kept:
            print(f"nobody: {found[0].subject} is nearest, score {found[0].score:.3f} below {threshold:g}")
        print(f"{NOT_A_PROOF} {RESEARCH_ONLY}", file=sys.stderr)
    return int(not kept)


def erase(
    store: StoreFile,
    subject: Annotated[str, typer.Argument(show_default=False, help="As it was enrolled.")],
    as_json: AsJson = False,
) -> None:
    """Forget a subject: its embeddings are overwritten, and the file is rewritten without them."""
    from vagitus.store import open_store

    with open_store(store) as opened:
        n = opened.erase(subject)
        left = len(opened.subjects())
    if as_json:
        print(json.dumps({"store": str(store), "subject": subject, "n_erased": n, "n_subjects_left": left}))
    else:
        print(f"{store}: {subject} is erased, {n} recordings; {left} subjects are left")
