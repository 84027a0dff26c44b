"""The cry detector that comes with the package: trained, tested on sources it never heard, written with its card.

    python recipes/cry_detector.py              what is not done yet: five folds, then the shipped model
    python recipes/cry_detector.py --collect    recipes/results/cry-detector.jsonl from what is done

Needs $VAGITUS_DATA (or --root). Killed, the first command goes on where it was.

Data (subsets of the corpora: no figure from here is a full corpus's figure)
    crying      donateacry's usable recordings and ESC-10's baby cries, where ``segment.cry_expirations`` finds a bout;
                nobody marked the cries in them, so this is what the network learns from, errors included
    not crying  ESC-10's other nine classes; adult speech (LibriSpeech, Arabic Speech Commands, DSPSpeech-20), the
                hard negatives; what is quiet between the bouts of donateacry's recordings; synthetic alarms, since a
                first network without them took a beep for a cry
    folds       five, by source: the publisher's of ESC-10 (a sound that stands in two of them is in the first),
                app instances of donateacry, speakers. A fold's sources are not heard by its network.

Phones against clean corpora would be told apart by their sound alone. So the network hears 150 to 3400 Hz, what AMR
lets through; half of the speech and of ESC-10's clips come through AMR at 12.2 kbit/s; and level, tilt and noise are
drawn anew for every crop. donateacry's rejected recordings are never trained on.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vagitus.audio import AudioError, read
from vagitus.augment import codec
from vagitus.checkpoint import ModelCard, load_model, save_model, trained_on
from vagitus.corpora import load_corpus
from vagitus.events import (
    HOP_S,
    POOLINGS,
    CryDetector,
    Hearing,
    fit_decider,
    fit_familiarity,
    pool,
)
from vagitus.features import FeatureConfig, featurise
from vagitus.files import write_atomic
from vagitus.metrics import auroc, brier, uar
from vagitus.models import build_model
from vagitus.segment import Event, bouts, cry_expirations
from vagitus.statistics import Interval, rowwise, subject_bootstrap
from vagitus.study import versions
from vagitus.training import LabelledBatch, Supervised, TrainConfig, fit
from vagitus.windows import cut_window

Float32 = NDArray[np.float32]

NAME = "cry-detector"
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / NAME
RESULTS = ROOT / "recipes" / "results" / f"{NAME}.jsonl"
SHIPPED = ROOT / "src" / "vagitus" / "weights" / f"{NAME}.safetensors"

N_FOLDS = 5
POOLING = "attention"  # of the shipped decider: unlike max and noisy-or it does not grow with the recording
THRESHOLDS = (0.5, 0.8, 0.95)
SEED = 0
RATE_HZ = 8_000
FRONT_END = FeatureConfig(
    sample_rate_hz=RATE_HZ, window_ms=32.0, hop_ms=10.0, f_min_hz=150.0, f_max_hz=3_400.0, n_bands=40
)
WINDOW_S = 1.0
WINDOW_FRAMES = round(WINDOW_S * FRONT_END.frames_per_s)
WIDTH = 10  # 31,285 parameters, 125 kB
BITS = 8  # of a shipped weight
STEPS_PER_EPOCH = 100
TRAINING = TrainConfig(
    epochs=12, patience=12, batch_size=64, lr=3e-3, weight_decay=1e-2, precision="32-true", window_s=WINDOW_S
)
EVERY = {
    "librispeech": 1,
    "speech_commands": 4,
    "dspspeech20": 2,
}  # of the adults' recordings, one in so many
# The same sound under two names, which cross the publisher's folds (LOG.md).
SAME_SOUND = {"5-151085-A": "3"}
LEAST_STRETCH_S = 0.5
MARGIN_S = 0.3  # around a bout, where it may begin or end
BELOW_CRY_DB = 15.0  # what is so much quieter than a recording's bouts is no crying
GAIN_DB, TILT_DB = 10.0, 6.0  # deviations
MIXED_SHARE, SNR_DB = 0.5, (0.0, 25.0)
LN_OF_DB = math.log(10) / 10
AMR_KBPS = 12.2
CORPORA = ("donateacry", "esc", "librispeech", "speech_commands", "dspspeech20")
SHARES = {  # of a batch
    "donateacry": 0.4,
    "esc cry": 0.08,
    "background": 0.08,
    "esc": 0.21,
    "speech": 0.18,
    "alarm": 0.05,
}
N_ALARMS, ALARM_S = 200, 5.0
NOT_CRYING = ("esc", "speech", "alarm")


@dataclass(frozen=True)
class Recording:
    """One recording, and what a network may learn from it."""

    path: Path
    corpus: str
    source: str  # subject: app instance, Freesound clip, speaker
    fold: int
    label: str  # usable, rejected or "" of donateacry; the class of ESC-10; speech
    events: tuple[Event, ...]  # of cry_expirations
    samples: NDArray[np.int16]  # at RATE_HZ
    group: str  # of SHARES, for what is not crying; "" for donateacry


def load(root: Path | None) -> list[Recording]:
    """All recordings at RATE_HZ; those that cannot be read are passed over, and named."""
    found = []
    for name in CORPORA:
        task = {"donateacry": "usable", "esc": "category"}.get(name, "speakers")
        manifest = load_corpus(name, root=root, task=task)
        sources = sorted(set(manifest.subject.tolist()))
        dealt = np.random.default_rng(SEED).permutation(len(sources)) % N_FOLDS
        fold_of = dict(zip(sources, dealt.tolist(), strict=True))
        for i in range(0, len(manifest), EVERY.get(name, 1)):
            path = manifest.file(i)
            try:
                samples = read(path, sample_rate_hz=RATE_HZ, dtype="int16").samples
            except AudioError as error:
                print(f"left out: {error}")
                continue
            if not samples.any():
                print(f"left out: {path.name} is silent")
                continue
            fold = fold_of[str(manifest.subject[i])]
            label, group = str(manifest.label[i]), ""
            if name == "esc":
                fold = int(SAME_SOUND.get(path.stem, manifest.covariates["fold"][i])) - 1
                group = "esc cry" if "cry" in label.lower() else "esc"
            elif name != "donateacry":
                label = group = "speech"
            may_cry = name == "donateacry" or group == "esc cry"
            events = tuple(cry_expirations([samples], RATE_HZ)) if may_cry else ()
            found.append(Recording(path, name, str(manifest.subject[i]), fold, label, events, samples, group))
    return found + alarms()


def alarms() -> list[Recording]:
    """Beeps and sirens: tones of 250 to 1500 Hz with up to four harmonics, in pulses.

    Wider than IEC 60601-1-8's alarms of medical equipment, which have 150 to 1000 Hz and four harmonics at least.
    """
    found = []
    t = np.arange(round(ALARM_S * RATE_HZ)) / RATE_HZ
    for number in range(N_ALARMS):
        rng = np.random.default_rng([SEED, number])
        on_s, off_s = rng.uniform(0.1, 1.0), rng.uniform(0.05, 0.6)
        notes = rng.uniform(250, 1500) * 2 ** (rng.integers(-4, 8, int(rng.integers(1, 4))) / 12)
        f_hz = notes[(t // (on_s + off_s)).astype(np.int64) % len(notes)]
        if rng.random() < 0.35:  # a siren
            f_hz = f_hz * 2 ** (rng.uniform(0.1, 0.6) * np.sin(2 * np.pi * rng.uniform(0.2, 2.0) * t))
        phase = 2 * np.pi * np.cumsum(np.minimum(f_hz, 1_900)) / RATE_HZ
        weights = [1.0, *rng.exponential(0.3, int(rng.integers(0, 5)))]
        tone = sum(
            w * np.sin(k * phase + rng.uniform(0, 6))
            for k, w in enumerate(weights, 1)
            if k * f_hz.max() < 3_900
        )
        pulse = (t % (on_s + off_s)) < on_s
        ramp = np.hanning(round(0.02 * RATE_HZ))
        envelope = np.convolve(pulse.astype(np.float64), ramp / ramp.sum(), "same")
        noise = 10 ** rng.uniform(-4, -1.5) * rng.standard_normal(len(t))
        samples = 10 ** rng.uniform(-1.5, -0.3) * tone * envelope / sum(weights) + noise
        stored = np.round(32_767 * np.clip(samples, -1, 1)).astype(np.int16)
        name = f"alarm-{number:03d}"
        found.append(Recording(Path(name), "alarms", name, number % N_FOLDS, "alarm", (), stored, "alarm"))
    return found


class Stretch:
    """Features of a stretch that is crying throughout, or not at all."""

    def __init__(self, features: Float32, is_cry: bool, group: str, fold: int) -> None:
        self.features, self.is_cry, self.group, self.fold = features, is_cry, group, fold


def stretches(recordings: Sequence[Recording]) -> list[Stretch]:
    """What a network learns from; see the module."""
    rng = np.random.default_rng(SEED)
    found = []
    for recording in recordings:
        samples = recording.samples.astype(np.float32) / 32768
        if recording.corpus == "donateacry" and recording.label != "usable":
            continue
        if recording.group in (*NOT_CRYING, "esc cry") and rng.random() < 0.5:
            samples = codec(samples, RATE_HZ, "amr_nb", AMR_KBPS)
        features = featurise(samples, FRONT_END)
        if recording.group in NOT_CRYING:
            found.append(Stretch(features, False, recording.group, recording.fold))
            continue
        crying = list(bouts(recording.events, gap_s=0.6))
        times_s = np.arange(features.shape[1]) / FRONT_END.frames_per_s
        level_db = features.max(axis=0) / LN_OF_DB
        near = np.zeros(len(times_s), bool)
        for bout in crying:
            inside = (times_s >= bout.start_s) & (times_s < bout.end_s)
            near |= (times_s >= bout.start_s - MARGIN_S) & (times_s < bout.end_s + MARGIN_S)
            if bout.end_s - bout.start_s >= LEAST_STRETCH_S:
                group = recording.group or "donateacry"
                found.append(Stretch(features[:, inside], True, group, recording.fold))
        if recording.corpus == "donateacry" and crying:
            loud_db = np.median(level_db[near])
            quiet = ~near & (level_db < loud_db - BELOW_CRY_DB)
            for first, end in _runs(quiet, round(LEAST_STRETCH_S * FRONT_END.frames_per_s)):
                found.append(Stretch(features[:, first:end], False, "background", recording.fold))
    return found


def _runs(of: NDArray[np.bool_], least: int) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], of, [False]]).astype(np.int8)))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - first >= least:
            yield first, end


class CryCrops:
    """Crops of a window, drawn by the shares of their groups, each in a channel and a noise of its own."""

    def __init__(self, learned: Sequence[Stretch], seed: int) -> None:
        self.by_group = {group: [s for s in learned if s.group == group] for group in SHARES}
        self.noises = [s for s in learned if not s.is_cry]
        self.seed = seed

    def __call__(self, epoch: int) -> Iterator[LabelledBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        groups = list(SHARES)
        while True:
            drawn = rng.choice(len(groups), TRAINING.batch_size, p=list(SHARES.values()))
            x, y = [], []
            for g in drawn:
                members = self.by_group[groups[g]]
                stretch = members[int(rng.integers(len(members)))]
                crop = self._crop(stretch, rng)
                if rng.random() < MIXED_SHARE:
                    noise = self._crop(self.noises[int(rng.integers(len(self.noises)))], rng)
                    snr = LN_OF_DB * rng.uniform(*SNR_DB)
                    # Of sounds that know nothing of each other the powers add.
                    crop = np.logaddexp(crop, noise - _level(noise) + _level(crop) - snr)
                tilt = LN_OF_DB * TILT_DB * rng.normal() * np.linspace(-1, 1, FRONT_END.n_rows)[:, None]
                x.append(
                    np.maximum(crop + LN_OF_DB * GAIN_DB * rng.normal() + tilt, math.log(FRONT_END.log_floor))
                )
                y.append(int(stretch.is_cry))
            batch = np.stack(x).astype(np.float32)
            yield LabelledBatch(torch.from_numpy(batch), torch.tensor(y))

    @staticmethod
    def _crop(stretch: Stretch, rng: np.random.Generator) -> Float32:
        slack = stretch.features.shape[1] - WINDOW_FRAMES
        first = int(rng.integers(slack + 1 if slack >= 0 else stretch.features.shape[1]))
        return cut_window(stretch.features, first, WINDOW_FRAMES)


def _level(features: Float32) -> float:
    return float(np.log(np.mean(np.exp(features.astype(np.float64)))))


def card(provenance: Mapping[str, Any], **changes: Any) -> ModelCard:
    return replace(
        ModelCard(
            model="small",
            options={"n_mels": FRONT_END.n_rows, "n_classes": 2, "width": WIDTH},
            features=FRONT_END,
            window_s=WINDOW_S,
            class_names=("other", "cry"),
            positive="cry",
            threshold=0.5,
            provenance=dict(provenance),
        ),
        **changes,
    )


def train(learned: Sequence[Stretch], out: Path, seed: int) -> None:
    """Train one network and keep it, with its training state beside it until it is done."""
    torch.manual_seed(seed)
    model = build_model("small", n_mels=FRONT_END.n_rows, n_classes=2, width=WIDTH)
    state = out.with_suffix(".state")
    fit(
        model,
        Supervised("cross_entropy"),
        CryCrops(learned, seed),
        TRAINING,
        steps_per_epoch=STEPS_PER_EPOCH,
        seed=seed,
        state_path=state,
        on_epoch=lambda record: print(
            f"{out.stem}: epoch {record['epoch']:.0f}, loss {record['task']:.3f}", flush=True
        ),
    )
    save_model(out, model, card({"seed": seed}))
    state.unlink(missing_ok=True)


# What a fold's network says of the sources that it never heard.


def heard(detector: CryDetector, recording: Recording) -> dict[str, Any]:
    """One line for a recording of the test fold."""
    hearing = Hearing(detector, RATE_HZ)
    events = list(hearing.events([recording.samples]))
    found = hearing.summary()
    return {
        "corpus": recording.corpus,
        "source": recording.source,
        "fold": recording.fold,
        "label": recording.label,
        "name": recording.path.stem,
        "duration_s": found.duration_s,
        "n_proposed": len(recording.events),
        "n_confirmed": len(events),
        "cry_s": found.cry_s,
        "scores": [round(e.score, 4) for e in events],
        "log_odds": np.round(found.log_odds, 3).tolist(),
        "features": np.round(found.features, 4).tolist(),
    }


def false_alarms(detector: CryDetector, recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Recordings that hold no cry, put end to end to one long one: what is found in each."""
    ends_s = np.cumsum([len(r.samples) for r in recordings]) / RATE_HZ
    proposed = list(cry_expirations((r.samples for r in recordings), RATE_HZ))
    hearing = Hearing(detector, RATE_HZ, threshold=0.0)
    scored = list(hearing.events(r.samples for r in recordings))
    if len(scored) != len(proposed):
        raise RuntimeError(f"{len(proposed)} expirations were proposed and {len(scored)} scored")
    lines = []
    owner = np.searchsorted(ends_s, [e.start_s for e in scored], side="right")
    for i, recording in enumerate(recordings):
        own = [e.score for e, o in zip(scored, owner, strict=True) if o == i]
        lines.append(
            {
                "corpus": recording.corpus,
                "source": recording.source,
                "fold": recording.fold,
                "label": recording.label,
                "name": recording.path.stem,
                "duration_s": len(recording.samples) / RATE_HZ,
                "scores": [round(score, 4) for score in own],
            }
        )
    return lines


