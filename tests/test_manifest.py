"""The manifest: what is read, what is refused and with which words, and what comes back unchanged."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vagitus.manifest import (
    MAX_CELL_CHARACTERS,
    Manifest,
    build_manifest,
    read_manifest,
    subjects_needed,
    validate_for_study,
    write_manifest,
)

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with empty recordings a.wav … d.wav and deep/e.wav, and a manifest of the text given."""
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "deep/e.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def write(text: str | bytes, name: str = "cries.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


GOOD = """path,subject,label,site,session,start_s,end_s,split,age,sex
a.wav,s1,asphyxia,lagos,1,0,1.5,train,3,f
a.wav,s1,,lagos,1,1.5,,,3,f
b.wav,s2,normal,,2,,,test,,m
deep/e.wav,"s,3",normal,lima,,0.25,0.5,dev,11.5,f
"""


def test_every_column_of_a_good_manifest(folder: Folder, tmp_path: Path) -> None:
    m = read_manifest(folder(GOOD))
    assert len(m) == 4
    assert m.path.tolist() == ["a.wav", "a.wav", "b.wav", "deep/e.wav"]
    assert m.subject.tolist() == ["s1", "s1", "s2", "s,3"]
    assert m.label.tolist() == ["asphyxia", "", "normal", "normal"]
    assert m.site.tolist() == ["lagos", "lagos", "", "lima"]
    assert m.session.tolist() == ["1", "1", "2", ""]
    assert m.split.tolist() == ["train", "", "test", "dev"]
    assert m.start_s.tolist() == [0.0, 1.5, 0.0, 0.25]
    np.testing.assert_array_equal(m.end_s, [1.5, np.nan, np.nan, 0.5])
    assert m.row.tolist() == [2, 3, 4, 5]
    assert list(m.covariates) == ["age", "sex"]
    np.testing.assert_array_equal(m.numeric_covariate("age"), [3, 3, np.nan, 11.5])
    assert m.numeric_covariate("sex") is None
    assert (m.class_names, m.site_names, m.n_subjects) == (("asphyxia", "normal"), ("", "lagos", "lima"), 3)
    assert (m.file(3), m.stretch(0), m.stretch(1)) == (tmp_path / "deep/e.wav", (0.0, 1.5), (1.5, None))
    assert (m.source, m.root, m.notes, m.simulated) == ("cries.csv", tmp_path, (), False)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,subject\na.wav,s1\n".encode(),  # as Excel writes "CSV UTF-8"
        b"path,subject\r\na.wav,s1\r\n",
        b"path,subject\na.wav,s1",  # no last newline
        b"\npath,subject\n\na.wav,s1\n\n",  # blank lines
        b'"path","subject"\n"a.wav","s1"\n',
        b"path,subject\n./a.wav,s1\n",
        b"path,subject\ndeep/../a.wav,s1\n",
    ],
)
def test_ways_to_write_one_recording(folder: Folder, text: bytes) -> None:
    m = read_manifest(folder(text))
    assert (m.path.tolist(), m.subject.tolist(), m.label.tolist()) == (["a.wav"], ["s1"], [""])


