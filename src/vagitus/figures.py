"""From a study and its recordings to the figures of its report."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus import plots
from vagitus.audit import Audit
from vagitus.dataset import Dataset, FeatureTable
from vagitus.metrics import (
    METRICS,
    auroc,
    calibration_curve,
    confusion_matrix,
    decision_curve,
    precision_recall_curve,
    roc_curve,
)
from vagitus.outcome import (
    PERCENT,
    FloatArray,
    Line,
    Study,
    count_text,
    interval_text,
    known,
    value_text,
)
from vagitus.plots import STYLES, Plot, Row, Style

MOST_CLASSES = len(STYLES)
MOST_SITES = 12  # in the figure; the table has all
MOST_HEARD = 1000  # recordings per class behind a mean spectrogram
PICTURE_S = 6.0  # of a mean spectrogram
PICTURE_COLUMNS = 160
BAND_RESAMPLES = 300
DB_PER_NEPER = 10 / math.log(10)  # features are natural logarithms of power
LEVEL_MARGIN = 0.02  # share of spectrogram values beyond either end of its colours
ATTRIBUTES = {
    "duration_s": "Duration (s)",
    "level_dbfs": "Level (dB full scale)",
    "bandwidth_hz": "Bandwidth (Hz)",
}
LOG_ATTRIBUTES = frozenset(("duration_s", "bandwidth_hz"))


def forest_plots(study: Study) -> list[Plot]:
    found = []
    for metric in dict.fromkeys((study.metric, "uar")):
        scale = 100 if metric in PERCENT else 1
        rows = [
            Row(
                plots.short(line["arm"], 20),
                scale * known(line["metrics"][metric]["estimate"]),
                scale * known(line["metrics"][metric]["low"]),
                scale * known(line["metrics"][metric]["high"]),
                _estimate_text(metric, line["metrics"][metric]),
                study.style(line["arm"]),
            )
            for line in study.summaries
        ]
        chance = 1 / study.n_classes if metric == "uar" else study.chance
        name = METRICS[metric].title
        spoken = "; ".join(
            f"{line['arm']} {row.text}" for line, row in zip(study.summaries, rows, strict=True)
        )
        svg = plots.forest(
            f"forest-{metric}",
            rows,
            metric=f"{name} (%)" if metric in PERCENT else name,
            chance=None if chance is None else scale * chance,
            alt=f"{name} of each arm with its {study.level} interval: {spoken}.",
        )
        caption = f"Dot: estimate. Line: {study.level} interval over subjects. Dashed: chance."
        found.append(Plot(f"{name} of every arm", svg, caption))
    return found


def _estimate_text(metric: str, cell: Line) -> str:
    """Without the percent signs, which the axis has."""
    interval = interval_text(metric, cell)
    value = value_text(metric, cell["estimate"])
    return (f"{value} ({interval})" if interval else value).replace(" %", "")


def curve_plots(study: Study) -> list[Plot]:
    return _binary_curves(study) if study.n_classes == 2 else _many_class_curves(study)


def _which_repeat(study: Study) -> str:
    pooled = "All tested recordings pooled over folds"
    return f"{pooled}; the first of {study.n_repeats} repeats." if study.n_repeats > 1 else f"{pooled}."


def _binary_curves(study: Study) -> list[Plot]:
    labels, arms = study.labels, study.curve_arms
    scores = {arm: study.scored[arm].probabilities[0, :, 1] for arm in arms}
    prevalence = float(labels.mean())
    said = _which_repeat(study)
    areas = {arm: auroc(labels, scores[arm]) for arm in arms}
    spoken = ", ".join(f"{arm} {area:.3f}" for arm, area in areas.items())
    points = [(study.style(arm), *operating_point(study, arm)) for arm in arms]
    roc = Plot(
        "ROC curves",
        plots.roc(
            "roc",
            [(study.style(arm), roc_curve(labels, scores[arm])) for arm in arms],
            band=_roc_band(study, scores[arms[0]]),
            points=points,
            positive=study.positive,
            negative=study.negative,
            alt=f"ROC curves. Areas: {spoken}. Chance is the diagonal, 0.5.",
        ),
        f"{said} Marks: where the decision thresholds, set on the training side, ended up. Shaded: {study.level} band "
        f"of {arms[0]} over subjects. Dashed: guessing. Numbers: area under the curve drawn.",
        study.legend(arms, {arm: f"{area:.3f}" for arm, area in areas.items()}),
    )
    recalled = {arm: precision_recall_curve(labels, scores[arm]) for arm in arms}
    precision = Plot(
        "Precision and recall",
        plots.precision_recall(
            "precision-recall",
            [(study.style(arm), curve) for arm, curve in recalled.items()],
            prevalence=prevalence,
            alt=f"Precision against recall of {', '.join(arms)}; guessing gives precision {prevalence:.2f}.",
        ),
        f"Of the recordings called {study.positive}, how many are (precision), against how many of all "
        f"{study.positive} ones are found (recall). Dashed: guessing, the share of {study.positive} recordings here "
        f"({100 * prevalence:.0f} %); precision changes with it.",
        study.legend(arms),
    )
    reliable = _reliability(
        study,
        f"Predicted probability of {plots.short(study.positive)}",
        f"Share that is {plots.short(study.positive)}",
    )
    benefit = {arm: decision_curve(labels, scores[arm]) for arm in arms}
    decision = Plot(
        "Decision curves",
        plots.decision(
            "decision",
            [(study.style(arm), curve) for arm, curve in benefit.items()],
            prevalence=prevalence,
            positive=study.positive,
            alt=f"Net benefit against threshold probability of {', '.join(arms)}, of calling every recording "
            f"{study.positive} and of calling none so.",
        ),
        f"Whether acting on the score does more good than harm. Read it at the probability at which you would act; an "
        f"arm is worth using there only if its line lies above both black ones: calling every recording "
        f"{study.positive} (dotted) and none (solid, zero).",
        study.legend(arms),
    )
    return [roc, precision, reliable, decision]


def operating_point(study: Study, arm: str) -> tuple[float, float]:
    """(1 - specificity, sensitivity) of an arm's decisions, NaN for a class without recordings."""
    calls = confusion_matrix(study.labels, study.scored[arm].decisions[0], n_classes=2)
    n_negative, n_positive = calls.sum(axis=1)
    return (
        float(calls[0, 1] / n_negative) if n_negative else math.nan,
        float(calls[1, 1] / n_positive) if n_positive else math.nan,
    )


