"""The audit: planted faults, copies, confounds and leaks are found, and nothing else is."""

import json
import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from vagitus import audit as audit_module
from vagitus import fingerprint as fingerprint_module
from vagitus import shortcuts
from vagitus.audio import read, resample
from vagitus.audit import Audit, audit
from vagitus.corpora import load_corpus
from vagitus.fingerprint import FRAME_S, bit_error_rate, correlation, find_matches, fingerprint
from vagitus.manifest import Manifest, build_manifest
from vagitus.splits import grouped_folds, merge_subjects

Samples = NDArray[np.float32]
Signal = tuple[Samples, int]
RATE_HZ = 8000


def heart(seed: int, duration_s: float = 5.0) -> Samples:
    """The same two thumps every .8 s for every seed, in noise of its own: as alike as strangers can be."""
    t = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    phase = t % 0.8
    thumps = np.exp(-(((phase - 0.1) / 0.03) ** 2)) * np.sin(2 * np.pi * 60 * phase)
    thumps += np.exp(-(((phase - 0.4) / 0.03) ** 2)) * np.sin(2 * np.pi * 90 * phase)
    noise = np.cumsum(np.random.default_rng(seed).standard_normal(len(t)))  # falls with frequency
    noise -= np.convolve(noise, np.ones(201) / 201, "same")
    x = 3 * thumps / thumps.std() + noise / noise.std()
    return np.asarray(0.3 * x / np.abs(x).max(), np.float32)


