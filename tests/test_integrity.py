"""What a run wrote is found to be as it was written, or what is not is named; and a pickle is opened nowhere."""

import csv
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import study_data
import torch
from in_process import Command
from safetensors.numpy import save

from vagitus.checkpoint import load_model
from vagitus.corpora.simulated import generate
from vagitus.files import PICKLE_MARKS, content_hash
from vagitus.integrity import INPUTS, RECORD, seal, verify
from vagitus.manifest import Manifest
from vagitus.study import run_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("integrity")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return generate(
        folder / "audio",
        n_subjects=16,
        n_recordings_per_subject=1,
        effect=2.0,
        duration_s=1.0,
        sample_rate_hz=8000,
    )


@pytest.fixture(scope="module")
def studied(folder: Path, manifest: Manifest) -> Path:
    """A study of the quickest arm that hears; each site is left out once."""
    run_study(
        study_data.config(arms=("logmel+ridge",), split="sites", n_resamples=100),
        manifest,
        folder / "studied",
        positive="case",
        cache=folder / "cache",
        command="vagitus study",
        n_workers=1,
    )
    return folder / "studied"


@pytest.fixture
def out(studied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied, tmp_path / "out"))


def problems(out: Path, data: Path | None = None) -> list[tuple[str, str]]:
    return [(finding.file, finding.problem) for finding in verify(out, data=data).findings]


def test_a_study_that_nobody_touched_is_as_written(studied: Path, manifest: Manifest) -> None:
    found = verify(studied, data=manifest.root)
    assert found.findings == []
    lines = [json.loads(line) for line in (studied / "results.jsonl").read_text().splitlines()]
    counted = [len(line["metrics"]) for line in lines if line["kind"] in ("fold", "site", "summary")]
    assert found.n_figures == sum(counted) > 50
    assert found.n_recordings == len(manifest) == 16


STATED = {
    "kind": "summary",
    "arm": "ridge",
    "headline": "pooled",
    "metrics": {"auroc": {"estimate": 0.875}, "accuracy": {"estimate": 0.75}},
}


@pytest.mark.parametrize(("stated", "n_wrong"), [(0.875, 0), (0.75, 1)])
def test_pooled_figures_are_means_over_repeats_worked_by_hand(
    stated: float, n_wrong: int, tmp_path: Path
) -> None:
    # Of the 4 pairs of a case and a control the first repeat orders 3, the second 4; it decides 2 of 4 rightly, and 4.
    rows = ["path,subject,site,label,fold,arm,score,decision,repeat"]
    scores = [("case", 0.9, 0.6), ("case", 0.4, 0.8), ("control", 0.5, 0.2), ("control", 0.1, 0.3)]
    for repeat in range(2):
        for i, (label, *given) in enumerate(scores):
            decision = "case" if given[repeat] >= 0.45 else "control"
            rows.append(f"{i}.wav,s{i},,{label},0,ridge,{given[repeat]},{decision},{repeat}")
    (tmp_path / "predictions.csv").write_text("\n".join(rows))
    summary = STATED | {"metrics": {"auroc": {"estimate": stated}, "accuracy": {"estimate": 0.75}}}
    study = {"kind": "study", "class_names": ["control", "case"]}
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(study)}\n{json.dumps(summary)}\n")
    seal(tmp_path)
    found = verify(tmp_path)
    assert (found.n_figures, len(found.findings)) == (2, n_wrong)