def _roc_band(study: Study, scores: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """(fpr, low, high): where the curve goes when subjects are drawn anew; None if that cannot be told."""
    _, subject = np.unique(study.groups, return_inverse=True)
    n_subjects = int(subject.max()) + 1
    rng = np.random.default_rng([study.about["config"]["seed"], 3])
    grid = np.linspace(0, 1, 101)
    drawn = []
    for counts in rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=BAND_RESAMPLES):
        curve = roc_curve(study.labels, scores, counts[subject].astype(np.float64))
        if len(curve.fpr) and np.isfinite(curve.fpr[-1]) and np.isfinite(curve.tpr[-1]):
            drawn.append(np.interp(grid, curve.fpr, curve.tpr))
    if len(drawn) < BAND_RESAMPLES / 2:
        return None
    tail = (1 - study.about["config"]["level"]) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return grid, low, high


def _reliability(study: Study, predicted: str, observed: str) -> Plot:
    panels = []
    for arm in study.curve_arms:
        p = study.scored[arm].probabilities[0]
        shown = p[:, 1] if study.n_classes == 2 else p.max(axis=1)
        panels.append((study.style(arm), arm, calibration_curve(study.labels, p), shown))
    errors = ", ".join(
        f"{line['arm']} {value_text('ece', line['metrics']['ece']['estimate'])}"
        for line in study.summaries
        if line["arm"] in study.curve_arms
    )
    return Plot(
        "Calibration",
        plots.reliability(
            "calibration",
            panels,
            predicted=predicted,
            observed=observed,
            alt=f"Observed frequency against predicted probability. Expected calibration error: {errors}.",
        ),
        "Do probabilities mean what they say? On the dashed diagonal they do; above it they are too low, below "
        "it too high. Larger marks hold more recordings; grey bars show how often each probability was given.",
    )


