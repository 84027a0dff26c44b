import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vagitus.audio import read
from vagitus.features import PRESETS, FeatureConfig, featurise, mel_filterbank
from vagitus.frontend import Frontend

# Values that tell formulas apart: odd lengths, an FFT of an odd factor, a hop that does not divide the window.
ODD = FeatureConfig(
    sample_rate_hz=11_025, window_ms=23.0, hop_ms=7.3, n_fft=270, f_min_hz=60.0, f_max_hz=5_000.0, n_bands=17
)
PRIME = FeatureConfig(
    sample_rate_hz=4_000, window_ms=20.0, hop_ms=20.0, n_fft=94, f_min_hz=0.0, f_max_hz=2_000.0, n_bands=9
)
CONFIGS = {
    **PRESETS,
    "odd": ODD,
    "twice a prime": PRIME,
    "fewer coefficients": PRESETS["mfcc40"].vary(n_mfcc=13, mel_scale="htk", normalisation="mean"),
    "standardised": PRESETS["heart"].vary(normalisation="mean_std"),
    "level kept": PRESETS["lung"].vary(normalisation="keep_level"),
    "level kept, mfcc": PRESETS["mfcc40"].vary(normalisation="keep_level"),
}


def waveforms(batch: int, n_samples: int) -> Tensor:
    return 0.1 * torch.randn(batch, n_samples, generator=torch.Generator().manual_seed(0))


def featurise_each(batch: Tensor, config: FeatureConfig) -> NDArray[np.float32]:
    return np.stack([featurise(row.numpy(), config) for row in batch])


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_featurise(name: str) -> None:
    config = CONFIGS[name]
    batch = waveforms(3, config.sample_rate_hz + 13)
    features = Frontend(config)(batch)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features.numpy(), featurise_each(batch, config), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_samples", [400, 559, 560, 561, 5_000])
def test_number_of_frames(n_samples: int) -> None:
    config = PRESETS["logmel64"]
    batch = waveforms(2, n_samples)
    features = Frontend(config)(batch)
    assert features.shape == (2, 64, 1 + n_samples // 160)
    np.testing.assert_allclose(features.numpy(), featurise_each(batch, config), rtol=1e-5, atol=1e-5)


def test_rows_do_not_see_each_other() -> None:
    frontend = Frontend(PRESETS["mfcc40"].vary(normalisation="mean_std"))
    batch = waveforms(3, 8_000)
    torch.testing.assert_close(frontend(batch)[1:2], frontend(batch[1:2]), rtol=1e-5, atol=1e-5)


def test_silence_and_a_constant_row() -> None:
    silence = torch.zeros(2, 16_000)
    floor = torch.tensor(1e-10).log().item()
    torch.testing.assert_close(Frontend(PRESETS["logmel64"])(silence), torch.full((2, 64, 101), floor))
    standardised = Frontend(PRESETS["logmel64"].vary(normalisation="mean_std"))(silence)
    torch.testing.assert_close(standardised, torch.zeros(2, 64, 101), rtol=0, atol=5e-3)


@pytest.mark.real
@pytest.mark.parametrize(
    ("pattern", "preset"),
    [
        ("donateacry/**/*.caf", "logmel80"),
        ("donateacry/**/*.3gp", "logmel64"),
        ("physionet2016/**/*.flac", "heart"),
        ("sprsound/**/*.flac", "lung"),
    ],
)
def test_equals_featurise_on_recordings(data_root: Path, pattern: str, preset: str) -> None:
    """1e-5 of the log value (or of 1) for bands within 50 dB of the frame's strongest, 1e-4 within 70 dB."""
    config = PRESETS[preset]
    frontend = Frontend(config)
    for path in sorted(data_root.glob(pattern))[::97][:4]:
        samples = read(path, sample_rate_hz=config.sample_rate_hz).samples[: 10 * config.sample_rate_hz]
        expected = featurise(samples, config)
        error = np.abs(frontend(torch.from_numpy(samples)[None])[0].numpy() - expected)
        # What a band would show if its bins were as strong as the frame's strongest.
        flat = np.log(mel_filterbank(config).sum(axis=1, keepdims=True))
        below_db = 10 / np.log(10) * ((expected - flat).max(axis=0) - (expected - flat))
        relative = error / np.maximum(1, np.abs(expected))
        assert relative[below_db < 50].max() < 1e-5, path
        assert relative[below_db < 70].max() < 1e-4, path


class TestTraining:
    def test_nothing_enters_the_state_dict_or_the_optimiser(self) -> None:
        frontend = Frontend(PRESETS["logmel64"])
        assert frontend.state_dict() == {}
        assert list(frontend.parameters()) == []

    def test_gradients_reach_the_waveform_and_are_finite_for_silence_too(self) -> None:
        batch = waveforms(2, 8_000)
        batch[1] = 0
        batch.requires_grad_()
        Frontend(PRESETS["mfcc40"].vary(normalisation="mean_std"))(batch).square().sum().backward()
        assert batch.grad is not None
        assert batch.grad.isfinite().all()
        assert batch.grad[0].abs().sum() > 0

    def test_float32_under_autocast(self) -> None:
        frontend, batch = Frontend(PRESETS["logmel64"]), waveforms(2, 8_000)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = frontend(batch)
        torch.testing.assert_close(features, frontend(batch), rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("waveform", "message"),
        [
            (torch.zeros(16_000), r"\(batch, n_samples\) float32, got \(16000,\)"),
            (torch.zeros(1, 16_000, dtype=torch.float64), r"float32, got \(1, 16000\) torch.float64"),
            (torch.zeros(1, 399), "399 samples are shorter than one window of 400"),
        ],
    )
    def test_refuses(self, waveform: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Frontend(PRESETS["logmel64"])(waveform)


@functools.cache
def export(name: str) -> bytes:
    config = CONFIGS[name]
    program: Any = torch.onnx.export(
        Frontend(config).eval(),
        (waveforms(2, config.sample_rate_hz),),
        input_names=["waveform"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch"), 1: torch.export.Dim("n_samples")},),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    exported: bytes = program.model_proto.SerializeToString()
    return exported


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # torch's exporter, of itself
class TestExport:
    @pytest.mark.parametrize("name", ["logmel64", "fewer coefficients", "odd"])
    def test_onnxruntime_equals_featurise_for_any_batch_and_length(self, name: str) -> None:
        config = CONFIGS[name]
        session = onnxruntime.InferenceSession(export(name))
        for batch, n_samples in ((2, config.sample_rate_hz), (1, 2_711), (5, 30_001)):
            waveform = waveforms(batch, n_samples)
            features = session.run(None, {"waveform": waveform.numpy()})[0]
            np.testing.assert_allclose(features, featurise_each(waveform, config), rtol=1e-5, atol=1e-4)

    def test_the_file_holds_tables_and_the_session_holds_matrices(self, tmp_path: Path) -> None:
        exported = export("logmel64")
        stored = sum(len(tensor.raw_data) for tensor in onnx.load_from_string(exported).graph.initializer)
        assert stored < 16_000
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "folded.onnx")
        options.log_severity_level = 3  # it warns that the folded file is for this machine
        onnxruntime.InferenceSession(exported, options)
        operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
        # Nothing that builds a matrix is left to run on every waveform.
        assert not {"Gather", "ScatterElements", "Mod", "Range", "Where"} & set(operators)
        assert sum("MatMul" in operator for operator in operators) == 3
