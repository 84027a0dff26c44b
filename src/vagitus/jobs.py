"""Arm x fold jobs in processes of one thread each, here or on a cluster; what is done is kept and not done again.

A job writes its scores to one file when it is done. One thread a job: two jobs on two
processors beat one job on both, and sums come out the same whatever the machine.
"""

import glob
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

import vagitus
from vagitus.arms import find_arm
from vagitus.arms.contract import Arm, Blend, Budget
from vagitus.arms.network import score_network, train_on_best_input
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.dataset import Dataset
from vagitus.files import content_hash
from vagitus.plan import Announce
from vagitus.scale import Quarantined, spread
from vagitus.splits import Fold, grouped_folds, most_folds

DEV_FOLDS = 5  # the shipped model is trained on four fifths where the classes have subjects enough


class Job(NamedTuple):
    """One arm on one fold; ``ships`` marks the fit on all recordings whose weights are kept."""

    arm: str
    fold: Fold
    budget: Budget
    ships: bool = False

    @property
    def name(self) -> str:
        return f"{self.arm}, model" if self.ships else f"{self.arm} {self.fold.name}"


def final_job(dataset: Dataset, budget: Budget) -> Job:
    """The model that is shipped: trained on all recordings but a dev fold, which picks its epoch."""
    n_folds = most_folds(dataset.labels, dataset.groups, DEV_FOLDS, seed=budget.seed)
    first = grouped_folds(dataset.labels, dataset.groups, n_folds=n_folds, seed=budget.seed)[0]
    train = np.sort(np.concatenate([first.train, first.dev]))
    return Job("scratch", Fold("all", train, first.test, np.empty(0, np.int64)), budget, ships=True)


def run_jobs(
    dataset: Dataset, jobs: list[Job], work: Path, n_workers: int, announce: Announce
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (job name, header and arrays) of every job, those done before first.

    Raises:
        RuntimeError: a job failed twice; names it, with its error.
    """
    digests = {name: content_hash(table.path) for name, table in dataset.tables.items()}
    paths = {job.name: _path(work, job, identify(job, dataset, digests)) for job in jobs}
    waiting = []
    for job in jobs:
        if paths[job.name].exists():
            yield job.name, _read(paths[job.name])
        else:
            waiting.append(job)
    # Networks take longest: started first, they do not leave one processor idle at the end.
    waiting.sort(key=lambda job: _arm(job).front_end not in ("study", *dataset.sources) and job.arm != "svm")
    # The dataset goes to each worker once, with the function; a worker maps the feature tables from their files.
    answers = spread(
        partial(_run_job, dataset), ((job, paths[job.name]) for job in waiting), n_workers, long=True
    )
    with closing(answers):
        for n_done, (index, answer) in enumerate(answers, start=len(jobs) - len(waiting) + 1):
            job = waiting[index]
            if isinstance(answer, Quarantined):
                raise RuntimeError(f"{job.name}: {answer.error or answer}") from answer.error
            result = _read(paths[job.name])
            announce(f"{n_done}/{len(jobs)} {job.name} ({result['seconds']:.0f} s)")
            yield job.name, result


def identify(job: Job, dataset: Dataset, digests: dict[str, str]) -> str:
    """A hash of all that a job's scores depend on, 32 hex digits: what is kept under it is right to use again.

    Args:
        digests: content hash of each feature table.
    """
    arm, manifest = _arm(job), dataset.manifest
    facts: list[Any] = [vagitus.__version__, job.arm, job.ships, job.budget.model_dump(), dataset.class_names]
    facts += [part.tolist() for part in (job.fold.train, job.fold.dev, job.fold.test, job.fold.unlabelled)]
    facts += [dataset.labels.tolist(), dataset.groups.tolist()]
    if arm.front_end == "encoder":
        facts.append(hashlib.blake2b(dataset.embeddings.tobytes(), digest_size=16).hexdigest())
    elif arm.front_end:
        tables = dataset.inputs if arm.front_end == "study" else (arm.front_end,)
        facts.append([digests[table] for table in tables])
        if arm.front_end in dataset.sources:
            facts.append(content_hash(dataset.sources[arm.front_end]))
    else:
        columns = {"site": manifest.site, "duration_s": dataset.duration_s, **manifest.covariates}
        facts.append({name: column.tolist() for name, column in columns.items()})
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _run_job(dataset: Dataset, job: Job, path: Path) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    # Fabric announces its precision once per fit.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    # One thread a job: two jobs on two processors beat one job on both, and sums come out the same everywhere.
    torch.set_num_threads(1)
    started = time.monotonic()
    state = path.with_suffix(".state")
    with threadpool_limits(1):
        if job.ships:
            result = _fit_final(dataset, job, state)
        else:
            result = _arm(job).fit(dataset, job.fold, job.budget, state)._asdict()
    arrays = {name: value for name, value in result.items() if isinstance(value, np.ndarray)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    tensors |= result.pop("weights", {})
    header = {name: value for name, value in result.items() if name not in arrays}
    write_tensors(path, tensors, header | {"job": job.name, "seconds": time.monotonic() - started})
    for left in path.parent.glob(f"{glob.escape(state.name)}*"):
        left.unlink()


def _fit_final(dataset: Dataset, job: Job, state: Path) -> dict[str, Any]:
    """The shipped model: weights, and out-of-fold logits for its calibration and threshold."""
    model, history, table = train_on_best_input(dataset, job.fold, job.budget, state)
    return {
        "dev_index": job.fold.dev,
        "dev_logits": score_network(model, dataset, job.fold.dev, job.budget, table),
        "history": history,
        "table": table,
        "weights": {f"weights.{name}": tensor for name, tensor in model.state_dict().items()},
    }


def _arm(job: Job) -> Arm:
    arm = find_arm(job.arm)
    if isinstance(arm, Blend):
        raise ValueError(f"{job.arm} is made of other arms' scores and has no job")
    return arm


def _read(path: Path) -> dict[str, Any]:
    tensors, header = read_tensors(path)
    # Arrays for the study; the weights of a shipped model stay tensors.
    return header | {k: v if k.startswith("weights.") else v.numpy() for k, v in tensors.items()}


def _path(work: Path, job: Job, identity: str) -> Path:
    """The name is for people: cut, since a site's may be long; the identity tells jobs apart."""
    return work / f"{quote(job.name, safe=' ,+')[:80]}-{identity}.safetensors"