def _many_class_curves(study: Study) -> list[Plot]:
    arm, said = study.best_hearing, _which_repeat(study)
    p = study.scored[arm].probabilities[0]
    chosen = _common_classes(study)
    curves = {}
    for style, k in zip(STYLES, chosen, strict=False):
        is_k = (study.labels == k).astype(np.int64)
        curves[k] = (style, is_k, p[:, k])
    areas = {k: auroc(is_k, scores) for k, (_, is_k, scores) in curves.items()}
    legend = tuple((style, f"{study.class_names[k]} {areas[k]:.3f}") for k, (style, _, _) in curves.items())
    some = (
        f" The {len(chosen)} commonest of {study.n_classes} classes." if len(chosen) < study.n_classes else ""
    )
    spoken = ", ".join(f"{study.class_names[k]} {area:.3f}" for k, area in areas.items())
    return [
        Plot(
            f"ROC curves of {arm}, each class against the rest",
            plots.roc(
                "roc",
                [(style, roc_curve(is_k, scores)) for style, is_k, scores in curves.values()],
                band=None,
                points=[],
                positive="the class",
                negative="others",
                alt=f"One-against-rest ROC curves of {arm}. Areas: {spoken}.",
            ),
            f"{said}{some} Dashed: guessing. Numbers: area under the curve.",
            legend,
        ),
        Plot(
            f"Precision and recall of {arm}, each class against the rest",
            plots.precision_recall(
                "precision-recall",
                [(style, precision_recall_curve(is_k, scores)) for style, is_k, scores in curves.values()],
                prevalence=None,
                alt=f"One-against-rest precision against recall of {arm}.",
            ),
            "Of the recordings called a class, how many are (precision), against how many of that class are found "
            "(recall).",
            tuple((style, study.class_names[k]) for k, (style, _, _) in curves.items()),
        ),
        _reliability(study, "Probability of the likeliest class", "Share in which it is right"),
    ]


def _common_classes(study: Study) -> list[int]:
    counts = np.bincount(study.dataset.labels, minlength=study.n_classes)
    commonest = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    return sorted(int(k) for k in commonest)


def site_plots(study: Study, table: Line) -> list[Plot]:
    name = METRICS[study.metric].title
    scale = 100 if study.metric in PERCENT else 1
    axis = f"{name} (%)" if study.metric in PERCENT else name
    chance = None if study.chance is None else scale * study.chance
    found = []
    sites = sorted(table["rows"], key=lambda row: -row["n_recordings"])
    if len(sites) > 1:
        shown = sites[:MOST_SITES]
        rows = [
            (
                plots.short(row["site"], 18),
                f"n = {row['n_recordings']:,} of {count_text(row['n_subjects'], 'subject')}",
                [
                    (study.style(arm), scale * i.estimate, scale * i.low, scale * i.high)
                    for arm, i in zip(study.curve_arms, row["intervals"], strict=True)
                ],
            )
            for row in shown
        ]
        spoken = "; ".join(
            f"{row['site']}: "
            + ", ".join(
                f"{arm} {cell['value']}" for arm, cell in zip(study.curve_arms, row["cells"], strict=True)
            )
            for row in shown
        )
        some = f" The {MOST_SITES} largest of {len(sites)} sites." if len(shown) < len(sites) else ""
        found.append(
            Plot(
                f"{name} at each site",
                plots.dots("sites", rows, metric=axis, chance=chance, alt=f"{name} at each site. {spoken}."),
                f"Line: {study.level} interval over the site's subjects.{some} Dashed: chance.",
                study.legend(study.curve_arms),
            )
        )
    by_arm = {
        line["arm"]: [
            scale * known(fold["metrics"].get(study.metric))
            for fold in study.folds
            if fold["arm"] == line["arm"]
        ]
        for line in study.summaries
    }
    if max((len(values) for values in by_arm.values()), default=0) > 1:
        rows, digits = [], 1 if study.metric in PERCENT else 3
        for arm, values in by_arm.items():
            held = [value for value in values if math.isfinite(value)]
            text = f"{min(held):.{digits}f} to {max(held):.{digits}f}" if held else "undefined"
            ends = (min(held), max(held)) if held else (math.nan, math.nan)
            rows.append((plots.short(arm, 20), text, [(study.style(arm), values, *ends)]))
        found.append(
            Plot(
                f"{name} in each fold",
                plots.dots(
                    "folds",
                    rows,
                    metric=axis,
                    chance=chance,
                    alt=f"{name} of each arm in each test fold: "
                    + "; ".join(f"{label}, {text}" for label, text, _ in rows)
                    + ".",
                ),
                "A mark per test fold, with other subjects in each: how much a result depends on who happens to be "
                "tested. Dashed: chance.",
            )
        )
    return found


