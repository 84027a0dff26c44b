"""Corpora: the contract of every row, small copies in each publisher's layout, and the real ones counted by hand."""

import json
import os
import pkgutil
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vagitus import audio, corpora
from vagitus.audio import AudioError
from vagitus.corpora import CORPORA, all_recordings, donateacry, fetch_corpus, find_corpus, load_corpus
from vagitus.corpora.corpus import Corpus, audio_files
from vagitus.features import PRESETS
from vagitus.manifest import Manifest, read_manifest, write_manifest
from vagitus.splits import predefined

ON_DISK = sorted(set(CORPORA) - {"simulated"})


def sound(path: Path, *, duration_s: float = 0.01, rate_hz: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(duration_s * rate_hz), dtype=np.int16), rate_hz)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def by_path(manifest: Manifest, column: str) -> dict[str, str]:
    values = manifest.covariates[column] if column in manifest.covariates else getattr(manifest, column)
    return dict(zip(manifest.path.tolist(), values.tolist(), strict=True))


# One small copy a corpus, each in its publisher's layout; builders give the folder's name below the data root.

ANDROID, IOS = "donateacry-android-upload-bucket", "donateacry-ios-upload-bucket"
CLEANED = "donateacry_corpus_cleaned_and_updated_data"
PHONE_A, PHONE_B = "0c8f14a9-6999-485b-97a2-913c1cbf099c", "0D1AD73E-4C5E-45F3-85C4-9A3CB71E8856"
CRIES = {
    f"{ANDROID}/{PHONE_A}-1431028888092-1.7-m-26-hu": 4.0,  # listed
    f"{ANDROID}/{PHONE_A}-1431028899092-1.7-m-26-hu": 3.0,  # rejected: just long enough
    f"{ANDROID}/{PHONE_A}-1431115288092-1.7-m-72-ti": 2.999,  # a sample too short to be a candidate
    f"{ANDROID}/{PHONE_A}-1431115299092-1.7-m-72-dk": 5.0,  # no candidate's tag
    f"{IOS}/{PHONE_B}-1430742197-1.0-f-04-ch": 4.0,  # listed
    f"{IOS}/{PHONE_B.lower()}-1430742200-1.0-f-04-bp": 4.0,  # the same phone, rejected
}
LISTED = [f"{PHONE_A}-1431028888092-1.7-m-26-hu", f"{PHONE_B}-1430742197-1.0-f-04-ch"]


def make_donateacry(root: Path) -> str:
    for stem, duration_s in CRIES.items():
        sound(root / "donateacry" / f"{stem}.wav", duration_s=duration_s, rate_hz=1000)
    text(
        root / "donateacry" / "cleaned.csv", "stem,folder\n" + "".join(f"{stem},cleaned\n" for stem in LISTED)
    )
    return "donateacry"


def make_chillanto(root: Path) -> str:
    for name in ("1s_asphyxia/0001001001", "1s_asphyxia/0001001002", "1s_asphyxia/0002001001"):
        sound(root / "chillanto" / f"{name}.wav")
    for name in ("1s_normal/0010001001", "1s_hunger/0011001001", "1s_pain/0012001001", "1s_deaf/0020001001"):
        sound(root / "chillanto" / f"{name}.wav")
    sound(root / "chillanto" / "Full_asphyxia" / "0001.wav")
    return "chillanto"


def make_cryceleb(root: Path) -> str:
    rows = ["baby_id,period,duration,split,chronological_index,file_name,file_id"]
    for baby, split in (("b1", "train"), ("b2", "dev"), ("b3", "test")):
        for period in "BD":
            name = f"audio/{split}/{baby}/{period}/{baby}_{period}_000.wav"
            rows.append(f"{baby},{period},1.2,{split},0,{name},x")
            sound(root / "cryceleb" / name)
    rows.append("b3,D,1.2,test,1,audio/test/b3/D/b3_D_001.wav,x")  # not here
    text(root / "cryceleb" / "metadata.csv", "\n".join(rows) + "\n")
    return "cryceleb"


def make_physionet2016(root: Path) -> str:
    for database, labels in {"a": (1, -1), "e": (-1, 1)}.items():
        folder = root / "physionet2016" / f"training-{database}"
        for i, _ in enumerate(labels, start=1):
            sound(folder / f"{database}000{i}.wav")
        lines = [f"{database}000{i},{label}" for i, label in enumerate(labels, start=1)]
        text(folder / "REFERENCE.csv", "\n".join([*lines, f"{database}0009,1"]) + "\n")
    sound(root / "physionet2016" / "training-a" / "a0777.wav")  # nowhere listed
    sound(root / "physionet2016" / "validation" / "a0001.wav")  # a copy that must not be read
    return "physionet2016"


CIRCOR_HEADER = (
    "Patient ID,Recording locations:,Age,Sex,Height,Weight,Pregnancy status,Murmur,Murmur locations,"
    "Most audible location,Systolic murmur timing,Systolic murmur shape,Systolic murmur grading,Systolic murmur pitch,"
    "Systolic murmur quality,Diastolic murmur timing,Diastolic murmur shape,Diastolic murmur grading,"
    "Diastolic murmur pitch,Diastolic murmur quality,Outcome,Campaign,Additional ID"
)


def make_circor(root: Path) -> str:
    nan = ",".join(["nan"] * 12)
    text(
        root / "circor" / "training_data.csv",
        f"{CIRCOR_HEADER}\n"
        f"2530,AV+MV,Child,Female,98.0,15.9,False,Absent,{nan},Abnormal,CC2014,50379.0\n"
        f"50379,AV,Child,Female,99.0,16.4,False,Absent,{nan},Normal,CC2015,2530.0\n"
        f"9979,MV,Infant,Male,nan,nan,False,Present,{nan},Abnormal,CC2015,nan\n"
        f"13918,TV,Child,Male,98.0,15.9,False,Unknown,{nan},Normal,CC2015,nan\n"
        f"99999,TV,Child,Male,98.0,15.9,False,Present,{nan},Normal,CC2015,nan\n",
    )
    for name in ("2530_AV", "2530_MV", "50379_AV_2", "9979_MV", "13918_TV", "777_AV"):
        sound(root / "circor" / "training_data" / f"{name}.wav")
    text(root / "circor" / "training_data" / "2530_AV.tsv", "0\t0.2\t1\n")
    return "circor"


