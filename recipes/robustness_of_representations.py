"""Does what was learned elsewhere hold up better? ``python recipes/robustness_of_representations.py``.

SPRSound, normal or adventitious, the folds and the budget of representation-lung-100, its first seed. Every arm is
trained on clean recordings, and tuned on them alone; every fourth recording is then scored by the arms that never
saw its patient: clean, in gaussian noise, in noise of every ESC-10 class but the cries (another clip for each
recording), cut short, through a low-pass, and in a room. Networks, SVM, ridge and probe hear the same files: each
recording under each condition, clean too, is written to out/ at 16 kHz in 16 bits, and goes the way of any recording
from there. Learned was from the files as they are: what is stored again differs from them at the edge of the band.

Curves and the areas under them, with intervals over patients, each against ``scratch`` on the same resamples, go to
recipes/results/robustness-of-representations.jsonl. Killed, it goes on. Needs $VAGITUS_DATA, and the wheel of
Resemblyzer that the recipe names.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from tables import ROOT

from vagitus.arms import find_arm
from vagitus.arms.contract import Arm
from vagitus.audio import AudioError, read
from vagitus.augment import store_16_bits
from vagitus.config import read_toml
from vagitus.corpora import find_corpus, load_corpus
from vagitus.dataset import Dataset
from vagitus.features import FeatureCache
from vagitus.files import atomic_path, write_atomic
from vagitus.jobs import Job, run_jobs
from vagitus.manifest import Manifest, build_manifest
from vagitus.plan import StudyConfig, embed, feature_tables, make_plan
from vagitus.results import decide, finite, settle
from vagitus.robustness import (
    CLEAN,
    GAUSSIAN,
    SNRS_DB,
    Condition,
    Sweep,
    curves,
    join,
    noise_pool,
    perturbations,
    robustness_lines,
)
from vagitus.study import versions

RECIPE = "representation-lung-100"
BASELINE = "scratch"
NAME = "robustness-of-representations"
OUT = ROOT / "out" / NAME
RATE_HZ = 16_000
EVERY = 4  # of the recordings, one is perturbed
CLASS_SNRS_DB = (0, 10)  # of the classes; gaussian noise at all of SNRS_DB


def conditions(noises: dict[str, list[Path]]) -> tuple[Condition, ...]:
    return (
        CLEAN,
        *(Condition("noise", GAUSSIAN, snr_db) for snr_db in SNRS_DB),
        *(Condition("noise", name, snr_db) for name in noises for snr_db in CLASS_SNRS_DB),
        *(Condition("length", "", share) for share in (10, 20, 40, 60, 80)),
        *(Condition("low_pass", "", edge_hz) for edge_hz in (500, 1000, 2000)),
        *(Condition("reverberation", "", decay_s) for decay_s in (0.2, 0.5, 1)),
    )


def write_perturbed(
    manifest: Manifest, rows: list[int], wanted: tuple[Condition, ...], noises: dict[str, list[Path]]
) -> Iterator[tuple[int, list[Path]]]:
    """(row, one file a condition), of the recordings that bear all conditions; those written before stay."""
    for row in rows:
        folder = OUT / "audio" / f"{row}"
        paths = [folder / f"{i}.wav" for i in range(len(wanted))]
        try:
            if not all(path.exists() for path in paths):
                folder.mkdir(parents=True, exist_ok=True)
                clean = read(manifest.file(row), sample_rate_hz=RATE_HZ).samples
                made = perturbations(wanted, noises, str(manifest.path[row]), RATE_HZ, 0)
                for path, (_, perturb) in zip(paths, made, strict=True):
                    with atomic_path(path) as temporary:
                        x = store_16_bits(perturb(clean))
                        soundfile.write(temporary, x, RATE_HZ, subtype="PCM_16", format="WAV")
        except (AudioError, ValueError) as error:
            print(f"left out: {manifest.where(row)}: {error}", flush=True)
            continue
        yield row, paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=1)
    n_workers = parser.parse_args().workers
    config = read_toml(ROOT / "recipes" / f"{RECIPE}.toml", StudyConfig).model_copy(update={"repeats": 1})
    cache = FeatureCache(OUT / "cache")
    corpus = find_corpus(config.data)
    plan = make_plan(
        config,
        load_corpus(config.data),
        OUT,
        corpus.positive.get(corpus.default_task, ""),
        corpus.preset,
        cache,
        n_workers,
        print,
    )
    clean = plan.dataset
    noises = noise_pool(load_corpus("esc"))
    wanted = conditions(noises)
    n_clean = len(clean)
    kept = dict(write_perturbed(clean.manifest, list(range(0, n_clean, EVERY)), wanted, noises))
    dataset = enlarged(clean, kept, cache, config.encoder, n_workers)
    rows_of_arms = {name: find_arm(name) for name in config.arms}
    arms = [name for name, row in rows_of_arms.items() if isinstance(row, Arm) and row.front_end]
    folds, rows_of_folds = [], []
    for fold in plan.repeats[0]:
        places = [i for i, row in enumerate(kept) if row in set(fold.test.tolist())]
        rows_of_folds.append(np.array(list(kept))[places])
        test = np.concatenate([n_clean + place * len(wanted) + np.arange(len(wanted)) for place in places])
        folds.append(fold._replace(test=test))
    jobs = [Job(arm, fold, config.budget) for arm in arms for fold in folds]
    done = dict(run_jobs(dataset, jobs, OUT / "work", n_workers, lambda text: print(text, flush=True)))
    parts = []
    for fold, own in zip(folds, rows_of_folds, strict=True):
        answers = {arm: _answer(dataset, done[Job(arm, fold, config.budget).name], config) for arm in arms}
        by_condition = [
            {
                arm: answer[i].reshape(len(own), len(wanted), *answer[i].shape[1:]).swapaxes(0, 1)
                for arm, answer in answers.items()
            }
            for i in range(3)
        ]
        parts.append(Sweep(wanted, own, clean.class_names, *by_condition, {}))
    found = join(parts)
    rows = found.rows
    labels, groups = clean.labels[rows], clean.groups[rows]
    made = curves(found, labels, groups, metric="auroc", baseline=BASELINE, n_resamples=1000)
    about = {
        "kind": "robustness_study",
        "data": config.data,
        "ways": arms,
        "baseline": BASELINE,
        "seed": config.seed,
        "n_recordings": len(rows),
        "n_subjects": len(np.unique(groups)),
        "budget": config.budget.model_dump(mode="json"),
        "versions": versions(),
    }
    lines = (about, *robustness_lines(made))
    path = ROOT / "recipes" / "results" / f"{NAME}.jsonl"
    write_atomic(path, "".join(json.dumps(finite(line)) + "\n" for line in lines))


def _answer(dataset: Dataset, result: dict[str, Any], config: StudyConfig) -> tuple[NDArray[Any], ...]:
    """Logits, scores and decisions of a fold's test side, calibrated on its training side.

    Each fold's network has a scale of its own: only calibrated scores can be ranked together. In noise a ridge's
    probabilities all round to 1 where their log-odds z still differ; (1 + z / (1 + |z|)) / 2 keeps their order, which
    is all that the area under the ROC curve asks for.
    """
    logits = result["test_logits"]
    calibrator, threshold = settle(dataset, result["dev_index"], result["dev_logits"], config)
    probabilities = calibrator.apply(logits)
    z = np.diff(np.log(np.maximum(probabilities, np.finfo(float).tiny)), axis=1)[:, 0]
    score = 0.5 * (1 + z / (1 + np.abs(z)))
    return logits, np.stack([1 - score, score], axis=1), decide(logits, probabilities, threshold)


def enlarged(
    clean: Dataset, kept: dict[int, list[Path]], cache: FeatureCache, encoder: str, n_workers: int
) -> Dataset:
    """The data set with the perturbed recordings behind the clean ones, each with its patient and label."""
    rows = [(clean.manifest.file(i), i) for i in range(len(clean))]
    rows += [(path, row) for row, paths in kept.items() for path in paths]
    manifest = build_manifest(
        (
            {
                "path": path.resolve().relative_to("/").as_posix(),
                "subject": clean.manifest.subject[row],
                "label": clean.manifest.label[row],
                "site": clean.manifest.site[row],
            }
            for path, row in rows
        ),
        "/",
        NAME,
    )
    origin = np.array([row for _, row in rows])
    configs = {name: table.config for name, table in clean.tables.items()}
    print(f"computing features of {len(manifest)} recordings", flush=True)
    tables = feature_tables(manifest, configs, cache, OUT / "enlarged", n_workers)
    return replace(
        clean,
        manifest=manifest,
        labels=clean.labels[origin],
        groups=clean.groups[origin],
        duration_s=np.diff(tables["study"].offsets) / tables["study"].config.frames_per_s,
        tables=tables,
        embeddings=embed(manifest, encoder, cache.folder, n_workers),
    )


if __name__ == "__main__":
    main()
