"""The report of a study: one page that needs no network, no script and nobody to explain it.

    OUT/results.jsonl, OUT/predictions.csv, the dataset, the audit -> OUT/report.html

Numbers with intervals are those of results.jsonl; curves are drawn from predictions.csv, and a folder whose
two files do not agree is refused. The template (report.html) holds the words that are always there, this
module those that depend on what was found; sheet.html holds the style that every page shares.
"""

import base64
import io
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus import plots
from vagitus.audio import AudioError, probe, read
from vagitus.audit import Audit
from vagitus.checkpoint import RESEARCH_ONLY
from vagitus.corpora import CORPORA
from vagitus.dataset import Dataset
from vagitus.figures import (
    attribute_plots,
    curve_plots,
    forest_plots,
    recording_spectrogram,
    site_plots,
    sound_plots,
    training_plots,
)
from vagitus.files import write_atomic
from vagitus.metrics import METRICS, confusion_matrix, statistic
from vagitus.outcome import (
    FLOOR,
    UNKNOWN,
    IntArray,
    Line,
    Study,
    compared,
    count_text,
    difference_text,
    hears,
    interval_text,
    is_different,
    known,
    p_text,
    read_study,
    seconds_text,
    site_name,
    value_text,
)
from vagitus.plots import Plot
from vagitus.shift import measure_shift, shift_section
from vagitus.shortcuts import Probe
from vagitus.statistics import Comparison, Interval, subject_bootstrap

N_WORST = 8
AUDIO_S = 10.0
# What MP3 can hold, up to what a cry or a breath needs; a recording takes the least that keeps its band.
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000)
MP3_COMPRESSION = 0.75  # of libsndfile's scale from 0 to 1: 48 kbit/s at 16 kHz, 60 kB for 10 s
MOST_CELLS = 12  # classes of a confusion matrix that is still read as numbers
MOST_NAMED = 6  # classes named in a sentence

BINARY_COLUMNS = (
    *("auroc", "uar", "sensitivity", "specificity", "sensitivity_at_specificity_80"),
    *("average_precision", "brier", "ece"),
)
MANY_CLASS_COLUMNS = ("macro_auroc", "uar", "macro_f1", "accuracy", "brier", "ece")
COLUMN_TITLES = {
    "sensitivity_at_specificity_80": "Sens. at 80 % spec.",
    "average_precision": "Avg. precision",
    "ece": "ECE",
    "brier": "Brier",
}
DEFINITIONS = {
    "auroc": "The chance that a positive recording scores higher than a negative one; 0.5 is guessing, 1 is perfect.",
    "macro_auroc": "The AUROC of each class against all others, averaged over classes; 0.5 is guessing.",
    "average_precision": "Area under the precision-recall curve; guessing gives the share of positives.",
    "sensitivity_at_specificity_80": "The most positives found by a threshold that clears at least 80 % of "
    "negatives. That threshold is read off the test recordings, so the figure compares arms and promises nothing.",
    "uar": "Unweighted average recall, or balanced accuracy: the share found of each class, averaged over "
    "classes; guessing gives one over the number of classes.",
    "sensitivity": "Share of positive recordings that are called positive.",
    "specificity": "Share of negative recordings that are called negative.",
    "accuracy": "Share of all recordings that are called what they are; flatters when classes are unequal.",
    "f1": "Harmonic mean of precision and recall of the positive class.",
    "macro_f1": "Harmonic mean of precision and recall, averaged over classes.",
    "mcc": "Matthews correlation of calls and labels: 0 is guessing, 1 is perfect.",
    "brier": "Mean squared error of the predicted probabilities; lower is better.",
    "log_loss": "Mean surprise, in nats, at what each recording turned out to be; lower is better.",
    "ece": "Expected calibration error: how far predicted probabilities lie from observed frequencies, averaged "
    "over ten bins; lower is better. It has no interval: resampling alone makes it worse.",
}
SEVERITIES = {"error": ("✖", "Error"), "warning": ("▲", "Warning"), "info": ("●", "Note")}


