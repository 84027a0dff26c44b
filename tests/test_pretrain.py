"""Source models: labels, held-out speakers, views, objectives, collapse, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus import pretrain
from vagitus.audio import read
from vagitus.augment import codec
from vagitus.checkpoint import learned_rows, load_model
from vagitus.corpora import load_corpus
from vagitus.features import FeatureConfig, featurise, normalise
from vagitus.manifest import Manifest, build_manifest
from vagitus.models import build_model
from vagitus.pretrain import (
    PretrainConfig,
    pretrain_selfsupervised,
    pretrain_supervised,
    refuse_overlap,
    source_labels,
)
from vagitus.training import CropBatches, Supervised, TrainConfig, fit
from vagitus.transfer import load_source, new_task
from vagitus.views import (
    METHODS,
    Encoder,
    TwoViews,
    VICReg,
    ViewBatch,
    ViewConfig,
    describe_collapse,
    diversity,
    learn_from_views,
    mix_powers,
)

RATE_HZ = 8000
FRONT_END = FeatureConfig(
    sample_rate_hz=RATE_HZ, window_ms=32.0, hop_ms=16.0, f_max_hz=4000, n_bands=12, normalisation="mean"
)
LOGMEL = FRONT_END.vary(normalisation="none")
CONFIG = TrainConfig(epochs=6, batch_size=8, lr=5e-3, window_s=0.4, precision="32-true", mask=0.0)
SMALL = {"width": 5}
STILL = ViewConfig(gain_db=0, noise_share=0, band_limit_share=0)


def speech(folder: Path, n_speakers: int = 8, source: str = "speech", **cells: Any) -> Manifest:
    """Two words, a low and a high tone, said twice by each speaker in noise of his own."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    rows = []
    for speaker in range(n_speakers):
        for word, f_hz in (("low", 500), ("high", 2000)):
            for take in range(2):
                tone = np.sin(2 * np.pi * f_hz * (1 + 0.02 * speaker) * t) * np.sin(np.pi * t / t[-1])
                path = f"{speaker}-{word}-{take}.wav"
                soundfile.write(folder / path, 0.3 * tone + 0.01 * rng.standard_normal(len(t)), RATE_HZ)
                row = {"path": path, "subject": f"s{speaker}", "label": word, "sex": "FM"[speaker % 2]}
                rows.append(row | cells)
    return build_manifest(rows, folder, source)


