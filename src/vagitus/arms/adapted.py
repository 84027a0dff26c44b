"""Arms that go to the site left out with what it can give: the sources' res8, adapted by a method of ``vagitus.adapt``.

They read the sound of ``fold.test`` as their method's regime says, and never its labels. ``adapt:source`` is the
network that all of them begin with; its weights are kept beside the study's jobs, so that another method costs its
own steps alone.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vagitus.adapt import METHODS, control_of, parse_method, regime_of
from vagitus.adapt.adaptation import Sources, Target, adapt_network
from vagitus.adapt.batch_norm import LEAST_WINDOWS
from vagitus.adapt.noise import noise_of_site, noisy_features, quiet_stretches, samples_of
from vagitus.arms.contract import Arm, Budget, Scores
from vagitus.arms.network import MEMBER_SEEDS, member_folds, score_network, train_network, window_length
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.dataset import Dataset
from vagitus.files import content_hash
from vagitus.models import build_model
from vagitus.splits import Fold
from vagitus.tensor_train.compress import count_parameters
from vagitus.training import Record

PREFIX = "adapt:"
SOURCE = "source"
NETWORK = "res8"
# Further steps: half the epochs of the sources' training, at a quarter of its rate.
EPOCH_SHARE, RATE_SHARE = 0.5, 0.25
NOISE_STREAM = 7  # of the random numbers, apart from folds and batches


def adapted_arm(name: str) -> Arm:
    """The arm ``adapt:METHOD`` or ``adapt:source``.

    Raises:
        ValueError: as ``parse_method``; a method that a study cannot measure.
    """
    from functools import partial

    method = name.removeprefix(PREFIX)
    if method == SOURCE:
        return Arm(
            "res8 trained on the sources, nothing of the target", "study", partial(adapted, method=SOURCE)
        )
    names = parse_method(method)
    if "few-labels" in names:
        raise ValueError(
            f"{name}: labelled subjects of the target are no part of what is measured, and a study measures them all; "
            "use `vagitus adapt --method few-labels`"
        )
    if "tent" in names:
        raise ValueError(
            f"{name}: TENT changes the scale and shift of batch norms, of which {NETWORK} has none; take "
            f"{PREFIX}adabn, or `vagitus adapt` on a model such as small"
        )
    title = "; ".join(METHODS[one].title for one in names)
    return Arm(f"{title} (of the target: {regime_of(method)})", "study", partial(adapted, method=method))


def with_controls(methods: Iterable[str]) -> tuple[str, ...]:
    """The arms of a study of these methods: the source, each method, and the control of each, once.

    Raises:
        ValueError: as ``adapted_arm``.
    """
    wanted = dict.fromkeys([SOURCE])
    for method in methods:
        wanted |= dict.fromkeys([control, method] if (control := control_of(method)) else [method])
    arms = tuple(PREFIX + method for method in wanted)
    for arm in arms:
        adapted_arm(arm)
    return arms


def check_targets(arms: Sequence[str], folds: Iterable[Fold]) -> None:
    """Refuse, before the work, what an adapted arm would refuse after it.

    Raises:
        ValueError: a tested site, or what is left without it, with fewer recordings than batch norm needs.
    """
    if not any(arm.startswith(PREFIX) for arm in arms):
        return
    for fold in folds:
        if len(fold.test) < LEAST_WINDOWS:
            raise ValueError(
                f"site {fold.name!r} has {len(fold.test)} recordings, adapting to it needs {LEAST_WINDOWS}; leave the "
                "site out, or the adapted arms"
            )
        if len(fold.train) < LEAST_WINDOWS:
            raise ValueError(
                f"without site {fold.name!r} {len(fold.train)} recordings are left to train on, adapting needs "
                f"{LEAST_WINDOWS}; add recordings"
            )


def adapted(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None, *, method: str) -> Scores:
    """The sources' network adapted to ``fold.test``; dev logits are of its weights with the sources' statistics."""
    dev_index, dev_logits, test_logits = [], [], []
    history: list[Record] = []
    n_parameters, used = 0, "nothing of the target"
    table = dataset.tables["study"]
    window_frames = window_length(dataset, budget)
    further = budget.train.model_copy(
        update={
            "epochs": (epochs := max(1, round(budget.train.epochs * EPOCH_SHARE))),
            "patience": epochs,
            "lr": budget.train.lr * RATE_SHARE,
            "warmup_epochs": 0.5,
        }
    )
    noises: list[NDArray[np.float32]] = []
    if method != SOURCE and "tni" in parse_method(method):
        rate_hz = table.config.sample_rate_hz
        heard = (samples_of(dataset.manifest, int(i), rate_hz) for i in fold.test)
        noises = noise_of_site((quiet_stretches(x, rate_hz) for x in heard), rate_hz)
    for member, part in enumerate(member_folds(dataset, fold, budget)):
        own = budget.model_copy(update={"seed": budget.seed * MEMBER_SEEDS + member})
        model, records = _source(dataset, part, own, state_path, member)
        at_target = at_sources = model
        if method != SOURCE:
            noisy: list[list[NDArray[np.float32]]] = []
            if noises:
                rng = np.random.default_rng([own.seed, NOISE_STREAM])
                noisy = [noisy_features(dataset.manifest, part.train, noises, table.config, rng)]
            found = adapt_network(
                model,
                Sources(
                    table.take(part.train),
                    dataset.labels[part.train],
                    np.unique(dataset.manifest.site[part.train], return_inverse=True)[1].astype(np.int64),
                    noisy,
                ),
                Target(table.take(fold.test)),
                method,
                further,
                window_frames=window_frames,
                seed=own.seed,
                state_path=state_path and state_path.with_name(f"{state_path.name}{member} adapting"),
            )
            at_target, at_sources, used = found.model, found.at_sources, found.used
            records = found.history
        n_parameters = count_parameters(model)
        dev_index.append(part.dev)
        dev_logits.append(score_network(at_sources, dataset, part.dev, own))
        test_logits.append(score_network(at_target, dataset, fold.test, own))
        history += [record | {"member": member} for record in records]
    return Scores(
        dev_index=np.concatenate(dev_index),
        dev_logits=np.concatenate(dev_logits),
        test_logits=np.mean(test_logits, axis=0),
        chosen={"used": used, "members": len(dev_index)},
        history=history,
        n_parameters=n_parameters,
    )


def _source(
    dataset: Dataset, part: Fold, budget: Budget, state_path: Path | None, member: int
) -> tuple[torch.nn.Module, list[Record]]:
    """The network of the sources: trained, or read where another method's job has left it."""
    if state_path is None:
        return train_network(dataset, part, budget, None, model_name=NETWORK)
    table = dataset.tables["study"]
    facts = [budget.model_dump(), part.train.tolist(), part.dev.tolist(), dataset.labels[part.train].tolist()]
    facts += [dataset.labels[part.dev].tolist(), content_hash(table.path), NETWORK]
    identity = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    kept = state_path.parent / f"source-{identity}.safetensors"
    if kept.exists():
        model = build_model(NETWORK, n_mels=table.config.n_rows, n_classes=dataset.n_classes)
        tensors, header = read_tensors(kept)
        model.load_state_dict(tensors)
        return model.eval(), header["history"]
    own_state = state_path.with_name(f"{state_path.name}{member} source")
    model, history = train_network(dataset, part, budget, own_state, model_name=NETWORK)
    write_tensors(kept, dict(model.state_dict()), {"history": history})
    return model, history
