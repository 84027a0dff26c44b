"""What a study is before its jobs: its settings, its recordings as a dataset, and its folds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vagitus.arms import ARMS, BLENDS, DEFAULT_ARMS, SHIPPED_SOURCES, SOURCES, find_arm
from vagitus.arms.adapted import PREFIX, check_targets
from vagitus.arms.contract import Arm, Blend, Budget
from vagitus.arms.transferred import PLAIN, continued
from vagitus.audio import AudioError
from vagitus.audit import Audit, audit
from vagitus.calibration import FITS, choose_threshold
from vagitus.checkpoint import learned_rows, read_card, shipped
from vagitus.dataset import Dataset, FeatureTable, write_feature_table
from vagitus.encoders import EmbeddingCache, embed_files, open_encoder
from vagitus.features import PRESETS, FeatureCache, FeatureConfig, Normalisation, count_frames
from vagitus.manifest import Manifest, validate_for_study
from vagitus.splits import (
    Fold,
    check_disjoint,
    fewer_subjects,
    grouped_folds,
    leave_one_site_out,
    merge_subjects,
    most_folds,
    predefined,
)
from vagitus.training import TrainConfig
from vagitus.transfer import freeze_up_to, load_source

# Of two classes the one that these words do not name is positive, unless --positive says otherwise.
NEGATIVE_NAMES = frozenset(
    ("0", "no", "none", "normal", "healthy", "control", "negative", "absent", "rejected", "false")
)
DEFAULT_FRONT_END = "logmel64"  # of a manifest, which does not say what it holds

FULL = Budget()
QUICK = Budget(n_inner_folds=3, n_members=1, grid="small", train=TrainConfig(epochs=10, patience=10))
Announce = Callable[[str], None]


class StudyConfig(BaseModel):
    """All that is needed to run a study again. Frozen; an unknown key is an error.

    Attributes:
        data: a manifest, or the name of a corpus with ``task``.
        root: data root of a corpus, or the folder a manifest's paths start from; "" for the default.
        positive: the positive class of a binary label; "" to go by the corpus or the names.
        arms: names that ``find_arm`` knows; a blend needs the arms it is made of.
        front_end: a preset of PRESETS; "" for the corpus's own.
        sources: model files by the name of the source (SOURCES) that an arm begins with; those not named come
            with the package.
        encoder: KIND:FILE of what others trained, for the arms ``encoder-probe`` and ``ge2e-probe``.
        normalisation: of the networks' input, per recording; of several, each network arm takes the one
            that does best on its dev parts. "mean" removes the channel (cepstral mean subtraction),
            "keep_level" leaves the recording's overall level in.
        split: "subjects" (repeated grouped folds), "sites" (leave one site out) or "column" (the
            manifest's split).
        target_site: with "sites", test on this one only.
        n_folds: of "subjects".
        repeats: of "subjects" with other folds, of "sites" with other dev parts; both with other training seeds.
        labelled_share: the share of the training side's subjects whose labels may be read; the others'
            recordings are left to learning without labels.
        seed: of folds, training and resampling.
        max_bad: share of recordings that may be unreadable before the study stops.
        n_resamples, level: of the bootstrap intervals.
        threshold_rule: how a decision threshold is chosen on the training side.
        calibration: how logits become probabilities, fitted on the training side.
        budget: what each arm may spend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    task: str = ""
    root: str = ""
    positive: str = ""
    arms: tuple[str, ...] = DEFAULT_ARMS
    front_end: str = ""
    sources: dict[str, str] = {}
    encoder: str = ""
    normalisation: tuple[Normalisation, ...] = Field(("mean",), min_length=1)
    split: str = Field("subjects", pattern="^(subjects|sites|column)$")
    target_site: str = ""
    n_folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)
    labelled_share: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0)
    max_bad: float = Field(0.05, ge=0, le=1)
    n_resamples: int = Field(2000, ge=100)
    level: float = Field(0.95, gt=0, lt=1)
    threshold_rule: str = "max_uar"
    calibration: str = "logistic"
    budget: Budget = FULL

    @model_validator(mode="after")
    def _known_names(self) -> "StudyConfig":
        if not self.arms:
            raise ValueError(f"no arm named; choose from {', '.join((*ARMS, *BLENDS))}")
        for name in self.arms:
            arm = find_arm(name)
            if isinstance(arm, Blend) and not set(arm.of) <= set(self.arms):
                raise ValueError(f"{name} is made of {' and '.join(arm.of)}; name them too, or leave it out")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("an arm is named twice")
        if self.front_end and self.front_end not in PRESETS:
            raise ValueError(f"no front end {self.front_end!r}; choose from {', '.join(PRESETS)}")
        unknown = [name for name in self.sources if name not in SOURCES]
        if unknown:
            raise ValueError(f"no source {unknown[0]!r}; choose from {', '.join(SOURCES)}")
        given = {*self.sources, *SHIPPED_SOURCES}
        missing = [name for name in SOURCES if name in fronts(self.arms) - given]
        if missing:
            raise ValueError(
                f"an arm begins with the source {missing[0]!r}, which does not come with this package; make one with "
                f"`vagitus pretrain --task {missing[0]}` and name its file: --source {missing[0]}=FILE"
            )
        if "encoder" in fronts(self.arms) and not self.encoder:
            raise ValueError("a probe of an encoder needs the encoder: encoder = 'ge2e:FILE' or 'onnx:FILE'")
        if "ge2e-probe" in self.arms and not self.encoder.startswith("ge2e:"):
            raise ValueError(
                f"ge2e-probe needs encoder = 'ge2e:FILE', got {self.encoder!r}; or name encoder-probe"
            )
        if self.split != "sites" and any(name.startswith(PREFIX) for name in self.arms):
            raise ValueError(
                "an arm that adapts needs a site to adapt to: split = 'sites' (--leave-one-site-out)"
            )
        if self.target_site and self.split != "sites":
            raise ValueError("a target site needs split = 'sites'")
        if self.repeats > 1 and self.split == "column":
            raise ValueError("a published split has no other folds or dev parts to repeat with")
        if self.budget.seed != Budget().seed:
            raise ValueError("the seed stands at the top, not in budget")
        if self.calibration not in FITS:
            raise ValueError(f"no calibration {self.calibration!r}; choose from {', '.join(FITS)}")
        choose_threshold([0, 1], [0.1, 0.9], self.threshold_rule)  # raises what is wrong with the rule
        return self


