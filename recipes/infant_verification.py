"""Is this the same infant? Adult voices, then infants, on donateacry.

    python recipes/infant_verification.py --ge2e Resemblyzer-0.1.4-py3-none-any.whl

    --ge2e FILE   Resemblyzer-0.1.4-py3-none-any.whl (pip download --no-deps resemblyzer==0.1.4); without it the arms
                  that need it are left out
    --collect     recipes/results/infant-verification.jsonl from what is done

Needs $VAGITUS_DATA (or --root). One file an arm and fold in out/infant-verification: killed, it goes on.

Data: a subset of donateacry; no figure from here is a full corpus's figure
    one infant        the same app instance (UUID), gender and age. **An app instance is a phone and not an infant**:
                      who shares a UUID shares the phone, and mostly the room.
    two               of two UUIDs. Pairs of one UUID and another gender or age are in no trial: it may be the same
                      infant, older. Those of another gender are looked at by themselves, as "same phone": there the
                      phone says nothing.
    folds             five, by UUID; a fold's trials are all pairs of its recordings, scored by what was trained on the
                      other folds, whose recordings are the cohort of the score normalisation
    a day or more     pairs of one infant at least 24 hours apart by the time in the file name, against all pairs of two
    same session      pairs of one infant less than an hour apart: the flattering one

Arms
    ge2e              the adults' encoder as published, its embeddings compared by cosine; no cry was ever heard
    ge2e shuffled     the same on expirations alone (segment.cry_expirations), the mean over 8 shuffled concatenations
    + backend         discriminants of the training folds' infants on those embeddings
    network           a small network on log-mel of 100 to 3800 Hz: from scratch; from adult speakers (AAM-softmax)
                      to infants; from cries without labels (two crops of a recording are each other's pair, NT-Xent)
                      to infants. The last step is the GE2E loss throughout.
    background        the control: a backend on the mean and the 10 % quantile of the spectrum **between** the cries
    fused             the mean of the normalised scores of ge2e + backend, network from adults and background
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus.audio import AudioError, read
from vagitus.corpora import load_corpus
from vagitus.encoders import Encoder, open_encoder
from vagitus.features import FeatureConfig, featurise
from vagitus.files import write_atomic
from vagitus.losses import aam_softmax, ge2e, nt_xent
from vagitus.metrics import FloatArray, IntArray, equal_error_statistic
from vagitus.models import build_model
from vagitus.segment import cry_expirations
from vagitus.statistics import Interval, subject_bootstrap
from vagitus.study import versions
from vagitus.training import TrainConfig, fit
from vagitus.verification import (
    adaptive_norm,
    detection_band,
    embed_session,
    evaluate,
    fit_backend,
    identification_rate,
    of_subjects,
    probe_ranks,
    score_all,
    session_vectors,
    unit_rows,
)
from vagitus.windows import cut_window, window_starts

Float32 = NDArray[np.float32]

NAME = "infant-verification"
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / NAME
RESULTS = ROOT / "recipes" / "results" / f"{NAME}.jsonl"

SEED = 0
N_FOLDS = 5
DAY_S, SESSION_S = 86_400.0, 3_600.0
FRONT_END = FeatureConfig(
    sample_rate_hz=8_000, window_ms=32.0, hop_ms=10.0, f_min_hz=100.0, f_max_hz=3_800.0, n_bands=40
)
CROP_FRAMES = 200
WIDTH = 16
N_INFANTS, N_CROPS = 16, 2  # a batch
STEPS = {"adults": 600, "cries": 400, "infants": 500}
STEPS_PER_EPOCH = 50
N_VIEWS, VIEW_S = 8, 4.0
BACKEND = {"ge2e": (100, 0.6), "ge2e shuffled": (100, 0.6), "background": (30, 0.1)}  # directions, shrinkage
MASKED_BANDS, MASKED_FRAMES = 8, 40
LEAST_QUIET_FRAMES = 10


class Cries(NamedTuple):
    """donateacry, one row a recording."""

    features: list[Float32]
    expirations: list[list[tuple[float, float]]]
    paths: list[Path]
    infant: NDArray[np.str_]
    uuid: NDArray[np.str_]
    gender: NDArray[np.str_]
    site: NDArray[np.str_]
    recorded_s: FloatArray
    fold: IntArray


def load(root: Path | None) -> Cries:
    manifest = load_corpus("donateacry", root=root, task="platform")
    uuids = sorted(set(manifest.subject.tolist()))
    dealt = np.random.default_rng(SEED).permutation(len(uuids)) % N_FOLDS
    fold_of = dict(zip(uuids, dealt.tolist(), strict=True))
    features, expirations, rows = [], [], []
    for i in range(len(manifest)):
        try:
            samples = read(manifest.file(i), sample_rate_hz=FRONT_END.sample_rate_hz).samples
        except AudioError as error:
            print(f"left out: {error}")
            continue
        if not samples.any():
            continue
        features.append(featurise(samples, FRONT_END))
        expirations.append(
            [(e.start_s, e.end_s) for e in cry_expirations([samples], FRONT_END.sample_rate_hz)]
        )
        rows.append(i)
    own = manifest.select(rows)
    when = [datetime.fromisoformat(text).timestamp() for text in own.covariates["recorded_at"]]
    return Cries(
        features,
        expirations,
        [own.file(i) for i in range(len(own))],
        own.covariates["infant"],
        own.subject,
        own.covariates["gender"],
        own.site,
        np.array(when),
        np.array([fold_of[str(s)] for s in own.subject]),
    )


# Vectors of recordings that need no training.


def published(cries: Cries, encoder: Encoder, *, shuffled: bool) -> FloatArray:
    """(n, dim) of the adults' encoder: of whole recordings, or of their expirations in several orders."""
    path = OUT / f"ge2e{' shuffled' if shuffled else ''}.npy"
    if path.exists():
        return np.asarray(np.load(path, allow_pickle=False))
    vectors = []
    for i, file in enumerate(cries.paths):
        samples = read(file, sample_rate_hz=encoder.sample_rate_hz).samples
        if not shuffled:
            vectors.append(unit_rows(encoder.embed(samples)[None])[0])
            continue
        cut = [samples[round(a * 16_000) : round(b * 16_000)] for a, b in cries.expirations[i]] or [samples]
        rng = np.random.default_rng([SEED, i])
        views = embed_session(encoder, cut, crop_s=VIEW_S, n_views=N_VIEWS, rng=rng)
        vectors.append(session_vectors([views])[0])
        if i % 100 == 0:
            print(f"ge2e shuffled: {i} of {len(cries.paths)}", flush=True)
    with path.with_suffix(".part").open("wb") as file_out:
        np.save(file_out, np.stack(vectors))
    path.with_suffix(".part").replace(path)
    return np.stack(vectors)


