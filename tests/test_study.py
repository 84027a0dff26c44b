import csv
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_data
import torch

from vagitus.arms import SHIPPED_SOURCES, SOURCES, find_arm
from vagitus.arms.contract import Arm
from vagitus.audio import read
from vagitus.checkpoint import WEIGHTS, load_model, save_model, trained_on
from vagitus.compression import CompressConfig
from vagitus.corpora.simulated import generate
from vagitus.export import export_onnx
from vagitus.features import FeatureCache
from vagitus.files import locked
from vagitus.jobs import Job
from vagitus.manifest import Manifest
from vagitus.plan import Plan, StudyConfig, make_folds, make_plan, order_classes
from vagitus.predict import Predictor
from vagitus.results import finite
from vagitus.scale import cluster
from vagitus.splits import Fold, grouped_folds
from vagitus.study import choose_network, run_study
from vagitus.tensor_train.compress import count_parameters

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter

ARMS = ("prevalence", "logmel+ridge", "scratch", "blend")
FITTED = ARMS[:3]


class Ran:
    """A finished study's folder, read back as a stranger would."""

    def __init__(self, out: Path, results: list[dict[str, Any]]) -> None:
        self.out, self.results = out, results
        with (out / "predictions.csv").open() as file:
            self.rows = list(csv.DictReader(file))

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.results if line["kind"] == kind]


def run(
    manifest: Manifest, out: Path, *, finish: Callable[[Plan], None] = lambda plan: None, **changes: object
) -> Ran:
    _, results = run_study(
        study_data.config(**{"arms": ARMS} | changes),
        manifest,
        out,
        positive="case",
        cache=out.parent / "cache",
        command="vagitus study",
        n_workers=2,
        finish=finish,
    )
    return Ran(out, results)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return study_data.simulated(folder / "audio")


@pytest.fixture(scope="module")
def ran(folder: Path, manifest: Manifest) -> Ran:
    return run(manifest, folder / "out")


def test_every_recording_is_scored_once_by_every_arm(ran: Ran, manifest: Manifest) -> None:
    for arm in ARMS:
        assert sorted(row["path"] for row in ran.rows if row["arm"] == arm) == sorted(manifest.path)


def test_no_subject_stands_in_two_folds(ran: Ran) -> None:
    folds = defaultdict(set)
    for row in ran.rows:
        folds[row["subject"]].add(row["fold"])
    assert len(folds) == 24 and all(len(names) == 1 for names in folds.values())


