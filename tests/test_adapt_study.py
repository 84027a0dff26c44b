"""A study that adapts to every site left out, its report, and the verb that takes a model file to another site."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_data
from typer.testing import CliRunner

from vagitus.adapt import is_control
from vagitus.arms import find_arm
from vagitus.arms.adapted import check_targets, with_controls
from vagitus.arms.contract import Arm
from vagitus.checkpoint import ModelCard, learned_rows, load_model, save_model
from vagitus.cli import app
from vagitus.corpora.simulated import generate
from vagitus.features import PRESETS
from vagitus.manifest import Manifest, write_manifest
from vagitus.models import build_model
from vagitus.plan import Plan
from vagitus.report import write_report
from vagitus.sites import adapt_model, of_sites, refuse_shared
from vagitus.splits import Fold
from vagitus.study import run_study
from vagitus.training import TrainConfig

FURTHER = TrainConfig(epochs=1, patience=1, batch_size=16, lr=5e-4, precision="32-true")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("cries")
    return generate(
        folder, n_subjects=36, n_recordings_per_subject=1, effect=2.0, duration_s=1.2, sample_rate_hz=8000
    )


@pytest.fixture(scope="module")
def ran(
    manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, list[dict[str, Any]], Path]:
    out = tmp_path_factory.mktemp("study")
    config = study_data.config(
        split="sites", arms=("logmel+ridge", *with_controls(("safn", "tni"))), n_resamples=200, repeats=2
    )
    plan, lines = run_study(
        config, manifest, out, positive="case", cache=out / "cache", command="test", n_workers=1
    )
    return plan, lines, out


def test_controls_come_along_once() -> None:
    assert with_controls(("adabn", "safn", "mcc", "tni")) == (
        "adapt:source",
        "adapt:adabn",
        "adapt:steps+adabn",
        "adapt:safn",
        "adapt:mcc",
        "adapt:steps",
        "adapt:tni",
    )


def test_every_method_has_a_line_for_every_site_and_the_mean(
    ran: tuple[Plan, list[dict[str, Any]], Path],
) -> None:
    _, lines, _ = ran
    gains = [line for line in lines if line["kind"] == "gain"]
    assert {line["arm"] for line in gains} == {"adapt:steps+adabn", "adapt:safn", "adapt:steps", "adapt:tni"}
    for arm, control in (("adapt:safn", "adapt:steps+adabn"), ("adapt:tni", "adapt:steps")):
        own = [line for line in gains if line["arm"] == arm and line["metric"] == "auroc"]
        assert {(line["baseline"], line["site"]) for line in own} == {
            (baseline, site) for baseline in ("adapt:source", control) for site in ("north", "south", "")
        }
    assert {line["regime"] for line in gains if line["arm"] == "adapt:tni"} == {"noise"}
    assert {line["unit"] for line in gains} == {"recordings"}


def test_a_gain_is_after_less_before_and_the_mean_is_over_sites(
    ran: tuple[Plan, list[dict[str, Any]], Path],
) -> None:
    _, lines, _ = ran
    own = [line for line in lines if line["kind"] == "gain" and line["arm"] == "adapt:safn"]
    for line in own:
        assert line["gain"] == pytest.approx(line["target_after"] - line["target_before"])
        assert line["low"] <= line["gain"] + 1e-9 and line["gain"] - 1e-9 <= line["high"]
    pick = [line for line in own if line["metric"] == "auroc" and line["baseline"] == "adapt:source"]
    by_site = {line["site"]: line for line in pick}
    for name in ("target_after", "source_before", "gain"):
        assert by_site[""][name] == pytest.approx((by_site["north"][name] + by_site["south"][name]) / 2)
    assert by_site[""]["source_gain"] == pytest.approx(
        by_site[""]["source_after"] - by_site[""]["source_before"], abs=1e-9
    )


def test_a_control_raises_no_alarm(ran: tuple[Plan, list[dict[str, Any]], Path]) -> None:
    alarms = [line for line in ran[1] if line["kind"] == "alarm"]
    assert not {line["arm"] for line in alarms} & {"adapt:steps", "adapt:steps+adabn"}
    assert is_control("steps+adabn") and not is_control("safn") and not is_control("adabn")


def test_target_values_are_those_of_the_study_itself(ran: tuple[Plan, list[dict[str, Any]], Path]) -> None:
    _, lines, _ = ran
    # A site's line averages the repeats, as a gain does.
    of_site = {(x["arm"], x["site"]): x["metrics"]["auroc"] for x in lines if x["kind"] == "site"}
    for line in lines:
        if line["kind"] == "gain" and line["site"] and line["metric"] == "auroc":
            assert line["target_after"] == pytest.approx(of_site[line["arm"], line["site"]])
            assert line["target_before"] == pytest.approx(of_site[line["baseline"], line["site"]])


def test_the_sources_network_is_trained_once_for_all_methods(
    ran: tuple[Plan, list[dict[str, Any]], Path],
) -> None:
    _, _, out = ran
    assert len(list((out / "work").glob("source-*.safetensors"))) == 4  # one a fold and repeat


@pytest.mark.parametrize("arm", ["adapt:safn", "adapt:tni", "adapt:self-training"])
def test_no_adapted_arm_reads_a_label_of_the_target(
    arm: str, ran: tuple[Plan, list[dict[str, Any]], Path]
) -> None:
    plan, _, _ = ran
    fold = plan.repeats[0][0]
    turned = plan.dataset.labels.copy()
    turned[fold.test] = 1 - turned[fold.test]
    row = find_arm(arm)
    assert isinstance(row, Arm)
    first, second = (
        row.fit(dataset, fold, study_data.BUDGET, None)
        for dataset in (plan.dataset, replace(plan.dataset, labels=turned))
    )
    assert np.array_equal(first.test_logits, second.test_logits)
    assert np.array_equal(first.dev_logits, second.dev_logits)


def test_the_report_shows_gains_and_what_tells_the_sites_apart(
    ran: tuple[Plan, list[dict[str, Any]], Path],
) -> None:
    plan, _, out = ran
    page = write_report(out, plan.dataset, plan.audit, with_audio=False).read_text()
    assert "Adapting to the site left out" in page and "target: noise" in page
    assert "What tells the sites apart" in page
    assert "a classifier names a recording" in page


@pytest.mark.parametrize(
    ("arms", "match"),
    [
        (("adapt:saffn",), "no method 'saffn'"),
        (("adapt:few-labels",), "use `vagitus adapt --method few-labels`"),
        (("adapt:tent",), "of which res8 has none"),
    ],
)
def test_arms_that_a_study_cannot_measure_are_refused(arms: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        study_data.config(split="sites", arms=arms)


def test_adapting_needs_a_site_left_out_with_recordings_enough() -> None:
    with pytest.raises(ValueError, match="needs a site to adapt to"):
        study_data.config(arms=("adapt:source",))
    small = Fold("tiny", np.arange(9), np.arange(9, 12), np.arange(12, 17))
    with pytest.raises(ValueError, match="site 'tiny' has 5 recordings, adapting to it needs 8"):
        check_targets(("adapt:adabn",), [small])
    check_targets(("scratch",), [small])


# The verb.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    options = {"n_mels": 40, "n_classes": 2, "width": 4}
    front_end = PRESETS["mfcc40"].vary(normalisation="mean")
    save_model(
        path,
        build_model("small", **options),
        ModelCard(
            "small",
            options,
            front_end,
            1.0,
            ("control", "case"),
            "case",
            0.5,
            provenance={"cross_validated": {"auroc": 1.0}},
        ),
    )
    return path


def adapted(
    manifest: Manifest, model: Path, folder: Path, method: str, **options: Any
) -> tuple[dict[str, Any], Path]:
    out = folder / "adapted.safetensors"
    found = adapt_model(
        model,
        out,
        of_sites(manifest, ["north"]),
        of_sites(manifest, ["south"]),
        method,
        config=FURTHER,
        cache=folder / "cache",
        n_workers=1,
        n_resamples=200,
        **options,
    )
    return found, out


@pytest.mark.parametrize(
    ("method", "options", "regime"),
    [
        ("safn+entropy", {}, "unlabelled"),
        ("tni", {"sound": "cry"}, "noise"),
        ("few-labels", {"n_labelled_subjects": 2}, "labels"),
    ],
)
def test_a_model_file_is_adapted_and_says_what_it_used(
    method: str, options: dict[str, Any], regime: str, manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    found, out = adapted(manifest, model, tmp_path, method, **options)
    network, card = load_model(out)
    assert card.provenance["adaptation"]["method"] == method and card.threshold == 0.5
    assert "cross_validated" not in card.provenance
    assert found["regime"] == regime
    target = found["metrics"]["target"]
    assert target["n_recordings"] == 18 - 2 * (method == "few-labels")
    for metric in ("auroc", "uar"):
        value = target[metric]
        assert value["gain"] == pytest.approx(value["after"] - value["before"])
    assert not (tmp_path / "adapted-work").exists()
    south, north = (of_sites(manifest, [site]) for site in ("south", "north"))
    # Known to the adapted model: the recordings whose labels it learned.
    assert sorted(south.subject[learned_rows(card, south)]) == sorted(found.get("labelled_subjects", []))
    assert len(learned_rows(card, north)) == found["n_source"] < len(north)
    before = load_model(model)[0].state_dict()
    assert any(not np.array_equal(before[n].numpy(), t.numpy()) for n, t in network.state_dict().items())


def test_a_target_without_labels_is_adapted_to_and_not_measured(
    manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    south = of_sites(manifest, ["south"])
    found = adapt_model(
        model,
        tmp_path / "adapted.safetensors",
        of_sites(manifest, ["north"]),
        south.with_labels(np.full(len(south), "")),
        "adabn",
        cache=tmp_path / "cache",
        n_workers=1,
        n_resamples=200,
    )
    assert set(found["metrics"]) == {"source"}


def test_a_target_of_one_class_is_adapted_to_and_its_auroc_unknown(
    manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    kept = (manifest.site == "north") | (manifest.label == "case")
    found, _ = adapted(manifest.select(kept), model, tmp_path, "adabn")
    assert np.isnan(found["metrics"]["target"]["auroc"]["after"])
    assert np.isfinite(found["metrics"]["source"]["auroc"]["after"])


def renamed(south: Manifest, north: Manifest) -> Manifest:
    return south.with_subjects([north.subject[0], *south.subject[1:]])


def same_sound(south: Manifest, north: Manifest) -> Manifest:
    path = south.path.astype(object)
    path[3] = north.path[5]
    return replace(south, path=path.astype(np.str_))


@pytest.mark.parametrize(
    ("change", "match"),
    [(renamed, "is at the source too"), (same_sound, "source and target share sound")],
)
def test_what_both_sides_share_is_refused(
    change: Callable[[Manifest, Manifest], Manifest],
    match: str,
    manifest: Manifest,
    model: Path,
    tmp_path: Path,
) -> None:
    north, south = of_sites(manifest, ["north"]), of_sites(manifest, ["south"])
    with pytest.raises(ValueError, match=match):
        adapt_model(
            model,
            tmp_path / "a.safetensors",
            north,
            change(south, north),
            "adabn",
            cache=tmp_path,
            n_workers=1,
        )


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("few-labels", {}, "few-labels and a number of labelled subjects go together"),
        ("safn", {"n_labelled_subjects": 2}, "go together"),
        ("safnn", {}, "did you mean 'safn'"),
        ("safn", {"sound": "heart"}, "safn has no tni; leave it out"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    method: str, options: dict[str, Any], match: str, manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        adapted(manifest, model, tmp_path, method, **options)


def test_a_label_at_the_target_that_the_model_does_not_know_is_refused_before_the_work(
    manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    label = manifest.label.astype("<U8")
    label[np.flatnonzero(manifest.site == "south")[2]] = "unsure"
    with pytest.raises(ValueError, match="label 'unsure' has no index"):
        adapted(manifest.with_labels(label), model, tmp_path, "adabn")
    assert not (tmp_path / "cache").exists()


def test_a_refusal_leaves_no_folder_behind(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    few = np.concatenate(
        [np.flatnonzero(manifest.site == "north"), np.flatnonzero(manifest.site == "south")[:5]]
    )
    with pytest.raises(ValueError, match="too few for batch norm"):
        adapted(manifest.select(few), model, tmp_path, "adabn")
    assert not (tmp_path / "adapted-work").exists()


def test_one_class_at_the_source_is_refused(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    north = of_sites(manifest, ["north"])
    with pytest.raises(ValueError, match="holds one class alone"):
        adapt_model(
            model,
            tmp_path / "a.safetensors",
            north.select(north.label == "case"),
            of_sites(manifest, ["south"]),
            "adabn",
            cache=tmp_path / "cache",
            n_workers=1,
        )


def test_a_site_that_is_not_there_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="no site 'west'; sites are north, south"):
        of_sites(manifest, ["west"])
    refuse_shared(of_sites(manifest, ["north"]), of_sites(manifest, ["south"]))


def test_the_verb_prints_before_after_and_the_gain(manifest: Manifest, model: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "cries.csv", tmp_path / "out.safetensors"
    write_manifest(manifest, table, root=manifest.root)
    words = ["adapt", str(model), "--source", str(table), "--source-site", "north", "--target", str(table)]
    words += ["--target-site", "south", "--method", "adabn", "--out", str(out), "--root", str(manifest.root)]
    words += ["--cache", str(tmp_path / "cache"), "--workers", "1"]
    run = CliRunner().invoke(app, [*words, "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["regime"] == "unlabelled" and set(found["metrics"]) == {"source", "target"}
    shown = CliRunner().invoke(app, words)
    assert "Research use only, not a diagnosis." in shown.stdout and "gain" in shown.stdout
    for note in manifest.notes:  # source and target are sites of one table
        assert shown.stderr.count(note) == 1
    assert manifest.notes
    assert out.exists()


def test_methods_of_a_study_need_a_site_left_out(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["study", "cries.csv", "--methods", "safn", "--out", str(tmp_path / "o")])
    assert isinstance(run.exception, ValueError)
    assert "give --leave-one-site-out or --target-site too" in str(run.exception)