def write_report(out: Path, dataset: Dataset, audit: Audit, *, with_audio: bool = True) -> Path:
    """Write ``OUT/report.html`` from what a study left in its folder, whole or not at all.

    Args:
        out: the study's folder, with results.jsonl and predictions.csv; recipe.toml is quoted if it is there.
        dataset: the one that was studied.
        audit: of the labelled recordings it was made of.
        with_audio: embed up to eight of the recordings that the best arm gets wrong, ten seconds of each.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: the study's files are not there.
        ValueError: they are not of this dataset, or do not agree with each other.
        OSError: the report cannot be written.
    """
    study = read_study(Path(out), dataset)
    sites = site_table(study)
    page = render(
        "report.html",
        floor=FLOOR,
        study=study,
        title=title(study),
        headline=headline(study),
        setting=setting(study),
        arms=arm_rows(study),
        columns=arm_columns(study),
        forests=forest_plots(study),
        comparisons=comparison_tables(study),
        curves=curve_plots(study),
        confusions=confusions(study),
        balance=list(
            zip(study.class_names, np.bincount(study.labels, minlength=study.n_classes).tolist(), strict=True)
        ),
        sites=sites,
        site_plots=site_plots(study, sites),
        shift=shift_between_sites(study, audit),
        gains=gain_table(Path(out) / "results.jsonl"),
        folds=fold_rows(study),
        training=training_plots(study),
        sounds=sound_plots(study),
        attributes=attribute_plots(study, audit),
        worst=worst_recordings(study, with_audio=with_audio),
        audit=audit_section(study, audit),
        excluded=excluded(audit),
        record=record(study, Path(out)),
    )
    target = Path(out) / "report.html"
    write_atomic(target, page)
    return target


