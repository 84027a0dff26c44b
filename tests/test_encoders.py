"""What others trained: read whole or refused, run as its publisher runs it, embedded at most once."""

import io
import math
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.torch import save_file

import vagitus.encoders
from vagitus.audio import AudioError
from vagitus.encoders import (
    DECIBEL,
    ENCODERS,
    GE2E_FEATURES,
    GE2E_MEMBER,
    PANNS_FEATURES,
    PANNS_LEFT_ASIDE,
    EmbeddingCache,
    embed_files,
    load_ge2e,
    load_panns,
    open_encoder,
    partial_starts,
)
from vagitus.features import featurise, mel_filterbank
from vagitus.models.cnn14 import PANNS_LAYERS, Cnn14
from vagitus.models.ge2e import Ge2e
from vagitus.models.heads import replace_head

BINS_8_KHZ = 129  # the row of PANNS_FEATURES with the smallest network


def tone(n_samples: int, rate_hz: int, *, seed: int = 0) -> NDArray[np.float32]:
    """A harmonic sound in noise, rising by an octave a second, of another pitch for every seed."""
    t = np.arange(n_samples) / rate_hz
    phase = 2 * np.pi * (110 + 40 * seed) * 2**t / math.log(2)
    harmonics = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    noise = np.random.default_rng(seed).normal(size=n_samples)
    return (0.1 * harmonics + 0.01 * noise).astype(np.float32)