def background(cries: Cries) -> FloatArray:
    """(n, 2 n_bands): the spectrum between the cries, standardised over recordings."""
    rows = []
    for features, expirations in zip(cries.features, cries.expirations, strict=True):
        times_s = np.arange(features.shape[1]) / FRONT_END.frames_per_s
        quiet = np.ones(len(times_s), bool)
        for start_s, end_s in expirations:
            quiet &= (times_s < start_s) | (times_s >= end_s)
        level = features.mean(axis=0)
        if quiet.sum() < LEAST_QUIET_FRAMES or not expirations:
            quiet = level <= np.quantile(level, 0.1)
        heard = features[:, quiet]
        rows.append(np.concatenate([heard.mean(axis=1), np.quantile(heard, 0.1, axis=1)]))
    x = np.stack(rows).astype(np.float64)
    return np.asarray((x - x.mean(axis=0)) / x.std(axis=0))


# Networks.


class CropBatch(NamedTuple):
    x: Tensor  # (n_classes, n_crops, n_mels, n_frames)
    y: Tensor  # (n_classes,)


class Crops:
    """Some classes a batch, crops of each from different recordings where it has them; bands and frames hidden."""

    def __init__(self, features: Sequence[Float32], labels: Sequence[str], seed: int, n_classes: int) -> None:
        names, index = np.unique(np.asarray(labels), return_inverse=True)
        self.features = features
        self.members = [np.flatnonzero(index == c) for c in range(len(names))]
        self.seed, self.n_classes = seed, min(n_classes, len(names))

    def __call__(self, epoch: int) -> Iterator[CropBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        while True:
            drawn = rng.choice(len(self.members), self.n_classes, replace=False)
            x = np.stack([[self._crop(int(i), rng) for i in self._recordings(c, rng)] for c in drawn])
            yield CropBatch(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(drawn))

    def _recordings(self, c: int, rng: np.random.Generator) -> IntArray:
        own = rng.permutation(self.members[c])
        return np.resize(own, N_CROPS)

    def _crop(self, i: int, rng: np.random.Generator) -> Float32:
        features = self.features[i]
        slack = features.shape[1] - CROP_FRAMES
        first = int(rng.integers(slack + 1 if slack >= 0 else features.shape[1]))
        x = cut_window(features, first, CROP_FRAMES).copy()
        mean = x.mean()
        band, frame = int(rng.integers(x.shape[0])), int(rng.integers(CROP_FRAMES))
        x[band : band + int(rng.integers(MASKED_BANDS))] = mean
        x[:, frame : frame + int(rng.integers(MASKED_FRAMES))] = mean
        return np.asarray(x + rng.normal())  # 4 dB


class Margin(nn.Module):
    """AAM-softmax over the classes, with their directions."""

    def __init__(self, n_classes: int, dim: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(0.1 * torch.randn(n_classes, dim))

    def forward(self, model: nn.Module, batch: CropBatch) -> dict[str, Tensor]:
        z = model.features(batch.x.flatten(0, 1))  # type: ignore[operator]
        return {"aam": aam_softmax(z, self.directions, batch.y.repeat_interleave(batch.x.shape[1]))}


class EndToEnd(nn.Module):
    """GE2E, with its scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, model: nn.Module, batch: CropBatch) -> dict[str, Tensor]:
        z = model.features(batch.x.flatten(0, 1)).unflatten(0, batch.x.shape[:2])  # type: ignore[operator]
        return {"ge2e": ge2e(z, self.log_scale.exp(), self.bias)}


class Contrast(nn.Module):
    """NT-Xent between the two crops of a recording."""

    def forward(self, model: nn.Module, batch: CropBatch) -> dict[str, Tensor]:
        z = model.features(batch.x.flatten(0, 1)).unflatten(0, batch.x.shape[:2])  # type: ignore[operator]
        return {"nt_xent": nt_xent(z[:, 0], z[:, 1], 0.2)}


def learn(model: nn.Module, objective: nn.Module, batches: Crops, what: str, state: Path) -> None:
    config = TrainConfig(
        epochs=STEPS[what] // STEPS_PER_EPOCH,
        lr=2e-3,
        weight_decay=1e-2,
        precision="32-true",
        warmup_epochs=1,
    )
    history = fit(
        model, objective, batches, config, steps_per_epoch=STEPS_PER_EPOCH, seed=SEED, state_path=state
    )
    last = {k: round(v, 3) for k, v in history[-1].items() if k not in ("epoch", "lr")}
    print(f"{state.stem}: {last}", flush=True)


def fresh() -> nn.Module:
    torch.manual_seed(SEED)
    return build_model("small", n_mels=FRONT_END.n_rows, n_classes=2, width=WIDTH)


def adults(root: Path | None) -> Path:
    """The weights of a network that learned to tell adult speakers apart; no infant is among them."""
    path = OUT / "adults.pt.npz"
    if path.exists():
        return path
    features: list[Float32] = []
    speakers: list[str] = []
    for corpus, every in (("librispeech", 1), ("speech_commands", 4), ("dspspeech20", 2)):
        manifest = load_corpus(corpus, root=root, task="speakers")
        for i in range(0, len(manifest), every):
            if manifest.covariates.get("subset", manifest.site)[i] == "test-other":
                continue
            samples = read(manifest.file(i), sample_rate_hz=FRONT_END.sample_rate_hz).samples
            features.append(featurise(samples, FRONT_END))
            speakers.append(f"{corpus} {manifest.subject[i]}")
    model = fresh()
    batches = Crops(features, speakers, SEED, N_INFANTS)
    objective = Margin(len(batches.members), int(model.feature_dim))  # type: ignore[arg-type]
    learn(model, objective, batches, "adults", OUT / "adults.state")
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, **{k: v.numpy() for k, v in model.state_dict().items()})
    path.with_suffix(".part").replace(path)
    return path


def network(cries: Cries, start: str, fold: int, root: Path | None) -> FloatArray:
    """(n, dim) of all recordings, of a network that heard the other folds' infants alone."""
    model = fresh()
    training = np.flatnonzero(cries.fold != fold)
    heard = [cries.features[i] for i in training]
    if start == "adults":
        with np.load(adults(root), allow_pickle=False) as stored:
            model.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored})
    elif start == "cries":
        alone = Crops(heard, [str(i) for i in training], SEED + fold, 2 * N_INFANTS)
        learn(model, Contrast(), alone, "cries", OUT / f"cries {fold}.state")
    several = [i for i, c in zip(training, _n_of(cries.infant[training]), strict=True) if c > 1]
    batches = Crops(
        [cries.features[i] for i in several], cries.infant[several].tolist(), SEED + fold, N_INFANTS
    )
    learn(model, EndToEnd(), batches, "infants", OUT / f"{start} infants {fold}.state")
    rows = []
    with torch.inference_mode():
        for features in cries.features:
            starts = window_starts(features.shape[1], CROP_FRAMES, CROP_FRAMES // 2)
            x = np.stack([cut_window(features, int(s), CROP_FRAMES) for s in starts])
            rows.append(session_vectors([model.features(torch.from_numpy(x)).numpy()])[0])  # type: ignore[operator]
    return np.stack(rows)


def _n_of(names: NDArray[np.str_]) -> IntArray:
    index = np.unique(names, return_inverse=True)[1]
    return np.asarray(np.bincount(index)[index])


# Trials.


class Scored(NamedTuple):
    """All pairs of one fold's recordings, by number."""

    first: IntArray
    second: IntArray
    cosine: FloatArray
    normalised: FloatArray


def score_fold(vectors: FloatArray, cries: Cries, fold: int) -> Scored:
    own, others = (np.flatnonzero(cries.fold == fold), np.flatnonzero(cries.fold != fold))
    a, cohort = vectors[own], vectors[others]
    cosine = score_all(a, a)
    against = score_all(a, cohort)
    i, j = np.triu_indices(len(own), 1)
    return Scored(own[i], own[j], cosine[i, j], adaptive_norm(cosine, against, against)[i, j])


def vectors_of(arm: str, cries: Cries, fold: int, encoder: Encoder | None, root: Path | None) -> FloatArray:
    """(n, dim) of all recordings under an arm, trained on the other folds."""
    base, _, trained = arm.partition(" + ")
    if base.startswith("network"):
        return network(cries, base.removeprefix("network, "), fold, root)
    if base == "background":
        x = background(cries)
    else:
        if encoder is None:
            raise RuntimeError(f"{arm} needs --ge2e")
        x = published(cries, encoder, shuffled=base == "ge2e shuffled")
    if not trained and base != "background":
        return x
    training = cries.fold != fold
    n_out, shrinkage = BACKEND[base]
    backend = fit_backend(x[training], cries.infant[training], n_out=n_out, shrinkage=shrinkage)
    return unit_rows(backend.apply(x))


ARMS = (
    "ge2e",
    "ge2e shuffled",
    "ge2e + backend",
    "ge2e shuffled + backend",
    "background",
    "network, scratch",
    "network, adults",
    "network, cries",
)
FUSED = ("ge2e + backend", "network, adults", "background")
CONDITIONS = (
    "all",
    "a day or more apart",
    "same session",
    "a day or more apart, same platform",
    "same phone",
)


def conditions(
    cries: Cries, first: IntArray, second: IntArray
) -> dict[str, tuple[NDArray[np.bool_], IntArray]]:
    """Which pairs are trials of a condition, and which of them are of one infant."""
    same = cries.infant[first] == cries.infant[second]
    two = cries.uuid[first] != cries.uuid[second]
    apart_s = np.abs(cries.recorded_s[first] - cries.recorded_s[second])
    day = same & (apart_s >= DAY_S)
    platform = cries.site[first] == cries.site[second]
    other_gender = ~two & (cries.gender[first] != cries.gender[second])
    chosen = {
        "all": same | two,
        "a day or more apart": day | two,
        "same session": (same & (apart_s < SESSION_S)) | two,
        "a day or more apart, same platform": (day | two) & platform,
        "same phone": day | other_gender,
    }
    return {name: (mask, same.astype(np.int64)) for name, mask in chosen.items()}


def measured(
    scores: FloatArray, labels: IntArray, first: NDArray[np.str_], second: NDArray[np.str_]
) -> Interval:
    """EER with its interval over app instances."""
    statistic, units = of_subjects(equal_error_statistic(labels, scores), first, second)
    return subject_bootstrap(statistic, units, rng=np.random.default_rng(SEED), n_resamples=1000)


def ranks_of(cries: Cries, scored: Scored) -> IntArray:
    """Ranks at which probes a day or more later find their infant among the first recordings of a fold's infants."""
    own = np.unique(np.concatenate([scored.first, scored.second]))
    place = {int(i): k for k, i in enumerate(own)}
    square = np.zeros((len(own), len(own)))
    a, b = ([place[int(i)] for i in side] for side in (scored.first, scored.second))
    square[a, b] = square[b, a] = scored.normalised
    first_of: dict[str, int] = {}
    for i in own[np.argsort(cries.recorded_s[own], kind="stable")]:
        first_of.setdefault(str(cries.infant[i]), int(i))
    gallery = np.array([place[i] for i in first_of.values()])
    earliest = np.array([first_of[str(name)] for name in cries.infant[own]])
    probes = np.flatnonzero(cries.recorded_s[own] - cries.recorded_s[earliest] >= DAY_S)
    return probe_ranks(square[np.ix_(probes, gallery)], cries.infant[own][probes], np.array(list(first_of)))


def run(cries: Cries, encoder: Encoder | None, root: Path | None) -> None:
    """Every arm and fold that is not done."""
    for arm in ARMS:
        if encoder is None and arm.startswith("ge2e"):
            continue
        for fold in range(N_FOLDS):
            path = OUT / f"{arm}, fold {fold}.npz"
            if path.exists():
                continue
            started = time.process_time()
            scored = score_fold(vectors_of(arm, cries, fold, encoder, root), cries, fold)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, **scored._asdict(), cpu_s=time.process_time() - started)
            path.with_suffix(".part").replace(path)
            print(f"{arm}, fold {fold}: {time.process_time() - started:.0f} s", flush=True)