def render(template: str, **said: Any) -> str:
    """A page of one of the package's templates, with what it says; any text in it is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: files("vagitus").joinpath(name).read_text(encoding="utf-8")),
    )
    environment.filters["svg"] = Markup  # of plots.py, where every text is escaped
    environment.filters["sentence"] = sentence
    environment.filters["swatch"] = lambda style: Markup(plots.swatch(style))
    return environment.get_template(template).render(research_only=RESEARCH_ONLY, unknown=UNKNOWN, **said)


def title(study: Study) -> str:
    about = study.about
    name = about["data"] if about["data"] in CORPORA else Path(about["data"]).name
    return f"{name}: {about['task']}" if about["task"] else str(name)


def setting(study: Study) -> list[str]:
    """What was compared, on what, and how models were chosen: a sentence each."""
    about, config = study.about, study.about["config"]
    n_subjects = len(np.unique(study.groups))
    names = [f"“{name}”" for name in study.class_names]
    task = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= MOST_NAMED else f"{len(names)} classes"
    n_sites = len(np.unique(study.site_of))
    said = [
        f"{count_text(len(study.summaries), 'arm')} (ways to turn a recording into a score) had to tell {task} "
        f"apart, on {count_text(len(study.tested), 'recording')} of {count_text(n_subjects, 'subject')} from "
        f"{count_text(n_sites, 'site')}."
    ]
    if len(study.tested) < len(study.dataset):
        said.append(
            f"Of {count_text(len(study.dataset), 'recording')}, {len(study.tested):,} were tested and the others only "
            "trained on."
        )
    n_merged = about["n_subjects"] - about["n_groups"]
    if n_merged > 0:
        said.append(
            f"{count_text(n_merged, 'subject')} shared a recording with another and stayed on its side of every split."
        )
    n_folds = len({line["fold"] for line in study.folds if line["repeat"] == 0})
    said.append(
        {
            "subjects": f"Subjects were divided into {n_folds} folds; each fold was tested by models that had never "
            "heard its subjects"
            + (f", and all of it was repeated {study.n_repeats} times." if study.n_repeats > 1 else "."),
            "sites": f"Each of {count_text(n_folds, 'site')} was left out of training in turn and then tested; overall "
            "figures are the mean over sites, so that the largest does not speak for all.",
            "column": "The division into training and test subjects is the one given with the data.",
        }[config["split"]]
    )
    said.append(
        "No model was chosen on test recordings: settings, epochs, the calibration of probabilities "
        f"({config['calibration']}) and the decision threshold ({_rule(config['threshold_rule'])}) come from the "
        "training side of each fold alone."
        if study.n_classes == 2
        else "No model was chosen on test recordings: settings, epochs and the calibration of probabilities "
        f"({config['calibration']}) come from the training side of each fold alone."
    )
    said.append(
        f"Intervals are {study.level} bootstrap intervals that resample whole subjects, "
        f"{config['n_resamples']:,} times."
    )
    return said


def headline(study: Study) -> list[str]:
    """The answer first, then what it rests on; a sentence each."""
    if study.best["metrics"][study.metric]["estimate"] is None:
        return ["No overall figure could be computed: no test fold holds every class."]
    return _found(study) if study.beats_chance else _nothing_found(study)


def _nothing_found(study: Study) -> list[str]:
    arm, chance = study.best_hearing, study.chance
    said = [
        f"No arm told {_classes(study)} apart better than guessing: the best that hears audio, {arm}, reached "
        f"{_figure(study, arm)}, and guessing gives {value_text(study.metric, chance)}."
    ]
    worse = [
        line["arm"]
        for line in study.summaries
        if known(line["metrics"][study.metric]["high"]) < known(chance, -math.inf) and line["arm"] != FLOOR
    ]
    if worse:
        said.append(
            f"Worse than guessing, by more than chance explains: {', '.join(worse)}. What was learned on the "
            "training side points the wrong way on the test side, as it does when sites or subjects differ more "
            "than classes do."
        )
    return said


def _figure(study: Study, arm: str) -> str:
    cell = next(line for line in study.summaries if line["arm"] == arm)["metrics"][study.metric]
    interval = interval_text(study.metric, cell)
    figure = f"{METRICS[study.metric].title} {value_text(study.metric, cell['estimate'])}"
    return f"{figure} ({study.level} interval {interval})" if interval else figure


def _found(study: Study) -> list[str]:
    best, arm = study.best, study.best["arm"]
    said = [f"Best at telling {_classes(study)} apart: {arm} ({best['title']}), {_figure(study, arm)}."]
    if study.metric == "auroc" and study.about["config"]["split"] != "sites":
        said.append(
            f"Of one {study.positive} and one {study.negative} recording it scores the {study.positive} one higher "
            f"in about {round(100 * best['metrics']['auroc']['estimate'])} of 100 such pairs; guessing gives 50."
        )
    ranked = [line["arm"] for line in study.summaries]
    if len(ranked) > 1:
        deaf = "" if hears(ranked[1]) else ", which hears no audio"
        said += _against(study, arm, ranked[1], f"the second-best, {ranked[1]}{deaf}")
    if not hears(arm) and arm != FLOOR:
        said.append(
            f"{arm} hears no audio, only the recordings' metadata and duration; no arm that listens did better."
        )
    elif "lookup" in ranked[2:]:
        said += _against(study, arm, "lookup", "lookup, which hears no audio, only metadata and duration")
    elif "lookup" not in ranked:
        said.append(
            "No arm without audio was run, so nothing says how much of this the metadata alone would give."
        )
    decisions = best["metrics"]
    if study.n_classes == 2 and decisions["sensitivity"]["estimate"] is not None:
        said.append(
            f"At the threshold set on its training side, {arm} finds "
            f"{value_text('sensitivity', decisions['sensitivity']['estimate'])} of {study.positive} recordings "
            f"(sensitivity) and clears {value_text('specificity', decisions['specificity']['estimate'])} of "
            f"{study.negative} ones (specificity)."
        )
    if len(study.summaries) > 2:
        said.append(
            f"Which of {len(study.summaries)} arms is best was seen on the test recordings, which flatters the best "
            "one a little; the table shows them all."
        )
    return said


def _against(study: Study, arm: str, other: str, described: str) -> list[str]:
    """Whether ``arm`` is better than ``other``, in sentences."""
    found = compared(study, study.metric, arm, other)
    if found is None:
        return [f"It was not compared with {described}."]
    difference, interval = difference_text(study.metric, found)
    difference = f"difference {difference}, {interval}; p {p_text(found['p_holm'])} after Holm"
    if is_different(study, found):
        return [f"It is better than {described}, by more than chance explains ({difference})."]
    said = [f"It cannot be told apart from {described} ({difference})."]
    if hears(arm) and not hears(other):
        said.append("So nothing here shows that listening adds anything.")
    return said


def _classes(study: Study) -> str:
    if study.n_classes == 2:
        return f"{study.positive} and {study.negative} recordings"
    return f"the {study.n_classes} classes"


def _rule(rule: str) -> str:
    if rule == "max_uar":
        return "the best mean of sensitivity and specificity"
    return rule.replace("_", " ").replace(":", " ")


def sentence(text: str) -> str:
    """A finding or note with a capital and a full stop; a first word that may be a name stays as it is."""
    first = text.split(" ", 1)[0].rstrip(",:")
    if first.isalpha() and first.islower():
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def arm_columns(study: Study) -> list[Line]:
    return [
        {
            "name": name,
            "title": COLUMN_TITLES.get(name, METRICS[name].title),
            "definition": DEFINITIONS[name],
            "better": "higher is better" if METRICS[name].higher_is_better else "lower is better",
            "arrow": "↑" if METRICS[name].higher_is_better else "↓",
        }
        for name in _columns(study)
    ]


def _columns(study: Study) -> tuple[str, ...]:
    return BINARY_COLUMNS if study.n_classes == 2 else MANY_CLASS_COLUMNS


def arm_rows(study: Study) -> list[Line]:
    rows = []
    for line in study.summaries:
        arm = line["arm"]
        folds = [fold for fold in study.folds if fold["arm"] == arm]
        counts = sorted(fold["n_parameters"] for fold in folds)
        rows.append(
            {
                "arm": arm,
                "title": line["title"],
                "style": study.style(arm),
                "is_best": line is study.best and study.beats_chance,
                "hears": hears(arm),
                "cells": [
                    {
                        "value": value_text(name, line["metrics"][name]["estimate"]),
                        "interval": interval_text(name, line["metrics"][name]),
                    }
                    for name in _columns(study)
                ],
                "n_parameters": f"{counts[len(counts) // 2]:,}" if counts else UNKNOWN,
                "seconds": seconds_text(sum(fold["seconds"] for fold in folds)),
            }
        )
    return rows


def comparison_tables(study: Study) -> list[Line]:
    """For each metric: the best arm against every other, and all other pairs."""
    tables = []
    ranked = [line["arm"] for line in study.summaries]
    for metric in dict.fromkeys(line["metric"] for line in study.comparisons):
        rows = []
        for k, arm in enumerate(ranked):
            for other in ranked[k + 1 :]:
                found = compared(study, metric, arm, other)
                if found is None:
                    continue
                is_known = found["difference"] is not None and found["p_holm"] is not None
                difference, interval = difference_text(metric, found)
                ahead = arm if known(found["difference"], 0) > 0 else other
                rows.append(
                    {
                        "a": arm,
                        "b": other,
                        "difference": difference,
                        "interval": interval,
                        "p": p_text(found["p"]).removeprefix("= "),
                        "p_holm": p_text(found["p_holm"]).removeprefix("= "),
                        "is_different": is_known and is_different(study, found),
                        "verdict": "unknown"
                        if not is_known
                        else f"{ahead} is better"
                        if is_different(study, found)
                        else "no difference shown",
                        "of_best": k == 0,
                    }
                )
        tables.append({"metric": METRICS[metric].title, "rows": rows, "n": len(rows)})
    return tables


def confusions(study: Study) -> list[Line]:
    """Best hearing arm first; tables while classes are few enough to read, else a picture."""
    first = study.best_hearing
    arms = [first, *(line["arm"] for line in study.summaries if line["arm"] != first)]
    found = []
    for k, arm in enumerate(arms):
        counts = confusion_matrix(study.labels, study.scored[arm].decisions[0], n_classes=study.n_classes)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        plot = None
        if study.n_classes > MOST_CELLS:
            if k > 0:
                continue
            svg = plots.matrix(
                "confusion", shares, alt=f"Confusion matrix of {arm}, {study.n_classes} classes."
            )
            plot = Plot(f"Confusion of {arm}", svg, "Row: what a recording is; column: what it is called.")
        rows = [
            {
                "name": study.class_names[i],
                "cells": [
                    {"n": f"{counts[i, j]:,.0f}", "share": f"{100 * shares[i, j]:.0f}", "is_right": i == j}
                    for j in range(study.n_classes)
                ],
            }
            for i in range(study.n_classes)
        ]
        found.append({"arm": arm, "rows": rows, "plot": plot})
    return found


def _of_site(study: Study, site: str) -> IntArray:
    return np.flatnonzero(study.site_of == site)


def _site_interval(study: Study, arm: str, site: str) -> Interval:
    rows, scored = _of_site(study, site), study.scored[arm]
    statistics = [
        statistic(study.metric, study.labels[rows], p[rows], d[rows])
        for p, d in zip(scored.probabilities, scored.decisions, strict=True)
    ]
    config = study.about["config"]
    return subject_bootstrap(
        statistics,
        study.groups[rows],
        rng=np.random.default_rng([config["seed"], 4]),
        n_resamples=config["n_resamples"],
        level=config["level"],
    )


def site_table(study: Study) -> Line:
    """A row a site: size, balance of classes, the headline metric of each arm that has curves."""
    rows = []
    arms = study.curve_arms
    for site in np.unique(study.site_of):
        held = _of_site(study, str(site))
        counts = np.bincount(study.labels[held], minlength=study.n_classes)
        if study.n_classes <= 4:
            balance = ", ".join(f"{n:,} {name}" for n, name in zip(counts, study.class_names, strict=True))
        else:
            balance = f"{(counts > 0).sum()} of {study.n_classes} classes"
        intervals = [_site_interval(study, arm, str(site)) for arm in arms]
        rows.append(
            {
                "site": site_name(str(site)),
                "n_recordings": len(held),
                "n_subjects": len(np.unique(study.groups[held])),
                "balance": balance,
                "is_one_class": bool((counts > 0).sum() == 1),
                "cells": [
                    {
                        "value": value_text(study.metric, interval.estimate),
                        "interval": interval_text(study.metric, interval),
                    }
                    for interval in intervals
                ],
                "intervals": intervals,
            }
        )
    return {"metric": METRICS[study.metric].title, "arms": arms, "rows": rows}


def shift_between_sites(study: Study, audit: Audit) -> Line | None:
    """What tells the sites apart, measured on the study's own log-mel; None for one site, or without such a table."""
    dataset = study.dataset
    table = dataset.tables.get("logmel")
    if table is None or len(np.unique(dataset.manifest.site)) < 2:
        return None
    heard = {
        name: values[audit.usable]
        for name, values in audit.recordings.items()
        if name in ("duration_s", "bandwidth_hz") and int(audit.usable.sum()) == len(dataset)
    }
    covariates = {
        name: column
        for name, column in dataset.manifest.covariates.items()
        if 2 <= len(np.unique(column[column != ""])) <= MOST_CELLS
    }
    try:
        found = measure_shift(
            list(table),
            table.config.frames_per_s,
            dataset.manifest.site,
            dataset.groups,
            labels=dataset.labels,
            class_names=dataset.class_names,
            numbers=heard,
            words=covariates,
            seed=study.about["config"]["seed"],
        )
    except ValueError:  # a site is blank: there is nothing to tell apart
        return None
    return shift_section(found)


