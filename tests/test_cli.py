"""The command as a person types it: exit status, one line of error, JSON."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import study_data

from vagitus.corpora.simulated import generate
from vagitus.manifest import read_manifest

README = Path(__file__).parents[1] / "README.md"


def vagitus(
    *words: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "VAGITUS_DATA"}
    return subprocess.run(
        [sys.executable, "-m", "vagitus", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean | environment,
        timeout=300,
        check=False,
    )


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal: the last, after notes and progress."""
    assert run.returncode == 2, run.stderr
    *before, line = run.stderr.splitlines()
    assert line.startswith("vagitus: "), run.stderr
    assert all(other.startswith(("note: ", "auditing ", "computing ", "scoring ")) for other in before), (
        run.stderr
    )
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    study_data.simulated(folder)
    return folder


@pytest.mark.parametrize(
    "words", [[], ["study"], ["audit"], ["corpus"], ["evaluate"], ["train"], ["pretrain"], ["compress"]]
)
def test_every_verb_has_help(words: list[str]) -> None:
    run = vagitus(*words, "--help")
    assert run.returncode == 0 and "Usage" in run.stdout


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", vagitus("--version").stdout)


def test_the_corpora_are_listed_for_people_and_programs() -> None:
    names = {row["name"] for row in json.loads(vagitus("corpus", "list", "--json").stdout)}
    assert {"donateacry", "physionet2016", "sprsound", "simulated"} <= names
    shown = vagitus("corpus", "list").stdout
    assert all(name in shown for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "--fold", "3"], "No such option: --fold"),
        (["stud"], "No such command 'stud'"),
        (["pretrain"], "nothing to learn from: give a manifest or --corpus NAME"),
        (
            ["pretrain", "x.csv", "--task", "word"],
            "no task 'word'; choose from words, speakers, gender, simclr, vicreg",
        ),
        (
            ["pretrain", "x.csv", "--start", "a.safetensors"],
            "options: start is for simclr and vicreg; leave it out for words",
        ),
        (["study", "x.csv", "--source", "words"], "--source 'words': write NAME=FILE"),
        (
            ["study", "x.csv", "--arms", "svm,scratch", "--source", "simclr=m.safetensors"],
            "--source simclr: no arm begins with it among svm, scratch; name one, or leave it out",
        ),
        (
            ["study", "x.csv", "--arms", "svm", "--encoder", "onnx:m.onnx"],
            "--encoder: no arm begins with it among svm",
        ),
        (
            ["compress", "x.safetensors", "--epochs", "3"],
            "--epochs is of fine-tuning, which needs recordings",
        ),
        (["study"], "nothing to study: give a manifest, --corpus NAME or --recipe FILE"),
        (["study", "none.csv"], "none.csv"),
        (["study", "--corpus", "donatecry"], "no corpus 'donatecry'; did you mean 'donateacry'"),
        (["study", "--corpus", "donateacry"], "no data root; give --root or set $VAGITUS_DATA"),
        (["study", "--corpus", "simulated", "--task", "x"], "task 'x'"),
        (["study", "manifest.csv", "--arms", "svm,tree"], "no arm 'tree'; choose from"),
        (["study", "manifest.csv", "--front-end", "mfcc"], "no front end 'mfcc'"),
        (["study", "manifest.csv", "--corpus", "simulated"], "not both"),
        (
            ["study", "manifest.csv", "--positive", "sick"],
            "no label 'sick' to be positive; labels are case, control",
        ),
        (["study", "manifest.csv", "--target-site", "mars"], "no site 'mars'; sites are"),
        (["study", "manifest.csv", "--folds", "1"], "--folds"),
        (["study", "manifest.csv", "--use-split"], "split"),
        (["study", "--recipe", "none.toml"], "none.toml: no such recipe"),
        (["corpus"], "NAME | list | fetch NAME"),
        (["corpus", "nothing"], "no corpus 'nothing'"),
        (["corpus", "fetch", "cryceleb", "--root", "."], "cannot be fetched"),
        (["corpus", "fetch", "donateacry"], "where to put donateacry? give --root"),
        (["audit"], "give a manifest or --corpus NAME"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    elsewhere = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    line = refused(vagitus(*words, *(elsewhere if words[0] == "study" else []), cwd=folder))
    assert message in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.wav,x\n", "subject"),
        ("path,subject,label\nsubject-0000-0.wav,,x\n", "row 2: subject is empty"),
        ("path,subject\n../up.wav,s\n", "row 2"),
        ("path,subject\ngone.wav,s\n", "gone.wav"),
        ("", "empty"),
    ],
)
def test_a_bad_manifest_is_named_with_its_row(folder: Path, text: str, message: str) -> None:
    bad = folder / "bad.csv"
    bad.write_text(text)
    line = refused(vagitus("study", bad, "--out", folder / "no", cwd=folder))
    bad.unlink()
    assert "bad.csv" in line and message in line
    assert not (folder / "no" / "results.jsonl").exists()