def run_fold(fold: int, recordings: Sequence[Recording], learned: Sequence[Stretch]) -> None:
    """Train on the other folds, and write what is heard in this one."""
    model, out = OUT / f"fold-{fold}.safetensors", OUT / f"fold-{fold}.json"
    if not model.exists():
        train([s for s in learned if s.fold != fold], model, SEED + fold)
    detector = CryDetector(model)
    own = [r for r in recordings if r.fold == fold]
    has_cry = [r for r in own if r.corpus in ("donateacry", "esc")]
    lines = {"recordings": [heard(detector, r) for r in has_cry], "false_alarms": []}
    for corpus in (*CORPORA[1:], "alarms"):
        silent_of_cries = [r for r in own if r.corpus == corpus and r.group != "esc cry"]
        lines["false_alarms"] += false_alarms(detector, silent_of_cries)
    # Windows of known kind, for the calibration of the shipped model.
    rng = np.random.default_rng(fold)
    crops = [(CryCrops._crop(s, rng), s) for s in learned if s.fold == fold]
    z, _ = detector.run(np.stack([crop for crop, _ in crops]))
    lines["windows"] = [
        {"log_odds": round(float(v), 4), "is_cry": s.is_cry, "group": s.group}
        for v, (_, s) in zip(z, crops, strict=True)
    ]
    write_atomic(out, json.dumps(lines))


