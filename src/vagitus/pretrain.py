"""Source models: networks that learn from adult speech, or from sound without labels, before a target's few labels.

    manifests ─ features ─┬─ pretrain_supervised: words, speakers or gender      ─┬─ model file ─ transfer.load_source
                          └─ pretrain_selfsupervised: two views of each recording ─┘

Conventions
    front end   that of the target task: a network transfers only to what it can hear (``transfer.load_source``)
    work        a folder beside the model file, gone when it is written. It holds the training's state: the same
                call goes on where a killed one was, and another call starts anew
    torchrun    starts several processes that make one call together (``vagitus.ranks``): the first alone reads
                recordings and writes; the others need see the work folder, and the model to go on from
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

import vagitus
from vagitus.audio import AudioError, read
from vagitus.augment import CODECS, codec, find_codec, warp_matrices
from vagitus.calibration import Identity, softmax
from vagitus.checkpoint import ModelCard, learned_rows, save_model, trained_on
from vagitus.corpora import CORPORA
from vagitus.dataset import FeatureTable, write_feature_table
from vagitus.features import (
    PRESETS,
    FeatureCache,
    FeatureConfig,
    Normalisation,
    Stretch,
    featurise,
    featurise_files,
)
from vagitus.files import content_hash, working
from vagitus.fingerprint import MIN_CORRELATION, Words, correlation, find_matches, fingerprint
from vagitus.manifest import Manifest
from vagitus.metrics import statistic, uar
from vagitus.models import MODELS, build_model
from vagitus.processes import n_processors
from vagitus.ranks import from_first, joined, rank
from vagitus.scale import Quarantined, spread
from vagitus.splits import Fold, check_disjoint, grouped_folds
from vagitus.statistics import subject_bootstrap
from vagitus.training import CropBatches, Record, Supervised, TrainConfig, fit, score_recordings
from vagitus.transfer import load_source
from vagitus.views import (
    METHODS,
    TwoViews,
    ViewConfig,
    describe_collapse,
    feature_dim_of,
    learn_from_views,
    seeded,
)
from vagitus.windows import loudest_stretch

Float32 = NDArray[np.float32]
Task = Literal["words", "speakers", "gender"]
TASKS: tuple[Task, ...] = ("words", "speakers", "gender")
GENDERS = {"f": "female", "female": "female", "m": "male", "male": "male"}
MEASURED_ON = {
    "words": "speakers never heard in training",
    "gender": "speakers never heard in training",
    "speakers": "held-out utterances of the speakers heard in training",
}

N_PARTS = 5  # a fifth of the speakers, or of each one's utterances, is the test part
LEAST_UTTERANCES = 2  # of a speaker: one each for train and test
MAX_BAD = 0.05  # share of recordings that may be unreadable
N_NAMED = 3  # recordings in a message

# The thesis's SGD at .1, batch of 64 and shift on Speech Commands (arXiv:1906.10199), crops of a word's second. What
# its 105,000 recordings are too many for, few speakers need: more epochs and voices made of those there are.
SUPERVISED = TrainConfig(
    epochs=60,
    batch_size=64,
    window_s=1.0,
    optimizer="sgd",
    lr=0.1,
    weight_decay=1e-3,
    warmup_epochs=2,
    mask=0.1,
    stretch=0.1,
    warp=0.1,
    shift_s=0.1,
)
# Contrast needs many others in a batch, and gains from long training; there is no dev score to stop it.
SELF_SUPERVISED = TrainConfig(epochs=50, batch_size=128, lr=4e-3, weight_decay=1e-4, warmup_epochs=5)


def _ignore(_: Any) -> None:
    pass


class PretrainConfig(BaseModel):
    """What ``vagitus pretrain`` learns, from what and how: a recipe. Frozen; an unknown key is an error.

    Attributes:
        data: manifests, or names of corpora.
        task: words, speakers or gender; simclr or vicreg, which need no labels.
        root: data root of a corpus, or the folder a manifest's paths start from; "" for the default.
        front_end: a row of PRESETS; the target must be heard through the same.
        normalisation: of its features, per recording.
        model: a row of MODELS.
        start: a model file to go on from instead, without labels; "" for random weights.
        noise: a corpus or manifest to mix into views; "" for none.
        views: how the two views of a recording differ, without labels; None for the defaults of ``ViewConfig``.
        keep_out: the target's corpus or manifest, refused if any of it is among ``data``; "" for none.
        seed: of the parts, the weights and the batches.
        train: what it does not name is as in SUPERVISED or SELF_SUPERVISED, by the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(min_length=1)
    task: str = "words"
    root: str = ""
    front_end: str = "mfcc40"
    normalisation: Normalisation = "mean"
    model: str = "res8"
    start: str = ""
    noise: str = ""
    views: ViewConfig | None = None
    keep_out: str = ""
    seed: int = Field(0, ge=0)
    train: TrainConfig = SUPERVISED

    @model_validator(mode="before")
    @classmethod
    def _train_as_the_task_asks(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("train", {}), dict):
            return given
        task = given.get("task")
        own = SELF_SUPERVISED if isinstance(task, str) and task in METHODS else SUPERVISED
        return given | {"train": own.model_dump() | given.get("train", {})}

    @model_validator(mode="after")
    def _fits(self) -> "PretrainConfig":
        if self.task not in (*TASKS, *METHODS):
            raise ValueError(f"no task {self.task!r}; choose from {', '.join((*TASKS, *METHODS))}")
        if self.front_end not in PRESETS:
            raise ValueError(f"no front end {self.front_end!r}; choose from {', '.join(PRESETS)}")
        if self.model not in MODELS:
            raise ValueError(f"no model {self.model!r}; choose from {', '.join(MODELS)}")
        for name in ("start", "noise", "views"):
            if getattr(self, name) and self.task in TASKS:
                raise ValueError(f"{name} is for {' and '.join(METHODS)}; leave it out for {self.task}")
        if self.start and "model" in self.model_fields_set:
            raise ValueError(
                f"start goes on with the network of {self.start}; leave model {self.model!r} out"
            )
        return self