def training_plots(study: Study) -> list[Line]:
    """The terms of the loss and the dev score of each arm that trains by epochs."""
    found = []
    for rank, line in enumerate(study.summaries):
        arm = line["arm"]
        folds = [fold["history"] for fold in study.folds if fold["arm"] == arm and fold.get("history")]
        if not folds:
            continue
        histories = [  # of each network: a fold has one for each member
            [record for record in history if record.get("member") == member]
            for history in folds
            for member in dict.fromkeys(record.get("member") for record in history)
        ]
        terms = [name for name in histories[0][0] if name not in ("epoch", "lr", "dev_score", "member")]
        wanted = [(name, f"Training loss, {name}") for name in terms] + [
            ("dev_score", "AUROC on the dev fold")
        ]
        shown = []
        for k, (name, value) in enumerate(wanted):
            lines = [
                [known(record[name]) for record in history] for history in histories if name in history[0]
            ]
            if not lines:
                continue
            last = [values[-1] for values in lines]
            svg = plots.training(
                f"training-{rank}-{k}",
                lines,
                study.style(arm),
                value=value,
                alt=f"{value} of {arm} over epochs, {len(lines)} networks; at the end between {min(last):.3g} and "
                f"{max(last):.3g}.",
            )
            shown.append(
                Plot(value, svg, "Thin: each network. Thick: their mean, over those still in training.")
            )
        found.append({"arm": arm, "n_folds": len(folds), "plots": shown})
    return found


def picture_table(dataset: Dataset) -> FeatureTable | None:
    """The log-mel table that pictures are made of, levels kept if there is one; None without any."""
    tables = [table for table in dataset.tables.values() if table.config.kind == "logmel"]
    return next((table for table in tables if table.config.normalisation == "none"), next(iter(tables), None))


def _unit(table: FeatureTable) -> tuple[float, str]:
    """(what to multiply features by, what they then are)."""
    return {
        "none": (DB_PER_NEPER, "Level (dB)"),
        "mean": (DB_PER_NEPER, "Level about the band's mean (dB)"),
        "mean_std": (1.0, "Level about the band's mean (SD)"),
        "keep_level": (DB_PER_NEPER, "Level, the band's mean taken out (dB)"),
    }[table.config.normalisation]


class _Heard(NamedTuple):
    """What the recordings of one class sound like on average."""

    style: Style
    name: str
    n: int
    means: FloatArray  # (n, n_bands) over time, of each recording
    subjects: NDArray[np.str_]  # (n,)
    picture: FloatArray  # (n_bands, n_columns), NaN where no recording is that long


