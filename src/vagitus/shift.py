"""What tells the sites apart, and what of it stands in the way of a model: no adaptation, only measurements.

    site        how well a plain classifier names the site of a recording, subjects kept whole, with an interval
    attributes  level, signal to noise, decay, bandwidth, duration, pitch, labels and covariates, site by site
    flips       features that go up with the label at one site and down at another: no alignment mends these
    equalised   what is left of naming the site once gain, channel, band or noise floor is made the same everywhere

Conventions
    log-mel     (n_bands, n_frames) natural log of band power, not normalised
    UAR of naming the site  mean over sites of the share of recordings that are named right; chance is 1 / n_sites
    removed     share of what is above chance that equalising takes away: 1 all of it, 0 nothing, below 0 it helps
                the classifier; 0 too where the interval of naming the site reaches down to chance
    p           adjusted by Holm over all attributes; subjects of one site are taken to be independent of each other,
                each counted once by the median of its recordings

NumPy, and scikit-learn for the classifier.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.cycles import site_aurocs
from vagitus.dataset import logmel_statistics
from vagitus.metrics import statistic
from vagitus.splits import grouped_folds, most_folds
from vagitus.statistics import Interval, holm, midranks, subject_bootstrap

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Text = NDArray[np.str_]

N_FOLDS = 5
N_RESAMPLES = 500
DB_PER_LOG = 10 / math.log(10)  # of natural log of power
PENALTY = 100.0  # of the ridge on standardised statistics
MOST_FLIPS = 10  # shown
FLIP_DEVIATIONS = (
    2.5  # of a rank AUC from 1/2 at both sites: of 500 features with no effect, some three pass at one
)
DECAY_S = 0.15  # over which a decay is measured: longer than a frame, shorter than a pause
MOST_RECORDINGS = 3_000  # drawn where there are more: naming the site gets no more certain


class SiteNaming(NamedTuple):
    """How well the site of a recording is named."""

    what: str  # what was equalised before; "" for nothing
    uar: Interval
    removed: float  # see the module; 0 for nothing equalised


class Attribute(NamedTuple):
    """One attribute over the sites."""

    name: str
    unit: str
    by_site: dict[str, tuple[float, float, float]]  # quartiles; for words: share of each, see ``words``
    effect: float  # epsilon squared of Kruskal and Wallis for numbers, Cramer's V for words
    p: float
    words: dict[str, dict[str, float]] | None = None  # site -> word -> share


class Flip(NamedTuple):
    """A feature that means one thing at one site and the opposite at another."""

    feature: str
    site_up: str
    auroc_up: float
    site_down: str
    auroc_down: float


@dataclass(frozen=True)
class Shift:
    """All of it; ``skipped`` says what was not measured, and why."""

    sites: tuple[str, ...]
    n_recordings: dict[str, int]
    naming: tuple[SiteNaming, ...]  # nothing equalised first
    attributes: tuple[Attribute, ...]  # strongest first
    flips: tuple[Flip, ...]
    n_flipping: int
    n_features: int
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        return {
            "sites": list(self.sites),
            "n_recordings": self.n_recordings,
            "naming": [{**found._asdict(), "uar": asdict(found.uar)} for found in self.naming],
            "attributes": [found._asdict() for found in self.attributes],
            "flips": [found._asdict() for found in self.flips],
            "n_flipping": self.n_flipping,
            "n_features": self.n_features,
            "skipped": list(self.skipped),
        }


def measure_shift(
    logmel: Sequence[Float32],
    frames_per_s: float,
    sites: ArrayLike,
    subjects: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    class_names: Sequence[str] = (),
    numbers: Mapping[str, ArrayLike] | None = None,
    words: Mapping[str, ArrayLike] | None = None,
    features: tuple[Floats, Sequence[str]] | None = None,
    seed: int = 0,
) -> Shift:
    """Measure all that the module's table lists.

    Args:
        logmel: of each recording, n of them.
        frames_per_s: of ``logmel``.
        sites: (n,) never blank, two or more.
        subjects: (n,).
        labels: (n,) class indices; two classes for ``flips``.
        class_names: in the order of the indices.
        numbers: (n,) each, NaN where unknown: duration_s, bandwidth_hz, pitch_hz, an age.
        words: (n,) each, "" where unknown: a covariate such as sex.
        features: (n, n_features) and their names, to look for flips in; statistics of the bands unless given.
        seed: of folds, draws and resampling.

    Raises:
        ValueError: fewer than two sites, a blank one, or lengths that differ.
    """
    site_of, who = np.asarray(sites).astype(np.str_), np.asarray(subjects).astype(np.str_)
    if not len(logmel) == len(site_of) == len(who):
        raise ValueError(f"{len(logmel)} recordings, {len(site_of)} sites and {len(who)} subjects")
    if (site_of == "").any():
        raise ValueError(f"{int((site_of == '').sum())} recordings have no site; fill the column 'site'")
    names = np.unique(site_of)
    if len(names) < 2:
        raise ValueError(f"only one site, {', '.join(names)}; a shift is between two")
    skipped: list[str] = []
    rows = _drawn(len(site_of), seed)
    naming = _naming([logmel[i] for i in rows], frames_per_s, site_of[rows], who[rows], seed, skipped)
    known_numbers = heard_attributes(logmel, frames_per_s) | {
        name: np.asarray(values, dtype=np.float64) for name, values in (numbers or {}).items()
    }
    known_words = {name: np.asarray(values).astype(np.str_) for name, values in (words or {}).items()}
    y = None if labels is None else np.asarray(labels)
    if y is not None and len(class_names):
        known_words = {"label": np.array(class_names)[y], **known_words}
    attributes = _attributes(known_numbers, known_words, site_of, who)
    flips: list[Flip] = []
    n_features = 0
    if y is None or len(np.unique(y)) != 2:
        skipped.append("flips: they need labels of two classes")
    else:
        values, feature_names = features or _band_statistics(logmel)
        n_features = values.shape[1]
        flips = find_flips(values, (y == y.max()).astype(np.int64), site_of, feature_names)
    return Shift(
        tuple(names.tolist()),
        {str(name): int((site_of == name).sum()) for name in names},
        tuple(naming),
        tuple(attributes),
        tuple(flips[:MOST_FLIPS]),
        len(flips),
        n_features,
        tuple(skipped),
    )


# Naming the site.


def name_the_site(
    x: ArrayLike, sites: ArrayLike, subjects: ArrayLike, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """UAR of a ridge that names the site of recordings whose subject it never heard.

    Args:
        x: (n, n_features).
        sites: (n,).
        subjects: (n,), whole on one side of every fold, and resampled for the interval.

    Raises:
        ValueError: a site with fewer than three subjects, which cannot be divided.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = np.asarray(x, dtype=np.float64)
    names, y = np.unique(np.asarray(sites).astype(np.str_), return_inverse=True)
    who = np.asarray(subjects).astype(np.str_)
    n_folds = most_folds(y, who, N_FOLDS, seed=seed)
    called = np.empty(len(y), np.int64)
    for fold in grouped_folds(y, who, n_folds=n_folds, seed=seed):
        known = np.concatenate([fold.train, fold.dev])
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=PENALTY, class_weight="balanced"))
        called[fold.test] = model.fit(values[known], y[known]).predict(values[fold.test])
    certain = np.eye(len(names))[called]
    return subject_bootstrap(
        statistic("uar", y, certain, called), who, rng=np.random.default_rng(seed), n_resamples=n_resamples
    )


