"""Cries at the next device: donateacry's two platforms, and a cry detector of ESC-10 on parents' phones.

    python recipes/adaptation_cries.py --prepare    features, once
    python recipes/adaptation_cries.py              every job that is not done yet
    python recipes/adaptation_cries.py --collect    recipes/results/adaptation-cries.jsonl

The rules are those of the heart sounds (docs/adaptation.md) with another input: log-mel of the thesis's front end (40
bands, 8 kHz), each band's mean over the recording removed, crops of 3 s. Noise of a target is what lies outside its
recordings' expirations. Two tasks:

    cry         usable cry or rejected on listening, donateacry; source one platform, target the other
    detection   source: a baby's cry or another sound (ESC-10); target: donateacry's usable and rejected recordings

App instances are the subjects (Freesound clips in ESC-10): intervals resample them. Subsets of the corpora.
"""

import argparse
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptation import N_NOISY, OUT, SEEDS, WINDOW_FRAMES, Data, run_network, save
from numpy.typing import NDArray
from speaker_verification import run_missing
from tables import RESULTS

from vagitus.adapt import control_of, is_control, regime_of
from vagitus.adapt.noise import background, noise_of_site, noisy_features, samples_of
from vagitus.corpora import load_corpus
from vagitus.cycles import find_events
from vagitus.features import PRESETS, featurise_file
from vagitus.files import write_atomic
from vagitus.manifest import Manifest
from vagitus.metrics import auroc, statistic
from vagitus.statistics import paired_bootstrap, subject_bootstrap
from vagitus.study import versions

FRONT_END = PRESETS["mfcc40"].vary(kind="logmel", n_mfcc=None, normalisation="mean")
TASKS = {"cry": ("android", "ios"), "detection": ("donateacry",)}
METHODS = (
    "source",
    "adabn",
    "steps+adabn",
    "safn",
    "hafn",
    "steps",
    "tni",
    "entropy",
    "dann",
    "mcc",
    "self-training",
    "self-distillation+adabn",
    "safn+entropy",
    "few-labels 5",
)
ORACLE = "oracle of methods"  # of all without labels, taken by the target's labels
N_RESAMPLES = 1000
WINDOW_FRAMES |= dict.fromkeys(TASKS, round(3.0 * FRONT_END.frames_per_s))


def prepare(root: Path | None) -> None:
    """Write OUT/cry.npz and OUT/detection.npz, and OUT/noisy-TASK-TARGET.npz: all in the background of a target."""
    phones = load_corpus("donateacry", root=root, task="usable").labelled()
    sounds = load_corpus("esc", root=root, task="cry")
    made: dict[str, list[Any]] = {}
    for name, manifest in (("phones", phones), ("sounds", sounds)):
        made[name] = [featurise_file(manifest.file(i), FRONT_END) for i in range(len(manifest))]
    usable, cry = phones.label == "usable", sounds.label == "cry"
    write("cry", made["phones"], usable, phones.site, phones.subject)
    write(
        "detection",
        [*made["sounds"], *made["phones"]],
        np.concatenate([cry, usable]),
        np.array(["esc"] * len(sounds) + ["donateacry"] * len(phones)),
        np.concatenate([sounds.subject, phones.subject]),
    )
    for target in TASKS["cry"]:
        write_noisy("cry", target, [phones], phones.select(phones.site == target))
    write_noisy("detection", "donateacry", [sounds, phones], phones)


def write_noisy(task: str, target: str, manifests: list[Manifest], visited: Manifest) -> None:
    """All recordings of a task, in its order, with what lies outside the target's expirations mixed in."""
    rate_hz = FRONT_END.sample_rate_hz
    heard = (samples_of(visited, i, rate_hz) for i in range(len(visited)))
    noises = noise_of_site(
        (background(x, rate_hz, find_events(x, rate_hz, "cry"), ("expiration",)) for x in heard), rate_hz
    )
    rng = np.random.default_rng(0)
    made = {}
    for copy in range(N_NOISY):
        features = [x for m in manifests for x in noisy_features(m, range(len(m)), noises, FRONT_END, rng)]
        made[f"logmel{copy}"] = np.concatenate(features, axis=1)
    save(OUT / f"noisy-{task}-{target}.npz", **made)


def write(
    task: str,
    features: list[NDArray[np.float32]],
    labels: NDArray[np.bool_],
    sites: NDArray[np.str_],
    subjects: NDArray[np.str_],
) -> None:
    save(
        OUT / f"{task}.npz",
        logmel=np.concatenate(features, axis=1),
        lengths=np.array([x.shape[1] for x in features]),
        labels=labels.astype(np.int64),
        sites=sites.astype(np.str_),
        names=subjects.astype(np.str_),
    )