def gain_table(results: Path) -> Line | None:
    """What each method of adaptation gained over the sources' network and over its control; None without any."""
    lines = [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines() if text.strip()]
    gains = [line for line in lines if line["kind"] == "gain"]
    if not gains:
        return None

    def shown(value: float | None, sign: str = "") -> str:
        return UNKNOWN if value is None else f"{value:{sign}.3f}"

    rows = [
        {
            "method": line["arm"].partition(":")[2],
            "baseline": line["baseline"].partition(":")[2],
            "regime": line["regime"],
            "metric": METRICS[line["metric"]].title,
            "site": line["site"] or "mean",
            "is_mean": not line["site"],
            "source": f"{shown(line['source_before'])} → {shown(line['source_after'])}",
            "target": f"{shown(line['target_before'])} → {shown(line['target_after'])}",
            "gain": shown(line["gain"], "+"),
            "interval": f"[{shown(line['low'], '+')}, {shown(line['high'], '+')}]",
            "hurts": line["high"] is not None and line["high"] < 0,
            "helps": line["low"] is not None and line["low"] > 0,
        }
        for line in gains
    ]
    return {
        "means": [row for row in rows if row["is_mean"]],
        "sites": [row for row in rows if not row["is_mean"]],
        "unit": gains[0]["unit"],
        "alarms": [
            {"method": line["arm"].partition(":")[2], "site": line["site"], "text": line["text"]}
            for line in lines
            if line["kind"] == "alarm"
        ],
    }


