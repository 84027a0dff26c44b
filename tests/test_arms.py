"""One contract for every arm of the table."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study_data
import torch

from vagitus.arms import ARMS, TRAINED, find_arm
from vagitus.arms.contract import Arm, Scores
from vagitus.arms.network import score_network, train_network
from vagitus.audit import audit
from vagitus.checkpoint import load_model
from vagitus.dataset import Dataset, write_feature_table
from vagitus.jobs import Job, final_job
from vagitus.metrics import summarise
from vagitus.models import build_model
from vagitus.plan import Plan as StudyPlan
from vagitus.results import decide_folds
from vagitus.splits import Fold, fewer_subjects, grouped_folds
from vagitus.tensor_train.compress import Plan, retensorize
from vagitus.views import describe_collapse

NAMES = [*ARMS, "scratch+compressed", "gru+compressed"]


def fit(name: str, dataset: Dataset, fold: Fold) -> Scores:
    arm = find_arm(name)
    assert isinstance(arm, Arm)
    return arm.fit(dataset, fold, study_data.BUDGET, None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return study_data.dataset(tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="module")
def fold(dataset: Dataset) -> Fold:
    return grouped_folds(dataset.labels, dataset.groups, n_folds=3, seed=0)[0]


@pytest.fixture(scope="module")
def scores(dataset: Dataset, fold: Fold) -> dict[str, Scores]:
    return {name: fit(name, dataset, fold) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_scores_have_their_shapes_and_cover_the_training_side_only(
    name: str, dataset: Dataset, fold: Fold, scores: dict[str, Scores]
) -> None:
    found = scores[name]
    assert found.dev_logits.shape == (len(found.dev_index), 2)
    assert found.test_logits.shape == (len(fold.test), 2)
    assert np.isfinite(found.dev_logits).all() and np.isfinite(found.test_logits).all()
    assert max(Counter(found.dev_index.tolist()).values()) == 1
    assert not set(found.dev_index) & set(fold.test)
    assert found.n_parameters > 0


@pytest.mark.parametrize("name", NAMES)
def test_no_arm_reads_a_test_label_and_every_arm_repeats_itself(
    name: str, dataset: Dataset, fold: Fold, scores: dict[str, Scores]
) -> None:
    turned = dataset.labels.copy()
    turned[fold.test] = 1 - turned[fold.test]
    again = fit(name, replace(dataset, labels=turned), fold)
    assert np.array_equal(again.test_logits, scores[name].test_logits)
    assert np.array_equal(again.dev_logits, scores[name].dev_logits)
    assert again.chosen == scores[name].chosen


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_that_trains_a_network_gives_it_with_what_a_file_needs_to_rebuild_it(
    name: str, dataset: Dataset, fold: Fold, scores: dict[str, Scores]
) -> None:
    network = scores[name].network
    assert (network is not None) == (getattr(getattr(find_arm(name), "fit", None), "func", None) in TRAINED)
    if network is None:
        return
    again = build_model(network.name, **network.options)
    if network.storage:
        again = retensorize(again, Plan.from_json(network.storage["plan"]))
    again.load_state_dict(network.module.state_dict())
    logits = score_network(again, dataset, fold.dev, study_data.BUDGET, network.table)
    assert np.array_equal(logits, scores[name].dev_logits)
    assert np.array_equal(fold.dev, scores[name].dev_index)


def test_several_members_are_no_one_network_and_without_a_test_side_the_same_is_learned(
    dataset: Dataset, fold: Fold, scores: dict[str, Scores]
) -> None:
    budget = study_data.BUDGET.model_copy(update={"n_members": 2})
    assert ARMS["words"].fit(dataset, fold, budget, None).network is None
    alone = fit("words", dataset, fold._replace(test=np.empty(0, np.int64)))
    assert alone.test_logits.shape == (0, 2)
    assert np.array_equal(alone.dev_logits, scores["words"].dev_logits)


def test_prevalence_gives_every_recording_the_training_frequencies(
    dataset: Dataset, fold: Fold, scores: dict[str, Scores]
) -> None:
    known = np.concatenate([fold.train, fold.dev])
    n_positive = int(dataset.labels[known].sum())
    odds = np.exp(scores["prevalence"].test_logits[:, 1] - scores["prevalence"].test_logits[:, 0])
    np.testing.assert_allclose(odds, (n_positive + 1) / (len(known) - n_positive + 1))


def test_the_ridge_hears_the_planted_effect(dataset: Dataset, fold: Fold, scores: dict[str, Scores]) -> None:
    labels = dataset.labels[scores["logmel+ridge"].dev_index].astype(bool)
    margin = scores["logmel+ridge"].dev_logits[:, 1] - scores["logmel+ridge"].dev_logits[:, 0]
    assert study_data.recomputed_auroc(labels, margin) > 0.8


def test_the_lookup_reads_metadata_and_not_the_audio(dataset: Dataset, fold: Fold) -> None:
    """A covariate that is the label in other words is found; without one, silence says as much as sound."""
    told = np.where(dataset.labels == 1, "left", "right")
    manifest = replace(dataset.manifest, covariates={"ward": told})
    found = ARMS["lookup"].fit(replace(dataset, manifest=manifest, tables={}), fold, study_data.BUDGET, None)
    decided = found.test_logits.argmax(axis=1)
    assert np.array_equal(decided, dataset.labels[fold.test])


def test_of_several_inputs_a_network_takes_the_one_that_tells_the_classes_apart(
    dataset: Dataset, fold: Fold, tmp_path: Path
) -> None:
    heard = dataset.tables["study"]
    silent = write_feature_table(
        tmp_path / "silent.npy",
        heard.config.vary(normalisation="mean_std"),
        np.diff(heard.offsets).tolist(),
        (np.zeros_like(x) for x in heard),
    )
    found = ARMS["scratch"].fit(
        replace(dataset, tables={"study": silent, "study mean": heard}), fold, study_data.BUDGET, None
    )
    assert found.chosen["normalisation"] == "mean"
    alone = ARMS["scratch"].fit(replace(dataset, tables={"study": heard}), fold, study_data.BUDGET, None)
    assert np.array_equal(found.test_logits, alone.test_logits)


def test_a_compressed_arm_is_smaller_than_what_it_was_made_from(scores: dict[str, Scores]) -> None:
    assert 10 * scores["scratch+compressed"].n_parameters <= scores["scratch"].n_parameters
    assert (
        float(scores["scratch+compressed"].chosen["mean_bytes"]) < 4.5 * scores["scratch"].n_parameters / 10
    )


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("scrach", "no arm 'scrach'; choose from .*did you mean 'scratch'"),
        ("svm+compressed", "svm\\+compressed: only a network can be compressed"),
        ("blend+compressed", "no arm 'blend\\+compressed'"),
    ],
)
def test_an_arm_that_is_not_there_is_refused(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        find_arm(name)


def test_a_transferred_arm_begins_with_the_sources_weights_and_a_head_of_its_own(
    dataset: Dataset, fold: Fold
) -> None:
    source, _ = load_model(dataset.sources["words"])
    slow = study_data.BUDGET.model_copy(
        update={"train": study_data.BUDGET.train.model_copy(update={"lr": 1e-12, "weight_decay": 0.0})}
    )
    model, _ = train_network(dataset, fold, slow, None, table="words", start=source)
    for name, parameter in source.named_parameters():
        if name.startswith("head"):
            assert model.get_parameter(name).shape[0] == 2 != parameter.shape[0]
        else:
            torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)


def test_layers_of_a_source_are_frozen_or_learn_more_slowly_as_the_budget_says(
    dataset: Dataset, fold: Fold
) -> None:
    source, _ = load_model(dataset.sources["words"])
    before = {name: value.clone() for name, value in source.named_parameters()}

    def moved(**how: str | float) -> dict[str, float]:
        budget = study_data.BUDGET.model_copy(update=how)
        model, _ = train_network(dataset, fold, budget, None, table="words", start=source)
        return {
            name: float((value.detach() - before[name].detach()).abs().mean())
            for name, value in model.named_parameters()
            if name in before and not name.startswith("head.")
        }

    first, *middle, last = layers = [name for name in before if not name.startswith("head.")]
    free = moved()
    assert min(free[name] for name in layers) > 0
    frozen = moved(freeze_up_to=middle[0].removesuffix(".weight"))
    assert frozen[first] == frozen[middle[0]] == 0 and frozen[last] > 0
    slowed = moved(layer_decay=0.3)
    assert slowed[first] / free[first] < 0.1 < slowed[last] / free[last]
    with pytest.raises(ValueError, match=r"no layer 'convs\.99'"):
        moved(freeze_up_to="convs.99")


@pytest.mark.parametrize("part", ["test", "unlabelled"])
def test_continued_learning_hears_the_training_side_without_labels_and_never_the_test_side(
    part: str, dataset: Dataset, fold: Fold, scores: dict[str, Scores], tmp_path: Path
) -> None:
    thin = fewer_subjects(fold, dataset.labels, dataset.groups, 0.5, seed=0)
    assert len(thin.unlabelled) and len(thin.test)
    plain = dataset.tables["simclr plain"]
    changed = set(getattr(thin, part).tolist())
    other = write_feature_table(
        tmp_path / "plain.npy",
        plain.config,
        np.diff(plain.offsets).tolist(),
        (x[::-1] if i in changed else x for i, x in enumerate(plain)),
    )
    turned = replace(dataset, tables={**dataset.tables, "simclr plain": other})
    same = np.array_equal(
        fit("simclr+target", turned, thin).test_logits, fit("simclr+target", dataset, thin).test_logits
    )
    assert same == (part == "test")


def test_what_is_shipped_reads_no_more_labels_than_the_share(dataset: Dataset) -> None:
    whole, half = (
        final_job(dataset, study_data.BUDGET, "scratch", labelled_share=share).fold for share in (1.0, 0.5)
    )
    assert len(whole.unlabelled) == 0 and len(whole.train) + len(whole.dev) == len(dataset)
    read = np.concatenate([half.train, half.dev])
    assert len(np.unique(dataset.groups[read])) == 12  # of 24
    assert not np.isin(dataset.groups[half.unlabelled], dataset.groups[read]).any()
    assert len(read) + len(half.unlabelled) == len(dataset) and len(half.test) == 0


def test_figures_are_of_the_probabilities_that_are_written(dataset: Dataset, fold: Fold) -> None:
    # Of a log-odds of 50 the written probability is 1, and nothing is left of the other class's e^-50.
    logits = np.stack([np.zeros(len(fold.test)), np.full(len(fold.test), 50.0)], axis=1)
    dev = np.stack([np.zeros(len(fold.dev)), 4.0 * dataset.labels[fold.dev] - 2], axis=1)
    result = {
        "dev_index": fold.dev,
        "dev_logits": dev,
        "test_logits": logits,
        "chosen": {},
        "n_parameters": 0,
    }
    config = study_data.config(arms=("scratch",), calibration="identity")
    plan = StudyPlan(dataset, audit(dataset.manifest, quick=True), [[fold]], ())
    done = {Job("scratch", fold, config.budget).name: result | {"history": [], "seconds": 0.0}}
    tested = np.sort(fold.test)
    found, lines = decide_folds("scratch", plan, done, tested, config)
    assert np.array_equal(found.probabilities[0], np.tile([0.0, 1.0], (len(tested), 1)))
    own = summarise(dataset.labels[tested], found.probabilities[0], found.decisions[0])
    assert lines[0]["metrics"]["log_loss"] == own["log_loss"]


def test_continued_learning_is_by_the_method_of_its_source(scores: dict[str, Scores]) -> None:
    # The dataset's sources all hold the same weights: what differs is how they went on.
    assert np.array_equal(scores["simclr"].test_logits, scores["vicreg"].test_logits)
    assert not np.allclose(scores["simclr+target"].test_logits, scores["vicreg+target"].test_logits)
    for arm in ("simclr+target", "vicreg+target"):
        chosen = scores[arm].chosen
        diversity = {name: float(chosen[name]) for name in ("feature_rank", "feature_spread")}
        assert diversity["feature_rank"] > 0 and chosen.get("collapse", "") == describe_collapse(diversity)


def test_of_several_learning_rates_the_one_that_ranks_the_dev_part_best_is_taken(
    dataset: Dataset, fold: Fold
) -> None:
    def chosen(*rates: float) -> Scores:
        budget = study_data.BUDGET.model_copy(update={"rates": rates})
        return ARMS["scratch"].fit(dataset, fold, budget, None)

    one, other, both = chosen(100.0), chosen(1.0), chosen(100.0, 1.0)
    best = max((one, other), key=lambda scores: float(scores.chosen["dev_auroc"]))
    assert (
        best.chosen["dev_auroc"]
        != min(one, other, key=lambda s: float(s.chosen["dev_auroc"])).chosen["dev_auroc"]
    )
    assert np.array_equal(both.test_logits, best.test_logits) and both.chosen["lr"] == best.chosen["lr"]