def test_blank_lines_count_as_rows_as_in_a_spreadsheet(folder: Folder) -> None:
    with pytest.raises(ValueError, match=r"cries\.csv, row 4: subject is empty"):
        read_manifest(folder("path,subject\na.wav,s1\n\nb.wav,\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cries\.csv is empty; it needs a header"),
        ("path,subject\n", r"cries\.csv lists no recording"),
        ("path,label\na.wav,x\n", r"no column 'subject'; found: path, label"),
        ("path,Subject\na.wav,x\n", r"no column 'subject'; rename 'Subject' if that is it"),
        ("path,subjct\na.wav,x\n", r"no column 'subject'; rename 'subjct' if that is it"),
        ("path,patient_id\na.wav,x\n", r"no column 'subject'; rename 'patient_id' if that is it"),
        ("filename,subject\na.wav,x\n", r"no column 'path'; rename 'filename' if that is it"),
        ("path,subject,Label\na.wav,x,y\n", r"column 'Label' must be written 'label'; rename it"),
        ("path;subject\na.wav;s1\n", r"separated by semicolons; save it separated by commas"),
        ("path\tsubject\na.wav\ts1\n", r"separated by tabs"),
        ("path,subject,age,age\na.wav,s1,1,2\n", r"column 'age' stands in the header twice"),
        (",path,subject\n0,a.wav,s1\n", r"column 1 has no name; .*to_csv\(index=False\)"),
        ("path,subject\na.wav,s1\nb.wav\n", r"row 3: 1 cells, the header has 2"),
        ("path,subject\na.wav,s1,x\n", r"row 2: 3 cells, the header has 2"),
        ('path,subject\na.wav,"s1\nb.wav,s2\n', r"unexpected end of data; check the quotes"),
        ("path,subject\na.wav,\nb.wav, \n", r"row 2: subject is empty \(and 1 more row\); .*would leak"),
        ("path,subject\na.wav,NaN\n", r"row 2: subject is 'NaN'; name who was recorded"),
        ("path,subject\na.wav,unknown\n", r"subject is 'unknown'"),
        ("path,subject,label\na.wav,s1,nan\n", r"label is 'nan'; leave it blank if unlabelled"),
        ("path,subject\n,s1\n", r"row 2: path is empty"),
        ("path,subject\n/a.wav,s1\n", r"row 2: path '/a\.wav' is absolute"),
        ("path,subject\nC:/a.wav,s1\n", r"path 'C:/a\.wav' is absolute"),
        ("path,subject\ndeep\\e.wav,s1\n", r"holds a backslash; write / between folders"),
        ("path,subject\n../a.wav,s1\n", r"path '\.\./a\.wav' leaves the manifest's folder"),
        ("path,subject\ndeep/../../a.wav,s1\n", r"leaves the manifest's folder"),
        ("path,subject\n..,s1\n", r"leaves the manifest's folder"),
        ('path,subject\n"a\n.wav",s1\n', r"holds a line break; rename the file"),
        ('path,subject\na.wav,"s\r1"\n', r"row 2: column 'subject' is 's\\r1', with a control character"),
        ("path,subject\na.wav,s1\nb.wav,s1\n./a.wav,s2\n", r"row 4: 'a\.wav' and its stretch stand in row 2"),
        ("path,subject,start_s\na.wav,s1,0\na.wav,s1,\n", r"row 3: 'a\.wav' and its stretch stand in row 2"),
        ("path,subject,start_s\na.wav,s1,soon\n", r"row 2: start_s is 'soon', not a number"),
        ('path,subject,end_s\na.wav,s1,"1,5"\n', r"end_s is '1,5', not a number; .* decimal point"),
        ("path,subject,end_s\na.wav,s1,nan\n", r"end_s is 'nan', not a number"),
        ("path,subject,end_s\na.wav,s1,inf\n", r"end_s is 'inf', not a number"),
        ("path,subject,end_s\na.wav,s1,1_0\n", r"end_s is '1_0', not a number"),
        ("path,subject,start_s\na.wav,s1,-1\n", r"row 2: start_s is -1, before the file begins"),
        ("path,subject,start_s,end_s\na.wav,s1,2,2\n", r"row 2: end_s 2 is not after start_s 2"),
        ("path,subject,end_s\na.wav,s1,0\n", r"end_s 0 is not after start_s 0"),
        ("path,subject,split\na.wav,s1,val\n", r"row 2: split is 'val'; use train, dev, test or leave"),
        ("path,subject,simulated\na.wav,s1,maybe\n", r"simulated is 'maybe'; use true, false"),
        (
            f"path,subject,age\na.wav,s1,{'x' * 1025}\n",
            r"'age' has a cell of 1025 characters, the most is 1024",
        ),
        (b"path,subject\na.wav,s\x001\n", r"line 2: holds a NUL byte"),
        (b"path,subject\na.wav,s1\nb.wav,Jos\xe9\n", r"line 3: byte 0xe9 is not UTF-8; save it as CSV UTF-8"),
        (b"PK\x03\x04rest", r"cries\.csv is a zip archive or an Excel workbook; save the sheet as CSV"),
        (b"RIFF\x24\0\0\0WAVE", r"is a WAV recording, not a manifest"),
        ("path,subject\na.wav,s1\n".encode("utf-16"), r"is UTF-16 text; save it as CSV UTF-8"),
    ],
)
def test_a_bad_manifest_is_refused(folder: Folder, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(folder(text))


def test_no_manifest_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(
        ValueError, match=r"is a folder; give a manifest, or make one with `vagitus corpus NAME"
    ):
        read_manifest(tmp_path)


def test_missing_recordings_are_counted_and_three_are_named(folder: Folder) -> None:
    rows = "".join(f"{name},s1\n" for name in ("a.wav", "v.wav", "w.wav", "deep", "x.wav", "y.wav"))
    expected = r"row 3: no file 'v\.wav' .* 5 of 6 files are missing \(v\.wav, w\.wav, deep, …\)"
    with pytest.raises(FileNotFoundError, match=expected):
        read_manifest(folder("path,subject\n" + rows))


def test_root_other_than_the_manifests_folder(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    path = folder("path,subject\ndeep/e.wav,s1\n", "tables/m.csv")
    assert read_manifest(path, root=tmp_path).file(0) == tmp_path / "deep" / "e.wav"
    with pytest.raises(FileNotFoundError, match="give the recordings' folder as root"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("path,subject,label\na.wav, s1,x \n", "2 cells had spaces around them, which were removed"),
        ("path,subject\na.wav,s1\nb.wav,S1\n", "subjects 'S1' and 's1' look alike but count as two"),
        ("path,subject\na.wav,7\nb.wav,07\nc.wav,7.0\n", r"subjects '07' and '7' .* \(and 1 more pair\)"),
        ("path,subject,label\na.wav,s1,Sick\nb.wav,s2,sick\n", "labels 'Sick' and 'sick' look alike"),
        ("path,subject,labels\na.wav,s1,x\n", "column 'labels' is a covariate; rename it to 'label'"),
        ("path,subject,note\na.wav,s1,subset\nb.wav,s2,subset\n", "^subset$"),
    ],
)
def test_what_is_let_through_is_noted_once(folder: Folder, text: str, note: str) -> None:
    notes = read_manifest(folder(text)).notes
    assert len(notes) == 1
    assert re.search(note, notes[0])


def assert_same(a: Manifest, b: Manifest) -> None:
    for name in ("path", "subject", "label", "site", "session", "split", "start_s", "end_s"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert list(a.covariates) == list(b.covariates)
    for name, values in a.covariates.items():
        np.testing.assert_array_equal(values, b.covariates[name], err_msg=name)
    assert (a.root, a.notes, a.simulated) == (b.root, b.notes, b.simulated)


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12).map(str.strip)
NAME = CELL.map(lambda cell: f"name{cell}")  # none of the words for nobody
ROW = st.fixed_dictionaries(
    {
        "subject": NAME,
        "label": NAME | st.just(""),
        "site": CELL,
        "session": CELL,
        "start_s": st.floats(0, 1e6),
        "split": st.sampled_from(["", "train", "dev", "test"]),
        "age": CELL,
    }
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=4), lasts_s=st.floats(1e-3, 10), simulated=st.booleans())
@pytest.mark.parametrize("name", ["again.csv", "again.parquet"])
def test_written_and_read_back_is_the_same(
    folder: Folder, name: str, rows: list[dict[str, object]], lasts_s: float, simulated: bool
) -> None:
    path = folder("", name)
    files = ["a.wav", "b.wav", "c.wav", "d.wav"]
    table = [row | {"path": file} for row, file in zip(rows, files, strict=False)]
    for row in table[::2]:
        row["end_s"] = float(str(row["start_s"])) + lasts_s
    m = build_manifest(table, path.parent, "drawn", ("subset", "made for a test"), simulated=simulated)
    write_manifest(m, path)
    assert_same(read_manifest(path), m)


