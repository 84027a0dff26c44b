"""Does what was learned elsewhere hold up better? ``python recipes/robustness_of_representations.py lung``, or cry.

The folds, arms and budget of representation-lung-100 or representation-cry-100, its first seeds. Every arm is trained
on clean recordings, and tuned on them alone; every fourth recording is then scored by the arms that never saw its
subject: clean, in gaussian noise and noise of every ESC-10 class but the cries (another clip for each recording), cut
short, without some mel bands, through codecs, filters and rooms, at other levels, and clipped: the conditions of
``vagitus evaluate --robustness``. Networks, SVM, ridge and probe hear the same: a recording is perturbed at its own
rate and goes from there to the rate of each front end.

Departures: the encoder of ``ge2e-probe`` takes a waveform, and hears one whose band is filtered out where the others'
mel bands are removed before the DCT; what is digital silence to it has an embedding of zeros. And the clips of ESC-10
are not news to ``simclr``, which learned from them, labels unseen, and had them mixed into its views; lines say of how
many clips that is true for each source. No source heard the gaussian noise, codecs, filters or rooms.

Curves and the areas under them, with intervals over seeds and subjects, each against ``scratch`` on the same
resamples, go to recipes/results/robustness-of-representations-lung.jsonl. Killed, it goes on. Needs $VAGITUS_DATA,
the wheel of Resemblyzer that the recipe names, and 12 GB of disk under out/.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tables import ROOT

from vagitus.arms import find_arm
from vagitus.arms.contract import Arm
from vagitus.audio import AudioError, read, resample
from vagitus.augment import band_limit
from vagitus.checkpoint import learned_rows, read_card
from vagitus.config import read_toml
from vagitus.corpora import find_corpus, load_corpus
from vagitus.dataset import Dataset, FeatureTable, write_feature_table
from vagitus.encoders import open_encoder
from vagitus.features import FeatureCache, FeatureConfig, over_files
from vagitus.files import atomic_path, content_hash, write_atomic
from vagitus.jobs import Job, run_jobs
from vagitus.manifest import Manifest
from vagitus.plan import StudyConfig, make_plan
from vagitus.results import decide, finite, settle
from vagitus.robustness import (
    WIDTHS_OCTAVES,
    Condition,
    Sweep,
    curves,
    default_conditions,
    featurise_under,
    join,
    noise_pool,
    perturbations,
    robustness_lines,
)
from vagitus.splits import Fold
from vagitus.study import versions

BASELINE = "scratch"
NAME = "robustness-of-representations"
VERSION = 2  # of what a condition does to a recording here; raised with it
EVERY = 4  # of the recordings, one is perturbed
N_SEEDS = 3
N_RESAMPLES = 20_000  # p cannot be below 2 in this many, and Holm multiplies it by the number of areas

Float32 = NDArray[np.float32]
Noises = Mapping[str, Sequence[Path]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", choices=("lung", "cry"))
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    name, n_workers = f"{NAME}-{chosen.corpus}", chosen.workers
    out = ROOT / "out" / name
    recipe = ROOT / "recipes" / f"representation-{chosen.corpus}-100.toml"
    config = read_toml(recipe, StudyConfig).model_copy(update={"repeats": N_SEEDS})
    corpus = find_corpus(config.data)
    manifest = load_corpus(config.data)
    positive = corpus.positive.get(corpus.default_task, "")
    cache = FeatureCache(out / "cache")
    plan = make_plan(config, manifest, out, positive, corpus.preset, cache, n_workers, print)
    clean = plan.dataset
    esc = load_corpus("esc")
    noises = noise_pool(esc)
    wanted = default_conditions({table.config for table in clean.tables.values()}, noises)
    work = out / key_of(clean, wanted, noises)

    dataset, rows, left_out = enlarged(clean, wanted, noises, config.encoder, work, n_workers)
    arms = [arm for arm in config.arms if isinstance(found := find_arm(arm), Arm) and found.front_end]
    budgets = [config.budget.model_copy(update={"seed": config.seed + i}) for i in range(N_SEEDS)]
    tested = [[for_testing(fold, rows, len(clean), len(wanted)) for fold in folds] for folds in plan.repeats]
    repeats = list(zip(budgets, tested, strict=True))
    jobs = [Job(arm, fold, budget) for budget, folds in repeats for arm in arms for _, fold in folds]
    done = dict(run_jobs(dataset, jobs, work / "jobs", n_workers, lambda text: print(text, flush=True)))
    sweeps = []
    for budget, folds in repeats:
        parts = []
        for own, fold in folds:
            answers = {arm: _answer(dataset, done[Job(arm, fold, budget).name], config) for arm in arms}
            logits, scores, decisions = (
                {
                    arm: answer[i].reshape(len(own), len(wanted), *answer[i].shape[1:]).swapaxes(0, 1)
                    for arm, answer in answers.items()
                }
                for i in range(3)
            )
            parts.append(Sweep(wanted, own, clean.class_names, logits, scores, decisions, {}))
        sweeps.append(join(parts))
    found = sweeps[0].rows
    labels, groups = clean.labels[found], clean.groups[found]
    made = curves(sweeps, labels, groups, metric="auroc", baseline=BASELINE, n_resamples=N_RESAMPLES)
    about = {
        "kind": "robustness_study",
        "data": config.data,
        "arguments": chosen.corpus,
        "ways": arms,
        "baseline": BASELINE,
        "seed": config.seed,
        "n_seeds": len(sweeps),
        "n_resamples": N_RESAMPLES,
        "n_recordings": len(found),
        "n_subjects": len(np.unique(groups)),
        "left_out": left_out,
        "noise_heard_by": heard_by_sources(clean, esc, noises),
        "budget": config.budget.model_dump(mode="json"),
        "versions": versions(),
    }
    lines = (about, *robustness_lines(made))
    path = ROOT / "recipes" / "results" / f"{name}.jsonl"
    write_atomic(path, "".join(json.dumps(finite(line)) + "\n" for line in lines))


def key_of(clean: Dataset, wanted: tuple[Condition, ...], noises: Noises) -> str:
    """Names the folder of what is kept: other recordings, features, conditions or noise make another."""
    facts = [VERSION, EVERY, repr(wanted), hashlib.blake2b(clean.embeddings.tobytes()).hexdigest()]
    facts += [content_hash(table.path) for table in clean.tables.values()]
    facts += [content_hash(path) for name in sorted(noises) for path in noises[name]]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=6).hexdigest()


def heard_by_sources(clean: Dataset, corpus: Manifest, noises: Noises) -> dict[str, str]:
    """Of how many clips of the noise, which are of ``corpus``, each source model learned."""
    noise = corpus.select(np.isin(corpus.label, list(noises)))
    return {
        name: f"{len(learned_rows(read_card(path), noise))} of {len(noise)}"
        for name, path in clean.sources.items()
    }


def for_testing(
    fold: Fold, rows: NDArray[np.int64], n_clean: int, n_conditions: int
) -> tuple[NDArray[np.int64], Fold]:
    """Those of ``rows`` that a fold tests, and the fold with these under every condition as its test side."""
    places = np.flatnonzero(np.isin(rows, fold.test))
    test = n_clean + places[:, None] * n_conditions + np.arange(n_conditions)
    return rows[places], fold._replace(test=test.ravel())


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
    clean: Dataset, wanted: tuple[Condition, ...], noises: Noises, encoder: str, folder: Path, n_workers: int
) -> tuple[Dataset, NDArray[np.int64], int]:
    """The data set with the perturbed recordings behind the clean ones, each with its subject and label.

    Returns:
        the data set, in it each recording under all conditions, one after the other; which recordings these are; and
        how many that were tried could not be heard under all conditions.
    """
    tried = np.arange(0, len(clean), EVERY)
    embeddings = np.load(path) if (path := folder / "embeddings.npy").exists() else None
    if embeddings is None:
        embed = partial(embed_under, wanted, noises, encoder)
        embeddings = np.full((len(tried), len(wanted), clean.embeddings.shape[1]), np.nan, np.float32)
        for place, found in _over(clean.manifest, tried, embed, n_workers, "embeddings"):
            embeddings[place] = found
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, embeddings)
    heard = np.isfinite(embeddings).all(axis=(1, 2))
    rows = tried[heard]
    print(f"{len(rows)} recordings under {len(wanted)} conditions each", flush=True)
    origin = np.concatenate([np.arange(len(clean)), np.repeat(rows, len(wanted))])
    tables: dict[str, FeatureTable] = {}
    for name, table in clean.tables.items():
        twin = next((other for other in tables.values() if other.config == table.config), None)
        tables[name] = twin or enlarged_table(clean, name, rows, wanted, noises, folder, n_workers)
    dataset = replace(
        clean,
        manifest=clean.manifest.select(origin),
        labels=clean.labels[origin],
        groups=clean.groups[origin],
        duration_s=np.diff(tables["study"].offsets) / tables["study"].config.frames_per_s,
        tables=tables,
        embeddings=np.concatenate([clean.embeddings, embeddings[heard].reshape(-1, embeddings.shape[2])]),
    )
    return dataset, rows, int((~heard).sum())


def enlarged_table(
    clean: Dataset,
    name: str,
    rows: NDArray[np.int64],
    wanted: tuple[Condition, ...],
    noises: Noises,
    folder: Path,
    n_workers: int,
) -> FeatureTable:
    """One table of the clean recordings and, behind them, of ``rows`` under every condition."""
    table = clean.tables[name]
    path, path_of_offsets = folder / f"features-{name}.npy", folder / f"offsets-{name}.npy"
    if not path.exists():
        features: dict[int, list[Float32]] = {}
        hear = partial(features_under, wanted, noises, table.config)
        for place, found in _over(clean.manifest, rows, hear, n_workers, f"features {name}"):
            features[place] = found
        if len(features) < len(rows):  # what the encoder takes is longer than any window here
            raise ValueError(
                f"{len(rows) - len(features)} recordings that the encoder embeds have no {name}: see above"
            )
        perturbed = list(chain.from_iterable(features[place] for place in range(len(rows))))
        lengths = [*np.diff(table.offsets).tolist(), *(one.shape[1] for one in perturbed)]
        with atomic_path(path_of_offsets) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        write_feature_table(path, table.config, lengths, chain(table, perturbed))
    return FeatureTable(path, table.config, np.load(path_of_offsets))


def _over(
    manifest: Manifest,
    rows: NDArray[np.int64],
    function: Callable[[Any], Any],
    n_workers: int,
    what: str,
) -> Iterator[tuple[int, Any]]:
    """(place in ``rows``, what ``function`` makes of the recording) of those that it can hear, as they are done."""
    stretches = ((manifest.file(int(i)), *manifest.stretch(int(i))) for i in rows)
    for n_done, (place, found) in enumerate(over_files(function, stretches, n_workers), start=1):
        if isinstance(found, AudioError):
            print(f"left out: {manifest.where(int(rows[place]))}: {found}", flush=True)
            continue
        if n_done % 20 == 0:
            print(f"{what}: {n_done}/{len(rows)}", flush=True)
        yield place, found


def heard_under(
    wanted: Iterable[Condition], noises: Noises, stretch: tuple[Path, float, float | None], rate_hz: int
) -> Iterator[tuple[Condition, Float32]]:
    """A recording under each condition: perturbed at its own rate, then brought to ``rate_hz``."""
    path, start_s, end_s = stretch
    clean = read(path, start_s=start_s, end_s=end_s)
    for condition, perturb in perturbations(wanted, noises, path.name, clean.sample_rate_hz, 0):
        yield condition, resample(perturb(clean.samples), clean.sample_rate_hz, rate_hz)


def features_under(
    wanted: Iterable[Condition],
    noises: Noises,
    config: FeatureConfig,
    stretch: tuple[Path, float, float | None],
) -> list[Float32] | AudioError:
    try:
        return [
            featurise_under(condition, waveform, config)
            for condition, waveform in heard_under(wanted, noises, stretch, config.sample_rate_hz)
        ]
    except ValueError as error:
        return AudioError(str(error))


_opened = lru_cache(maxsize=1)(open_encoder)


def embed_under(
    wanted: Iterable[Condition], noises: Noises, encoder: str, stretch: tuple[Path, float, float | None]
) -> Float32 | AudioError:
    import torch

    torch.set_num_threads(1)  # workers are processes
    opened = _opened(encoder)
    found = []
    try:
        for condition, waveform in heard_under(wanted, noises, stretch, opened.sample_rate_hz):
            if condition.kind != "bands":
                heard = waveform
            else:
                end_hz = min(condition.level * 2 ** WIDTHS_OCTAVES[condition.name], opened.sample_rate_hz / 2)
                # As steep as the band is narrow: with the default's 100 Hz a low band would hardly be gone.
                steep_hz = min(100.0, (end_hz - condition.level) / 4)
                band = band_limit(
                    waveform, condition.level, end_hz, opened.sample_rate_hz, transition_hz=steep_hz
                )
                heard = waveform - band
            found.append(opened.embed(heard) if heard.any() else np.zeros(opened.dim, np.float32))
    except ValueError as error:
        return AudioError(str(error))
    return np.stack(found)


if __name__ == "__main__":
    main()
