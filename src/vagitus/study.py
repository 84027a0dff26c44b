"""A study: every arm on the same subject-disjoint folds, compared honestly, and killed without loss.

    recordings -> audit -> features -> folds -> arm x fold jobs -> calibration and threshold on the
    training side -> predictions.csv -> intervals by subject -> report.html
                  -> the network that ranks its own dev parts best -> model.safetensors

A job writes its scores to one file when it is done, and a job whose file is there is not done
again; so a study that was killed goes on where it was. Jobs run in processes of one thread
each, so that the numbers do not depend on how many processors there are.

The model that is shipped is chosen by the training side alone (``choose_network``).
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import vagitus
from vagitus.arms import TRAINED, find_arm
from vagitus.arms.contract import Arm, Budget
from vagitus.arms.network import compress_trained, dev_score, network, score_network
from vagitus.calibration import Calibrator
from vagitus.checkpoint import ModelCard, load_model, read_card, save_model, trained_on
from vagitus.compression import CompressConfig, compress_network
from vagitus.config import to_toml
from vagitus.dataset import Dataset
from vagitus.features import FeatureCache
from vagitus.files import claim, content_hash, locked, working, write_atomic
from vagitus.gains import gain_lines
from vagitus.integrity import INPUTS, RECORD, record_inputs, seal
from vagitus.jobs import Job, final_fold, final_job, identify, run_jobs
from vagitus.manifest import Manifest
from vagitus.plan import FULL, Announce, Plan, StudyConfig, audited, feature_tables, make_plan
from vagitus.processes import n_processors
from vagitus.ranks import from_first, joined, rank
from vagitus.results import comparison_lines, decide_folds, finite, predictions_csv, settle, summary_lines
from vagitus.splits import Fold
from vagitus.tensor_train.compress import count_parameters, pack, packed_bytes
from vagitus.training import Record

RESULTS_FORMAT = 1
PRODUCTS = (
    RECORD,
    INPUTS,
    "results.jsonl",
    "predictions.csv",
    "report.html",
    "model.safetensors",
    "model.onnx",
)
RULE = "the network arm with the highest mean AUROC on its own dev parts, over folds and repeats; of equals the first"


def run_study(
    config: StudyConfig,
    manifest: Manifest,
    out: Path,
    *,
    positive: str = "",
    front_end: str = "",
    cache: Path,
    command: str,
    n_workers: int | None = None,
    announce: Announce = lambda line: None,
    finish: Callable[[Plan], None] = lambda plan: None,
) -> tuple[Plan, list[dict[str, Any]]]:
    """Run a study and write its folder: results.jsonl, predictions.csv, audit.json, recipe.toml, model.safetensors.

    At the end inputs.csv and run.json say what was read and written (``vagitus.integrity``).

    Args:
        manifest: what ``config.data`` names.
        out: the study's folder; jobs that are done there already are not done again.
        positive, front_end: the corpus's own, used where ``config`` leaves them blank.
        cache: folder of the feature cache.
        command: the exact command, for the record.
        n_workers: processes; default one per processor.
        announce: is given one line of progress at a time.
        finish: writes what else belongs to the folder, while no other run may write there and before it is sealed.

    Returns:
        The plan and the lines of results.jsonl.

    Raises:
        ValueError: the manifest cannot be studied; names the file, the row and the way out.
        OSError: ``out`` or ``cache`` cannot be written.
    """
    # Locking also finds out, before the work, that the folder cannot be written.
    with locked(out / "work", "a study"):
        started = time.monotonic()
        plan = make_plan(
            config,
            manifest,
            out,
            positive,
            front_end,
            FeatureCache(cache),
            n_workers or n_processors(),
            announce,
        )
        for product in PRODUCTS:  # of an earlier study here: they would stand beside a recipe not theirs
            (out / product).unlink(missing_ok=True)
        write_atomic(out / "recipe.toml", to_toml(config))
        write_atomic(out / "audit.json", json.dumps(plan.audit.to_json(), indent=1))
        jobs = [
            Job(arm, fold, config.budget.model_copy(update={"seed": config.seed + repeat}))
            for arm in config.arms
            if isinstance(find_arm(arm), Arm)
            for repeat, folds in enumerate(plan.repeats)
            for fold in folds
        ]
        workers = n_workers or n_processors()
        done = dict(run_jobs(plan.dataset, jobs, out / "work", workers, announce))
        choice = choose_network(config, plan.repeats, done)
        if choice:
            announce(
                f"{choice['arm']} ranks its own dev parts best: to ship, it is trained without a test side"
            )
            final = final_job(
                plan.dataset, jobs[0].budget, choice["arm"], labelled_share=config.labelled_share
            )
            done |= run_jobs(plan.dataset, [final], out / "work", workers, announce)
        announce("resampling subjects")
        results, table = _judge(config, plan, done, command)
        if choice:
            results.append(_save_final(out, plan.dataset, done[final.name], config, choice, results))
        results[0]["seconds"] = round(time.monotonic() - started, 1)
        write_atomic(out / "predictions.csv", table)
        write_atomic(out / "results.jsonl", "".join(json.dumps(finite(line)) + "\n" for line in results))
        record_inputs(out, plan.dataset.manifest)
        finish(plan)
        seal(out)
    return plan, results


def choose_network(
    config: StudyConfig, repeats: Iterable[Iterable[Fold]], done: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Which arm's network is shipped, told by the training side alone.

    Every network arm has ranked recordings that its networks were not fitted to: the dev part of each member, in
    every fold and repeat. The one with the highest mean AUROC there is taken, of equals the first in ``config.arms``.
    Those AUROCs also picked epochs and rates, by the same budget for every arm: they compare arms, and flatter each.
    No test score is read, or the report's figures of the chosen arm would flatter it too. Blends, probes and what is
    adapted to a site are no single network and are not shipped.

    Args:
        repeats: the folds of each repeat.
        done: what the jobs left, by their names.

    Returns:
        ``arm``, the ``rule``, and ``dev_auroc`` of every candidate; None where no arm is a network.
    """
    dev_auroc = {
        arm: float(
            np.mean(
                [
                    done[Job(arm, fold, config.budget).name]["chosen"]["dev_auroc"]
                    for folds in repeats
                    for fold in folds
                ]
            )
        )
        for arm in config.arms
        if getattr(getattr(find_arm(arm), "fit", None), "func", None) in TRAINED
    }
    # A dev part of one class ranks nothing: an arm without a figure is not taken before one that has it.
    known = {arm: value for arm, value in dev_auroc.items() if not np.isnan(value)} or dev_auroc
    if not known:
        return None
    return {"arm": max(known, key=known.__getitem__), "rule": RULE, "dev_auroc": dev_auroc}


