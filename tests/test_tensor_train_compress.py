import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from vagitus.tensor_train import (
    TTGRU,
    TTLSTM,
    LayerCount,
    Plan,
    TTConv1d,
    TTEmbedding,
    TTLinear,
    TTMultiheadAttention,
    count_parameters,
    eligible,
    keep_zeros,
    layer_counts,
    pack,
    packed_bytes,
    prune,
    retensorize,
    search_ranks,
    tensorize,
    unpack,
)
from vagitus.tensor_train.compress import MIN_WEIGHTS, best_combination


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Listener(nn.Module):
    """One layer of every kind, and some that have to stay dense."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(40, 12)
        self.widen = nn.Conv1d(12, 24, 3, padding=1)
        self.depthwise = nn.Conv1d(24, 24, 11, padding=5, groups=24)
        self.norm = nn.BatchNorm1d(24)
        self.mix = nn.Conv2d(24, 24, (1, 3), padding=(0, 1), groups=2)
        self.lstm = nn.LSTM(24, 20, batch_first=True)
        self.gru = nn.GRU(20, 18, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(36, 4, batch_first=True)
        self.hidden = nn.Linear(36, 30)
        self.head = nn.Linear(30, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 12, n_frames) -> (batch, 2)."""
        x = x + self.place(torch.arange(x.shape[2])).T
        x = self.norm(self.depthwise(self.widen(x)))
        x = self.mix(x.unsqueeze(2)).squeeze(2).transpose(1, 2)
        x = self.gru(self.lstm(x)[0])[0]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        y: Tensor = self.head(self.hidden(x).relu().mean(1))
        return y


LISTENER_LAYERS = ["place", "widen", "mix", "lstm", "gru", "attention", "hidden"]


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


# what can be tensorized


def test_eligible_are_one_layer_of_every_kind_and_the_plan_says_why_the_rest_is_not() -> None:
    model = Listener()
    assert list(eligible(model)) == LISTENER_LAYERS
    _, plan = tensorize(model, rank=1)
    assert list(plan.layers) == LISTENER_LAYERS
    assert plan.left_dense == {"depthwise": "depthwise convolution", "head": "60 weights, below 256"}


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(40, 12), nn.Linear(12, 40))
    model[1].weight = model[0].weight
    return model


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


@pytest.mark.parametrize(
    "model, reason",
    [
        (nn.LSTM(30, 20, proj_size=8), r"projections \(proj_size=8\)"),
        (nn.MultiheadAttention(32, 2, vdim=20), r"keys and values of other sizes \(kdim=32, vdim=20\)"),
        (nn.Embedding(40, 12, max_norm=1.0), r"renormalises its rows \(max_norm=1.0\)"),
        (tied(), "0: its weight is shared with another layer; 1: its weight is shared"),
        (nn.Linear(15, 17), f"255 weights, below {MIN_WEIGHTS}"),
        (Doubled(30, 30), "nothing to tensorize in Doubled: it has no layer of a kind that can be"),
        (nn.ReLU(), "nothing to tensorize in ReLU: it has no layer of a kind that can be"),
    ],
)
def test_what_cannot_be_tensorized_is_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    assert not eligible(model)
    with pytest.raises(ValueError, match=reason):
        tensorize(model, rank=2)


def test_the_least_eligible_weight_is_256_numbers() -> None:
    assert list(eligible(nn.Linear(16, 16))) == [""]


# tensorizing


def test_tensorize_puts_in_every_place_what_from_dense_gives() -> None:
    model = Listener().eval()
    before = copy.deepcopy(model)
    small, plan = tensorize(model, rank=2, n_cores=2, layout="gate_first")
    by_hand = copy.deepcopy(model)
    kinds: dict[str, Any] = {"place": TTEmbedding, "widen": TTConv1d, "hidden": TTLinear}
    gated: dict[str, Any] = {"lstm": TTLSTM, "gru": TTGRU, "attention": TTMultiheadAttention}
    for name, kind in kinds.items():
        setattr(by_hand, name, kind.from_dense(getattr(model, name), rank=2, n_cores=2))
    for name, kind in gated.items():
        layer = kind.from_dense(getattr(model, name), rank=2, n_cores=2, layout="gate_first")
        setattr(by_hand, name, layer)
    by_hand.mix = type(small.mix).from_dense(model.mix, rank=2, n_cores=2)  # type: ignore[union-attr]
    assert same_tensors(small, by_hand)
    x = torch.randn(3, 12, 25)
    assert torch.equal(small(x), by_hand(x))
    assert same_tensors(model, before) and not any(module.training for module in small.modules())
    assert plan.layers["lstm"].layout == "gate_first" and plan.layers["lstm"].n_cores == 2