def fold_rows(study: Study) -> list[Line]:
    return [
        {
            "arm": line["arm"],
            "fold": line["fold"],
            "n": f"{line['n_train']:,} / {line['n_dev']:,} / {line['n_test']:,}",
            "n_test_subjects": line["n_test_subjects"],
            "value": value_text(study.metric, line["metrics"].get(study.metric)),
            "uar": value_text("uar", line["metrics"].get("uar")),
            "threshold": UNKNOWN if line["threshold"] is None else f"{line['threshold']:.3f}",
            "chosen": ", ".join(f"{name} {_setting(value)}" for name, value in line["chosen"].items())
            or UNKNOWN,
            "seconds": seconds_text(line["seconds"]),
            "note": line.get("note") or "",
        }
        for line in study.folds
    ]


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def worst_recordings(study: Study, *, with_audio: bool) -> Line:
    """The recordings that the best hearing arm gets wrong with the most confidence."""
    arm = study.best_hearing
    scored = study.scored[arm]
    p = scored.probabilities.mean(axis=0)
    wrong = np.flatnonzero((scored.decisions != study.labels).mean(axis=0) > 0.5)
    # Confidence in the wrong: the probability left for what it is, lowest first.
    order = wrong[np.argsort(p[wrong, study.labels[wrong]], kind="stable")][:N_WORST]
    manifest = study.dataset.manifest
    items = []
    for rank, position in enumerate(order):
        i = int(study.tested[position])
        label = int(study.labels[position])
        called = int(np.bincount(scored.decisions[:, position]).argmax())
        start_s, end_s = manifest.stretch(i)
        audio, seconds, reason = _embedded(manifest.file(i), start_s, end_s) if with_audio else ("", 0.0, "")
        threshold = scored.threshold[:, position].mean()
        items.append(
            {
                "path": str(manifest.path[i]),
                "stretch": "" if start_s == 0 and end_s is None else _stretch_text(start_s, end_s),
                "subject": str(manifest.subject[i]),
                "site": site_name(str(manifest.site[i])),
                "label": study.class_names[label],
                "called": study.class_names[called],
                "score": f"{p[position, called]:.3f}" if study.n_classes > 2 else f"{p[position, 1]:.3f}",
                "threshold": "" if math.isnan(threshold) else f"{threshold:.3f}",
                "audio": audio,
                "seconds": f"{seconds:.1f}",
                "duration": f"{study.dataset.duration_s[i]:.1f}",
                "reason": reason,
                "plot": recording_spectrogram(study, i, f"worst-{rank}", AUDIO_S),
            }
        )
    return {
        "arm": arm,
        "n_wrong": len(wrong),
        "n_tested": len(study.tested),
        "items": items,
        "with_audio": with_audio,
        "has_audio": any(item["audio"] for item in items),
        "what": f"predicted probability of “{study.positive}”"
        if study.n_classes == 2
        else "predicted probability of what it is called",
    }