class Pretrained(NamedTuple):
    """A source model and how it got there.

    Attributes:
        collapse: why its features are taken to be collapsed; "" if they are not.
        saved: whether the model file was written; a collapsed model is not, unless that was asked for.
    """

    model: nn.Module
    card: ModelCard
    history: list[Record]
    collapse: str = ""
    saved: bool = True


def source_labels(manifest: Manifest, task: Task) -> Manifest:
    """The recordings that can teach a source task, labelled for it.

    "words" are the labels of a word corpus; "speakers" the subjects; "gender" (female, male) the covariate
    ``gender`` or ``sex``, or the labels if they say that. Rows without one are left out.

    Raises:
        ValueError: no such task, or the manifest does not say what the task needs; names what is missing.
    """
    if task == "words":
        labelled = manifest.labelled()
        if len(labelled) == 0:
            raise ValueError(
                f"{manifest.source}: no recording has a label; words need the word said in 'label'"
            )
        if (labelled.label == labelled.subject).all():
            raise ValueError(
                f"{manifest.source}: every label repeats its subject: it says who spoke, not what; load the "
                "corpus with task 'words'"
            )
        return labelled
    if task == "speakers":
        return manifest.with_labels(manifest.subject)
    if task == "gender":
        name = next((name for name in ("gender", "sex") if name in manifest.covariates), None)
        said = manifest.covariates[name] if name else manifest.label
        found = np.array([GENDERS.get(text.casefold(), text) for text in said.tolist()])
        strange = np.flatnonzero(~np.isin(found, ["", *GENDERS.values()]))
        if name is None and (len(strange) or not (found != "").any()):
            raise ValueError(
                f"{manifest.source}: has no covariate 'gender' and its labels do not say it; load the corpus "
                "with task 'gender', or add the column"
            )
        if len(strange):
            i = int(strange[0])
            raise ValueError(
                f"{manifest.where(i)}: {name} is {str(said[i])!r}; write female, male, or leave it blank"
            )
        if not (found != "").any():
            raise ValueError(f"{manifest.source}: covariate {name!r} is blank throughout; fill it")
        return manifest.with_labels(found).labelled()
    raise ValueError(f"no source task {task!r}; choose from {', '.join(TASKS)}")