def sound_plots(study: Study) -> list[Plot]:
    """Level per band and class, the difference, and the mean spectrogram of each class."""
    table = picture_table(study.dataset)
    if table is None:
        return []
    scale, value = _unit(table)
    config = table.config
    n_frames = np.diff(table.offsets)
    duration_s = min(PICTURE_S, float(np.median(n_frames)) / config.frames_per_s)
    heard = [
        _hear(study, table, k, style, scale, duration_s)
        for style, k in zip(STYLES, _common_classes(study), strict=False)
    ]
    capped = any(
        part.n < (study.dataset.labels == k).sum()
        for part, k in zip(heard, _common_classes(study), strict=True)
    )
    some = f" From {MOST_HEARD:,} recordings a class, evenly spread over the data." if capped else ""
    legend = tuple((part.style, f"{part.name}, n = {part.n:,}") for part in heard)
    found = []
    if config.normalisation == "none":
        ribbons = len(heard) <= 3
        found.append(
            Plot(
                "Mean spectrum of each class",
                plots.profile(
                    "profile",
                    [
                        (part.style, part.means.mean(axis=0), part.means.std(axis=0) if ribbons else None)
                        for part in heard
                    ],
                    config,
                    value=value,
                    zero=False,
                    alt=f"Mean level over frequency of {', '.join(part.name for part in heard)}.",
                ),
                "Mean level in each mel band, over time and recordings."
                + (" Shaded: one standard deviation between recordings." if ribbons else "")
                + some,
                legend,
            )
        )
        found.append(_difference(heard, table, value))
    pictures = [part.picture for part in heard]
    known = np.concatenate([picture[np.isfinite(picture)] for picture in pictures])
    limits = (float(np.quantile(known, LEVEL_MARGIN)), float(np.quantile(known, 1 - LEVEL_MARGIN / 4)))
    for k, part in enumerate(heard):
        found.append(
            Plot(
                f"Mean spectrogram: {part.name}",
                plots.spectrogram(
                    f"mean-spectrogram-{k}",
                    part.picture,
                    config,
                    duration_s=duration_s,
                    limits=limits,
                    value=value,
                    alt=f"Mean spectrogram of {part.n} recordings of class {part.name}, first {duration_s:.1f} s.",
                ),
                f"Mean of {count_text(part.n, 'recording')} from their beginnings; all classes share one colour scale.",
            )
        )
    return found


def _hear(study: Study, table: FeatureTable, k: int, style: Style, scale: float, duration_s: float) -> _Heard:
    members = np.flatnonzero(study.dataset.labels == k)
    if len(members) > MOST_HEARD:
        members = members[np.linspace(0, len(members) - 1, MOST_HEARD).round().astype(np.int64)]
    n_frames = max(1, round(duration_s * table.config.frames_per_s))
    total = np.zeros((table.config.n_rows, n_frames))
    counts = np.zeros(n_frames)
    means = np.empty((len(members), table.config.n_rows))
    for row, i in enumerate(members):
        features = table[int(i)]
        means[row] = scale * features.mean(axis=1)
        start = features[:, :n_frames]
        total[:, : start.shape[1]] += scale * start
        counts[: start.shape[1]] += 1
    columns = min(PICTURE_COLUMNS, n_frames)
    edges = np.linspace(0, n_frames, columns + 1).astype(np.int64)[:-1]
    summed, counted = np.add.reduceat(total, edges, axis=1), np.add.reduceat(counts, edges)
    picture = np.divide(summed, counted, out=np.full_like(summed, np.nan), where=counted > 0)
    return _Heard(style, study.class_names[k], len(members), means, study.dataset.groups[members], picture)


def _difference(heard: list[_Heard], table: FeatureTable, value: str) -> Plot:
    """Two classes: positive minus negative. More: each class minus the mean of all."""

    def by_subject(part: _Heard) -> tuple[FloatArray, FloatArray]:
        names, index = np.unique(part.subjects, return_inverse=True)
        means = np.zeros((len(names), part.means.shape[1]))
        np.add.at(means, index, part.means)
        means /= np.bincount(index)[:, None]
        variance = (
            means.var(axis=0, ddof=1) / len(means) if len(means) > 1 else np.full(means.shape[1], np.nan)
        )
        return means.mean(axis=0), variance

    summaries = [by_subject(part) for part in heard]
    if len(heard) == 2:
        (low_mean, low_variance), (high_mean, high_variance) = summaries
        gap, reach = high_mean - low_mean, 1.96 * np.sqrt(low_variance + high_variance)
        clear = np.abs(gap) > reach
        curves: list[tuple[Style, FloatArray, FloatArray | None]] = [(STYLES[0], gap, reach)]
        largest = int(np.abs(gap).argmax())
        name = f"Difference: {heard[1].name} minus {heard[0].name}"
        caption = (
            f"Above zero {heard[1].name} is louder in that band. Shaded: 95 % interval from subjects' means, each "
            f"band by itself; it leaves zero out in {clear.sum()} of {len(gap)} bands, and by chance would in one of "
            "twenty."
        )
        alt = f"{name}: largest {gap[largest]:+.1f} in band {largest + 1} of {len(gap)}."
    else:
        grand = np.mean([mean for mean, _ in summaries], axis=0)
        curves = [(part.style, mean - grand, None) for part, (mean, _) in zip(heard, summaries, strict=True)]
        name = "Difference of each class from the mean of all"
        caption = "Mean of subjects' means, less the mean over classes."
        alt = f"{name}, over frequency."
    legend = () if len(heard) == 2 else tuple((part.style, part.name) for part in heard)
    svg = plots.profile(
        "difference", curves, table.config, value=value.replace("Level", "Difference"), zero=True, alt=alt
    )
    return Plot(name, svg, caption, legend)


