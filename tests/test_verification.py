"""Trials and their error rates; the files that name them; CryCeleb's protocol; a loss with a margin."""

import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vagitus.checkpoint import ModelCard, save_model
from vagitus.encoders import Encoder
from vagitus.features import FeatureConfig, featurise
from vagitus.losses import aam_softmax
from vagitus.metrics import equal_error_rate, equal_error_statistic
from vagitus.models import build_model
from vagitus.trials import (
    Pairs,
    all_pairs,
    embed_sessions,
    error_rates,
    read_pairs,
    read_sessions,
    read_submission,
    read_trials,
    score_pairs,
    score_trials,
    write_submission,
)
from vagitus.verification import (
    DetectionCost,
    adaptive_norm,
    concatenations,
    detection_band,
    embed_session,
    evaluate,
    fit_backend,
    identification_rate,
    min_dcf,
    of_subjects,
    open_voice,
    probe_ranks,
    score_all,
    session_vectors,
    unit_rows,
)
from vagitus.windows import cut_window

Floats = NDArray[np.float64]
RATE_HZ = 8_000


def random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


# Scores.


def test_averaging_over_views_is_the_product_of_the_sessions_means() -> None:
    enrolled = [random(i, 2 + i, 7) for i in range(3)]
    tested = [random(10 + i, 4 - i, 7) for i in range(2)]

    def cosine(a: Floats, b: Floats) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    slow = [
        [np.mean([cosine(a, b) for a, b in itertools.product(views, others)]) for others in tested]
        for views in enrolled
    ]
    np.testing.assert_allclose(score_all(session_vectors(enrolled), session_vectors(tested)), slow)


def test_adaptive_norm_is_what_the_paper_says() -> None:
    scores, enrolled, tested = random(0, 3, 4), random(1, 3, 11), random(2, 4, 11)
    found = adaptive_norm(scores, enrolled, tested, n_top=5)
    for i, j in np.ndindex(3, 4):
        near_e, near_t = (sorted(row, reverse=True)[:5] for row in (enrolled[i], tested[j]))
        slow = sum((scores[i, j] - np.mean(near)) / np.std(near) for near in (near_e, near_t)) / 2
        assert found[i, j] == pytest.approx(slow)


def test_a_cohort_of_equal_scores_normalises_nothing() -> None:
    with pytest.raises(ValueError, match="session 1 is as near to all of its cohort"):
        adaptive_norm(random(0, 2, 2), np.array([[0.1, 0.2], [0.3, 0.3]]), random(1, 2, 2))


def test_a_cohort_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="2 of a cohort at least"):
        adaptive_norm(random(0, 2, 2), random(1, 2, 1), random(2, 2, 1))