def test_notes_and_simulated_survive_a_file(folder: Folder, tmp_path: Path) -> None:
    m = build_manifest(
        [{"path": "a.wav", "subject": "s"}], tmp_path, "x", ("subset", "18 Hz"), simulated=True
    )
    write_manifest(m, tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == (
        "path,subject,label,simulated,note\na.wav,s,,true,subset | 18 Hz\n"
    )
    again = read_manifest(tmp_path / "m.csv")
    assert (again.notes, again.simulated, again.covariates) == (("subset", "18 Hz"), True, {})
    with pytest.raises(ValueError, match=r"a note holds ' \| '"):
        write_manifest(
            build_manifest([{"path": "a.wav", "subject": "s"}], tmp_path, "x", ("a | b",)), tmp_path / "n"
        )


def test_written_above_or_elsewhere(folder: Folder, tmp_path: Path) -> None:
    folder("")
    m = build_manifest([{"path": "e.wav", "subject": "s1"}], tmp_path / "deep", "x")
    write_manifest(m, tmp_path / "above.csv")
    assert read_manifest(tmp_path / "above.csv").path.tolist() == ["deep/e.wav"]
    elsewhere = tmp_path / "elsewhere" / "m.csv"
    with pytest.raises(ValueError, match=r"cannot reach the recordings in .*deep; write it there or above"):
        write_manifest(m, elsewhere)
    write_manifest(m, elsewhere, root=m.root)
    assert_same(read_manifest(elsewhere, root=m.root), m)


def test_failed_write_leaves_the_old_manifest(folder: Folder, tmp_path: Path) -> None:
    path = folder(GOOD)
    m = read_manifest(path).with_labels(["\udc80"] * 4)  # a lone surrogate has no UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_manifest(m, path)
    assert path.read_text() == GOOD
    assert sorted(p.name for p in tmp_path.glob("*.csv")) == ["cries.csv"]


def test_parquet_types(folder: Folder, tmp_path: Path) -> None:
    import pandas as pd

    folder("")
    frame = pd.DataFrame(
        {
            "path": ["a.wav", "b.wav"],
            "subject": [7, 8],
            "label": ["x", None],
            "end_s": [2.0, float("nan")],
            "weight_kg": [3.0, float("nan")],  # whole, but made float by the blank
            "length_cm": [50.5, 51.0],
            "born": [pd.Timestamp("2020-02-03"), None],
            "twin": [True, False],
        }
    )
    frame.to_parquet(tmp_path / "m.parquet")
    m = read_manifest(tmp_path / "m.parquet")
    assert (m.subject.tolist(), m.label.tolist()) == (["7", "8"], ["x", ""])
    np.testing.assert_array_equal(m.end_s, [2.0, np.nan])
    assert {name: values.tolist() for name, values in m.covariates.items()} == {
        "weight_kg": ["3", ""],
        "length_cm": ["50.5", "51.0"],
        "born": ["2020-02-03 00:00:00", ""],
        "twin": ["True", "False"],
    }
    odd: list[list[object]] = [[[1], [2]], [b"x", b"y"], [{"a": 1}, {"a": 2}]]
    for values in odd:
        frame.assign(odd=pd.Series(values)).to_parquet(tmp_path / "odd.parquet")
        with pytest.raises(ValueError, match=r"odd\.parquet, row 2: column 'odd' holds (ndarray|bytes|dict)"):
            read_manifest(tmp_path / "odd.parquet")
    (tmp_path / "text.parquet").write_text("path,subject\n")
    with pytest.raises(ValueError, match=r"text\.parquet cannot be read as Parquet"):
        read_manifest(tmp_path / "text.parquet")


def test_built_rows_obey_the_same_rules(folder: Folder, tmp_path: Path) -> None:
    folder("")
    m = build_manifest(
        [
            {"path": "a.wav", "subject": 3, "age": 4.9, "start_s": 0.1},
            {"path": "b.wav", "subject": "4", "age": None, "end_s": float("nan"), "sex": "f"},
        ],
        tmp_path,
        "corpus x",
    )
    assert (m.subject.tolist(), m.start_s.tolist(), m.source) == (["3", "4"], [0.1, 0.0], "corpus x")
    assert (m.covariates["age"].tolist(), m.covariates["sex"].tolist()) == (["4.9", ""], ["", "f"])
    with pytest.raises(ValueError, match=r"^corpus x, row 3: subject is empty"):
        build_manifest([{"path": "a.wav", "subject": 3}, {"path": "b.wav"}], tmp_path, "corpus x")
    with pytest.raises(ValueError, match=r"^corpus x, row 2: column 'age' holds list"):
        build_manifest([{"path": "a.wav", "subject": 3, "age": [1]}], tmp_path, "corpus x")


def test_select(folder: Folder) -> None:
    m = read_manifest(folder(GOOD))
    chosen = m.select([3, 0])
    assert (chosen.path.tolist(), chosen.row.tolist()) == (["deep/e.wav", "a.wav"], [5, 2])
    assert chosen.covariates["age"].tolist() == ["11.5", "3"]
    assert_same(m.select(m.label == "normal"), m.select([2, 3]))
    assert (len(m.select([])), m.labelled().row.tolist()) == (0, [2, 4, 5])
    with pytest.raises(ValueError, match="a mask of 3 rows cannot choose from 4"):
        m.select([True, False, True])
    with pytest.raises(ValueError, match=r"1-D mask or indices, got float64 of shape \(1,\)"):
        m.select([0.5])
    with pytest.raises(ValueError, match=r"cries\.csv: column 'label' has 3 rows, path has 4"):
        m.with_labels(["x"] * 3)
    with pytest.raises(ValueError, match=r"row 3: subject is empty"):
        m.with_subjects(["x", "", "y", "z"])


def test_encoded_labels_have_no_index_for_unlabelled(folder: Folder) -> None:
    m = read_manifest(folder(GOOD))
    assert m.labelled().encode_labels().tolist() == [0, 1, 1]
    assert m.labelled().encode_labels(("normal", "other", "asphyxia")).tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match=r"row 3: label '' has no index; take labelled\(\) first"):
        m.encode_labels()
    with pytest.raises(ValueError, match=r"row 4: label 'normal' has no index; did you mean 'norml'\?"):
        m.labelled().encode_labels(("asphyxia", "norml"))


