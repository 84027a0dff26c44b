"""A model file taken to another site: adapted with what the site can give, and measured where labels allow.

Source and target are heard through the model's own front end. What the model was trained on is refused at the
target, and so is sound that both sides share: it would be measured on what it learned from.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vagitus import calibration
from vagitus.adapt import parse_method, regime_of
from vagitus.adapt.adaptation import ADAPTING, Sources, Target, adapt_network
from vagitus.adapt.alarms import Alarm, alarms, opposed_sources
from vagitus.adapt.few_labels import choose_subjects
from vagitus.adapt.noise import background, noise_of_site, noisy_features, quiet_stretches, samples_of
from vagitus.adapt.selection import soft_neighbourhood_density
from vagitus.checkpoint import ModelCard, learned_rows, load_model, save_model, trained_on
from vagitus.cycles import Sound, find_events
from vagitus.dataset import FeatureTable, logmel_statistics
from vagitus.features import FeatureCache, FeatureConfig
from vagitus.files import content_hash, working
from vagitus.manifest import Manifest
from vagitus.metrics import statistic
from vagitus.plan import Announce, audited, feature_tables
from vagitus.pretrain import refuse_overlap
from vagitus.processes import n_processors
from vagitus.results import decide
from vagitus.splits import grouped_folds, most_folds
from vagitus.statistics import paired_bootstrap
from vagitus.training import Record, TrainConfig, score_recordings

MAX_BAD = 0.05  # share of unreadable recordings, as a study's default
N_DEV_FOLDS = 5
# Events whose sound is no background, by what a recording holds; without one the quiet stretches are taken.
SOUNDING: dict[Sound, tuple[str, ...]] = {
    "heart": ("s1", "systole", "s2"),
    "cry": ("expiration",),
    "breath": ("breath",),
}


def adapt_model(
    path: Path,
    out: Path,
    source: Manifest,
    target: Manifest,
    method: str,
    *,
    config: TrainConfig = ADAPTING,
    n_labelled_subjects: int = 0,
    sound: Sound | Literal[""] = "",
    seed: int = 0,
    cache: Path,
    n_workers: int | None = None,
    n_resamples: int = 1000,
    announce: Announce = lambda line: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Adapt a model file to a target and write it to ``out``; calibration and threshold stay the model's own.

    A fifth of the source's subjects is kept aside to see what the adaptation costs there. Where the target has
    labels they are read for that measurement alone, after everything is decided, and, with ``few-labels``, those of
    ``n_labelled_subjects`` subjects, who are then not measured.

    Args:
        path: a model file of train or study, not compressed.
        out: another file.
        source: labelled recordings of one site or several, the model's classes. They may be those that it was
            trained on; then the figures at the source flatter both sides alike, and the result says so.
        target: recordings of the site to go to; labels may be blank.
        method: names of METHODS joined by +.
        config: of further steps.
        n_labelled_subjects: k, for few-labels.
        sound: what the recordings hold, so that tni cuts its noise between the events; "" for by level alone.
        cache: folder of the feature cache.

    Returns:
        ``regime``, ``used``, ``metrics`` (before, after and gain at source and target), ``alarms``, ``notes``.

    Raises:
        FileNotFoundError, ValueError: not a model or a compressed one; labels that it does not know; a subject,
            or the same sound, at source and target; one class at the source; a target too small for the method;
            no noise found.
    """
    names = parse_method(method)
    if out.resolve() == path.resolve():
        raise ValueError(f"{path}: would be written over; give another --out")
    if ("few-labels" in names) != (n_labelled_subjects > 0):
        raise ValueError(
            "few-labels and a number of labelled subjects go together; give --labelled-subjects with it, or neither"
        )
    model, card = load_model(path)
    if sound and "tni" not in names:
        raise ValueError(f"sound {sound!r} says where tni finds noise, and {method} has no tni; leave it out")
    if card.compression:
        raise ValueError(f"{path}: is compressed; adapt the model that it was made from, then compress")
    labelled = source.labelled()
    if len(labelled) == 0:
        raise ValueError(f"{source.source}: no recording has a label; the source needs them")
    for manifest in (labelled, target.labelled()):  # a label it does not know is said before the work
        if len(manifest):
            manifest.encode_labels(card.class_names)
    refuse_shared(labelled, target)
    seen = learned_rows(card, target)
    if seen:
        raise ValueError(
            f"{target.where(seen[0])}: {path.name} was trained on this recording and {len(seen) - 1} more of the "
            f"target's {len(target)}; a site that it knows is no target"
        )
    workers = n_workers or n_processors()
    _, source_usable, source_groups = audited(labelled, MAX_BAD, workers, announce)
    _, target_usable, target_groups = audited(target, MAX_BAD, workers, announce)
    announce("looking for sound that source and target share")
    _refuse_same_sound(source_usable, target_usable, workers)
    work = out.with_name(f"{out.stem}-work")
    with working(work, "an adaptation", keep=False):
        announce(f"computing features of {len(source_usable) + len(target_usable)} recordings")
        tables = [
            feature_tables(m, {name: card.features}, FeatureCache(cache), work, workers)[name]
            for name, m in (("source", source_usable), ("target", target_usable))
        ]
        y = source_usable.encode_labels(card.class_names)
        if len(np.unique(y)) < 2:
            raise ValueError(
                f"{source.source}: holds one class alone, so that there is nothing to tell apart"
            )
        n_folds = most_folds(y, source_groups, N_DEV_FOLDS, seed=seed, class_names=card.class_names)
        division = grouped_folds(y, source_groups, n_folds=n_folds, seed=seed)[0]
        train, dev = np.sort(np.concatenate([division.train, division.dev])), division.test
        window_frames = round(card.window_s * card.features.frames_per_s)
        rest = np.arange(len(target_usable))
        at_hand = Target(tables[1].take(rest))
        chosen = np.empty(0, np.int64)
        labels_used: dict[str, Any] = {}
        if n_labelled_subjects:
            known = np.flatnonzero(target_usable.label != "")
            if not len(known):
                raise ValueError(f"{target.source}: no recording has a label; few-labels needs some")
            target_y = target_usable.select(known).encode_labels(card.class_names)
            few = choose_subjects(target_y, target_groups[known], n_labelled_subjects, seed=seed)
            chosen = known[few.labelled]
            rest = np.flatnonzero(~np.isin(target_groups, few.subjects))
            at_hand = Target(tables[1].take(rest), tables[1].take(chosen), target_y[few.labelled])
            labels_used = {"labelled_subjects": list(few.subjects), "labelled_recordings": len(chosen)}
        noisy: list[list[NDArray[np.float32]]] = []
        if "tni" in names:
            announce("mixing the target's noise into the source")
            noisy = [_in_noise(source_usable, train, target_usable, card.features, sound, seed)]
        announce("adapting")
        found = adapt_network(
            model,
            Sources(
                tables[0].take(train),
                y[train],
                np.unique(source_usable.site[train], return_inverse=True)[1].astype(np.int64),
                noisy,
            ),
            at_hand,
            method,
            config,
            window_frames=window_frames,
            seed=seed,
            on_epoch=on_epoch,
        )
        announce("measuring")
        result = {
            "method": method,
            "regime": regime_of(method),
            "used": found.used,
            **labels_used,
            "n_source": len(train),
            "n_target": len(rest),
            "metrics": {},
            "notes": [],
        }
        scores = {
            "source": _before_and_after(model, found.at_sources, tables[0], dev, window_frames),
            "target": _before_and_after(model, found.model, tables[1], rest, window_frames),
        }
        if learned_rows(card, source_usable.select(dev)):
            result["notes"].append(
                "the model was trained on recordings of this source: its figures there flatter before and after"
            )
        result["metrics"]["source"] = _measured(
            card, scores["source"], y[dev], source_groups[dev], n_resamples, seed
        )
        known = rest[target_usable.label[rest] != ""]
        if len(known):
            rows = np.searchsorted(rest, known)
            result["metrics"]["target"] = _measured(
                card,
                (scores["target"][0][rows], scores["target"][1][rows]),
                target_usable.select(known).encode_labels(card.class_names),
                target_groups[known],
                n_resamples,
                seed,
            )
        result["alarms"] = [
            alarm._asdict()
            for alarm in _alarms(
                card,
                scores["target"],
                score_recordings(found.at_sources, tables[0], window_frames=window_frames),
                _opposed(tables[0], y, source_usable.site) if len(card.class_names) == 2 else {},
            )
        ]
        provenance = card.provenance | {
            "adapted_from": content_hash(path),
            "adaptation": {key: result[key] for key in ("method", "regime", "used")},
            # Those whose labels were learned: on what gave its sound alone the model can still be evaluated.
            "trained_on": trained_on(
                [
                    *(source_usable.file(int(i)) for i in train if found.history),
                    *(target_usable.file(int(i)) for i in chosen),
                ],
                before=[card.provenance.get("trained_on", "")],
            ),
        }
        for stale in ("cross_validated", "members_cross_validated"):  # measured on the original
            provenance.pop(stale, None)
        save_model(out, found.model, replace(card, provenance=provenance))
        return result