def test_tolerance_bounds_the_error_of_every_layer() -> None:
    model = nn.Sequential(nn.Linear(36, 40), nn.Conv1d(40, 30, 3))
    with torch.no_grad():  # singular values that fall, so that there is something to leave out
        for layer in model:
            trained = layer.get_parameter("weight")
            u, s, vt = torch.linalg.svd(trained.flatten(1), full_matrices=False)
            trained.copy_((u * (s * 0.7 ** torch.arange(len(s))) @ vt).view_as(trained))
    small, plan = tensorize(model, tolerance=0.3, factoring="low_rank")
    for name, layer in eligible(model).items():
        weight = layer.get_parameter("weight").flatten(1)
        error = (small.get_submodule(name).weight.dense() - weight).norm()  # type: ignore[operator, union-attr]
        assert error <= 0.3 * weight.norm()
        assert plan.layers[name].n_cores == 2


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 2},
        {"tolerance": 0.8, "n_cores": 2, "layout": "per_gate"},
        {"rank": 3, "factoring": "low_rank", "layout": "gate_last"},
        {"rank": 3, "factoring": "least_flops"},
        {"rank": 2, "factoring": "thesis", "layout": "gate_first"},
        {"ranks": {"lstm": {"weight_ih_l0": 2, "weight_hh_l0": (3, 4)}, "hidden": 5, "gru": None}},
    ],
    ids=str,
)
def test_a_file_of_tensors_and_a_plan_in_json_rebuild_the_model(
    options: dict[str, Any], tmp_path: Path
) -> None:
    small, plan = tensorize(Listener(), **options)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    read = Plan.from_json(json.loads((tmp_path / "plan.json").read_text()))
    assert read == plan
    again = retensorize(Listener(), read)
    again.load_state_dict(load_file(tmp_path / "small.safetensors"))
    x = torch.randn(3, 12, 25)
    assert torch.equal(again.eval()(x), small.eval()(x))
    ranks = {name: layer.ranks for name, layer in plan.layers.items()}
    assert tensorize(Listener(), **{**options, "ranks": ranks, "rank": None, "tolerance": None})[
        1
    ].layers == (plan.layers)


def test_ranks_by_layer_leave_the_others_dense() -> None:
    small, plan = tensorize(Listener(), ranks={"lstm": 2, "hidden": None}, skip=("gru",))
    assert list(plan.layers) == ["lstm"] and isinstance(small.lstm, TTLSTM)
    assert plan.left_dense["hidden"] == plan.left_dense["mix"] == "no rank given"
    assert plan.left_dense["gru"] == "skipped"


def test_skip_takes_what_is_inside_too() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), nn.Linear(20, 20))
    _, plan = tensorize(model, rank=1, skip=("0",))
    assert list(plan.layers) == ["1"] and plan.left_dense == {"0.0": "skipped", "0.1": "skipped"}


def test_a_layer_that_would_not_shrink_stays_dense_and_the_plan_says_so() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(64, 64))
    small, plan = tensorize(model, rank=8, factoring="low_rank")  # 8 · (16 + 16) = 16 · 16
    assert type(small[0]) is nn.Linear and isinstance(small[1], TTLinear)  # type: ignore[index]
    assert plan.left_dense == {"0": "272 parameters at ranks {'weight': (8,)}, 272 dense"}
    with pytest.raises(ValueError, match=r"0: 272 parameters at ranks .*, 272 dense; 1: skipped"):
        tensorize(model, rank=8, factoring="low_rank", skip=("1",))


def test_a_layer_used_twice_is_one_layer_in_the_copy() -> None:
    shared = nn.Linear(20, 20)
    small, plan = tensorize(nn.Sequential(shared, nn.ReLU(), shared), rank=1)
    assert small[0] is small[2] and isinstance(small[0], TTLinear)  # type: ignore[index]
    assert list(plan.layers) == ["0"]


