"""Heart sounds at the next hospital: PhysioNet 2016, one database left out, every method, control and oracle.

    python recipes/adaptation.py --prepare      features of all recordings, once
    python recipes/adaptation.py                every job that is not done yet
    python recipes/adaptation.py --inputs map --seeds 0 --methods source adabn --without a
                                                networks without a as well, for nested choices; then b-f
    python recipes/adaptation_table.py          recipes/results/adaptation.jsonl

Needs $VAGITUS_DATA (or --root). Run the second command in as many terminals as there are cores: a job that another
process is at is passed over, one that is done is not done again, and one that was killed starts anew. The rules were
written down before a target was scored: docs/adaptation.md. Subsets of the corpus: no figure is a full corpus's.
"""

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from speaker_verification import run_missing
from tables import ROOT

from vagitus.adapt.adaptation import ADAPTING, Sources, Target, adapt_network
from vagitus.adapt.batches import DomainBatches
from vagitus.adapt.few_labels import COUNTS, choose_subjects
from vagitus.adapt.noise import background, inject, noise_of_site
from vagitus.adapt.objective import Adaptation
from vagitus.audio import read
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.corpora import load_corpus
from vagitus.cycles import HEART_PHASES, fold, phase_features
from vagitus.features import PRESETS, featurise
from vagitus.files import atomic_path
from vagitus.models import build_model
from vagitus.segment import Event, heart_cycles
from vagitus.splits import Fold, leave_one_site_out
from vagitus.training import TrainConfig, fit, score_recordings

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NAME = "adaptation"
OUT = ROOT / "out" / NAME
RATE_HZ = 2_000
LEAST_RHYTHM = 0.1
LOGMEL = PRESETS["heart"]
MAP_FRONT_END = PRESETS["heart"].vary(window_ms=48.0, hop_ms=8.0, n_fft=128)
N_BINS = sum(HEART_PHASES.values())
WINDOW_FRAMES = {"logmel": round(3.0 * LOGMEL.frames_per_s), "map": N_BINS}
HEART_INPUTS = ("map", "logmel")
N_NOISY = 2
SOUNDING = ("s1", "systole", "s2")
SEEDS = (0, 1, 2)
SOURCE = TrainConfig(epochs=20, patience=20, batch_size=64, lr=2e-3, precision="32-true")
FURTHER = ADAPTING.model_copy(update={"batch_size": 64})

# What is tried on a network of either input; "source" is the sources' model as it is.
METHODS = (
    "source",
    "adabn",
    "steps+adabn",
    "safn",
    "steps",
    "tni",
    "hafn",
    "entropy",
    "dann",
    "coral",
    "mcc",
    "self-training",
    "self-distillation+adabn",
    "standardise",
    "transport",
    "tent",
    "infomax",
    "safn+entropy",
    *(f"few-labels {k}" for k in COUNTS),
)


