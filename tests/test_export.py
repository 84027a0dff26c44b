import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch

from vagitus import calibration, export
from vagitus.checkpoint import ModelCard, load_model, save_model
from vagitus.compression import CompressConfig, compress_network
from vagitus.export import Limits, OnnxModel, Parity, check_parity, export_onnx, quantise
from vagitus.features import FeatureConfig, Normalisation, featurise
from vagitus.manifest import Manifest, build_manifest
from vagitus.models import MODELS, build_model
from vagitus.training import score_recordings

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter

# Small, and odd where a formula could hide behind an even number: 4 kHz, a window of 124 samples, a hop of 40.
FEATURES = FeatureConfig(sample_rate_hz=4_000, window_ms=31.0, f_min_hz=60.0, f_max_hz=2_000.0, n_bands=40)
RATE_HZ = FEATURES.sample_rate_hz
SMALL: dict[str, dict[str, int]] = {
    "res8": {"width": 6},
    "small": {"width": 16},
    "cnn14": {"width": 4},
    "ecapa": {"width": 16, "bottleneck": 8},
    "lstm": {"hidden_size": 12},
    "gru": {"hidden_size": 12},
    "tt-lstm": {"hidden_size": 256},
    "tt-gru": {"hidden_size": 12},
    "transformer": {"width": 8, "depth": 1, "n_heads": 2},
}

# Every way to normalise, spread over the models so that each is exported once; "mean" for the others.
NORMALISATIONS: dict[str, dict[str, Any]] = {
    "res8": {"normalisation": "none"},
    "lstm": {"normalisation": "mean_std"},
    "tt-lstm": {"normalisation": "mean_std", "kind": "mfcc"},
    "gru": {"normalisation": "keep_level"},
    "transformer": {"normalisation": "keep_level", "kind": "mfcc"},
}
PROVENANCE = {
    "command": "vagitus study /home/doctor/cries.csv --out=/srv/results/ C:\\Users\\doctor\\x.csv a/b and/or",
    "source": "https://example.org/data",
    "trained_on": ["c0ffee123456"],
}


def make_card(name: str, **changes: Any) -> ModelCard:
    options = {"n_mels": FEATURES.n_rows, "n_classes": 2, **SMALL.get(name, {})}
    values: dict[str, Any] = {
        "model": name,
        "options": options,
        "features": FEATURES.vary(**{"normalisation": "mean"} | NORMALISATIONS.get(name, {})),
        "window_s": 0.61,
        "class_names": ("well", "ill"),
        "positive": "ill",
        "threshold": 0.45,
        "calibration": calibration.Logistic(1.7, (0.0, 0.2)).to_dict(),
        "provenance": PROVENANCE,
    }
    return ModelCard(**values | changes)


def make_model(path: Path, card: ModelCard) -> Path:
    """Random weights, and batch-norm statistics that are not those of a fresh layer."""
    torch.manual_seed(0)
    model = build_model(card.model, **card.options)
    with torch.no_grad():
        model(3 * torch.randn(8, FEATURES.n_rows, 61) - 5)
    save_model(path, model, card)
    return path


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(n_samples) * np.linspace(0.01, 0.2, n_samples)
    return samples.astype(np.float32)