def test_a_frozen_layer_stays_frozen() -> None:
    model = nn.Sequential(nn.Linear(20, 20).requires_grad_(False), nn.Linear(20, 20))
    for changed in (tensorize(model, rank=2)[0], retensorize(model, tensorize(model, rank=2)[1])):
        assert [p.requires_grad for p in changed.parameters()] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("skip", [(), ("layers.0.self_attn", "layers.1.self_attn"), ("layers.0",)], ids=str)
def test_torchs_encoder_runs_its_tensorized_parts_in_evaluation_as_in_training(skip: tuple[str, ...]) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    small, _ = tensorize(nn.TransformerEncoder(layer, 2), rank=3, skip=skip)
    x = torch.randn(2, 6, 32)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    expected = small(x, src_key_padding_mask=padding)
    small.eval()
    with torch.no_grad():  # torch's own fused kernel would run here
        torch.testing.assert_close(small(x, src_key_padding_mask=padding), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "exactly one of rank, tolerance and ranks, got rank=None, tolerance=None, ranks=None"),
        ({"rank": 2, "tolerance": 0.1}, "exactly one .* got rank=2, tolerance=0.1, ranks=None"),
        ({"rank": 0}, "place: every TT rank must be 1 or more, got 0"),
        ({"tolerance": 1.5}, r"place: tolerance is a relative error in \[0, 1\), got 1.5"),
        ({"rank": 2, "factoring": "best"}, "place: factoring must be one of balanced, .*, got 'best'"),
        ({"rank": 2, "skip": ("heads",)}, "skip names 'heads', .* its layers are place, widen, depthwise,"),
        ({"ranks": {"lstn": 2}}, "ranks name 'lstn', .* those that can are place, widen, mix, lstm, gru,"),
        ({"ranks": {"head": 2}}, "ranks give 2 for 'head', but: 60 weights, below 256"),
        ({"ranks": {"lstm": 2}, "skip": ("lstm",)}, "ranks give 2 for 'lstm', but: it is in skip"),
        ({"ranks": {"lstm": (2,)}}, r"lstm: 3 cores have 2 ranks between them, got \(2,\)"),
        ({"ranks": {"hidden": {"weights": 2}}}, "hidden: ranks must be given for weight, got weights"),
        ({"ranks": {}}, "nothing to tensorize in Listener: place: no rank given"),
    ],
)
def test_bad_requests_say_what_was_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensorize(Listener(), **options)