class Plan(NamedTuple):
    """A study before its jobs: the recordings, what the audit found, the folds."""

    dataset: Dataset
    audit: Audit
    repeats: list[list[Fold]]
    notes: tuple[str, ...]


def make_plan(
    config: StudyConfig,
    manifest: Manifest,
    out: Path,
    positive: str,
    front_end: str,
    cache: FeatureCache,
    n_workers: int,
    announce: Announce,
) -> Plan:
    """Audit, featurise and divide the labelled recordings. Arguments and errors as ``run_study``."""
    labelled = manifest.labelled()
    if len(labelled) == 0:
        raise ValueError(f"{manifest.source}: no recording has a label; fill the column 'label'")
    # What can be known to be wrong is said before the recordings are read.
    positive = config.positive or positive
    class_names = order_classes(labelled, positive)
    validate_for_study(labelled, config.n_folds if config.split == "subjects" else 2)
    make_folds(config, labelled, labelled.encode_labels(class_names), labelled.subject, class_names)
    sources = source_files(config)
    heard_by_sources = source_front_ends(sources, config.arms)
    if config.budget.freeze_up_to:
        for name, path in sources.items():
            source, _ = load_source(path, heard_by_sources[name])
            freeze_up_to(source, config.budget.freeze_up_to, n_mels=heard_by_sources[name].n_rows)
    encoder = config.encoder if "encoder" in fronts(config.arms) else ""
    if encoder:
        open_encoder(encoder)
    found, usable, groups = audited(labelled, config.max_bad, n_workers, announce)
    _refuse_learned(usable, sources)
    embeddings = np.empty((0, 0), np.float32)
    if encoder:
        announce(f"embedding {len(usable)} recordings")
        embeddings, why_not = embed(usable, encoder, cache.folder, n_workers)
        if why_not:
            found = _without(found, why_not)
            _refuse_many_bad(found, labelled, config.max_bad)
            kept = np.setdiff1d(np.arange(len(usable)), list(why_not))
            usable, groups = usable.select(kept), groups[kept]
    notes = validate_for_study(usable, config.n_folds if config.split == "subjects" else 2)
    if not positive and len(class_names) == 2:
        notes = (*notes, f"the positive class is taken to be {class_names[-1]!r}; --positive changes it")
    labels = usable.encode_labels(class_names)
    if config.split == "column":
        _refuse_shared_recordings(labelled, found)
    repeats = make_folds(config, usable, labels, groups, class_names)
    check_targets(config.arms, repeats[0])
    for repeat, folds in enumerate(repeats):
        for fold in folds:  # that each can be divided again is known before the features are computed
            known = np.concatenate([fold.train, fold.dev])
            most_folds(
                labels[known],
                groups[known],
                config.budget.n_inner_folds,
                seed=config.seed + repeat,
                class_names=class_names,
            )
    announce(f"computing features of {len(usable)} recordings")
    preset = PRESETS[config.front_end or front_end or DEFAULT_FRONT_END]
    chosen = front_ends(preset, config.arms, config.normalisation) | heard_by_sources
    tables = feature_tables(usable, chosen, cache, out / "work", n_workers)
    dataset = Dataset(
        manifest=usable,
        labels=labels,
        class_names=class_names,
        groups=groups,
        duration_s=np.diff(tables["study"].offsets) / tables["study"].config.frames_per_s,
        tables=tables,
        sources=sources,
        embeddings=embeddings,
    )
    return Plan(dataset, found, repeats, notes)


