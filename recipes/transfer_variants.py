"""What else was tried, that transfer might win by more: ``python recipes/transfer_variants.py lung``, or cry.

Folds, rates and budget of representation-lung-100 or representation-cry-100, its first seed. Each variant changes one
thing of another: the source's task, its languages, its recordings, its network or its views; the epochs, the masks.
It is compared with that other on the same recordings, with intervals over subjects. Sources are trained here, without
the target's recordings.

Lines go to recipes/results/transfer-variants-lung.jsonl. Killed, it goes on. Needs $VAGITUS_DATA.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tables import ROOT

import vagitus
from vagitus.checkpoint import read_card
from vagitus.config import read_toml
from vagitus.corpora import find_corpus, load_corpus
from vagitus.dataset import Dataset
from vagitus.features import FeatureCache
from vagitus.files import write_atomic
from vagitus.jobs import Job, run_jobs
from vagitus.metrics import statistic
from vagitus.plan import StudyConfig, make_plan
from vagitus.results import decide, finite, settle
from vagitus.splits import Fold
from vagitus.statistics import paired_bootstrap, subject_bootstrap
from vagitus.study import versions

NAME = "transfer-variants"
METRICS = ("auroc", "uar")
SPEECH = ("speech_commands", "dspspeech20")
EVERYDAY = (*SPEECH, "librispeech", "esc")
MEDICAL = ("sprsound", "donateacry", "physionet2016")
TEN_EPOCHS = ("--recipe", "recipes/self-supervised-simclr.toml")


class Source(NamedTuple):
    """A source model as ``vagitus pretrain`` makes it; the target is left out of ``data``."""

    data: tuple[str, ...]
    options: tuple[str, ...]


SOURCES = {
    "speakers": Source(SPEECH, ("--task", "speakers")),
    "arabic": Source(("speech_commands",), ("--task", "words")),
    "transformer": Source((), ("--recipe", "recipes/words-transformer.toml")),
    "ten-epochs": Source((), TEN_EPOCHS),
    "codec": Source((), ("--recipe", "recipes/self-supervised-simclr-codec.toml")),
    "all": Source((*EVERYDAY, *MEDICAL), TEN_EPOCHS),
}


class Variant(NamedTuple):
    """An arm of a study, and the variant that it is set beside."""

    arm: str
    beside: str = "scratch"
    source: str = ""  # of SOURCES; "" for the shipped one, or none
    train: dict[str, Any] = {}  # noqa: RUF012 (never changed)


VARIANTS = {
    "scratch": Variant("scratch"),
    "words": Variant("words"),
    "simclr": Variant("simclr"),
    "speakers": Variant("speakers", "words", "speakers"),
    "words, of the Arabic recordings alone": Variant("words", "words", "arabic"),
    "words, three times the epochs": Variant("words", "words", train={"epochs": 36, "patience": 36}),
    "words, no masks": Variant("words", "words", train={"mask": 0.0}),
    "transformer": Variant("transformer"),
    "transformer that learned words": Variant("words", "transformer", "transformer"),
    "simclr of ten epochs": Variant("simclr", "simclr", "ten-epochs"),
    "simclr, views through codecs": Variant("simclr", "simclr of ten epochs", "codec"),
    "simclr, all recordings here": Variant("simclr", "simclr of ten epochs", "all"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", choices=("lung", "cry"))
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    name = f"{NAME}-{chosen.corpus}"
    out = ROOT / "out" / name
    recipe = read_toml(ROOT / "recipes" / f"representation-{chosen.corpus}-100.toml", StudyConfig)
    files = {source: make_source(source, recipe.data, out, chosen.workers) for source in SOURCES}
    # All sources hear the same front end, so that one plan serves every variant.
    arms = tuple(dict.fromkeys(variant.arm for variant in VARIANTS.values()))
    config = StudyConfig.model_validate(
        recipe.model_dump()
        | {"repeats": 1, "arms": arms, "encoder": "", "sources": {"speakers": files["speakers"]}}
    )
    corpus = find_corpus(config.data)
    positive = corpus.positive.get(corpus.default_task, "")
    cache = FeatureCache(out / "cache")
    plan = make_plan(
        config, load_corpus(config.data), out, positive, corpus.preset, cache, chosen.workers, print
    )
    lines: list[dict[str, Any]] = []
    scored: dict[str, dict[str, NDArray[Any]]] = {}
    for title, variant in VARIANTS.items():
        train = config.budget.train.model_copy(update=variant.train)
        changed = config.model_copy(update={"budget": config.budget.model_copy(update={"train": train})})
        sources = dict(plan.dataset.sources)
        if variant.source:
            sources[variant.arm] = Path(files[variant.source])
        dataset = replace(plan.dataset, sources=sources)
        scored[title] = score(dataset, plan.repeats[0], changed, variant.arm, out / "work", chosen.workers)
        lines.append(compare(title, variant, scored))
        print(title, {metric: round(lines[-1][metric]["estimate"], 3) for metric in METRICS}, flush=True)
    about = {
        "kind": "transfer_variants",
        "data": recipe.data,
        "arguments": chosen.corpus,
        "seed": recipe.seed,
        "n_recordings": len(scored["scratch"]["labels"]),
        "n_subjects": len(np.unique(scored["scratch"]["groups"])),
        "sources": {source: learned(Path(path)) for source, path in files.items()},
        "versions": versions(),
    }
    path_of_lines = ROOT / "recipes" / "results" / f"{name}.jsonl"
    write_atomic(path_of_lines, "".join(json.dumps(finite(line)) + "\n" for line in (about, *lines)))


def make_source(name: str, target: str, folder: Path, n_workers: int) -> str:
    """The file of a source; trained if it is not there, or its recipe or options were others."""
    source = SOURCES[name]
    corpora = [option for corpus in source.data if corpus != target for option in ("--corpus", corpus)]
    command = [*corpora, *source.options, "--keep-out", target]
    recipes = [(ROOT / option).read_text() for option in source.options if option.endswith(".toml")]
    key = hashlib.blake2b(
        json.dumps([vagitus.__version__, command, recipes]).encode(), digest_size=6
    ).hexdigest()
    path = folder / f"{name}-{key}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command += ["--workers", str(n_workers)]
        subprocess.run(
            [sys.executable, "-m", "vagitus", "pretrain", *command, "--out", str(path)], check=True, cwd=ROOT
        )
    return str(path)


def learned(path: Path) -> dict[str, Any]:
    """What a source says of itself: its data and what it was worth on its own task."""
    provenance = read_card(path).provenance
    return {key: provenance[key] for key in ("command", "sources", "n_recordings", "n_subjects", "metrics")}


def score(
    dataset: Dataset, folds: list[Fold], config: StudyConfig, arm: str, work: Path, n_workers: int
) -> dict[str, NDArray[Any]]:
    """Out of fold: labels, groups, probabilities and decisions, in the order of the recordings."""
    jobs = [Job(arm, fold, config.budget) for fold in folds]
    done = dict(run_jobs(dataset, jobs, work, n_workers, lambda text: print(text, flush=True)))
    probabilities = np.full((len(dataset), dataset.n_classes), np.nan)
    decisions = np.full(len(dataset), -1)
    for job in jobs:
        result = done[job.name]
        calibrator, threshold = settle(dataset, result["dev_index"], result["dev_logits"], config)
        logits = result["test_logits"]
        probabilities[job.fold.test] = calibrator.apply(logits)
        decisions[job.fold.test] = decide(logits, probabilities[job.fold.test], threshold)
    return {
        "labels": dataset.labels,
        "groups": dataset.groups,
        "probabilities": probabilities,
        "decisions": decisions,
    }


def compare(title: str, variant: Variant, scored: dict[str, dict[str, NDArray[Any]]]) -> dict[str, Any]:
    """One line: each metric with its interval, and the paired difference from what it is set beside."""
    line: dict[str, Any] = {"kind": "variant", "variant": title, **variant._asdict()}
    own, other = scored[title], scored[variant.beside]
    for metric in METRICS:
        of, beside = (
            statistic(metric, one["labels"], one["probabilities"], one["decisions"]) for one in (own, other)
        )
        interval = subject_bootstrap(of, own["groups"], rng=np.random.default_rng(0))
        line[metric] = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        if title != variant.beside:
            found = paired_bootstrap(of, beside, own["groups"], rng=np.random.default_rng(0))
            line[metric] |= {
                "difference": found.difference,
                "difference_low": found.low,
                "difference_high": found.high,
                "p": found.p,
            }
    return line


if __name__ == "__main__":
    main()
