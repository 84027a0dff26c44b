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
from vagitus.arms.contract import Arm, Blend, Budget, Network
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.dataset import Dataset
from vagitus.files import content_hash
from vagitus.models import build_model
from vagitus.plan import Announce
from vagitus.scale import Quarantined, spread
from vagitus.splits import Fold, fewer_subjects, grouped_folds, most_folds
from vagitus.tensor_train.compress import Plan, retensorize

DEV_FOLDS = 5  # the shipped model is trained on four fifths where the classes have subjects enough
WEIGHT = "weights."  # before the name of a shipped network's tensor


class Job(NamedTuple):
    """One arm on one fold; ``ships`` marks the fit on all recordings whose network is kept."""

    arm: str
    fold: Fold
    budget: Budget
    ships: bool = False

    @property
    def name(self) -> str:
        return f"{self.arm}, shipped" if self.ships else f"{self.arm} {self.fold.name}"


def final_job(dataset: Dataset, budget: Budget, arm: str, *, labelled_share: float = 1.0) -> Job:
    """The fit of an arm's network that is shipped: one member, trained on all recordings but a dev fold.

    Args:
        labelled_share: of the subjects, whose labels may be read, as in a study.
    """
    fold = final_fold(dataset, budget.seed, labelled_share=labelled_share)
    return Job(arm, fold, budget.model_copy(update={"n_members": 1}), ships=True)


def final_fold(dataset: Dataset, seed: int, *, labelled_share: float = 1.0) -> Fold:
    """All recordings, to train on but for a dev fold, which picks the epoch; the test side is empty."""
    n_folds = most_folds(
        dataset.labels, dataset.groups, DEV_FOLDS, seed=seed, class_names=dataset.class_names
    )
    first = grouped_folds(dataset.labels, dataset.groups, n_folds=n_folds, seed=seed)[0]
    train = np.sort(np.concatenate([first.train, first.dev]))
    fold = Fold("all", train, first.test, np.empty(0, np.int64))
    return fewer_subjects(
        fold, dataset.labels, dataset.groups, labelled_share, seed=seed, class_names=dataset.class_names
    )


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
    if not waiting:
        return
    # Networks take longest: started first, they do not leave one processor idle at the end.
    waiting.sort(key=lambda job: _arm(job).front_end not in ("study", *dataset.sources) and job.arm != "svm")
    # The dataset goes to each worker once, with the function; a worker maps the feature tables from their files.
    n_workers = min(n_workers, len(waiting))  # a process too many would start for nothing
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
        result = _arm(job).fit(dataset, job.fold, job.budget, state)._asdict()
    network = result.pop("network")
    arrays = {name: value for name, value in result.items() if isinstance(value, np.ndarray)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    header = {name: value for name, value in result.items() if name not in arrays}
    if job.ships:
        if network is None:
            raise ValueError(f"{job.arm} gives no network to ship")
        weights = network.module.state_dict()
        tensors |= {WEIGHT + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        header["network"] = network._replace(module=None)._asdict()
    write_tensors(path, tensors, header | {"job": job.name, "seconds": time.monotonic() - started})
    for left in path.parent.glob(f"{glob.escape(state.name)}*"):
        left.unlink()


def _arm(job: Job) -> Arm:
    arm = find_arm(job.arm)
    if isinstance(arm, Blend):
        raise ValueError(f"{job.arm} is made of other arms' scores and has no job")
    return arm


def _read(path: Path) -> dict[str, Any]:
    """Header and arrays; of a job that ships, its ``network`` too."""
    tensors, header = read_tensors(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(WEIGHT)}
    if "network" in header:
        network = Network(**header["network"])
        module = build_model(network.name, **network.options)
        if network.storage.get("plan"):
            module = retensorize(module, Plan.from_json(network.storage["plan"]))
        weights = {k.removeprefix(WEIGHT): v for k, v in tensors.items() if k.startswith(WEIGHT)}
        module.load_state_dict(weights)
        header["network"] = network._replace(module=module.eval())
    return header | arrays


def _path(work: Path, job: Job, identity: str) -> Path:
    """The name is for people: cut, since a site's may be long; the identity tells jobs apart."""
    return work / f"{quote(job.name, safe=' ,+')[:80]}-{identity}.safetensors"