def _naming(
    logmel: Sequence[Float32], frames_per_s: float, sites: Text, subjects: Text, seed: int, skipped: list[str]
) -> list[SiteNaming]:
    found: list[SiteNaming] = []
    chance = 1 / len(np.unique(sites))
    try:
        for what, equalise in EQUALISED.items():
            x = logmel_statistics(equalise(list(logmel), sites))
            uar = name_the_site(x, sites, subjects, seed=seed)
            is_named = bool(found) and found[0].uar.low > chance  # a share of next to nothing can be anything
            above = found[0].uar.estimate - chance if is_named else math.nan
            removed = 1 - (uar.estimate - chance) / above if is_named else 0.0
            found.append(SiteNaming(what, uar, removed))
    except ValueError as error:
        skipped.append(f"naming the site: {error}")
    return found


def _as_they_are(logmel: list[Float32], sites: Text) -> list[Float32]:
    return logmel


def _same_gain(logmel: list[Float32], sites: Text) -> list[Float32]:
    """Every recording's mean over bands and frames at 0."""
    return [x - x.mean(dtype=np.float64).astype(np.float32) for x in logmel]


def _same_channel(logmel: list[Float32], sites: Text) -> list[Float32]:
    """Every band's mean over the recording at 0."""
    return [x - x.mean(axis=1, keepdims=True) for x in logmel]