def ge2e_state() -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of the published checkpoint."""
    torch.manual_seed(1)
    model = Ge2e(n_mels=40, n_classes=2)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    # Fresh weights hardly hear the power of a band, which is far below one.
    for layer in range(3):
        state[f"lstm.weight_ih_l{layer}"] *= 4 if layer else 10
    return {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1), **state}


def ge2e_bytes(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-4}]}
    checkpoint = {"step": 7, "model_state": state, "optimizer_state": optimizer}
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=False)  # as old as the published one
    return buffer.getvalue()


def write_wheel(path: Path, checkpoint: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("resemblyzer/__init__.py", "raise RuntimeError('nothing of a wheel is run')")
        archive.writestr(GE2E_MEMBER, checkpoint)
    return path


def panns_state(*, n_classes: int = 5) -> tuple[Cnn14, dict[str, torch.Tensor]]:
    """A narrow CNN14 and its tensors under the published names."""
    torch.manual_seed(2)
    config = PANNS_FEATURES[BINS_8_KHZ]
    model = Cnn14(n_mels=64, n_classes=n_classes, width=2)
    for _ in range(30):  # batch norms that have seen decibels, or the signal dies on its way through
        model(-30 + 10 * torch.randn(4, 64, 1) + 10 * torch.randn(4, 1, 64))
    model.eval()
    theirs = {ours: name for name, ours in PANNS_LAYERS.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        layer, _, part = name.rpartition(".")
        state[f"{theirs[layer]}.{part}"] = tensor
    bank = torch.from_numpy(mel_filterbank(config).T.copy())
    for name in PANNS_LEFT_ASIDE[:2]:
        state[name] = torch.zeros(BINS_8_KHZ, 1, config.n_fft)
    return model, {**state, PANNS_LEFT_ASIDE[2]: bank}


def write_onnx(
    path: Path,
    *,
    shape: list[Any],
    rate: str | None = "8000",
    n_inputs: int = 1,
) -> Path:
    """A graph whose embedding is (mean, maximum) of the waveform."""
    axis = len(shape) - 1
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(n_inputs)]
    output_shape = [2] if axis == 0 else [1, 2]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, output_shape)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [axis])
    nodes = [
        helper.make_node("ReduceMean", ["x0", "axes"], ["mean"], keepdims=1),
        helper.make_node("ReduceMax", ["x0", "axes"], ["max"], keepdims=1),
        helper.make_node("Concat", ["mean", "max"], ["embedding"], axis=axis),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [output], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if rate is not None:
        helper.set_model_props(model, {"sample_rate_hz": rate})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One made file for each kind of encoder."""
    folder = tmp_path_factory.mktemp("encoders")
    panns = folder / "cnn14.pth"
    torch.save({"model": panns_state()[1], "iteration": 3}, panns)
    return {
        "ge2e": write_wheel(folder / "voice.whl", ge2e_bytes(ge2e_state())),
        "panns": panns,
        "onnx": write_onnx(folder / "voice.onnx", shape=["batch", "n_samples"]),
    }


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_encoder_contract(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    encoder = open_encoder(f"{kind}:{files[kind]}")
    sound = tone(3 * encoder.sample_rate_hz // 2, encoder.sample_rate_hz)
    embedding = encoder.embed(sound)
    assert embedding.shape == (encoder.dim,)
    assert embedding.dtype == np.float32
    other = encoder.embed(tone(len(sound), encoder.sample_rate_hz, seed=5))
    assert np.abs(other - embedding).max() > 1e-3 * np.abs(embedding).max()
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound, encoder.sample_rate_hz, subtype="FLOAT")
    np.testing.assert_array_equal(encoder.embed(path), embedding)
    half_s = len(sound) // 2 / encoder.sample_rate_hz
    np.testing.assert_array_equal(encoder.embed(path, end_s=half_s), encoder.embed(sound[: len(sound) // 2]))
    assert encoder.identity == open_encoder(f"{kind}:{files[kind]}").identity
    with pytest.raises(ValueError, match="an embedding needs"):
        encoder.embed(sound[: encoder.least_samples - 1])
    assert np.isfinite(encoder.embed(sound[: encoder.least_samples])).all()
    with pytest.raises(ValueError, match=r"a waveform is \(n_samples,\)"):
        encoder.embed(sound[None])
    with pytest.raises(ValueError, match="NaN or infinity"):
        encoder.embed(np.append(sound, np.float32(np.nan)))
    with pytest.raises(ValueError, match="11025"):
        open_encoder(f"{kind}:{files[kind]}", sample_rate_hz=11_025)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gee2e:x.whl", r"'gee2e:x.whl' names no encoder; .*ge2e, panns, onnx; did you mean ge2e:FILE\?"),
        ("voice.onnx", "write KIND:FILE"),
        ("onnx:", "write KIND:FILE"),
    ],
)
def test_an_unknown_encoder_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_encoder(name)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_a_file_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such file"):
        open_encoder(f"{kind}:{tmp_path / 'absent'}")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"noise: (not a checkpoint|onnxruntime cannot load)"):
        open_encoder(f"{kind}:{tmp_path / 'noise'}")


# the cache


def test_an_embedding_is_computed_once_per_content_stretch_and_encoder(
    files: dict[str, Path], tmp_path: Path
) -> None:
    encoder, cache = open_encoder(f"onnx:{files['onnx']}"), EmbeddingCache(tmp_path / "cache")
    path, renamed = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(path, tone(8000, 8000), 8000, subtype="FLOAT")
    renamed.write_bytes(path.read_bytes())
    calls = []

    def run(waveform: NDArray[np.float32]) -> NDArray[Any]:
        calls.append(len(waveform))
        return encoder.run(waveform)

    counted = type(encoder)(encoder.identity, 8000, encoder.dim, 1, run)
    first = cache.get_or_compute(path, counted)
    np.testing.assert_array_equal(first, encoder.embed(path))
    np.testing.assert_array_equal(cache.get_or_compute(renamed, counted, end_s=math.nan), first)
    assert calls == [8000]
    cache.get_or_compute(path, counted, start_s=0.5)
    other = type(encoder)("another", 8000, encoder.dim, 1, run)
    cache.get_or_compute(path, other)
    assert calls == [8000, 4000, 8000]


def test_many_files_are_embedded_in_processes_as_one_by_one(files: dict[str, Path], tmp_path: Path) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", tone(8000, 8000 + 100 * i), 8000, subtype="FLOAT")
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    name, cache = f"onnx:{files['onnx']}", EmbeddingCache(tmp_path / "cache")
    found = dict(embed_files([(tmp_path / f"{i}.wav", 0.0, None) for i in range(3)], name, cache, 2))
    assert isinstance(found[1], AudioError)
    for i in (0, 2):
        np.testing.assert_array_equal(np.asarray(found[i]), open_encoder(name).embed(tmp_path / f"{i}.wav"))


def test_a_damaged_entry_is_computed_again(files: dict[str, Path], tmp_path: Path) -> None:
    encoder, cache = open_encoder(f"onnx:{files['onnx']}"), EmbeddingCache(tmp_path / "cache")
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(8000, 8000), 8000, subtype="FLOAT")
    first = cache.get_or_compute(path, encoder)
    entry = cache.entry(path, encoder)
    whole = entry.read_bytes()
    for damaged in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:]):
        entry.write_bytes(damaged)
        np.testing.assert_array_equal(cache.get_or_compute(path, encoder), first)
        assert entry.read_bytes() == whole