def _stretch_text(start_s: float, end_s: float | None) -> str:
    return f"{start_s:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"


def _embedded(path: Path, start_s: float, end_s: float | None) -> tuple[str, float, str]:
    """(data URI, seconds, "") of the first ten seconds; ("", 0, why) if they cannot be had."""
    try:
        most = start_s + AUDIO_S
        duration_s = probe(path).duration_s
        stop = min(most, end_s if end_s is not None else duration_s if duration_s is not None else most)
        rate_hz = next(
            (rate for rate in MP3_RATES_HZ if rate >= probe(path).sample_rate_hz), MP3_RATES_HZ[-1]
        )
        samples, _ = read(path, sample_rate_hz=rate_hz, start_s=start_s, end_s=stop)
    except (AudioError, OSError) as error:
        return "", 0.0, str(error)
    return _data_uri(samples, rate_hz), len(samples) / rate_hz, ""


def _data_uri(samples: NDArray[np.float32], rate_hz: int) -> str:
    """MP3, which every browser plays; FLAC where libsndfile was built without it."""
    import soundfile

    buffer = io.BytesIO()
    clipped = np.clip(samples, -1, 1)
    if "MP3" in soundfile.available_formats():
        kind = "audio/mpeg"
        soundfile.write(
            buffer,
            clipped,
            rate_hz,
            format="MP3",
            subtype="MPEG_LAYER_III",
            compression_level=MP3_COMPRESSION,
            bitrate_mode="CONSTANT",
        )
    else:
        kind = "audio/flac"
        soundfile.write(buffer, clipped, rate_hz, format="FLAC", subtype="PCM_16")
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def audit_section(study: Study, audit: Audit) -> Line:
    findings = [
        {
            "severity": finding.severity,
            "icon": SEVERITIES[finding.severity][0],
            "word": SEVERITIES[finding.severity][1],
            "summary": finding.summary,
            "count": finding.count,
            "files": list(finding.files),
            "n_more": finding.count - len(finding.files),
        }
        for finding in audit.findings
    ]

    def shown(found: Probe) -> Line:
        return {
            "what": found.what,
            "split": found.split.removesuffix(", WRONG"),
            "is_wrong": found.is_wrong,
            "uar": value_text("uar", found.uar.estimate),
            "uar_interval": interval_text("uar", found.uar),
            "auroc": value_text("auroc", found.auroc.estimate),
            "auroc_interval": interval_text("auroc", found.auroc),
        }

    leakage = audit.leakage and {
        "rows": [shown(audit.leakage.wrong), shown(audit.leakage.right)],
        "uar_gap": _gap("uar", audit.leakage.uar_gap),
        "auroc_gap": _gap("auroc", audit.leakage.auroc_gap),
    }
    counts = {
        word: sum(finding.severity == severity for finding in audit.findings)
        for severity, (_, word) in SEVERITIES.items()
    }
    return {
        "description": audit.description,
        "findings": findings,
        "counts": ", ".join(count_text(n, word.lower()) for word, n in counts.items() if n)
        or "nothing found",
        "lookups": [shown(found) for found in audit.lookups],
        "chance": value_text("uar", 1 / study.n_classes),
        "leakage": leakage,
        "associations": [
            {
                "column": found.column,
                "effect": f"{found.measure} {found.effect:.3f}",
                "p": p_text(found.p).removeprefix("= "),
                "detail": found.detail,
            }
            for found in audit.associations
        ],
        "skipped": list(audit.skipped),
    }