def logmels(n: int = 6, seed: int = 0, config: FeatureConfig = LOGMEL) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(RATE_HZ // 2, RATE_HZ, size=n)
    return [featurise(0.1 * rng.standard_normal(k).astype(np.float32), config) for k in lengths]


def two_views(x: list[NDArray[np.float32]], front_end: FeatureConfig = FRONT_END, **how: Any) -> TwoViews:
    options: dict[str, Any] = {"window_frames": 20, "config": CONFIG, "views": ViewConfig(), "seed": 0} | how
    return TwoViews(x, front_end, **options)


# --- labels -----------------------------------------------------------------------------------------------------


def test_each_source_task_takes_its_labels_where_they_stand(tmp_path: Path) -> None:
    manifest = speech(tmp_path, 2)
    assert set(source_labels(manifest, "words").label) == {"low", "high"}
    assert source_labels(manifest, "speakers").label.tolist() == manifest.subject.tolist()
    gender = source_labels(manifest, "gender")
    assert dict(zip(gender.subject.tolist(), gender.label.tolist(), strict=True)) == {
        "s0": "female",
        "s1": "male",
    }


@pytest.mark.parametrize(
    ("cells", "task", "match"),
    [
        ({"label": ""}, "words", "no recording has a label; words need"),
        ({"label": "s0", "subject": "s0"}, "words", "every label repeats its subject"),
        ({"sex": ""}, "gender", "covariate 'sex' is blank throughout; fill it"),
        ({"sex": "x"}, "gender", "row 2: sex is 'x'; write female"),
        ({}, "age", "no source task 'age'; choose from words, speakers, gender"),
    ],
)
def test_what_a_task_lacks_is_named(tmp_path: Path, cells: dict[str, str], task: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        source_labels(speech(tmp_path, 1, **cells), task)


# --- supervised -------------------------------------------------------------------------------------------------


def pretrain_words(folder: Path, task: Any = "words", **how: Any) -> Any:
    options: dict[str, Any] = {
        "front_end": FRONT_END,
        "cache": folder / "cache",
        "options": SMALL,
        "config": CONFIG,
        "n_workers": 1,
    }
    manifests = how.pop("manifests", None) or [speech(folder / "speech", 10)]
    return pretrain_supervised(manifests, task, folder / "m.safetensors", **options | how)


def test_words_are_learned_and_the_file_says_what_it_is_worth(tmp_path: Path) -> None:
    # Batch norm's running statistics need some 20 steps to leave their initial values; an epoch has three.
    config = CONFIG.model_copy(update={"epochs": 20, "patience": 20})
    found = pretrain_words(tmp_path, config=config, record={"command": "as typed"})
    model, card = load_source(tmp_path / "m.safetensors", FRONT_END)
    metrics = card.provenance["metrics"]
    assert metrics["accuracy"] == 1.0 and metrics["measured_on"] == "speakers never heard in training"
    assert metrics["low"] <= metrics["accuracy"] <= metrics["high"]
    assert metrics["n_subjects"] == 2 and metrics["n_recordings"] == 8  # a fifth of ten speakers
    assert card.class_names == ("high", "low") and card.options == {"n_mels": 12, "n_classes": 2, "width": 5}
    said = {key: card.provenance[key] for key in ("task", "data", "seed", "command", "method", "n_subjects")}
    assert said == {
        "task": "words",
        "data": "speech",
        "seed": 0,
        "command": "as typed",
        "method": "supervised",
        "n_subjects": 10,
    }
    assert str(tmp_path) not in (tmp_path / "m.safetensors").read_bytes().decode("latin1")
    assert not (tmp_path / "m-work").exists()
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_pretraining_of_a_recording_that_was_changed_since_begins_anew(tmp_path: Path) -> None:
    import soundfile

    def kill(record: dict[str, float]) -> None:
        raise KeyboardInterrupt

    manifest = speech(tmp_path / "speech")
    how: dict[str, Any] = {
        "front_end": FRONT_END,
        "cache": tmp_path / "cache",
        "options": SMALL,
        "config": CONFIG,
    }
    path = tmp_path / "m.safetensors"
    for method in ("words", "simclr"):
        learn: Any = pretrain_supervised if method == "words" else pretrain_selfsupervised
        epochs: list[float] = []
        with pytest.raises(KeyboardInterrupt):
            learn([manifest], method, path, on_epoch=kill, **how)
        x, rate_hz = soundfile.read(manifest.file(0))
        soundfile.write(manifest.file(0), x[::-1], rate_hz)  # of the same name and length
        learn(
            [manifest], method, path, on_epoch=lambda record, seen=epochs: seen.append(record["epoch"]), **how
        )
        assert epochs[0] == 0


def test_a_killed_pretraining_ends_with_the_unbroken_weights(tmp_path: Path) -> None:
    unbroken = pretrain_words(tmp_path)

    def kill(record: dict[str, float]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_words(tmp_path, on_epoch=kill)
    epochs: list[float] = []
    resumed = pretrain_words(tmp_path, on_epoch=lambda record: epochs.append(record["epoch"]))
    assert epochs == [3, 4, 5] and resumed.history == unbroken.history
    weights = unbroken.model.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in resumed.model.state_dict().items())


def test_words_of_two_corpora_stay_apart_and_so_do_their_speakers(tmp_path: Path) -> None:
    manifests = [speech(tmp_path / name, 5, source=name) for name in ("arabic", "english")]
    config = CONFIG.model_copy(update={"epochs": 1})
    card = pretrain_words(tmp_path, manifests=manifests, config=config).card
    assert card.class_names == ("arabic high", "arabic low", "english high", "english low")
    assert card.provenance["n_subjects"] == 10
    with pytest.raises(ValueError, match="several of different names, got arabic, arabic"):
        pretrain_words(tmp_path, manifests=[manifests[0], manifests[0]], config=config)


def test_speakers_are_told_apart_on_utterances_held_out(tmp_path: Path) -> None:
    manifest = speech(tmp_path / "speech", 3)
    rows = np.flatnonzero((manifest.subject != "s2") | (np.arange(12) > 10))  # of s2 only one is left
    config = CONFIG.model_copy(update={"epochs": 1})
    card = pretrain_words(tmp_path, "speakers", manifests=[manifest.select(rows)], config=config).card
    assert card.class_names == ("s0", "s1")
    assert card.provenance["metrics"]["n_recordings"] == 2  # one of four each
    assert "held-out utterances" in card.provenance["metrics"]["measured_on"]
    assert "1 recordings of speakers with fewer than 2 left out" in card.provenance["notes"]


def test_gender_speaks_of_females_as_its_score(tmp_path: Path) -> None:
    card = pretrain_words(tmp_path, "gender", config=CONFIG.model_copy(update={"epochs": 1})).card
    assert (card.class_names, card.positive, card.threshold) == (("male", "female"), "female", 0.5)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finds one class, 'low'"):
        pretrain_words(tmp_path, manifests=[speech(tmp_path / "speech", 5, label="low")])


# --- views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["none", "mean", "mean_std", "keep_level"])
@pytest.mark.parametrize("kind", ["logmel", "mfcc"])
def test_a_view_that_changes_nothing_is_a_crop_of_what_the_network_hears(
    kind: str, normalisation: str
) -> None:
    front_end = FRONT_END.vary(kind=kind, normalisation=normalisation)
    x = logmels(3)
    views = two_views(x, front_end, views=STILL)
    heard = [_as_heard(logmel, front_end) for logmel in x]
    view, recording = views.view(1, np.random.default_rng(5)), heard[1]
    starts = range(recording.shape[1] - 20 + 1)
    assert min(np.abs(recording[:, s : s + 20] - view).max() for s in starts) < 2e-5
    middle = (heard[2].shape[1] - 20) // 2
    np.testing.assert_allclose(views.plain(2), heard[2][:, middle : middle + 20], atol=2e-5)


def _as_heard(logmel: NDArray[np.float32], front_end: FeatureConfig) -> NDArray[np.float32]:
    from scipy import fft

    heard = fft.dct(logmel, type=2, norm="ortho", axis=0) if front_end.kind == "mfcc" else logmel.copy()
    normalise(heard, front_end)
    return np.asarray(heard)


def test_a_gain_moves_all_bands_and_a_front_end_that_takes_the_mean_does_not_hear_it() -> None:
    x = logmels(2)
    louder = ViewConfig(gain_db=10, noise_share=0, band_limit_share=0)
    raw = [two_views(x, LOGMEL, views=v).view(0, np.random.default_rng(3)) for v in (STILL, louder)]
    step = raw[1] - raw[0]
    assert abs(step.mean()) > 0.05 and step.std() < 1e-5
    heard = [two_views(x, views=v).view(0, np.random.default_rng(3)) for v in (STILL, louder)]
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-5)


def test_noise_is_mixed_by_power_at_its_ratio() -> None:
    x, noise = np.log(np.array([[2.0, 4.0]])), np.log(np.array([[1.0, 5.0]]))
    # Both have mean power 3; at 10 dB the noise counts a tenth.
    np.testing.assert_allclose(np.exp(mix_powers(x, noise, 10.0)), [[2.1, 4.5]])


def test_mixing_by_power_is_what_waveforms_do_on_average() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4 * RATE_HZ)).astype(np.float32) * [[0.1], [0.05]]
    x, n, both = (featurise(y.astype(np.float32), LOGMEL).astype(np.float64) for y in (a, b, a + b))
    snr_db = 10 * np.log10(np.exp(x).mean() / np.exp(n).mean())
    difference = mix_powers(x, n, snr_db).mean(axis=1) - both.mean(axis=1)
    assert np.abs(difference).max() < 0.2 and (both - x).mean() > 0.15