def refuse_overlap(pretraining: Manifest, test: Manifest, *, n_workers: int = 1) -> None:
    """Refuse a pretraining set in which a target's test recordings, or their subjects, are heard.

    Recordings are compared by their sound: the same samples, or a fingerprint that matches and a waveform
    that agrees (``vagitus.fingerprint``: codec, gain and a crop of a second or more do not hide it; of less
    only the same samples are surely found). Subjects are compared by name where both manifests start from one
    folder; elsewhere two may share a name by chance. What cannot be read cannot be heard, and is passed over.

    Args:
        test: recordings that the target will be tested on.
        n_workers: processes that decode.

    Raises:
        ValueError: an overlap; names the first recordings on both sides and counts them.
    """
    if pretraining.root.resolve() == test.root.resolve():
        shared = np.flatnonzero(np.isin(pretraining.subject, test.subject))
        if len(shared):
            named = ", ".join(f"{pretraining.path[i]} ({pretraining.subject[i]})" for i in shared[:N_NAMED])
            raise ValueError(
                f"{pretraining.source}: {len(shared)} recordings are of subjects of the test part, first {named}; "
                "leave these subjects out of pretraining"
            )
    manifests = (pretraining, test)
    rows = [(manifest, i) for manifest in manifests for i in range(len(manifest))]
    jobs = [(manifest.file(i), *manifest.stretch(i)) for manifest, i in rows]
    heard = [_Sound("", np.zeros(0, np.uint32))] * len(jobs)
    for k, sound in spread(_listen, jobs, n_workers):
        if not isinstance(sound, Quarantined):
            heard[k] = sound
    pairs = {(i, j) for i, j in _same_samples(heard, len(pretraining))}
    for match in find_matches([sound.words for sound in heard]):
        i, j = match.i, match.j
        if i < len(pretraining) <= j and (i, j) not in pairs and _agree(jobs[i], jobs[j], match.offset):
            pairs.add((i, j))
    if pairs:
        named = ", ".join(
            f"{pretraining.path[i]} = {test.path[j - len(pretraining)]}" for i, j in sorted(pairs)[:N_NAMED]
        )
        raise ValueError(
            f"{pretraining.source}: {len({i for i, _ in pairs})} recordings hold the sound of test recordings of "
            f"{test.source}, first {named}; leave their subjects out of pretraining"
        )


class _Sound(NamedTuple):
    samples_hash: str  # "" for what cannot be read
    words: Words


def _listen(path: Path, start_s: float, end_s: float | None) -> _Sound:
    try:
        x, rate_hz = read(path, start_s=start_s, end_s=end_s)
    except (AudioError, OSError):
        return _Sound("", np.zeros(0, np.uint32))
    if not x.any():  # digital silence is nobody's recording
        return _Sound("", np.zeros(0, np.uint32))
    return _Sound(hashlib.blake2b(x.tobytes(), digest_size=16).hexdigest(), fingerprint(x, rate_hz))


def _same_samples(heard: list[_Sound], n_first: int) -> Iterator[tuple[int, int]]:
    first = {sound.samples_hash: i for i, sound in enumerate(heard[:n_first]) if sound.samples_hash}
    for j, sound in enumerate(heard[n_first:], start=n_first):
        if sound.samples_hash in first:
            yield first[sound.samples_hash], j


def _agree(a: tuple[Path, float, float | None], b: tuple[Path, float, float | None], offset: int) -> bool:
    x, y = (read(path, start_s=start_s, end_s=end_s) for path, start_s, end_s in (a, b))
    return correlation(x.samples, x.sample_rate_hz, y.samples, y.sample_rate_hz, offset) >= MIN_CORRELATION