def _same_band(logmel: list[Float32], sites: Text) -> list[Float32]:
    """Only the bands that every site's recordings reach: within 40 dB of their loudest, in the median recording."""
    levels = np.stack([x.mean(axis=1) for x in logmel])
    reached = np.ones(levels.shape[1], dtype=bool)
    for site in np.unique(sites):
        median = np.median(levels[sites == site], axis=0)
        reached &= median >= median.max() - 40 / DB_PER_LOG
    # Some band is left: where sites share none, the one that comes nearest is kept.
    if not reached.any():
        reached[levels.mean(axis=0).argmax()] = True
    return [x[reached] for x in logmel]


def _same_noise_floor(logmel: list[Float32], sites: Text) -> list[Float32]:
    """Loud parts at one level, and nothing further below them than at the site with the least range."""
    loud = [x - np.percentile(x, 95).astype(np.float32) for x in logmel]
    ranges = np.array([-np.percentile(x, 10) for x in loud])
    least = min(float(np.median(ranges[sites == site])) for site in np.unique(sites))
    return [np.maximum(x, np.float32(-least)) for x in loud]


EQUALISED: dict[str, Callable[[list[Float32], Text], list[Float32]]] = {
    "": _as_they_are,
    "gain": _same_gain,
    "channel (mean of every band)": _same_channel,
    "band": _same_band,
    "gain and noise floor": _same_noise_floor,
}


# Attributes.


def heard_attributes(logmel: Sequence[Float32], frames_per_s: float) -> dict[str, Floats]:
    """What a recording's log-mel tells of how it was recorded, (n,) each.

    level_db    mean over frames of the power of all bands together, dB
    snr_db      90th less 10th percentile of the frames' power, dB: sound over what is between the sounds
    tilt_db     mean of the upper half of the bands less that of the lower half, dB
    decay_db_s  how fast the sound falls where it falls fastest: 95th percentile of the fall over ``DECAY_S``, dB/s;
                small in an echoing room (60 / decay_db_s is no more than a bound on its reverberation time)
    """
    n_ahead = max(1, round(DECAY_S * frames_per_s))
    rows = []
    for x in logmel:
        power_db = DB_PER_LOG * np.logaddexp.reduce(x, axis=0)
        low, high = np.percentile(power_db, (10, 90))
        falls = power_db[:-n_ahead] - power_db[n_ahead:] if power_db.size > n_ahead else np.zeros(1)
        by_band = DB_PER_LOG * x.mean(axis=1)
        half = len(by_band) // 2
        rows.append(
            (
                float(power_db.mean()),
                float(high - low),
                float(by_band[half:].mean() - by_band[:half].mean()) if half else 0.0,
                float(np.percentile(falls, 95)) / (n_ahead / frames_per_s),
            )
        )
    columns = np.array(rows, dtype=np.float64).T
    return dict(zip(("level_db", "snr_db", "tilt_db", "decay_db_s"), columns, strict=True))


UNITS = ("_db_s", "dB/s"), ("_db", "dB"), ("_dbfs", "dBFS"), ("_hz", "Hz"), ("_s", "s")