def test_three_classes_are_computed_again_from_their_columns(tmp_path: Path) -> None:
    rows = ["path,subject,site,label,fold,arm,score,decision,repeat,p:a,p:b,p:c"]
    rows += ["0.wav,s0,,a,0,net,0.5,a,0,0.5,0.3,0.2", "1.wav,s1,,b,0,net,0.6,c,0,0.3,0.1,0.6"]
    rows += ["2.wav,s2,,c,0,net,0.7,c,0,0.2,0.1,0.7"]
    (tmp_path / "predictions.csv").write_text("\n".join(rows))
    lines = [
        {"kind": "study", "class_names": ["a", "b", "c"]},
        {"kind": "site", "arm": "net", "site": "", "metrics": {"accuracy": 2 / 3, "uar": 0.5}},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(tmp_path)
    (finding,) = verify(tmp_path).findings
    assert finding.detail == "site net, : uar is 0.5, predictions.csv gives 0.666667"


def test_every_file_that_matters_is_recorded_with_its_hash(studied: Path) -> None:
    record = json.loads((studied / RECORD).read_text())
    assert {"results.jsonl", "predictions.csv", "audit.json", "recipe.toml", INPUTS} <= set(record["files"])
    assert "work/features-study.npy" in record["files"]  # a table of features, which a second run reads again
    for name, digest in record["files"].items():
        assert content_hash(studied / name) == digest


def test_a_changed_a_missing_and_another_file_are_named(out: Path) -> None:
    table = out / "predictions.csv"
    table.write_text(table.read_text() + "\n")
    (out / "audit.json").unlink()
    (out / "notes.txt").write_text("mine")
    (out / "work" / ".partial-features-abcd_123.npy").write_bytes(b"half")
    assert problems(out) == [
        ("audit.json", "missing"),
        ("predictions.csv", "changed"),
        ("notes.txt", "extra"),
        ("work/.partial-features-abcd_123.npy", "left over"),
    ]


def test_a_link_to_a_folder_and_files_named_as_our_own_elsewhere_are_named(out: Path, tmp_path: Path) -> None:
    (out / "more").symlink_to(tmp_path)
    (out / "sub").mkdir()
    (out / "sub" / RECORD).write_text("{}")
    assert problems(out) == [("more", "extra"), (f"sub/{RECORD}", "extra")]


def test_a_folder_is_the_same_elsewhere_and_behind_a_link(out: Path, tmp_path: Path) -> None:
    moved = out.rename(tmp_path / "elsewhere")
    (moved / "work").rename(tmp_path / "scratch")
    (moved / "work").symlink_to(tmp_path / "scratch")
    assert problems(moved) == []


def test_links_and_pipes_do_not_stop_the_seal(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("mine")
    (tmp_path / "to nothing").symlink_to("gone")
    (tmp_path / "to a folder").symlink_to("..")
    os.mkfifo(tmp_path / "pipe")
    seal(tmp_path)
    assert problems(tmp_path) == []
    (tmp_path / "to a folder").unlink()
    (tmp_path / "to a folder").symlink_to("/etc")
    assert problems(tmp_path) == [("to a folder", "changed")]


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/hostname", "a/../../secret.wav", ""])
def test_inputs_that_leave_the_recordings_folder_are_refused(name: str, out: Path, tmp_path: Path) -> None:
    (out / INPUTS).write_text(f"blake2,path\n00,{name}\n")
    with pytest.raises(ValueError, match="is no recording below --root"):
        verify(out, data=tmp_path)


def test_a_line_of_inputs_that_is_cut_short_is_refused(out: Path, tmp_path: Path) -> None:
    (out / INPUTS).write_text("blake2,path\n00\n")
    with pytest.raises(ValueError, match="'' is no recording below --root"):
        verify(out, data=tmp_path)


def test_results_that_are_nested_without_end_are_a_finding(out: Path) -> None:
    (out / "results.jsonl").write_text("[" * 100_000)
    assert ("results.jsonl", "disagrees") in problems(out)


@pytest.mark.parametrize("name", ["weights.safetensors", "report.html"])
def test_a_file_of_another_program_is_refused_and_not_called_changed(
    name: str, tmp_path: Path, vagitus: Command
) -> None:
    (tmp_path / name).write_bytes(
        save({"weight": np.zeros(3)}) if name == "weights.safetensors" else b"<html>"
    )
    run = vagitus("verify-run", tmp_path / name)
    assert run.status == 2 and "neither the folder of a study nor a model file of vagitus" in run.err


def edit_summary(out: Path, change: Callable[[dict[str, dict[str, float | None]]], None]) -> None:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    change(next(line for line in lines if line["kind"] == "summary")["metrics"])
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_figure_changed_by_hand_is_found_even_if_all_is_recorded_anew(out: Path) -> None:
    edit_summary(out, lambda metrics: metrics["auroc"].update(estimate=0.321))
    seal(out)
    (finding,) = verify(out).findings
    assert finding.file == "results.jsonl" and finding.problem == "disagrees"
    assert finding.detail.startswith("summary logmel+ridge: auroc is 0.321, predictions.csv gives ")


def test_a_figure_that_is_unknown_is_not_made_known(out: Path) -> None:
    edit_summary(out, lambda metrics: metrics["uar"].update(estimate=None))
    seal(out)
    assert [finding.detail[:40] for finding in verify(out).findings] == [
        "summary logmel+ridge: uar is None, predi"
    ]


def test_a_recording_that_was_changed_or_lost_since_is_named(
    out: Path, manifest: Manifest, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(manifest.root, tmp_path / "data"))
    first, second = str(manifest.path[0]), str(manifest.path[1])
    (data / first).write_bytes((data / second).read_bytes())
    (data / second).unlink()
    assert problems(out, data) == [(first, "changed"), (second, "missing")]


def test_inputs_hold_the_hash_of_each_recording(out: Path, manifest: Manifest) -> None:
    with (out / INPUTS).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["blake2"] for row in rows} == {
        str(manifest.path[i]): content_hash(manifest.file(i)) for i in range(len(manifest))
    }


def test_the_verb_says_what_is_wrong_and_by_its_status(out: Path, vagitus: Command) -> None:
    run = vagitus("verify-run", out)
    assert run.status == 0 and run.out.endswith("; all as written\n")
    (out / "recipe.toml").unlink()
    run = vagitus("verify-run", out)
    assert (run.status, run.err) == (1, "recipe.toml: missing\n")
    assert run.out.endswith("; 1 not as written\n")
    run = vagitus("verify-run", out, "--json")
    assert run.status == 1
    assert json.loads(run.out)["findings"] == [{"file": "recipe.toml", "problem": "missing", "detail": ""}]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "has no run.json: it is not the folder of a finished study"),
        ("{", "is damaged; the files cannot be compared"),
        ('{"format": 1, "files": {"a": 1}}', "is damaged; the files cannot be compared"),
        ('{"format": 2, "files": {}}', "format 2, this version reads 1"),
        ('{"format": 1, "files": {"../secret": "00"}}', "names a file outside its folder"),
        ('{"format": 1, "files": {}}', "names no file, so nothing can be compared"),
    ],
)
def test_what_is_no_finished_run_is_refused(
    record: str | None, message: str, tmp_path: Path, vagitus: Command
) -> None:
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    run = vagitus("verify-run", tmp_path)
    assert run.status == 2 and message in run.err