def make_sprsound(root: Path) -> str:
    records = {
        "65101170_0.4_0_p1_3246": ("Normal", [(342, 2515, "Normal"), (2557, 3776, "Normal")]),
        "65101170_0.4_0_p2_3247": ("CAS & DAS", [(100, 900, "Wheeze+Crackle"), (900, 900, "Wheeze")]),
        "40069321_15.3_1_p3_981": ("DAS", [(0, 700, "Fine Crackle"), (700, 1400, "Cough")]),
        "40069321_15.3_1_p4_982": ("Poor Quality", []),
    }
    folder = root / "sprsound"
    for i, (name, (record, events)) in enumerate(records.items()):
        sound(folder / "train_wav" / f"{name}.wav")
        key = "record_annotation" if i else "recording_annotation"  # as files, and as the readme says
        listed = [{"start": str(start), "end": str(end), "type": kind} for start, end, kind in events]
        text(folder / "train_json" / f"{name}.json", json.dumps({key: record, "event_annotation": listed}))
    sound(folder / "train_wav" / "40069321_15.3_1_p4_983.wav")  # not annotated
    sound(folder / "train_wav" / "notes.wav")
    sound(folder / "train_wav_again" / "40069321_15.3_1_p3_981.wav")
    return "sprsound"


def make_icbhi(root: Path) -> str:
    folder = root / "ICBHI_final_database"
    cycles = {
        "101_1b1_Al_sc_Meditron": "0.036\t0.579\t0\t0\n0.579\t2.45\t1\t0\n",
        "101_1b1_Pr_sc_Meditron": "0.0\t1.5\t0\t1\n1.5\t1.5\t0\t0\n",
        "107_2b3_Ar_mc_AKGC417L": "0.2\t1.9\t1\t1\n1.9\t3.1\t0\t0\n",
    }
    for name, lines in cycles.items():
        sound(folder / f"{name}.wav")
        text(folder / f"{name}.txt", lines)
    text(folder / "patient_diagnosis.csv", "101,URTI\n107,COPD\n")
    text(folder / "demographic_info.txt", "101 3 F NA 19 99\n107 75 F 33.7 NA NA\n")
    text(
        folder / "ICBHI_challenge_train_test.txt",
        "101_1b1_Al_sc_Meditron\ttest\n101_1b1_Pr_sc_Meditron\ttrain\n107_2b3_Ar_mc_AKGC417L\ttrain\n",
    )
    return "ICBHI_final_database"


def make_speech_commands(root: Path) -> str:
    folder = root / "speech_commands_v0.02"
    for name in ("bed/0a7c2a8d", "bed/1b88bf70", "cat/0a7c2a8d", "cat/2da58b32"):
        sound(folder / f"{name}_nohash_0.wav")
    sound(folder / "_background_noise_" / "white_noise.wav")
    text(folder / "validation_list.txt", "bed/1b88bf70_nohash_0.wav\n")
    text(folder / "testing_list.txt", "cat/2da58b32_nohash_0.wav\n")
    return "speech_commands_v0.02"


def make_librispeech(root: Path) -> str:
    folder = root / "LibriSpeech"
    for name in ("train-clean-100/19/198/19-198-0000", "train-clean-100/26/495/26-495-0001"):
        sound(folder / f"{name}.flac")
    for name in ("dev-clean/84/121123/84-121123-0000", "test-other/367/130732/367-130732-0000"):
        sound(folder / f"{name}.flac")
    text(
        folder / "SPEAKERS.TXT",
        "; comment\n;ID  |SEX| SUBSET |MINUTES| NAME\n"
        "19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n"
        "26   | M | train-clean-100  | 25.08 | Denny Sayers\n"
        "84   | F | dev-clean | 8.0 | A | B\n",
    )
    return "LibriSpeech"


def make_vctk(root: Path) -> str:
    folder = root / "VCTK-Corpus-0.92"
    for name in ("p225/p225_001_mic1", "p225/p225_001_mic2", "p226/p226_001_mic1", "s5/s5_001_mic1"):
        sound(folder / "wav48_silence_trimmed" / f"{name}.flac")
    text(
        folder / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \np225  23  F    English    Southern  England\n"
        "p226  22  M    English    Surrey\n",
    )
    return "VCTK-Corpus-0.92"


def make_dspspeech20(root: Path) -> str:
    for name in ("16307110258/16307110258-00-02", "16307110258/16307110258-19-20", "123/123-00-01"):
        sound(root / "DSPSpeech-20" / f"{name}.wav")
    return "DSPSpeech-20"


def make_esc(root: Path) -> str:
    folder = root / "ESC-50-master"
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for name, category in (
        ("1-187207-A-20", "crying_baby"),
        ("1-100032-A-0", "dog"),
        ("1-100032-B-0", "dog"),
    ):
        sound(folder / "audio" / f"{name}.wav")
        lines.append(f"{name}.wav,1,0,{category},True,0,A")
    text(folder / "meta" / "esc50.csv", "\n".join(lines) + "\n")
    return "ESC-50-master"


def make_vggsound(root: Path) -> str:
    folder = root / "vggsound"
    text(
        folder / "vggsound.csv",
        "---g-f_I2yQ,1,people marching,test\n"
        '--0PQM4-hqg,30,"waterfall, burbling",train\n'
        "abcdefghijk,110,baby crying,train\n",
    )
    sound(folder / "train" / "--0PQM4-hqg_000030.wav")
    sound(folder / "test" / "---g-f_I2yQ_000001.flac")
    return "vggsound"


LAYOUTS: dict[str, Callable[[Path], str]] = {
    "donateacry": make_donateacry,
    "chillanto": make_chillanto,
    "cryceleb": make_cryceleb,
    "physionet2016": make_physionet2016,
    "circor": make_circor,
    "sprsound": make_sprsound,
    "icbhi": make_icbhi,
    "speech_commands": make_speech_commands,
    "librispeech": make_librispeech,
    "vctk": make_vctk,
    "dspspeech20": make_dspspeech20,
    "esc": make_esc,
    "vggsound": make_vggsound,
}
# Every other task has two classes, and its row must name the positive one.
MANY_CLASSES = {"reason", "category", "identity", "record", "events", "diagnosis", "words", "speakers"}
TASKS = [(name, task) for name, corpus in CORPORA.items() if name != "simulated" for task in corpus.tasks]