def load(task: str) -> Data:
    with np.load(OUT / f"{task}.npz", allow_pickle=False) as held:
        features = np.split(held["logmel"], np.cumsum(held["lengths"])[:-1], axis=1)
        n = len(features)
        nothing = np.zeros((n, 1))  # no cycle is folded here, and every recording is usable
        return Data(
            features,
            np.zeros((n, 1, 1), np.float32),
            nothing,
            [],
            held["labels"],
            held["sites"],
            held["names"],
        )


def collect() -> list[dict[str, Any]]:
    runs = [json.loads(path.read_text()) for path in sorted((OUT / "runs").glob("*.json"))]
    lines: list[dict[str, Any]] = [{"kind": "adaptation_cries", "versions": versions()}]
    for task, targets in TASKS.items():
        data = load(task)
        for target in targets:
            own = [r for r in runs if (r["input"], r["site"]) == (task, target) and "test_margins" in r]
            own += best_runs(data, own)
            lines += [
                row(data, task, target, name, own) for name in (*METHODS, ORACLE) if of_method(own, name)
            ]
    return lines


def best_runs(data: Data, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each seed the run that ranks the target best, controls and those with labels left out."""
    found: dict[int, tuple[float, dict[str, Any]]] = {}
    for run in runs:
        method = run["method"]
        if method != "source" and (is_control(head := method.split(" ")[0]) or regime_of(head) == "labels"):
            continue
        value = auroc(data.labels[run["test"]], run["test_margins"])
        if run["seed"] not in found or value > found[run["seed"]][0]:
            found[run["seed"]] = value, run | {"method": ORACLE}
    return [run for _, run in found.values()]


def of_method(runs: list[dict[str, Any]], method: str) -> dict[int, dict[str, Any]]:
    return {run["seed"]: run for run in runs if run["method"] == method}


def regime(method: str) -> str:
    """What of the target a row used."""
    if method in ("source", ORACLE):
        return "nothing" if method == "source" else "labels (oracle)"
    return regime_of(method.split(" ", maxsplit=1)[0])


def row(data: Data, task: str, target: str, method: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One method at one target, beside the source's network and its control."""
    by_seed = of_method(runs, method)
    labelled = {i for run in by_seed.values() for i in run.get("labelled", [])}
    test = np.array(next(iter(by_seed.values()))["test"])
    kept = np.setdiff1d(np.arange(len(test)), sorted(labelled))
    groups = data.names[test][kept]
    # With few labels everything is measured on the same other subjects, whatever the seed drew.
    drawn = np.isin(groups, data.names[test][sorted(labelled)])
    kept, groups = kept[~drawn], groups[~drawn]
    y = data.labels[test][kept]

    def of_run(run: dict[str, Any], metric: str) -> Any:
        margin = np.array(run["test_margins"])[kept]
        p = 1 / (1 + np.exp(-margin))
        return statistic(
            metric, y, np.stack([1 - p, p], axis=1), (margin >= np.median(margin)).astype(np.int64)
        )

    line: dict[str, Any] = {
        "kind": "row",
        "task": task,
        "target": target,
        "name": method,
        "regime": regime(method),
        "seeds": sorted(by_seed),
        "n_target": len(kept),
    }
    others = ["source"]
    if method not in ("source", ORACLE) and control_of(method.split(" ", maxsplit=1)[0]):
        others.append(control_of(method.split(" ", maxsplit=1)[0]))
    for metric in ("auroc", "uar"):
        found = subject_bootstrap(
            [of_run(run, metric) for run in by_seed.values()],
            groups,
            rng=np.random.default_rng(0),
            n_resamples=N_RESAMPLES,
        )
        line[metric] = {"estimate": found.estimate, "low": found.low, "high": found.high}
        line[f"gain in {metric}"] = {}
        for other in others:
            theirs = of_method(runs, other)
            seeds = sorted(set(by_seed) & set(theirs))
            if other == method or not seeds:
                continue
            gain = paired_bootstrap(
                [of_run(by_seed[seed], metric) for seed in seeds],
                [of_run(theirs[seed], metric) for seed in seeds],
                groups,
                rng=np.random.default_rng(0),
                n_resamples=N_RESAMPLES,
            )
            line[f"gain in {metric}"][other] = {
                "difference": gain.difference,
                "low": gain.low,
                "high": gain.high,
                "p": gain.p,
            }
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if arguments.prepare:
        prepare(arguments.root)
        return
    if arguments.collect:
        text = "".join(json.dumps(line) + "\n" for line in collect())
        write_atomic(RESULTS / "adaptation-cries.jsonl", text)
        return
    data = {task: load(task) for task in TASKS}
    run_missing(
        OUT / "runs",
        {
            f"{task}-{target}-seed{seed}-{method}": partial(
                run_network, data[task], task, target, seed, method
            )
            for seed in arguments.seeds
            for method in arguments.methods
            for task, targets in TASKS.items()
            for target in targets
        },
    )


if __name__ == "__main__":
    main()