def test_nothing_there_is_said(tmp_path: Path, vagitus: Command) -> None:
    run = vagitus("verify-run", tmp_path / "none")
    assert run.status == 2 and run.err.endswith("none: no such folder or file\n")


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    paths = [study_data.source(tmp_path / f"{i}.safetensors") for i in range(6)]
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_model_file_holds_its_own_hash(tmp_path: Path, vagitus: Command) -> None:
    path = study_data.source(tmp_path / "m.safetensors")
    assert verify(path).findings == []
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1  # one bit of a weight
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="its contents are not those that were written; it is damaged"):
        load_model(path)
    run = vagitus("verify-run", path)
    assert run.status == 1 and run.err.startswith("m.safetensors: changed (")
    path.write_bytes(whole.replace(b"blake2", b"blake3"))
    run = vagitus("verify-run", path)
    assert run.status == 2 and "holds no hash of its contents" in run.err


def pickled(folder: Path, name: str) -> Path:
    """A torch checkpoint as others have them: in a zip, in the older form, or no tensors at all."""
    path = folder / name
    if name == "bare.pkl":
        path.write_bytes(pickle.dumps({"weight": np.zeros(3)}))
    else:
        torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=name != "older.pth")
    assert path.read_bytes().startswith(PICKLE_MARKS)
    return path


@pytest.mark.parametrize("name", ["zipped.pt", "older.pth", "bare.pkl"])
@pytest.mark.parametrize("verb", ["verify-run", "export"])
def test_every_form_of_pickle_is_known(verb: str, name: str, tmp_path: Path, vagitus: Command) -> None:
    run = vagitus(verb, pickled(tmp_path, name))
    assert run.status == 2
    assert "pickled checkpoint can run code when it is opened" in run.err and "save_file" in run.err


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "MODEL", "MANIFEST"],
        ["compress", "MODEL"],
        ["predict", "MODEL", "a.wav"],
        ["adapt", "MODEL", "--source", "MANIFEST", "--target", "MANIFEST"],
        ["pretrain", "MANIFEST", "--task", "simclr", "--start", "MODEL"],
        ["study", "MANIFEST", "--arms", "words", "--source", "words=MODEL"],
    ],
)
def test_no_verb_opens_a_pickle(
    words: list[str],
    manifest: Manifest,
    tmp_path: Path,
    vagitus: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"MODEL": str(pickled(tmp_path, "zipped.pt")), "MANIFEST": str(manifest.root / "manifest.csv")}
    for key, path in named.items():
        words = [word.replace(key, path) for word in words]
    run = vagitus(*words)
    assert run.status == 2
    assert "pickled checkpoint can run code when it is opened" in run.err and "save_file" in run.err