def _attributes(
    numbers: Mapping[str, Floats], words: Mapping[str, Text], sites: Text, subjects: Text
) -> list[Attribute]:
    found: list[Attribute] = []
    for name, values in numbers.items():
        quartiles = {
            str(site): _quartiles(values[sites == site])
            for site in np.unique(sites)
            if np.isfinite(values[sites == site]).any()
        }
        if len(quartiles) < 2:
            continue
        unit = next((unit for suffix, unit in UNITS if name.endswith(suffix)), "")
        effect, p = _kruskal_wallis(values, sites, subjects)
        found.append(Attribute(name, unit, quartiles, effect, p))
    for name, column in words.items():
        known = column != ""
        if len(np.unique(column[known])) < 2:
            continue
        shares = {
            str(site): {
                str(word): float((column[known & (sites == site)] == word).mean())
                for word in np.unique(column[known])
            }
            for site in np.unique(sites[known])
        }
        effect, p = _cramers_v(column[known], sites[known], subjects[known])
        found.append(Attribute(name, "", {}, effect, p, shares))
    if found:
        adjusted = holm([attribute.p for attribute in found])
        found = [attribute._replace(p=float(p)) for attribute, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda attribute: -attribute.effect)


def _quartiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values[np.isfinite(values)], (25, 50, 75))
    return float(low), float(middle), float(high)


def _kruskal_wallis(values: Floats, sites: Text, subjects: Text) -> tuple[float, float]:
    """(epsilon squared, p) over subjects' medians within a site."""
    from scipy.stats import chi2

    known = np.isfinite(values)
    keys = np.unique(np.stack([sites[known], subjects[known]], axis=1), axis=0, return_inverse=True)
    pairs, index = keys[0], keys[1].reshape(-1)
    order = np.argsort(index, kind="stable")
    groups = np.split(values[known][order], np.cumsum(np.bincount(index))[:-1])
    medians = np.array([float(np.median(group)) for group in groups])
    of = pairs[:, 0]
    n = len(medians)
    ranks = midranks(medians)
    present = np.unique(of)
    if n <= len(present):
        return 0.0, 1.0
    h = 12 / (n * (n + 1)) * sum(
        float(ranks[of == site].sum()) ** 2 / int((of == site).sum()) for site in present
    ) - 3 * (n + 1)
    counts = np.unique(medians, return_counts=True)[1]
    ties = 1 - float((counts.astype(np.float64) ** 3 - counts).sum()) / (n**3 - n)
    if ties <= 0:
        return 0.0, 1.0
    h /= ties
    return max(0.0, (h - len(present) + 1) / (n - len(present))), float(chi2.sf(h, len(present) - 1))


def _cramers_v(column: Text, sites: Text, subjects: Text) -> tuple[float, float]:
    """(Cramer's V, p) of one count for each subject, word and site."""
    from scipy.stats import chi2

    once = np.unique(np.stack([column, sites, subjects], axis=1), axis=0)
    word = np.unique(once[:, 0], return_inverse=True)[1].reshape(-1)
    site = np.unique(once[:, 1], return_inverse=True)[1].reshape(-1)
    table = np.zeros((word.max() + 1, site.max() + 1))
    np.add.at(table, (word, site), 1)
    n_free = min(table.shape) - 1
    if n_free < 1:
        return 0.0, 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    value = float(((table - expected) ** 2 / expected).sum())
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return math.sqrt(value / (table.sum() * n_free)), float(chi2.sf(value, freedom))


# Flips.