def voices(n_subjects: int, n_sessions: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """A voice of five dimensions in a session noise that is louder in another five."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n_subjects), n_sessions)
    x = np.zeros((len(subject), 20))
    x[:, :5] = rng.standard_normal((n_subjects, 5))[subject] + 0.4 * rng.standard_normal((len(subject), 5))
    x[:, 5:10] = 3 * rng.standard_normal((len(subject), 5))
    x[:, 10:] = 0.1 * rng.standard_normal((len(subject), 10))
    return x, subject


def pairs_error(x: Floats, subject: NDArray[np.int64]) -> float:
    i, j = np.triu_indices(len(x), 1)
    unit = unit_rows(x)
    return equal_error_rate(subject[i] == subject[j], (unit @ unit.T)[i, j])


def test_a_backend_turns_away_from_what_varies_within_subjects() -> None:
    x, subject = voices(60, 4, 0)
    others, other_subject = voices(30, 4, 1)
    backend = fit_backend(x, subject, n_out=5, shrinkage=0.1)
    before, after = pairs_error(others, other_subject), pairs_error(backend.apply(others), other_subject)
    assert after < 0.5 * before, (before, after)


def test_a_backend_scales_the_sessions_of_a_subject_to_one() -> None:
    x, subject = voices(400, 3, 2)
    y = fit_backend(x, subject, n_out=4, shrinkage=1e-6).apply(x)
    means = np.stack([y[subject == s].mean(axis=0) for s in range(400)])
    within = (y - means[subject]).T @ (y - means[subject]) / (len(y) - 400)
    np.testing.assert_allclose(within, np.eye(4), atol=0.01)


def test_a_backend_needs_somebody_twice() -> None:
    with pytest.raises(ValueError, match="3 subjects, 1 sessions at most"):
        fit_backend(random(0, 3, 4), ["a", "b", "c"], n_out=2)


@pytest.mark.parametrize(
    ("embeddings", "match"),
    [
        (np.zeros((2, 3)), "all zeros"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), "embedding 1 holds NaN"),
        (np.ones(3), r"\(n, dim\)"),
    ],
)
def test_embeddings_without_a_direction_are_refused(embeddings: Floats, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unit_rows(embeddings)


# Error rates.


def slow_dcf(labels: NDArray[np.int64], scores: Floats, cost: DetectionCost) -> float:
    best = math.inf
    for threshold in [math.inf, *scores]:
        accepted = scores >= threshold
        misses, alarms = np.mean(~accepted[labels == 1]), np.mean(accepted[labels == 0])
        total = cost.miss * cost.p_target * misses + cost.false_accept * (1 - cost.p_target) * alarms
        best = min(best, float(total))
    return best / min(cost.miss * cost.p_target, cost.false_accept * (1 - cost.p_target))


@pytest.mark.parametrize("seed", range(5))
def test_min_dcf_is_the_least_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.standard_normal(60) + labels, 1)  # ties within and between the classes
    cost = DetectionCost(p_target=0.2, miss=2.0, false_accept=0.7)
    assert min_dcf(labels, scores, cost=cost) == pytest.approx(slow_dcf(labels, scores, cost))


def test_min_dcf_by_hand() -> None:
    # At .8 one of two is missed and nobody accepted: .5; at .6 the false accept costs .99 / .01 * 1/3 = 33.
    assert min_dcf([1, 1, 0, 0, 0], [0.9, 0.5, 0.6, 0.2, 0.1]) == pytest.approx(0.5)
    # Seldom a stranger: accepting one of three costs .1 / .1 * 1/3 and misses nobody.
    rare = DetectionCost(p_target=0.9)
    assert min_dcf([1, 1, 0, 0, 0], [0.9, 0.5, 0.6, 0.2, 0.1], cost=rare) == pytest.approx(1 / 3)


def test_eer_equals_a_slow_exact_one_on_scores_with_ties() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        labels = np.append(rng.integers(0, 2, 40), [0, 1])
        scores = np.round(rng.standard_normal(42) + labels, 1)
        points = []
        for threshold in [math.inf, *sorted(set(scores.tolist()), reverse=True)]:
            accepted = scores >= threshold
            points.append((float(np.mean(accepted[labels == 0])), float(np.mean(~accepted[labels == 1]))))
        k = next(i for i, (a, r) in enumerate(points) if r <= a)
        (a0, r0), (a1, r1) = points[k - 1], points[k]
        t = (r0 - a0) / ((r0 - a0) - (r1 - a1))
        assert equal_error_rate(labels, scores) == pytest.approx(a0 + t * (a1 - a0))


def some_trials(seed: int) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(4), (2, 3, 4, 3))
    i, j = np.triu_indices(12, 1)
    first, second = subject[i], subject[j]
    return np.round(rng.standard_normal(len(first)) + (first == second), 1), first, second


def test_resampling_subjects_is_copying_them() -> None:
    scores, first, second = some_trials(1)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0], [4, 0, 0, 0]], dtype=np.float64)

    def of_copies(weight: Floats) -> float:
        labels, copied = [], []
        for a, b, score in zip(first, second, scores, strict=True):
            for copy_a, copy_b in itertools.product(range(int(weight[a])), range(int(weight[b]))):
                if a != b or copy_a == copy_b:  # two copies of one person never meet
                    labels.append(int(a == b))
                    copied.append(score)
        return equal_error_rate(labels, copied)

    statistic, subjects = of_subjects(equal_error_statistic(first == second, scores), first, second)
    assert subjects.tolist() == [0, 1, 2, 3]
    found = statistic(weights)
    np.testing.assert_allclose(found, [of_copies(weight) for weight in weights])
    assert math.isnan(found[3])  # one person has nobody to be taken for


def test_an_evaluation_counts_and_its_interval_holds_the_estimate() -> None:
    scores, first, second = some_trials(2)
    found = evaluate(scores, first, second, rng=np.random.default_rng(0), n_resamples=200)
    assert (found.n_same, found.n_different, found.n_subjects) == (13, 53, 4)
    assert found.eer.estimate == equal_error_rate(first == second, scores)
    assert found.eer.low <= found.eer.estimate <= found.eer.high
    assert found.min_dcf.estimate == min_dcf(first == second, scores)


@pytest.mark.parametrize(("second", "kind"), [([1, 2], "of one subject each"), ([2, 1], "of two subjects")])
def test_one_sided_trials_have_no_error_rate(second: list[int], kind: str) -> None:
    with pytest.raises(ValueError, match=f"all 2 trials are {kind}"):
        evaluate([0.1, 0.2], [1, 2], second, rng=np.random.default_rng(0))


def test_a_detection_band_reads_the_curve_off_at_its_rates() -> None:
    scores, first, second = some_trials(3)
    grid = [0.0, 0.1, 0.4, 1.0]
    band = detection_band(
        scores, first, second, rng=np.random.default_rng(0), false_accepts=grid, n_resamples=100
    )
    labels = first == second
    for rate, rejects in zip(grid, band.false_rejects, strict=True):
        allowed = [t for t in [math.inf, *scores] if np.mean(scores[~labels] >= t) <= rate]
        assert rejects == pytest.approx(min(np.mean(scores[labels] < t) for t in allowed))
    assert (band.low <= band.false_rejects).all() and (band.false_rejects <= band.high).all()
    assert (band.low < band.high).any()


def test_a_draw_of_one_subject_has_no_point_of_a_detection_curve() -> None:
    # Of two subjects a draw in two holds one alone; of the others each has both kinds and misses all but at 1.
    first, second, scores = ["a", "b", "a"], ["a", "b", "b"], [0.1, 0.2, 0.9]
    band = detection_band(
        scores, first, second, rng=np.random.default_rng(0), false_accepts=[0.5], n_resamples=50
    )
    assert (band.false_rejects[0], band.low[0], band.high[0]) == (1.0, 1.0, 1.0)


def test_ranks_by_hand() -> None:
    gallery = ["a", "a", "b", "c"]
    scores = np.array(
        [
            [0.1, 0.9, 0.5, 0.3],  # a is found first, by its second session
            [0.6, 0.2, 0.5, 0.1],  # b comes after a
            [0.4, 0.1, 0.2, 0.4],  # c shares the first place with a: rank 2
        ]
    )
    ranks = probe_ranks(scores, ["a", "b", "c"], gallery)
    assert ranks.tolist() == [1, 2, 2]
    assert [identification_rate(ranks, k) for k in (1, 2)] == [pytest.approx(1 / 3), 1.0]


def test_a_probe_of_whom_the_gallery_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="probe of 'd'"):
        probe_ranks(np.zeros((1, 2)), ["d"], ["a", "b"])


# Views.


def segments_of(*lengths: int) -> list[NDArray[np.float32]]:
    return [np.full(n, i + 1, np.float32) for i, n in enumerate(lengths)]


def test_a_concatenation_holds_every_segment_once_in_another_order_each_time() -> None:
    whole = concatenations(segments_of(3, 4, 5), None, 8, np.random.default_rng(0))
    assert all(sorted(crop.tolist()) == [1] * 3 + [2] * 4 + [3] * 5 for crop in whole)
    assert len({tuple(crop.tolist()) for crop in whole}) > 2


def test_a_crop_has_its_length_and_a_short_session_is_repeated() -> None:
    crops = concatenations(segments_of(3, 4), 20, 3, np.random.default_rng(0))
    assert [len(crop) for crop in crops] == [20, 20, 20]
    assert {value for crop in crops for value in crop.tolist()} == {1.0, 2.0}


def test_a_session_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="segments with samples"):
        concatenations([np.zeros(0, np.float32)], None, 1, np.random.default_rng(0))


def loudness_encoder() -> Encoder:
    """Three numbers of a waveform that depend on the order of its samples too."""

    def run(x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.array([np.mean(np.abs(x)), np.mean(x[: len(x) // 2]), 1.0])

    return Encoder(identity="test", sample_rate_hz=RATE_HZ, dim=3, least_samples=1, run=run)


def test_a_recording_that_is_taken_whole_has_one_view() -> None:
    rng = np.random.default_rng(0)
    one = embed_session(loudness_encoder(), segments_of(50), crop_s=None, n_views=8, rng=rng)
    many = embed_session(loudness_encoder(), segments_of(50, 60), crop_s=None, n_views=8, rng=rng)
    assert (one.shape, many.shape) == ((1, 3), (8, 3))


@pytest.mark.parametrize("crop_s", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_crop_that_is_no_length_is_refused(crop_s: float) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="a crop must be over 0 to 600 s"):
        embed_session(loudness_encoder(), segments_of(50), crop_s=crop_s, n_views=1, rng=rng)


# A model file as an encoder.

FRONT_END = FeatureConfig(sample_rate_hz=RATE_HZ, f_max_hz=4_000, n_bands=20, window_ms=32)


def model_file(path: Path, name: str = "ecapa", **options: int) -> Path:
    torch.manual_seed(1)
    options = {"n_mels": 20, "n_classes": 2, **(options or {"width": 8, "bottleneck": 4, "embedding": 6})}
    card = ModelCard(name, options, FRONT_END, window_s=0.5, class_names=("a", "b"))
    save_model(path, build_model(name, **options), card)
    return path


def sound(seed: int, duration_s: float = 1.3) -> NDArray[np.float32]:
    t = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    f0 = 300 + 90 * seed
    rng = np.random.default_rng(seed)
    return np.asarray(0.2 * np.sin(2 * np.pi * f0 * t) + 0.02 * rng.standard_normal(len(t)), np.float32)


@pytest.mark.parametrize(
    ("name", "options"), [("ecapa", {}), ("tt-lstm", {"hidden_size": 16}), ("lstm", {"hidden_size": 8})]
)
def test_a_model_file_embeds_by_the_mean_of_its_windows_at_length_one(
    name: str, options: dict[str, int], tmp_path: Path
) -> None:
    path = model_file(tmp_path / "m.safetensors", name, **options)
    encoder = open_voice(str(path))
    found = encoder.embed(sound(1))
    from vagitus.checkpoint import load_model

    model, _ = load_model(path)
    features = featurise(sound(1), FRONT_END)  # 131 frames: windows of 50 from 0, 25, 50, 75 and 81 on
    x = torch.from_numpy(np.stack([cut_window(features, s, 50) for s in (0, 25, 50, 75, 81)]))
    with torch.no_grad():
        slow = F.normalize(model.features(x), dim=1).mean(dim=0)  # type: ignore[operator]
    np.testing.assert_allclose(found, slow.numpy(), atol=1e-5)
    assert encoder.dim == len(found) and encoder.sample_rate_hz == RATE_HZ


# Tables of trials.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", sound(i), RATE_HZ)
    return tmp_path


def table(folder: Path, *rows: str, header: str = "enrolled,tested,label") -> Path:
    path = folder / "trials.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_is_scored_trial_by_trial(folder: Path) -> None:
    path = table(folder, "0.wav,1.wav,same", "2.wav,1.wav,0", "3.wav,0.wav,different")
    trials = read_trials(path)
    assert trials.labels is not None and trials.labels.tolist() == [1, 0, 0]
    views = {folder / f"{i}.wav": random(i, 2, 5) for i in range(4)}
    scores = score_trials(trials, views)
    for score, a, b in zip(scores, trials.enrolled, trials.tested, strict=True):
        assert score == pytest.approx((session_vectors([views[a]]) @ session_vectors([views[b]]).T).item())
    eer, dcf = error_rates(trials, scores, rng=np.random.default_rng(0))  # type: ignore[misc]
    assert 0 <= eer <= 1 and 0 <= dcf <= 1


def test_subjects_make_the_labels_and_the_interval(folder: Path) -> None:
    header = "enrolled,tested,enrolled_subject,tested_subject"
    path = table(folder, "0.wav,1.wav,a,a", "2.wav,1.wav,b,a", "2.wav,3.wav,b,b", header=header)
    trials = read_trials(path)
    assert trials.labels is not None and trials.labels.tolist() == [1, 0, 1]
    found = error_rates(trials, np.array([0.9, 0.1, 0.8]), rng=np.random.default_rng(0))
    assert not isinstance(found, tuple) and found.n_subjects == 2


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (("0.wav,9.wav,1",), "row 2: 9.wav does not exist"),
        (("0.wav,1.wav,1", "1.wav,0.wav,1"), "row 3: repeats the trial of row 2"),
        (("0.wav,0.wav,1",), "row 2: compares 0.wav with itself"),
        (("0.wav,./0.wav,1",), "row 2: compares 0.wav with itself"),
        (("0.wav,1.wav,1", "x/../1.wav,0.wav,1"), "row 3: repeats the trial of row 2"),
        (("0.wav,1.wav,maybe",), "row 2: label 'maybe'"),
        (("0.wav,,1",), "row 2: a recording is blank"),
        ((), "holds no trial"),
    ],
)
def test_a_wrong_trial_is_named_by_its_row(folder: Path, rows: tuple[str, ...], match: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        read_trials(table(folder, *rows))


def test_a_label_that_contradicts_the_subjects_is_refused(folder: Path) -> None:
    header = "enrolled,tested,label,enrolled_subject,tested_subject"
    with pytest.raises(ValueError, match="row 2: label 1 contradicts the subjects"):
        read_trials(table(folder, "0.wav,1.wav,1,a,b", header=header))


def test_one_column_of_subjects_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="one of enrolled_subject and tested_subject"):
        read_trials(table(folder, "0.wav,1.wav,1,a", header="enrolled,tested,label,tested_subject"))


@pytest.mark.parametrize(
    "data", [b"enrolled,tested\n\xff\xfe,1.wav\n", b'enrolled,tested\n"' + b"x" * 140_000]
)
def test_what_is_no_csv_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trials.csv"
    path.write_bytes(data)
    for read_it in (read_trials, lambda p: read_pairs(p, {}), lambda p: read_submission(p, PAIRS)):
        with pytest.raises(ValueError, match=r"trials\.csv: is no CSV"):
            read_it(path)


def test_a_table_of_one_kind_has_no_error_rate(folder: Path) -> None:
    trials = read_trials(table(folder, "0.wav,1.wav,1", "2.wav,3.wav,1"))
    with pytest.raises(ValueError, match="of one subject each"):
        error_rates(trials, np.array([0.1, 0.2]), rng=np.random.default_rng(0))


# CryCeleb.


def make_cryceleb(folder: Path, n_babies: int = 3, n_segments: int = 2) -> Path:
    """The publisher's layout, with babies that differ in pitch; dev has all B x D pairs, test no labels."""
    rows = ["baby_id,period,duration,split,chronological_index,file_name,file_id"]
    for split, first in (("train", 0), ("dev", n_babies), ("test", 2 * n_babies)):
        babies = [f"{first + i:04d}" for i in range(n_babies)]
        for baby, period, k in itertools.product(babies, "BD", reversed(range(n_segments))):
            name = f"audio/{split}/{baby}/{period}/{baby}_{period}_{k:03d}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, sound(int(baby), 0.4 + 0.1 * k), RATE_HZ)
            rows.append(f"{baby},{period},{0.4 + 0.1 * k},{split},{k},{name},{baby}-{period}-{k}")
        if split != "train":
            pairs = [
                f"{b},{d},{i}" + (f",{int(b == d)}" if split == "dev" else "")
                for i, (b, d) in enumerate(itertools.product(babies, babies))
            ]
            header = "baby_id_B,baby_id_D,id" + (",label" if split == "dev" else "")
            (folder / f"{split}_pairs.csv").write_text("\n".join([header, *pairs]) + "\n")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def cryceleb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cryceleb(tmp_path_factory.mktemp("data") / "cryceleb")


def test_segments_of_a_session_are_in_their_order(cryceleb: Path) -> None:
    sessions = read_sessions(cryceleb, "dev")
    assert [path.stem for path in sessions["0003", "B"]] == ["0003_B_000", "0003_B_001"]
    assert set(sessions) == {(f"000{i}", period) for i in (3, 4, 5) for period in "BD"}


def test_a_cryceleb_folder_runs_end_to_end_to_a_valid_submission(cryceleb: Path, tmp_path: Path) -> None:
    encoder = open_voice(str(model_file(tmp_path / "m.safetensors")))
    for name, has_labels in (("dev", True), ("test", False)):
        sessions = read_sessions(cryceleb, name)
        pairs = read_pairs(cryceleb / f"{name}_pairs.csv", sessions)
        assert (pairs.labels is not None) == has_labels
        assert (len(pairs.ids), pairs.n_absent) == (9, 0)
        views = embed_sessions(encoder, sessions, crop_s=0.6, n_views=3, seed=0)
        assert {v.shape for v in views.values()} == {(3, 6)}
        scores = score_pairs(pairs, views)
        write_submission(tmp_path / f"{name}.csv", pairs, scores)
        np.testing.assert_array_equal(read_submission(tmp_path / f"{name}.csv", pairs), scores)
        with (tmp_path / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file))[4]["id"] == "4"
        found = evaluate(scores, pairs.born, pairs.discharged, rng=np.random.default_rng(0), n_resamples=50)
        assert (found.n_same, found.n_different) == (3, 6)
        assert found.eer.estimate < 0.2  # a pitch of its own for each infant


