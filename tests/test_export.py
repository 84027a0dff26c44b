import json
import logging
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_data import RATE_HZ, exported, make_card, make_model, noise

from vagitus import export
from vagitus.checkpoint import load_model, save_model
from vagitus.compression import CompressConfig, compress_network
from vagitus.export import (
    HEADER_RULES,
    Moments,
    OnnxModel,
    check_parity,
    export_onnx,
    quantise,
)
from vagitus.features import Normalisation, featurise
from vagitus.manifest import Manifest, build_manifest
from vagitus.models import MODELS
from vagitus.onnx_graph import gate, ungate
from vagitus.parity import Limits, Parity, ParityError, write_noise
from vagitus.training import score_recordings


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
def test_a_recording_scores_as_the_model_file_does(name: str) -> None:
    source, path = exported(name)
    model = OnnxModel(path)
    window_samples = model.window_frames * model.hop_samples
    for share in (0.6, 1.07, 7.1):  # shorter than a window, a window and a bit, many windows
        n_samples = round(share * window_samples)
        samples = noise(n_samples)
        scored = model.score(lambda samples=samples: [samples], n_samples)  # type: ignore[misc]
        np.testing.assert_allclose(scored.pooled, torch_logits(source, samples), atol=1e-4)


def test_every_way_to_normalise_is_exported() -> None:
    tested = {make_card(name).features.normalisation for name in MODELS}
    assert tested == set(get_args(Normalisation))


def test_blocks_of_any_length_and_statistics_of_several_stretches_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = OnnxModel(exported("lstm")[1])
    samples = noise(20_001)
    whole = model.score(lambda: [samples], len(samples))
    monkeypatch.setattr(export, "STRETCH_FRAMES", 67)
    pieces = model.score(lambda: blocks_of(samples, 37), len(samples))
    np.testing.assert_allclose(pieces.logits, whole.logits, atol=1e-5)


def test_a_batch_of_windows_is_its_rows() -> None:
    session = onnxruntime.InferenceSession(exported("small")[1])
    rng = np.random.default_rng(3)
    feed = {
        "waveform": 0.1 * rng.standard_normal((3, 2_777), dtype=np.float32),
        "mean": rng.standard_normal((3, 40), dtype=np.float32),
    }
    batch = session.run(["logits"], feed)[0]
    rows = [session.run(["logits"], {k: v[i : i + 1] for k, v in feed.items()})[0][0] for i in range(3)]
    np.testing.assert_allclose(batch, rows, atol=1e-5)


def test_a_compressed_model_is_exported_as_it_scores_without_a_word(
    folder: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    card = make_card("lstm", options={"n_mels": 40, "n_classes": 2, "hidden_size": 32})
    model, _ = load_model(make_model(folder / "dense.safetensors", card))
    small = compress_network(model, CompressConfig(rank=2, bits=8), dev_score=None)
    source = folder / "compressed.safetensors"
    save_model(source, small.model, make_card("lstm", options=card.options, compression=small.storage))
    parity = export_onnx(source, folder / "compressed.onnx")
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert parity.max_difference < 1e-4
    names = [tensor.name for tensor in onnx.load(folder / "compressed.onnx").graph.initializer]
    assert any("cores" in name for name in names)


def test_a_tensorized_lstm_of_256_fills_less_than_40_kilobytes() -> None:
    assert exported("tt-lstm")[1].stat().st_size < 40_000


def test_the_header_says_how_to_read_scores_and_that_it_is_research() -> None:
    header = OnnxModel(exported("small")[1]).header
    assert header["notice"] == "Research use only, not a diagnosis."
    assert (header["class_names"], header["positive"], header["threshold"]) == (["well", "ill"], "ill", 0.45)
    assert header["calibration"]["slope"] == 1.7
    # 61 frames of 40 samples; half a window of 124 samples reaches into two hops.
    assert (header["window_frames"], header["hop_samples"], header["context_samples"]) == (61, 40, 80)
    assert header["card"]["model"] == "small"


def test_no_path_of_this_machine_and_no_trained_recording_is_in_the_file() -> None:
    path = exported("small")[1]
    content = path.read_bytes()
    for secret in (b"doctor", b"/srv", b"wP/uEjRW", b"site-packages", b".py", str(path.parent).encode()):
        assert secret not in content
    kept = OnnxModel(path).header["card"]["provenance"]
    assert kept["command"] == "vagitus study cries.csv --out=results x.csv a/b and/or"
    assert kept["source"] == "https://example.org/data"


def test_parity_counts_what_can_be_read_and_gives_the_metric(recordings: Manifest) -> None:
    source, path = exported("small")
    parity = check_parity(source, path, recordings)
    assert (parity.n_recordings, parity.n_changed) == (8, 0)
    assert parity.max_difference < 1e-4
    assert 0 <= parity.metric_before <= 1 and parity.metric_after == parity.metric_before


def test_a_graph_that_scores_otherwise_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, right = exported("small")
    graph = onnx.load(right)
    ungate(graph)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "network.head.bias")
    values = onnx.numpy_helper.to_array(bias) + np.array([0.0, 0.01], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr(export, "_graph", lambda *_: graph)
    path = folder / "refused.onnx"
    path.write_bytes(b"what stood here")
    with pytest.raises(ParityError, match=r"not written: a probability differs by 0\.00\d+, at most 0\.0001"):
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
    path = exported("small")[1]
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
        quantise(exported("lstm")[1], recordings, folder / "never.onnx")
    assert not (folder / "never.onnx").exists()


def test_what_cannot_be_opened_is_refused(folder: Path) -> None:
    model = onnx.load(exported("small")[1])
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
    path.write_bytes(b"")
    refused("empty file")
    path.write_text("a page of notes about a model\n" * 20)
    refused("not an ONNX model")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        OnnxModel(folder / "none.onnx")
    with pytest.raises(FileNotFoundError, match="a folder"):
        OnnxModel(folder)


def test_the_model_file_itself_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"which only trains .* `vagitus export small\.safetensors`"):
        OnnxModel(exported("small")[0])