@pytest.mark.parametrize("arm", ARMS)
def test_the_reported_auroc_is_that_of_the_predictions(ran: Ran, arm: str) -> None:
    rows = [row for row in ran.rows if row["arm"] == arm]
    labels = np.array([row["label"] == "case" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    reported = next(line for line in ran.lines("summary") if line["arm"] == arm)["metrics"]["auroc"]
    assert reported["estimate"] == pytest.approx(study_data.recomputed_auroc(labels, scores), abs=1e-9)
    assert reported["low"] <= reported["estimate"] <= reported["high"]


def test_decisions_follow_the_folds_own_threshold(ran: Ran) -> None:
    thresholds = {(line["arm"], line["fold"]): line["threshold"] for line in ran.lines("fold")}
    for row in ran.rows:
        assert float(row["threshold"]) == thresholds[row["arm"], row["fold"]]
        assert row["decision"] == ("case" if float(row["score"]) >= float(row["threshold"]) else "control")


def test_the_ridge_hears_what_the_prevalence_does_not(ran: Ran) -> None:
    found = {line["arm"]: line["metrics"]["auroc"]["estimate"] for line in ran.lines("summary")}
    assert found["logmel+ridge"] > 0.8
    assert found["prevalence"] < 0.6
    comparison = next(
        line
        for line in ran.lines("comparison")
        if (line["arm"], line["baseline"], line["metric"]) == ("logmel+ridge", "prevalence", "uar")
    )
    uar = {line["arm"]: line["metrics"]["uar"]["estimate"] for line in ran.lines("summary")}
    assert comparison["difference"] == pytest.approx(uar["logmel+ridge"] - uar["prevalence"])
    assert comparison["low"] > 0 and comparison["p"] <= comparison["p_holm"] < 0.05


def test_a_blend_ranks_by_the_mean_of_its_parts_log_probabilities(ran: Ran) -> None:
    scores = {
        arm: {row["path"]: float(row["score"]) for row in ran.rows if row["arm"] == arm} for arm in ARMS
    }
    for fold in ("repeat0-fold0", "repeat0-fold1", "repeat0-fold2"):
        paths = [row["path"] for row in ran.rows if (row["arm"], row["fold"]) == ("blend", fold)]
        log_odds = {
            arm: np.array([np.log(scores[arm][path] / (1 - scores[arm][path])) for path in paths])
            for arm in ARMS
        }
        mean = (log_odds["logmel+ridge"] + log_odds["scratch"]) / 2
        # Calibrated once more: a rising straight line of the mean.
        slope, bias = np.polyfit(mean, log_odds["blend"], 1)
        assert slope > 0
        np.testing.assert_allclose(log_odds["blend"], slope * mean + bias, atol=1e-6)


def test_results_file_is_what_was_returned_and_valid_json(ran: Ran) -> None:
    text = (ran.out / "results.jsonl").read_text()
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
    ]  # no NaN, no Infinity
    assert [line["kind"] for line in lines] == [line["kind"] for line in ran.results]
    assert lines[0]["kind"] == "study" and lines[0]["simulated"] is True


def test_the_shipped_model_rebuilds_itself_and_carries_its_decision(ran: Ran) -> None:
    model, card = load_model(ran.out / "model.safetensors")
    assert card.class_names == ("control", "case") and card.positive == "case"
    assert card.threshold is not None and 0 < card.threshold < 1
    assert card.provenance["cross_validated"]["auroc"]["estimate"] == pytest.approx(
        next(line for line in ran.lines("summary") if line["arm"] == "scratch")["metrics"]["auroc"][
            "estimate"
        ]
    )
    assert sum(p.numel() for p in model.parameters()) == 110_307 - 10 * 46  # two outputs, not twelve
    (line,) = ran.lines("model")
    told = [fold["chosen"]["dev_auroc"] for fold in ran.lines("fold") if fold["arm"] == "scratch"]
    assert line["arm"] == "scratch" and line["dev_auroc"] == {"scratch": pytest.approx(np.mean(told))}


def divided(manifest: Manifest) -> Manifest:
    """With a published split: a third of each class's subjects for each part."""
    labels = (manifest.label == "case").astype(np.int64)
    folds = grouped_folds(labels, manifest.subject, n_folds=3, seed=0)
    split = np.full(len(manifest), "train", dtype="<U5")
    split[folds[0].test], split[folds[1].test] = "test", "dev"
    return replace(manifest, split=split)


def test_a_network_is_chosen_by_its_mean_on_dev_parts_and_of_equals_the_first() -> None:
    config = study_data.config(arms=("svm", "lstm", "scratch", "words+compressed", "blend", "logmel+ridge"))
    none = np.empty(0, np.int64)
    repeats = [[Fold(name, none, none, none)] for name in ("repeat0-fold0", "repeat1-fold0")]
    aurocs = {"lstm": (0.9, 0.5), "scratch": (0.75, 0.75), "words+compressed": (1.0, 0.5)}
    done = {
        Job(arm, folds[0], config.budget).name: {"chosen": {"dev_auroc": value}}
        for arm, values in aurocs.items()
        for folds, value in zip(repeats, values, strict=True)
    }
    choice = choose_network(config, repeats, done)
    assert choice is not None and choice["arm"] == "scratch"
    assert choice["dev_auroc"] == pytest.approx({"lstm": 0.7, "scratch": 0.75, "words+compressed": 0.75})
    assert choose_network(study_data.config(arms=("svm", "adapt:source"), split="sites"), repeats, {}) is None
    # A dev part of one class has no AUROC: the arm is not taken before one that has it, whatever their order.
    unknown = {
        name: {"chosen": {"dev_auroc": np.nan}} if name.startswith("lstm ") else result
        for name, result in done.items()
    }
    choice = choose_network(config, repeats, unknown)
    assert choice is not None and choice["arm"] == "scratch"


def test_no_test_label_has_a_say_in_what_is_shipped(manifest: Manifest, folder: Path) -> None:
    arms = {name: arm for name in ("scratch", "words") if isinstance(arm := find_arm(name), Arm)}
    sources = {"words": str(study_data.source(folder / "words.safetensors"))}
    config = study_data.config(arms=tuple(arms), split="column", sources=sources)
    # Labels that the sound does not tell: else both arms rank the dev part without a fault.
    subjects, subject_of = np.unique(manifest.subject, return_inverse=True)
    labels = np.random.default_rng(0).permutation(np.arange(len(subjects)) % 2)[subject_of]
    told = divided(manifest.with_labels(np.where(labels == 1, "case", "control")))
    swapped = np.where(told.label == "case", "control", "case")
    turned = told.with_labels(np.where(told.split == "test", swapped, told.label))

    def chosen(manifest: Manifest, out: Path) -> dict[str, Any] | None:
        plan = make_plan(config, manifest, out, "case", "", FeatureCache(folder / "cache"), 1, print)
        fits = {
            Job(name, fold, config.budget).name: arm.fit(plan.dataset, fold, config.budget, None)
            for name, arm in arms.items()
            for fold in plan.repeats[0]
        }
        return choose_network(config, plan.repeats, {name: scores._asdict() for name, scores in fits.items()})

    choice = chosen(told, folder / "told")
    assert choice is not None and len(set(choice["dev_auroc"].values())) == 2
    assert choice == chosen(turned, folder / "turned")


def test_a_shipped_network_begins_from_its_source_and_predicts(manifest: Manifest, folder: Path) -> None:
    path = study_data.source(folder / "begun.safetensors")
    source, card = load_model(path)
    save_model(path, source, replace(card, provenance={"trained_on": trained_on([path]), "licence": "CC0"}))
    still = study_data.BUDGET.train.model_copy(update={"lr": 1e-12, "weight_decay": 0.0})
    ran = run(
        divided(manifest),
        folder / "begun",
        arms=("words",),
        split="column",
        sources={"words": str(path)},
        budget=study_data.BUDGET.model_copy(update={"train": still}),
    )
    model, made = load_model(ran.out / "model.safetensors")
    assert made.options == card.options | {"n_classes": 2} and made.features == card.features
    for name, parameter in source.named_parameters():
        if not name.startswith("head"):
            torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)
    assert made.provenance["arm"] == "words" and "words" in made.provenance["title"]
    assert made.provenance["started_from_provenance"] == {"licence": "CC0"}
    assert len(made.provenance["trained_on"]) == 8 * (
        len(manifest) + 1
    )  # what the source heard is no new sound
    (summary,) = ran.lines("summary")
    assert made.provenance["cross_validated"] == finite(summary["metrics"])
    export_onnx(ran.out / "model.safetensors", ran.out / "model.onnx", recordings=manifest.select([0, 1]))
    found = Predictor(ran.out / "model.onnx").predict(manifest.file(0))
    assert set(found.probabilities) == {"control", "case"}


