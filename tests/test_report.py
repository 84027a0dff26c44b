"""The report of a study: its numbers, its markup, its words, and what it refuses."""

import base64
import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import soundfile

from vagitus import plots, report
from vagitus.audit import Audit, audit
from vagitus.checkpoint import RESEARCH_ONLY
from vagitus.dataset import Dataset, write_feature_table
from vagitus.features import FeatureConfig
from vagitus.figures import operating_point
from vagitus.manifest import build_manifest
from vagitus.metrics import METRICS, roc_curve, summarise
from vagitus.outcome import compared, difference_text, interval_text, p_text, read_study, value_text
from vagitus.plan import Plan, StudyConfig
from vagitus.report import write_report
from vagitus.results import Predictions, comparison_lines, predictions_csv, summary_lines
from vagitus.splits import Fold, grouped_folds
from vagitus.study import versions

FRONT_END = FeatureConfig(n_bands=24, hop_ms=25.0)
SECONDS = 0.6
# Elements that never load anything and need no end tag.
VOID = frozenset(("meta", "br", "hr", "img", "input", "link", "source", "track", "wbr"))


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    text: list[str]  # of the element and all in it


class Page(HTMLParser):
    """Every element of a page with its text; fails on an element that is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attributes}, [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attributes}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text.append(data)

    def find(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.find("body")[0].text).split())


class Made(NamedTuple):
    out: Path
    dataset: Dataset
    audit: Audit


def make_study(
    folder: Path,
    *,
    class_names: Sequence[str] = ("healthy", "ill"),
    arms: Sequence[str] = ("prevalence", "lookup", "logmel+ridge", "scratch"),
    sites: Sequence[str] = ("north", "south"),
    separation: Sequence[float] = (0.0, 0.4, 2.5, 1.2),
    n_per_class: int = 12,
    name: str = "rec{}.wav",
    subject: str = "s{}",
    notes: Sequence[str] = (),
    simulated: bool = False,
    history: bool = True,
    command: str = "vagitus study recordings.csv",
    config: StudyConfig | None = None,
    front_end: FeatureConfig = FRONT_END,
) -> Made:
    """A study's folder in the format of ``run_study``, with scores drawn instead of learned."""
    rng = np.random.default_rng(5)
    n_classes = len(class_names)
    labels = np.repeat(np.arange(n_classes), n_per_class)
    rows = []
    for i, label in enumerate(labels):
        path = name.format(i)
        sound = 0.1 * rng.standard_normal(round(8000 * SECONDS)) * (1 + label)
        soundfile.write(folder / path, sound.clip(-1, 1), 8000)
        rows.append(
            {
                "path": path,
                "subject": subject.format(i // 2),
                "label": class_names[int(label)],
                "site": sites[i // 2 % len(sites)],
            }
        )
    manifest = build_manifest(rows, folder, "recordings.csv", list(notes), simulated=simulated)
    lengths = rng.integers(12, 30, len(labels))
    features = [
        rng.normal(-5 + 0.5 * label, 1, (24, n)).astype(np.float32)
        for label, n in zip(labels, lengths, strict=True)
    ]
    table = write_feature_table(folder / "features.npy", front_end, lengths.tolist(), features)
    dataset = Dataset(
        manifest,
        labels,
        tuple(class_names),
        manifest.subject,
        lengths / FRONT_END.frames_per_s,
        {"logmel": table},
    )
    config = config or StudyConfig(data="recordings.csv", arms=tuple(arms), n_folds=3, n_resamples=100)
    repeats = [
        grouped_folds(labels, manifest.subject, n_folds=3, seed=config.seed, repeat=repeat)
        for repeat in range(config.repeats)
    ]
    if config.split == "sites":
        repeats = [
            [
                Fold(str(site), rows, rows, rows)
                for site in np.unique(manifest.site)
                for rows in [np.flatnonzero(manifest.site == site)]
            ]
        ]
    found = audit(manifest, quick=True)
    plan = Plan(dataset, found, repeats, ())
    predictions = {}
    for arm, gap in zip(arms, separation, strict=False):
        logits = rng.normal(0, 1, (config.repeats, len(labels), n_classes)) + gap * np.eye(n_classes)[labels]
        if arm == "prevalence":
            logits[:] = 0
        p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        decisions = p.argmax(axis=2)
        threshold = np.full(decisions.shape, 0.5 if n_classes == 2 else np.nan)
        predictions[arm] = Predictions(p, decisions, threshold)
    lines: list[dict[str, Any]] = [
        {
            "kind": "study",
            "format": 1,
            "data": config.data,
            "task": config.task,
            "identity": "0123",
            "command": command,
            "when": "2026-01-02T03:04:05Z",
            "versions": versions(),
            "config": config.model_dump(mode="json"),
            "class_names": list(class_names),
            "class_counts": np.bincount(labels).tolist(),
            "n_recordings": len(labels),
            "n_tested": len(labels),
            "n_subjects": len(np.unique(manifest.subject)),
            "n_groups": len(np.unique(manifest.subject)),
            "sites": list(manifest.site_names),
            "simulated": simulated,
            "notes": list(notes),
            "front_end": FRONT_END.model_dump(),
            "seconds": 1.5,
        }
    ]
    records = [
        {"epoch": e, "lr": 0.1, "task": 1 / (e + 1), "dev_score": 0.5 + e / 10, "member": member}
        for member in range(2)
        for e in range(3)
    ]
    for arm, predicted in predictions.items():
        for repeat, folds in enumerate(repeats):
            for fold in folds:
                p, decisions = predicted.probabilities[repeat], predicted.decisions[repeat]
                lines.append(
                    {
                        "kind": "fold",
                        "arm": arm,
                        "repeat": repeat,
                        "fold": fold.name,
                        "seed": config.seed + repeat,
                        "n_train": len(fold.train),
                        "n_dev": len(fold.dev),
                        "n_test": len(fold.test),
                        "n_test_subjects": 4,
                        "note": "",
                        "metrics": summarise(labels[fold.test], p[fold.test], decisions[fold.test]),
                        "threshold": 0.5 if n_classes == 2 else None,
                        "calibration": {},
                        "chosen": {"alpha": 10.0},
                        "n_parameters": 1234,
                        "history": records if arm == "scratch" and history else [],
                        "seconds": 2.0,
                    }
                )
    tested = np.arange(len(labels))
    lines += summary_lines(predictions, plan, tested, config)
    lines += comparison_lines(predictions, plan, tested, config)
    out = folder / "out"
    out.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "results.jsonl").write_text(text.replace("NaN", "null"))
    (out / "predictions.csv").write_text(predictions_csv(predictions, plan, tested))
    (out / "recipe.toml").write_text('data = "recordings.csv"\n')
    return Made(out, dataset, found)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two classes, two sites, four arms of which one trains by epochs."""
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(made: Made) -> Page:
    return Page(write_report(*made))


@pytest.fixture(scope="module")
def many_class_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Three classes, one site, no network, no lookup."""
    folder = tmp_path_factory.mktemp("many")
    made = make_study(
        folder,
        class_names=("belly", "hungry", "tired"),
        arms=("prevalence", "logmel+ridge"),
        separation=(0.0, 1.5),
        sites=("",),
        n_per_class=8,
    )
    return Page(write_report(*made))


# --- numbers ---


def test_figures_follow_from_predictions_csv(made: Made, page: Page) -> None:
    """Counted here pair by pair and recording by recording, without vagitus.metrics."""
    with (made.out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "logmel+ridge"]
    ill = [float(row["score"]) for row in rows if row["label"] == "ill"]
    healthy = [float(row["score"]) for row in rows if row["label"] == "healthy"]
    area = sum((a > b) + (a == b) / 2 for a in ill for b in healthy) / len(ill) / len(healthy)
    found = sum(row["decision"] == "ill" for row in rows if row["label"] == "ill") / len(ill)
    cleared = sum(row["decision"] == "healthy" for row in rows if row["label"] == "healthy") / len(healthy)
    brier = sum((float(row["score"]) - (row["label"] == "ill")) ** 2 for row in rows) / len(rows)
    row = next(e for e in page.find("tr") if "ridge on log-mel" in "".join(e.text) and "Brier" not in e.text)
    text = "".join(row.text)
    assert f"{area:.3f}" in text
    assert f"{100 * found:.1f} %" in text
    assert f"{100 * cleared:.1f} %" in text
    assert f"{brier:.3f}" in text
    assert any(f"logmel+ridge {area:.3f}" in "".join(entry.text) for entry in page.find("li"))  # ROC's legend
    point = operating_point(read_study(made.out, made.dataset), "logmel+ridge")
    assert list(point) == pytest.approx([1 - cleared, found])


def test_confusion_matrix_counts_recordings(made: Made, page: Page) -> None:
    with (made.out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "logmel+ridge"]
    missed = sum(row["label"] == "ill" and row["decision"] == "healthy" for row in rows)
    table = next(e for e in page.find("table") if e.attributes.get("class") == "confusion")
    cells = "".join(table.text).split("ill")[-1].split()
    assert int(cells[0]) == missed


def test_disagreeing_files_are_refused(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    results = made.out / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    next(line for line in lines if line["kind"] == "summary")["metrics"]["auroc"]["estimate"] = 0.321
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        ValueError, match=r"auroc is 0\.321 in results\.jsonl, but .* the files are of two studies"
    ):
        write_report(*made)


def test_mean_over_sites_is_held_against_the_pooled_figures(tmp_path: Path) -> None:
    config = StudyConfig(data="x.csv", arms=("lookup", "logmel+ridge"), split="sites", n_resamples=100)
    made = make_study(tmp_path, arms=config.arms, separation=(0.2, 2.0), config=config)
    text = Page(write_report(*made)).text
    assert "Each of 2 sites was left out of training in turn" in text
    assert "in about" not in text  # a mean over sites is no share of pairs


def test_a_study_of_another_dataset_is_refused(made: Made, tmp_path: Path) -> None:
    other = make_study(tmp_path, name="other{}.wav")
    with pytest.raises(ValueError, match=r"predictions\.csv, row 2: rec0\.wav is not in this dataset"):
        write_report(made.out, other.dataset, other.audit)


def test_a_missing_file_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.jsonl: no such file; `vagitus study --out"):
        write_report(tmp_path, made.dataset, made.audit)


def test_comparison_turned_round_changes_every_sign(made: Made) -> None:
    study = read_study(made.out, made.dataset)
    one = compared(study, "auroc", "scratch", "lookup")
    other = compared(study, "auroc", "lookup", "scratch")
    assert one is not None and other is not None
    assert (one["difference"], one["low"], one["high"]) == (
        -other["difference"],
        -other["high"],
        -other["low"],
    )
    assert one["p_holm"] == other["p_holm"]


def test_worst_are_the_surest_of_the_wrong(made: Made) -> None:
    study = read_study(made.out, made.dataset)
    with (made.out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == study.best_hearing]
    wrong = [row for row in rows if row["label"] != row["decision"]]
    sure = sorted(wrong, key=lambda row: -abs(float(row["score"]) - (row["label"] == "ill")))
    items = report.worst_recordings(study, with_audio=False)["items"]
    assert [item["path"] for item in items] == [row["path"] for row in sure[:8]]


# --- markup ---


@pytest.fixture(params=["page", "many_class_page"])
def any_page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.getfixturevalue(request.param)
    return found


def test_page_loads_nothing(any_page: Page) -> None:
    loading = {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not loading & {element.tag for element in any_page.elements}
    for element in any_page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action", "background"):
            target = element.attributes.get(name, "data:")
            assert target.startswith(("data:image/png", "data:audio/mpeg", "#")) or target == "data:", target[
                :60
            ]
        assert not any(name.startswith("on") for name in element.attributes)
    assert not re.findall(r"url\((?!#)", any_page.source)
    assert "@import" not in any_page.source


def test_page_forbids_loading(any_page: Page) -> None:
    policy = next(
        e for e in any_page.find("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    expected = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    assert policy.attributes["content"] == expected


def test_ids_are_unique_and_references_lead_somewhere(any_page: Page) -> None:
    ids = [element.attributes["id"] for element in any_page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", any_page.source))
    for element in any_page.elements:
        links = [element.attributes.get(name, "") for name in ("href", "xlink:href")]
        used |= {link[1:] for link in links if link.startswith("#")}
        used |= set(element.attributes.get("aria-labelledby", "").split())
    assert used <= set(ids)


def test_every_figure_has_words(any_page: Page) -> None:
    assert all(image.attributes.get("alt") for image in any_page.find("img"))
    drawn = [svg for svg in any_page.find("svg") if "aria-hidden" not in svg.attributes]
    assert len(drawn) >= 8
    assert all(svg.attributes["role"] == "img" and svg.attributes["aria-label"] for svg in drawn)
    for figure in any_page.find("figure"):
        assert "".join(figure.text).strip()
    assert len(any_page.find("figcaption")) == len(any_page.find("figure"))


def test_figures_take_colours_and_font_from_the_page(any_page: Page) -> None:
    assert not any(colour in any_page.source for colour in plots.COLOURS.values())
    svgs = "".join(re.findall(r"<svg.*?</svg>", any_page.source, re.DOTALL))
    assert "font-family" not in svgs and "<style" not in svgs
    assert set(re.findall(r"var\(--([^)]+)\)", svgs)) <= set(plots.COLOURS)


def test_headings_step_by_one(any_page: Page) -> None:
    levels = [int(e.tag[1]) for e in any_page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * c for c in colour.lstrip("#"))
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_wcag_aa(page: Page, scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", page.source, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", block))
    text = [(ink, ground) for ink in ("ink", "muted", "accent") for ground in ("page", "surface", "tint")]
    text += [(name, f"{name}-tint") for name in ("error", "warning", "info")]
    text += [("error", "surface"), ("bar-ink", "bar")]
    lines = [(f"series-{n}", "surface") for n in range(1, 7)]
    for pairs, least in ((text, 4.5), (lines, 3.0)):
        for ink, ground in pairs:
            bright, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= least, (ink, ground)


def test_names_from_data_stay_text(tmp_path: Path) -> None:
    made = make_study(
        tmp_path,
        class_names=("<script>alert(1)</script>", "b $x_1$ & <b>"),
        sites=("</style><img src=x>", '"><svg onload=alert(2)>'),
        name="{}'<img src=x onerror=alert(3)>.wav",
        subject="{{{{ 7 * 7 }}}} &lt; s{}",
        notes=("a subset </title><script>alert(4)</script>",),
        command="vagitus study '<script>alert(5)</script>.csv'",
    )
    page = Page(write_report(*made))
    assert not page.find("script") and not page.find("img")
    for text in (
        "<script>alert(1)</script>",
        "b $x_1$ & <b>",
        "</style><img src=x>",
        "'<img src=x onerror=alert(3)>.wav",
        "{{ 7 * 7 }} &lt; s",
        "</title><script>alert(4)</script>",
        "<script>alert(5)</script>.csv",
    ):
        assert text in page.text
    assert not any(name.startswith("on") for element in page.elements for name in element.attributes)


# --- words ---


def test_research_only_is_in_the_bar_that_stays(page: Page) -> None:
    bar = page.find("aside")[0]
    assert RESEARCH_ONLY in "".join(bar.text)
    assert re.search(r"\.bar \{ position: sticky; top: 0", page.source)


def test_simulated_and_subset_are_announced(page: Page, tmp_path: Path) -> None:
    assert "Simulated data." not in page.text and "Subset." not in page.text
    notes = ("simulated: no patient", "a subset: 24 of 90 recordings are here")
    made = make_study(tmp_path, arms=("logmel+ridge",), separation=(2.0,), notes=notes, simulated=True)
    text = Page(write_report(*made)).text
    assert "Simulated data. No patient was recorded." in text
    assert "Subset. These are not the full corpus's figures: a subset: 24 of 90 recordings are here." in text


def test_answer_names_the_best_arm_and_what_it_was_held_against(made: Made, page: Page) -> None:
    study = read_study(made.out, made.dataset)
    said = report.headline(study)
    best = "Best at telling ill and healthy recordings apart: logmel+ridge (ridge on log-mel statistics), AUROC 0."
    assert said[0].startswith(best)
    assert any("second-best, scratch" in sentence for sentence in said)
    assert any("lookup, which hears no audio" in sentence for sentence in said)
    assert all(sentence in page.text for sentence in said)
    assert "No model was chosen on test recordings" in page.text


def test_guessing_is_called_guessing(tmp_path: Path) -> None:
    made = make_study(tmp_path, arms=("lookup", "logmel+ridge"), separation=(0.0, 0.1))
    said = report.headline(read_study(made.out, made.dataset))
    assert said[0].startswith(
        "No arm told ill and healthy recordings apart better than guessing: the best that hears"
    )


def test_worse_than_guessing_is_said(tmp_path: Path) -> None:
    made = make_study(
        tmp_path, arms=("prevalence", "lookup", "logmel+ridge"), separation=(0.0, 0.0, -2.0), n_per_class=20
    )
    study = read_study(made.out, made.dataset)
    said = report.headline(study)
    assert any("Worse than guessing, by more than chance explains: logmel+ridge." in text for text in said)
    assert [line["arm"] for line in study.summaries] == ["lookup", "logmel+ridge", "prevalence"]
    assert not any(row["is_best"] for row in report.arm_rows(study))


def test_an_arm_that_hears_nothing_is_never_praised_for_listening(tmp_path: Path) -> None:
    made = make_study(tmp_path, arms=("lookup", "logmel+ridge"), separation=(3.0, 0.5))
    study = read_study(made.out, made.dataset)
    assert any("no arm that listens did better" in sentence for sentence in report.headline(study))
    assert study.best_hearing == "logmel+ridge"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.00049, "< 0.001"), (0.0123, "= 0.012"), (0.04996, "= 0.0500"), (0.34, "= 0.34"), (None, "unknown")],
)
def test_p_values_are_written(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_figures_are_written_with_their_unit() -> None:
    cell = {"low": 0.8012, "high": 0.9}
    assert value_text("auroc", 0.87654) == "0.877"
    assert value_text("uar", 0.87654) == "87.7 %"
    assert value_text("uar", None) == value_text("auroc", float("nan")) == "\N{EN DASH}"
    assert interval_text("auroc", cell) == "0.801\N{EN DASH}0.900"
    assert interval_text("uar", cell) == "80.1\N{EN DASH}90.0 %"
    assert interval_text("uar", {"low": None, "high": None}) == ""
    found = {"difference": -0.0312, "low": -0.07, "high": 0.0125}
    assert difference_text("auroc", found) == ("\N{MINUS SIGN}0.031", "\N{MINUS SIGN}0.070 to +0.013")
    assert difference_text("uar", found) == ("\N{MINUS SIGN}3.1 points", "\N{MINUS SIGN}7.0 to +1.2")


def test_every_metric_is_defined() -> None:
    assert set(report.DEFINITIONS) == set(METRICS)


# --- what a study may lack ---


def test_several_classes_at_one_site_without_a_network(many_class_page: Page) -> None:
    text = many_class_page.text
    assert "All tested recordings come from one site" in text
    assert "No arm of this study trains by epochs" in text
    assert "No arm without audio was run, so nothing says how much" in text
    assert (
        "Best at telling the 3 classes apart: logmel+ridge (ridge on log-mel statistics), Macro AUROC" in text
    )
    assert "Decision curves" not in text
    assert "each class against the rest" in text


def shipped(arm: str, **dev_auroc: float) -> dict[str, Any]:
    return {
        "kind": "model",
        "arm": arm,
        "file": "model.safetensors",
        "threshold": 0.5,
        "dev_auroc": dev_auroc,
    }


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            shipped("scratch", scratch=0.75),
            ["logmel+ridge has the best figure above, but is no single network"],
        ),
        (
            shipped("lookup", **{"lookup": 0.75, "logmel+ridge": 0.7}),
            ["(mean AUROC: lookup 0.750, logmel+ridge 0.700)", "but test recordings do not choose"],
        ),
        (shipped("logmel+ridge", **{"logmel+ridge": 0.75}), []),
    ],
)
def test_how_the_shipped_model_was_chosen_is_said_where_there_was_a_choice(
    made: Made, model: dict[str, Any], said: list[str]
) -> None:
    found = report.choice(replace(read_study(made.out, made.dataset), model=model))
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_the_page_names_the_shipped_model_and_its_choice(tmp_path: Path) -> None:
    made = make_study(tmp_path, arms=("lookup", "scratch"), separation=(0.0, 2.0), history=False)
    with (made.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(shipped("scratch", scratch=0.75, gru=0.5)) + "\n")
    text = Page(write_report(*made)).text
    assert (
        "was trained by arm scratch on all recordings but a dev fold. The training side alone chose" in text
    )


def test_training_curves_show_terms_and_dev_score(page: Page) -> None:
    assert "scratch, 3 folds" in page.text
    assert "Training loss, task" in page.text and "AUROC on the dev fold" in page.text
    # A fold's networks are curves of their own, and which of them it is is no loss.
    assert "Training loss, task of scratch over epochs, 6 networks; at the end" in page.source
    assert "Training loss, member" not in page.text


def test_more_classes_than_a_table_holds(tmp_path: Path) -> None:
    names = [f"infant{k:02d}" for k in range(14)]
    made = make_study(
        tmp_path, class_names=names, arms=("logmel+ridge",), separation=(2.0,), n_per_class=6, history=False
    )
    page = Page(write_report(*made))
    assert "confusion" not in {element.attributes.get("class") for element in page.find("table")}
    assert "had to tell 14 classes apart" in page.text


@pytest.mark.parametrize("kind", ["mfcc", "logmel"])
def test_features_without_levels_have_no_mean_spectrum(
    tmp_path: Path, kind: Literal["mfcc", "logmel"]
) -> None:
    normalised = FeatureConfig(n_bands=24, hop_ms=25.0, kind=kind, normalisation="mean_std")
    made = make_study(tmp_path, arms=("svm",), separation=(0.5,), front_end=normalised)
    text = Page(write_report(*made)).text
    assert "Mean spectrum of each class" not in text
    assert ("so there are no mean spectra to show" in text) == (kind == "mfcc")
    assert ("Mean spectrogram: ill" in text) == (kind == "logmel")


def test_repeats_are_averaged(tmp_path: Path) -> None:
    config = StudyConfig(data="x.csv", arms=("logmel+ridge",), n_folds=3, repeats=2, n_resamples=100)
    made = make_study(tmp_path, arms=config.arms, separation=(1.0,), config=config)
    text = Page(write_report(*made)).text
    assert "all of it was repeated 2 times" in text
    assert "the first of 2 repeats" in text


def test_site_of_one_class_has_no_figure(tmp_path: Path) -> None:
    # Subjects alternate between sites, and the classes lie one after the other.
    made = make_study(tmp_path, sites=[*["one"] * 6, *["two"] * 6], arms=("logmel+ridge",), separation=(2.0,))
    page = Page(write_report(*made))
    table = next(e for e in page.find("tr") if "one class only" in "".join(e.text))
    assert "\N{EN DASH}" in "".join(table.text)


def test_left_out_recordings_are_named_with_their_reason(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    rows = [{"path": f"rec{i}.wav", "subject": f"s{i}", "label": "ill"} for i in range(3)]
    (tmp_path / "broken.wav").write_bytes(b"RIFF no recording")
    broken = audit(build_manifest([*rows, {"path": "broken.wav", "subject": "s9"}], tmp_path, "b.csv", []))
    page = Page(write_report(made.out, made.dataset, broken))
    section = page.text.split("What was left out, and why")[1]
    assert "1 labelled recording could not be used" in section
    assert "broken.wav: " in section


# --- sound and file ---


def test_embedded_sound_is_short_narrow_and_mono(tmp_path: Path) -> None:
    made = make_study(tmp_path, arms=("logmel+ridge",), separation=(0.3,))
    study = read_study(made.out, made.dataset)
    wrong = report.worst_recordings(study, with_audio=False)["items"][0]["path"]
    t = np.arange(12 * 44_100) / 44_100
    soundfile.write(tmp_path / wrong, np.stack([0.5 * np.sin(2 * np.pi * 440 * t)] * 2, axis=1), 44_100)
    page = Page(write_report(*made))
    sounds = page.find("audio")
    assert 0 < len(sounds) <= 8
    samples, rate_hz = soundfile.read(
        io.BytesIO(base64.b64decode(sounds[0].attributes["src"].removeprefix("data:audio/mpeg;base64,")))
    )
    assert samples.ndim == 1 and rate_hz == 16_000
    assert len(samples) == pytest.approx(10 * rate_hz, abs=2400)  # MP3 pads by whole frames
    spectrum = np.abs(np.fft.rfft(samples[rate_hz : 2 * rate_hz]))
    assert int(spectrum.argmax()) == 440
    assert "This file holds sound recordings of patients" in page.text


def test_without_audio_none_is_embedded(made: Made) -> None:
    page = Page(write_report(*made, with_audio=False))
    assert not page.find("audio")
    assert "Without sound: this report was written with --no-audio" in page.text
    assert "recordings of patients" not in page.text


def test_a_recording_that_is_gone_is_said_and_stops_nothing(tmp_path: Path) -> None:
    made = make_study(tmp_path, arms=("logmel+ridge",), separation=(0.3,))
    for path in tmp_path.glob("rec*.wav"):
        path.unlink()
    page = Page(write_report(*made))
    assert not page.find("audio")
    assert "No sound: " in page.text


def test_report_is_whole_or_not_written(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("results.jsonl", "predictions.csv"):
        (out / name).write_bytes((made.out / name).read_bytes())
    (out / "report.html").write_text("the old one")
    (out / "predictions.csv").write_text("path\n")
    with pytest.raises(ValueError, match="no prediction in it"):
        write_report(out, made.dataset, made.audit)
    assert (out / "report.html").read_text() == "the old one"
    (out / "predictions.csv").write_bytes((made.out / "predictions.csv").read_bytes())
    write_report(out, made.dataset, made.audit)
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "report.html", "results.jsonl"]


def test_same_study_same_page(made: Made, page: Page) -> None:
    assert write_report(*made).read_text(encoding="utf-8") == page.source


# --- figures ---


def test_unknown_values_leave_a_gap() -> None:
    nan = float("nan")
    row = plots.Row("arm", nan, nan, nan, "unknown", plots.STYLES[0])
    assert "unknown" in plots.forest("f", [row], metric="AUROC", chance=None, alt="nothing")
    dots = [("site", "n = 1", [(plots.STYLES[0], [nan], nan, nan)])]
    assert "n = 1" in plots.dots("d", dots, metric="AUROC", chance=0.5, alt="nothing")


def test_styles_differ_without_colour() -> None:
    assert len({style.dash for style in plots.STYLES}) == len(plots.STYLES)
    assert len({style.marker for style in plots.STYLES}) == len(plots.STYLES)
    assert len({style.shape for style in plots.STYLES}) == len(plots.STYLES)


def test_figure_text_is_text_and_escaped() -> None:
    curve = roc_curve([0, 1, 1, 0], [0.1, 0.7, 0.4, 0.5])
    svg = plots.roc(
        "r", [(plots.STYLES[0], curve)], band=None, points=[], positive="<i>", negative='"', alt='a "b" <c>'
    )
    assert "&lt;i&gt; found" in svg and "<i>" not in svg
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in svg
