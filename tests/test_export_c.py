import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from vagitus import calibration
from vagitus.checkpoint import ModelCard, save_model
from vagitus.compression import CompressConfig, compress_network
from vagitus.export_c import SUPPORTED, check_c_parity, export_c
from vagitus.features import PRESETS, FeatureConfig, Normalisation, featurise
from vagitus.manifest import Manifest, build_manifest
from vagitus.models import MODELS, build_model
from vagitus.parity import FLOAT_LIMITS, INT8_LIMITS
from vagitus.tensor_train.compress import tensorize
from vagitus.tensor_train.shape import Layout

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: install gcc or clang")

# Odd where a formula could hide behind an even number: 4 kHz, frames of 125 samples, a hop of 40, bands of two bins.
FEATURES = FeatureConfig(sample_rate_hz=4_000, window_ms=31.25, f_min_hz=60.0, f_max_hz=1_900.0, n_bands=36)
RATE_HZ = FEATURES.sample_rate_hz
MFCC = {"kind": "mfcc", "n_mfcc": 20}
SANITIZED = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
PEDANTIC = ("-Wconversion", "-Wshadow", "-Wdouble-promotion", "-Wstrict-prototypes", "-Wmissing-prototypes")

# Every model, way to normalise, kind of feature, FFT and calibration at least once, so that few are compiled.
CASES: dict[str, dict[str, Any]] = {
    "res8": {"options": {"width": 6}, "features": {"normalisation": "none"}, "flags": PEDANTIC},
    "small": {
        "options": {"width": 4},
        "features": {"normalisation": "mean", **MFCC},
        "calibration": calibration.Isotonic((-0.3, -0.1, 0.2, 0.3), (0.1, 0.4, 0.6, 0.9)),
    },
    "gru": {
        "options": {"hidden_size": 11},
        "features": {"normalisation": "keep_level", "n_fft": 150},  # 75 = 3 * 5 * 5 and no quarter of a turn
        "calibration": calibration.Temperature(0.6),
        "classes": ("well", "ill", "worse"),
    },
    "lstm": {"options": {"hidden_size": 12}, "features": {"normalisation": "mean_std", **MFCC}},
    "tt-gru": {
        "options": {"hidden_size": 26, "rank": 3},  # 26 is padded to 27, 36 rows are not
        "features": {"normalisation": "keep_level", **MFCC},
        "flags": SANITIZED,
    },
    "tt-lstm": {"options": {"hidden_size": 256}, "features": {"normalisation": "mean"}},
}