def _gap(metric: str, gap: Comparison) -> str:
    difference, interval = difference_text(
        metric, {"difference": gap.difference, "low": gap.low, "high": gap.high}
    )
    return f"{difference} ({interval})"


def excluded(audit: Audit) -> list[str]:
    """Why each recording that cannot be used was left out; the reason names the file."""
    return [str(audit.problems[i]) for i in np.flatnonzero(~audit.usable)]


def record(study: Study, out: Path) -> Line:
    """All that is needed to run it again, and to cite it."""
    about = study.about
    recipe = out / "recipe.toml"
    corpus = CORPORA.get(about["data"])
    used = dict.fromkeys((*_columns(study), *(line["metric"] for line in study.comparisons)))
    return {
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        "definitions": [(METRICS[name].title, DEFINITIONS[name]) for name in used],
        "front_end": ", ".join(f"{name} {value}" for name, value in about["front_end"].items()),
        "licence": corpus.licence if corpus else "",
        "citation": corpus.citation if corpus else "",
        "corpus": corpus.title if corpus else "",
        "versions": list(about["versions"].items()),
        "choice": choice(study),
    }


def choice(study: Study) -> list[str]:
    """Why the shipped model is that arm's, and not the one with the best figure; a sentence each."""
    if study.model is None:
        return []
    arm, best, ranked = study.model["arm"], study.best["arm"], study.model["dev_auroc"]
    said = []
    if len(ranked) > 1:
        values = ", ".join(f"{name} {value_text('auroc', value)}" for name, value in ranked.items())
        said.append(
            f"The training side alone chose {arm} among the arms that are networks: its networks ranked their own dev "
            f"parts best, or as well as the best (mean AUROC: {values}); no test score took part."
        )
    if best != arm and best in ranked:
        said.append(f"{best} has the best figure above, but test recordings do not choose.")
    elif best != arm:
        said.append(f"{best} has the best figure above, but is no single network and is not shipped.")
    return said