def of_sites(manifest: Manifest, sites: list[str]) -> Manifest:
    """The rows of these sites; of all, for none named.

    Raises:
        ValueError: a site that does not occur.
    """
    for site in sites:
        if site not in manifest.site:
            raise ValueError(
                f"{manifest.source}: no site {site!r}; sites are {', '.join(manifest.site_names) or 'blank'}"
            )
    return manifest.select(np.isin(manifest.site, sites)) if sites else manifest


def refuse_shared(source: Manifest, target: Manifest) -> None:
    """No subject may stand at both sites.

    Raises:
        ValueError: names the subject and the first row of it at the target.
    """
    shared = np.intersect1d(source.subject, target.subject)
    if len(shared):
        row = int(np.flatnonzero(target.subject == shared[0])[0])
        raise ValueError(
            f"{target.where(row)}: subject {str(shared[0])!r} is at the source too"
            f"{f', and {len(shared) - 1} more' if len(shared) > 1 else ''}; leave them out of one, or rename them if "
            "they are different people"
        )


def _refuse_same_sound(source: Manifest, target: Manifest, n_workers: int) -> None:
    """The same sound under two names, codecs or gains, would be learned at the source and measured at the target."""
    try:
        refuse_overlap(source, target, n_workers=n_workers)
    except ValueError as error:
        raise ValueError(f"source and target share sound; leave it out of one: {error}") from error


