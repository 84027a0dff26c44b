"""Make a trained model small: tensor trains layer by layer, ranks under a budget, and the rivals to beat.

Conventions
    layer        a module of a kind in TENSORIZED, under its qualified name in the model (``convs.0``)
    parameters   numbers in ``model.parameters()``, biases among them, shared ones once
    plan         what ``tensorize`` did, as JSON: with it a fresh dense model becomes one that a file's
                 tensors fit
    packed       tensors as they are stored: ``NAME``, or parts of it as ``NAME::part``

Nothing here changes the model it is given. The rivals are magnitude pruning (``prune``), matrices of low rank
(``tensorize(…, factoring="low_rank")``) and fewer bits a number (``pack``); all of them combine.
"""

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vagitus.tensor_train.layers import TTConv1d, TTConv2d, TTEmbedding, TTLinear, TTMultiheadAttention
from vagitus.tensor_train.matrix import TTMatrix
from vagitus.tensor_train.recurrent import TTGRU, TTLSTM
from vagitus.tensor_train.shape import Factoring, Layout, Ranks, by_matrix

TENSORIZED: dict[type[nn.Module], Any] = {
    nn.Linear: TTLinear,
    nn.Conv1d: TTConv1d,
    nn.Conv2d: TTConv2d,
    nn.Embedding: TTEmbedding,
    nn.LSTM: TTLSTM,
    nn.GRU: TTGRU,
    nn.MultiheadAttention: TTMultiheadAttention,
}
# Their weights are blocks of rows that may share cores.
WITH_LAYOUT = (nn.LSTM, nn.GRU, nn.MultiheadAttention)

# What one more tensor costs in the header of a safetensors file: its name, dtype, shape and offsets as JSON.
ENTRY_BYTES = 80

# A TT has two or three tensors more than the weight it replaces. Below 256 numbers, 1 kB of float32, that
# header eats a good part of what the cores save.
MIN_WEIGHTS = 256

RankSpec = Ranks | Mapping[str, Ranks]
Bits = Literal[32, 16, 8]


# tensor trains


