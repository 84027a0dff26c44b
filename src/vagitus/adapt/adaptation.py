"""From a model of the sources to a model for the target: the one door to every method of ``vagitus.adapt``."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus.adapt import ENDS, METHODS, OBJECTIVES, parse_method, regime_of
from vagitus.adapt.batch_norm import (
    adapt_batch_norm,
    check_domain,
    has_batch_norm,
    in_batches,
    middle_windows,
)
from vagitus.adapt.batches import DomainBatches
from vagitus.adapt.few_labels import repeat_labelled
from vagitus.adapt.objective import Adaptation
from vagitus.adapt.self_training import surest_of_each_class
from vagitus.adapt.tent import LEAST_BATCH, scales_and_shifts, tent
from vagitus.adapt.transport import check_domains, gaussian_map, linear_head, move_head
from vagitus.training import EVALUATION_BATCH, Record, TrainConfig, fit, score_recordings
from vagitus.views import Encoder

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

# Further steps on a trained model: gentler than from random weights, and long enough for DANN's schedule.
ADAPTING = TrainConfig(epochs=10, patience=10, lr=5e-4, warmup_epochs=0.5, precision="32-true")
# Of the target (or, in the control, of the sources), the surest of every class together: half.
KEPT_SHARE = 0.5


class Sources(NamedTuple):
    """Labelled recordings of one site or several.

    Attributes:
        features: one (n_rows, n_frames) array per recording.
        labels: (n,) class indices.
        sites: (n,) from 0 to n_sources - 1.
        noisy: more versions of ``features`` with noise of the target, for tni.
    """

    features: Sequence[Float32]
    labels: Ints
    sites: Ints
    noisy: Sequence[Sequence[Float32]] = ()


class Target(NamedTuple):
    """Recordings of the site to adapt to; labels only of those in ``labelled``."""

    features: Sequence[Float32]
    labelled: Sequence[Float32] = ()
    labels: Ints = np.empty(0, np.int64)


class Adapted(NamedTuple):
    """A model for the target, and how it got there.

    Attributes:
        model: with the batch-norm statistics that it is to be used with at the target.
        at_sources: the same weights with statistics and head for the sources' recordings: what it costs there.
        history: one record an epoch; empty without training.
        used: what of the target was used, in words.
    """

    model: nn.Module
    at_sources: nn.Module
    history: list[Record]
    used: str


def adapt_network(
    model: nn.Module,
    sources: Sources,
    target: Target,
    method: str,
    config: TrainConfig = ADAPTING,
    *,
    window_frames: int,
    seed: int,
    state_path: Path | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Adapted:
    """Adapt a trained network; the one given stays as it is.

    Args:
        model: with the contract of ``vagitus.models``, trained on the sources.
        sources: without the recordings that the sources are to be measured on.
        target: see ``Target``.
        method: names of METHODS joined by +.
        config: of the further steps; the last epoch's weights are kept, since no label of the target may pick one.
        window_frames: what the network sees at once.
        seed: of batches and of what a method learns itself.
        state_path: as ``training.fit``.

    Raises:
        ValueError: an unknown or impossible combination; no noise for tni; no labelled recording for few-labels;
            a target too small; a network that the method does not fit.
    """
    names = parse_method(method)
    if "tni" in names and not sources.noisy:
        raise ValueError("tni needs source recordings with the target's noise in them, and none was given")
    if "few-labels" in names and not len(target.labels):
        raise ValueError("few-labels needs labelled subjects of the target, and none was given")
    hears_target = regime_of(method) in ("unlabelled", "labels")
    if hears_target and not len(target.features):
        raise ValueError(f"{method} needs recordings of the target, and none was given")
    _check_domains(model, sources, target, names, hears_target)
    adapted = copy.deepcopy(model)
    if not any(METHODS[name].trains for name in names):
        history: list[Record] = []
    else:
        history = _train(
            adapted,
            _taught(adapted, sources, target, names, window_frames),
            target.features if hears_target else (),
            names,
            config,
            window_frames,
            seed,
            state_path,
            on_epoch,
        )
    if history:
        _take_statistics(adapted, sources.features, window_frames)
    at_sources = copy.deepcopy(adapted)
    if "tni" in names and not hears_target:
        # The nearest to the target that noise alone gives: the sources in the target's noise.
        _take_statistics(adapted, sources.noisy[0], window_frames)
    if names[-1] in ENDS:
        _end(adapted, names[-1], sources, target, window_frames)
    elif hears_target:
        _take_statistics(adapted, [*target.features, *target.labelled], window_frames)
    if names[-1] == "tent":  # it alone changes weights in the end
        at_sources = copy.deepcopy(adapted)
        _take_statistics(at_sources, sources.features, window_frames)
    return Adapted(adapted.eval(), at_sources.eval(), history, _used(method, target))


def _check_domains(
    model: nn.Module, sources: Sources, target: Target, names: tuple[str, ...], hears_target: bool
) -> None:
    """Refuse before the training what would be refused after it."""
    n_source, n_target = len(sources.features), len(target.features)
    if "adabn" in names or has_batch_norm(model):
        if any(METHODS[name].trains for name in names) or names[-1] == "tent":
            check_domain(model, n_source)
        if hears_target and names[-1] not in ENDS:
            check_domain(model, n_target + len(target.labelled))
    if "self-training" in names and has_batch_norm(model):
        check_domain(model, n_target)
    if names[-1] == "tent":
        scales_and_shifts(model)
        check_domain(model, n_target)
    elif names[-1] in ENDS:
        linear_head(model)
        check_domains(n_source, n_target)


def _take_statistics(model: nn.Module, features: Sequence[Float32], window_frames: int) -> None:
    """The domain's own batch-norm statistics, where the network has batch norms."""
    if has_batch_norm(model):
        adapt_batch_norm(model, features, window_frames=window_frames)