def find_flips(x: ArrayLike, labels: ArrayLike, sites: ArrayLike, names: Sequence[str]) -> list[Flip]:
    """Features whose within-site rank AUC is surely above 1/2 at one site and surely below at another, widest first.

    "Surely" is ``FLIP_DEVIATIONS`` standard deviations of a feature that means nothing; how many features were
    looked at says how many would pass by chance.

    Args:
        x: (n, n_features).
        labels: (n,) 0 or 1.
        sites: (n,).
        names: of the features.

    Raises:
        ValueError: another number of names than of features.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for features {values.shape}")
    aurocs, variances, kept = site_aurocs(values, labels, sites)
    if len(kept) < 2:
        return []
    z = (aurocs - 0.5) / np.sqrt(variances)[:, None]
    found = []
    for j in np.flatnonzero((z.max(axis=0) > FLIP_DEVIATIONS) & (z.min(axis=0) < -FLIP_DEVIATIONS)).tolist():
        up, down = int(z[:, j].argmax()), int(z[:, j].argmin())
        found.append(Flip(str(names[j]), kept[up], float(aurocs[up, j]), kept[down], float(aurocs[down, j])))
    return sorted(found, key=lambda flip: flip.auroc_down - flip.auroc_up)


def _band_statistics(logmel: Sequence[Float32]) -> tuple[Floats, list[str]]:
    n_bands = len(logmel[0])
    kinds = ("mean", "deviation", "10th percentile", "median", "90th percentile", "change between frames")
    names = [f"{kind} of band {band + 1}" for kind in kinds for band in range(n_bands)]
    return logmel_statistics(logmel).astype(np.float64), names


def _drawn(n: int, seed: int) -> NDArray[np.int64]:
    if n <= MOST_RECORDINGS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MOST_RECORDINGS, replace=False))


# For the report.


def shift_section(shift: Shift) -> dict[str, Any]:
    """Sentences and tables of a report: plain words, every number with what it is of."""
    chance = 1 / len(shift.sites)
    sentences = []
    if shift.naming:
        first, *others = shift.naming
        sentences.append(
            f"From plain statistics of its bands, a classifier names a recording's site with a UAR of "
            f"{first.uar.estimate:.3f} [{first.uar.low:.3f}, {first.uar.high:.3f}], where guessing gives {chance:.3f}."
        )
        if first.uar.low <= chance:
            sentences.append("That is not told from guessing: these statistics do not tell the sites apart.")
        best = max(others, key=lambda found: found.removed, default=None)
        if best is not None and best.removed > 0:
            sentences.append(
                f"Of what is above guessing, making the {best.what} equal takes away {best.removed:.0%}, the most of "
                "what was tried."
            )
    if shift.n_features:
        sentences.append(
            f"{shift.n_flipping} of {shift.n_features} features go up with the label at one site and down at another"
            + (
                ": no alignment of the sites can mend that, only features on which they agree."
                if shift.n_flipping
                else "."
            )
        )
    return {
        "sentences": sentences,
        "naming": [
            {
                "what": found.what or "nothing",
                "uar": f"{found.uar.estimate:.3f}",
                "interval": f"[{found.uar.low:.3f}, {found.uar.high:.3f}]",
                "removed": f"{round(found.removed, 2) + 0.0:.0%}" if found.what else "",  # + 0.0: no "-0%"
            }
            for found in shift.naming
        ],
        "attributes": [_attribute_row(found) for found in shift.attributes],
        "sites": list(shift.sites),
        "flips": [
            {
                "feature": flip.feature,
                "up": f"{flip.site_up} {flip.auroc_up:.3f}",
                "down": f"{flip.site_down} {flip.auroc_down:.3f}",
            }
            for flip in shift.flips
        ],
        "skipped": list(shift.skipped),
    }


def _attribute_row(found: Attribute) -> dict[str, Any]:
    if found.words is not None:
        cells = {
            site: ", ".join(f"{word} {share:.0%}" for word, share in shares.items())
            for site, shares in found.words.items()
        }
    else:
        cells = {site: f"{q[1]:.3g} ({q[0]:.3g} to {q[2]:.3g})" for site, q in found.by_site.items()}
    return {
        "name": found.name.removesuffix("_db_s").removesuffix("_db").removesuffix("_hz").removesuffix("_s"),
        "unit": found.unit,
        "cells": cells,
        "effect": f"{found.effect:.2f}",
        "p": "< 0.001" if found.p < 0.001 else f"{found.p:.3f}",
    }
