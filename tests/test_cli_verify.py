"""The verbs of cry events and of who is crying, as a person types them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from in_process import Command, Run
from test_verification import make_cryceleb, model_file, sound

from vagitus.corpora import simulated
from vagitus.segment import read_events

NOTICE = "Research use only, not a diagnosis."
CAUTION = "no proof of who was recorded"
RATE_HZ = 8_000


def refused(run: Run) -> str:
    """The one line of a refusal."""
    assert run.status == 2, run
    assert run.out == ""
    assert run.err.startswith("vagitus: ") and run.err.count("\n") == 1, run.err
    return run.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of each of three pitches, a cry, a silence, a page of text; a model of random weights."""
    folder = tmp_path_factory.mktemp("verify")
    for subject in range(3):
        for take in range(2):
            samples = sound(4 * subject) + 0.02 * np.random.default_rng(10 * subject + take).standard_normal(
                10_400
            )
            soundfile.write(folder / f"s{subject}-{take}.wav", samples, RATE_HZ)
    rng = np.random.default_rng(1)
    cry = simulated.cry(
        simulated.voice(1, is_case=False, effect=1.0, seed=9), rng, duration_s=6.0, sample_rate_hz=RATE_HZ
    )
    cried = simulated.record(cry.samples, 1, rng, sample_rate_hz=RATE_HZ, seed=9)
    soundfile.write(folder / "cry.wav", cried, RATE_HZ)
    soundfile.write(folder / "silence.wav", np.zeros(2 * RATE_HZ), RATE_HZ)
    (folder / "notes.wav").write_bytes(b"a page of notes\n" * 9)
    model_file(folder / "model.safetensors")
    rows = [
        (f"s{a}-{i}.wav", f"s{b}-{j}.wav", f"s{a}", f"s{b}")
        for a, i in np.ndindex(3, 2)
        for b, j in np.ndindex(3, 2)
        if (a, i) < (b, j)
    ]
    table = [("enrolled", "tested", "enrolled_subject", "tested_subject"), *rows]
    (folder / "trials.csv").write_text("\n".join(map(",".join, table)) + "\n")
    (folder / "unlabelled.csv").write_text(f"enrolled,tested\ns0-0.wav,{folder / 's1-0.wav'}\n")
    return folder


# segment


def test_segment_lists_the_expirations_and_says_what_the_recording_holds(
    vagitus: Command, folder: Path
) -> None:
    run = vagitus("segment", folder / "cry.wav")
    assert run.status == 0 and NOTICE in run.err
    first, *events = run.out.splitlines()
    assert (
        first.startswith(f"{folder / 'cry.wav'}: {len(events)} expirations, ") and "usable, score 0." in first
    )
    assert len(events) >= 4 and all(" s expiration 0." in line or " 1.000" in line for line in events)


def test_segment_json_is_one_text_with_the_notice(vagitus: Command, folder: Path) -> None:
    run = vagitus("segment", folder / "cry.wav", "--json")
    said = json.loads(run.out)
    (recording,) = said["recordings"]
    assert said["notice"] == NOTICE and recording["duration_s"] == pytest.approx(6.0)
    assert recording["events"][0]["kind"] == "expiration" and recording["verdict"]["decision"] == "usable"


@pytest.mark.parametrize(
    ("layout", "ending"),
    [("json", ".json"), ("csv", ".csv"), ("audacity", ".txt"), ("raven", ".selections.txt")],
)
def test_segment_writes_label_files(
    vagitus: Command, folder: Path, tmp_path: Path, layout: str, ending: str
) -> None:
    run = vagitus("segment", folder / "cry.wav", "--out", tmp_path / "labels", "--layout", layout)
    assert run.status == 0
    events = read_events(tmp_path / "labels" / f"cry{ending}", layout)  # type: ignore[arg-type]
    assert len(events) >= 4 and {event.kind for event in events} == {"expiration"}


def test_no_cry_is_said_and_status_1(vagitus: Command, folder: Path) -> None:
    run = vagitus("segment", folder / "silence.wav")
    assert run.status == 1
    assert "no cry was found; too little to hear: no cry was found; record again" in run.out


def test_segment_without_the_detector_takes_level_and_pitch(vagitus: Command, folder: Path) -> None:
    run = vagitus("segment", folder / "cry.wav", "--no-detect")
    assert run.status == 0 and "usable" not in run.out and "expirations" in run.out


def test_segment_of_a_heart_that_is_not_there_finds_none(vagitus: Command, folder: Path) -> None:
    run = vagitus("segment", folder / "silence.wav", "--kind", "heart")
    assert run.status == 1 and "no heart was found" in run.out