class _Heard(NamedTuple):
    """Recordings of several manifests with their features; row i of all is the same recording."""

    table: FeatureTable
    stretches: list[Stretch]
    label: NDArray[np.str_]  # (n,), with the corpus in front where there are several
    bare_label: NDArray[np.str_]  # (n,), without
    subject: NDArray[np.str_]  # (n,)
    notes: list[str]

    @property
    def recording(self) -> NDArray[np.str_]:
        """(n,) the file of each."""
        return np.array([str(stretch.path) for stretch in self.stretches])


def _hear(
    manifests: Sequence[Manifest], config: FeatureConfig, cache: Path, work: Path, n_workers: int
) -> _Heard:
    """Raises ValueError: two manifests of one name, none, or too many recordings that cannot be read."""
    names = [manifest.source for manifest in manifests]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"give one manifest or several of different names, got {', '.join(names) or 'none'}")
    rows = [(manifest, i) for manifest in manifests for i in range(len(manifest))]
    stretches = [Stretch(manifest.file(i), *manifest.stretch(i)) for manifest, i in rows]
    store = FeatureCache(cache)
    n_frames = np.zeros(len(rows), np.int64)
    bad = []
    for k, features in featurise_files(stretches, config, store, n_workers):
        if isinstance(features, Exception):
            bad.append((rows[k][0].where(rows[k][1]), features))
        else:
            n_frames[k] = features.shape[1]
    if len(bad) > MAX_BAD * len(rows):
        raise ValueError(
            f"{len(bad)} of {len(rows)} recordings cannot be used, more than {MAX_BAD:.0%}; "
            f"first {bad[0][0]}: {bad[0][1]}"
        )
    kept = np.flatnonzero(n_frames)
    packed = (
        store.get_or_compute(
            stretches[k].path, config, start_s=stretches[k].start_s, end_s=stretches[k].end_s
        )
        for k in kept
    )
    table = write_feature_table(work / "features.npy", config, n_frames[kept].tolist(), packed)

    def column(name: str, *, prefixed: bool) -> NDArray[np.str_]:
        values = [
            f"{manifest.source} {getattr(manifest, name)[i]}" if prefixed else str(getattr(manifest, name)[i])
            for manifest, i in rows
        ]
        return np.array(values, dtype=np.str_)[kept]

    several = len(manifests) > 1
    notes = [f"{manifest.source}: {note}" for manifest in manifests for note in manifest.notes]
    if bad:
        # Without the reason, which holds a path of this machine.
        notes.append(f"{len(bad)} recordings could not be read, first {bad[0][0]}")
    return _Heard(
        table,
        [stretches[k] for k in kept],
        column("label", prefixed=several),
        column("label", prefixed=False),
        column("subject", prefixed=several),
        notes,
    )


def _through_codecs(
    heard: _Heard, codecs: Sequence[str], seed: int, work: Path, n_workers: int
) -> FeatureTable:
    """The same recordings, each as one of the codecs left it at one of its bit rates, both drawn by ``seed``."""
    config = heard.table.config

    def jobs() -> Iterator[tuple[Stretch, str, float]]:
        for k, stretch in enumerate(heard.stretches):
            rng = np.random.default_rng([seed, k])
            name = codecs[int(rng.integers(len(codecs)))]
            yield stretch, name, float(rng.choice(CODECS[name].kbps))

    def in_order() -> Iterator[Float32]:
        early: dict[int, Float32 | Quarantined] = {}
        n_done = 0
        for k, found in spread(partial(_coded, config), jobs(), n_workers):
            early[k] = found
            while n_done in early:
                next_one = early.pop(n_done)
                if isinstance(next_one, Quarantined):
                    raise ValueError(
                        f"{heard.stretches[n_done].path}: no codec can be run on it: {next_one.reason}"
                    )
                yield next_one
                n_done += 1

    return write_feature_table(work / "coded.npy", config, np.diff(heard.table.offsets).tolist(), in_order())