def audited(
    labelled: Manifest, max_bad: float, n_workers: int, announce: Announce
) -> tuple[Audit, Manifest, NDArray[np.str_]]:
    """The audit, the recordings that can be used, and their groups: subjects, merged where duplicates tie them.

    Raises:
        ValueError: more than ``max_bad`` of the recordings cannot be used.
    """
    announce(f"auditing {len(labelled)} recordings")
    found = audit(labelled, n_workers=n_workers)
    _refuse_many_bad(found, labelled, max_bad)
    usable = labelled.select(found.usable)
    here = set(usable.subject.tolist())
    tied = [pair for pair in found.duplicate_subjects if here.issuperset(pair)]
    return found, usable, merge_subjects(usable.subject, tied)


def _refuse_many_bad(found: Audit, labelled: Manifest, max_bad: float) -> None:
    n_bad = int((~found.usable).sum())
    if n_bad > max_bad * len(labelled):
        first = str(found.problems[~found.usable][0])
        raise ValueError(
            f"{labelled.source}: {n_bad} of {len(labelled)} recordings cannot be used, more than max_bad = "
            f"{max_bad:.0%}; the first: {first}; `vagitus audit` names each that cannot be read"
        )


def _without(found: Audit, why_not: Mapping[int, str]) -> Audit:
    """The audit with some of the usable recordings, counted among these alone, marked as not usable."""
    rows = np.flatnonzero(found.usable)[list(why_not)]
    usable, problems = found.usable.copy(), found.problems.astype(object)
    usable[rows], problems[rows] = False, list(why_not.values())
    return replace(found, usable=usable, problems=problems.astype(np.str_))