def test_a_compressed_arm_ships_its_network_compressed(manifest: Manifest, folder: Path) -> None:
    how = CompressConfig(rank=2, epochs=1, bits=8)
    ran = run(
        divided(manifest),
        folder / "compressed",
        arms=("scratch+compressed",),
        split="column",
        budget=study_data.BUDGET.model_copy(update={"compress": how}),
    )
    (fold,) = ran.lines("fold")
    model, card = load_model(ran.out / "model.safetensors")
    assert card.compression["plan"] and card.compression["bits"] == 8
    assert count_parameters(model) == fold["n_parameters"]
    assert (ran.out / "model.safetensors").stat().st_size < 50_000
    export_onnx(ran.out / "model.safetensors", ran.out / "model.onnx", recordings=manifest.select([0, 1]))


def test_what_finishes_a_study_is_written_while_it_holds_the_folder_and_before_the_seal(
    manifest: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def finish(plan: Plan) -> None:
        (out / "note.txt").write_text(f"{len(plan.dataset)} recordings")
        with pytest.raises(ValueError, match="a study is running here"), locked(out / "work", "a study"):
            pass

    run(manifest, out, arms=("logmel+ridge",), n_folds=2, finish=finish)
    assert "note.txt" in json.loads((out / "run.json").read_text())["files"]


def test_a_second_run_does_no_job_again_and_ends_with_the_same_bytes(ran: Ran, manifest: Manifest) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ran.out / "work").glob("*.safetensors")}
    predictions = (ran.out / "predictions.csv").read_bytes()
    assert len(before) == len(FITTED) * 3 + 1
    run(manifest, ran.out)
    assert {path: path.stat().st_mtime_ns for path in (ran.out / "work").glob("*.safetensors")} == before
    assert (ran.out / "predictions.csv").read_bytes() == predictions