def test_a_recording_without_an_embedding_is_named_and_not_stored(
    files: dict[str, Path], tmp_path: Path
) -> None:
    encoder, cache = open_encoder(f"ge2e:{files['ge2e']}"), EmbeddingCache(tmp_path / "cache")
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(16_000), 16_000)
    with pytest.raises(AudioError, match=r"silent\.wav: digital silence has no voice"):
        cache.get_or_compute(path, encoder)
    assert not cache.entry(path, encoder).exists()


# GE2E


def mel_power_by_definition(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """librosa's melspectrogram(sr=16000, n_fft=400, hop_length=160, n_mels=40): (40, n_frames)."""

    def mel(hz: float) -> float:
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def hertz(mels: float) -> float:
        return 200 * mels / 3 if mels < 15 else 1000 * 6.4 ** ((mels - 15) / 27)

    edges = [hertz(i * mel(8000) / 41) for i in range(42)]
    bank = np.zeros((40, 201))
    for band in range(40):
        low, peak, high = edges[band : band + 3]
        for k in range(201):
            height = min((40 * k - low) / (peak - low), (high - 40 * k) / (high - peak))
            bank[band, k] = max(0.0, height) * 2 / (high - low)
    padded = np.pad(waveform.astype(np.float64), 200)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [padded[160 * t : 160 * t + 400] * hann for t in range(1 + len(waveform) // 160)]
    power: NDArray[np.float64] = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    return bank @ power


def test_the_ge2e_front_end_is_mel_power() -> None:
    sound = tone(8000, 16_000)
    sound[3000:5000] = 0  # whose power is 0, not the floor of a logarithm
    ours = np.exp(featurise(sound, GE2E_FEATURES))
    np.testing.assert_allclose(ours, mel_power_by_definition(sound), rtol=1e-4, atol=1e-9)


def test_partials_start_where_resemblyzer_has_them() -> None:
    """compute_partial_slices(n, rate=1.3, min_coverage=0.75), written out in samples."""
    for n_samples in [*range(1, 90_000, 331), 25_600, 37_920, 32_319, 32_320, 31_519, 31_520]:
        n_frames = math.ceil((n_samples + 1) / 160)
        step = round(16_000 / 1.3 / 160)
        slices = [(160 * i, 160 * (i + 160)) for i in range(0, max(1, n_frames - 160 + step + 1), step)]
        if (n_samples - slices[-1][0]) / 25_600 < 0.75 and len(slices) > 1:
            slices.pop()
        assert [160 * start for start in partial_starts(n_samples)] == [start for start, _ in slices]


def test_a_ge2e_embedding_is_the_mean_of_its_partials(files: dict[str, Path]) -> None:
    sound = tone(45_000, 16_000)  # three partials, the last one padded
    state = ge2e_state()
    lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
    lstm.load_state_dict({n.removeprefix("lstm."): t for n, t in state.items() if n.startswith("lstm.")})
    power = mel_power_by_definition(np.pad(sound, (0, 10_000))).astype(np.float32)
    partials = []
    for start in (0, 77, 154):
        hidden = lstm(torch.from_numpy(power.T[None, start : start + 160]))[1][0][-1]
        raw = torch.relu(hidden @ state["linear.weight"].T + state["linear.bias"])[0]
        partials.append((raw / raw.norm()).detach().numpy())
    mean = np.mean(partials, axis=0)
    assert np.abs(partials - mean).max() > 0.01
    embedding = open_encoder(f"ge2e:{files['ge2e']}").embed(sound)
    assert list(partial_starts(45_000)) == [0, 77, 154]
    np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), rtol=1e-3, atol=1e-4)


def test_a_quiet_voice_is_amplified_and_a_loud_one_left(files: dict[str, Path]) -> None:
    encoder = open_encoder(f"ge2e:{files['ge2e']}")
    sound = tone(25_600, 16_000)  # one whole partial: a fresh network forgets what padding follows
    at_target = sound * np.float32(10 ** (-30 / 20) / np.sqrt(np.mean(sound**2)))
    expected = encoder.embed(at_target)
    np.testing.assert_allclose(encoder.embed(at_target / 50), expected, atol=1e-4)
    assert np.abs(encoder.embed(at_target * 3) - expected).max() > 1e-3


def test_a_wheel_and_the_checkpoint_in_it_are_one_encoder(files: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(files["ge2e"]) as archive:
        (tmp_path / "pretrained.pt").write_bytes(archive.read(GE2E_MEMBER))
    from_wheel, bare = open_encoder(f"ge2e:{files['ge2e']}"), open_encoder(f"ge2e:{tmp_path}/pretrained.pt")
    assert from_wheel.identity == bare.identity
    model = load_ge2e(tmp_path / "pretrained.pt")
    assert torch.equal(model.state_dict()["lstm.weight_hh_l2"], ge2e_state()["lstm.weight_hh_l2"])
    replace_head(model, 3)
    assert model(torch.rand(2, 40, 9)).shape == (2, 3)


def test_a_checkpoint_that_does_not_fit_names_every_tensor(tmp_path: Path) -> None:
    state = ge2e_state()
    del state["lstm.bias_ih_l1"]
    state["gru.bias"] = torch.zeros(3)
    state["linear.bias"] = torch.zeros(192)
    (tmp_path / "x.pt").write_bytes(ge2e_bytes(state))
    message = (
        r"missing \['lstm\.bias_ih_l1'\], unexpected \['gru\.bias'\], "
        r"of another shape \['linear\.bias \(192,\), not \(256,\)'\]"
    )
    with pytest.raises(ValueError, match=message):
        load_ge2e(tmp_path / "x.pt")


class Trap:
    """Unpickled with code, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "sprung")


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    write_wheel(tmp_path / "voice.whl", ge2e_bytes({**ge2e_state(), "trap": trap}))  # type: ignore[dict-item]
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"model_state": trap}, protocol=2))
    for name in ("voice.whl", "bare.pt"):
        with pytest.raises(ValueError, match="not a checkpoint of plain tensors"):
            load_ge2e(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_what_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vagitus.encoders, "MAX_GE2E_BYTES", 1 << 20)
    wheel = write_wheel(tmp_path / "bomb.whl", bytes(2 << 20))
    assert wheel.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"pretrained\.pt would unpack to over 1 MiB"):
        load_ge2e(wheel)
    (tmp_path / "large.pt").write_bytes(bytes(2 << 20))
    with pytest.raises(ValueError, match=r"large\.pt: over 1 MiB"):
        load_ge2e(tmp_path / "large.pt")


def first_byte_of_deflate(wheel: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        header = archive.getinfo(GE2E_MEMBER).header_offset
    return header + 30 + len(GE2E_MEMBER)


def changed(data: bytes, at: int, *new: int) -> bytes:
    return data[:at] + bytes(new) + data[at + len(new) :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: changed(whole, first_byte_of_deflate(whole), 0xFF), "invalid block type"),
        (lambda whole: changed(whole, whole.rfind(b"PK\1\2"), 0), "Bad magic number for central directory"),
        (lambda whole: changed(whole, whole.rfind(b"PK\1\2") + 8, 1), "encrypted"),
        (lambda whole: changed(whole, whole.rfind(b"PK\1\2") + 10, 99), "method 99, not deflate"),
        (lambda whole: whole[:-30], "not a zip file"),
    ],
)
def test_a_damaged_wheel_is_named_in_one_line(
    damage: Callable[[bytes], bytes], message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "voice.whl").write_bytes(damage(files["ge2e"].read_bytes()))
    expected = rf"^\S+voice\.whl: \S+ (zip )?is damaged \(.*{message}.*\); download it again$"
    with pytest.raises(ValueError, match=expected):
        open_encoder(f"ge2e:{tmp_path / 'voice.whl'}")


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def deflated(checkpoint: Any) -> bytes:
    """The checkpoint in torch's newer format, its records compressed."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return zip_of({name: archive.read(name) for name in archive.namelist()})


@pytest.mark.parametrize(("kind", "limit"), [("ge2e", "MAX_GE2E_BYTES"), ("panns", "MAX_FILE_BYTES")])
def test_a_checkpoint_that_unpacks_to_too_much_is_refused(
    kind: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {f"record{i}": torch.zeros(1 << 17) for i in range(3)}  # half a MiB each
    (tmp_path / "bomb.pt").write_bytes(deflated({"model_state": records, "model": records}))
    with pytest.raises(ValueError, match=r"tensors do not fit Ge2e|no CNN14 of PANNs"):
        open_encoder(f"{kind}:{tmp_path / 'bomb.pt'}")
    monkeypatch.setattr(vagitus.encoders, limit, 1 << 20)
    with pytest.raises(ValueError, match=r"bomb\.pt: the zip would unpack to over 1 MiB"):
        open_encoder(f"{kind}:{tmp_path / 'bomb.pt'}")


def test_torch_sees_no_other_directory_than_the_one_that_was_measured(tmp_path: Path) -> None:
    """zipfile takes the one before the end record, torch the one at the offset that stands in it."""
    whole, small = deflated({"model_state": {"x": torch.zeros(5)}}), zip_of({"data.pkl": b"small"})
    (tmp_path / "x.pt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"tensors do not fit .* unexpected \['x'\]"):
        load_ge2e(tmp_path / "x.pt")
    body, end, (size, offset) = whole[:-22], whole[-22:], struct.unpack("<LL", whole[-10:-2])
    (start,) = struct.unpack("<L", small[-6:-2])
    entry, directory = small[:start], small[start:-22]
    directory = changed(directory, 32, *struct.pack("<H", size - len(directory))).ljust(size)  # by a comment
    directory = changed(directory, 42, *struct.pack("<L", offset - len(entry)))  # counted from where it was
    (tmp_path / "x.pt").write_bytes(body + entry + directory + end)
    with pytest.raises(ValueError, match=r"x\.pt: not a checkpoint of plain tensors"):
        load_ge2e(tmp_path / "x.pt")


def test_a_member_that_understates_its_size_is_not_unpacked_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vagitus.encoders, "MAX_GE2E_BYTES", 2 << 20)
    wheel = write_wheel(tmp_path / "bomb.whl", bytes(32 << 20))
    whole = wheel.read_bytes()
    wheel.write_bytes(changed(whole, whole.rfind(b"PK\1\2") + 24, *struct.pack("<L", 1 << 20)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"pretrained\.pt is damaged \(Bad CRC-32"):
        load_ge2e(wheel)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


OTHER_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "on device meta": lambda tensor: tensor.to("meta"),
    r"torch\.sparse_coo": lambda tensor: tensor.to_sparse(),
    r"torch\.qint8": quantized,
    r"torch\.complex64": lambda tensor: tensor.to(torch.complex64),
    r"torch\.int8": lambda tensor: tensor.to(torch.int8),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor, tensor]),
    "elements that share memory": lambda tensor: tensor.flatten()[:1].expand(1 << 40),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of old ways to store some of them
@pytest.mark.parametrize("found", sorted(OTHER_TENSORS))
def test_a_tensor_that_is_not_dense_is_named(found: str, tmp_path: Path) -> None:
    state = ge2e_state()
    state["linear.bias"] = OTHER_TENSORS[found](state["linear.bias"])
    torch.save({"model_state": state}, tmp_path / "x.pt")
    expected = f"tensors must be dense, in memory and floating-point, found {{}} {found}$"
    with pytest.raises(ValueError, match=expected.format(r"linear\.bias")):
        load_ge2e(tmp_path / "x.pt")
    for name in ("fc1.bias", "bn0.num_batches_tracked", *PANNS_LEFT_ASIDE):
        torch.save({"model": {name: OTHER_TENSORS[found](torch.ones(3))}}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=expected.format(name)):
            load_panns(tmp_path / "x.pth")


# PANNs


@pytest.mark.parametrize("name", ["cnn14.pth", "cnn14.safetensors"])
def test_a_panns_checkpoint_is_read_whole(name: str, tmp_path: Path) -> None:
    model, state = panns_state()
    if name.endswith("pth"):
        torch.save({"iteration": 1, "model": state}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    found = load_panns(tmp_path / name)
    assert found.left_aside == PANNS_LEFT_ASIDE
    assert found.features.sample_rate_hz == 8000
    x = torch.randn(2, 64, 70)
    torch.testing.assert_close(found.model(x), model(x), rtol=0, atol=0)


def test_a_panns_embedding_is_the_mean_of_ten_seconds_in_decibels(files: dict[str, Path]) -> None:
    model, _ = panns_state()
    sound = tone(8000 * 13, 8000)
    power = np.exp(featurise(sound, PANNS_FEATURES[BINS_8_KHZ]))
    decibels = torch.from_numpy(10 * np.log10(power))[None]
    with torch.inference_mode():
        halves = model.features(decibels[..., :1000]) + model.features(decibels[..., -1000:])
    embedding = open_encoder(f"panns:{files['panns']}").embed(sound)
    np.testing.assert_allclose(embedding, halves[0].numpy() / 2, rtol=1e-3, atol=1e-4)
    assert pytest.approx(4.342945) == DECIBEL


def test_a_panns_checkpoint_that_does_not_fit_names_tensors_as_the_file_does(tmp_path: Path) -> None:
    _, state = panns_state()
    del state["conv_block3.bn2.running_var"], state["fc1.bias"]
    state["att_block.att.weight"] = torch.zeros(2)
    state["bn0.weight"] = torch.zeros(63)
    torch.save({"model": state}, tmp_path / "x.pth")
    message = (
        r"missing \['conv_block3\.bn2\.running_var', 'fc1\.bias'\], unexpected \['att_block\.att\.weight'\], "
        r"of another shape \['bn0\.weight \(63,\), not \(64,\)'\]"
    )
    with pytest.raises(ValueError, match=message):
        load_panns(tmp_path / "x.pth")


def test_tensors_of_safetensors_must_be_floating_point_too(tmp_path: Path) -> None:
    _, state = panns_state()
    state["fc1.bias"] = state["fc1.bias"].to(torch.int8)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"floating-point, found fc1\.bias torch\.int8$"):
        load_panns(tmp_path / "x.safetensors")
    header = b'{"x":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'  # a type that torch does not have
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(ValueError, match="not a whole safetensors file of torch's types"):
        load_panns(tmp_path / "x.safetensors")


def test_another_precision_is_taken(tmp_path: Path) -> None:
    model, state = panns_state()
    save_file({name: tensor.double() for name, tensor in state.items()}, tmp_path / "x.safetensors")
    x = torch.randn(2, 64, 70)
    torch.testing.assert_close(load_panns(tmp_path / "x.safetensors").model(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("width", [0, 1 << 17])
def test_a_network_of_no_or_any_width_is_refused(width: int, tmp_path: Path) -> None:
    _, state = panns_state()
    state["conv_block1.conv1.weight"] = torch.zeros(width, 1)
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no CNN14 of PANNs"):
        load_panns(tmp_path / "x.pth")


def test_a_network_of_other_bands_is_refused(tmp_path: Path) -> None:
    _, state = panns_state()
    state[PANNS_LEFT_ASIDE[2]] = state[PANNS_LEFT_ASIDE[2]].flip(1).contiguous()
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="melW is not the published one at 8000 Hz"):
        load_panns(tmp_path / "x.safetensors")
    del state[PANNS_LEFT_ASIDE[2]]
    save_file(state, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="no CNN14 of PANNs"):
        load_panns(tmp_path / "y.safetensors")


# ONNX


@pytest.mark.parametrize("shape", [["n"], [1, "n"], ["batch", "n"]])
def test_an_onnx_encoder_gets_the_waveform_as_it_is(shape: list[Any], tmp_path: Path) -> None:
    encoder = open_encoder(f"onnx:{write_onnx(tmp_path / 'x.onnx', shape=shape)}")
    assert (encoder.sample_rate_hz, encoder.dim) == (8000, 2)
    assert encoder.embed(np.array([0.5, 0.25, -0.75, 0.125], np.float32)).tolist() == [0.03125, 0.5]
    assert encoder.embed(np.array([16384, -8192], np.int16)).tolist() == [0.125, 0.5]


def test_a_fixed_length_is_filled_or_cut_into_windows(tmp_path: Path) -> None:
    encoder = open_encoder(f"onnx:{write_onnx(tmp_path / 'x.onnx', shape=[1, 4])}")
    assert encoder.embed(np.array([0.5, 0.0, 0.25], np.float32)).tolist() == [0.3125, 0.5]  # .5 0 .25 .5
    # Windows 0 to 3 and 1 to 4: means .25 and .5, maxima 1 and 1.
    assert encoder.embed(np.array([0, 0, 0, 1, 1], np.float32)).tolist() == [0.375, 1.0]


def test_a_long_recording_is_cut_into_minutes(files: dict[str, Path]) -> None:
    encoder = open_encoder(f"onnx:{files['onnx']}")
    sound = np.zeros(8000 * 120, np.float32)
    sound[5] = 0.5
    assert encoder.embed(sound)[1] == 0.25  # the mean of two maxima


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": [2, "n"]}, r"its input must be one waveform, .*found x0 tensor\(float\) \[2, 'n'\]"),
        ({"shape": [1, 1, "n"]}, "its input must be one waveform"),
        ({"shape": ["n"], "n_inputs": 2}, "its input must be one waveform"),
        ({"shape": ["n"], "rate": None}, "its metadata has no sample_rate_hz; write the rate"),
        ({"shape": ["n"], "rate": "8e3"}, "sample_rate_hz must be from 100 to 768000, got '8e3'"),
    ],
)
def test_an_onnx_file_of_another_shape_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "x.onnx", **options)
    with pytest.raises(ValueError, match=message):
        open_encoder(f"onnx:{path}")