@functools.cache
def exported(name: str, folder: Path) -> tuple[Path, Path]:
    source = make_model(folder / f"{name}.safetensors", make_card(name))
    export_onnx(source, source.with_suffix(".onnx"))
    return source, source.with_suffix(".onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def recordings(folder: Path) -> Manifest:
    """Eight of several lengths and levels, one that cannot be read, one without a label."""
    rows = []
    for i in range(8):
        soundfile.write(folder / f"{i}.wav", (1 + i) / 8 * noise(1_500 + 1_111 * i, seed=i), RATE_HZ)
        rows.append(
            {"path": f"{i}.wav", "subject": f"s{i}", "label": ("well", "ill", "")[min(i % 2 + i // 7 * 2, 2)]}
        )
    (folder / "broken.wav").write_bytes(b"RIFF")
    rows.append({"path": "broken.wav", "subject": "s8", "label": "ill"})
    return build_manifest(rows, folder, "cries.csv")


def torch_logits(path: Path, samples: np.ndarray) -> np.ndarray:
    model, card = load_model(path)
    window_frames = round(card.window_s * card.features.frames_per_s)
    logits = score_recordings(model, [featurise(samples, card.features)], window_frames=window_frames)
    return np.asarray(logits[0])


def blocks_of(samples: np.ndarray, length: int) -> Iterator[np.ndarray]:
    return (samples[i : i + length] for i in range(0, len(samples), length))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_recording_scores_as_the_model_file_does(name: str, folder: Path) -> None:
    source, path = exported(name, folder)
    model = OnnxModel(path)
    for n_samples in (700, 2_600, 17_333):  # shorter than a window, a window and a bit, many windows
        samples = noise(n_samples)
        scored = model.score(lambda samples=samples: [samples], n_samples)  # type: ignore[misc]
        np.testing.assert_allclose(scored.pooled, torch_logits(source, samples), atol=1e-4)


def test_every_way_to_normalise_is_exported() -> None:
    tested = {make_card(name).features.normalisation for name in MODELS}
    assert tested == set(get_args(Normalisation))


def test_blocks_of_any_length_and_statistics_of_several_stretches_change_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnnxModel(exported("lstm", folder)[1])
    samples = noise(20_001)
    whole = model.score(lambda: [samples], len(samples))
    monkeypatch.setattr(export, "STRETCH_FRAMES", 67)
    pieces = model.score(lambda: blocks_of(samples, 37), len(samples))
    np.testing.assert_allclose(pieces.logits, whole.logits, atol=1e-5)


def test_a_batch_of_windows_is_its_rows(folder: Path) -> None:
    session = onnxruntime.InferenceSession(exported("small", folder)[1])
    rng = np.random.default_rng(3)
    feed = {
        "waveform": 0.1 * rng.standard_normal((3, 2_777), dtype=np.float32),
        "mean": rng.standard_normal((3, 40), dtype=np.float32),
    }
    batch = session.run(["logits"], feed)[0]
    rows = [session.run(["logits"], {k: v[i : i + 1] for k, v in feed.items()})[0][0] for i in range(3)]
    np.testing.assert_allclose(batch, rows, atol=1e-5)


def test_a_compressed_model_is_exported_as_it_scores(folder: Path) -> None:
    card = make_card("lstm", options={"n_mels": 40, "n_classes": 2, "hidden_size": 32})
    model, _ = load_model(make_model(folder / "dense.safetensors", card))
    small = compress_network(model, CompressConfig(rank=2, bits=8), dev_score=None)
    source = folder / "compressed.safetensors"
    save_model(source, small.model, make_card("lstm", options=card.options, compression=small.storage))
    parity = export_onnx(source, folder / "compressed.onnx")
    assert parity.max_difference < 1e-4
    names = [tensor.name for tensor in onnx.load(folder / "compressed.onnx").graph.initializer]
    assert any("cores" in name for name in names)


def test_a_tensorized_lstm_of_256_fills_less_than_40_kilobytes(folder: Path) -> None:
    assert exported("tt-lstm", folder)[1].stat().st_size < 40_000


def test_the_header_says_how_to_read_scores_and_that_it_is_research(folder: Path) -> None:
    header = OnnxModel(exported("small", folder)[1]).header
    assert header["notice"] == "Research use only, not a diagnosis."
    assert (header["class_names"], header["positive"], header["threshold"]) == (["well", "ill"], "ill", 0.45)
    assert header["calibration"]["slope"] == 1.7
    # 61 frames of 40 samples; half a window of 124 samples reaches into two hops.
    assert (header["window_frames"], header["hop_samples"], header["context_samples"]) == (61, 40, 80)
    assert header["card"]["model"] == "small"


def test_no_path_of_this_machine_and_no_trained_recording_is_in_the_file(folder: Path) -> None:
    path = exported("small", folder)[1]
    content = path.read_bytes()
    for secret in (b"doctor", b"/srv", b"c0ffee123456", b"site-packages", b".py", str(folder).encode()):
        assert secret not in content
    kept = OnnxModel(path).header["card"]["provenance"]
    assert kept["command"] == "vagitus study cries.csv --out=results x.csv a/b and/or"
    assert kept["source"] == "https://example.org/data"


def test_parity_counts_what_can_be_read_and_gives_the_metric(folder: Path, recordings: Manifest) -> None:
    source, path = exported("small", folder)
    parity = check_parity(source, path, recordings)
    assert (parity.n_recordings, parity.n_changed) == (8, 0)
    assert parity.max_difference < 1e-4
    assert 0 <= parity.metric_before <= 1 and parity.metric_after == parity.metric_before


def test_a_graph_that_scores_otherwise_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, right = exported("small", folder)
    graph = onnx.load(right)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "network.head.bias")
    values = onnx.numpy_helper.to_array(bias) + np.array([0.0, 0.01], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr(export, "_graph", lambda *_: graph)
    path = folder / "refused.onnx"
    path.write_bytes(b"what stood here")
    with pytest.raises(ValueError, match=r"not written: a probability differs by 0\.00\d+, at most 0\.0001"):
        export_onnx(source, path)
    assert path.read_bytes() == b"what stood here"


@pytest.mark.parametrize(
    ("parity", "reason"),
    [
        (Parity(0.2, 0, 10, 0.8, 0.8), "a probability differs by 0.2, at most 0.1"),
        (Parity(math.nan, 0, 10, 0.8, 0.8), "a probability differs by nan"),
        (Parity(0.0, 2, 10, 0.8, 0.8), "2 of 10 decisions change, at most 10%"),
        (Parity(0.0, 0, 10, 0.8, 0.7), "the AUROC falls by 0.100, at most 0.05"),
    ],
)
def test_each_limit_is_named(parity: Parity, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parity.refuse(Limits(difference=0.1, changed_share=0.1, metric_loss=0.05))


def test_an_unknown_metric_is_not_judged() -> None:
    Parity(0.0, 1, 10, math.nan, math.nan).refuse(Limits(0.1, 0.1, 0.05))


def test_int8_is_smaller_and_keeps_the_front_end_float(folder: Path, recordings: Manifest) -> None:
    path = exported("small", folder)[1]
    parity = quantise(path, recordings, folder / "int8.onnx")
    assert 0 < parity.max_difference < 0.1
    assert (folder / "int8.onnx").stat().st_size < 0.5 * path.stat().st_size
    model = onnx.load(folder / "int8.onnx")
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {stored[name] for name in stored if name.startswith("frontend.")} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert OnnxModel(folder / "int8.onnx").header["numbers"] == "int8"


def test_int8_of_a_recurrent_network_is_refused(folder: Path, recordings: Manifest) -> None:
    with pytest.raises(ValueError, match=r"of .* weights are in convolutions and linear layers"):
        quantise(exported("lstm", folder)[1], recordings, folder / "never.onnx")
    assert not (folder / "never.onnx").exists()


def test_what_cannot_be_opened_is_refused(folder: Path) -> None:
    model = onnx.load(exported("small", folder)[1])
    path = folder / "strange.onnx"

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            OnnxModel(path)

    path.write_bytes(b"not ONNX")
    refused(r"strange\.onnx: not an ONNX model")
    header = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(header | {"format": 99})
    path.write_bytes(model.SerializeToString())
    refused("ONNX format 99, this version reads 1")
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    refused("without a vagitus header")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    refused("keeps weights in other files")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        OnnxModel(folder / "none.onnx")