def done(arm: str) -> list[Scored] | None:
    paths = [OUT / f"{arm}, fold {fold}.npz" for fold in range(N_FOLDS)]
    if not all(path.exists() for path in paths):
        return None
    folds = []
    for path in paths:
        with np.load(path, allow_pickle=False) as stored:
            folds.append(Scored(*(stored[name] for name in Scored._fields)))
    return folds


def adult_sanity(encoder: Encoder, root: Path | None) -> dict[str, Any]:
    """GE2E on the ten speakers of LibriSpeech's test-other, all pairs of their utterances."""
    manifest = load_corpus("librispeech", root=root, task="speakers")
    rows = [i for i in range(len(manifest)) if manifest.covariates["subset"][i] == "test-other"]
    x = session_vectors([encoder.embed(manifest.file(i)) for i in rows])
    speaker = manifest.subject[rows]
    i, j = np.triu_indices(len(x), 1)
    found = evaluate(score_all(x, x)[i, j], speaker[i], speaker[j], rng=np.random.default_rng(SEED))
    return {"kind": "adults", "arm": "ge2e", **asdict(found)}


def lines_of(arm: str, folds: Sequence[Scored], cries: Cries) -> list[dict[str, Any]]:
    """One line for every condition and way of scoring, and one of identification."""
    first, second = (np.concatenate([getattr(f, side) for f in folds]) for side in ("first", "second"))
    lines = []
    ways: dict[str, Callable[[Scored], FloatArray]] = {
        "cosine": lambda f: f.cosine,
        "s-norm": lambda f: f.normalised,
    }
    for way, of in ways.items():
        if arm == "fused" and way == "cosine":
            continue
        scores = np.concatenate([of(f) for f in folds])
        for name, (mask, labels) in conditions(cries, first, second).items():
            a, b = cries.uuid[first[mask]], cries.uuid[second[mask]]
            found = measured(scores[mask], labels[mask], a, b)
            lines.append(
                {
                    "kind": "arm",
                    "arm": arm,
                    "scores": way,
                    "condition": name,
                    "n_same": int(labels[mask].sum()),
                    "n_different": int((1 - labels[mask]).sum()),
                    "n_infants_same": len(set(cries.infant[first[mask & (labels == 1)]].tolist())),
                    "eer": asdict(found),
                }
            )
    ranks = np.concatenate([ranks_of(cries, fold) for fold in folds])
    # The last recording of a fold is first in no pair.
    heard = [np.concatenate([fold.first, fold.second]) for fold in folds]
    n_known = np.mean([len(set(cries.infant[own].tolist())) for own in heard])
    rates = {f"rank {k}": identification_rate(ranks, k) for k in (1, 5, 10)}
    lines.append(
        {
            "kind": "identification",
            "arm": arm,
            "n_probes": len(ranks),
            "mean_infants": float(n_known),
            **rates,
        }
    )
    return lines