def test_an_onnx_file_with_an_embedding_of_any_length_is_refused(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"one embedding, .* found y tensor\(float\) \['n'\]"):
        open_encoder(f"onnx:{tmp_path / 'x.onnx'}", sample_rate_hz=8000)


def write_frames(path: Path, n_samples: int | str, n_frames: int | str) -> Path:
    """A graph that gives a vector of two for every two samples."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [n_samples])
    frames = helper.make_tensor_value_info("frames", TensorProto.FLOAT, [n_frames, 2])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["frames"])], "g", [x], [frames], [shape]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"sample_rate_hz": "8000"})
    onnx.save(model, path)
    return path


def test_a_network_of_frames_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"float \(dim,\) or \(1, dim\) .*, found frames .* \[3, 2\]"):
        open_encoder(f"onnx:{write_frames(tmp_path / 'x.onnx', 6, 3)}")
    encoder = open_encoder(f"onnx:{write_frames(tmp_path / 'x.onnx', 'n_samples', 'n_frames')}")
    assert encoder.embed(np.array([0.5, 0.25], np.float32)).tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match=r"gave \(3, 2\), wanted \(dim,\) or \(1, dim\)"):
        encoder.embed(np.zeros(6, np.float32))


def test_the_way_to_tell_a_rate_works_as_it_is_written(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "x.onnx", shape=["n"], rate=None)
    with pytest.raises(ValueError, match="here 16000: import onnx; ") as refused:
        open_encoder(f"onnx:{path}")
    (line,) = str(refused.value).splitlines()
    exec(line.partition("here 16000: ")[2])
    assert open_encoder(f"onnx:{path}").sample_rate_hz == 16_000


def test_a_rate_may_be_given_where_the_file_has_none(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "x.onnx", shape=["n"], rate=None)
    assert open_encoder(f"onnx:{path}", sample_rate_hz=4000).sample_rate_hz == 4000


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    """They would not be in the identity, and a path in a file may point anywhere."""
    model = onnx.load(write_onnx(tmp_path / "x.onnx", shape=["n"]))
    axes = model.graph.initializer[0]
    axes.ClearField("int64_data")
    axes.data_location = TensorProto.EXTERNAL
    axes.external_data.add(key="location", value="axes.bin")
    axes.external_data.add(key="length", value="8")
    (tmp_path / "axes.bin").write_bytes(bytes(8))
    (tmp_path / "y.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"y\.onnx: onnxruntime cannot load it"):
        open_encoder(f"onnx:{tmp_path / 'y.onnx'}")