def test_the_views_of_a_session_do_not_depend_on_the_others(cryceleb: Path) -> None:
    sessions = read_sessions(cryceleb, "dev")
    alone = {session: sessions[session] for session in [("0004", "D")]}
    options = {"crop_s": 0.3, "n_views": 2, "seed": 5}
    whole = embed_sessions(loudness_encoder(), sessions, **options)  # type: ignore[arg-type]
    one = embed_sessions(loudness_encoder(), alone, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole["0004", "D"], one["0004", "D"])


def test_all_pairs_of_a_split_are_born_by_discharged(cryceleb: Path) -> None:
    pairs = all_pairs(read_sessions(cryceleb, "train"))
    assert pairs.labels is not None and (len(pairs.ids), int(pairs.labels.sum())) == (9, 3)


def of_pairs(folder: Path, *rows: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join(["baby_id_B,baby_id_D,id,label", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (("0003,0099,x,0",), "row 2: names infant 0099, period D, of which no recording is here"),
        (("0003,0004,x,0", "0003,0004,y,0"), "row 3: repeats pair 0003 0004 of row 2"),
        (("0003,0004,x,0", "0003,0005,x,0"), "row 3: repeats id x of row 2"),
        (("0003,0004,,0", "0003,0005,,0"), "row 2: its id is blank"),
        (("0003,0004", "0003,0005"), "row 2: its id is blank"),
        (("0003,0004,x,1",), "row 2: label 1 contradicts the infants' names"),
        ((), "holds no pair"),
    ],
)
def test_a_wrong_pair_is_named_by_its_row(
    cryceleb: Path, tmp_path: Path, rows: tuple[str, ...], match: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        read_pairs(of_pairs(tmp_path, *rows), read_sessions(cryceleb))


def test_pairs_that_are_not_all_of_b_by_d_are_counted(cryceleb: Path, tmp_path: Path) -> None:
    path = of_pairs(tmp_path, "0003,0003,x,1", "0004,0003,y,0", "0003,0004,z,0")
    assert read_pairs(path, read_sessions(cryceleb)).n_absent == 1


PAIRS = Pairs(("x", "y", "z"), ("a", "a", "b"), ("a", "b", "b"), None, "test_pairs.csv")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,score\nx,1\ny,2\n", "1 of 3 pairs are missing, first 'z'"),
        ("id,score\nx,1\nx,1\ny,2\nz,3\n", "row 3: id 'x' stands there twice"),
        ("id,score\nx,1\ny,2\nw,3\n", "row 4: id 'w' is no pair of test_pairs.csv"),
        ("id,score\nx,nan\ny,2\nz,3\n", "row 2: score 'nan' is no finite number"),
        ("id,score\nx\ny,2\nz,3\n", "row 2: score None is no finite number"),
        ("pair,value\nx,1\n", "columns must be id,score"),
    ],
)
def test_a_submission_that_is_not_whole_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "submission.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_submission(tmp_path / "submission.csv", PAIRS)