def order_classes(manifest: Manifest, positive: str) -> tuple[str, ...]:
    """Class names in the order of the logits: sorted, and of two the positive one last.

    Raises:
        ValueError: ``positive`` is not a label of this manifest, or there are more than two.
    """
    names = manifest.class_names
    if positive and len(names) > 2:
        raise ValueError(
            f"{manifest.source}: {len(names)} labels ({', '.join(names)}) have no positive one; leave --positive out"
        )
    if positive and positive not in names:
        raise ValueError(
            f"{manifest.source}: no label {positive!r} to be positive; labels are {', '.join(names)}"
        )
    if len(names) != 2:
        return names
    if not positive:
        candidates = [name for name in names if name.lower() not in NEGATIVE_NAMES]
        positive = candidates[-1] if candidates else names[-1]
    return (*(name for name in names if name != positive), positive)


def front_ends(
    study: FeatureConfig, arms: tuple[str, ...], normalisations: tuple[Normalisation, ...]
) -> dict[str, FeatureConfig]:
    """The feature configurations that these arms read, by table name.

    "study" is what networks see, "study NORMALISATION" what they may choose instead. "logmel"
    and "mfcc" are the same front end in these two forms and without normalisation: the
    classical arms standardise by themselves, and take the level of a band as evidence.
    """
    first, *others = normalisations
    wanted = fronts(arms)
    networks = {"study": study.vary(normalisation=first)}
    networks |= {f"study {name}": study.vary(normalisation=name) for name in others}
    every = {
        "logmel": study.vary(kind="logmel", n_mfcc=None, normalisation="none"),
        "mfcc": study.vary(kind="mfcc", normalisation="none"),
    }
    return networks | {name: every[name] for name in every if name in wanted}


def source_files(config: StudyConfig) -> dict[str, Path]:
    """The model files that this study's arms begin with, by the name of the source.

    Raises:
        ValueError: a file whose card says that it learned something else; or as ``read_card``.
    """
    files = {
        name: Path(config.sources[name]) if name in config.sources else shipped(f"{name}-res8")
        for name in SOURCES
        if name in fronts(config.arms)
    }
    for name, path in files.items():
        provenance = read_card(path).provenance
        learned = provenance.get("task") or provenance.get("method")
        if learned not in (name, None):
            way_out = (
                f"give it as --source {learned}={path.name}" if learned in SOURCES else "give one that did"
            )
            raise ValueError(f"{path.name}: learned {learned}, and cannot be the source {name!r}; {way_out}")
    return files


def source_front_ends(sources: Mapping[str, Path], arms: tuple[str, ...]) -> dict[str, FeatureConfig]:
    """What each source model hears, by its name; and that as plain log-mel where views are made of it."""
    heard = {name: read_card(path).features for name, path in sources.items()}
    views = {
        arm.front_end + PLAIN
        for arm in map(find_arm, arms)
        if isinstance(arm, Arm) and getattr(arm.fit, "func", None) is continued
    }
    plain = {
        name + PLAIN: config.vary(kind="logmel", n_mfcc=None, normalisation="none")
        for name, config in heard.items()
    }
    return heard | {name: config for name, config in plain.items() if name in views}