def fuse(parts: Sequence[Sequence[Scored]]) -> list[Scored]:
    """The mean of normalised scores, pair by pair."""
    fused = []
    for folds in zip(*parts, strict=True):
        mean = np.mean([f.normalised for f in folds], axis=0)
        fused.append(Scored(folds[0].first, folds[0].second, mean, mean))
    return fused


def collect(cries: Cries, encoder: Encoder | None, root: Path | None) -> None:
    infants = _n_of(cries.infant)
    lines: list[dict[str, Any]] = [
        {
            "kind": "infant_verification",
            "command": "python recipes/infant_verification.py --ge2e Resemblyzer-0.1.4-py3-none-any.whl",
            "versions": versions(),
            "n_recordings": len(cries.paths),
            "n_infants": len(set(cries.infant.tolist())),
            "n_infants_of_two": len(set(cries.infant[infants > 1].tolist())),
            "n_uuids": len(set(cries.uuid.tolist())),
            "n_folds": N_FOLDS,
            "seed": SEED,
            "steps": STEPS,
        }
    ]
    found = {arm: folds for arm in ARMS if (folds := done(arm)) is not None}
    if encoder is not None:
        lines.append(adult_sanity(encoder, root))
        x = published(cries, encoder, shuffled=False)
        i, j = np.triu_indices(len(x), 1)
        everything = [Scored(i, j, score_all(x, x)[i, j], np.zeros(len(i)))]
        for line in lines_of_all(everything, cries):
            lines.append(line)
    if all(arm in found for arm in FUSED):
        found["fused"] = fuse([found[arm] for arm in FUSED])
    for arm, folds in found.items():
        lines += lines_of(arm, folds, cries)
        print(arm, flush=True)
    best = found.get("fused")
    if best is not None:
        first, second = (np.concatenate([getattr(f, side) for f in best]) for side in ("first", "second"))
        mask, _ = conditions(cries, first, second)["a day or more apart"]
        scores = np.concatenate([f.normalised for f in best])[mask]
        band = detection_band(
            scores,
            cries.uuid[first[mask]],
            cries.uuid[second[mask]],
            rng=np.random.default_rng(SEED),
            false_accepts=[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5],
            n_resamples=500,
        )
        points = {name: np.round(values, 4).tolist() for name, values in band._asdict().items()}
        lines.append({"kind": "det", "arm": "fused", "condition": "a day or more apart", **points})
    write_atomic(RESULTS, "".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        if line["kind"] == "arm":
            e = line["eer"]
            said = f"{e['estimate']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
            print(f"{line['arm']:26s} {line['scores']:8s} {line['condition']:36s} {said}")
        else:
            print(json.dumps(line)[:300])


def lines_of_all(everything: Sequence[Scored], cries: Cries) -> list[dict[str, Any]]:
    """The published encoder over all pairs of the corpus, folds aside: nothing of it was trained here."""
    (scored,) = everything
    lines = []
    for name, (mask, labels) in conditions(cries, scored.first, scored.second).items():
        if name not in CONDITIONS[:3]:
            continue
        value = equal_error_statistic(labels[mask], scored.cosine[mask])(np.ones((1, int(mask.sum()))))
        lines.append(
            {
                "kind": "all_pairs",
                "arm": "ge2e",
                "condition": name,
                "n_same": int(labels[mask].sum()),
                "n_different": int((1 - labels[mask]).sum()),
                "eer": float(value[0]),
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, help="the data root; default $VAGITUS_DATA")
    parser.add_argument("--ge2e", type=Path, help="the wheel of Resemblyzer 0.1.4")
    parser.add_argument("--collect", action="store_true", help="write the results of what is done, and end")
    arguments = parser.parse_args()
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    encoder = open_encoder(f"ge2e:{arguments.ge2e}") if arguments.ge2e else None
    cries = load(arguments.root)
    if not arguments.collect:
        run(cries, encoder, arguments.root)
    collect(cries, encoder, arguments.root)


if __name__ == "__main__":
    main()