def test_covariate_is_numeric_if_every_known_value_is(folder: Folder) -> None:
    m = read_manifest(folder("path,subject,a,b,c\na.wav,s1,1e3,,1\nb.wav,s2,NA,,x\nc.wav,s3,-.5,,2\n"))
    np.testing.assert_array_equal(m.numeric_covariate("a"), [1000, np.nan, -0.5])
    assert m.numeric_covariate("b") is None
    assert m.numeric_covariate("c") is None


def test_covariates_by_name(folder: Folder) -> None:
    m = read_manifest(folder(GOOD))
    with pytest.raises(ValueError, match=r"no covariate 'agee'; did you mean 'age'\? known: age, sex"):
        m.numeric_covariate("agee")


def recordings(tmp_path: Path, rows: list[tuple[str, str, str]]) -> Manifest:
    (tmp_path / "a.wav").touch()
    return build_manifest(
        [
            {"path": "a.wav", "start_s": i, "subject": subject, "label": label, "site": site}
            for i, (subject, label, site) in enumerate(rows)
        ],
        tmp_path,
        "m.csv",
    )


@pytest.mark.parametrize(
    ("n_sick", "n_folds", "message"),
    [
        (1, 5, r"label 'sick' has one subject; 5 folds .* need 5; add subjects, or leave this class out"),
        (3, 5, r"label 'sick' has 3 subjects; 5 folds .* need 5; use 3 folds, add subjects"),
        (3, 2, r"label 'sick' has 3 subjects; 2 folds .* need 4; add subjects"),
        (4, 1, r"n_folds is 1; at least 2"),
    ],
)
def test_a_study_needs_subjects_of_every_class(
    tmp_path: Path, n_sick: int, n_folds: int, message: str
) -> None:
    rows = [(f"s{i}", "sick", "") for i in range(n_sick)] + [(f"w{i}", "well", "") for i in range(9)]
    rows += [("s0", "sick", "")] * 3  # more recordings of one subject do not help
    with pytest.raises(ValueError, match=message):
        validate_for_study(recordings(tmp_path, rows), n_folds)