def test_a_graph_of_other_inputs_is_refused(tmp_path: Path) -> None:
    model = onnx.load(exported("small")[1])
    ungate(model)
    model.graph.input[1].name = "average"
    for node in model.graph.node:
        node.input[:] = ["average" if name == "mean" else name for name in node.input]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="its graph takes waveform, average"):
        OnnxModel(tmp_path / "m.onnx")


def test_weights_that_are_not_finite_are_named_when_they_score(tmp_path: Path) -> None:
    model = onnx.load(exported("small")[1])
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.nan], np.float32), bias.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.onnx: its graph gives logits that are not finite"):
        OnnxModel(tmp_path / "m.onnx").score(lambda: [noise(3_000)], 3_000)


def with_header(path: Path, changes: dict[str, Any]) -> Path:
    model = onnx.load(exported("small")[1])
    header = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(header | changes)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hop_samples", 0),
        ("hop_samples", True),
        ("window_frames", 10**12),
        ("context_samples", 41),
        ("least_samples", 0),
        ("n_rows", "40"),
        ("sample_rate_hz", 5),
        ("class_names", ["one"]),
        ("class_names", "ab"),
        ("positive", "well"),
        ("threshold", math.nan),
        ("threshold", 2.0),
        ("silent_dbfs", None),
        ("numbers", "float8"),
        ("notice", ""),
        ("card", []),
        ("calibration", 3),
    ],
)
def test_a_damaged_header_is_named(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"m\.onnx: its header is damaged: {name} must be "):
        OnnxModel(with_header(tmp_path / "m.onnx", {name: value}))


def test_a_damaged_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m\.onnx: its header is damaged: no calibrator"):
        OnnxModel(with_header(tmp_path / "m.onnx", {"calibration": {"name": "wish"}}))


def test_a_header_that_fits_no_graph_is_named_when_it_scores(tmp_path: Path) -> None:
    model = OnnxModel(with_header(tmp_path / "m.onnx", {"n_rows": 39}))
    with pytest.raises(ValueError, match=r"its graph (gives stretch_mean|cannot be run)"):
        model.score(lambda: [noise(3_000)], 3_000)


FUZZ = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(sorted(HEADER_RULES)), ANYTHING, min_size=1, max_size=2))
def test_any_header_scores_or_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    try:
        found = OnnxModel(with_header(tmp_path / "m.onnx", changes)).score(lambda: [noise(3_000)], 3_000)
    except ValueError as error:
        assert "m.onnx: " in str(error) or "record longer" in str(error)
    else:
        assert np.isfinite(found.logits).all()