def _judge(
    config: StudyConfig, plan: Plan, done: dict[str, dict[str, Any]], command: str
) -> tuple[list[dict[str, Any]], str]:
    """The lines of results.jsonl and the text of predictions.csv, from the jobs' scores."""
    tested = np.sort(np.concatenate([fold.test for fold in plan.repeats[0]]))
    predictions, fold_lines = {}, []
    for arm in config.arms:
        predictions[arm], lines = decide_folds(arm, plan, done, tested, config)
        fold_lines += lines
    results = [
        _study_line(config, plan, command, len(tested)),
        *fold_lines,
        *summary_lines(predictions, plan, tested, config),
        *comparison_lines(predictions, plan, tested, config),
        *gain_lines(predictions, done, plan, tested, config),
    ]
    return results, predictions_csv(predictions, plan, tested)


@joined()
def train_model(
    config: StudyConfig,
    manifest: Manifest,
    path: Path,
    *,
    positive: str = "",
    front_end: str = "",
    cache: Path,
    n_workers: int | None = None,
    announce: Announce = lambda line: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> ModelCard:
    """Train res8 on all labelled recordings but a dev fold, and write it to ``path``: one step of a study.

    A dev fold of other subjects picks the epoch, the calibration and the threshold. What the model is
    worth must be measured on other recordings, by ``evaluate`` or a study. Killed, the same call goes on. The
    processes that torchrun starts train it together (``vagitus.ranks``).

    Args and errors as ``run_study``; ``on_epoch`` is given each epoch's record.
    """
    work = path.with_name(f"{path.stem}-work")
    is_first = rank() == 0

    def plan_it() -> Plan:
        cpus = n_workers or n_processors()
        return make_plan(config, manifest, work, positive, front_end, FeatureCache(cache), cpus, announce)

    with working(work, "a training") if is_first else nullcontext():
        dataset = from_first(plan_it).dataset
        budget = config.budget.model_copy(update={"seed": config.seed})
        job = final_job(dataset, budget, "scratch")
        if is_first:
            announce("training")
        digests = {name: content_hash(table.path) for name, table in dataset.tables.items()}
        state = work / f"{identify(job, dataset, digests)}.state"  # of other recordings it would be no start
        scores = network(dataset, job.fold, job.budget, state, model_name="res8", on_epoch=on_epoch)
        return from_first(lambda: _save_network(path, dataset, job.arm, scores._asdict(), config))


def compress_model(
    source: Path,
    path: Path,
    config: CompressConfig,
    manifest: Manifest | None = None,
    *,
    budget: Budget = FULL,
    cache: Path | None = None,
    n_workers: int | None = None,
    announce: Announce = lambda line: None,
) -> dict[str, Any]:
    """Make a trained model smaller and write it to ``path``.

    With recordings (those it was trained on) ranks are chosen and the smaller model fine-tuned against the
    original; the same subjects as in its training are kept aside to pick ranks and epoch, and to fit
    calibration and threshold anew. Without, calibration and threshold stay as they were.

    Args:
        source: a model file that is not compressed yet.
        manifest: labelled recordings; their labels must be the model's classes.
        budget: of the fine-tuning.
        cache: folder of the feature cache; needed with a manifest.

    Returns:
        ``before`` and ``after``: parameters, bytes of the weights, AUROC on the dev part (None without one).

    Raises:
        FileNotFoundError, ValueError: not a model, or already compressed; recordings that do not fit it; see
            ``compress_network``.
    """
    model, card = load_model(source)
    if card.compression:
        raise ValueError(f"{source}: is compressed already; compress the model that it was made from")
    before = {"n_parameters": count_parameters(model), "n_bytes": packed_bytes(pack(model.state_dict()))}
    changes: dict[str, Any] = {}
    if manifest is None:
        small = compress_network(model, config, dev_score=None)
        aurocs: tuple[float | None, float | None] = (None, None)
    else:
        seed = int(card.provenance.get("seed", 0))
        budget = budget.model_copy(
            update={"seed": seed, "train": budget.train.model_copy(update={"window_s": card.window_s})}
        )
        work = path.with_name(f"{path.stem}-work")
        dataset = _dataset_of(manifest, card, work, cache or work / "cache", n_workers, announce)
        fold = final_fold(dataset, seed)
        announce("compressing")
        small = compress_trained(
            model, config, dataset, fold, budget, work / "fine-tuning.state", table="study"
        )
        rank_dev = dev_score(dataset, fold, budget, "study")
        aurocs = rank_dev(model), rank_dev(small.model)
        logits = score_network(small.model, dataset, fold.dev, budget)
        calibrator, threshold = settle(dataset, fold.dev, logits, StudyConfig(data=card.provenance["data"]))
        changes = {"calibration": calibrator.to_dict(), "threshold": threshold}
        shutil.rmtree(work)
    provenance = card.provenance | {
        "compressed_from": content_hash(source),
        "compression": config.model_dump(mode="json"),
        "chosen": finite(small.chosen),
    }
    for stale in ("cross_validated", "members_cross_validated"):  # measured on the original
        provenance.pop(stale, None)
    save_model(path, small.model, replace(card, compression=small.storage, provenance=provenance, **changes))
    return {
        "before": before | {"dev_auroc": aurocs[0]},
        "after": {
            "n_parameters": small.n_parameters,
            "n_bytes": small.n_bytes,
            "dev_auroc": aurocs[1],
        },
        "chosen": small.chosen,
    }


def _dataset_of(
    manifest: Manifest,
    card: ModelCard,
    work: Path,
    cache: Path,
    n_workers: int | None,
    announce: Announce,
) -> Dataset:
    """Labelled recordings as a model's own front end hears them."""
    labelled = manifest.labelled()
    if len(labelled) == 0:
        raise ValueError(f"{manifest.source}: no recording has a label; fill the column 'label'")
    labelled.encode_labels(card.class_names)  # a label it does not know is said before the work
    claim(work)
    workers = n_workers or n_processors()
    _, usable, groups = audited(labelled, StudyConfig(data=manifest.source).max_bad, workers, announce)
    announce(f"computing features of {len(usable)} recordings")
    tables = feature_tables(usable, {"study": card.features}, FeatureCache(cache), work, workers)
    return Dataset(
        manifest=usable,
        labels=usable.encode_labels(card.class_names),
        class_names=card.class_names,
        groups=groups,
        duration_s=np.diff(tables["study"].offsets) / card.features.frames_per_s,
        tables=tables,
    )


def make_card(
    dataset: Dataset,
    table: str,
    config: StudyConfig,
    calibrator: Calibrator,
    threshold: float | None,
    **provenance: Any,
) -> ModelCard:
    """The card of a plain res8 trained on ``table`` of this dataset; of another network, ``replace`` says which.

    It lists hashes of the recordings, so that ``evaluate`` can refuse them.
    """
    front_end = dataset.tables[table].config
    return ModelCard(
        model="res8",
        options={"n_mels": front_end.n_rows, "n_classes": dataset.n_classes},
        features=front_end,
        window_s=config.budget.train.window_s,
        class_names=dataset.class_names,
        positive=dataset.class_names[-1] if dataset.n_classes == 2 else "",
        threshold=threshold,
        calibration=calibrator.to_dict(),
        provenance={
            "versions": versions(),
            "data": Path(dataset.manifest.source).name,  # never a path of this machine
            "task": config.task,
            "notes": list(dataset.manifest.notes),
            "simulated": dataset.manifest.simulated,
            "seed": config.seed,
            "n_recordings": len(dataset),
            "n_subjects": len(np.unique(dataset.groups)),
            "trained_on": trained_on(map(dataset.manifest.file, range(len(dataset)))),
            **provenance,
        },
    )


def _save_final(
    out: Path,
    dataset: Dataset,
    result: dict[str, Any],
    config: StudyConfig,
    choice: dict[str, Any],
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write model.safetensors; its card carries the arm's cross-validated metrics, not its own."""
    arm = choice["arm"]
    summary = next(line for line in results if line["kind"] == "summary" and line["arm"] == arm)
    card = _save_network(
        out / "model.safetensors",
        dataset,
        arm,
        result,
        config,
        cross_validated=finite(summary["metrics"]),
        members_cross_validated=config.budget.n_members,
    )
    return {"kind": "model", **choice, "file": "model.safetensors", "threshold": card.threshold}


def _save_network(
    path: Path,
    dataset: Dataset,
    arm: str,
    scores: Mapping[str, Any],
    config: StudyConfig,
    **provenance: Any,
) -> ModelCard:
    """Write an arm's network, decided by its scores out of fold.

    Args:
        scores: of ``Scores``, by name, with a network.
    """
    made, row = scores["network"], find_arm(arm)
    decided = settle(dataset, scores["dev_index"], scores["dev_logits"], config)
    card = make_card(
        dataset,
        made.table,
        config,
        *decided,
        arm=arm,
        title=row.title,
        chosen=finite(scores["chosen"]),
        **provenance,
    )
    begun = _begun_from(dataset.sources[made.table], card) if made.table in dataset.sources else {}
    card = replace(
        card,
        model=made.name,
        options=made.options,
        compression=made.storage,
        provenance=card.provenance | begun,
    )
    save_model(path, made.module, card)
    return card


def _begun_from(source: Path, card: ModelCard) -> dict[str, Any]:
    """What a card says of the source model, as ``pretrain`` says it; what that one heard is not new to this one."""
    earlier = dict(read_card(source).provenance)
    heard = [card.provenance["trained_on"], earlier.pop("trained_on", "")]
    return {
        "trained_on": trained_on((), before=heard),
        "started_from": content_hash(source),
        "started_from_provenance": earlier,
    }


def _study_line(config: StudyConfig, plan: Plan, command: str, n_tested: int) -> dict[str, Any]:
    manifest, audited = plan.dataset.manifest, plan.audit.to_json()
    return {
        "kind": "study",
        "format": RESULTS_FORMAT,
        "data": config.data,
        "task": config.task,
        "command": command,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
        "class_names": list(plan.dataset.class_names),
        "class_counts": np.bincount(plan.dataset.labels).tolist(),
        "n_recordings": len(manifest),
        "n_tested": n_tested,
        "n_subjects": len(np.unique(manifest.subject)),
        "n_groups": len(np.unique(plan.dataset.groups)),
        "sites": list(manifest.site_names),
        "simulated": manifest.simulated,
        "notes": [*manifest.notes, *plan.notes],
        "front_end": plan.dataset.tables["study"].config.model_dump(),
        **{name: audited[name] for name in ("lookups", "leakage")},
    }


def versions() -> dict[str, str]:
    """What the numbers depend on: versions, and the commit where the package runs from a checkout."""
    from importlib.metadata import version

    packages = ("numpy", "scipy", "scikit-learn", "torch", "soundfile", "soxr")
    found = {"vagitus": vagitus.__version__, "python": platform.python_version()}
    found |= {name: version(name) for name in packages}
    git = Path(vagitus.__file__).parents[2] / ".git"
    if (git / "HEAD").is_file():
        head = (git / "HEAD").read_text().strip()
        reference = git / head.removeprefix("ref: ")
        if head.startswith("ref: "):
            head = reference.read_text().strip() if reference.is_file() else ""
        if head:
            found["commit"] = head
    return found