def test_only_what_changed_is_done_again(ran: Ran, manifest: Manifest, folder: Path) -> None:
    """Another arm redoes no network; another recording under the same name redoes every job that hears."""
    out = folder / "changed"
    run(manifest, out, arms=("prevalence", "scratch"))
    before = set((out / "work").glob("*.safetensors"))
    run(manifest, out)
    added = set((out / "work").glob("*.safetensors")) - before
    assert {path.name.split("%2B")[0].split(" ")[0] for path in added} <= {"logmel+ridge"} and len(added) == 3
    kept = manifest.file(0).read_bytes()
    manifest.file(0).write_bytes(manifest.file(2).read_bytes()[:-2000])
    try:
        changed = run(manifest, out)
    finally:
        manifest.file(0).write_bytes(kept)
    added = set((out / "work").glob("*.safetensors")) - before - added
    assert len([path for path in added if path.name.startswith("scratch")]) == 4
    assert changed.rows != ran.rows


def test_members_are_averaged_and_score_more_of_the_training_side(manifest: Manifest, folder: Path) -> None:
    budget = study_data.BUDGET.model_copy(update={"n_members": 2})
    two = run(manifest, folder / "members", arms=("scratch",), n_folds=2, budget=budget)
    for line in two.lines("fold"):
        assert {record["member"] for record in line["history"]} == {0, 1}
        assert line["chosen"]["members"] == 2


def test_a_second_study_in_the_same_folder_is_refused(manifest: Manifest, folder: Path) -> None:
    with (
        locked(folder / "held" / "work", "a study"),
        pytest.raises(ValueError, match=r"a study is running here \(process"),
    ):
        run(manifest, folder / "held")


def test_what_an_earlier_study_left_does_not_stand_beside_a_later_one(
    manifest: Manifest, folder: Path
) -> None:
    out = folder / "later"
    run(manifest, out, arms=("scratch",), n_folds=2)
    run(manifest, out, arms=("prevalence",), n_folds=2)
    assert not (out / "model.safetensors").exists()


def test_a_class_with_few_subjects_takes_fewer_inner_folds(manifest: Manifest, folder: Path) -> None:
    cases = np.unique(manifest.subject[manifest.label == "case"])[:5]
    few = manifest.select((manifest.label == "control") | np.isin(manifest.subject, cases))
    budget = study_data.BUDGET.model_copy(update={"n_inner_folds": 5})
    ran = run(few, folder / "few", n_folds=5, budget=budget)
    assert len({row["subject"] for row in ran.rows}) == 12 + 5


def test_another_seed_is_another_study(ran: Ran, manifest: Manifest, folder: Path) -> None:
    other = run(manifest, folder / "seed1", seed=1)
    assert [row["fold"] for row in other.rows] != [row["fold"] for row in ran.rows]