def make_model(folder: Path, name: str, **changes: Any) -> tuple[Path, nn.Module, ModelCard]:
    """Random weights, biases and batch-norm statistics too, with scores that differ between recordings."""
    case = CASES[name] | changes
    features = case.get("front_end", FEATURES).vary(**case["features"])
    classes = case.get("classes", ("well", "ill"))
    options = {"n_mels": features.n_rows, "n_classes": len(classes), **case["options"]}
    torch.manual_seed(0)
    model = build_model(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.get_parameter("head.weight").mul_(4)
        heard = torch.from_numpy(featurise(noise(200 * features.hop_samples), features)) - 0.7
        model.train()
        for _ in range(30):
            model(torch.stack([heard[:, s : s + 61] for s in (0, 40, 80, 120)]))
    card = ModelCard(
        model=name,
        options=options,
        features=features,
        window_s=0.61,
        class_names=classes,
        positive=classes[1] if len(classes) == 2 else "",
        threshold=0.45 if len(classes) == 2 else None,
        calibration=case.get("calibration", calibration.Logistic(1.7, (0.0, 0.2))).to_dict(),
        provenance={"data": "cries.csv */ /* ??/", "licence": "CC BY 4.0"},
    )
    path = folder / f"{name}.safetensors"
    save_model(path, model, card)
    return path, model, card


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    """Coloured by its seed, swelling."""
    white = np.random.default_rng(seed).standard_normal(n_samples + 9)
    coloured = np.convolve(white, np.cos(0.3 * (1 + seed) * np.arange(10)), mode="valid")
    return (coloured * np.linspace(0.01, 0.1, n_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A frame, less than a window, a window, several; two that are abstained from, one that cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    sounds = [noise(n, seed) for seed, n in enumerate((125, 1_000, 2_440, 3_333, 9_001))]
    sounds += [np.zeros(3_000, np.float32), noise(124)]
    rows = []
    for i, samples in enumerate(sounds):
        soundfile.write(folder / f"{i}.wav", samples, RATE_HZ, subtype="FLOAT")
        rows.append({"path": f"{i}.wav", "subject": f"s{i}", "label": ("well", "ill", "")[i % 3]})
    (folder / "broken.wav").write_bytes(b"RIFF")
    rows.append({"path": "broken.wav", "subject": "s8", "label": "ill"})
    return build_manifest(rows, folder, "cries.csv")


def test_every_supported_model_normalisation_and_feature_is_compiled() -> None:
    assert set(CASES) == set(SUPPORTED)
    assert {case["features"]["normalisation"] for case in CASES.values()} == set(get_args(Normalisation))
    by_kind = {case["features"].get("kind") for case in CASES.values()}
    assert by_kind == {None, "mfcc"}


@needs_compiler
@pytest.mark.parametrize("name", SUPPORTED)
def test_a_header_scores_as_the_model_file_does(name: str, recordings: Manifest, tmp_path: Path) -> None:
    path, _, card = make_model(tmp_path, name)
    header = tmp_path / "cry.h"
    export_c(path, header)
    parity = check_c_parity(path, header, recordings, compiler_flags=CASES[name].get("flags", ()))
    parity.refuse(FLOAT_LIMITS)
    assert parity.n_recordings == 5  # the silent, the shortest and the broken one are not compared
    assert parity.metric_before == pytest.approx(parity.metric_after, nan_ok=True)
    assert card.features.normalisation in header.read_text()


@needs_compiler
def test_int8_weights_score_nearly_as_the_float_ones(recordings: Manifest, tmp_path: Path) -> None:
    path, _, _ = make_model(tmp_path, "tt-gru")
    header = tmp_path / "cry.h"
    small = export_c(path, header, bits=8)
    parity = check_c_parity(path, header, recordings)
    parity.refuse(INT8_LIMITS)
    assert parity.max_difference > 1e-5  # they are other numbers
    assert "static const int8_t cry_of_state_core0[" in header.read_text()
    assert small.constant_bytes < export_c(path, header).constant_bytes


@needs_compiler
def test_a_compressed_model_keeps_its_cores(recordings: Manifest, tmp_path: Path) -> None:
    path, model, card = make_model(tmp_path, "res8", options={"width": 12})
    small = compress_network(model.eval(), CompressConfig(rank=2), dev_score=None)
    compressed = tmp_path / "compressed.safetensors"
    save_model(compressed, small.model, ModelCard(**{**vars(card), "compression": small.storage}))
    header = tmp_path / "cry.h"
    assert export_c(compressed, header).constant_bytes < export_c(path, tmp_path / "dense.h").constant_bytes
    check_c_parity(compressed, header, recordings).refuse(FLOAT_LIMITS)
    assert "cry_conv0_core0[" in header.read_text()


@needs_compiler
@pytest.mark.parametrize("layout", ["per_gate", "gate_first", "gate_last"])
def test_every_layout_of_gates_is_contracted(layout: Layout, recordings: Manifest, tmp_path: Path) -> None:
    path, model, card = make_model(tmp_path, "lstm", options={"hidden_size": 26})
    small, plan = tensorize(model.eval(), rank=3, layout=layout)
    storage = {"plan": plan.to_json(), "bits": 32, "sparse": False}
    save_model(path, small, ModelCard(**{**vars(card), "compression": storage}))
    export_c(path, tmp_path / "cry.h")
    check_c_parity(path, tmp_path / "cry.h", recordings).refuse(FLOAT_LIMITS)


MAIN = """
#define CRY_IMPLEMENTATION
#include "cry.h"
#include <stdio.h>
static cry_state state;
static float waveform[3000];
static int16_t integers[3000];
int main(void)
{
    cry_result result;
    int i;
    float a, b;
    printf("%u %d ", CRY_STATE_BYTES, (int)cry_classify(&state, waveform, 3000, &result));
    printf("%d %g %g ", result.decision, result.probability[0], result.level_dbfs);
    printf("%d %d ", (int)cry_classify(&state, waveform, 124, &result), result.decision);
    waveform[7] = NAN;
    printf("%d ", (int)cry_classify(&state, waveform, 3000, &result));
    for (i = 0; i < 3000; i++) {
        integers[i] = (int16_t)((i * 7919) % 20000 - 10000);
        waveform[i] = integers[i] / 32768.f;
    }
    cry_classify(&state, waveform, 3000, &result);
    a = result.logits[1];
    cry_classify_int16(&state, integers, 3000, &result);
    b = result.logits[1];
    printf("%d %s %s\\n", a == b, cry_class_names[1], CRY_NOTICE);
    return 0;
}
"""


@needs_compiler
@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_interface(language: str, tmp_path: Path) -> None:
    compiler = shutil.which({"c": "cc", "c++": "c++"}[language])
    if compiler is None:
        pytest.skip(f"no compiler of {language}")
    path, _, _ = make_model(tmp_path, "tt-gru", classes=("well", 'ill"\n1'))
    sizes = export_c(path, tmp_path / "Cry.h")
    (tmp_path / "main.c").write_text(MAIN.replace("cry.h", "Cry.h"))
    command = [compiler, "-x", language, *WARNINGS, "main.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    # Silent: no decision, no probability. Too short; not finite; int16 is the same as the floats.
    assert said == (f'{sizes.state_bytes} 2 -1 0 -200 1 -1 3 1 ill"\n1 Research use only, not a diagnosis.\n')


@needs_compiler
def test_the_example_in_the_documentation_compiles(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "microcontroller.md").read_text()
    example = re.search(r"```c\n(.*?)```", page, re.DOTALL)
    assert example
    path, _, _ = make_model(tmp_path, "tt-gru")
    export_c(path, tmp_path / "cry.h")
    (tmp_path / "main.c").write_text(example[1])
    subprocess.run(["cc", "-std=c99", *WARNINGS, "-c", "main.c"], cwd=tmp_path, check=True)


def test_the_header_needs_no_heap_and_says_what_it_is(tmp_path: Path) -> None:
    path, _, card = make_model(tmp_path, "tt-gru")
    sizes = export_c(path, tmp_path / "My cries-2.h")
    text = (tmp_path / "My cries-2.h").read_text("ascii")
    assert not re.search(r"\b(malloc|calloc|realloc|free|printf|alloca)\b", text)
    assert set(re.findall(r"#include <(.*)>", text)) == {"stdint.h", "math.h", "string.h"}
    assert sizes.prefix == "my_cries_2"
    top = text[: text.index("#ifndef")]
    said = ("Research use only, not a diagnosis.", "well, ill", "0.45", "4000 Hz", "0.61 s", "CC BY 4.0")
    for words in (*said, f"{sizes.state_bytes} bytes", f"{sizes.constant_bytes} bytes"):
        assert words in top
    assert top.count("*/") == 1  # the data's name cannot end the comment
    assert sizes.file_bytes == len(text)
    assert card.features.n_rows == int(re.findall(r"MY_CRIES_2_N_ROWS (\d+)", text)[0])


@pytest.mark.parametrize("hidden_size", [64, 256])
def test_a_tensorized_gru_fills_less_than_64_kilobytes(hidden_size: int, tmp_path: Path) -> None:
    changes = {"options": {"hidden_size": hidden_size}, "features": {"normalisation": "mean_std"}}
    path, _, _ = make_model(tmp_path, "tt-gru", front_end=PRESETS["logmel64"], **changes)
    assert export_c(path, tmp_path / "vagitus_model.h").file_bytes < 64_000
    assert export_c(path, tmp_path / "vagitus_model.h", bits=8).file_bytes < 50_000


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    path, _, _ = make_model(tmp_path, "tt-lstm")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export_c(path, tmp_path / name / "cry.h")
    assert (tmp_path / "a/cry.h").read_bytes() == (tmp_path / "b/cry.h").read_bytes()


def test_printed_weights_are_within_a_millionth_of_the_largest(tmp_path: Path) -> None:
    path, model, _ = make_model(tmp_path, "lstm")
    export_c(path, tmp_path / "cry.h")
    found = re.search(r"cry_of_state\[\d+\] = \{(.*?)\}", (tmp_path / "cry.h").read_text(), re.DOTALL)
    assert found
    printed = np.array([float(number.strip().rstrip("f")) for number in found[1].split(",")])
    weights = model.get_parameter("recurrent.weight_hh_l0").detach().numpy().ravel()
    assert np.abs(printed - weights).max() <= 1e-6 * np.abs(weights).max()


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(SUPPORTED)))
def test_other_models_are_refused_with_those_that_are_not(name: str, tmp_path: Path) -> None:
    options = {"cnn14": {"width": 2}, "ecapa": {"width": 8, "bottleneck": 4}}.get(name, {})
    options = {"n_mels": 64, "n_classes": 2, **options}
    card = ModelCard(name, options, PRESETS["logmel64"], 1.0, ("well", "ill"), "ill", 0.5)
    save_model(tmp_path / "m.safetensors", build_model(name, **options), card)
    with pytest.raises(ValueError, match=rf"holds res8, small, .* this is a {name}"):
        export_c(tmp_path / "m.safetensors", tmp_path / "m.h")
    assert not (tmp_path / "m.h").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path, model, card = make_model(tmp_path, "gru")
    with torch.no_grad():
        model.get_parameter("head.bias")[1] = torch.nan
    save_model(path, model, card)
    with pytest.raises(ValueError, match="head_bias: holds NaN"):
        export_c(path, tmp_path / "cry.h")


def test_bits_are_8_or_32(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 or 32, got 16"):
        export_c(tmp_path / "m.safetensors", tmp_path / "m.h", bits=16)  # type: ignore[arg-type]


def test_a_file_that_is_no_header_is_not_compiled(recordings: Manifest, tmp_path: Path) -> None:
    path, _, _ = make_model(tmp_path, "gru")
    (tmp_path / "other.h").write_text("int main(void) { return 0; }\n")
    with pytest.raises(ValueError, match="not a header that export_c wrote"):
        check_c_parity(path, tmp_path / "other.h", recordings)


@needs_compiler
def test_a_header_that_does_not_compile_says_so(recordings: Manifest, tmp_path: Path) -> None:
    path, _, _ = make_model(tmp_path, "lstm")
    export_c(path, tmp_path / "cry.h")
    (tmp_path / "cry.h").write_text((tmp_path / "cry.h").read_text().replace("typedef struct", "typo", 1))
    with pytest.raises(RuntimeError, match=r"cry.h: does not compile: .*typo"):
        check_c_parity(path, tmp_path / "cry.h", recordings)