@dataclass(frozen=True)
class LayerPlan:
    """How one layer was factored; everything that fixes the shapes of its cores.

    Attributes:
        n_cores, factoring, layout: as the layer's constructor takes them.
        ranks: of each of its matrices, by name (``weight``; ``weight_ih_l0`` …; ``in_proj``, ``out_proj``).
    """

    n_cores: int
    factoring: Factoring
    layout: Layout
    ranks: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """What ``tensorize`` replaced, and why it left the rest.

    Attributes:
        layers: the replaced ones, by qualified name.
        left_dense: the reason, in words, for every other layer of a kind in TENSORIZED.
    """

    layers: Mapping[str, LayerPlan]
    left_dense: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it; ``from_json`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        """Read what ``to_json`` gave, from a file too, where tuples have become lists.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        try:
            layers = {}
            for name, fields in value["layers"].items():
                ranks = {matrix: tuple(map(int, own)) for matrix, own in fields["ranks"].items()}
                layers[name] = LayerPlan(**{**fields, "n_cores": int(fields["n_cores"]), "ranks": ranks})
            return cls(layers, dict(value["left_dense"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a plan as Plan.to_json writes it: {error!r}") from error


def eligible(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that can be tensorized, by qualified name.

    nn.Linear, Conv1d, Conv2d, Embedding, LSTM, GRU and MultiheadAttention (its four projections as two
    matrices) of MIN_WEIGHTS weights or more. Not eligible are
        a subclass of these             it may do something else with its weight
        a depthwise convolution         one input channel a group: its kernels are no matrix of channels
        an LSTM or GRU with proj_size   its output is projected once more, and the TT layers have no such weight
        attention with kdim or vdim     query, key and value are three weights of different sizes there
        an embedding with max_norm      it rewrites its rows as they are looked up
        a weight that two layers share  tensorized they would come apart
    """
    return {name: layer for name, layer, reason in _layers(model) if not reason}


def tensorize(
    model: nn.Module,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    ranks: Mapping[str, RankSpec | None] | None = None,
    n_cores: int = 3,
    factoring: Factoring = "balanced",
    layout: Layout = "joint",
    skip: Collection[str] = (),
) -> tuple[nn.Module, Plan]:
    """A copy of the model whose layers are tensor trains, by TT-SVD of their weights, and the plan of it.

    Exactly one of ``rank``, ``tolerance`` and ``ranks`` says how much to keep. A layer that would have as many
    parameters as before, or more, stays dense; the plan says so. Biases (of an LSTM, the sum of torch's two) and
    everything else in the model are copied; a layer used in two places is one layer in the copy too. A frozen
    layer stays frozen.

    Args:
        model: any module; unchanged.
        rank: of every bond, clamped to what a bond can use.
        tolerance: relative Frobenius error of every matrix, in [0, 1).
        ranks: by layer: one number, or the ranks of all bonds, or those by matrix as in ``LayerPlan``, or None
            to leave it dense. Layers that are not named stay dense.
        n_cores: cores of a TT; a kernel and, in two of the layouts, the gates have one more. 2 for ``low_rank``.
        factoring: how sizes are factored, see ``tt_shape``.
        layout: how the gates of LSTM and GRU, and query, key and value of attention, share cores.
        skip: qualified names that stay dense, with all that is in them.

    Raises:
        ValueError: none or several of rank, tolerance and ranks; a name that the model does not have, or a
            layer that cannot be tensorized, in ``ranks``; rank or tolerance out of range; nothing to tensorize.
    """
    given = {"rank": rank, "tolerance": tolerance, "ranks": ranks}
    if sum(value is not None for value in given.values()) != 1:
        got = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"give exactly one of rank, tolerance and ranks, got {got}")
    _check_skip(model, skip)
    layers = list(_layers(model))
    if ranks is not None:
        _check_ranks(ranks, layers, skip)
    n_cores = 2 if factoring == "low_rank" else n_cores
    replaced: dict[nn.Module, nn.Module] = {}
    planned: dict[str, LayerPlan] = {}
    left_dense: dict[str, str] = {}
    for name, layer, reason in layers:
        own_rank = rank if ranks is None else ranks.get(name)
        if reason:
            left_dense[name] = reason
        elif _is_under(name, skip):
            left_dense[name] = "skipped"
        elif own_rank is None and tolerance is None:
            left_dense[name] = "no rank given"
        else:
            tt = _decomposed(name, layer, own_rank, tolerance, n_cores, factoring, layout)
            n_dense, n_tt = count_parameters(layer), count_parameters(tt)
            if n_tt >= n_dense:
                left_dense[name] = f"{n_tt} parameters at ranks {_ranks(tt)}, {n_dense} dense"
            else:
                replaced[layer] = tt
                planned[name] = LayerPlan(n_cores, factoring, layout, _ranks(tt))
    if not replaced:
        why = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in left_dense.items())
        raise ValueError(
            f"nothing to tensorize in {type(model).__name__}: {why or 'it has no layer of a kind that can be'}"
        )
    return _with_replaced(model, replaced), Plan(planned, left_dense)


def retensorize(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a dense model with the plan's layers replaced by fresh cores of the same shapes.

    ``load_state_dict`` then takes the tensors of the model that the plan was made for.

    Raises:
        ValueError: the plan names a layer that this model does not have, or matrices or ranks that it cannot have.
    """
    known = {name: layer for name, layer, _ in _layers(model)}
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer_plan in plan.layers.items():
        if name not in known:
            has = ", ".join(map(repr, known)) or "no layer of a kind that can be tensorized"
            raise ValueError(f"the plan names {name!r}, which this model does not have; it has {has}")
        try:
            layer = _fresh(known[name], layer_plan.n_cores, layer_plan.factoring, layer_plan.layout)
            matrices = _matrices(layer)
            if set(matrices) != set(layer_plan.ranks):
                raise ValueError(f"its matrices are {', '.join(matrices)}, not {', '.join(layer_plan.ranks)}")
            for matrix_name, matrix in matrices.items():
                matrix.resize(layer_plan.ranks[matrix_name])
        except ValueError as error:
            raise ValueError(f"the plan does not fit {name!r}: {error}") from error
        replaced[known[name]] = layer
    return _with_replaced(model, replaced)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, layer, and why it has to stay dense ("" where it has not), in the model's order."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name, module in model.named_modules():
        if type(module) in TENSORIZED:
            yield name, module, _why_dense(module, owners)


def _why_dense(layer: nn.Module, owners: Counter[int]) -> str:
    if any(owners[id(p)] > 1 for p in layer.parameters()):
        return "its weight is shared with another layer"
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == layer.in_channels > 1:
        return "depthwise convolution"
    if isinstance(layer, nn.LSTM | nn.GRU) and layer.proj_size:
        return f"projections (proj_size={layer.proj_size})"
    if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is None:
        return f"keys and values of other sizes (kdim={layer.kdim}, vdim={layer.vdim})"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return f"it renormalises its rows (max_norm={layer.max_norm})"
    n_weights = sum(weight.numel() for weight in _weights(layer).values())
    return f"{n_weights} weights, below {MIN_WEIGHTS}" if n_weights < MIN_WEIGHTS else ""


def _weights(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices and kernels of a dense layer, without its biases, under their names in it."""
    return {name: p for name, p in layer.named_parameters() if "weight" in name}


def _matrices(layer: nn.Module) -> dict[str, TTMatrix]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, TTMatrix)}


def _ranks(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: matrix.ranks for name, matrix in _matrices(layer).items()}


def _fresh(layer: nn.Module, n_cores: int, factoring: Factoring, layout: Layout) -> nn.Module:
    tt: nn.Module = TENSORIZED[type(layer)].like(
        layer, **_options(layer, n_cores=n_cores, factoring=factoring, layout=layout)
    )
    return tt.requires_grad_(any(p.requires_grad for p in layer.parameters()))


def _decomposed(
    name: str,
    layer: nn.Module,
    rank: RankSpec | None,
    tolerance: float | None,
    n_cores: int,
    factoring: Factoring,
    layout: Layout,
) -> nn.Module:
    options = _options(layer, n_cores=n_cores, factoring=factoring, layout=layout)
    try:
        if not isinstance(layer, WITH_LAYOUT):
            rank = by_matrix(rank, ["weight"])["weight"]
        tt: nn.Module = TENSORIZED[type(layer)].from_dense(layer, rank=rank, tolerance=tolerance, **options)
    except ValueError as error:
        raise ValueError(f"{name or type(layer).__name__}: {error}") from error
    return tt.requires_grad_(any(p.requires_grad for p in layer.parameters()))


def _options(layer: nn.Module, **options: Any) -> dict[str, Any]:
    if not isinstance(layer, WITH_LAYOUT):
        del options["layout"]
    return options


def _with_replaced(model: nn.Module, replaced: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A deep copy in which some modules are others, wherever the model refers to them."""
    copied = copy.deepcopy(model, {id(old): new for old, new in replaced.items()})
    for module in copied.modules():
        if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder) or not _matrices(
            module
        ):
            continue
        # In evaluation torch's encoder reads the weights of its parts itself, for a fused kernel. A TT layer has
        # none to read; these switches of torch's own make it call the parts.
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        else:
            module.activation_relu_or_gelu = 0
    return copied


def _check_skip(model: nn.Module, skip: Collection[str]) -> None:
    known = dict(model.named_modules())
    unknown = [name for name in skip if name not in known]
    if unknown:
        raise ValueError(
            f"skip names {', '.join(map(repr, unknown))}, which this model does not have; "
            f"its layers are {', '.join(name for name, _, _ in _layers(model)) or 'none'}"
        )


def _check_ranks(
    ranks: Mapping[str, Any], layers: Sequence[tuple[str, nn.Module, str]], skip: Collection[str]
) -> None:
    reasons = {name: reason for name, _, reason in layers}
    unknown = [name for name in ranks if name not in reasons]
    if unknown:
        known = [name for name, reason in reasons.items() if not reason]
        raise ValueError(
            f"ranks name {', '.join(map(repr, unknown))}, which cannot be tensorized in this model; "
            f"those that can are {', '.join(known) or 'none'}"
        )
    for name, rank in ranks.items():
        if rank is not None and (reasons[name] or _is_under(name, skip)):
            raise ValueError(f"ranks give {rank} for {name!r}, but: {reasons[name] or 'it is in skip'}")


def _is_under(name: str, tops: Collection[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


# ranks under a budget


@dataclass(frozen=True)
class RankSearch:
    """What ``search_ranks`` found.

    Attributes:
        ranks: by layer, as ``tensorize`` takes them; None for a layer that stays dense.
        n_parameters: of the whole model with these ranks, at most the budget.
        loss: measured with these ranks.
        predicted_loss: the dense loss plus every layer's own increase. Where it is far from ``loss``, the errors
            of the layers do not simply add up, and a combination found by adding them deserves doubt.
        dense_loss: measured without any change.
        alone: by layer and rank, the loss measured with that layer alone at that rank. A rank at which the layer
            would not be smaller, or the same as at a lower one, is not there.
        n_measurements: how often ``measure`` was called.
    """

    ranks: dict[str, int | None]
    n_parameters: int
    loss: float
    predicted_loss: float
    dense_loss: float
    alone: dict[str, dict[int, float]]
    n_measurements: int


def search_ranks(
    model: nn.Module,
    measure: Callable[[nn.Module], float],
    *,
    max_parameters: int,
    candidates: Collection[int] = (1, 2, 4, 8, 16),
    n_cores: int = 3,
    factoring: Factoring = "balanced",
    layout: Layout = "joint",
    skip: Collection[str] = (),
) -> RankSearch:
    """Choose a rank for every layer, or none, so that the model keeps to a budget and loses least.

    Every layer is tensorized alone at every candidate and the loss measured: its increase over the dense model
    is what that choice costs. Of all combinations within the budget, that with the least sum of increases is
    found exactly (see ``best_combination``; the fewer parameters win where sums are equal), then measured.
    That increases add up is an approximation, the first term of an expansion; ``loss`` against
    ``predicted_loss`` says how good it was. ``measure`` is called at most 2 + layers · candidates times.

    Args:
        model: unchanged; ``measure`` receives copies in its mode (evaluation or training).
        measure: loss of a model, lower is better, finite: 1 - AUROC on a development fold, say. It chooses
            ranks, so what it looks at is no test set.
        max_parameters: of the whole model, biases and all that stays dense included.
        candidates: ranks to try, each for all bonds of a layer.
        n_cores, factoring, layout, skip: as ``tensorize``.

    Raises:
        ValueError: the budget is below the least possible (the message says it); no candidate, or one below 1;
            nothing eligible; ``measure`` gives NaN or infinity; as ``tensorize``.
    """
    if not candidates or min(candidates) < 1:
        raise ValueError(f"candidates must be ranks of 1 or more, got {tuple(candidates)}")
    _check_skip(model, skip)
    layers = {name: layer for name, layer in eligible(model).items() if not _is_under(name, skip)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer to search a rank for; see eligible()")
    n_cores = 2 if factoring == "low_rank" else n_cores
    options: dict[str, dict[int | None, nn.Module]] = {}
    costs: dict[str, list[int]] = {}
    for name, layer in layers.items():
        options[name], costs[name] = {None: layer}, [count_parameters(layer)]
        for rank in sorted(set(candidates)):
            tt = _decomposed(name, layer, rank, None, n_cores, factoring, layout)
            n = count_parameters(tt)
            if n < costs[name][0] and n not in costs[name]:
                options[name][rank] = tt
                costs[name].append(n)
    n_fixed = count_parameters(model) - sum(own[0] for own in costs.values())
    least = n_fixed + sum(min(own) for own in costs.values())
    if max_parameters < least:
        raise ValueError(
            f"a budget of {max_parameters} parameters cannot be met: {least} is the least with candidates "
            f"{tuple(candidates)}, {n_fixed} of them outside the layers that are tensorized"
        )

    def measured(ranks: Mapping[str, int | None]) -> float:
        replaced = {layers[name]: copy.deepcopy(options[name][rank]) for name, rank in ranks.items()}
        loss = float(measure(_with_replaced(model, replaced)))
        if not math.isfinite(loss):
            raise ValueError(f"measure gave {loss} at ranks {dict(ranks)}; a loss must be finite")
        return loss

    dense_loss = measured({})
    alone = {
        name: {rank: measured({name: rank}) for rank in own if rank is not None}
        for name, own in options.items()
    }
    losses = [
        [0.0 if rank is None else alone[name][rank] - dense_loss for rank in own]
        for name, own in options.items()
    ]
    chosen = best_combination(list(costs.values()), losses, max_parameters - n_fixed)
    ranks = {name: list(own)[index] for (name, own), index in zip(options.items(), chosen, strict=True)}
    n_alone = sum(map(len, alone.values()))
    changed = any(rank is not None for rank in ranks.values())
    return RankSearch(
        ranks=ranks,
        n_parameters=n_fixed + sum(own[k] for own, k in zip(costs.values(), chosen, strict=True)),
        loss=measured(ranks) if changed else dense_loss,
        predicted_loss=dense_loss + sum(own[k] for own, k in zip(losses, chosen, strict=True)),
        dense_loss=dense_loss,
        alone=alone,
        n_measurements=1 + n_alone + changed,
    )


def best_combination(
    costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int
) -> list[int]:
    """One option for each item, so that the sum of costs keeps to the budget and the sum of losses is least.

    Exact: items are joined one by one, and of all partial choices only those are kept that no other beats in
    cost and loss at once and that the cheapest rest can still complete. Of equal losses the cheapest wins.

    Args:
        costs, losses: of every option of every item.
        budget: the most that the chosen costs may sum to.

    Returns:
        The chosen option of every item.

    Raises:
        ValueError: the cheapest options already exceed the budget.
    """
    cheapest = [min(own) for own in costs]
    if sum(cheapest) > budget:
        raise ValueError(f"the cheapest options cost {sum(cheapest)}, more than the budget {budget}")
    left = list(accumulate(reversed(cheapest[1:]), initial=0))[::-1]  # what the later items cost at least
    cost, loss = np.zeros(1, np.int64), np.zeros(1)
    kept_at: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for own_costs, own_losses, rest in zip(costs, losses, left, strict=True):
        all_costs = np.add.outer(cost, np.asarray(own_costs, np.int64)).ravel()
        all_losses = np.add.outer(loss, np.asarray(own_losses, np.float64)).ravel()
        order = np.lexsort((all_losses, all_costs))
        order = order[all_costs[order] + rest <= budget]
        least_so_far = np.minimum.accumulate(all_losses[order])
        better = np.concatenate(([True], least_so_far[1:] < least_so_far[:-1]))
        kept = order[better]
        kept_at.append(kept)
        cost, loss = all_costs[kept], all_losses[kept]
    at, chosen = len(loss) - 1, []  # losses fall as costs rise, so the last is the least
    for kept, own_costs in zip(reversed(kept_at), reversed(costs), strict=True):
        at, option = divmod(int(kept[at]), len(own_costs))
        chosen.append(option)
    return chosen[::-1]


# counts


class LayerCount(NamedTuple):
    """Parameters of one layer before and after; ``dense`` and ``compressed`` include the biases.

    ``compressed - cores - bias`` is what is left of dense weights. An LSTM's bias halves: torch keeps two
    vectors of which only the sum matters.
    """

    name: str
    kind: str
    dense: int
    dense_bias: int
    compressed: int
    cores: int
    bias: int


def count_parameters(model: nn.Module) -> int:
    """All parameters, frozen ones too, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def layer_counts(model: nn.Module, compressed: nn.Module) -> list[LayerCount]:
    """A row for every module with parameters of its own, dense against compressed.

    The rows of ``dense`` sum to ``count_parameters(model)``, those of ``compressed`` likewise.

    Raises:
        ValueError: ``compressed`` lacks a module of ``model``, so that it was made of another one.
    """
    others = dict(compressed.named_modules())
    rows: list[LayerCount] = []
    counted: tuple[set[int], set[int]] = (set(), set())
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        is_layer = type(module) in TENSORIZED
        if is_layer:
            inside.update(module.modules())
        if name not in others:
            raise ValueError(f"the compressed model has no {name!r}; it was made of another model")
        n_dense, n_dense_bias, _ = _counted(module, counted[0], recurse=is_layer)
        n, n_bias, n_cores = _counted(others[name], counted[1], recurse=is_layer)
        if n_dense or n:
            rows.append(LayerCount(name, type(module).__name__, n_dense, n_dense_bias, n, n_cores, n_bias))
    return rows


def _counted(module: nn.Module, counted: set[int], *, recurse: bool) -> tuple[int, int, int]:
    """Parameters that were not counted before, those of them in biases, and those in cores."""
    total = bias = cores = 0
    for name, p in module.named_parameters(recurse=recurse):
        if id(p) not in counted:
            counted.add(id(p))
            total += p.numel()
            bias += p.numel() if "bias" in name else 0
            cores += p.numel() if CORE_NAME.search(name) else 0
    return total, bias, cores


# pruning


def prune(
    model: nn.Module, share: float, *, skip: Collection[str] = ()
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the model with the least weights set to zero, and the masks of those that stay.

    Pruned are the weights of the layers that ``tensorize`` takes, biases never. One threshold holds for all of
    them, on each weight's magnitude against those of its own tensor that are no smaller:

        score(w) = w² / Σ_{v ≥ w} v²

    so that layers of different scales can be compared and none is emptied: the largest weight of each scores 1.
    A threshold on |w| itself would empty the layers of small weights first, one share for all layers would take
    as much from those that have nothing to spare; this is the stronger rival.

    The zeros stay zero while the copy is trained, see ``keep_zeros``.

    Args:
        model: unchanged.
        share: of the weights of these layers, in [0, 1); round(share · n) become zero.
        skip: qualified names that are left alone, with all that is in them.

    Returns:
        The copy, and by parameter name a mask (bool, as the weight) that is True where a weight stays.

    Raises:
        ValueError: share outside [0, 1), nothing to prune, a name in ``skip`` that the model does not have.

    Source: Lee et al. 2021, arXiv:2010.07611, equation 4 (the LAMP score).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is the part of the weights to prune, in [0, 1), got {share!r}")
    _check_skip(model, skip)
    pruned = copy.deepcopy(model)
    weights = {
        f"{name}.{own}" if name else own: weight
        for name, layer in eligible(pruned).items()
        if not _is_under(name, skip)
        for own, weight in _weights(layer).items()
    }
    if not weights:
        raise ValueError(f"{type(model).__name__} has no layer to prune; see eligible()")
    scores = torch.cat([_lamp_scores(weight) for weight in weights.values()])
    stays = torch.ones(len(scores), dtype=torch.bool)
    stays[scores.argsort(stable=True)[: round(share * len(scores))]] = False
    parts = stays.split([weight.numel() for weight in weights.values()])  # type: ignore[no-untyped-call]
    masks = {
        name: part.view(weight.shape).to(weight.device)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    keep_zeros(pruned, masks)
    return pruned, masks


def keep_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Keep masked weights where they are during training, in place: their gradients become zero.

    A weight of zero whose gradient is always zero stays zero under any optimizer that moves a weight by its own
    gradient and size alone (SGD, with momentum and weight decay too, Adam, AdamW), so the training loop need
    not know, and parameters and state dict stay plain tensors. The hooks hang on the parameters of this model:
    a deep copy, another process, or weights unfrozen later (a frozen one has no gradient to hook) need another
    call; for a model from a file, the masks are where its weights are not zero.

    Raises:
        ValueError: a mask names no parameter of the model or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            got = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            raise ValueError(f"the mask {name!r} is {tuple(mask.shape)}, the model has {got}")
        if parameters[name].requires_grad:
            parameters[name].register_hook(partial(_masked, mask))  # type: ignore[no-untyped-call]


def _masked(mask: Tensor, gradient: Tensor) -> Tensor:
    return gradient * mask.to(gradient)


def _lamp_scores(weight: Tensor) -> Tensor:
    squares, order = weight.detach().cpu().double().flatten().square().sort(stable=True)
    no_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / no_smaller.clamp_min(torch.finfo(torch.float64).tiny)
    return scores


# storage

CORE_NAME = re.compile(r"(^|\.)cores\.\d+$")
PARTS = ({""}, {"", "scale"}, {"values", "mask", "shape"}, {"values", "mask", "shape", "scale"})


def pack(tensors: Mapping[str, Tensor], *, bits: Bits = 32, sparse: bool = False) -> dict[str, Tensor]:
    """A state dict as it is stored, with fewer bits a number or without the zeros; ``unpack`` undoes it.

    bits 16: half precision, relative error at most 2⁻¹¹ (absolute 2⁻²⁵ below 2⁻¹⁴). bits 8: int8 with a scale
    for every row,

        q = round(w / scale),    scale = max |row| / 127,    |w - q · scale| ≤ scale / 2

    A row is an output (first axis) of a weight: rows differ in size, and a common scale would leave the small
    ones few levels. Of a TT core it is an index of its longer bond, the first of equals: that is where the
    singular values stand, and the first core's first axis is 1 anyway.

    Only floating tensors of two axes or more lose precision. Biases and batch-norm statistics stay float32
    (they are few, and what they are added to is what suffers), so do values that half precision cannot hold,
    and tensors for which int8 and its scales would take no fewer bytes. Integers stay what they are.

    sparse: values that are not zero, and one bit a number that says where; only where that takes fewer bytes.

    Args:
        tensors: by name, of any device.
        bits: 32, 16 or 8.
        sparse: see above.

    Returns:
        By name on the CPU: ``NAME``; for int8 ``NAME::scale`` (broadcasts against the tensor) too; if sparse,
        ``NAME::values``, ``NAME::mask`` (bits, the first in the lowest) and ``NAME::shape`` instead of ``NAME``.

    Raises:
        ValueError: bits are not 32, 16 or 8; a name has ``::`` in it; int8 of a value that is not finite.
    """
    if bits not in get_args(Bits):
        raise ValueError(f"bits must be 32, 16 or 8, got {bits!r}")
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "::" in name:
            raise ValueError(f"{name!r}: '::' parts a packed name; is this state dict packed already?")
        values = tensor.detach().cpu().contiguous()
        if not values.is_floating_point() or not values.numel():
            packed[name] = values
            continue
        values = values.float()
        if bits == 16 and values.ndim > 1 and values.abs().amax() <= torch.finfo(torch.half).max:
            values = values.half()
        elif bits == 8 and values.ndim > 1:
            scale = _row_scale(name, values)
            if values.numel() + 4 * scale.numel() + ENTRY_BYTES < 4 * values.numel():
                levels = (values / torch.where(scale > 0, scale, 1)).round()
                values = levels.clamp(-127, 127).to(torch.int8)  # a scale below 1e-38 may be rounded down
                packed[f"{name}::scale"] = scale
        packed |= _sparse(name, values) if sparse and _is_sparse(values) else {name: values}
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that ``pack`` stored: floating tensors as float32, integers as they were.

    Raises:
        ValueError: parts of a tensor are missing, or are not those that ``pack`` writes.
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in packed.items():
        name, _, part = full_name.partition("::")
        grouped.setdefault(name, {})[part] = tensor
    tensors: dict[str, Tensor] = {}
    for name, parts in grouped.items():
        if set(parts) not in PARTS:
            raise ValueError(f"{name!r} has the parts {sorted(parts)}; pack() writes {PARTS}")
        values = parts[""] if "" in parts else _dense(parts["values"], parts["mask"], parts["shape"])
        values = values.float() if values.is_floating_point() or "scale" in parts else values
        tensors[name] = values * parts["scale"] if "scale" in parts else values
    return tensors


def packed_bytes(packed: Mapping[str, Tensor]) -> int:
    """Bytes of the numbers, as a safetensors file holds them behind its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in packed.values())


def _row_scale(name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name!r} holds NaN or infinity, which int8 cannot; use 32 bits to look at it")
    axis = 3 if CORE_NAME.search(name) and values.ndim == 4 and values.shape[3] > values.shape[0] else 0
    others = [k for k in range(values.ndim) if k != axis]
    return values.abs().amax(others, keepdim=True) / 127


def _is_sparse(values: Tensor) -> bool:
    n, n_values, width = values.numel(), int(values.count_nonzero()), values.element_size()
    return n_values * width + math.ceil(n / 8) + 8 * values.ndim + 2 * ENTRY_BYTES < n * width


def _sparse(name: str, values: Tensor) -> dict[str, Tensor]:
    mask = values != 0
    bits = np.packbits(mask.flatten().numpy(), bitorder="little")
    return {
        f"{name}::values": values[mask],
        f"{name}::mask": torch.from_numpy(bits),
        f"{name}::shape": torch.tensor(values.shape, dtype=torch.int64),
    }


def _dense(values: Tensor, mask: Tensor, shape: Tensor) -> Tensor:
    size = tuple(shape.tolist())
    bits = np.unpackbits(mask.numpy(), count=math.prod(size), bitorder="little")
    dense = values.new_zeros(size)
    dense[torch.from_numpy(bits).bool().view(size)] = values
    return dense