def plan_of(**changes: Any) -> Plan:
    layer = {"n_cores": 3, "factoring": "balanced", "layout": "joint", "ranks": {"weight": [2, 2]}}
    return Plan.from_json({"layers": {"hidden": {**layer, **changes}}, "left_dense": {}})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: retensorize(nn.Linear(36, 30), plan_of()), "names 'hidden', .* it has ''$"),
        (
            lambda: retensorize(Listener(), plan_of(ranks={"weight": [99, 2]})),
            r"'hidden'.*\(99, 2\).*maximum",
        ),
        (lambda: retensorize(Listener(), plan_of(ranks={"in_proj": [2, 2]})), "are weight, not in_proj"),
        (lambda: retensorize(Listener(), plan_of(factoring="best")), "does not fit 'hidden': factoring must"),
        (lambda: plan_of(rank=3), "not a plan as Plan.to_json writes it"),
        (lambda: Plan.from_json({"layers": {}}), "KeyError.*left_dense"),
        (lambda: Plan.from_json({"layers": [], "left_dense": {}}), "not a plan"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# counts


def test_layer_counts_by_hand_and_in_sum() -> None:
    model = Listener()
    small, _ = tensorize(model, rank=3, factoring="low_rank")
    rows = {row.name: row for row in layer_counts(model, small)}
    # torch's LSTM has two biases of 4 · 20 numbers, the TT one of them
    weights = 4 * 20 * (24 + 20)
    cores = 3 * (4 * 20 + 24) + 3 * (4 * 20 + 20)
    assert rows["lstm"] == LayerCount("lstm", "LSTM", weights + 160, 160, cores + 80, cores, 80)
    assert rows["norm"] == LayerCount("norm", "BatchNorm1d", 48, 24, 48, 0, 24)
    assert rows["attention"].bias == rows["attention"].dense_bias == 4 * 36
    assert rows["head"].compressed == rows["head"].dense == 62 and rows["head"].cores == 0
    assert sum(row.dense for row in rows.values()) == count_parameters(model)
    assert sum(row.compressed for row in rows.values()) == count_parameters(small)


def test_layer_counts_count_what_is_shared_once_and_refuse_another_model() -> None:
    model = tied()
    assert [row.dense for row in layer_counts(model, model)] == [480, 40]
    with pytest.raises(ValueError, match="the compressed model has no 'place'"):
        layer_counts(Listener(), model)


# ranks under a budget


class Planted(nn.Module):
    """Sum of a layer of rank 2 and one of full rank that matters ten times as much."""

    def __init__(self) -> None:
        super().__init__()
        self.simple, self.rich = nn.Linear(24, 30, bias=False), nn.Linear(24, 30, bias=False)
        with torch.no_grad():
            self.simple.weight.copy_(torch.randn(30, 2) @ torch.randn(2, 24))
            self.rich.weight.copy_(10 * torch.randn(30, 24))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.simple(x) + self.rich(x)
        return y


class Measure:
    """Mean squared distance from the dense model, and how often it was asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.x = torch.randn(50, 24)
        self.expected = model(self.x)
        self.n_calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.n_calls += 1
        distance: float = (model(self.x) - self.expected).square().mean().item()
        return distance


def test_search_gives_the_planted_rank_to_the_simple_layer_and_keeps_the_rich_one() -> None:
    model = Planted()
    measure = Measure(model)
    budget = 720 + 2 * (24 + 30) + 100  # the rich layer dense, and room for rank 3 of the simple one
    found = search_ranks(
        model, measure, max_parameters=budget, candidates=(1, 2, 3, 8, 40), factoring="low_rank"
    )
    assert found.ranks == {"simple": 2, "rich": None}
    assert found.n_parameters == 720 + 2 * (24 + 30) <= budget
    assert found.loss < 1e-8 and found.dense_loss == 0
    # rank 40 becomes 24, of more numbers than the dense layer: it is not tried
    assert list(found.alone["rich"]) == [1, 2, 3, 8] and found.alone["simple"][1] > 0.1
    assert found.n_measurements == measure.n_calls == 2 + 2 * 4
    small, _ = tensorize(model, ranks=found.ranks, factoring="low_rank")
    assert count_parameters(small) == found.n_parameters
    assert measure(small) == found.loss


def test_search_predicts_the_sum_of_the_increases_and_measures_the_combination() -> None:
    model = Planted()
    found = search_ranks(
        model, Measure(model), max_parameters=500, candidates=(1, 2, 4, 8), factoring="low_rank"
    )
    assert found.ranks == {"simple": 1, "rich": 8}  # 54 + 432: rank 8 gains more than rank 2 of the other
    assert found.predicted_loss == pytest.approx(found.alone["simple"][1] + found.alone["rich"][8])
    # mean of (a + b)² = mean a² + mean b² + 2 mean a b, and the two errors have nothing to do with each other
    assert 0 < abs(found.loss - found.predicted_loss) < 0.2 * found.predicted_loss


def test_search_does_not_measure_a_rank_that_changes_nothing() -> None:
    model = Planted()
    nn.init.zeros_(model.simple.weight)  # of rank 1 whatever is asked for
    measure = Measure(model)
    found = search_ranks(model, measure, max_parameters=1440, candidates=(2, 4, 8), factoring="low_rank")
    assert list(found.alone["simple"]) == [2] and list(found.alone["rich"]) == [2, 4, 8]
    assert found.ranks == {"simple": 2, "rich": None}  # no loss and fewer parameters


def test_search_within_a_budget_that_is_no_limit_measures_the_dense_model_once() -> None:
    model = Planted()
    measure = Measure(model)
    found = search_ranks(model, measure, max_parameters=1440, candidates=(1,), factoring="low_rank")
    assert found.ranks == {"simple": None, "rich": None} and found.loss == found.predicted_loss == 0
    assert measure.n_calls == found.n_measurements == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"max_parameters": 107},
            "107 parameters cannot be met: 108 is the least with candidates .*, 0 of them",
        ),
        ({"max_parameters": 107, "skip": ("rich",)}, "774 is the least .*, 720 of them outside"),
        ({"max_parameters": 999, "candidates": ()}, r"ranks of 1 or more, got \(\)"),
        ({"max_parameters": 999, "candidates": (2, 0)}, r"ranks of 1 or more, got \(2, 0\)"),
        ({"max_parameters": 999, "skip": ("poor",)}, "skip names 'poor'.*simple, rich"),
        ({"max_parameters": 999, "skip": ("simple", "rich")}, "no layer to search a rank for"),
        ({"max_parameters": 999, "measure": lambda model: math.nan}, r"gave nan at ranks \{\}"),
    ],
)
def test_a_search_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    options = {"measure": lambda model: 0.0, "factoring": "low_rank", **options}
    with pytest.raises(ValueError, match=message):
        search_ranks(Planted(), **options)


def test_the_least_budget_can_be_met() -> None:
    found = search_ranks(Planted(), lambda model: 0.0, max_parameters=108, factoring="low_rank")
    assert found.ranks == {"simple": 1, "rich": 1} and found.n_parameters == 108


@pytest.mark.parametrize("seed", range(5))
def test_best_combination_is_that_of_a_brute_force_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = [rng.integers(1, 40, size).tolist() for size in (3, 5, 2, 4, 6)]
    losses = [rng.normal(size=len(own)).tolist() for own in costs]
    combinations = list(itertools.product(*(range(len(own)) for own in costs)))

    def total(values: list[list[float]], chosen: tuple[int, ...]) -> float:
        return sum(own[k] for own, k in zip(values, chosen, strict=True))

    least = sum(map(min, costs))
    for budget in (least, least + 7, least + 30, 10_000):
        allowed = [c for c in combinations if total(costs, c) <= budget]
        assert tuple(best_combination(costs, losses, budget)) == min(allowed, key=lambda c: total(losses, c))


def test_of_equal_losses_the_cheapest_combination_wins() -> None:
    assert best_combination([[9, 4, 6], [5, 5]], [[0.5, 0.5, 0.5], [0.25, 0.5]], 14) == [1, 0]
    with pytest.raises(ValueError, match="cheapest options cost 9, more than the budget 8"):
        best_combination([[9, 4, 6], [5, 5]], [[0.5, 0.5, 0.5], [0.25, 0.5]], 8)


# pruning


def two_scales() -> nn.Sequential:
    """Two layers, the first a thousand times larger than the second."""
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 24))
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(1000)
    return model


@pytest.mark.parametrize("share", [0.0, 0.31, 0.95])
def test_pruned_are_the_weights_of_the_least_score_by_its_definition(share: float) -> None:
    model = two_scales()
    pruned, masks = prune(model, share)
    scores, stays = [], []
    for name in ("0.weight", "2.weight"):
        squares = model.get_parameter(name).detach().double().flatten() ** 2
        scores += [(w / squares[squares >= w].sum()).item() for w in squares]
        stays += masks[name].flatten().tolist()
    n_pruned = round(share * len(scores))
    assert np.array_equal(~np.array(stays), np.argsort(np.argsort(scores)) < n_pruned)
    for name, parameter in model.named_parameters():
        expected = parameter * masks[name] if name in masks else parameter
        assert torch.equal(pruned.get_parameter(name), expected)


def test_no_layer_is_emptied_by_another_of_larger_weights() -> None:
    _, masks = prune(two_scales(), 0.95)
    for mask in masks.values():
        assert 0.01 < mask.float().mean() < 0.1  # one threshold on |w| would leave the second layer nothing


def test_pruning_takes_the_layers_that_tensorize_takes() -> None:
    _, masks = prune(Listener(), 0.5, skip=("gru",))
    assert {name.split(".")[0] for name in masks} == set(LISTENER_LAYERS) - {"gru"}
    assert {"lstm.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj.weight"} <= set(masks)
    assert not any("bias" in name for name in masks)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.1),
    ],
    ids=["adamw", "sgd"],
)
def test_zeros_stay_zero_in_training_and_in_the_state_dict(optimizer: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 24))
    pruned, masks = prune(model, 0.6)
    before = {name: weight.clone() for name, weight in pruned.state_dict().items()}
    steps = optimizer(pruned.parameters())
    for _ in range(4):
        steps.zero_grad()
        pruned(torch.randn(8, 20)).square().mean().backward()
        steps.step()
    after = pruned.state_dict()
    assert after.keys() == model.state_dict().keys()
    for name, mask in masks.items():
        assert not after[name][~mask].any()
        assert (after[name] != before[name])[mask].float().mean() > 0.9


def test_keep_zeros_holds_the_masks_of_a_copy() -> None:
    pruned, masks = prune(nn.Linear(20, 30), 0.5)
    twin = copy.deepcopy(pruned)
    twin(torch.ones(1, 20)).sum().backward()
    assert twin.get_parameter("weight").grad.ne(0).all()  # type: ignore[union-attr]
    keep_zeros(twin, masks)
    twin.zero_grad()
    twin(torch.ones(1, 20)).sum().backward()
    assert torch.equal(twin.get_parameter("weight").grad.ne(0), masks["weight"])  # type: ignore[union-attr]


def test_a_frozen_layer_is_pruned_too() -> None:
    pruned, masks = prune(nn.Linear(20, 30).requires_grad_(False), 0.5)
    assert torch.equal(pruned.get_parameter("weight") != 0, masks["weight"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: prune(two_scales(), 1.0), r"share .* in \[0, 1\), got 1.0"),
        (lambda: prune(two_scales(), -0.1), "got -0.1"),
        (lambda: prune(nn.Linear(3, 4), 0.5), "Linear has no layer to prune"),
        (lambda: prune(two_scales(), 0.5, skip=("3",)), "skip names '3'.*its layers are 0, 2"),
        (
            lambda: keep_zeros(two_scales(), {"1.weight": torch.ones(2, 2)}),
            r"mask '1.weight' is \(2, 2\), the model has no such parameter",
        ),
        (
            lambda: keep_zeros(two_scales(), {"0.weight": torch.ones(20, 30)}),
            r"is \(20, 30\), the model has \(30, 20\)",
        ),
    ],
)
def test_bad_pruning_says_what_was_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# storage


def bytes_behind_the_header(tensors: dict[str, Tensor]) -> int:
    whole = save(tensors)
    return len(whole) - 8 - int.from_bytes(whole[:8], "little")


def a_state() -> dict[str, Tensor]:
    return {
        "conv.weight": torch.randn(6, 5, 3, 3) * torch.logspace(-3, 2, 6)[:, None, None, None],
        "head.weight": torch.randn(30, 40),
        "head.bias": torch.randn(30),
        "tiny.weight": torch.randn(3, 4),
        "norm.running_var": torch.rand(30),
        "norm.num_batches_tracked": torch.tensor(12345678),
        "ids": torch.arange(6).reshape(2, 3),
        "none": torch.empty(0, 4),
    }


STAY_EXACT = ("head.bias", "norm.running_var", "norm.num_batches_tracked", "ids", "none")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bits", [32, 16, 8])
def test_unpacking_gives_names_shapes_and_kinds_back(bits: Any, sparse: bool) -> None:
    state = a_state()
    state["head.weight"][torch.rand(30, 40) < 0.8] = 0
    packed = pack(state, bits=bits, sparse=sparse)
    assert ("head.weight::mask" in packed) == sparse and "conv.weight::mask" not in packed
    back = unpack(packed)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        if bits == 32 or name in STAY_EXACT:
            assert torch.equal(back[name], tensor)
    assert not back["head.weight"][state["head.weight"] == 0].any()


def test_int8_is_within_half_a_step_of_every_row() -> None:
    state = a_state()
    back = unpack(pack(state, bits=8))
    for name in ("conv.weight", "head.weight"):
        rows, own = state[name].flatten(1), back[name].flatten(1)
        step = rows.abs().amax(1, keepdim=True) / 127  # of its own row: the smallest is 1e5 below the largest
        assert ((rows - own).abs() <= step / 2 * (1 + 1e-5)).all()
        assert own.abs().amax(1) == pytest.approx(rows.abs().amax(1))  # the largest is a level
    assert torch.equal(
        back["tiny.weight"], state["tiny.weight"]
    )  # 12 + 12 bytes and a header line, against 48


def test_half_precision_keeps_eleven_bits_and_what_it_cannot_hold() -> None:
    state = {"w": torch.randn(8, 9), "large": torch.full((8, 9), 1e5), "bias": torch.tensor([0.1, 1e5])}
    packed = pack(state, bits=16)
    assert packed["w"].dtype == torch.half and packed["large"].dtype == torch.float32
    back = unpack(packed)
    assert ((back["w"] - state["w"]).abs() <= 2**-11 * state["w"].abs() + 2**-25).all()
    assert torch.equal(back["large"], state["large"]) and torch.equal(back["bias"], state["bias"])


def test_rows_of_zeros_and_the_smallest_numbers_survive_int8() -> None:
    w = torch.randn(4, 30)
    w[1], w[2] = 0, 2e-43 * torch.sign(w[2])  # a scale of 1.6e-45 is rounded to the smallest number, 1.4e-45
    back = unpack(pack({"w": w}, bits=8))["w"]
    assert not back[1].any() and torch.equal(back[2].sign(), w[2].sign())


def test_a_core_is_scaled_along_its_longer_bond() -> None:
    linear = TTLinear(64, 64, rank=(6, 5))
    packed = pack(linear.state_dict(), bits=8)
    shapes = [tuple(packed[f"weight.cores.{k}::scale"].shape) for k in range(3)]
    assert shapes == [(1, 1, 1, 6), (6, 1, 1, 1), (5, 1, 1, 1)]
    kernel = {"conv.weight": torch.randn(2, 3, 3, 40)}  # four axes, but no core
    assert pack(kernel, bits=8)["conv.weight::scale"].shape == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "options, n_bytes",
    [
        ({"bits": 32}, 4 * (1200 + 30)),
        ({"bits": 16}, 2 * 1200 + 4 * 30),
        ({"bits": 8}, 1200 + 4 * 30 + 4 * 30),
        ({"bits": 32, "sparse": True}, 4 * 100 + 150 + 2 * 8 + 4 * 30),
        ({"bits": 8, "sparse": True}, 100 + 150 + 2 * 8 + 4 * 30 + 4 * 30),
    ],
    ids=str,
)
def test_packed_bytes_by_hand_are_those_of_a_file(options: dict[str, Any], n_bytes: int) -> None:
    weight = torch.zeros(1200)
    weight[torch.randperm(1200)[:100]] = torch.rand(100) + 1
    packed = pack({"weight": weight.view(30, 40), "bias": torch.ones(30)}, **options)
    assert packed_bytes(packed) == n_bytes == bytes_behind_the_header(packed)


def test_everything_combines_in_a_file(tmp_path: Path) -> None:
    model = Listener().eval()
    x = torch.randn(3, 12, 25)
    small, plan = tensorize(model, rank=6)
    thin, _ = prune(model, 0.9)
    for changed, empty in ((small, retensorize(Listener(), plan)), (thin, Listener())):
        packed = pack(changed.state_dict(), bits=8, sparse=True)
        save_file(packed, tmp_path / "packed.safetensors")
        empty.load_state_dict(unpack(load_file(tmp_path / "packed.safetensors")))
        torch.testing.assert_close(empty.eval()(x), changed(x), atol=0.02, rtol=0.05)
        assert packed_bytes(packed) < packed_bytes(pack(changed.state_dict())) / 2
    zeros = {name: (weight == 0).sum() for name, weight in thin.state_dict().items()}
    assert all((weight == 0).sum() >= zeros[name] for name, weight in empty.state_dict().items())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pack({}, bits=4), "bits must be 32, 16 or 8, got 4"),  # type: ignore[arg-type]
        (lambda: pack(pack({"w": torch.ones(30, 30)}, bits=8)), "'w::scale': '::' parts a packed name"),
        (lambda: pack({"w": torch.full((30, 30), math.inf)}, bits=8), "'w' holds NaN or infinity"),
        (lambda: unpack({"w::scale": torch.ones(1)}), r"'w' has the parts \['scale'\]"),
        (lambda: unpack({"w::values": torch.ones(1)}), r"'w' has the parts \['values'\]"),
    ],
)
def test_bad_packing_says_what_was_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