def _taught(
    model: nn.Module, sources: Sources, target: Target, names: tuple[str, ...], window_frames: int
) -> Sources:
    """The sources, and whatever joins them as one more: pseudo-labelled recordings, or a few labelled ones."""
    features, labels, sites = list(sources.features), sources.labels, sources.sites
    noisy = [list(version) for version in sources.noisy] if "tni" in names else []
    joined: list[tuple[Sequence[Float32], Ints]] = []
    if "self-training" in names:
        joined.append(_surest(model, target.features, window_frames))
    if "self-distillation" in names:
        # As many as the target would have given, so that only where they are from differs.
        limit = len(target.features) or None
        joined.append(_surest(model, sources.features, window_frames, limit))
    if "few-labels" in names:
        rows = repeat_labelled(len(labels), np.arange(len(target.labels)))
        joined.append(([target.labelled[i] for i in rows], target.labels[rows]))
    for more, their_labels in joined:
        features += more
        noisy = [[*version, *more] for version in noisy]
        sites = np.concatenate([sites, np.full(len(their_labels), sites.max() + 1)])
        labels = np.concatenate([labels, their_labels])
    return Sources(features, labels, sites, noisy)


def _surest(
    model: nn.Module, features: Sequence[Float32], window_frames: int, limit: int | None = None
) -> tuple[Sequence[Float32], Ints]:
    """The recordings of which the model, with their own statistics, is surest, as many of every class."""
    own = copy.deepcopy(model)
    _take_statistics(own, features, window_frames)
    logits = score_recordings(own, features, window_frames=window_frames)
    shares = torch.from_numpy(logits).softmax(dim=1).numpy()
    n_each = max(1, int(KEPT_SHARE * min(len(shares), limit or len(shares)) / shares.shape[1]))
    chosen, pseudo = surest_of_each_class(shares, n_each)
    return [features[i] for i in chosen], pseudo


def _train(
    model: nn.Module,
    sources: Sources,
    target: Sequence[Float32],
    names: tuple[str, ...],
    config: TrainConfig,
    window_frames: int,
    seed: int,
    state_path: Path | None,
    on_epoch: Callable[[Record], None],
) -> list[Record]:
    batches = DomainBatches(
        sources.features,
        sources.labels,
        sources.sites,
        target,
        window_frames=window_frames,
        config=config,
        seed=seed,
        augmented=sources.noisy,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        terms = [
            _term(name, model, sources, len(batches) * config.epochs) for name in names if name in OBJECTIVES
        ]
    return fit(
        model,
        Adaptation(terms, config.loss),
        batches,
        config,
        steps_per_epoch=len(batches),
        seed=seed,
        state_path=state_path,
        on_epoch=on_epoch,
    )


def _term(name: str, model: nn.Module, sources: Sources, total_steps: int) -> nn.Module:
    if name != "dann":
        return OBJECTIVES[name]()
    return OBJECTIVES[name](
        feature_dim=int(model.feature_dim),  # type: ignore[arg-type]
        n_sources=int(sources.sites.max()) + 1,
        total_steps=total_steps,
    )


def _end(model: nn.Module, name: str, sources: Sources, target: Target, window_frames: int) -> None:
    if name == "tent":
        for _ in tent(model, _windows(target.features, window_frames)):
            pass
        return
    encoder = Encoder(model)
    at_source, at_target = (
        score_recordings(encoder, features, window_frames=window_frames)
        for features in (sources.features, target.features)
    )
    move_head(model, *gaussian_map(at_source, at_target, diagonal=name == "standardise"))


def _windows(features: Sequence[Float32], window_frames: int) -> list[Tensor]:
    """The middle window of every recording, in batches of nearly one size."""
    windows = middle_windows(features, window_frames)
    n = max(1, min(len(windows) // LEAST_BATCH, -(-len(windows) // EVALUATION_BATCH)))
    return [torch.from_numpy(batch) for batch in in_batches(windows, n)]


def _used(method: str, target: Target) -> str:
    regime = regime_of(method)
    heard = f"{len(target.features)} recordings of the target without labels"
    return {
        "nothing": "nothing of the target",
        "noise": "background noise of the target",
        "unlabelled": heard,
        "labels": f"{heard}, and labels of {len(target.labels)} of its recordings",
    }[regime]