def test_a_limited_band_loses_its_highest_bands_only() -> None:
    config = ViewConfig(gain_db=0, noise_share=0, band_limit_share=1, lowest_band_share=0.5)
    x = logmels(2)
    changed = set()
    for seed in range(20):
        limited = two_views(x, LOGMEL, views=config).view(0, np.random.default_rng(seed))
        clean = two_views(x, LOGMEL, views=STILL).view(0, np.random.default_rng(seed))
        lost = (clean - limited).mean(axis=1)
        first = int(np.flatnonzero(lost > 1)[0]) if (lost > 1).any() else 12
        changed.add(first)
        np.testing.assert_allclose(lost[:first], 0, atol=1e-6)
        assert (limited[first:] >= np.log(LOGMEL.log_floor) - 1e-4).all() and (lost[first:] > 5).all()
    assert min(changed) == 6 and max(changed) == 12


def test_a_share_of_the_views_is_of_the_recording_as_a_codec_left_it() -> None:
    x = logmels(2)
    coded = [one - 1 for one in x]  # each band 4.3 dB lower, as no other change of these views leaves it
    views = two_views(x, LOGMEL, views=STILL.model_copy(update={"codec_share": 0.4}), coded=coded)
    n_coded = 0
    for seed in range(200):
        drawn, clean = (
            v.view(1, np.random.default_rng(seed)) for v in (views, two_views(x, LOGMEL, views=STILL))
        )
        step = clean - drawn
        assert step.std() < 1e-5 and round(float(step.mean()), 5) in (0, 1)
        n_coded += step.mean() > 0.5
    assert 60 <= n_coded <= 100  # 80 expected, with a standard deviation of 7


