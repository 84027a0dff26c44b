"""Does a smaller network break sooner? ``python recipes/robustness_of_smaller_networks.py``, after smaller_networks.py.

The dense res8 and its tensor trains of rank 1, 2, 4 and 8, of all folds of the first seed, score every third of the
recordings that they never saw: clean, in gaussian noise, in noise of every ESC-10 class but the cries (another clip
for each recording), and cut to 10 to 100 % of their length. Curves and areas under them with intervals over patients,
each against the dense network on the same resamples, go to recipes/results/robustness-of-smaller-networks.jsonl.
"""

import json

import numpy as np
from smaller_networks import BUDGET, CORPUS, RANKS, ROOT, Job, make

from vagitus.checkpoint import load_model
from vagitus.corpora import load_corpus
from vagitus.files import write_atomic
from vagitus.results import finite
from vagitus.robustness import CLEAN, GAUSSIAN, SNRS_DB, SWEEPS, Condition, curves, join, noise_pool, sweep
from vagitus.robustness import robustness_lines as lines_of
from vagitus.study import versions

MODEL = "res8"
WAYS = ("dense", *(f"tt rank {rank}" for rank in RANKS))
CLASS_SNRS_DB = (0, 10)  # of the classes; gaussian noise at all of SNRS_DB
EVERY = 3  # of the recordings, one is swept: a sweep of all takes hours of one core
N_RESAMPLES = 1_000  # too few for a p under .05 adjusted for 48 areas: the table says so


def main() -> None:
    _, plan = make(0)
    noises = noise_pool(load_corpus("esc"))
    conditions = (
        CLEAN,
        *(Condition("noise", GAUSSIAN, snr_db) for snr_db in SNRS_DB),
        *(Condition("noise", name, snr_db) for name in noises for snr_db in CLASS_SNRS_DB),
        *(Condition("length", "", share) for share in SWEEPS["length", ""]),
    )
    parts = []
    for fold in plan.repeats[0]:
        folder = Job(MODEL, 0, fold).folder
        models = {way: load_model(folder / f"{way}.safetensors") for way in WAYS}
        parts.append(
            sweep(
                models, plan.dataset.manifest, conditions, rows=fold.test[::EVERY], noises=noises, n_workers=1
            )
        )
        print(
            f"{fold.name}: {len(parts[-1].rows)} recordings, {len(parts[-1].excluded)} left out", flush=True
        )
    found = join(parts)
    labels, groups = plan.dataset.labels[found.rows], plan.dataset.groups[found.rows]
    lines = lines_of(curves(found, labels, groups, metric="auroc", baseline="dense", n_resamples=N_RESAMPLES))
    about = {
        "kind": "robustness_study",
        "data": CORPUS,
        "model": MODEL,
        "ways": WAYS,
        "seed": 0,
        "n_resamples": N_RESAMPLES,
        "n_recordings": len(found.rows),
        "n_subjects": len(np.unique(groups)),
        "budget": BUDGET.model_dump(mode="json"),
        "versions": versions(),
    }
    path = ROOT / "recipes" / "results" / "robustness-of-smaller-networks.jsonl"
    write_atomic(path, "".join(json.dumps(finite(line)) + "\n" for line in (about, *lines)))


if __name__ == "__main__":
    main()