def cry(seed: int, duration_s: float = 5.0) -> Samples:
    """Harmonics of a wandering fundamental in bursts, with breath noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    knots = np.arange(0, duration_s + 0.2, 0.2)
    f0_hz = 420 + 60 * np.interp(t, knots, rng.standard_normal(len(knots)))
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    envelope = np.clip(np.sin(2 * np.pi * t / rng.uniform(1.0, 1.6)), 0, 1)
    x = envelope * np.sum([np.sin(k * phase) / k for k in range(1, 6)], axis=0)
    x += 0.05 * rng.standard_normal(len(t))
    return np.asarray(0.4 * x / np.abs(x).max(), np.float32)


def test_fingerprint_equals_the_papers_formula() -> None:
    x = cry(0, 0.6)
    y = resample(x, RATE_HZ, 2000).astype(np.float64)
    edges_hz = 700 * np.expm1(np.linspace(np.log1p(50 / 700), np.log1p(900 / 700), 34))
    edges = [round(f_hz / 2000 * 256) for f_hz in edges_hz]
    energies = []
    for start in range(0, len(y) - 255, 16):
        power = np.abs(np.fft.rfft(y[start : start + 256] * np.hanning(256))) ** 2
        energies.append([power[low:high].sum() for low, high in pairwise(edges)])
    expected = []
    for before, now in pairwise(energies):
        bits = [now[m] - now[m + 1] > before[m] - before[m + 1] for m in range(32)]
        expected.append(sum(1 << m for m in range(32) if bits[m]))
    found = fingerprint(x, RATE_HZ)
    assert len(found) == len(expected) == (len(y) - 256) // 16
    differing = np.bitwise_count(found ^ np.array(expected, dtype=np.uint32)).sum()
    assert differing <= 2  # of 1,888; float32 may turn a bit that hangs by a hair


def test_fingerprint_of_little_or_nothing() -> None:
    assert len(fingerprint(cry(0, 0.13), RATE_HZ)) == 0
    assert len(fingerprint(cry(0, 0.137), RATE_HZ)) == 1
    assert set(fingerprint(np.zeros(8000, np.float32), RATE_HZ).tolist()) == {0}


def test_bit_error_rate_by_hand() -> None:
    a = np.array([0b1111, 0b0001, 0, 0b1000], dtype=np.uint32)
    b = np.array([0b0001, 0b0001, 0b1100], dtype=np.uint32)
    assert bit_error_rate(a, b, 0) == (3 / 64, 2)  # 3 bits, 0, silent in a
    assert bit_error_rate(a, b, 1) == (1 / 64, 2)  # a[1:4] against b: 0, silent in a, 1 bit
    assert bit_error_rate(a, b, -2) == (2 / 32, 1)  # a[0] against b[2]
    assert math.isnan(bit_error_rate(a, b, 4)[0])
    assert math.isnan(bit_error_rate(a, b, -3)[0])


def encoded(x: Samples, tmp_path: Path, name: str, **options: Any) -> Signal:
    soundfile.write(tmp_path / name, x, RATE_HZ, **options)
    return read(tmp_path / name)


def amr(x: Samples, tmp_path: Path) -> Signal:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "x.amr"), "w") as container:
        stream = container.add_stream("libopencore_amrnb", rate=RATE_HZ)
        stream.layout, stream.bit_rate = "mono", 12200
        pcm = (x[: len(x) // 160 * 160] * 32767).astype(np.int16)
        for i, start in enumerate(range(0, len(pcm), 160)):
            frame = av.AudioFrame.from_ndarray(pcm[None, start : start + 160], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 160 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return read(tmp_path / "x.amr")


COPIES: dict[str, Callable[[Samples, Path], Signal]] = {
    "quieter": lambda x, _: (0.05 * x, RATE_HZ),
    "upside down": lambda x, _: (-x, RATE_HZ),
    "at 44.1 kHz": lambda x, _: (resample(x, RATE_HZ, 44100), 44100),
    "at 2 kHz": lambda x, _: (resample(x, RATE_HZ, 2000), 2000),
    "mp3": lambda x, folder: encoded(x, folder, "x.mp3"),
    "mp3, worst": lambda x, folder: encoded(x, folder, "x.mp3", compression_level=0.99),
    "vorbis": lambda x, folder: encoded(x, folder, "x.ogg", format="OGG", subtype="VORBIS"),
    "opus": lambda x, folder: encoded(x, folder, "x.opus", format="OGG", subtype="OPUS"),
    "amr": amr,
    "cropped": lambda x, _: (x[10_007:30_011], RATE_HZ),
    "one second": lambda x, _: (x[16_011:24_011], RATE_HZ),
    "cropped, quieter, resampled, mp3": lambda x, folder: encoded(
        resample(0.3 * x[10_007:30_011], RATE_HZ, RATE_HZ), folder, "c.mp3", compression_level=0.9
    ),
    "padded": lambda x, _: (np.concatenate([np.zeros(9_000, np.float32), x]), RATE_HZ),
}
OFFSETS_S = {
    "cropped": 10_007 / RATE_HZ,
    "one second": 16_011 / RATE_HZ,
    "cropped, quieter, resampled, mp3": 10_007 / RATE_HZ,
    "padded": -9_000 / RATE_HZ,
}


# AMR rewrites the noise between cries.
CASES = [(sound, copy) for sound, copy in product((heart, cry), COPIES) if (sound, copy) != (cry, "amr")]


@pytest.mark.parametrize(("sound", "copy"), CASES)
def test_a_copy_is_found_where_it_lies(sound: Callable[[int], Samples], copy: str, tmp_path: Path) -> None:
    x = sound(0)
    y, y_rate_hz = COPIES[copy](x, tmp_path)
    (match,) = find_matches([fingerprint(x, RATE_HZ), fingerprint(y, y_rate_hz)])
    assert (match.i, match.j) == (0, 1)
    # Codecs delay by up to 40 ms that their containers do not tell.
    assert match.offset * FRAME_S == pytest.approx(OFFSETS_S.get(copy, 0.0), abs=0.05)
    assert correlation(x, RATE_HZ, y, y_rate_hz, match.offset) > 0.5


@pytest.mark.parametrize("sound", [heart, cry])
def test_strangers_that_sound_alike_do_not_match(sound: Callable[[int], Samples]) -> None:
    assert find_matches([fingerprint(sound(seed), RATE_HZ) for seed in range(30)]) == []


def test_padding_is_no_shared_sound() -> None:
    silence = np.zeros(4 * RATE_HZ, np.float32)
    prints = [fingerprint(np.concatenate([cry(seed, 1.0), silence]), RATE_HZ) for seed in range(6)]
    assert find_matches(prints) == []


def test_words_with_errors_in_one_byte_are_found_and_in_all_bytes_are_not() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(1, 1 << 32, 300, dtype=np.uint32)
    one_byte = words ^ rng.integers(1, 256, 300, dtype=np.uint32) << np.uint32(16)
    every_byte = words ^ np.uint32(0x01010101)
    (match,) = find_matches([words, one_byte[40:]])
    assert (match.offset, match.n_overlap) == (40, 260)
    assert 0.1 < match.ber < 0.15  # half of the bits of one byte in four
    assert bit_error_rate(words, every_byte, 0)[0] == 0.125
    assert find_matches([words, every_byte]) == []


def test_thinned_index_still_finds_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_module, "MAX_INDEXED", 1000)  # one key in six
    prints = [fingerprint(cry(seed), RATE_HZ) for seed in range(9)] + [fingerprint(cry(4)[8000:], RATE_HZ)]
    assert [(m.i, m.j, m.offset) for m in find_matches(prints)] == [(4, 9, 125)]


def test_find_matches_of_nothing() -> None:
    empty = np.zeros(0, np.uint32)
    assert (
        find_matches([]) == find_matches([empty, empty]) == find_matches([fingerprint(cry(0), RATE_HZ)]) == []
    )


def test_correlation_of_a_copy_in_noise_of_equal_power_is_the_root_of_a_half() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 40_000)).astype(np.float32) * 0.1
    assert correlation(x, RATE_HZ, x, RATE_HZ, 0) == pytest.approx(1.0)
    assert correlation(x, RATE_HZ, -0.2 * x[800:], RATE_HZ, 12) == pytest.approx(
        1.0, abs=1e-3
    )  # .1 s, 12.5 hops
    assert correlation(x, RATE_HZ, x + noise, RATE_HZ, 0) == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert correlation(x, RATE_HZ, noise, RATE_HZ, 0) < 0.1
    assert correlation(x, RATE_HZ, 0 * x, RATE_HZ, 0) == 0.0
    assert correlation(x, RATE_HZ, x, RATE_HZ, 10_000) == 0.0  # no overlap


@pytest.mark.parametrize("over", [1.25, 2.0])
def test_clipped_share_of_a_sine_is_the_time_above_the_limit(over: float) -> None:
    t = np.arange(80_000) / RATE_HZ
    x = np.clip(over * np.sin(2 * np.pi * 100 * t), -1, 1).astype(np.float32)
    expected = 1 - 2 / np.pi * np.arcsin(1 / over)
    assert audit_module._clipped_share(0.5 * x) == pytest.approx(expected, abs=0.03)  # 80 samples a period
    assert audit_module._clipped_share((0.9 * np.sin(2 * np.pi * 100 * t)).astype(np.float32)) == 0.0
    assert audit_module._clipped_share(0.01 * x) == 0.0  # too faint to tell from quantisation


def test_roll_off_holds_95_percent_of_the_energy() -> None:
    t = np.arange(40_000) / RATE_HZ
    assert audit_module._roll_off_hz(
        np.sin(2 * np.pi * 500 * t).astype(np.float32), RATE_HZ
    ) == pytest.approx(500, abs=8)
    white = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    assert audit_module._roll_off_hz(white, RATE_HZ) == pytest.approx(0.95 * 4000, rel=0.01)
    assert math.isnan(audit_module._roll_off_hz(np.zeros(100, np.float32), RATE_HZ))


Row = dict[str, object]


def folder_of(tmp_path: Path, rows: list[tuple[Samples, Row]], **options: Any) -> Manifest:
    table = []
    for i, (x, row) in enumerate(rows):
        name = str(row.get("path", f"{i:03d}.wav"))
        if not (tmp_path / name).exists():
            soundfile.write(tmp_path / name, x, RATE_HZ)
        table.append({"subject": f"s{i:03d}"} | row | {"path": name})
    return build_manifest(table, tmp_path, "planted.csv", **options)


def kinds(found: Audit) -> dict[str, int]:
    return {finding.kind: finding.count for finding in found.findings}


def finding(found: Audit, kind: str) -> audit_module.Finding:
    return next(f for f in found.findings if f.kind == kind)


@pytest.fixture
def broken(tmp_path: Path) -> Manifest:
    good = cry(1, 1.0)
    square = np.sign(np.sin(2 * np.pi * 100 * np.arange(8000) / RATE_HZ)).astype(np.float32) * 0.5
    (tmp_path / "garbage.wav").write_bytes(b"not audio at all" * 50)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "whole.wav", good, RATE_HZ)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:5000])
    rows: list[tuple[Samples, Row]] = [
        (good, {"path": "whole.wav"}),
        (good, {"path": "garbage.wav"}),
        (good, {"path": "empty.wav"}),
        (good, {"path": "cut.wav"}),
        (good[:700], {"path": "short.wav"}),
        (1e-5 * good, {"path": "silent.wav"}),
        (np.full(8000, 0.3, np.float32), {"path": "constant.wav"}),
        (square, {"path": "clipped.wav"}),
        (cry(3, 1.0) + 0.2, {"path": "offset.wav"}),
        (cry(2, 1.0), {"path": "late.wav", "end_s": 1.5}),
    ]
    return folder_of(tmp_path, rows)


def test_broken_files_are_named_with_their_reason_and_stop_nothing(broken: Manifest) -> None:
    found = audit(broken)
    assert kinds(found) == {"unreadable": 4, "too short": 1, "silent": 2, "clipped": 1, "dc offset": 1}
    assert finding(found, "unreadable").files == ("garbage.wav", "empty.wav", "cut.wav", "late.wav")
    assert finding(found, "unreadable").summary.startswith("4 of 10 recordings cannot be read: garbage.wav: ")
    assert finding(found, "silent").files == ("silent.wav", "constant.wav")
    assert finding(found, "clipped").files == ("clipped.wav",)
    assert finding(found, "dc offset").files == ("offset.wav",)
    assert np.flatnonzero(found.usable).tolist() == [0, 7, 8]
    assert found.problems[4] == "short.wav: lasts 0.087 s, at least 0.1 s are needed; leave it out"
    assert found.recordings["dc"][8] == pytest.approx(0.2, abs=1e-3)
    assert found.recordings["sample_rate_hz"][0] == RATE_HZ
    assert np.isnan(found.recordings["level_dbfs"][1])


def test_workers_find_the_same(broken: Manifest) -> None:
    assert audit(broken, n_workers=2).to_json() == audit(broken).to_json()


@pytest.fixture
def copied(tmp_path: Path) -> Manifest:
    sounds = [heart(seed, 3.0) for seed in range(8)]
    rows: list[tuple[Samples, Row]] = [(x, {"label": "ab"[i % 2]}) for i, x in enumerate(sounds)]
    (tmp_path / "bytes.wav").write_bytes(b"")
    for i in range(2):
        soundfile.write(tmp_path / f"{i:03d}.wav", sounds[i], RATE_HZ)
    (tmp_path / "bytes.wav").write_bytes((tmp_path / "000.wav").read_bytes())
    rows += [
        (sounds[0], {"path": "bytes.wav", "label": "b"}),  # 8: two labels and two subjects
        (
            read(tmp_path / "001.wav").samples,
            {"path": "samples.flac", "subject": "s001", "label": "b"},
        ),  # 9: harmless
        (sounds[2][4003:], {"path": "near.mp3", "subject": "other", "label": "a"}),  # 10: two subjects
        (
            sounds[3],
            {"path": "long.wav", "subject": "s", "start_s": 0, "end_s": 1.5},
        ),  # 11: copy of 3, in part
        (sounds[3], {"path": "long.wav", "subject": "s", "start_s": 1.0, "end_s": 2.0}),  # 12 overlaps 11
        (sounds[3], {"path": "long.wav", "subject": "t", "start_s": 1.4, "end_s": 1.45}),  # 13: too short
        (sounds[4] * 1e-6, {"path": "silent1.wav"}),
        (sounds[4] * 1e-6, {"path": "silent2.wav"}),  # alike, but it is nothing
    ]
    return folder_of(tmp_path, rows)


def test_copies_are_found_by_kind_the_harmful_first(copied: Manifest) -> None:
    found = audit(copied)
    pairs = {(p.i, p.j): p for p in found.duplicate_pairs}
    assert {key: p.kind for key, p in pairs.items()} == {
        (0, 8): "bytes",
        (1, 9): "samples",
        (2, 10): "near",
        (3, 11): "near",
        (3, 12): "near",
        (11, 12): "overlap",
        (12, 13): "overlap",
    }
    assert pairs[2, 10].offset_s == pytest.approx(4003 / RATE_HZ, abs=0.05)
    assert pairs[3, 12].offset_s == pytest.approx(1.0, abs=0.02)
    assert pairs[11, 12].offset_s == 1.0
    assert pairs[2, 10].similarity > 0.9
    harmless = [copied.subject[p.i] == copied.subject[p.j] for p in found.duplicate_pairs]
    assert harmless == sorted(harmless)
    assert kinds(found) == {
        "duplicate labels": 1,
        "duplicate subjects": 5,
        "duplicate same": 1,
        "overlap": 1,
        "too short": 1,
        "silent": 2,
    }
    assert finding(found, "duplicate labels").files == ("000.wav = bytes.wav (1.00)",)
    assert finding(found, "duplicate labels").severity == "error"


def test_subjects_that_share_audio_become_one(copied: Manifest) -> None:
    shared = audit(copied).duplicate_subjects
    assert shared == (("other", "s002"), ("s", "s003"), ("s", "t"), ("s000", "s008"))
    merged = merge_subjects(copied.subject, shared)
    assert merged[[3, 11, 12, 13]].tolist() == ["s"] * 4
    assert merged[[0, 8]].tolist() == ["s000"] * 2
    assert len(np.unique(merged)) == copied.n_subjects - 4


def test_a_long_stretch_overlaps_all_that_lie_in_it(tmp_path: Path) -> None:
    stretches = ((0, 2.5), (0.5, 1.0), (1.2, 1.7), (2.6, 3.0))
    rows: list[tuple[Samples, Row]] = [
        (cry(0, 3.0), {"path": "a.wav", "subject": "s", "start_s": start, "end_s": end})
        for start, end in stretches
    ]
    pairs = audit(folder_of(tmp_path, rows)).duplicate_pairs
    assert [(p.i, p.j, p.kind) for p in pairs] == [(0, 1, "overlap"), (0, 2, "overlap")]


def test_stretches_that_meet_do_not_overlap(tmp_path: Path) -> None:
    # In binary .2 k + .2 is often more than .2 (k + 1), and .2003 s ends between two samples.
    assert any(0.2 * k + 0.2 > 0.2 * (k + 1) for k in range(40))
    for step_s in (0.2, 0.2003):
        rows: list[tuple[Samples, Row]] = [
            (
                cry(0, 9.0),
                {"path": "a.wav", "subject": f"s{k}", "start_s": step_s * k, "end_s": step_s * k + step_s},
            )
            for k in range(40)
        ]
        found = audit(folder_of(tmp_path, rows))
        assert (found.duplicate_pairs, found.duplicate_subjects) == ((), ())


def test_cramers_v_equals_the_formula_of_bergsma_and_scipys_chi_square() -> None:
    from scipy.stats import chi2_contingency

    table = np.array([[20, 5, 3], [4, 12, 9]])
    y, level = (np.repeat(index, table.ravel()) for index in np.indices(table.shape).reshape(2, -1))
    found = shortcuts._cramers_v("c", y, level, ("a", "b"), np.array(["u", "v", "w"]))
    test = chi2_contingency(table, correction=False)
    n, r, c = 53, 2, 3
    phi2 = test.statistic / n - (r - 1) * (c - 1) / (n - 1)
    corrected = [k - (k - 1) ** 2 / (n - 1) for k in (r, c)]
    assert found.effect == pytest.approx(math.sqrt(phi2 / (min(corrected) - 1)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.detail == "most: u with a"


def test_rank_association_equals_scipys_kruskal_and_the_auroc() -> None:
    from scipy.stats import kruskal

    from vagitus.metrics import auroc

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [12, 7, 9])
    values = np.round(rng.standard_normal(28) + 0.8 * (y == 2), 1)  # with ties
    found = shortcuts._rank_association("c", y, values, ("a", "b", "c"))
    assert found.p == pytest.approx(kruskal(*(values[y == k] for k in range(3))).pvalue)
    areas = [auroc((y == k).astype(int), values) for k in range(3)]
    assert found.effect == pytest.approx(0.5 + max(abs(a - 0.5) for a in areas))
    assert found.detail == "higher in c"


def test_medians_of_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.concatenate([np.arange(9), rng.integers(0, 9, 50)])
    values = rng.standard_normal(59)
    expected = [np.median(values[group == g]) for g in range(9)]
    np.testing.assert_allclose(shortcuts._medians(values, group), expected)


def clinic(
    tmp_path: Path, n_subjects: int, n_each: int, label: Callable[[int], str], **columns: Any
) -> Manifest:
    """Stretches of one file, so that nothing but the table tells the label."""
    soundfile.write(tmp_path / "long.wav", cry(0, n_subjects * n_each * 0.2 + 0.1), RATE_HZ)
    rows = [
        {
            "path": "long.wav",
            "subject": f"s{i}",
            "label": label(i),
            "start_s": 0.2 * k,
            "end_s": 0.2 * k + 0.2,
        }
        | {name: column(i) for name, column in columns.items()}
        for i in range(n_subjects)
        for k in range(i * n_each, (i + 1) * n_each)
    ]
    return build_manifest(rows, tmp_path, "clinic.csv")


def noise(manifest: Manifest, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((len(manifest), 5))


def test_label_that_goes_with_the_site_is_an_error_and_with_age_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    m = clinic(
        tmp_path,
        30,
        2,
        lambda i: "ab"[i % 2],
        site=lambda i: "xy"[i % 2] if i < 26 else "x",
        age=lambda i: 10 * (i % 2) + rng.integers(0, 8),
        sex=lambda i: "mf"[i // 2 % 2],
        name=lambda i: f"n{i}",
    )
    found = audit(m, statistics=noise(m), quick=True)
    columns = {a.column: a for a in found.associations}
    assert columns["site"].effect > 0.8
    assert columns["age"].effect == 1.0
    assert columns["sex"].effect < 0.2
    assert "name" not in columns
    assert any("name" in sentence for sentence in found.skipped)
    severities = {f.summary.split(" (")[0]: f.severity for f in found.findings if f.kind == "confound"}
    assert severities == {"the label goes with site": "error", "the label goes with age": "warning"}
    assert [a.column for a in found.associations[:2]] == ["age", "site"]


def test_a_subject_counts_once_however_often_recorded(tmp_path: Path) -> None:
    once, often = (tmp_path / name for name in ("once", "often"))
    found = []
    for folder, n_each in ((once, 1), (often, 8)):
        folder.mkdir()
        m = clinic(
            folder, 24, n_each, lambda i: "ab"[i % 2], sex=lambda i: "mf"[i % 3 % 2], weight=lambda i: i % 7
        )
        measured = {
            name: np.ones(len(m)) for name in ("duration_s", "level_dbfs", "bandwidth_hz", "sample_rate_hz")
        }
        columns, _ = shortcuts._columns(m, measured)
        found.append(shortcuts._associations(m, columns))
    assert found[0] == found[1]
    assert {a.column for a in found[0]} == {"sex", "weight"}


def test_ridge_equals_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 7)) * np.arange(1, 8) + 3, rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    y[:9] = np.arange(9) % 3
    x[:, 4] = 2.5  # constant: no evidence
    folds = grouped_folds(y, np.arange(60), n_folds=3)
    scores = shortcuts._ridge_scores(x, y, folds, 3)
    for fold in folds:
        known = np.concatenate([fold.train, fold.dev])
        z = (x - x[known].mean(axis=0)) / np.where(np.arange(7) == 4, 1, x[known].std(axis=0))
        w = len(known) / (3 * np.bincount(y[known])[y[known]])
        model = Ridge(alpha=7).fit(z[known], 2.0 * (y[known][:, None] == np.arange(3)) - 1, sample_weight=w)
        np.testing.assert_allclose(scores[fold.test], model.predict(z[fold.test]), atol=1e-9)


def test_memory_of_subjects_is_a_gap_and_not_a_result(tmp_path: Path) -> None:
    # The label is a coin for each subject, and the audio says who is who but nothing of the label.
    rng = np.random.default_rng(1)
    m = clinic(tmp_path, 40, 5, lambda i: "ab"[i * 7 % 11 % 2])
    voice = rng.standard_normal((40, 60))
    x = voice[np.repeat(np.arange(40), 5)] + 0.1 * rng.standard_normal((200, 60))
    found = audit(m, statistics=x)
    leakage = found.leakage
    assert leakage is not None
    assert (leakage.wrong.is_wrong, leakage.right.is_wrong) == (True, False)
    assert leakage.wrong.uar.estimate > 0.9
    assert leakage.right.uar.low < 0.5 < leakage.right.uar.high
    assert leakage.uar_gap.low > 0.2
    assert leakage.uar_gap.difference == pytest.approx(
        leakage.wrong.uar.estimate - leakage.right.uar.estimate
    )
    by_subject = next(probe for probe in found.lookups if probe.is_wrong)
    assert (by_subject.uar.estimate, by_subject.auroc.estimate) == (1.0, 1.0)
    assert "leakage" in kinds(found)
    assert by_subject.split == leakage.wrong.split == "random, WRONG"


def test_subjects_that_share_audio_are_kept_whole_together(tmp_path: Path) -> None:
    """Each of 20 people is named twice, and one stretch of each name reaches into one of the other's.

    The label is a coin for each person; the sound and the ward say who is who, and nothing of the label.
    """
    rng = np.random.default_rng(2)
    n_people = 20
    soundfile.write(tmp_path / "long.wav", cry(0, n_people + 0.1), RATE_HZ)
    rows = [
        {
            "path": "long.wav",
            "subject": f"s{2 * person + k // 2}",
            "label": "ab"[person * 7 % 11 % 2],
            "start_s": person + start_s,
            "end_s": person + start_s + 0.2,
            "ward": f"w{person}",
        }
        for person in range(n_people)
        for k, start_s in enumerate((0.0, 0.3, 0.4, 0.7))
    ]
    m = build_manifest(rows, tmp_path, "twice.csv")
    voice = rng.standard_normal((n_people, 40))
    found = audit(
        m, statistics=np.repeat(voice, 4, axis=0) + 0.1 * rng.standard_normal((4 * n_people, 40)), quick=True
    )
    assert len(found.duplicate_subjects) == n_people
    assert found.leakage is not None
    (metadata,) = (probe for probe in found.lookups if not probe.is_wrong)
    for probe in (found.leakage.right, metadata):
        assert probe.uar.low < 0.5 + 0.1  # the other name's recordings would give all of them away
        assert probe.uar.estimate < 0.75
        assert probe.uar.n_units == n_people
    assert found.leakage.wrong.uar.estimate > 0.9
    assert found.leakage.uar_gap.n_units == n_people


def test_a_copy_under_another_subject_leaks_though_no_subject_is_recorded_twice(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", cry(0, 12.1), RATE_HZ)
    rows = [
        {"path": "long.wav", "subject": f"s{i}", "label": "ab"[i // 2 % 2], "start_s": start, "end_s": end}
        for i in range(24)
        for start, end in [(i // 2 + 0.1 * (i % 2), i // 2 + 0.2 + 0.1 * (i % 2))]
    ]
    m = build_manifest(rows, tmp_path, "copies.csv")
    found = audit(m, statistics=noise(m), quick=True)
    assert found.leakage is not None
    assert found.leakage.right.uar.n_units == 12
    assert not any(probe.is_wrong for probe in found.lookups)  # no subject has another recording
    assert not any("one recording" in sentence for sentence in found.skipped)


def test_no_gap_where_recordings_of_a_subject_have_nothing_in_common(tmp_path: Path) -> None:
    m = clinic(tmp_path, 40, 3, lambda i: "ab"[i % 2])
    x = noise(m) + 0.8 * (m.label == "a")[:, None]  # the label is in the sound, the subject is not
    found = audit(m, statistics=x)
    assert found.leakage is not None
    assert found.leakage.right.uar.low > 0.7
    assert abs(found.leakage.uar_gap.difference) < 0.03
    assert "leakage" not in kinds(found)


def test_metadata_are_looked_up_with_subjects_whole(tmp_path: Path) -> None:
    m = clinic(
        tmp_path,
        30,
        2,
        lambda i: "ab"[i % 2],
        ward=lambda i: "uvw"[i % 2 if i % 5 else 2],
        weight=lambda i: i % 4 or "",
    )
    found = audit(m, statistics=noise(m), quick=True)
    (metadata,) = (probe for probe in found.lookups if not probe.is_wrong)
    assert metadata.split == "whole subjects"
    assert metadata.uar.estimate > 0.8
    assert any(f.kind == "lookup" and f.severity == "warning" for f in found.findings)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    cases = {
        "every subject has one recording": (12, 1, lambda i: "ab"[i % 2]),
        "lookups and leakage: label 'a' has 2 subjects; 3 folds": (12, 2, lambda i: "a" if i < 2 else "b"),
        "fewer than two classes": (12, 2, lambda i: "a"),
    }
    for k, (sentence, (n_subjects, n_each, label)) in enumerate(cases.items()):
        (tmp_path / str(k)).mkdir()
        m = clinic(tmp_path / str(k), n_subjects, n_each, label)
        found = audit(m, statistics=noise(m), quick=True)
        assert found.leakage is None
        assert any(sentence in skipped for skipped in found.skipped)
        assert sentence.split(":")[0] in " ".join(found.to_text().split())


def test_unlabelled_recordings_are_audited_too(tmp_path: Path) -> None:
    m = clinic(tmp_path, 6, 2, lambda i: "")
    found = audit(m)
    assert found.usable.all()
    assert (found.associations, found.lookups, found.leakage) == ((), (), None)
    assert len(audit(m.select([])).usable) == 0


def test_text_fits_80_columns_and_json_has_no_nan(copied: Manifest) -> None:
    found = audit(copied)
    lines = found.to_text().splitlines()
    assert lines[0] == "Audit of planted.csv"
    assert max(map(len, lines)) <= 80
    assert any(
        line.startswith("ERROR    1 pair of recordings hold the same sound under two labels")
        for line in lines
    )
    written = json.dumps(found.to_json(), allow_nan=False)
    again = json.loads(written)
    assert again == found.to_json()
    assert again["format"] == 1
    assert again["n_usable"] == int(found.usable.sum())
    assert [f["severity"] for f in again["findings"]] == [f.severity for f in found.findings]
    severities = [("error", "warning", "info").index(f.severity) for f in found.findings]
    assert severities == sorted(severities)


def test_same_seed_same_audit_with_features_of_its_own(tmp_path: Path) -> None:
    m = clinic(tmp_path, 12, 3, lambda i: "ab"[i % 2], site=lambda i: "xy"[i // 2 % 2])
    first, again, other = (audit(m, quick=True, seed=seed).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first["leakage"] is not None
    assert first["leakage"] != other["leakage"]
    assert first["findings"][0] == other["findings"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_workers": 0}, r"n_workers must be 1 or more, got 0"),
        ({"statistics": np.zeros((3, 4))}, r"statistics must be finite, one row for each of 12 recordings"),
        ({"statistics": np.full((12, 4), np.nan)}, r"statistics must be finite"),
        ({"statistics": np.zeros(12)}, r"statistics must be finite, one row"),
    ],
)
def test_bad_input_says_what_was_wrong(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    m = clinic(tmp_path, 6, 2, lambda i: "ab"[i % 2])
    with pytest.raises(ValueError, match=message):
        audit(m, **options)


@pytest.mark.real
def test_physionet_d_holds_two_recordings_twice(data_root: Path) -> None:
    m = load_corpus("physionet2016", root=data_root)
    d = m.select(m.site == "d")
    found = audit(d, statistics=noise(d), quick=True)
    named = {(Path(d.path[p.i]).stem, Path(d.path[p.j]).stem) for p in found.duplicate_pairs}
    assert named == {("d0004", "d0019"), ("d0018", "d0051")}


@pytest.mark.real
def test_reason_of_a_cry_is_memory_of_the_phone(data_root: Path) -> None:
    m = load_corpus("donateacry", root=data_root, task="reason").labelled()
    found = audit(m, quick=True)
    assert found.leakage is not None
    assert found.leakage.right.uar.low < 0.2 + 0.05  # chance is .2
    assert found.leakage.uar_gap.difference > 0.1
    assert found.lookups[0].uar.estimate > 0.35
