"""The page of a model's curves: it has all of them and their numbers, loads nothing, and keeps names text."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import Command
from test_report import Page

from vagitus import plots
from vagitus.checkpoint import RESEARCH_ONLY, ModelCard, save_model
from vagitus.corpora.simulated import generate
from vagitus.features import PRESETS
from vagitus.models import build_model
from vagitus.outcome import UNKNOWN
from vagitus.robustness import CLEAN, KINDS, MEAN_CLASS, Condition, Sweep, curves, robustness_lines
from vagitus.robustness_page import MOST_PANELS, READING, write_robustness_page

WICKED = "<script>alert(1)</script> & $x_1$"
NOISES = ("gaussian", WICKED, *(f"class-{n}" for n in range(MOST_PANELS - 1)))  # one more than a figure holds
CONDITIONS = (
    CLEAN,
    *(Condition("noise", name, snr_db) for name in NOISES for snr_db in (-5, 10)),
    Condition("codec", "mu_law", 64),
    *(Condition("codec", "opus", kbps) for kbps in (6, 24)),
    *(Condition("low_pass", "", edge_hz) for edge_hz in (500, 1000, 3000)),
)
FIGURES = ("noise", "noise", "codec", "low_pass")


def make_found(n_recordings: int = 24, **said: Any) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    labels = np.arange(n_recordings) % 2
    logits = rng.normal(size=(len(CONDITIONS), n_recordings, 2))
    logits[..., 1] += 1.5 * labels * rng.random((len(CONDITIONS), 1))
    p = 1 / (1 + np.exp(logits[..., :1] - logits[..., 1:]))
    scored = Sweep(
        CONDITIONS,
        np.arange(n_recordings),
        ("control", "case"),
        {"m.safetensors": logits},
        {"m.safetensors": np.concatenate([1 - p, p], axis=2)},
        {"m.safetensors": logits.argmax(axis=2)},
        {},
    )
    found = {
        "caution": "another recording of the same person is not recognised",
        "trained_notes": [],
        "model": "m.safetensors",
        "data": "others.csv",
        "notes": ["a subset: 24 of 90 recordings are here"],
        "simulated": False,
        "n_recordings": n_recordings,
        "n_subjects": n_recordings // 2,
        "class_counts": {"control": n_recordings // 2, "case": n_recordings // 2},
        "n_resamples": 50,
        "coverage": 0.9,
        "lines": robustness_lines(
            curves(scored, labels, np.arange(n_recordings) // 4, n_resamples=50, level=0.9)
        ),
        "excluded": {},
    }
    return found | said


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return make_found()


@pytest.fixture(scope="module")
def page(found: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("robustness") / "curves.html"
    write_robustness_page(path, found)
    return Page(path)


def numbers(line: dict[str, Any]) -> str:
    return f"{line['estimate']:.3f} {line['low']:.3f}\N{EN DASH}{line['high']:.3f}"


def rows(page: Page) -> list[str]:
    return [" ".join("".join(row.text).split()) for row in page.find("tr")]


def test_every_area_and_every_point_is_in_a_table_with_its_interval(
    found: dict[str, Any], page: Page
) -> None:
    held = rows(page)
    points: dict[tuple[str, str], list[str]] = {}
    n_areas = 0
    for line in found["lines"]:
        name = " ".join((line["name"] or line["condition"]).split())
        if line["kind"] == "robustness":
            points.setdefault((line["condition"], name), []).append(numbers(line))
        elif line["condition"] != "clean":
            ends = dict.fromkeys(
                f"{line[key]:,g}".replace("-", plots.MINUS) for key in ("from_level", "to_level")
            )
            assert f"{name}{' to '.join(ends)}{numbers(line)}" in held
            n_areas += 1
    assert n_areas == len(NOISES) + 1 + 3  # with the mean over the classes of noise
    assert "Nothing" + points.pop(("clean", "clean"))[0] in held
    for (_, name), said in points.items():
        row = name + " ".join(said)
        # Cells of levels that a curve does not have are empty.
        assert row.replace(" ", "") in [text.replace(" ", "") for text in held]


def test_a_figure_holds_each_kind_and_says_its_numbers_unit_and_clean_score(
    found: dict[str, Any], page: Page
) -> None:
    drawn = [svg for svg in page.find("svg") if "aria-hidden" not in svg.attributes]
    titles = [svg.attributes["aria-label"].partition(":")[0] for svg in drawn]
    assert titles == ["Noise added, 1 of 2", "Noise added, 2 of 2", "Through a codec", "Highs removed"]
    clean = next(line for line in found["lines"] if line["condition"] == "clean")
    for svg, unit in zip(drawn, ("dB SNR", "dB SNR", "kbit/s", "Hz, upper edge"), strict=True):
        assert f"Level ({unit})" in "".join(svg.text)
        assert f"As recorded {clean['estimate']:.3f}." in svg.attributes["aria-label"]
    spoken = "".join(svg.attributes["aria-label"] for svg in drawn)
    for line in found["lines"]:
        if line["kind"] == "robustness" and line["condition"] != "clean":
            assert f"{line['estimate']:.3f} at {line['level']:,g}".replace("-", plots.MINUS) in spoken
    captions = ["".join(caption.text) for caption in page.find("figcaption")]
    assert [caption.startswith(READING[kind]) for caption, kind in zip(captions, FIGURES, strict=True)] == [
        True
    ] * 4


def test_lowest_points_are_the_lowest(found: dict[str, Any], page: Page) -> None:
    noise = [x for x in found["lines"] if x["kind"] == "robustness" and x["condition"] == "noise"]
    worst = min(noise, key=lambda line: float(line["estimate"]))
    at = f"{worst['name']} {worst['level']:g} dB SNR".replace("-5", f"{plots.MINUS}5")
    assert f"Noise added{at}{numbers(worst)}" in rows(page)


def test_curves_that_reach_guessing_are_counted_and_named(found: dict[str, Any], page: Page) -> None:
    # The mean over classes of noise is no curve of its own.
    areas = [
        x
        for x in found["lines"]
        if x["kind"] == "robustness_area" and x["condition"] != "clean" and x["name"] != MEAN_CLASS
    ]
    lost = [line for line in areas if line["low"] <= 0.5]
    assert 0 < len(lost) <= 8  # or the test would see one side only
    assert f"{len(areas) - len(lost)} of {len(areas)} curves stay above guessing (0.500)" in page.text
    names = ", ".join(f"{line['condition']} {line['name']}".strip() for line in lost)
    assert f"The others: {names}." in page.text


def test_the_page_loads_nothing(page: Page) -> None:
    assert not {"script", "link", "iframe", "img", "object", "form"} & {e.tag for e in page.elements}
    for element in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert element.attributes.get(name, "#").startswith("#")
    assert not re.findall(r"url\((?!#)|@import", page.source)
    policy = [e for e in page.find("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].attributes["content"].startswith("default-src 'none'")
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in page.find("a")} <= set(ids)
    assert not any(colour in page.source for colour in plots.COLOURS.values())


def test_it_says_what_it_is_of_and_what_it_is_not(page: Page, tmp_path: Path) -> None:
    assert RESEARCH_ONLY in "".join(page.find("aside")[0].text)
    for said in (
        "m.safetensors on others.csv",
        "24 recordings",
        "90 % bootstrap intervals that resample whole subjects, 50 times",
        "Subset. These are not the full corpus's figures: a subset: 24 of 90",
        "No labelled recording was left out.",
        f"as they are and under {len(CONDITIONS) - 1} conditions",
    ):
        assert said in page.text
    assert "Simulated data." not in page.text
    write_robustness_page(tmp_path / "p.html", make_found(simulated=True))
    assert "Simulated data. No patient was recorded." in Page(tmp_path / "p.html").text


def test_names_stay_text_and_reasons_have_no_folder(tmp_path: Path) -> None:
    excluded = {f"a/{n}.wav": f"/home/someone/a/{n}.wav: empty file (0 bytes)" for n in range(12)}
    excluded[f"{WICKED}.wav"] = f"/home/someone/{WICKED}.wav: <b>text</b>"
    write_robustness_page(
        tmp_path / "p.html",
        make_found(model="<i>m</i>", data='"><i>', excluded=excluded, class_counts={"<u>": 1, "b": 2}),
    )
    page = Page(tmp_path / "p.html")
    assert not page.find("script") and not page.find("i") and not page.find("b") and not page.find("u")
    assert f"{WICKED}.wav: <b>text</b>" in page.text and "a/0.wav: empty file (0 bytes)" in page.text
    assert "13 labelled recordings could not be scored" in page.text and "… and 3 more" in page.text
    assert "someone" not in page.source


def test_unknown_values_are_a_dash(tmp_path: Path) -> None:
    unknown = {"estimate": None, "low": None, "high": None}
    found = make_found()
    write_robustness_page(tmp_path / "p.html", found | {"lines": [x | unknown for x in found["lines"]]})
    text = Page(tmp_path / "p.html").text
    assert (
        f"AUROC {UNKNOWN}." in text
        and "cannot be told from guessing" in text
        and "nan" not in text.casefold()
    )


def test_every_kind_is_explained() -> None:
    assert {*READING, CLEAN.kind} == set(KINDS)


def test_the_command_writes_it(vagitus: Command, tmp_path: Path) -> None:
    front_end = PRESETS["mfcc40"].vary(normalisation="mean")
    options = {"n_mels": front_end.n_rows, "n_classes": 2, "width": 4}
    torch.manual_seed(0)
    card = ModelCard("res8", options, front_end, 0.5, ("control", "case"), "case", 0.5)
    save_model(tmp_path / "m.safetensors", build_model("res8", **options), card)
    generate(
        tmp_path / "others", n_subjects=4, n_recordings_per_subject=1, duration_s=2.5, sample_rate_hz=8000
    )
    words = ("evaluate", tmp_path / "m.safetensors", tmp_path / "others" / "manifest.csv")
    report = tmp_path / "curves.html"
    for wrong, line in (
        ((*words, "--report", report), "--report is a page of the curves of --robustness; give both"),
        (
            (*words, "--robustness", "--report", tmp_path / "m.txt"),
            "m.txt: a page is a file that ends in .html",
        ),
        ((*words, "--robustness", "--report", tmp_path / "none" / "m.html"), "none; make it first"),
    ):
        run = vagitus(*wrong)
        assert run.status == 2 and run.err.splitlines()[-1].endswith(line)
    run = vagitus(*words, "--robustness", "--report", report, "--workers", "1", "--json")
    assert run.status == 0, run.err
    found = json.loads(run.out)
    assert found["report"] == str(report) and found["n_recordings"] == 4
    page = Page(report)
    assert "Simulated data." in page.text
    drawn = {svg.attributes["aria-label"].partition(":")[0] for svg in page.find("svg")}
    wanted = {KINDS[line["condition"]].title for line in found["lines"]} - {KINDS["clean"].title}
    assert {title.casefold() for title in drawn} == {title.casefold() for title in wanted}