# The lines of results, and what is shipped.


def folds() -> dict[str, list[dict[str, Any]]]:
    """All folds' lines together.

    Raises:
        FileNotFoundError: a fold is not done.
    """
    whole: dict[str, list[dict[str, Any]]] = {"recordings": [], "false_alarms": [], "windows": []}
    for fold in range(N_FOLDS):
        path = OUT / f"fold-{fold}.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: fold {fold} is not done; leave out --collect first")
        for key, lines in json.loads(path.read_text()).items():
            whole[key] += lines
    return whole


def pooled_by(lines: Sequence[Mapping[str, Any]], how: str) -> NDArray[np.float64]:
    """Pooled log-odds of recordings; attention listens to where the detector hears most crying."""
    return np.array([pool(line["log_odds"], how, attention=line["log_odds"]) for line in lines])


def judged_of(whole: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """donateacry's recordings that somebody listened to."""
    return [
        line
        for line in whole["recordings"]
        if line["corpus"] == "donateacry" and line["label"] in ("usable", "rejected")
    ]


def rate_per_hour(lines: Sequence[Mapping[str, Any]], threshold: float) -> Interval:
    """False alarms in an hour of recordings without a cry, with an interval over sources."""
    n = np.array([sum(score >= threshold for score in line["scores"]) for line in lines], np.float64)
    hours = np.array([line["duration_s"] for line in lines]) / 3600
    return subject_bootstrap(
        lambda w: (w @ n) / (w @ hours), [line["source"] for line in lines], rng=np.random.default_rng(SEED)
    )


def collect() -> None:
    """Write the shipped model's calibration and the results' lines."""
    whole = folds()
    rng = np.random.default_rng(SEED)
    about = {
        "kind": "cry_detector",
        "command": "python recipes/cry_detector.py",
        "versions": versions(),
        "n_parameters": sum(p.numel() for p in build_model("small", **card({}).options).parameters()),
        "n_bytes": SHIPPED.stat().st_size,
        "n_folds": N_FOLDS,
        "n_recordings": len(whole["recordings"]),
        "training": TRAINING.model_dump(),
    }
    lines = [about]

    def add(what: str, metric: str, value: Interval, n: int, **more: Any) -> None:
        lines.append({"kind": "metric", "what": what, "metric": metric, "n": n, **asdict(value), **more})

    windows = whole["windows"]
    y = np.array([w["is_cry"] for w in windows], np.int64)
    z = np.array([w["log_odds"] for w in windows])
    lines.append({"kind": "windows", "auroc": auroc(y, z), "n": len(y), "n_cry": int(y.sum())})

    esc = [line for line in whole["recordings"] if line["corpus"] == "esc"]
    y = np.array(["cry" in line["label"].lower() for line in esc], np.int64)
    sources = [line["source"] for line in esc]
    for how in POOLINGS:
        scores = pooled_by(esc, how)
        value = subject_bootstrap(rowwise(lambda w, s=scores: auroc(y, s, w)), sources, rng=rng)  # type: ignore[misc]
        add("ESC-10 clips, cry or other", f"AUROC, {how}", value, len(esc))
    for threshold in THRESHOLDS:
        found = np.array([any(score >= threshold for score in line["scores"]) for line in esc])
        for metric, chosen in (("sensitivity", 1), ("specificity", 0)):
            own = y == chosen
            right = (found == y)[own].astype(np.float64)
            value = subject_bootstrap(
                lambda w, r=right: (w @ r) / w.sum(axis=1),  # type: ignore[misc]
                np.array(sources)[own],
                rng=rng,
            )
            add(f"ESC-10 clips, an expiration confirmed from {threshold:g}", metric, value, int(own.sum()))

    # The decision for a recording: calibrated and its threshold set on the other folds.
    judged = [
        r for r in whole["recordings"] if r["corpus"] == "donateacry" and r["label"] in ("usable", "rejected")
    ]
    y = np.array([line["label"] == "usable" for line in judged], np.int64)
    sources = [line["source"] for line in judged]
    fold = np.array([line["fold"] for line in judged])
    for how in POOLINGS:
        scores = pooled_by(judged, how)
        value = subject_bootstrap(rowwise(lambda w, s=scores: auroc(y, s, w)), sources, rng=rng)  # type: ignore[misc]
        add("donateacry, usable or rejected", f"AUROC, {how}", value, len(judged))
        p, said, kept = np.full(len(y), np.nan), np.zeros(len(y), np.int64), np.zeros(len(y), bool)
        for f in range(N_FOLDS):
            decider = fit_decider(
                scores[fold != f], y[fold != f], class_names=("rejected", "usable"), pooling=how
            )
            for i in np.flatnonzero(fold == f):
                verdict = decider.decide(
                    judged[i]["log_odds"], cry_s=judged[i]["cry_s"], attention=judged[i]["log_odds"]
                )
                kept[i] = not verdict.reason
                p[i] = float(decider.calibrator.apply([[0.0, scores[i]]])[0, 1])
                said[i] = int(p[i] >= decider.threshold)
        value = subject_bootstrap(rowwise(lambda w, q=p: brier(y, q, w)), sources, rng=rng)  # type: ignore[misc]
        add("donateacry, usable or rejected", f"Brier, {how}", value, len(judged))
        value = subject_bootstrap(rowwise(lambda w, d=said: uar(y, d, w)), sources, rng=rng)  # type: ignore[misc]
        add("donateacry, usable or rejected", f"UAR, {how}", value, len(judged))
        value = subject_bootstrap(
            rowwise(lambda w, d=said[kept], t=y[kept]: uar(t, d, w)),  # type: ignore[misc]
            np.array(sources)[kept],
            rng=rng,
        )
        add(
            "donateacry, where it does not abstain",
            f"UAR, {how}",
            value,
            int(kept.sum()),
            abstained_usable=int((~kept & (y == 1)).sum()),
            abstained_rejected=int((~kept & (y == 0)).sum()),
        )
    usable = [line for line in judged if line["label"] == "usable" and line["n_proposed"]]
    proposed = np.array([line["n_proposed"] for line in usable], np.float64)
    for threshold in THRESHOLDS:
        n = np.array([sum(score >= threshold for score in line["scores"]) for line in usable], np.float64)
        value = subject_bootstrap(
            lambda w, n=n: (w @ n) / (w @ proposed),  # type: ignore[misc]
            [line["source"] for line in usable],
            rng=rng,
        )
        add(
            "donateacry usable, expirations of level and pitch",
            f"confirmed from {threshold:g}",
            value,
            len(usable),
        )

    names = {
        "esc": "ESC-10 without cries",
        "librispeech": "LibriSpeech",
        "speech_commands": "Arabic words",
        "dspspeech20": "DSPSpeech-20",
        "alarms": "synthetic alarms",
    }
    for corpus, what in names.items():
        own_lines = [line for line in whole["false_alarms"] if line["corpus"] == corpus]
        hours = sum(line["duration_s"] for line in own_lines) / 3600
        for threshold in (0.0, *THRESHOLDS):
            lines.append(
                {
                    "kind": "false_alarms",
                    "what": what,
                    "threshold": threshold,
                    "hours": hours,
                    **asdict(rate_per_hour(own_lines, threshold)),
                }
            )
    by_class: dict[str, list[dict[str, Any]]] = {}
    for line in whole["false_alarms"]:
        if line["corpus"] == "esc":
            by_class.setdefault(line["label"], []).append(line)
    for label, own_lines in sorted(by_class.items()):
        lines.append(
            {
                "kind": "false_alarms",
                "what": f"ESC-10 {label}",
                "threshold": 0.5,
                "hours": sum(line["duration_s"] for line in own_lines) / 3600,
                **asdict(rate_per_hour(own_lines, 0.5)),
            }
        )
    write_atomic(RESULTS, "".join(json.dumps(line) + "\n" for line in lines))
    for line in lines[1:]:
        print(json.dumps(line))


def ship(recordings: Sequence[Recording], learned: Sequence[Stretch]) -> None:
    """Train on all folds; fit the decider on what the folds' networks said of their own test side."""
    raw = OUT / "shipped.safetensors"
    if not raw.exists():
        train(learned, raw, SEED + N_FOLDS)
    judged = judged_of(folds())
    decider = fit_decider(
        pooled_by(judged, POOLING),
        [int(line["label"] == "usable") for line in judged],
        class_names=("rejected", "usable"),
        pooling=POOLING,
    )
    detector = CryDetector(raw)
    model, _ = load_model(raw)
    heard_of = [r for r in recordings if r.corpus == "donateacry" and r.label == "usable"]
    rows, sources = [], []
    for recording in heard_of:
        hearing = Hearing(detector, RATE_HZ)
        for _ in hearing.events([recording.samples]):
            pass
        rows.append(hearing.summary().features)
        sources.append(recording.source)
    decider = replace(decider, familiarity=rounded(fit_familiarity(rows, sources)))
    used = [
        r.path
        for r in recordings
        if r.corpus in CORPORA and (r.corpus != "donateacry" or r.label == "usable")
    ]
    provenance = {
        "command": "python recipes/cry_detector.py",
        "data": "donateacry (usable), ESC-10, LibriSpeech, Arabic Speech Commands, DSPSpeech-20 (subsets); synthetic "
        "alarms",
        "hop_s": HOP_S,
        "seed": SEED + N_FOLDS,
        "versions": versions(),
        "recording": decider.to_dict(),
        "trained_on": trained_on(used),
    }
    save_model(
        SHIPPED,
        model,
        card(
            provenance,
            compression={"plan": None, "bits": BITS, "sparse": False},
        ),
    )
    print(f"{SHIPPED.name}: {SHIPPED.stat().st_size:,} bytes")


def rounded(familiarity: Any) -> Any:
    """To six digits: a header is text."""
    short = lambda x: float(f"{x:.6g}")  # noqa: E731
    return replace(
        familiarity,
        mean=tuple(short(x) for x in familiarity.mean),
        whitening=tuple(tuple(short(x) for x in row) for row in familiarity.whitening),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, help="the data root; default $VAGITUS_DATA")
    parser.add_argument("--collect", action="store_true", help="write the results of what is done, and end")
    arguments = parser.parse_args()
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if arguments.collect:
        collect()
        return
    OUT.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    recordings = load(arguments.root)
    learned = stretches(recordings)
    print(
        f"{len(recordings)} recordings, {len(learned)} stretches, {time.monotonic() - started:.0f} s",
        flush=True,
    )
    for fold in range(N_FOLDS):
        if not (OUT / f"fold-{fold}.json").exists():
            run_fold(fold, recordings, learned)
    ship(recordings, learned)
    collect()


if __name__ == "__main__":
    main()