def test_an_epoch_is_repeated_exactly_and_the_next_one_differs() -> None:
    views = two_views(
        logmels(7), config=CONFIG.model_copy(update={"batch_size": 3, "mask": 0.3}), noise=logmels(2, 9)
    )
    first, again, other = (list(views(epoch)) for epoch in (0, 0, 1))
    assert len(first) == len(views) == 2 and all(len(batch.x1) == 3 for batch in first)  # the seventh waits
    assert all(
        torch.equal(a, b) for p, q in zip(first, again, strict=True) for a, b in zip(p, q, strict=True)
    )
    assert not torch.equal(first[0].x1, other[0].x1) and not torch.equal(first[0].x1, first[0].x2)


@pytest.mark.parametrize(
    ("n", "changes", "match"),
    [
        (1, {}, "got 1 recordings in batches of 8"),
        (4, {"config": CONFIG.model_copy(update={"batch_size": 1})}, "in batches of 1; a batch of one"),
        (4, {"front_end": FRONT_END.vary(n_bands=10)}, "arrays have \\[12\\] rows, the front end 10"),
        (4, {"views": ViewConfig(snr_db=(20, 0))}, "snr_db must be \\(lowest, highest\\)"),
        (4, {"views": ViewConfig(codec_share=0.5)}, "codec_share is 0.5 with 0 coded recordings of 4"),
        (4, {"coded": logmels(4)}, "codec_share is 0 with 4 coded recordings of 4"),
    ],
)
def test_views_refuse(n: int, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        two_views(logmels(n), **changes)


# --- self-supervision -------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("res8", n_mels=12, n_classes=2, width=5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_the_features_and_its_projector_but_not_the_head(method: str) -> None:
    encoder, objective = Encoder(network()), METHODS[method](5)
    batch = next(two_views(logmels(8))(0))
    terms = objective(encoder, batch)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    parameters = dict(encoder.named_parameters())
    assert all(p.grad is None for name, p in parameters.items() if "head" in name)
    assert all(p.grad is not None and p.grad.any() for name, p in parameters.items() if "head" not in name)
    assert all(p.grad is not None for p in objective.parameters())


def test_vicreg_weighs_its_terms() -> None:
    torch.manual_seed(0)
    encoder, batch = Encoder(network()), next(two_views(logmels(8))(0))
    objective = VICReg(5, width=16, weights=(2.0, 3.0, 5.0))
    weighted = objective(encoder, batch)
    objective.weights = dict.fromkeys(objective.weights, 1.0)
    for name, weight in (("variance", 2.0), ("invariance", 3.0), ("covariance", 5.0)):
        torch.testing.assert_close(weighted[name], weight * objective(encoder, batch)[name])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_silent_batch_gives_finite_terms_and_gradients(method: str) -> None:
    floor = np.full((12, 30), np.log(FRONT_END.log_floor), np.float32)
    batch = next(two_views([floor] * 4, noise=[floor])(0))
    assert bool(batch.x1.isfinite().all())
    encoder, objective = Encoder(network()), METHODS[method](5)
    terms = objective(encoder, batch)
    assert all(bool(term.isfinite()) for term in terms.values())
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    gradients = [p.grad for p in (*encoder.parameters(), *objective.parameters()) if p.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_batch_of_one_is_refused(method: str) -> None:
    objective = METHODS[method](5)
    objective.eval()  # else batch norm refuses it first
    x = torch.zeros(1, 12, 20)
    with pytest.raises(ValueError, match="a batch of one recording"):
        objective(Encoder(network()), ViewBatch(x, x))


def test_contrast_falls_and_every_record_has_the_diversity() -> None:
    rng = np.random.default_rng(0)
    colours = [x + 3 * rng.standard_normal((12, 1)).astype(np.float32) for x in logmels(12)]
    model = network()
    config = CONFIG.model_copy(update={"epochs": 40, "lr": 1e-2})
    history = learn_from_views(model, "simclr", two_views(colours, LOGMEL, config=config), config, seed=0)
    assert history[-1]["contrast"] < 0.8 * history[0]["contrast"]
    assert all(1 <= record["feature_rank"] <= 5 and record["feature_spread"] > 0 for record in history)


def test_diversity_of_known_features() -> None:
    corners = torch.cat([torch.eye(3), -torch.eye(3)])
    found = diversity(corners)
    # Three equal variances; each coordinate is ±1 once and 0 four times: variance 2 / 5.
    assert found["feature_rank"] == pytest.approx(3) and found["feature_spread"] == pytest.approx(
        np.sqrt(3 * 0.4)
    )
    assert describe_collapse(found) == ""
    line = torch.outer(torch.tensor([1.0, -2.0, 3.0, -4.0]), torch.tensor([1.0, 2.0, 0.5]))
    assert "vary in 1.00 directions" in describe_collapse(diversity(line))
    assert diversity(torch.ones(4, 3)) == {"feature_rank": 0.0, "feature_spread": 0.0}
    cone = 100 + torch.cat([torch.eye(3), -torch.eye(3)])
    assert "spread is 0.0" in describe_collapse(diversity(cone))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        diversity(torch.tensor([[1.0, 2.0], [torch.inf, 3.0], [4.0, 5.0]]))


def pretrain_views(folder: Path, method: str = "simclr", name: str = "m", **how: Any) -> Any:
    options: dict[str, Any] = {
        "front_end": FRONT_END,
        "cache": folder / "cache",
        "config": CONFIG,
        "n_workers": 1,
    }
    manifests = how.pop("manifests", None) or [speech(folder / "speech", 4)]
    return pretrain_selfsupervised(manifests, method, folder / f"{name}.safetensors", **options | how)


def test_a_second_call_goes_on_from_the_first_with_its_network(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    first = pretrain_views(tmp_path, options=SMALL, save_collapsed=True, config=config)
    start = tmp_path / "m.safetensors"
    # At a rate too small to change a float the second call must give the first one's weights.
    still = config.model_copy(update={"lr": 1e-30})
    second = pretrain_views(tmp_path, "vicreg", "n", start=start, save_collapsed=True, config=still)
    assert second.card.options == {"n_mels": 12, "n_classes": 1, "width": 5} and second.card.class_names == ()
    for i in range(6):
        assert torch.equal(first.model.convs[i].weight, second.model.convs[i].weight)
    assert second.card.provenance["started_from_provenance"]["method"] == "simclr"
    assert new_task(load_source(tmp_path / "n.safetensors", FRONT_END)[0], 3, seed=0).get_parameter(
        "head.bias"
    ).shape == (3,)
    with pytest.raises(ValueError, match="another front end: normalisation 'mean'"):
        pretrain_views(tmp_path, start=start, front_end=LOGMEL)


def test_views_through_codecs_are_made_of_the_recordings_and_repeat(tmp_path: Path) -> None:
    manifest = speech(tmp_path / "speech", 4)
    views = ViewConfig(codec_share=0.5, codecs=("mu_law", "opus"))
    how: dict[str, Any] = {"options": SMALL, "save_collapsed": True, "manifests": [manifest]}
    one, same = (pretrain_views(tmp_path, name=name, views=views, **how) for name in "ab")
    plain = pretrain_views(tmp_path, name="c", **how)
    weights = [made.model.convs[0].weight for made in (one, same, plain)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert one.card.provenance["views"]["codecs"] == ["mu_law", "opus"]


def test_features_of_a_coded_recording_are_those_of_its_decoded_sound(tmp_path: Path) -> None:
    manifest = speech(tmp_path / "speech", 2)
    heard = pretrain._hear([manifest], LOGMEL, tmp_path / "cache", tmp_path, 1)
    coded = pretrain._through_codecs(heard, ("mu_law",), 0, tmp_path, 1)
    for i in range(len(manifest)):
        sound = codec(read(manifest.file(i)).samples, RATE_HZ, "mu_law", 64)
        np.testing.assert_array_equal(coded[i], featurise(sound, LOGMEL))
        assert coded[i].shape == heard.table[i].shape and not np.array_equal(coded[i], heard.table[i])


def test_which_codecs_there_are_is_known_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="no codec 'amr'; choose from mu_law, amr_nb, opus, mp3"):
        ViewConfig(codecs=("amr",))
    with pytest.raises(ValueError, match="views is for simclr and vicreg; leave it out for words"):
        PretrainConfig(data=("speech",), task="words", views=ViewConfig())


class Mute(nn.Module):
    """A method whose only wish is that all features be the same."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(feature_dim))

    def forward(self, encoder: nn.Module, batch: ViewBatch) -> dict[str, Tensor]:
        return {"size": (self.scale * encoder(batch.x1)).square().mean()}


def test_a_collapsed_model_is_named_and_not_saved_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "mute", Mute)
    monkeypatch.setattr("vagitus.views.COLLAPSED_RANK", 6.0)  # more than the network has features
    config = CONFIG.model_copy(update={"epochs": 1})
    said: list[str] = []
    found = pretrain_views(tmp_path, "mute", options=SMALL, config=config, announce=said.append)
    assert not found.saved and "fewer than 6" in found.collapse and not (tmp_path / "m.safetensors").exists()
    assert said[-1].startswith("m.safetensors is not written: collapsed")
    found = pretrain_views(tmp_path, "mute", options=SMALL, config=config, save_collapsed=True)
    assert found.saved and load_model(tmp_path / "m.safetensors")[1].provenance["collapse"] == found.collapse


def test_an_unknown_method_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no method 'simsiam'; choose from simclr, vicreg"):
        pretrain_views(tmp_path, "simsiam")


# --- overlap ----------------------------------------------------------------------------------------------------


def noise_clips(folder: Path, n: int, seed: int, level: float = 0.1, **cells: Any) -> Manifest:
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        soundfile.write(folder / f"{i}.wav", level * rng.standard_normal(3 * RATE_HZ), RATE_HZ)
        rows.append({"path": f"{i}.wav", "subject": f"p{i}", **cells})
    return build_manifest(rows, folder, folder.name)


def test_strangers_pass_even_under_the_same_names(tmp_path: Path) -> None:
    refuse_overlap(noise_clips(tmp_path / "a", 3, 0), noise_clips(tmp_path / "b", 3, 1))


def test_the_same_sound_at_another_level_is_refused_by_name(tmp_path: Path) -> None:
    pretraining = noise_clips(tmp_path / "a", 3, 0)
    test = noise_clips(tmp_path / "b", 3, 0, level=0.03).select([2])
    with pytest.raises(
        ValueError, match=r"a: 1 recordings hold the sound of test recordings of b, first 2\.wav = 2\.wav"
    ):
        refuse_overlap(pretraining, test)


def test_a_test_subject_is_refused_even_with_other_recordings(tmp_path: Path) -> None:
    whole = noise_clips(tmp_path / "a", 4, 0, subject="p0")
    with pytest.raises(
        ValueError, match=r"2 recordings are of subjects of the test part, first 0\.wav \(p0\)"
    ):
        refuse_overlap(whole.select([0, 1]), whole.select([2, 3]))


def test_pretraining_refuses_the_test_part(tmp_path: Path) -> None:
    manifest = speech(tmp_path / "speech", 5)
    with pytest.raises(ValueError, match="subjects of the test part"):
        pretrain_words(tmp_path, manifests=[manifest], test=manifest.select([0]))
    with pytest.raises(ValueError, match="subjects of the test part"):
        pretrain_views(tmp_path, manifests=[manifest], test=manifest.select([0]))


def test_what_the_start_and_the_noise_held_is_kept_and_refused_as_well(tmp_path: Path) -> None:
    first, second = noise_clips(tmp_path / "a", 4, 0), noise_clips(tmp_path / "b", 4, 1)
    noise, test = noise_clips(tmp_path / "c", 2, 2), first.select([2])
    short: dict[str, Any] = {"config": CONFIG.model_copy(update={"epochs": 1}), "save_collapsed": True}
    pretrain_views(tmp_path, manifests=[first], options=SMALL, **short)
    begun: dict[str, Any] = {"manifests": [second], "start": tmp_path / "m.safetensors", **short}
    made = pretrain_views(tmp_path, name="n", noise=noise, **begun)
    assert all(learned_rows(made.card, heard) == list(range(len(heard))) for heard in (first, second, noise))
    assert "trained_on" not in made.card.provenance["started_from_provenance"]
    with pytest.raises(
        ValueError, match=r"row 4: m\.safetensors, to go on from, was trained on this recording"
    ):
        pretrain_views(tmp_path, name="o", test=test, **begun)
    with pytest.raises(ValueError, match="c: 1 recordings are of subjects of the test part"):
        pretrain_views(tmp_path, name="o", manifests=[second], noise=noise, test=noise.select([1]), **short)


# --- real recordings --------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_words_then_cries(data_root: Path, tmp_path: Path) -> None:
    """Words, then cries without labels, then a target: each step takes the file of the one before."""
    front_end = FeatureConfig(
        sample_rate_hz=8000, window_ms=30.0, f_min_hz=20.0, f_max_hz=4000.0, n_bands=40, normalisation="mean"
    )
    how: dict[str, Any] = {"front_end": front_end, "cache": tmp_path / "cache", "n_workers": 1}
    words = load_corpus("speech_commands", root=data_root)
    few = words.select(np.isin(words.label, words.class_names[:2]))
    config = TrainConfig(epochs=1, batch_size=16, window_s=0.5)
    source = pretrain_supervised(
        [few], "words", tmp_path / "w.safetensors", config=config, options=SMALL, **how
    )
    assert source.card.provenance["sources"][0]["licence"] == "CC BY 4.0"
    assert any("a subset" in note for note in source.card.provenance["notes"])

    cries = load_corpus("donateacry", root=data_root)
    first = cries.select(np.arange(0, len(cries), 40))
    found = pretrain_selfsupervised(
        [first],
        "simclr",
        tmp_path / "c.safetensors",
        start=tmp_path / "w.safetensors",
        config=config,
        save_collapsed=True,
        **how,
    )
    model = new_task(load_source(tmp_path / "c.safetensors", front_end)[0], 2, seed=0)
    y = np.arange(8) % 2
    x = [np.random.default_rng(i).normal(size=(40, 60)).astype(np.float32) for i in range(8)]
    crops = CropBatches(x, y, window_frames=50, config=config, seed=0)
    history = fit(model, Supervised("cross_entropy"), crops, config, steps_per_epoch=1, seed=0)
    assert np.isfinite(found.history[-1]["contrast"]) and np.isfinite(history[-1]["task"])
