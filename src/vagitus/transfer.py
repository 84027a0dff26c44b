"""From a source model to a target task: what is kept, what is new, what may learn, and how fast.

    source file ─ load_source ─ new_task ─ [freeze_up_to | linear_probe] ─ fit(rates=layer_rates(...))

By default nothing is frozen: the thesis copies every convolution and the batch-norm statistics, draws a new
head and trains it all (arXiv:1906.10199).

Conventions
    layer       a module that holds parameters or buffers and is called by the model's forward, by its
                qualified name; found by running the model once, since registration need not be the order
                in which a sound passes (res8 registers its convolutions before its norms)
    frozen      no parameter of it is trained, and it stays in evaluation mode, even inside a model that
                ``fit`` puts into training mode: its batch norm neither uses nor gathers a batch's
                statistics. A hook before its forward sees to that; it is no part of the weights, so a saved
                and loaded model is free again. Dropout that a model applies between layers (cnn14) goes on.
"""

import copy
import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vagitus.checkpoint import ModelCard, load_model
from vagitus.features import FeatureConfig
from vagitus.models import build_model
from vagitus.models.heads import replace_head

HEAD = "head"


def load_source(path: Path, target: FeatureConfig) -> tuple[nn.Module, ModelCard]:
    """A source model for recordings that are heard through the front end ``target``.

    Args:
        path: a model file.
        target: the front end of the target task. It must be the source's in every field, the
            normalisation too: filters learned on one input mean nothing on another.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a model, compressed, or another front end; names each field that differs.
    """
    model, card = load_model(path)
    if card.compression:
        raise ValueError(f"{path}: is compressed; transfer from the model that it was made from")
    theirs, ours = card.features.model_dump(), target.model_dump()
    differing = [
        f"{name} {theirs[name]!r} (target {ours[name]!r})" for name in ours if theirs[name] != ours[name]
    ]
    if differing:
        raise ValueError(
            f"{path}: was trained on another front end: {', '.join(differing)}; give the target this front "
            "end, or pretrain with the target's"
        )
    return model, card


def new_task(model: nn.Module, n_classes: int, *, seed: int) -> nn.Module:
    """A copy with a new, randomly initialised head; weights and batch-norm statistics are kept.

    Args:
        model: unchanged, so that one source serves many folds.
        seed: of the head.

    Raises:
        ValueError: fewer than two classes.
    """
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        replace_head(model, n_classes)
    return model


def layers(model: nn.Module, n_mels: int) -> tuple[str, ...]:
    """Names of the layers, in the order in which a sound passes them; the head is last.

    Args:
        n_mels: rows of the model's input.
    """
    called: dict[str, None] = {}

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: called.setdefault(name)

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if name and _holds_tensors(module)
    ]
    modes = {module: module.training for module in model.modules()}
    reference = next(model.parameters())
    least_frames = int(getattr(model, "least_frames"))  # noqa: B009 (nn.Module does not declare it)
    try:
        # In evaluation mode: this pass must not count in a batch norm's statistics.
        with torch.no_grad():
            model.eval()(reference.new_zeros(1, n_mels, least_frames))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return tuple(called)


def freeze_up_to(model: nn.Module, layer: str, *, n_mels: int) -> None:
    """Freeze every layer up to and with ``layer``, in place.

    What the model holds itself, outside any layer (a transformer's positions), is frozen too: it enters
    near the input.

    Args:
        layer: the qualified name of a layer, or of a part that holds layers ("blocks.1"), then up to its last.
        n_mels: rows of the model's input.

    Raises:
        ValueError: no such layer (the message lists the known ones), or the head, which would leave nothing
            to train.
    """
    order = layers(model, n_mels)
    within = [i for i, name in enumerate(order) if name == layer or name.startswith(f"{layer}.")]
    if not within:
        nearest = difflib.get_close_matches(layer, order, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"no layer {layer!r}; {hint}in forward order: {', '.join(order)}")
    frozen = set(order[: max(within) + 1])
    if HEAD in frozen:
        raise ValueError(f"freezing up to {layer!r} leaves nothing to train; stop before the head")
    for name, module in model.named_modules():
        if name and _owner(name, order) in frozen:
            _freeze(module)
    for parameter in model.parameters(recurse=False):
        parameter.requires_grad_(False)


def linear_probe(model: nn.Module) -> None:
    """Freeze everything but the head, in place: how good are the features as they are?"""
    for name, child in model.named_children():
        if name != HEAD:
            for module in child.modules():
                _freeze(module)
    for parameter in model.parameters(recurse=False):
        parameter.requires_grad_(False)


def layer_rates(model: nn.Module, decay: float, *, n_mels: int) -> dict[str, float]:
    """Learning-rate scales for ``fit``: the head's is 1, each layer's below ``decay`` times that of the next.

        scale of the k-th layer from the end = decay^k,  k = 0 for the head

    Layers without parameters do not count. What the model holds itself goes with the first layer.

    Args:
        decay: in (0, 1]; 1 treats all alike. Howard and Ruder divide by 2.6 a layer.
        n_mels: rows of the model's input.

    Returns:
        Parameter name → scale, for every parameter.

    Raises:
        ValueError: ``decay`` lies outside (0, 1].

    Source: Howard & Ruder 2018, "Universal language model fine-tuning", arXiv:1801.06146, section 3.2.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie in (0, 1], got {decay!r}")
    order = layers(model, n_mels)
    owners = {name: _owner(name, order) for name, _ in model.named_parameters()}
    counted = [name for name in order if name in owners.values()]
    depth = {name: len(counted) - 1 - i for i, name in enumerate(counted)}
    return {name: decay ** depth.get(owner, len(counted) - 1) for name, owner in owners.items()}


def random_frozen(card: ModelCard, n_classes: int, batches: Iterable[Tensor], *, seed: int) -> nn.Module:
    """The control that a transfer must beat: the source's network with random filters, all but the head frozen.

    Its batch norms get the statistics of the given batches, the mean over them, so that what it lacks is
    learned filters and not a sensible scale. A convolution of random filters is a fair classifier by itself.

    Args:
        card: the source model's: which network, with which options.
        batches: (batch, n_mels, n_frames) each, of target training recordings; labels play no part.
        seed: of filters and head.

    Raises:
        ValueError: fewer than two classes, or no batch.

    Source: Saxe et al. 2011, "On random weights and unsupervised feature learning", ICML.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(card.model, **card.options)
        replace_head(model, n_classes)
    estimate_norms(model, batches)
    linear_probe(model)
    return model


def estimate_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace every batch norm's statistics by the mean of those of the given batches, in place.

    Raises:
        ValueError: there is no batch.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    n_batches = 0
    model.eval()
    for norm in norms:  # the batch norms alone: dropout would change what they see
        norm.train()
    with torch.no_grad():
        for x in batches:
            model(x)
            n_batches += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    if n_batches == 0:
        raise ValueError("there is no batch to estimate the statistics on; give at least one")


def _holds_tensors(module: nn.Module) -> bool:
    own = (module.parameters(recurse=False), module.buffers(recurse=False))
    return any(next(tensors, None) is not None for tensors in own)


def _owner(name: str, order: tuple[str, ...]) -> str:
    """The layer that a module or parameter belongs to: itself or the nearest above; "" for the model itself."""
    while name and name not in order:
        name = name.rpartition(".")[0]
    return name


def _freeze(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)
    if _stay_in_evaluation not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_stay_in_evaluation)


def _stay_in_evaluation(module: nn.Module, inputs: Any) -> None:
    module.training = False  # its own flag alone: what it holds may be free, or has a hook itself