def children_of(pid: int) -> list[int]:
    """Processes whose parent is ``pid``; none where the system has no /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import study_data
from vagitus.manifest import read_manifest
from test_study import run
if __name__ == "__main__":
    run(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_killed_study_goes_on_to_the_unbroken_numbers(ran: Ran, manifest: Manifest, folder: Path) -> None:
    out, script = folder / "killed" / "out", folder / "killed.py"
    script.write_text(KILLED)
    command = [
        sys.executable,
        str(script),
        str(manifest.root / "manifest.csv"),
        str(out),
        str(Path(__file__).parent),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((out / "work").glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = children_of(process.pid)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children), "a worker outlived its study"
    n_done = len(list((out / "work").glob("*.safetensors")))
    assert 2 <= n_done < len(FITTED) * 3 + 1 and not (out / "predictions.csv").exists()
    run(manifest, out)
    for name in ("predictions.csv", "model.safetensors"):
        assert (out / name).read_bytes() == (ran.out / name).read_bytes()


def test_a_cluster_gives_the_same_predictions(
    ran: Ran, manifest: Manifest, folder: Path, local_cluster: Any
) -> None:
    with cluster(local_cluster.scheduler_address):
        there = run(manifest, folder / "cluster" / "out", arms=("logmel+ridge",))
    assert there.rows == [row for row in ran.rows if row["arm"] == "logmel+ridge"]


def test_leaving_a_site_out_reports_the_mean_over_sites(manifest: Manifest, folder: Path) -> None:
    left_out = run(manifest, folder / "sites", split="sites")
    assert {row["fold"] for row in left_out.rows} == set(manifest.site_names)
    assert all(row["fold"] == row["site"] for row in left_out.rows)
    summary = next(line for line in left_out.lines("summary") if line["arm"] == "logmel+ridge")
    sites = [line for line in left_out.lines("site") if line["arm"] == "logmel+ridge"]
    mean = np.mean([site["metrics"]["auroc"] for site in sites])
    assert summary["headline"] == "mean over sites"
    assert summary["metrics"]["auroc"]["estimate"] == pytest.approx(mean)
    one = run(manifest, folder / "site", split="sites", target_site=manifest.site_names[0])
    assert {row["site"] for row in one.rows} == {manifest.site_names[0]}


def test_a_site_left_out_again_has_another_dev_part(manifest: Manifest) -> None:
    class_names = order_classes(manifest, "")
    labels = manifest.encode_labels(class_names)
    config = StudyConfig(data="recordings.csv", split="sites", repeats=2)
    first, again = make_folds(config, manifest, labels, manifest.subject, class_names)
    assert [fold.name for fold in again] == [f"{site}, repeat 1" for site in manifest.site_names]
    for fold, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(fold.test, other.test)
        assert set(fold.dev) != set(other.dev)


def test_repeats_are_averaged(manifest: Manifest, folder: Path) -> None:
    twice = run(manifest, folder / "repeats", repeats=2)
    per_repeat = []
    for repeat in ("0", "1"):
        rows = [row for row in twice.rows if (row["arm"], row["repeat"]) == ("logmel+ridge", repeat)]
        labels = np.array([row["label"] == "case" for row in rows])
        per_repeat.append(
            study_data.recomputed_auroc(labels, np.array([float(row["score"]) for row in rows]))
        )
    summary = next(line for line in twice.lines("summary") if line["arm"] == "logmel+ridge")
    assert summary["metrics"]["auroc"]["estimate"] == pytest.approx(np.mean(per_repeat), abs=1e-9)


def test_the_positive_class_is_the_one_named_or_the_one_that_is_not_normal(manifest: Manifest) -> None:
    assert order_classes(manifest, "") == ("control", "case")
    assert order_classes(manifest, "control") == ("case", "control")
    labels = np.where(manifest.label == "case", "murmur", "absent")
    assert order_classes(manifest.with_labels(labels), "") == ("absent", "murmur")
    with pytest.raises(ValueError, match="no label 'sick' to be positive; labels are case, control"):
        order_classes(manifest, "sick")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("svm", "forest")}, "no arm 'forest'; choose from prevalence"),
        ({"arms": ("svm", "svm")}, "named twice"),
        ({"arms": ("svm", "blend")}, "blend is made of logmel\\+ridge and scratch; name them too"),
        ({"front_end": "mel"}, "no front end 'mel'; choose from"),
        ({"target_site": "A"}, "needs split = 'sites'"),
        ({"repeats": 2, "split": "column"}, "a published split has no other folds"),
        ({"calibration": "plat"}, "no calibration 'plat'; choose from"),
        ({"threshold_rule": "youden"}, "'youden'"),
        ({"budget": {"seed": 3}}, "the seed stands at the top"),
        ({"budget": {"n_members": 6}}, "6 members need as many inner folds, got 5"),
        ({"sources": {"word": "x.safetensors"}}, "no source 'word'; choose from words"),
        (
            {"arms": ("vicreg+target",)},
            "'vicreg', which does not come with this package.* --source vicreg=FILE",
        ),
        ({"arms": ("encoder-probe",)}, "a probe of an encoder needs the encoder"),
        ({"arms": ("ge2e-probe",), "encoder": "onnx:x.onnx"}, "ge2e-probe needs encoder = 'ge2e:FILE'"),
        ({"labelled_share": 0}, "labelled_share"),
        ({"budget": {"rates": ()}}, "rates"),
        ({"budget": {"train": {"loss": "mse"}}}, "no loss 'mse'; choose from cross_entropy, hinge"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_it_starts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyConfig.model_validate({"data": "x.csv", **changes})


def test_what_an_encoder_cannot_embed_is_left_out_and_named_up_to_a_share(
    manifest: Manifest, folder: Path
) -> None:
    powers = np.array(
        [np.mean(read(manifest.file(i), sample_rate_hz=8000).samples ** 2) for i in range(len(manifest))]
    )
    quiet = np.argsort(powers)

    def plan(n_lost: int, max_bad: float) -> Plan:
        least = float(powers[quiet[n_lost - 1 : n_lost + 1]].mean())  # between two recordings
        path = study_data.encoder(folder / f"encoder-{n_lost}.onnx", least_power=least)
        config = study_data.config(arms=("encoder-probe",), encoder=f"onnx:{path}", max_bad=max_bad)
        out = folder / f"embedded-{n_lost}"
        return make_plan(config, manifest, out, "case", "", FeatureCache(out), 1, lambda text: None)

    made = plan(2, 0.05)
    kept = np.sort(quiet[2:])
    assert made.dataset.manifest.path.tolist() == manifest.path[kept].tolist()
    assert made.dataset.embeddings.shape == (len(kept), 2) and len(made.dataset.groups) == len(kept)
    np.testing.assert_allclose(
        np.exp(made.dataset.embeddings[:, 1]), powers[kept] - powers[quiet[1:3]].mean(), rtol=1e-3, atol=1e-9
    )
    reasons = made.audit.problems[~made.audit.usable].tolist()
    for row, reason in zip(sorted(quiet[:2]), reasons, strict=True):
        assert str(manifest.path[row]) in reason and "not finite" in reason
    with pytest.raises(
        ValueError,
        match=r"3 of 48 recordings cannot be used, more than max_bad = 5%; the first: .*not finite",
    ):
        plan(3, 0.05)


def test_what_is_scarce_is_called_by_its_name(manifest: Manifest) -> None:
    class_names = order_classes(manifest, "")
    labels = manifest.encode_labels(class_names)
    config = StudyConfig(data="recordings.csv", n_folds=13)
    with pytest.raises(ValueError, match=r"label '(case|control)' has 12 subjects; 13 folds"):
        make_folds(config, manifest, labels, manifest.subject, class_names)


def test_every_source_that_a_study_needs_no_file_for_is_shipped() -> None:
    assert {name for name in SOURCES if (WEIGHTS / f"{name}-res8.safetensors").exists()} == {*SHIPPED_SOURCES}


def test_a_source_that_heard_the_studys_recordings_is_refused(manifest: Manifest, folder: Path) -> None:
    path = study_data.source(folder / "learned.safetensors")
    model, card = load_model(path)
    learned = trained_on([manifest.file(3), manifest.file(5)])
    save_model(path, model, replace(card, provenance={"trained_on": learned}))
    with pytest.raises(
        ValueError, match=r"row 5: the source 'words' \(learned.safetensors\) was trained on this"
    ):
        run(manifest, folder / "learned", arms=("words",), sources={"words": str(path)})


def test_a_layer_that_a_source_lacks_is_refused_before_any_feature(manifest: Manifest, folder: Path) -> None:
    path, out = study_data.source(folder / "layers.safetensors"), folder / "layers"
    budget = study_data.BUDGET.model_copy(update={"freeze_up_to": "convs.99"})
    with pytest.raises(ValueError, match=r"no layer 'convs\.99'"):
        run(manifest, out, arms=("words",), sources={"words": str(path)}, budget=budget)
    assert not [*out.glob("work/features*")]


def test_a_share_of_the_subjects_is_the_same_for_all_arms_and_said(manifest: Manifest, folder: Path) -> None:
    thin = run(manifest, folder / "thin", arms=FITTED, labelled_share=0.5, n_folds=2)
    notes = {(line["fold"], line["note"], line["n_train"] + line["n_dev"]) for line in thin.lines("fold")}
    assert len(notes) == 2  # one a fold, whatever the arm
    for _, note, n_labelled in notes:
        n_subjects = n_labelled / 2  # each was recorded twice
        assert 8 <= n_subjects < 12 and note == f"labels of {n_subjects:.0f} of 12 training subjects"


def test_too_many_unreadable_recordings_stop_the_study(tmp_path: Path) -> None:
    broken = generate(
        tmp_path / "audio", n_subjects=8, n_recordings_per_subject=1, duration_s=1, sample_rate_hz=8000
    )
    broken.file(0).write_bytes(b"RIFF but not much more")
    with pytest.raises(ValueError, match=r"1 of 8 recordings cannot be used, more than max_bad = 5%"):
        run(broken, tmp_path / "out")


def test_a_copy_under_another_subject_keeps_both_on_one_side(tmp_path: Path) -> None:
    manifest = generate(
        tmp_path / "audio", n_subjects=20, n_recordings_per_subject=1, duration_s=1.5, sample_rate_hz=8000
    )
    manifest.file(4).write_bytes(manifest.file(0).read_bytes())  # a case of the same hospital
    out = tmp_path / "out"
    ran = run(manifest, out, arms=("prevalence",), n_folds=2)
    rows = {row["path"]: row["fold"] for row in ran.rows}
    assert rows[manifest.path[0]] == rows[manifest.path[4]]
    assert ran.results[0]["n_subjects"] == 20 and ran.results[0]["n_groups"] == 19