def test_a_study_needs_two_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m\.csv: no recording has a label"):
        validate_for_study(recordings(tmp_path, [("s1", "", ""), ("s2", "", "")]), 2)
    with pytest.raises(ValueError, match=r"every labelled recording is 'sick'; a study needs two classes"):
        validate_for_study(recordings(tmp_path, [("s1", "sick", ""), ("s2", "", "")]), 2)


def test_what_a_study_must_tell(tmp_path: Path) -> None:
    rows = [(f"s{i}", "sick", "lima") for i in range(4)] + [(f"w{i}", "well", "") for i in range(4)]
    rows += [(f"x{i}", label, "lagos") for i in range(2) for label in ("sick", "well")]
    warnings = validate_for_study(recordings(tmp_path, rows), 4)
    assert [w.split(":")[0] for w in warnings] == [
        "site '(blank)' holds only 'well'",
        "site 'lima' holds only 'sick'",
        "2 of 10 labelled subjects carry more than one label",
    ]


def test_subjects_needed() -> None:
    assert [subjects_needed(k) for k in (2, 3, 4, 10)] == [4, 3, 4, 10]


def test_longest_cell_is_accepted(folder: Folder) -> None:
    m = read_manifest(folder(f"path,subject\na.wav,{'s' * MAX_CELL_CHARACTERS}\n"))
    assert len(m.subject[0]) == MAX_CELL_CHARACTERS