# The contract of every row.


def test_no_corpus_file_is_missing_from_the_table() -> None:
    files = {module.name for module in pkgutil.iter_modules(corpora.__path__)} - {"corpus"}
    assert files == set(CORPORA)
    assert set(LAYOUTS) == set(ON_DISK)


@pytest.mark.parametrize("name", CORPORA)
def test_a_row_says_all_that_a_user_must_know(name: str) -> None:
    corpus = CORPORA[name]
    assert corpus.name == name
    assert min(len(corpus.title), len(corpus.licence), len(corpus.citation)) > 0
    assert corpus.default_task in corpus.tasks
    assert set(corpus.tasks) - set(corpus.positive) == set(corpus.tasks) & MANY_CLASSES
    assert set(corpus.positive) <= set(corpus.tasks)
    assert set(corpus.task_notes) <= set(corpus.tasks)
    assert corpus.preset in PRESETS
    assert corpus.how_to_get
    assert corpus.folder
    assert corpus.marks
    for item in corpus.fetch:
        assert item.sha256 or item.commit


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_every_task_of_every_layout_loads_and_survives_the_disk(name: str, task: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / LAYOUTS[name](tmp_path / "data")
    manifest = load_corpus(name, root=tmp_path / "data", task=task)
    assert manifest.source == name
    assert not manifest.simulated
    assert manifest.class_names
    if task in CORPORA[name].positive:
        assert len(manifest.class_names) == 2
        assert CORPORA[name].positive[task] in manifest.class_names
    # The corpus folder is as good as the data root, and every note survives being written.
    itself = load_corpus(name, root=folder, task=task)
    write_manifest(itself, folder / "made.csv")
    again = read_manifest(folder / "made.csv")
    for column in ("path", "subject", "label", "site", "split"):
        assert getattr(again, column).tolist() == getattr(manifest, column).tolist()
    assert set(again.notes) == set(manifest.notes)


@pytest.mark.parametrize("name", ON_DISK)
def test_a_copy_in_another_format_is_the_same_corpus(name: str, tmp_path: Path) -> None:
    folder = tmp_path / LAYOUTS[name](tmp_path)
    before = load_corpus(name, root=tmp_path)
    for path in sorted(folder.rglob("*.wav")):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(".flac"), samples, rate_hz)
        path.unlink()
    after = load_corpus(name, root=tmp_path)
    assert [p.rpartition(".")[0] for p in after.path.tolist()] == [
        p.rpartition(".")[0] for p in before.path.tolist()
    ]
    assert after.label.tolist() == before.label.tolist()
    assert after.notes == tuple(note.replace(".wav", ".flac") for note in before.notes)


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_corpus_says_where_it_looked_and_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_corpus(name, root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name}: neither {tmp_path} nor {CORPORA[name].folder[0]}")
    assert message.endswith(CORPORA[name].how_to_get)
    assert ("vagitus corpus fetch" in message) == bool(CORPORA[name].fetch)
    assert "\n" not in message


@pytest.mark.parametrize("name", ON_DISK)
def test_a_corpus_that_cannot_be_fetched_says_what_to_do(name: str, tmp_path: Path) -> None:
    if CORPORA[name].fetch:
        (tmp_path / CORPORA[name].folder[0] / "mine").mkdir(parents=True)
        with pytest.raises(ValueError, match="exists already"):  # before any byte is asked for
            fetch_corpus(name, tmp_path)
    else:
        with pytest.raises(ValueError, match=f"{name} cannot be fetched; "):
            fetch_corpus(name, tmp_path)


def test_no_data_root_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAGITUS_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"esc: no data root; give --root or set \$VAGITUS_DATA"):
        load_corpus("esc")


def test_the_data_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_esc(tmp_path)
    monkeypatch.setenv("VAGITUS_DATA", str(tmp_path))
    assert len(load_corpus("esc")) == 3


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="no corpus 'donatecry'; did you mean 'donateacry'\\? choose from simulated, "
    ):
        find_corpus("donatecry")


def test_an_unknown_task_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="esc has no task 'dogs'; choose from category, cry"):
        load_corpus("esc", root=tmp_path, task="dogs")


def test_a_corpus_of_unreadable_names_only_is_an_error(tmp_path: Path) -> None:
    sound(tmp_path / "donateacry" / ANDROID / "cry.wav")
    with pytest.raises(
        ValueError, match=r"no recording of task 'platform' in .* \(1 left out, their names do not parse"
    ):
        load_corpus("donateacry", root=tmp_path, task="platform")


# What they share.


def test_audio_files_are_found_once_and_hidden_ones_not(tmp_path: Path) -> None:
    for name in ("b/x.flac", "b/x.wav", "b/y.FLAC", "._z.wav", ".git/w.wav", "c.d.wav"):
        sound(tmp_path / name)
    text(tmp_path / "b" / "x.txt", "")
    files, notes = audio_files(tmp_path)
    assert files == {"b/x": "b/x.wav", "b/y": "b/y.FLAC", "c.d": "c.d.wav"}
    assert notes == ["1 recordings lie here in two formats; one of each was taken"]


def reading(rows: list[tuple[str, str]]) -> Callable[[Path, str], corpora.corpus.Reading]:
    def read(folder: Path, task: str) -> corpora.corpus.Reading:
        for i, _ in enumerate(rows):
            sound(folder / f"{i}.wav")
        given = [
            {"path": f"{i}.wav", "subject": subject, "label": task, "official_split": part}
            for i, (subject, part) in enumerate(rows)
        ]
        return corpora.corpus.Reading([dict(row) for row in given], [])

    return read


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([("a", "train"), ("b", "dev"), ("c", "test")], None),
        ([("a", "train"), ("b", "dev"), ("c", "")], "it has no test here"),
        ([("a", "train"), ("b", "inter_test")], "it has no dev and no test here"),
        ([("a", "train"), ("b", "dev"), ("a", "test")], "1 subjects stand on two sides"),
        ([("a", ""), ("b", "")], None),
    ],
)
def test_the_official_split_is_used_only_where_it_makes_a_fold(
    rows: list[tuple[str, str]], note: str | None, tmp_path: Path
) -> None:
    (tmp_path / "mark").touch()
    corpus = Corpus("x", "x", ("x",), ("mark",), ("t",), "t", "x", "x", "lung", reading(rows), gated="x")
    manifest = corpus.load(tmp_path)
    said = [n for n in manifest.notes if n.startswith("the publisher's split stays in official_split: ")]
    assert [n.partition(": ")[2] for n in said] == ([note] if note else [])
    assert manifest.covariates["official_split"].tolist() == [part for _, part in rows]
    if note is None and rows[0][1]:
        assert [
            fold.test.tolist() for fold in predefined(manifest.split, manifest.subject, manifest.label)
        ] == [[2]]
    else:
        assert set(manifest.split.tolist()) == {""}