@FUZZ
@given(at=st.floats(0, 1, exclude_max=True), put=st.binary(max_size=3), n_taken=st.integers(0, 300))
def test_damaged_bytes_score_or_are_refused(at: float, put: bytes, n_taken: int, tmp_path: Path) -> None:
    content = exported("small")[1].read_bytes()
    begin = int(at * len(content))
    path = tmp_path / "m.onnx"
    path.write_bytes(content[:begin] + put + content[begin + n_taken :])
    try:
        OnnxModel(path).score(lambda: [noise(3_000)], 3_000)
    except ValueError as error:
        assert "m.onnx: " in str(error) or "record longer" in str(error)


def test_moments_of_stretches_pool_to_those_of_all_frames() -> None:
    frames = np.random.default_rng(0).standard_normal((50, 3)) * [1, 2, 3] + [5, -4, 0]
    parts = [frames[:7], frames[7:30], frames[30:]]
    pooled = Moments.pooled([Moments(len(part), part.mean(axis=0), part.var(axis=0)) for part in parts])
    assert pooled.n_frames == 50
    np.testing.assert_allclose(pooled.mean, frames.mean(axis=0))
    np.testing.assert_allclose(pooled.variance, frames.var(axis=0))


def test_the_noise_of_a_comparison_can_be_had_as_files(tmp_path: Path) -> None:
    source, path = exported("small")
    parity = check_parity(source, path, write_noise(source, tmp_path))
    assert parity.n_recordings == 3 and math.isnan(parity.metric_before)


# The graph.


def test_a_run_for_statistics_leaves_the_network_out() -> None:
    """As many convolutions outside of the gate as the front end has: none of the network's."""
    path = exported("small")[1]
    model = OnnxModel(path)
    gated = onnx.load(path)
    inside = [a.g for node in gated.graph.node for a in node.attribute if a.g.name == "network"]
    assert len(inside) == 1 and "Conv" in [node.op_type for node in inside[0].node]
    assert not [node for node in gated.graph.node if any(name.startswith("network.") for name in node.input)]
    session = onnxruntime.InferenceSession(path)
    feed = {"waveform": noise(2_600)[None], "mean": np.full((1, 40), np.nan, np.float32)}
    logits, mean, variance = session.run(None, feed)
    assert np.isnan(logits).all() and logits.shape == (1, 2)
    assert np.isfinite(mean).all() and np.isfinite(variance).all()
    np.testing.assert_array_equal(model.moments(noise(2_600)).mean, mean[0].astype(np.float64))


@pytest.mark.parametrize("name", ["small", "tt-gru", "transformer"])
def test_a_gate_opened_and_closed_changes_no_number(name: str) -> None:
    path = exported(name)[1]
    model = onnx.load(path)
    ungate(model)
    assert "If" not in [node.op_type for node in model.graph.node]
    plain = onnxruntime.InferenceSession(model.SerializeToString())
    gate(model)
    closed = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"waveform": noise(4_000)[None]}
    feed |= {i.name: np.ones((1, i.shape[1]), np.float32) for i in plain.get_inputs()[1:]}
    for one, other in zip(plain.run(None, feed), closed.run(None, feed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_bias_or_scale_is_computed_anew_in_every_run() -> None:
    model = onnx.load(exported("res8")[1])
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [made.get(name) for name in node.input[1:]] == [None] * (len(node.input) - 1)
        if node.op_type == "BatchNormalization":
            assert [made.get(name) for name in node.input[1:]] == [None] * 4


def test_convolutions_of_int8_are_8_bit_when_they_run(folder: Path, recordings: Manifest) -> None:
    quantise(exported("small")[1], recordings, folder / "run8.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "run8.onnx", options)
    (network,) = [
        a.g
        for node in onnx.load(folder / "optimised.onnx").graph.node
        for a in node.attribute
        if a.g.name == "network"
    ]
    found = [node.op_type for node in network.node]
    assert found.count("QLinearConv") >= 2 and found.count("Conv") + found.count("FusedConv") <= 1


def test_the_quantiser_leaves_no_handler_at_the_root(folder: Path, recordings: Manifest) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    quantise(exported("small")[1], recordings, folder / "quiet8.onnx")
    assert (root.handlers, root.level) == before