def test_an_unreadable_recording_stops_no_other(vagitus: Command, folder: Path) -> None:
    run = vagitus("segment", folder / "notes.wav", folder / "cry.wav")
    assert run.status == 1 and "expirations" in run.out and "notes.wav" in run.err
    assert "notes.wav" in refused(vagitus("segment", folder / "notes.wav"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--kind", "heart", "--threshold", "0.4"), "are of cries"),
        (("--no-detect", "--threshold", "0.4"), "leave --detector and --threshold out"),
        (("--threshold", "7"), "threshold must be a probability"),
        (("--detector", "missing.safetensors"), "missing.safetensors: no such file"),
    ],
)
def test_segment_refuses_what_does_not_go_together(
    vagitus: Command, folder: Path, words: tuple[str, ...], match: str
) -> None:
    assert match in refused(vagitus("segment", folder / "cry.wav", *words))


def test_two_label_files_of_one_name_are_refused(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cry.wav").write_bytes((folder / "cry.wav").read_bytes())
    run = vagitus("segment", folder / "cry.wav", tmp_path / "cry.wav", "--out", tmp_path / "labels")
    assert "two have the same name" in refused(run)


# verify


def test_verify_scores_a_table_with_intervals(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    run = vagitus(
        "verify", folder / "model.safetensors", folder / "trials.csv", "--out", tmp_path / "s.csv", "--json"
    )
    said = json.loads(run.out)
    assert (said["n_trials"], said["n_same"], said["n_different"], said["n_subjects"]) == (15, 3, 12, 3)
    assert said["eer"]["estimate"] < 0.25 and said["notice"] == NOTICE and CAUTION in said["caution"]
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(rows) == 15 and rows[0]["enrolled"] == "s0-0.wav" and -1 <= float(rows[0]["score"]) <= 1


def test_verify_for_people_says_that_it_is_no_proof(vagitus: Command, folder: Path) -> None:
    run = vagitus("verify", folder / "model.safetensors", folder / "trials.csv")
    assert run.status == 0 and run.out.startswith("15 trials of ") and "subjects resampled" in run.out
    assert CAUTION in run.err and NOTICE in run.err


def test_unlabelled_trials_need_a_place_for_their_scores(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    model, trials = folder / "model.safetensors", folder / "unlabelled.csv"
    assert "add --out FILE" in refused(vagitus("verify", model, trials))
    assert vagitus("verify", model, trials, "--out", tmp_path / "s.csv").status == 0
    (row,) = csv.DictReader((tmp_path / "s.csv").open())
    assert (row["enrolled"], row["tested"]) == ("s0-0.wav", "s1-0.wav")


def test_a_cohort_normalises_and_may_not_be_in_a_trial(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    manifest = folder / "cohort.csv"
    manifest.write_text("path,subject\ncry.wav,x\ns2-0.wav,y\ns2-1.wav,z\n")
    (folder / "few.csv").write_text("enrolled,tested,label\ns0-0.wav,s0-1.wav,1\ns0-0.wav,s1-1.wav,0\n")
    model = folder / "model.safetensors"
    assert vagitus("verify", model, folder / "few.csv", "--cohort", manifest).status == 0
    assert "which is in a trial" in refused(
        vagitus("verify", model, folder / "trials.csv", "--cohort", manifest)
    )


def test_a_cohort_may_not_hold_a_subject_of_a_trial(vagitus: Command, folder: Path) -> None:
    manifest = folder / "known.csv"
    manifest.write_text("path,subject\ncry.wav,s1\nsilence.wav,y\n")
    run = vagitus("verify", folder / "model.safetensors", folder / "trials.csv", "--cohort", manifest)
    assert "holds subject 's1', who is in a trial" in refused(run)


def test_trials_of_one_kind_are_refused_before_anything_is_written(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    trials = folder / "one-sided.csv"
    trials.write_text("enrolled,tested,label\ns0-0.wav,s1-0.wav,0\ns0-0.wav,s2-0.wav,0\n")
    run = vagitus("verify", folder / "model.safetensors", trials, "--out", tmp_path / "s.csv")
    assert "one-sided.csv: all 2 trials are of two subjects" in refused(run)
    assert not (tmp_path / "s.csv").exists()


def test_cut_needs_a_cry(vagitus: Command, folder: Path) -> None:
    (folder / "silent.csv").write_text("enrolled,tested,label\nsilence.wav,cry.wav,0\ncry.wav,s1-0.wav,1\n")
    run = vagitus("verify", folder / "model.safetensors", folder / "silent.csv", "--cut")
    assert "silence.wav: no cry was found" in refused(run)


def test_a_cryceleb_folder_goes_to_a_valid_submission(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    corpus = make_cryceleb(tmp_path / "cryceleb")
    model = folder / "model.safetensors"
    out = tmp_path / "submission.csv"
    options = ("--out", out, "--views", "2", "--crop", "0.5", "--cohort", "train")
    said = json.loads(vagitus("verify", model, corpus / "dev_pairs.csv", *options, "--json").out)
    assert (said["n_trials"], said["n_same"], said["notes"]) == (9, 3, [])
    assert next(csv.DictReader(out.open()))["id"] == "0"
    run = vagitus("verify", model, corpus / "test_pairs.csv", *options)
    assert run.status == 0 and "eer" not in run.out and len(out.read_text().splitlines()) == 10
    said = json.loads(vagitus("verify", model, corpus, "--split", "train", "--views", "1", "--json").out)
    assert (said["n_trials"], said["n_subjects"]) == (9, 3)
    assert "who is in a trial" in refused(
        vagitus("verify", model, corpus, "--split", "train", "--cohort", "train", "--views", "1")
    )


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("trials.csv", "--split", "dev"), "is of a CryCeleb folder"),
        (("trials.csv", "--root", "."), "--root is of CryCeleb's pairs"),
        ((".", "--root", "."), "is a folder; leave it out"),
        (("trials.csv", "--crop", "nan"), "a crop must be over 0"),
        (("nothing.csv",), "nothing.csv: no such file"),
        (("notes.wav",), "has no column 'enrolled'"),
    ],
)
def test_verify_refuses(vagitus: Command, folder: Path, words: tuple[str, ...], match: str) -> None:
    run = vagitus("verify", folder / "model.safetensors", folder / words[0], *words[1:])
    assert match in refused(run)


# The store.


def test_enrol_identify_erase(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "ward.db", ("--model", folder / "model.safetensors")
    for name in range(3):
        assert vagitus("enrol", store, f"infant-{name}", folder / f"s{name}-0.wav", *model).status == 0
    run = vagitus("identify", store, folder / "s1-1.wav", *model)
    assert run.status == 0 and run.out.startswith("1. infant-1: score ") and CAUTION in run.err
    said = json.loads(vagitus("identify", store, folder / "s1-1.wav", *model, "--top", "2", "--json").out)
    assert said["matches"][0]["subject"] == "infant-1" and len(said["matches"]) == 2
    again = json.loads(vagitus("enrol", store, "infant-1", folder / "s1-0.wav", *model, "--json").out)
    assert (again["n_new"], again["n_enrolled"]) == (0, 1)
    assert vagitus("erase", store, "infant-1").out.endswith("1 recordings; 2 subjects are left\n")
    assert "infant-1" not in vagitus("identify", store, folder / "s1-1.wav", *model).out
    assert "nobody named 'infant-1'" in refused(vagitus("erase", store, "infant-1"))


def test_below_the_threshold_it_is_nobody(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "ward.db", ("--model", folder / "model.safetensors")
    vagitus("enrol", store, "infant-0", folder / "s0-0.wav", *model)
    run = vagitus("identify", store, folder / "s1-1.wav", *model, "--threshold", "1.5")
    assert run.status == 1 and run.out.startswith("nobody: infant-0 is nearest, score ")


def test_a_store_of_another_encoder_is_refused(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "ward.db"
    vagitus("enrol", store, "infant-0", folder / "s0-0.wav", "--model", folder / "model.safetensors")
    other = model_file(tmp_path / "other.safetensors", width=16, bottleneck=4, embedding=6)
    assert "made by encoder" in refused(vagitus("identify", store, folder / "s0-1.wav", "--model", other))


def test_a_store_that_is_not_there_names_the_verb_that_makes_one(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    run = vagitus(
        "identify", tmp_path / "no.db", folder / "s0-1.wav", "--model", folder / "model.safetensors"
    )
    assert "`vagitus enrol` makes a store" in refused(run)


def test_a_recording_that_cannot_be_read_enrols_nothing(
    vagitus: Command, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "ward.db"
    recordings = folder / "s0-0.wav", folder / "notes.wav"
    run = vagitus("enrol", store, "infant-0", *recordings, "--model", folder / "model.safetensors")
    assert "notes.wav" in refused(run) and not store.exists()


def test_a_name_that_is_refused_makes_no_store(vagitus: Command, folder: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "ward.db", folder / "model.safetensors"
    assert "printable characters" in refused(
        vagitus("enrol", store, " infant-0", folder / "s0-0.wav", "--model", model)
    )
    assert not store.exists()