def embed(
    manifest: Manifest, encoder: str, folder: Path, n_workers: int = 1
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Embeddings of the recordings by ``KIND:FILE``, cached under ``folder``.

    Returns:
        (n, dim) of those that it can embed, in their order; and, by row, why not, of the others.

    Raises:
        ValueError: it can embed none.
    """
    stretches = ((manifest.file(i), *manifest.stretch(i)) for i in range(len(manifest)))
    rows: dict[int, NDArray[np.float32]] = {}
    why_not: dict[int, str] = {}
    for i, embedding in embed_files(stretches, encoder, EmbeddingCache(folder / "embeddings"), n_workers):
        if isinstance(embedding, AudioError):
            why_not[i] = f"{manifest.where(i)}: {embedding}".replace(f"{manifest.root}/", "")
        else:
            rows[i] = embedding
    if not rows:
        raise ValueError(f"{encoder} can embed none of the recordings; {why_not[0]}")
    return np.stack([rows[i] for i in sorted(rows)]), dict(sorted(why_not.items()))


def _refuse_learned(manifest: Manifest, sources: Mapping[str, Path]) -> None:
    """A source that has heard a study's recordings would be tested on what it learned."""
    for name, path in sources.items():
        learned = learned_rows(read_card(path), manifest)
        if learned:
            raise ValueError(
                f"{manifest.where(learned[0])}: the source {name!r} ({path.name}) was trained on this recording and "
                f"{len(learned) - 1} more of these {len(manifest)}; train one without them: `vagitus pretrain`"
            )


def fronts(arms: tuple[str, ...]) -> set[str]:
    """What the arms hear or begin with: front ends, names of sources, "encoder"."""
    return {arm.front_end for arm in map(find_arm, arms) if isinstance(arm, Arm)}


def feature_tables(
    manifest: Manifest, configs: dict[str, FeatureConfig], cache: FeatureCache, folder: Path, n_workers: int
) -> dict[str, FeatureTable]:
    """One packed table per front end; equal configurations share one.

    Raises:
        ValueError: a recording that the audit read cannot be featurised; names it.
    """
    jobs = [(manifest.file(i), *manifest.stretch(i)) for i in range(len(manifest))]
    tables: dict[str, FeatureTable] = {}
    for name, config in configs.items():
        twin = next((other for other in tables.values() if other.config == config), None)
        if twin is None:
            lengths = np.zeros(len(jobs), np.int64)
            for i, n_frames in count_frames(jobs, config, cache, n_workers):
                if isinstance(n_frames, Exception):
                    raise ValueError(f"{manifest.where(i)}: {n_frames}")
                lengths[i] = n_frames
            packed = (
                cache.get_or_compute(path, config, start_s=start, end_s=end) for path, start, end in jobs
            )
            twin = write_feature_table(folder / f"features-{name}.npy", config, lengths.tolist(), packed)
        tables[name] = twin
    return tables


def make_folds(
    config: StudyConfig,
    manifest: Manifest,
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    class_names: tuple[str, ...],
) -> list[list[Fold]]:
    """The folds of each repeat, every one checked to keep groups apart."""
    if config.split == "sites":
        repeats = []
        for repeat in range(config.repeats):
            folds = leave_one_site_out(
                labels,
                groups,
                manifest.site,
                seed=config.seed + repeat,
                only=config.target_site,
                class_names=class_names,
            )
            again = f", repeat {repeat}" if repeat else ""
            repeats.append([fold._replace(name=fold.name + again) for fold in folds])
    elif config.split == "column":
        repeats = [predefined(manifest.split, groups, manifest.label)]
    else:
        repeats = [
            grouped_folds(
                labels,
                groups,
                n_folds=config.n_folds,
                seed=config.seed,
                repeat=repeat,
                class_names=class_names,
            )
            for repeat in range(config.repeats)
        ]
    for fold in (fold for folds in repeats for fold in folds):
        check_disjoint(fold, groups)
    if config.labelled_share == 1:
        return repeats
    repeats = [
        [
            fewer_subjects(
                fold,
                labels,
                groups,
                config.labelled_share,
                seed=config.seed + repeat,
                class_names=class_names,
            )
            for fold in folds
        ]
        for repeat, folds in enumerate(repeats)
    ]
    for fold in (fold for folds in repeats for fold in folds):
        check_disjoint(fold, groups)
    return repeats


def _refuse_shared_recordings(manifest: Manifest, found: Audit) -> None:
    """The published parts cannot be mended by merging subjects: say which recordings are the same."""
    for pair in found.duplicate_pairs:
        parts = manifest.split[[pair.i, pair.j]].tolist()
        if parts[0] != parts[1] and all(parts):
            raise ValueError(
                f"{manifest.where(pair.i)}: {manifest.path[pair.i]} ({parts[0]}) and {manifest.path[pair.j]} "
                f"({parts[1]}) hold the same sound; leave one of them out"
            )
