"""What a smaller network costs on children's lung sounds: ``python recipes/smaller_networks.py``.

SPRSound, normal or adventitious, patients kept apart (3 grouped folds). Of every fold a network is trained once;
then each way to make it smaller starts from those weights, is fine-tuned against them for three epochs on the
training side, and is scored on the fold's test side. All ways get the same epochs and the same recordings.

    tt, low_rank    one rank for all layers
    tt searched     a rank for every layer, found on the dev part, under a budget of parameters
    prune           LAMP magnitude pruning at a ratio; its bytes are those of the values and a bit mask
    ... int8        the same weights stored as 8-bit integers, one scale a row, not trained again

One JSON line a network and way goes to recipes/results/smaller-networks.jsonl. The dense and tensor-train models of the
first seed stay in out/smaller-networks, for the robustness of small models. Killed, it goes on. Needs $VAGITUS_DATA.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vagitus.arms.contract import Budget
from vagitus.arms.network import compress_trained, score_network, train_network
from vagitus.checkpoint import read_tensors, save_model, write_tensors
from vagitus.compression import CompressConfig
from vagitus.corpora import find_corpus, load_corpus
from vagitus.dataset import Dataset
from vagitus.features import FeatureCache
from vagitus.files import write_atomic
from vagitus.metrics import statistic
from vagitus.plan import Plan, StudyConfig, make_plan
from vagitus.results import finite, settle
from vagitus.splits import Fold
from vagitus.statistics import paired_bootstrap, subject_bootstrap
from vagitus.study import make_card, versions
from vagitus.tensor_train.compress import count_parameters, pack, packed_bytes, unpack
from vagitus.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "smaller-networks"
RESULTS = ROOT / "recipes" / "results" / "smaller-networks.jsonl"
CORPUS = "sprsound"
MODELS = ("res8", "transformer")
N_FOLDS = 3
RANKS = (1, 2, 4, 8)
FINE_TUNING = CompressConfig(epochs=3)
WAYS = {
    **{f"tt rank {rank}": FINE_TUNING.model_copy(update={"rank": rank}) for rank in RANKS},
    **{
        f"low_rank rank {rank}": FINE_TUNING.model_copy(update={"method": "low_rank", "rank": rank})
        for rank in (1, 2, 4)
    },
    **{
        f"prune x{ratio}": FINE_TUNING.model_copy(update={"method": "prune", "ratio": ratio})
        for ratio in (10, 30, 100)
    },
    "tt searched x10": FINE_TUNING.model_copy(update={"ratio": 10}),
}
BUDGET = Budget(n_members=1, train=TrainConfig(epochs=20))


class Job(NamedTuple):
    model: str
    seed: int
    fold: Fold

    @property
    def folder(self) -> Path:
        return OUT / f"{self.model}-seed{self.seed}-{self.fold.name}"


def make(seed: int) -> tuple[StudyConfig, Plan]:
    config = StudyConfig(data=CORPUS, arms=("scratch",), n_folds=N_FOLDS, seed=seed, budget=BUDGET)
    corpus = find_corpus(CORPUS)
    plan = make_plan(
        config,
        load_corpus(CORPUS),
        OUT / f"seed{seed}",
        corpus.positive.get(corpus.default_task, ""),
        corpus.preset,
        FeatureCache(OUT / "cache"),
        2,
        print,
    )
    return config, plan


def run(job: Job, dataset: Dataset, config: StudyConfig) -> str:
    """Train one network, make it small in every way, keep scores and sizes."""
    torch.set_num_threads(1)
    job.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    budget = BUDGET.model_copy(update={"seed": job.seed})
    model, _ = train_network(dataset, job.fold, budget, job.folder / "dense.state", model_name=job.model)
    logits: dict[str, torch.Tensor] = {}
    sizes: dict[str, dict[str, float]] = {}

    def keep(way: str, network: nn.Module, n_parameters: int, n_bytes: int, storage: dict[str, Any]) -> None:
        sizes[way] = {"n_parameters": n_parameters, "n_bytes": n_bytes}
        for side, rows in (("dev", job.fold.dev), ("test", job.fold.test)):
            logits[f"{way}/{side}"] = torch.from_numpy(score_network(network, dataset, rows, budget))
        if job.seed == 0 and (way == "dense" or way.startswith("tt rank")) and "int8" not in way:
            scores = logits[f"{way}/dev"].numpy()
            card = make_card(dataset, "study", config, *settle(dataset, job.fold.dev, scores, config))
            card = replace(card, model=job.model, compression=storage)
            save_model(job.folder / f"{way}.safetensors", network, card)

    def keep_both(way: str, network: nn.Module, n_parameters: int, storage: dict[str, Any]) -> None:
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        sparse = bool(storage.get("sparse"))
        keep(way, network, n_parameters, packed_bytes(pack(state, sparse=sparse)), storage)
        small = pack(state, bits=8, sparse=sparse)
        network.load_state_dict(unpack(small))
        keep(f"{way} int8", network, n_parameters, packed_bytes(small), storage)
        network.load_state_dict(state)

    keep_both("dense", model, count_parameters(model), {})
    for way, how in WAYS.items():
        state_path = job.folder / f"{way}.state"
        small = compress_trained(model, how, dataset, job.fold, budget, state_path, "study")
        keep_both(way, small.model, small.n_parameters, small.storage)
        for left in job.folder.glob(f"{way}.state*"):
            left.unlink()
    write_tensors(job.folder / "scores.safetensors", logits, {"sizes": sizes})
    (job.folder / "dense.state").unlink(missing_ok=True)
    return f"{job.folder.name}: {time.monotonic() - started:.0f} s"


def collect(models: list[str], seeds: list[int], plans: dict[int, tuple[StudyConfig, Plan]]) -> None:
    """Pool the folds of each seed, calibrated each by itself, and resample patients and seeds together."""
    plan = plans[seeds[0]][1]
    labels, groups = plan.dataset.labels, plan.dataset.groups
    lines: list[dict[str, Any]] = []
    for name in models:
        probabilities: dict[str, list[np.ndarray]] = {}
        sizes: dict[str, list[dict[str, float]]] = {}
        for seed in seeds:
            per_way: dict[str, np.ndarray] = {}
            for fold in plans[seed][1].repeats[0]:
                tensors, header = read_tensors(Job(name, seed, fold).folder / "scores.safetensors")
                for way, size in header["sizes"].items():
                    whole = per_way.setdefault(way, np.full((len(labels), 2), np.nan))
                    calibrator, _ = settle(
                        plan.dataset, fold.dev, tensors[f"{way}/dev"].numpy(), plans[seed][0]
                    )
                    whole[fold.test] = calibrator.apply(tensors[f"{way}/test"].numpy())
                    sizes.setdefault(way, []).append(size)
            for way, whole in per_way.items():
                probabilities.setdefault(way, []).append(whole)
        statistics = {
            way: [statistic("auroc", labels, whole, whole.argmax(1)) for whole in wholes]
            for way, wholes in probabilities.items()
        }
        for way, own in statistics.items():
            interval = subject_bootstrap(own, groups, rng=np.random.default_rng(0))
            against = paired_bootstrap(own, statistics["dense"], groups, rng=np.random.default_rng(0))
            lines.append(
                {
                    "kind": "compression",
                    "data": CORPUS,
                    "model": name,
                    "way": way,
                    "seeds": seeds,
                    "n_recordings": len(labels),
                    "n_subjects": len(np.unique(groups)),
                    "n_parameters": float(np.mean([size["n_parameters"] for size in sizes[way]])),
                    "n_bytes": float(np.mean([size["n_bytes"] for size in sizes[way]])),
                    "auroc": {
                        "estimate": interval.estimate,
                        "low": interval.low,
                        "high": interval.high,
                    },
                    "difference": {
                        "estimate": against.difference,
                        "low": against.low,
                        "high": against.high,
                    },
                    "budget": BUDGET.model_dump(mode="json"),
                    "versions": versions(),
                }
            )
    write_atomic(RESULTS, "".join(json.dumps(finite(line)) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plans = {seed: make(seed) for seed in arguments.seeds}
    jobs = [
        (Job(model, seed, fold), plans[seed])
        for seed in arguments.seeds
        for model in arguments.models
        for fold in plans[seed][1].repeats[0]
    ]
    waiting = [(job, plan) for job, plan in jobs if not (job.folder / "scores.safetensors").exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        futures = [pool.submit(run, job, plan.dataset, config) for job, (config, plan) in waiting]
        for future in futures:
            print(future.result(), flush=True)
    collect(arguments.models, arguments.seeds, plans)


if __name__ == "__main__":
    main()