def test_scores_that_are_not_one_for_each_pair_are_not_written(tmp_path: Path) -> None:
    for scores in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        with pytest.raises(ValueError, match="a finite score for each of 3 pairs"):
            write_submission(tmp_path / "s.csv", PAIRS, scores)
    assert not (tmp_path / "s.csv").exists()


def test_a_cohort_normalises_the_pairs_of_a_protocol(cryceleb: Path) -> None:
    pairs = all_pairs(read_sessions(cryceleb, "dev"))
    views = {session: random(i, 2, 5) for i, session in enumerate(pairs.sessions)}
    cohort = [random(50 + i, 2, 5) for i in range(6)]
    b, d = (session_vectors([views[f"000{i}", period] for i in (3, 4, 5)]) for period in "BD")
    others = session_vectors(cohort)
    wanted = adaptive_norm(score_all(b, d), score_all(b, others), score_all(d, others))
    np.testing.assert_allclose(score_pairs(pairs, views, cohort), wanted.ravel())


# AAM-softmax.


def test_aam_softmax_by_hand() -> None:
    # Angles of .3 to the true class and pi/2 - .3 to the other; lengths play no part.
    embedding = torch.tensor([[3 * math.cos(0.3), 3 * math.sin(0.3)]])
    directions = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    own, other = 5 * math.cos(0.3 + 0.2), 5 * math.sin(0.3)
    wanted = math.log(math.exp(own) + math.exp(other)) - own
    loss = aam_softmax(embedding, directions, torch.tensor([0]), margin=0.2, scale=5.0)
    assert loss.item() == pytest.approx(wanted, abs=1e-5)


