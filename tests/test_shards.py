"""Shards of features: exactly once, the same however they are written, and known when they are not whole."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from in_process import Command
from numpy.testing import assert_array_equal
from scale_jobs import crash_at, unreadable

from vagitus.features import PRESETS, featurise_file
from vagitus.files import content_hash
from vagitus.manifest import Manifest, build_manifest, write_manifest
from vagitus.scale import cluster
from vagitus.shards import check_shards, open_shards, write_shards

CONFIG = PRESETS["mfcc40"]
N = 11  # two shards of 4 and one of 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for i in range(N):
        soundfile.write(root / f"{i}.wav", 0.1 * rng.standard_normal(1600 + 80 * i), 8000)
    (root / "5.wav").write_bytes(b"RIFF but no more")
    rows = [{"path": f"{i}.wav", "subject": f"s{i}", "start_s": 0.05 if i == 7 else 0.0} for i in range(N)]
    return build_manifest(rows, root, "archive.csv")


@pytest.fixture(scope="module")
def written(recordings: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_shards(recordings, CONFIG, folder, n_per_shard=4)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "features"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_every_recording_is_there_in_its_place(recordings: Manifest, written: Path) -> None:
    shards = open_shards(written)
    assert [line.n_recordings for line in shards.lines] == [4, 4, 3]
    assert len(shards) == N
    for i, (row, features) in enumerate(zip(shards.rows(), shards, strict=True)):
        assert row.path == f"{i}.wav"
        assert row.content == content_hash(recordings.file(i))
        if i == 5:
            assert "5.wav" in row.problem
            assert features.shape == (CONFIG.n_rows, 0)
        else:
            start_s, end_s = recordings.stretch(i)
            expected = featurise_file(recordings.file(i), CONFIG, start_s=start_s, end_s=end_s)
            assert_array_equal(features, expected)
            assert_array_equal(np.diff(shards.offsets)[i], expected.shape[1])
    assert [line.n_problems for line in shards.lines] == [0, 1, 0]
    assert list(check_shards(written)) == []


def test_a_cluster_writes_the_same_bytes(
    recordings: Manifest, written: Path, local_cluster: Any, tmp_path: Path
) -> None:
    with cluster(local_cluster.scheduler_address):
        write_shards(recordings, CONFIG, tmp_path / "features", n_per_shard=4)
    assert contents(tmp_path / "features") == contents(written)


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_shard_that_is_not_whole_is_found_and_written_again(
    recordings: Manifest, written: Path, folder: Path, harm: str
) -> None:
    victim = folder / "features-000001.safetensors"
    data = bytearray(victim.read_bytes())
    data[-5] ^= 1
    victim.write_bytes(data[:-7] if harm == "cut" else data)
    if harm == "gone":
        victim.unlink()
        (folder / "index.json").unlink()
    else:
        assert [said.split(": ")[0] for said in check_shards(folder)] == [str(victim)]
    kept = folder / "features-000000.safetensors"
    before = kept.stat().st_mtime_ns
    write_shards(recordings, CONFIG, folder, n_per_shard=4)
    assert contents(folder) == contents(written)
    assert kept.stat().st_mtime_ns == before


def test_a_recording_at_which_processes_end_is_left_out_after_two_tries(
    recordings: Manifest, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = tmp_path / "tried"
    monkeypatch.setattr("vagitus.shards._write_shard", partial(crash_at, "6.wav", tried))
    shards = write_shards(recordings, CONFIG, tmp_path / "features", n_per_shard=4)
    assert tried.read_text() == "6.wav\n" * 2
    problems = {row.path: row.problem for row in shards.rows() if row.problem}
    assert problems["6.wav"] == "6.wav: ended the process that read it, twice; convert it to wav or flac"
    assert sorted(problems) == ["5.wav", "6.wav"]
    for i in (4, 7):
        assert_array_equal(shards[i], open_shards(written)[i])


def test_a_folder_of_another_front_end_is_refused(recordings: Manifest, folder: Path) -> None:
    with pytest.raises(ValueError, match="holds features of another front end; give another --out"):
        write_shards(recordings, CONFIG.vary(normalisation="mean"), folder, n_per_shard=4)


def test_shards_of_another_size_are_refused(recordings: Manifest, folder: Path) -> None:
    with pytest.raises(ValueError, match="holds shards of 4 recordings, not 5"):
        write_shards(recordings, CONFIG, folder, n_per_shard=5)


def test_features_of_other_recordings_are_not_overwritten(
    recordings: Manifest, written: Path, folder: Path
) -> None:
    others = recordings.select(list(range(N - 1, 3, -1)))
    with pytest.raises(ValueError, match=r"of other recordings, first 0\.wav and here 10\.wav"):
        write_shards(others, CONFIG, folder, n_per_shard=4)
    assert contents(folder) == contents(written)


def test_rows_at_the_end_come_and_go_and_no_other_file_does(
    recordings: Manifest, written: Path, folder: Path
) -> None:
    for name in ("features-mine.safetensors", "features-mine.tries", "notes.tries"):
        (folder / name).write_text("mine")
    for n in (5, N):
        assert len(write_shards(recordings.select(list(range(n))), CONFIG, folder, n_per_shard=4)) == n
        for name in ("features-mine.safetensors", "features-mine.tries", "notes.tries"):
            assert (folder / name).read_text() == "mine"
    assert len(list(folder.glob("features-0*"))) == 3
    assert contents(written).items() <= contents(folder).items()


def test_a_file_that_a_disk_could_not_read_is_read_in_the_next_run(
    recordings: Manifest, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tried = tmp_path / "features", tmp_path / "tried"
    with monkeypatch.context() as patch:
        patch.setattr("vagitus.shards._write_shard", partial(unreadable, "6.wav", tried))
        shards = write_shards(recordings, CONFIG, folder, n_per_shard=4)
        assert [row.problem for row in shards.rows() if row.path == "6.wav"] == ["6.wav: Input/output error"]
    assert tried.read_text() == "6.wav\n" * 2
    write_shards(recordings, CONFIG, folder, n_per_shard=4)
    assert contents(folder) == contents(written)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"n_frames": ', '"n_frames": -', "a number of recordings or frames is none"),
        ('"n_recordings": 4', '"n_recordings": "4"', "a number of recordings or frames is none"),
        ('"n_recordings": 11', '"of": 11', r"index\.json: cannot be read"),
        ("{", "[" * 100_000, r"index\.json: cannot be read"),
    ],
)
def test_a_damaged_index_is_refused_by_name(old: str, new: str, message: str, folder: Path) -> None:
    index = (folder / "index.json").read_text()
    (folder / "index.json").write_text(index.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        open_shards(folder)


def test_a_shard_whose_header_was_changed_is_refused_by_name(folder: Path) -> None:
    path = folder / "features-000001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"frames":{', b'"frames":['))
    with pytest.raises(ValueError, match=r"features-000001\.safetensors: not a safetensors file"):
        open_shards(folder)
    path.write_bytes(data.replace(b'"frames":{"dtype":"F32"', b'"frames":{"dtypo":"F32"'))
    with pytest.raises(ValueError, match=r"features-000001\.safetensors: does not hold what the index says"):
        open_shards(folder)[4]


def test_a_shard_that_is_cut_short_is_named_when_it_is_read(folder: Path) -> None:
    path = folder / "features-000001.safetensors"
    shards = open_shards(folder)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"features-000001\.safetensors: is cut short"):
        shards[4]


def test_what_was_not_finished_is_not_opened(folder: Path) -> None:
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="writes it when all shards are there"):
        open_shards(folder)


def test_an_index_that_names_other_files_is_refused(folder: Path) -> None:
    index = (folder / "index.json").read_text()
    (folder / "index.json").write_text(index.replace("features-000001", "../features-000001"))
    with pytest.raises(ValueError, match="not numbered from zero on"):
        open_shards(folder)


def test_shards_in_each_others_place_are_refused(folder: Path) -> None:
    shutil.copy(folder / "features-000000.safetensors", folder / "features-000002.safetensors")
    with pytest.raises(ValueError, match="does not hold what the index says"):
        open_shards(folder)


def test_an_index_of_fewer_recordings_is_refused(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"].pop()
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="do not add up to 11 recordings"):
        open_shards(folder)


def test_the_verb_names_what_it_could_not_read(
    recordings: Manifest, written: Path, tmp_path: Path, vagitus: Command
) -> None:
    write_manifest(recordings, recordings.root / "archive.csv")
    out = tmp_path / "features"
    done = vagitus(
        "featurise",
        recordings.root / "archive.csv",
        "--front-end",
        "mfcc40",
        "--out",
        out,
        "--per-shard",
        "4",
        "--workers",
        "1",
    )
    assert done.status == 1
    assert f"{out}: features of 10 recordings in 3 files" in done.out
    assert "no features: 5.wav" in done.err
    assert contents(out) == contents(written)


def test_a_scheduler_and_workers_are_not_both_taken(recordings: Manifest, vagitus: Command) -> None:
    done = vagitus(
        "featurise", recordings.root / "archive.csv", "--scheduler", "tcp://127.0.0.1:9", "--workers", "2"
    )
    assert done.status == 2
    assert "has workers of its own; leave --workers 2 out" in done.err