# Each corpus's own rules, on the small copies.


def test_donateacry_usable_is_listed_and_rejected_is_a_long_candidate_that_is_not(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    manifest = load_corpus("donateacry", root=tmp_path)
    expected = ["usable", "rejected", "", "", "usable", "rejected"]
    assert by_path(manifest, "label") == {f"{s}.wav": e for s, e in zip(CRIES, expected, strict=True)}
    assert "1 unlabelled: shorter than 3 s" in manifest.notes
    assert "1 unlabelled: lonely, scared or unknown" in manifest.notes
    assert "a subset: 6 of 1,127 recordings are here" in manifest.notes


def test_donateacry_names_are_read_alike_on_both_platforms(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    manifest = load_corpus("donateacry", root=tmp_path, task="platform")
    android, ios = f"{ANDROID}/{LISTED[0]}.wav", f"{IOS}/{LISTED[1]}.wav"
    # 1430742197 s is the epoch that the corpus's readme translates to Mon, 04 May 2015 12:23:17 GMT.
    assert by_path(manifest, "recorded_at")[ios] == "2015-05-04T12:23:17+00:00"
    assert by_path(manifest, "recorded_at")[android] == "2015-05-07T20:01:28+00:00"
    assert by_path(manifest, "session")[android] == f"{PHONE_A} 2015-05-07"
    assert by_path(manifest, "age")[android] == "2-6 months"
    assert by_path(manifest, "gender")[ios] == "female"
    assert by_path(manifest, "app_version")[android] == "1.7"
    assert by_path(manifest, "label")[ios] == by_path(manifest, "site")[ios] == "ios"
    # One phone, whatever the case of its UUID; another age is another infant.
    assert manifest.n_subjects == 2
    assert len(set(manifest.covariates["infant"].tolist())) == 3


def test_donateacry_reasons_are_those_of_usable_cries(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    manifest = load_corpus("donateacry", root=tmp_path, task="reason")
    labels = by_path(manifest, "label")
    assert labels[f"{ANDROID}/{LISTED[0]}.wav"] == "hungry"
    assert labels[f"{IOS}/{LISTED[1]}.wav"] == "discomfort"  # cold or hot
    assert Counter(labels.values())[""] == 4
    assert any("never report it from a random split" in note for note in manifest.notes)


def test_donateacry_prefers_the_publishers_own_folder_of_kept_cries(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    kept = f"{PHONE_A}-1431028899092-1.7-m-26-hu"
    sound(tmp_path / "donateacry" / CLEANED / "hungry" / f"{kept}.wav")
    manifest = load_corpus("donateacry", root=tmp_path)
    labels = by_path(manifest, "label")
    assert labels[f"{ANDROID}/{kept}.wav"] == "usable"
    assert labels[f"{ANDROID}/{LISTED[0]}.wav"] == "rejected"
    assert len(manifest) == len(CRIES)  # the kept copies are no further recordings


def test_donateacry_with_kept_copies_only_has_reasons_but_no_rejected(tmp_path: Path) -> None:
    for stem in LISTED:
        sound(tmp_path / "donateacry-corpus" / CLEANED / "all" / f"{stem}.wav")
    manifest = load_corpus("donateacry", root=tmp_path, task="reason")
    assert sorted(manifest.label.tolist()) == ["discomfort", "hungry"]
    assert manifest.site_names == ("android", "ios")  # told by the epoch's unit
    with pytest.raises(FileNotFoundError, match="so no rejected recording; get the uploads"):
        load_corpus("donateacry", root=tmp_path)


def test_donateacry_without_a_list_cannot_tell_usable_cries(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    (tmp_path / "donateacry" / "cleaned.csv").unlink()
    with pytest.raises(FileNotFoundError, match="so nothing says which cries are usable"):
        load_corpus("donateacry", root=tmp_path)
    manifest = load_corpus("donateacry", root=tmp_path, task="reason")
    assert Counter(manifest.label.tolist()) == {
        "hungry": 2,
        "tired": 1,
        "discomfort": 1,
        "belly_pain": 1,
        "": 1,
    }
    assert any("all with one of the reasons are labelled" in note for note in manifest.notes)
    text(tmp_path / "donateacry" / "cleaned.csv", "name\nx\n")
    with pytest.raises(ValueError, match=r"cleaned.csv: has no column 'stem'; found only: name"):
        load_corpus("donateacry", root=tmp_path)


def test_donateacry_a_broken_recording_is_counted_and_a_missing_decoder_is_raised(tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    rejected = [
        f"{ANDROID}/{PHONE_A}-1431028899092-1.7-m-26-hu.wav",
        f"{IOS}/{PHONE_B.lower()}-1430742200-1.0-f-04-bp.wav",
    ]
    text(tmp_path / "donateacry" / rejected[0], "")
    manifest = load_corpus("donateacry", root=tmp_path)
    assert by_path(manifest, "label")[rejected[0]] == ""
    assert (
        f"1 left out, unlabelled since their length cannot be read (first: {rejected[0]})" in manifest.notes
    )
    for path in (rejected[1], f"{ANDROID}/{PHONE_A}-1431115288092-1.7-m-72-ti.wav"):
        text(tmp_path / "donateacry" / path, "")
    with pytest.raises(AudioError, match=r"1431028899092-1.7-m-26-hu.wav: "):
        load_corpus("donateacry", root=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        f"{PHONE_B}-1426958010-1.0-96274EC9-59EB-49E3-96F3-A24D498FB7C3-f-26-ti",
        f"{PHONE_B}-1426957748.47029-1-0911C8F7-99D0-4A44-BC34-894BA5D83032-f-26-ti",
    ],
)
def test_donateacry_early_names_with_a_second_uuid_belong_to_the_first(name: str, tmp_path: Path) -> None:
    sound(tmp_path / "donateacry" / IOS / f"{name}.caf.wav")
    manifest = load_corpus("donateacry", root=tmp_path, task="platform")
    assert manifest.subject.tolist() == [PHONE_B.lower()]
    assert manifest.covariates["recorded_at"].tolist()[0].startswith("2015-03-21T17:")


@pytest.mark.parametrize(
    "name",
    [
        "note",
        f"{PHONE_A[:-1]}-1431028888092-1.7-m-26-hu",
        f"{PHONE_A}-1431028888092-1.7-x-26-hu",
        f"{PHONE_A}-1431028888092-1.7-m-99-hu",
        f"{PHONE_A}-1431028888092-1.7-m-26-zz",
    ],
)
def test_donateacry_names_that_do_not_parse_are_counted_and_named(name: str, tmp_path: Path) -> None:
    make_donateacry(tmp_path)
    sound(tmp_path / "donateacry" / ANDROID / f"{name}.wav")
    manifest = load_corpus("donateacry", root=tmp_path)
    assert len(manifest) == len(CRIES)
    assert f"1 left out, their names do not parse (first: {ANDROID}/{name}.wav)" in manifest.notes


def test_chillanto_groups_by_four_characters_and_pools_the_healthy(tmp_path: Path) -> None:
    make_chillanto(tmp_path)
    manifest = load_corpus("chillanto", root=tmp_path)
    assert Counter(manifest.label.tolist()) == {"asphyxia": 3, "normal": 3}
    assert by_path(manifest, "subject")["1s_asphyxia/0001001002.wav"] == "0001"
    assert manifest.n_subjects == 5
    assert "1 recordings of deaf infants left out" in manifest.notes
    assert (
        "1 left out, they hold the one-second pieces uncut (first: Full_asphyxia/0001.wav)" in manifest.notes
    )
    category = load_corpus("chillanto", root=tmp_path, task="category")
    assert category.class_names == ("asphyxia", "deaf", "hunger", "normal", "pain")


def test_cryceleb_splits_by_infant_for_periods_but_not_for_identities(tmp_path: Path) -> None:
    make_cryceleb(tmp_path)
    period = load_corpus("cryceleb", root=tmp_path, task="period")
    assert by_path(period, "split")["audio/dev/b2/D/b2_D_000.wav"] == "dev"
    assert by_path(period, "label")["audio/dev/b2/D/b2_D_000.wav"] == "D"
    assert by_path(period, "session")["audio/dev/b2/D/b2_D_000.wav"] == "b2 D"
    assert "1 recordings of metadata.csv are not here" in period.notes
    (tmp_path / "cryceleb" / "audio" / "dev" / "b2" / "D" / "stray.wav").touch()
    identity = load_corpus("cryceleb", root=tmp_path)
    assert any(
        "metadata.csv does not list them (first: audio/dev/b2/D/stray.wav)" in n for n in identity.notes
    )
    assert identity.label.tolist() == identity.subject.tolist()
    assert set(identity.split.tolist()) == {""}
    (tmp_path / "cryceleb" / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.csv is missing; download it beside audio/"):
        load_corpus("cryceleb", root=tmp_path)


def test_physionet2016_takes_each_recording_for_a_subject_and_says_so(tmp_path: Path) -> None:
    make_physionet2016(tmp_path)
    manifest = load_corpus("physionet2016", root=tmp_path)
    assert by_path(manifest, "label") == {
        "training-a/a0001.wav": "abnormal",
        "training-a/a0002.wav": "normal",
        "training-e/e0001.wav": "normal",
        "training-e/e0002.wav": "abnormal",
    }
    assert manifest.site.tolist() == ["a", "a", "e", "e"]
    assert manifest.n_subjects == 4
    assert any("only a split across databases (sites) is subject-safe" in note for note in manifest.notes)
    assert "2 recordings of the REFERENCE.csv files are not here" in manifest.notes
    assert "1 left out, REFERENCE.csv does not list them (first: training-a/a0777.wav)" in manifest.notes


def test_physionet2016_refuses_another_label_and_a_missing_table(tmp_path: Path) -> None:
    make_physionet2016(tmp_path)
    text(tmp_path / "physionet2016" / "training-a" / "REFERENCE.csv", "a0001,1\na0002,0\n")
    with pytest.raises(ValueError, match=r"training-a/REFERENCE.csv, row 2: 'a0002,0' is not RECORDING,1"):
        load_corpus("physionet2016", root=tmp_path)
    (tmp_path / "physionet2016" / "training-a" / "REFERENCE.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"REFERENCE.csv is missing; it holds the labels"):
        load_corpus("physionet2016", root=tmp_path)


def test_circor_makes_one_subject_of_a_patient_of_both_campaigns(tmp_path: Path) -> None:
    make_circor(tmp_path)
    manifest = load_corpus("circor", root=tmp_path, task="outcome")
    subjects = by_path(manifest, "subject")
    assert subjects["training_data/2530_AV.wav"] == subjects["training_data/50379_AV_2.wav"] == "2530"
    assert manifest.n_subjects == 3
    assert by_path(manifest, "label")["training_data/50379_AV_2.wav"] == "Normal"
    assert by_path(manifest, "session")["training_data/50379_AV_2.wav"] == "CC2015"
    assert by_path(manifest, "location")["training_data/2530_MV.wav"] == "MV"
    assert by_path(manifest, "segmentation")["training_data/2530_AV.wav"] == "training_data/2530_AV.tsv"
    assert by_path(manifest, "height_cm")["training_data/9979_MV.wav"] == ""
    assert "a subset: 4 of 5 patients of training_data.csv are here" in manifest.notes


def test_circor_an_unknown_murmur_is_unlabelled(tmp_path: Path) -> None:
    make_circor(tmp_path)
    manifest = load_corpus("circor", root=tmp_path)
    assert by_path(manifest, "label")["training_data/13918_TV.wav"] == ""
    assert by_path(manifest, "label")["training_data/9979_MV.wav"] == "Present"
    assert "1 unlabelled: Murmur is Unknown" in manifest.notes
    assert any(
        "does not list their patients (first: training_data/777_AV.wav)" in note for note in manifest.notes
    )


def test_sprsound_adventitious_leaves_out_poor_quality_and_counts_it(tmp_path: Path) -> None:
    make_sprsound(tmp_path)
    manifest = load_corpus("sprsound", root=tmp_path)
    assert manifest.label.tolist() == ["adventitious", "normal", "adventitious"]
    assert manifest.subject.tolist() == ["40069321", "65101170", "65101170"]
    assert by_path(manifest, "sex")["train_wav/40069321_15.3_1_p3_981.wav"] == "female"
    assert by_path(manifest, "location")["train_wav/40069321_15.3_1_p3_981.wav"] == "right posterior"
    assert by_path(manifest, "age")["train_wav/65101170_0.4_0_p1_3246.wav"] == "0.4"
    assert "1 Poor Quality recordings left out" in manifest.notes
    assert "a subset: 4 of 2,683 recordings are here" in manifest.notes
    assert "1 left out, their names do not parse (first: train_wav/notes.wav)" in manifest.notes
    assert any(note.startswith("1 left out, no annotation lies here") for note in manifest.notes)
    assert any(
        note.startswith("1 left out, the same name stands in another folder") for note in manifest.notes
    )
    record = load_corpus("sprsound", root=tmp_path, task="record")
    assert Counter(record.label.tolist()) == {"Normal": 1, "CAS & DAS": 1, "DAS": 1, "Poor Quality": 1}
    whole = all_recordings("sprsound", root=tmp_path)
    assert sorted(whole.path.tolist()) == sorted(record.path.tolist()) and len(whole) > len(manifest)
    assert by_path(whole, "subject") == by_path(record, "subject") and np.isnan(whole.end_s).all()


def test_sprsound_events_are_stretches_in_seconds(tmp_path: Path) -> None:
    make_sprsound(tmp_path)
    manifest = load_corpus("sprsound", root=tmp_path, task="events")
    rows = list(zip(manifest.label.tolist(), manifest.start_s.tolist(), manifest.end_s.tolist(), strict=True))
    assert rows == [
        ("Fine Crackle", 0.0, 0.7),
        ("Normal", 0.342, 2.515),
        ("Normal", 2.557, 3.776),
        ("Wheeze+Crackle", 0.1, 0.9),
    ]
    assert "1 events of type 'Cough' left out" in manifest.notes
    assert "1 events that end before they start left out" in manifest.notes


def test_sprsound_later_releases_tell_their_test_parts(tmp_path: Path) -> None:
    for part, name in (("inter_test_json", "1_2.0_0_p1_1"), ("intra_test_json", "2_2.0_0_p1_2")):
        sound(tmp_path / "BioCAS2022" / "test2022_wav" / f"{name}.wav")
        content = json.dumps({"record_annotation": "Normal", "event_annotation": []})
        text(tmp_path / "BioCAS2022" / "test2022_json" / part / f"{name}.json", content)
    manifest = load_corpus("sprsound", root=tmp_path)
    assert manifest.covariates["official_split"].tolist() == ["inter_test", "intra_test"]
    text(
        tmp_path / "BioCAS2022" / "test2022_json" / "inter_test_json" / "1_2.0_0_p1_1.json",
        '{"record_annotation": "Fine"}',
    )
    with pytest.raises(
        ValueError, match=r"1_2.0_0_p1_1.json: record_annotation is 'Fine', not one of Normal, CAS"
    ):
        load_corpus("sprsound", root=tmp_path)


def test_icbhi_cycles_with_a_crackle_or_a_wheeze_are_adventitious(tmp_path: Path) -> None:
    make_icbhi(tmp_path)
    manifest = load_corpus("icbhi", root=tmp_path)
    rows = list(zip(manifest.start_s.tolist(), manifest.label.tolist(), manifest.site.tolist(), strict=True))
    assert rows == [
        (0.036, "normal", "Meditron"),
        (0.579, "adventitious", "Meditron"),
        (0.0, "adventitious", "Meditron"),
        (0.2, "adventitious", "AKGC417L"),
        (1.9, "normal", "AKGC417L"),
    ]
    assert "1 cycles of no length left out" in manifest.notes
    assert manifest.covariates["location"].tolist()[0] == "anterior left"
    assert manifest.covariates["age"].tolist()[-1] == "75"
    assert manifest.covariates["bmi"].tolist() == ["", "", "", "33.7", "33.7"]


def test_icbhi_diagnoses_are_the_patients(tmp_path: Path) -> None:
    make_icbhi(tmp_path)
    manifest = load_corpus("icbhi", root=tmp_path, task="diagnosis")
    assert sorted(manifest.label.tolist()) == ["COPD", "URTI", "URTI"]
    assert "the publisher's split stays in official_split: it has no dev here" in manifest.notes
    text(tmp_path / "ICBHI_final_database" / "107_2b3_Ar_mc_AKGC417L.txt", "0.2 1.9 1\n")
    with pytest.raises(
        ValueError, match=r"AKGC417L.txt, row 1: '0.2 1.9 1' is not begin, end, crackles, wheezes"
    ):
        load_corpus("icbhi", root=tmp_path)
    (tmp_path / "ICBHI_final_database" / "patient_diagnosis.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no patient_diagnosis.csv or icbhi_challenge_diagnosis.txt"
    ):
        load_corpus("icbhi", root=tmp_path, task="diagnosis")


def test_speech_commands_lists_give_the_split_and_noise_is_no_word(tmp_path: Path) -> None:
    make_speech_commands(tmp_path)
    words = load_corpus("speech_commands", root=tmp_path)
    assert words.class_names == ("bed", "cat")
    assert words.notes == ()
    assert by_path(words, "split") == {
        "bed/0a7c2a8d_nohash_0.wav": "train",
        "bed/1b88bf70_nohash_0.wav": "dev",
        "cat/0a7c2a8d_nohash_0.wav": "train",
        "cat/2da58b32_nohash_0.wav": "test",
    }
    speakers = load_corpus("speech_commands", root=tmp_path, task="speakers")
    assert speakers.label.tolist() == speakers.subject.tolist()
    assert set(speakers.split.tolist()) == {""}


def test_speech_commands_reads_the_arabic_layout(tmp_path: Path) -> None:
    folder = tmp_path / "arabic_speech_commands"
    for speaker, name in (("00000030", "train"), ("00000002", "val"), ("00000014", "test")):
        sound(folder / "dataset" / "zoom out" / f"{speaker}_NO_01.flac")
        lines = "".join(f"dataset/zoom out/{speaker}_NO_0{i}.wav,zoom out\n" for i in (1, 2))
        text(folder / f"{name}.csv", f"file,class\n{lines}")
    sound(folder / "background_noise" / "rain.wav")
    manifest = load_corpus("speech_commands", root=tmp_path)
    assert manifest.label.tolist() == ["zoom out"] * 3
    assert dict(zip(manifest.subject.tolist(), manifest.split.tolist(), strict=True)) == {
        "00000002": "dev",
        "00000014": "test",
        "00000030": "train",
    }
    assert "a subset: 3 of 6 recordings are here" in manifest.notes


def test_librispeech_takes_gender_from_the_speakers_table(tmp_path: Path) -> None:
    make_librispeech(tmp_path)
    manifest = load_corpus("librispeech", root=tmp_path, task="gender")
    labels = dict(zip(manifest.subject.tolist(), manifest.label.tolist(), strict=True))
    assert labels == {"19": "female", "26": "male", "84": "female", "367": ""}
    assert dict(zip(manifest.subject.tolist(), manifest.split.tolist(), strict=True)) == {
        "19": "train",
        "26": "train",
        "84": "dev",
        "367": "test",
    }
    assert manifest.covariates["subset"].tolist()[0] == "dev-clean"
    assert "a subset: 2 of 28,539 utterances of train-clean-100 are here" in manifest.notes
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no SPEAKERS.TXT, which says who is female"):
        load_corpus("librispeech", root=tmp_path, task="gender")


def test_vctk_takes_the_first_microphone_and_both_releases(tmp_path: Path) -> None:
    make_vctk(tmp_path)
    manifest = load_corpus("vctk", root=tmp_path, task="gender")
    labels = dict(zip(manifest.subject.tolist(), manifest.label.tolist(), strict=True))
    assert labels == {"p225": "female", "p226": "male", "s5": ""}
    assert "1 recordings of the second microphone left out" in manifest.notes
    old = tmp_path / "old" / "VCTK-Corpus"
    sound(old / "wav48" / "p225" / "p225_001.wav")
    text(
        old / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n",
    )
    assert load_corpus("vctk", root=tmp_path / "old", task="gender").label.tolist() == ["female"]


def test_dspspeech20_reads_numbered_and_published_names(tmp_path: Path) -> None:
    make_dspspeech20(tmp_path)
    sound(tmp_path / "DSPSpeech-20" / "speaker07" / "word19_take1.flac")
    manifest = load_corpus("dspspeech20", root=tmp_path)
    assert sorted(zip(manifest.subject.tolist(), manifest.label.tolist(), strict=True)) == [
        ("123", "word00"),
        ("16307110258", "word00"),
        ("16307110258", "word19"),
        ("speaker07", "word19"),
    ]


def test_esc_takes_the_source_for_the_subject_in_both_layouts(tmp_path: Path) -> None:
    make_esc(tmp_path)
    manifest = load_corpus("esc", root=tmp_path, task="cry")
    assert by_path(manifest, "label") == {
        "audio/1-100032-A-0.wav": "other",
        "audio/1-100032-B-0.wav": "other",
        "audio/1-187207-A-20.wav": "cry",
    }
    assert manifest.subject.tolist() == ["100032", "100032", "187207"]
    assert "a subset: 3 of 80 clips of these classes are here" in manifest.notes
    shutil.rmtree(tmp_path / "ESC-50-master")
    sound(tmp_path / "ESC-10" / "004 - Baby cry" / "5-151085-A.ogg")
    sound(tmp_path / "ESC-10" / "loose.ogg")
    old = load_corpus("esc", root=tmp_path)
    assert (old.label.tolist(), old.subject.tolist(), old.covariates["fold"].tolist()) == (
        ["Baby cry"],
        ["151085"],
        ["5"],
    )
    assert "1 left out, their names do not parse (first: loose.ogg)" in old.notes


def test_vggsound_finds_clips_by_id_and_padded_start(tmp_path: Path) -> None:
    make_vggsound(tmp_path)
    manifest = load_corpus("vggsound", root=tmp_path)
    assert by_path(manifest, "label") == {
        "test/---g-f_I2yQ_000001.flac": "people marching",
        "train/--0PQM4-hqg_000030.wav": "waterfall, burbling",
    }
    assert sorted(manifest.subject.tolist()) == ["---g-f_I2yQ", "--0PQM4-hqg"]
    assert "1 of the clips that vggsound.csv lists are not here" in manifest.notes
    text(tmp_path / "vggsound" / "vggsound.csv", "abc,x,dog,train\n")
    with pytest.raises(
        ValueError, match=r"vggsound.csv, row 1: 'abc,x,dog,train' is not ID,START,LABEL,PART"
    ):
        load_corpus("vggsound", root=tmp_path)


# The real copies. The counts were made with ls, cut, sort and wc, not with the code under test.


@pytest.mark.real
def test_real_donateacry(data_root: Path) -> None:
    manifest = load_corpus("donateacry", root=data_root)
    assert len(manifest) == 917
    assert Counter(manifest.site.tolist()) == {"android": 577, "ios": 340}
    assert manifest.n_subjects == 324
    # 917 = 371 listed + 332 rejected + 10 too short + 204 lonely, scared or unknown.
    assert Counter(manifest.label.tolist()) == {"usable": 371, "rejected": 332, "": 214}
    assert "10 unlabelled: shorter than 3 s" in manifest.notes
    assert "204 unlabelled: lonely, scared or unknown" in manifest.notes
    labels = by_path(manifest, "label")
    assert labels[f"{ANDROID}/02c3b725-26e4-4a2c-9336-04ddc58836d9-1430726196216-1.7-m-04-hu.3gp"] == "usable"
    assert (
        labels[f"{ANDROID}/006dbee7-715a-46ee-b592-1c4e7affb788-1430218353124-1.7-f-26-hu.3gp"] == "rejected"
    )
    assert labels[f"{ANDROID}/035c6b30-a145-42b9-8d0f-445cd9003d2c-1435948228563-1.7-m-04-dk.3gp"] == ""
    early = f"{IOS}/CF7F6316-019B-4B3C-9EE1-A62EB5F1D0EE-1426958010-1.0-96274EC9-59EB-49E3-96F3-A24D498FB7C3-f-26-ti"
    assert by_path(manifest, "subject")[f"{early}.caf.caf"] == "cf7f6316-019b-4b3c-9ee1-a62eb5f1d0ee"


@pytest.mark.real
def test_real_donateacry_reasons(data_root: Path) -> None:
    manifest = load_corpus("donateacry", root=data_root, task="reason")
    expected = {"hungry": 302, "tired": 21, "discomfort": 26, "belly_pain": 14, "burping": 8, "": 546}
    assert Counter(manifest.label.tolist()) == expected


@pytest.mark.real
def test_real_esc(data_root: Path) -> None:
    manifest = load_corpus("esc", root=data_root)
    counts = Counter(manifest.label.tolist())
    assert (len(manifest), len(counts), counts["Baby cry"], counts["Rooster"]) == (398, 10, 40, 38)
    assert Counter(manifest.covariates["fold"].tolist()) == {"1": 79, "2": 79, "3": 80, "4": 80, "5": 80}
    # As its publisher promises, no source stands in two folds.
    pairs = set(zip(manifest.subject.tolist(), manifest.covariates["fold"].tolist(), strict=True))
    assert len(pairs) == manifest.n_subjects
    assert by_path(manifest, "subject")["001 - Dog bark/2-122104-B.ogg"] == "122104"
    assert Counter(load_corpus("esc", root=data_root, task="cry").label.tolist()) == {"cry": 40, "other": 358}


@pytest.mark.real
def test_real_physionet2016(data_root: Path) -> None:
    manifest = load_corpus("physionet2016", root=data_root)
    counts = Counter(zip(manifest.site.tolist(), manifest.label.tolist(), strict=True))
    expected = {"a": (117, 292), "b": (386, 104), "c": (7, 24), "d": (27, 28), "e": (417, 183), "f": (80, 34)}
    assert {site: (counts[site, "normal"], counts[site, "abnormal"]) for site in expected} == expected
    assert by_path(manifest, "label")["training-a/a0001.flac"] == "abnormal"
    assert by_path(manifest, "label")["training-e/e00001.flac"] == "normal"
    assert "a subset: 1,699 of 3,240 recordings are here" in manifest.notes


@pytest.mark.real
def test_real_sprsound(data_root: Path) -> None:
    manifest = load_corpus("sprsound", root=data_root)
    assert Counter(manifest.label.tolist()) == {"normal": 615, "adventitious": 175}
    assert "89 Poor Quality recordings left out" in manifest.notes
    record = load_corpus("sprsound", root=data_root, task="record")
    assert record.n_subjects == 251
    assert Counter(record.label.tolist()) == {
        "Normal": 615,
        "DAS": 90,
        "Poor Quality": 89,
        "CAS": 53,
        "CAS & DAS": 32,
    }
    assert Counter(record.covariates["sex"].tolist()) == {"male": 457, "female": 422}
    assert by_path(record, "label")["train_wav/40069321_15.3_0_p1_981.flac"] == "Poor Quality"
    events = load_corpus("sprsound", root=data_root, task="events")
    assert Counter(events.label.tolist()) == {
        "Normal": 2419,
        "Fine Crackle": 279,
        "Wheeze": 144,
        "Rhonchi": 27,
        "Wheeze+Crackle": 19,
        "Coarse Crackle": 15,
        "Stridor": 3,
    }


@pytest.mark.real
def test_real_speech_commands(data_root: Path) -> None:
    manifest = load_corpus("speech_commands", root=data_root)
    counts = Counter(manifest.label.tolist())
    assert (len(manifest), manifest.n_subjects, len(counts), set(counts.values())) == (2880, 24, 40, {72})
    assert "a subset: 2,880 of 12,000 recordings are here" in manifest.notes
    parts = by_path(manifest, "official_split")
    assert Counter(parts.values()) == {"train": 2160, "dev": 720}
    assert parts["dataset/backward/00000030_NO_01.flac"] == "train"
    assert parts["dataset/backward/00000002_NO_01.flac"] == "dev"
    assert set(manifest.split.tolist()) == {""}  # the test speakers are not here


@pytest.mark.real
def test_real_librispeech(data_root: Path) -> None:
    manifest = load_corpus("librispeech", root=data_root, task="gender")
    assert (len(manifest), manifest.n_subjects) == (351, 261)
    assert Counter(manifest.covariates["subset"].tolist()) == {"train-clean-100": 251, "test-other": 100}
    assert "" not in manifest.label.tolist()
    genders = dict(zip(manifest.subject.tolist(), manifest.label.tolist(), strict=True))
    assert (genders["19"], genders["26"]) == ("female", "male")  # as SPEAKERS.TXT says


@pytest.mark.real
def test_real_dspspeech20(data_root: Path) -> None:
    manifest = load_corpus("dspspeech20", root=data_root)
    counts = Counter(manifest.label.tolist())
    assert (len(manifest), manifest.n_subjects, len(counts), set(counts.values())) == (920, 23, 20, {46})


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["donateacry", "esc", "physionet2016", "sprsound", "speech_commands", "librispeech"]
)
def test_real_corpora_are_found_in_their_own_folder_too(name: str, data_root: Path) -> None:
    below = load_corpus(name, root=data_root)
    itself = load_corpus(name, root=below.root)
    assert itself.path.tolist() == below.path.tolist()


def test_reading_a_corpus_opens_no_audio_but_donateacrys_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_donateacry(tmp_path)
    opened: list[str] = []
    real = audio.probe

    def probe(path: Path | str) -> object:
        opened.append(os.path.basename(path))  # noqa: PTH119
        return real(path)

    monkeypatch.setattr(donateacry, "probe", probe)
    load_corpus("donateacry", root=tmp_path)
    assert len(opened) == 3  # neither the listed nor those without a candidate's tag