def attribute_plots(study: Study, audit: Audit) -> list[Plot]:
    """Simple properties of the recordings by class: what separates classes without any model."""
    measured = {name: values[audit.usable] for name, values in audit.recordings.items()}
    measured = {name: values for name, values in measured.items() if len(values) == len(study.dataset)}
    measured.setdefault("duration_s", study.dataset.duration_s)
    found = []
    for name, title in ATTRIBUTES.items():
        if name not in measured or len(np.unique(_finite(measured[name]))) < 2:
            continue
        values = measured[name]
        groups = []
        for style, k in zip(STYLES, _common_classes(study), strict=False):
            held = _finite(values[study.dataset.labels == k])
            if len(held):
                groups.append((style, plots.short(study.class_names[k], 18), held))
        separation = _rank_auc(study, values)
        log = name in LOG_ATTRIBUTES and bool((_finite(values) > 0).all())
        medians = ", ".join(f"{label} {np.median(held):.3g}" for _, label, held in groups)
        svg = plots.strips(
            f"attribute-{name}",
            groups,
            value=title,
            log=log,
            alt=f"{title} by class. Medians: {medians}. {separation}",
        )
        found.append(Plot(title.split(" (")[0], svg, separation))
    return found


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _rank_auc(study: Study, values: FloatArray) -> str:
    known = np.isfinite(values)
    labels = study.dataset.labels[known]
    areas = {}
    for k in _common_classes(study):
        is_k = (labels == k).astype(np.int64)
        if 0 < is_k.sum() < len(is_k):
            areas[k] = auroc(is_k, values[known])
    if not areas:
        return "One class only has a value."
    if study.n_classes == 2:
        k, area = 1, areas.get(1, 0.5)
        side = "higher" if area >= 0.5 else "lower"
        return (
            f"By itself it ranks {study.class_names[k]} {side}: AUROC {max(area, 1 - area):.3f} "
            "(0.5: says nothing of the class)."
        )
    k = max(areas, key=lambda name: abs(areas[name] - 0.5))
    return (
        f"By itself it tells {study.class_names[k]} from the rest best: AUROC {max(areas[k], 1 - areas[k]):.3f} "
        "(0.5: says nothing of the class)."
    )


def recording_spectrogram(study: Study, i: int, name: str, most_s: float) -> str:
    """The first ``most_s`` seconds of row i of the dataset; "" without log-mel spectra."""
    table = picture_table(study.dataset)
    if table is None:
        return ""
    scale, value = _unit(table)
    features = table[i][:, : round(most_s * table.config.frames_per_s)]
    columns = min(2 * PICTURE_COLUMNS, features.shape[1])
    edges = np.linspace(0, features.shape[1], columns + 1).astype(np.int64)
    image = scale * np.add.reduceat(features.astype(np.float64), edges[:-1], axis=1) / np.diff(edges)
    # The floor of the logarithm is no sound: without it, digital silence would take half of the colours.
    floor = scale * math.log(table.config.log_floor) if table.config.normalisation == "none" else -math.inf
    heard = image[image > floor + 1] if (image > floor + 1).any() else image
    limits = float(np.quantile(heard, LEVEL_MARGIN)), float(heard.max())
    return plots.spectrogram(
        name,
        image,
        table.config,
        duration_s=features.shape[1] / table.config.frames_per_s,
        limits=limits,
        value=value,
        alt=f"Spectrogram of {study.dataset.manifest.path[i]}.",
        height=150,
    )