class Data(NamedTuple):
    """All recordings, heard once. ``usable`` are those with a map."""

    logmel: list[Float32]  # (n_bands, n_frames) each, mean removed
    maps: Float32  # (n, n_bands, N_BINS), NaN where there is none
    phase: Floats  # (n, n_features), NaN where there is none
    phase_names: list[str]
    labels: Ints
    sites: NDArray[np.str_]
    names: NDArray[np.str_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        return np.isfinite(self.phase).all(axis=1)

    def of(self, what: str) -> list[Float32]:
        return list(self.maps) if what == "map" else self.logmel


class Heard(NamedTuple):
    """One recording's waveform and its heart's states."""

    samples: Float32
    events: list[Event]


def hear(path: Path) -> Heard:
    samples = read(path, sample_rate_hz=RATE_HZ).samples.astype(np.float32)
    return Heard(samples, list(heart_cycles([samples], RATE_HZ, least_rhythm=LEAST_RHYTHM)))


def to_logmel(samples: Float32) -> Float32:
    return featurise(samples, LOGMEL.vary(normalisation="mean"))


def to_map(samples: Float32, events: Sequence[Event]) -> tuple[Float32, Floats] | None:
    """The map and the phase features; None where no cycle was found."""
    folded = fold(featurise(samples, MAP_FRONT_END), events, MAP_FRONT_END.frames_per_s, HEART_PHASES)
    return None if folded is None else (folded.typical, phase_features(folded, HEART_PHASES).values)


def prepare(root: Path | None) -> None:
    """Write OUT/data.npz, and OUT/noisy-SITE.npz with the sources in that site's noise."""
    manifest = load_corpus("physionet2016", root=root)
    heard = [hear(manifest.file(i)) for i in range(len(manifest))]
    n_features = next(x for h in heard if (x := to_map(*h)) is not None)[1].shape[0]
    maps = np.full((len(heard), MAP_FRONT_END.n_rows, N_BINS), np.nan, np.float32)
    phase = np.full((len(heard), n_features), np.nan)
    for i, h in enumerate(heard):
        found = to_map(*h)
        if found is not None:
            maps[i], phase[i] = found
    logmel = [to_logmel(h.samples) for h in heard]
    first = next(i for i in range(len(heard)) if np.isfinite(phase[i]).all())
    folded = fold(
        featurise(heard[first].samples, MAP_FRONT_END),
        heard[first].events,
        MAP_FRONT_END.frames_per_s,
        HEART_PHASES,
    )
    if folded is None:
        raise RuntimeError("no recording has a map")
    save(
        OUT / "data.npz",
        logmel=np.concatenate(logmel, axis=1),
        lengths=np.array([x.shape[1] for x in logmel]),
        maps=maps,
        phase=phase,
        phase_names=np.array(phase_features(folded, HEART_PHASES).names),
        labels=manifest.encode_labels(("normal", "abnormal")),
        sites=manifest.site.astype(np.str_),
        names=manifest.path.astype(np.str_),
    )
    for site in np.unique(manifest.site):
        stretches = [
            background(h.samples, RATE_HZ, h.events, SOUNDING)
            for h, of in zip(heard, manifest.site, strict=True)
            if of == site
        ]
        noises = noise_of_site(stretches, RATE_HZ)
        rng = np.random.default_rng([0, ord(str(site))])
        made: dict[str, Any] = {}
        for copy in range(N_NOISY):
            noisy = [inject(h.samples, noises, rng) for h in heard]
            made[f"logmel{copy}"] = np.concatenate([to_logmel(x) for x in noisy], axis=1)
            # Noise does not move the beats: the clean recording's states fold the noisy one.
            folds = [to_map(x, h.events) for x, h in zip(noisy, heard, strict=True)]
            made[f"maps{copy}"] = np.stack(
                [np.full(maps.shape[1:], np.nan, np.float32) if f is None else f[0] for f in folds]
            )
        save(OUT / f"noisy-{site}.npz", **made)
        print(f"noise of {site}: {len(noises)} stretches", flush=True)


def save(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load() -> Data:
    with np.load(OUT / "data.npz", allow_pickle=False) as held:
        ends = np.cumsum(held["lengths"])[:-1]
        return Data(
            np.split(held["logmel"], ends, axis=1),
            held["maps"],
            held["phase"],
            held["phase_names"].tolist(),
            held["labels"],
            held["sites"],
            held["names"],
        )


def load_noisy(site: str, what: str, data: Data) -> list[list[Float32]]:
    lengths = np.array([x.shape[1] for x in data.logmel])
    name = f"noisy-{site}.npz" if what in HEART_INPUTS else f"noisy-{what}-{site}.npz"
    with np.load(OUT / name, allow_pickle=False) as held:
        if what == "map":
            return [list(held[f"maps{copy}"]) for copy in range(N_NOISY)]
        return [np.split(held[f"logmel{copy}"], np.cumsum(lengths)[:-1], axis=1) for copy in range(N_NOISY)]


def fold_of(data: Data, site: str, seed: int, without: str = "") -> Fold:
    """Train, dev and test of the fold that leaves ``site`` out, recordings without a map left out of all.

    The marked recordings of the target are scored later, with the middle of the ranking.
    """
    rows = np.flatnonzero(data.usable & (data.sites != without))
    fold = leave_one_site_out(data.labels[rows], data.names[rows], data.sites[rows], seed=seed, only=site)[0]
    return Fold(site, rows[fold.train], rows[fold.dev], rows[fold.test])


def site_index(sites: NDArray[np.str_]) -> Ints:
    return np.unique(sites, return_inverse=True)[1].astype(np.int64)


def margins(model: torch.nn.Module, features: Sequence[Float32], what: str) -> list[float]:
    logits = score_recordings(model, features, window_frames=WINDOW_FRAMES[what])
    return [round(float(m), 5) for m in logits[:, 1] - logits[:, 0]]


def source_network(data: Data, what: str, fold: Fold, seed: int, without: str) -> torch.nn.Module:
    """The sources' network of one fold and seed, trained once and kept."""
    features = data.of(what)
    model = build_model("small", n_mels=len(features[0]), n_classes=2, width=8)
    path = OUT / "models" / f"{what}-{fold.name}-{seed}{without and f'-without-{without}'}.safetensors"
    if path.exists():
        model.load_state_dict(read_tensors(path)[0])
        return model.eval()
    torch.manual_seed(seed)
    model = build_model("small", n_mels=len(features[0]), n_classes=2, width=8)
    sources = sources_of(data, features, fold)
    batches = DomainBatches(*sources[:3], (), window_frames=WINDOW_FRAMES[what], config=SOURCE, seed=seed)
    fit(model, Adaptation(), batches, SOURCE, steps_per_epoch=len(batches), seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, dict(model.state_dict()), {})
    return model


def sources_of(data: Data, features: Sequence[Float32], fold: Fold) -> Sources:
    return Sources(
        [features[i] for i in fold.train], data.labels[fold.train], site_index(data.sites[fold.train])
    )


def run_network(
    data: Data, what: str, site: str, seed: int, method: str, without: str = ""
) -> dict[str, Any]:
    """One method on one fold and seed: margins at the target and on the sources' dev part."""
    started, started_cpu = time.monotonic(), time.process_time()
    fold = fold_of(data, site, seed, without)
    features = data.of(what)
    window = WINDOW_FRAMES[what]
    model = source_network(data, what, fold, seed, without)
    sources, target = sources_of(data, features, fold), [features[i] for i in fold.test]
    dev = [features[i] for i in fold.dev]
    line: dict[str, Any] = {"kind": "run", "input": what, "site": site, "without": without, "seed": seed}
    line |= {"method": method, "test": fold.test.tolist(), "dev": fold.dev.tolist()}
    at_target = at_sources = model
    line["used"] = "nothing of the target"
    try:
        heard, given, name = sources, Target(target), method
        if "tni" in method:
            noisy = [[version[i] for i in fold.train] for version in load_noisy(site, what, data)]
            heard = sources._replace(noisy=noisy)
        if method.startswith("few-labels"):
            name, _, k = method.partition(" ")
            few = choose_subjects(data.labels[fold.test], data.names[fold.test], int(k), seed=seed)
            labels = data.labels[fold.test][few.labelled]
            given = Target([target[i] for i in few.rest], [target[i] for i in few.labelled], labels)
            line["labelled"] = few.labelled.tolist()
        if method != "source":
            adapted = adapt_network(model, heard, given, name, FURTHER, window_frames=window, seed=seed)
            at_target, at_sources, line["used"] = adapted.model, adapted.at_sources, adapted.used
    except ValueError as error:  # a target too small, one class among few labels: part of the result
        return line | {"refused": str(error), "seconds": round(time.monotonic() - started, 1)}
    return line | {
        "test_margins": margins(at_target, target, what),
        "dev_margins": margins(at_sources, dev, what),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - started_cpu, 1),
    }


def jobs(
    data: Data, inputs: Sequence[str], seeds: Sequence[int], methods: Sequence[str], without: str
) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        f"{what}-{site}-seed{seed}-{method}{without and f'-without-{without}'}": partial(
            run_network, data, what, site, seed, method, without
        )
        for what in inputs
        for seed in seeds
        for method in methods
        for site in np.unique(data.sites).tolist()
        if site != without
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--inputs", nargs="+", default=list(HEART_INPUTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--without", default="", help="a site that is left out of everything")
    arguments = parser.parse_args()
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if arguments.prepare:
        prepare(arguments.root)
        return
    data = load()
    run_missing(
        OUT / "runs", jobs(data, arguments.inputs, arguments.seeds, arguments.methods, arguments.without)
    )


if __name__ == "__main__":
    main()