def test_a_zip_called_csv_is_refused(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("x", "y")
    assert "t.csv" in refused(vagitus("audit", tmp_path / "t.csv"))


def test_an_unknown_key_of_a_recipe_names_the_nearest(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'data = "{folder / "manifest.csv"}"\nrepeat = 3\n')
    assert "unknown key 'repeat'; did you mean 'repeats'?" in refused(vagitus("study", "--recipe", recipe))


def test_audit_says_no_with_status_1(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = read_manifest(copy / "manifest.csv")
    manifest.file(0).write_bytes(b"")
    run = vagitus(
        "audit", copy / "manifest.csv", "--json", "--out", tmp_path / "audit.json", "--workers", "1"
    )
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found == json.loads((tmp_path / "audit.json").read_text())
    assert any(manifest.path[0] in str(finding) for finding in found["findings"])


def test_a_study_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "r.toml"
    recipe.write_text("n_resamples = 200\n[budget]\nn_inner_folds = 2\nn_members = 1\n")
    words: list[str | Path] = ["study", folder / "manifest.csv", "--recipe", recipe, "--folds", "3"]
    words += [
        "--arms",
        "prevalence,logmel+ridge",
        "--positive",
        "case",
        "--out",
        out,
        "--cache",
        tmp_path / "cache",
        "--json",
    ]
    run = vagitus(*words)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert Path(said["report"]).read_text().startswith("<!doctype html>")
    assert {line["arm"] for line in said["summary"]} == {"prevalence", "logmel+ridge"}
    again = vagitus(
        "study", "--recipe", out / "recipe.toml", "--out", tmp_path / "again", "--cache", tmp_path / "cache"
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    assert "Research use only" in again.stdout


def test_a_model_is_trained_then_measured_on_others_only(folder: Path, tmp_path: Path) -> None:
    model, cache = tmp_path / "m.safetensors", tmp_path / "cache"
    run = vagitus("train", folder / "manifest.csv", "--quick", "--out", model, "--cache", cache)
    assert run.returncode == 0, run.stderr
    assert "control or case" in run.stdout and "Research use only" in run.stdout
    assert "epoch 10: task" in run.stderr
    assert [path.name for path in tmp_path.iterdir() if path != cache] == ["m.safetensors"]
    line = refused(vagitus("evaluate", model, folder / "manifest.csv", "--cache", cache))
    assert "m.safetensors was trained on this recording and 47 more of these 48" in line
    generate(tmp_path / "others", n_subjects=4, n_recordings_per_subject=1, duration_s=1, seed=5)
    run = vagitus("evaluate", model, tmp_path / "others" / "manifest.csv", "--cache", cache, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["n_subjects"] == 4


def test_a_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    line = refused(vagitus("study", folder / "manifest.csv", "--out", tmp_path / "file" / "out"))
    assert str(tmp_path / "file") in line


def test_the_readme_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, capture_output=True)


def test_the_readme_names_only_options_that_exist() -> None:
    help_texts: dict[str, str] = {}
    for command in re.findall(r"^vagitus (.*?)(?:\s+#.*)?$", README.read_text(), re.MULTILINE):
        verb, *words = command.split()
        if verb not in help_texts:
            help_texts[verb] = vagitus(verb, "--help").stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in help_texts[verb], f"{command}: {option}"


def test_the_views_of_a_recipe_reach_the_pretraining(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "views.toml"
    recipe.write_text('task = "simclr"\n[views]\nsnr_db = [20, 0]\n')
    given = ("--recipe", recipe, "--out", tmp_path / "m.safetensors", "--cache", tmp_path / "cache")
    # It is where views are made that this is refused.
    wrong = refused(vagitus("pretrain", folder / "manifest.csv", *given))
    assert "snr_db must be (lowest, highest), got (20.0, 0.0)" in wrong


def test_a_source_is_an_arm_of_a_study_of_other_recordings_only(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "manifest.csv"
    generate(
        elsewhere.parent,
        n_subjects=16,
        n_recordings_per_subject=3,
        duration_s=1.5,
        sample_rate_hz=8000,
        seed=7,
    )
    model = tmp_path / "source.safetensors"
    learning = ("--window-s", "1", "--out", model, "--cache", tmp_path / "cache", "--json")
    collapsed = vagitus(
        *("pretrain", elsewhere, "--task", "simclr", "--epochs", "1", "--batch-size", "4", *learning)
    )
    assert collapsed.returncode == 1 and not model.exists()  # one epoch from so few teaches nothing
    assert "collapsed" in json.loads(collapsed.stdout)["collapse"]
    others = ("--keep-out", folder / "manifest.csv")
    learned = vagitus("pretrain", elsewhere, "--task", "speakers", "--epochs", "1", *others, *learning)
    assert learned.returncode == 0, learned.stderr
    assert json.loads(learned.stdout)["model"] == str(model)
    written = model.read_bytes().decode("latin1")
    assert str(tmp_path) not in written and "--keep-out manifest.csv" in written and "versions" in written
    recipe = tmp_path / "study.toml"
    recipe.write_text(
        "[budget]\nn_inner_folds = 2\nn_members = 1\n[budget.train]\nepochs = 1\nwindow_s = 1.0\n"
        "[budget.continued]\nepochs = 1\nbatch_size = 4\n"
    )
    options: tuple[str | Path, ...] = ("--recipe", recipe, "--arms", "speakers", "--folds", "2")
    options += ("--source", f"speakers={model}")
    out = ("--out", tmp_path / "out", "--cache", tmp_path / "cache", "--json")
    ran = vagitus("study", folder / "manifest.csv", *options, *out)
    assert ran.returncode == 0, ran.stderr
    assert [line["arm"] for line in json.loads(ran.stdout)["summary"]] == ["speakers"]
    other = ("--arms", "simclr+target", "--source", f"simclr={model}", *out)
    wrong = refused(vagitus("study", folder / "manifest.csv", "--recipe", recipe, *other))
    assert "learned speakers, and cannot be the source 'simclr'; give it as --source speakers=" in wrong
    same = refused(vagitus("study", elsewhere, *options, "--out", tmp_path / "again", *out[2:]))
    assert "source.safetensors) was trained on this recording and 47 more of these 48" in same