def _coded(config: FeatureConfig, stretch: Stretch, name: str, kbps: float) -> Float32:
    sound = read(
        stretch.path, sample_rate_hz=config.sample_rate_hz, start_s=stretch.start_s, end_s=stretch.end_s
    )
    return featurise(codec(sound.samples, sound.sample_rate_hz, name, kbps), config)


@joined()
def pretrain_supervised(
    manifests: Sequence[Manifest],
    task: Task,
    path: Path,
    *,
    front_end: FeatureConfig,
    cache: Path,
    model_name: str = "res8",
    options: Mapping[str, int] | None = None,
    config: TrainConfig = SUPERVISED,
    seed: int = 0,
    n_workers: int | None = None,
    test: Manifest | None = None,
    record: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] = _ignore,
    on_epoch: Callable[[Record], None] = _ignore,
) -> Pretrained:
    """Train a network on a source task and write it, with what it is worth, to ``path``.

    Words and gender are learned from four fifths of the speakers, and the accuracy is that on the others. Speakers
    are told apart by utterances that were held out; a speaker with fewer than two is left out. No epoch is
    chosen: the last one's weights are kept, by when the learning rate has fallen to nothing. Of several corpora
    each word is a class of its own, so that languages do not mix. In a recording longer than a crop the word is
    taken to stand where it is loudest.

    Args:
        manifests: of adult speech; of any task that says what this one needs (``source_labels``).
        path: of the model file.
        front_end: of the target task.
        cache: folder of the feature cache.
        model_name, options: a row of MODELS and what it takes beside ``n_mels`` and ``n_classes``.
        n_workers: processes that compute features; default one per processor.
        test: recordings that a target will be tested on; refused here (``refuse_overlap``).
        record: what the caller knows for the card's provenance: command, versions.
        announce: is given one line of progress at a time.

    Raises:
        ValueError: recordings that do not fit the task, a class with too few speakers, an overlap with ``test``,
            an option out of range; says which.
        OSError: ``path`` or ``cache`` cannot be written.

    Source: Onu et al. 2019, arXiv:1906.10199, for the tasks.
    """
    sources = [source_labels(manifest, task) for manifest in manifests]
    workers = n_workers or n_processors()
    announce = announce if rank() == 0 else _ignore
    from_first(lambda: _refuse_test(sources, test, workers))
    work = path.with_name(f"{path.stem}-work")
    with working(work, "a pretraining") if rank() == 0 else nullcontext():
        announce(f"computing features of {sum(map(len, sources))} recordings")
        heard = from_first(lambda: _hear(sources, front_end, cache, work, workers))
        fold, n_left_out = _held_out(heard, task, seed)
        label = heard.bare_label if task == "gender" else heard.label
        known = np.concatenate([fold.train, fold.test])
        class_names, inverse = np.unique(label[known], return_inverse=True)
        if len(class_names) < 2:
            raise ValueError(
                f"task {task!r} finds one class, {str(class_names[0])!r}; a source task needs 2 or more"
            )
        labels = np.full(len(label), -1, np.int64)  # -1: a recording that is left out, never an index
        labels[known] = _positive_last(inverse) if task == "gender" else inverse
        names = tuple(map(str, class_names[::-1] if task == "gender" else class_names))
        own = dict(options or {}) | {"n_mels": front_end.n_rows, "n_classes": len(names)}
        model = seeded(lambda: build_model(model_name, **own), seed)
        window_frames = _window(model, model_name, config, front_end)

        shift_frames = round(config.shift_s * front_end.frames_per_s)

        def taken(index: NDArray[np.int64], margin_frames: int = 0) -> list[Float32]:
            recordings = heard.table.take(index)
            if task != "words":
                return recordings
            return [_spoken(x, front_end, window_frames, margin_frames) for x in recordings]

        def decided(model: nn.Module, index: NDArray[np.int64]) -> NDArray[np.float32]:
            return score_recordings(
                model, taken(index), window_frames=window_frames, precision=config.precision
            )

        batches = CropBatches(
            taken(fold.train, shift_frames),
            labels[fold.train],
            window_frames=window_frames,
            config=config,
            seed=seed,
            shift_frames=shift_frames,
            warps=warp_matrices(front_end, config.warp),
        )
        announce(f"training {model_name} on {len(fold.train)} recordings, {len(names)} classes")
        history = fit(
            model,
            Supervised(config.loss),
            batches,
            config,
            steps_per_epoch=len(batches),
            seed=seed,
            state_path=from_first(lambda: work / f"{_digest(heard, front_end, model_name, own, task)}.state"),
            on_epoch=on_epoch,
        )

        def save() -> ModelCard:
            logits = decided(model, fold.test)
            metrics = _worth(labels[fold.test], logits, heard.subject[fold.test], seed)
            if n_left_out:
                heard.notes.append(
                    f"{n_left_out} recordings of speakers with fewer than {LEAST_UTTERANCES} left out"
                )
            card = _card(model_name, own, front_end, config, names, heard, sources, seed, record)
            card.provenance.update(
                method="supervised",
                task=task,
                metrics=metrics | {"measured_on": MEASURED_ON[task]},
                n_epochs=len(history),
            )
            save_model(path, model, card)
            return card

        card = from_first(save)
    return Pretrained(model, card, history)


