"""What the corpora say happened when: annotations → events."""

import json
from pathlib import Path

import pytest

from vagitus.corpora import circor, sprsound
from vagitus.segment import Event


def starts_ends_kinds(events: list[Event]) -> list[tuple[float, float, str]]:
    return [event[:3] for event in events]


def test_circor_states_have_names_and_the_unsegmented_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "2530_AV.tsv"
    file.write_text("0.0\t0.36\t0\n0.36\t0.48\t1\n0.48\t0.7\t2\n0.7\t0.8\t3\n0.8\t1.2\t4\n1.2\t1.2\t1\n")
    assert starts_ends_kinds(circor.read_segmentation(file)) == [
        (0.36, 0.48, "s1"),
        (0.48, 0.7, "systole"),
        (0.7, 0.8, "s2"),
        (0.8, 1.2, "diastole"),
    ]


@pytest.mark.parametrize("line", ["0.5\t0.7\t5", "0.5 0.7 1", "0.7\t0.5\t1", "a\t0.5\t1"])
def test_circor_a_line_that_is_no_stretch_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "2530_AV.tsv"
    file.write_text(f"0.0\t0.5\t1\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        circor.read_segmentation(file)


def test_sprsound_events_are_in_seconds_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "1_2.0_0_p1_3.json"
    annotation = [
        {"start": "2500", "end": "3100", "type": "Wheeze"},
        {"start": "120", "end": "1400", "type": "Normal"},
        {"start": "120", "end": "1400", "type": "Normal"},
        {"start": "900", "end": "800", "type": "Normal"},
        {"start": "10", "end": "20", "type": "Bark"},
    ]
    file.write_text(json.dumps({"record_annotation": "CAS", "event_annotation": annotation}))
    assert starts_ends_kinds(sprsound.read_events(file)) == [(0.12, 1.4, "Normal"), (2.5, 3.1, "Wheeze")]


def test_sprsound_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "1_2.0_0_p1_3.json"
    file.write_text("<html>")
    with pytest.raises(ValueError, match="is not JSON"):
        sprsound.read_events(file)


@pytest.mark.real
def test_real_sprsound_events(data_root: Path) -> None:
    files = sorted((data_root / "sprsound" / "train_json").glob("*.json"))
    assert sum(len(sprsound.read_events(file)) for file in files) > 2_000