def test_without_a_margin_it_is_cross_entropy_of_cosines() -> None:
    x, w = (torch.from_numpy(random(i, n, 4)).float() for i, n in ((0, 6), (1, 3)))
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    cosines = F.normalize(x, dim=1) @ F.normalize(w, dim=1).T
    found = aam_softmax(x, w, y, margin=0.0, scale=7.0)
    torch.testing.assert_close(found, F.cross_entropy(7 * cosines, y))


def test_the_loss_falls_all_the_way_from_opposite_to_alike() -> None:
    # The other class stands at a right angle throughout. Past pi - m the cosine of the sum would rise again.
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = torch.stack(
        [
            aam_softmax(torch.tensor([[a.cos(), a.sin(), 0.0]]), directions, torch.tensor([0]), scale=3.0)
            for a in torch.linspace(0, math.pi, 50)
        ]
    )
    assert (losses.diff() > 0).all()


def test_the_gradient_is_finite_on_the_class_direction() -> None:
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    aam_softmax(x, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.isfinite().all()


def test_aam_softmax_refuses_shapes_and_numbers_out_of_range() -> None:
    x, w, y = torch.ones(2, 3), torch.ones(4, 5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"\(2, 3\) and class_weights \(4, 5\)"):
        aam_softmax(x, w, y)
    with pytest.raises(ValueError, match=r"y must be \(2,\), a class for each embedding, got \(1,\)"):
        aam_softmax(x, torch.ones(4, 3), y[:1])
    with pytest.raises(ValueError, match="margin must be in"):
        aam_softmax(x, torch.ones(4, 3), y, margin=2.0)