def _spoken(features: Float32, front_end: FeatureConfig, window_frames: int, margin_frames: int) -> Float32:
    """Where the word stands in a recording that is longer than a crop: its loudest stretch, with a margin."""
    # The first coefficient is the level but for a factor; the recording's mean, if removed, changes no comparison.
    level = features[0] if front_end.kind == "mfcc" else features.mean(axis=0)
    return loudest_stretch(features, level, window_frames, margin_frames)


def _positive_last(inverse: NDArray[np.int64]) -> NDArray[np.int64]:
    # Sorted, female comes first; as elsewhere the class that a binary score speaks of is the last.
    return 1 - inverse


def _held_out(heard: _Heard, task: Task, seed: int) -> tuple[Fold, int]:
    """Train and test rows (there is no dev part), and how many rows stand in neither."""
    nobody = np.empty(0, np.int64)
    if task != "speakers":
        # Gender is dealt by corpus too, so that both parts hold every corpus.
        fold = grouped_folds(heard.label, heard.subject, n_folds=N_PARTS, seed=seed)[0]
        fold = fold._replace(train=np.sort(np.concatenate([fold.train, fold.dev])), dev=nobody)
        check_disjoint(fold, heard.subject)
        return fold, 0
    rng = np.random.default_rng([seed, len(heard.subject)])
    train, test = [], []
    n_left_out = n_speakers = 0
    recording = heard.recording
    for subject in np.unique(heard.subject):
        rows = np.flatnonzero(heard.subject == subject)
        files = rng.permutation(np.unique(recording[rows]))  # stretches of one file stay together
        if len(files) < LEAST_UTTERANCES:
            n_left_out += len(rows)
            continue
        n_speakers += 1
        held = np.isin(recording[rows], files[: max(1, len(files) // N_PARTS)])
        test += rows[held].tolist()
        train += rows[~held].tolist()
    if n_speakers < 2:
        raise ValueError(
            f"{n_speakers} speakers have {LEAST_UTTERANCES} recordings or more; telling speakers apart needs 2"
        )
    parts = (np.sort(np.array(part, dtype=np.int64)) for part in (train, test))
    return Fold("utterances", next(parts), nobody, next(parts)), n_left_out


def _worth(
    labels: NDArray[np.int64], logits: NDArray[np.float32], subjects: NDArray[np.str_], seed: int
) -> dict[str, Any]:
    decisions = logits.argmax(axis=1)
    interval = subject_bootstrap(
        statistic("accuracy", labels, softmax(logits), decisions), subjects, rng=np.random.default_rng(seed)
    )
    unknown_is_none = {"low": interval.low, "high": interval.high, "uar": uar(labels, decisions)}
    return {
        "accuracy": interval.estimate,
        "level": interval.level,
        **{name: value if math.isfinite(value) else None for name, value in unknown_is_none.items()},
        "accuracy_of_commonest": float(np.bincount(labels).max() / len(labels)),
        "n_recordings": len(labels),
        "n_subjects": interval.n_units,
    }


def _refuse_test(sources: Iterable[Manifest], test: Manifest | None, n_workers: int) -> None:
    if test is not None:
        for source in sources:
            refuse_overlap(source, test, n_workers=n_workers)


def _window(model: nn.Module, name: str, config: TrainConfig, front_end: FeatureConfig) -> int:
    window_frames = round(config.window_s * front_end.frames_per_s)
    least = int(getattr(model, "least_frames"))  # noqa: B009 (nn.Module does not declare it)
    if window_frames < least:
        raise ValueError(
            f"the window of {window_frames} frames is too short for {name}, which needs {least}; give window_s "
            f"= {least / front_end.frames_per_s:g} or more"
        )
    return window_frames


def _digest(heard: _Heard, *what: Any) -> str:
    """Names a training by its data and its network; ``fit`` itself knows the options and the seed."""
    columns = (heard.recording, heard.label, heard.subject, heard.table.offsets)
    facts = [vagitus.__version__, content_hash(heard.table.path), *(column.tolist() for column in columns)]
    text = json.dumps([*facts, *map(str, what)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _card(
    model_name: str,
    options: dict[str, int],
    front_end: FeatureConfig,
    config: TrainConfig,
    class_names: tuple[str, ...],
    heard: _Heard,
    sources: Sequence[Manifest],
    seed: int,
    record: Mapping[str, Any] | None,
    heard_before: Iterable[str] = (),
) -> ModelCard:
    """``heard_before``: what ``trained_on`` says of the model it went on from, and of the noise."""
    counts = Counter(manifest.source for manifest in sources for _ in range(len(manifest)))
    named = {manifest.source: CORPORA.get(manifest.source) for manifest in sources}
    return ModelCard(
        model=model_name,
        options=options,
        features=front_end,
        window_s=config.window_s,
        class_names=class_names,
        positive=class_names[-1] if len(class_names) == 2 else "",
        threshold=0.5 if len(class_names) == 2 else None,
        calibration=Identity().to_dict(),
        provenance={
            "data": ", ".join(named),
            "sources": [
                {
                    "name": name,
                    "n_recordings": counts[name],
                    "licence": corpus.licence if corpus else "",
                    "citation": corpus.citation if corpus else "",
                }
                for name, corpus in named.items()
            ],
            "notes": heard.notes,
            "simulated": any(manifest.simulated for manifest in sources),
            "seed": seed,
            "train": config.model_dump(mode="json"),
            "n_recordings": len(heard.subject),
            "n_subjects": len(np.unique(heard.subject)),
            "trained_on": trained_on(map(Path, heard.recording.tolist()), before=heard_before),
            **(record or {}),
        },
    )


@joined()
def pretrain_selfsupervised(
    manifests: Sequence[Manifest],
    method: str,
    path: Path,
    *,
    front_end: FeatureConfig,
    cache: Path,
    start: Path | None = None,
    model_name: str = "res8",
    options: Mapping[str, int] | None = None,
    config: TrainConfig = SELF_SUPERVISED,
    views: ViewConfig | None = None,
    noise: Manifest | None = None,
    seed: int = 0,
    n_workers: int | None = None,
    test: Manifest | None = None,
    save_collapsed: bool = False,
    record: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] = _ignore,
    on_epoch: Callable[[Record], None] = _ignore,
) -> Pretrained:
    """Train a network on recordings without labels and write it to ``path``.

    To go on from a model on the target's own unlabelled recordings is the same call with ``start``. The file
    has one output that was never trained and no classes: it is a source for ``transfer``, nothing else.

    Args:
        manifests: any recordings; labels are not read.
        method: a row of METHODS.
        start: a model file to go on from; ``model_name`` and ``options`` are then its own.
        noise: recordings to mix into views; none by default.
        test: recordings that a target will be tested on; refused here (``refuse_overlap``).
        save_collapsed: write the file even if the features collapsed.
        others: as ``pretrain_supervised``.

    Returns:
        What was trained. If it collapsed, ``collapse`` says how and, without ``save_collapsed``, ``saved`` is
        False and no file is written.

    Raises:
        ValueError: no such method, fewer than two recordings, an overlap with ``test``, a ``start`` of another
            front end, an option out of range; says which.
        OSError: ``path`` or ``cache`` cannot be written.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; choose from {', '.join(METHODS)}")
    views = views or ViewConfig()
    for name in views.codecs if views.codec_share else ():
        find_codec(name)  # what is not installed is said before the recordings are read
    workers = n_workers or n_processors()
    began: dict[str, Any] = {}
    heard_before: list[str] = []
    if start is None:
        own = dict(options or {}) | {"n_mels": front_end.n_rows, "n_classes": 1}
        model = seeded(lambda: build_model(model_name, **own), seed)
    else:
        model, source = load_source(start, front_end)
        model_name, own = source.model, source.options | {"n_classes": 1}
        earlier = dict(source.provenance)
        heard_before.append(earlier.pop("trained_on", ""))
        began = {"started_from": content_hash(start), "started_from_provenance": earlier}
        learned = learned_rows(source, test) if test is not None else []
        if test is not None and learned:
            raise ValueError(
                f"{test.where(learned[0])}: {start.name}, to go on from, was trained on this recording and "
                f"{len(learned) - 1} more of {test.source}; begin with another model"
            )
        model.head = seeded(lambda: nn.Linear(feature_dim_of(model), 1), seed)
    announce = announce if rank() == 0 else _ignore
    from_first(lambda: _refuse_test([*manifests, *([noise] if noise is not None else [])], test, workers))
    window_frames = _window(model, model_name, config, front_end)
    plain = front_end.vary(kind="logmel", n_mfcc=None, normalisation="none")
    work = path.with_name(f"{path.stem}-work")
    with working(work, "a pretraining") if rank() == 0 else nullcontext():
        announce(f"computing features of {sum(map(len, manifests))} recordings")
        heard = from_first(lambda: _hear(manifests, plain, cache, work, workers))
        pool = (
            from_first(lambda: _hear([noise], plain, cache, work / "noise", workers))
            if noise is not None
            else None
        )
        coded = (
            from_first(lambda: _through_codecs(heard, views.codecs, seed, work, workers))
            if views.codec_share
            else None
        )
        batches = TwoViews(
            heard.table,
            front_end,
            window_frames=window_frames,
            config=config,
            views=views,
            seed=seed,
            noise=pool.table if pool is not None else (),
            coded=coded if coded is not None else (),
        )
        announce(f"{method} of {model_name} on {len(heard.table)} recordings")

        def state_path() -> Path:
            mixed = (pool.table if pool is not None else None, coded)
            hashes = [content_hash(table.path) if table is not None else "" for table in mixed]
            start_hash = began.get("started_from", "")
            network = (front_end, model_name, own, method, views, start_hash, *hashes)
            return work / f"{_digest(heard, *network)}.state"

        history = learn_from_views(
            model,
            method,
            batches,
            config,
            seed=seed,
            state_path=from_first(state_path),
            on_epoch=on_epoch,
        )
        collapse = describe_collapse(history[-1])
        saved = save_collapsed or not collapse

        def save() -> ModelCard:
            if pool is not None:
                heard_before.append(trained_on(map(Path, pool.recording.tolist())))
            card = _card(model_name, own, front_end, config, (), heard, manifests, seed, record, heard_before)
            card.provenance.update(
                method=method,
                task="",
                views=views.model_dump(mode="json"),
                noise=noise.source if noise is not None else "",
                metrics={name: history[-1][name] for name in ("feature_rank", "feature_spread")},
                collapse=collapse,
                n_epochs=len(history),
                **began,
            )
            if saved:
                save_model(path, model, card)
            else:
                announce(f"{path.name} is not written: {collapse}")
            return card

        card = from_first(save)
    return Pretrained(model, card, history, collapse, saved)