def _in_noise(
    source: Manifest,
    train: NDArray[np.int64],
    target: Manifest,
    config: FeatureConfig,
    sound: Sound | Literal[""],
    seed: int,
) -> list[NDArray[np.float32]]:
    rate_hz = config.sample_rate_hz

    def noise(i: int) -> NDArray[np.float32]:
        heard = samples_of(target, i, rate_hz)
        if not sound:
            return quiet_stretches(heard, rate_hz)
        return background(heard, rate_hz, find_events(heard, rate_hz, sound), SOUNDING[sound])

    noises = noise_of_site((noise(i) for i in range(len(target))), rate_hz)
    return noisy_features(source, train, noises, config, np.random.default_rng(seed))


def _before_and_after(
    before: nn.Module, after: nn.Module, table: FeatureTable, rows: NDArray[np.int64], window_frames: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    features = table.take(rows)
    first, second = (
        score_recordings(model, features, window_frames=window_frames).astype(np.float64)
        for model in (before, after)
    )
    return first, second


def _measured(
    card: ModelCard,
    logits: tuple[NDArray[np.float64], NDArray[np.float64]],
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Each metric before, after, and the gain with its paired interval by subject; NaN where it has no value."""
    calibrator = _calibrator(card)
    found: dict[str, Any] = {"n_recordings": len(labels), "n_subjects": len(np.unique(groups))}
    found["unit"] = "recordings" if found["n_subjects"] == len(labels) else "subjects"
    scored = []
    for one in logits:
        probabilities = calibrator.apply(one)
        scored.append((probabilities, decide(one, probabilities, card.threshold)))
    for metric in ("auroc" if len(card.class_names) == 2 else "macro_auroc", "uar"):
        before, after = (statistic(metric, labels, *each) for each in scored)
        whole = np.ones((1, len(labels)))
        compared = paired_bootstrap(
            after, before, groups, rng=np.random.default_rng(seed), n_resamples=n_resamples
        )
        found[metric] = {
            "before": float(before(whole)[0]),
            "after": float(after(whole)[0]),
            "gain": compared.difference,
            "low": compared.low,
            "high": compared.high,
            "p": compared.p,
        }
    return found


def _calibrator(card: ModelCard) -> calibration.Calibrator:
    """The model's own; a card may have none."""
    return calibration.from_dict(card.calibration or {"name": "identity"})


def _alarms(
    card: ModelCard,
    logits: tuple[NDArray[np.float64], NDArray[np.float64]],
    at_sources: NDArray[np.float32],
    opposed: dict[str, float],
) -> list[Alarm]:
    calibrator = _calibrator(card)
    before, after = (calibrator.apply(one) for one in logits)
    density = None
    if len(before) >= 3:
        density = (soft_neighbourhood_density(before), soft_neighbourhood_density(after))
    # What the model says of the sources on average, and not what they hold: it may be calibrated for other shares.
    shares = calibrator.apply(at_sources.astype(np.float64)).mean(axis=0)
    return alarms(before, after, shares, opposed=opposed, density=density)


def _opposed(table: FeatureTable, labels: NDArray[np.int64], sites: NDArray[np.str_]) -> dict[str, float]:
    return opposed_sources(logmel_statistics(table.take(range(len(labels)))), labels, sites)
