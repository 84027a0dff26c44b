import copy
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.multiprocessing.spawn import spawn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from vagitus.tensor_train import TTGRU, TTLSTM, TTLinear, recurrent, sequence
from vagitus.tensor_train.recurrent import Compute
from vagitus.tensor_train.shape import Layout, Ranks

LAYOUTS: tuple[Layout, ...] = ("joint", "per_gate", "gate_first", "gate_last")
COMPUTES: tuple[Compute, ...] = ("rebuild", "contract")
KINDS: dict[str, tuple[Any, Any]] = {"lstm": (TTLSTM, nn.LSTM), "gru": (TTGRU, nn.GRU)}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def full_rank(cell: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """A dense layer and its TT at full rank."""
    kind, dense_kind = KINDS[cell]
    layout = options.pop("layout", "joint")
    compute = options.pop("compute", "auto")
    dtype = options.pop("dtype", torch.float32)
    dense = dense_kind(*sizes, **options).to(dtype)
    return dense, kind.from_dense(dense, layout=layout, compute=compute)


def as_tuple(states: Any) -> tuple[Tensor, ...]:
    return states if isinstance(states, tuple) else (states,)


def initial_states(cell: str, *size: int, dtype: torch.dtype = torch.float32) -> Any:
    states = tuple(torch.randn(size, dtype=dtype, requires_grad=True) for _ in range(2))
    return states if cell == "lstm" else states[0]


def scalar(y: Tensor, states: Any) -> Tensor:
    """A loss that weighs every output and state differently, so that no gradient can hide."""
    total = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).sin().view(y.shape)).sum()
    for k, state in enumerate(as_tuple(states)):
        total = total + ((k + 1) * state.cos()).sum()
    return total


# counts of the thesis


THESIS_SPEAKER_COUNTS = [
    (2, (8176, 13024, 17872, 22720)),
    (3, (4104, 5392, 7192, 9504)),
    (4, (3668, 4312, 5260, 6512)),
]


@pytest.mark.parametrize(
    "n_cores, rank, count",
    [
        (d, rank, n)
        for d, counts in THESIS_SPEAKER_COUNTS
        for rank, n in zip(range(1, 5), counts, strict=True)
    ],
)
def test_speaker_verification_counts_of_the_thesis(n_cores: int, rank: int, count: int) -> None:
    lstm = TTLSTM(40, 768, n_cores=n_cores, rank=rank, factoring="thesis")
    head = TTLinear(768, 256, n_cores=n_cores, rank=rank, factoring="thesis")
    assert lstm.counts.total + head.counts.total == count
    assert sum(p.numel() for p in [*lstm.parameters(), *head.parameters()]) == count
    assert (lstm.counts.bias, head.counts.bias) == (3072, 256)
    assert f"{lstm.counts.bias} bias" in repr(lstm)


def test_dense_speaker_verification_count_of_the_thesis() -> None:
    lstm, head = TTLSTM(40, 768), TTLinear(768, 256)
    assert lstm.counts.dense + head.counts.dense == 2_682_112
    dense = sum(p.numel() for p in [*nn.LSTM(40, 768).parameters(), *nn.Linear(768, 256).parameters()])
    assert lstm.counts.dense + head.counts.dense == dense - 3072  # torch keeps a second bias


def test_only_340_of_the_smallest_count_are_weights() -> None:
    lstm = TTLSTM(40, 768, n_cores=4, rank=1, factoring="thesis")
    head = TTLinear(768, 256, n_cores=4, rank=1, factoring="thesis")
    assert lstm.counts.cores + head.counts.cores == 340


THESIS_MNIST_COUNTS = [
    (2, (2400, 3776, 6528, 9280, 12032, 14784)),
    (3, (1392, 1920, 3456, 5632, 8448, 11904)),
    (4, (1204, 1528, 2608, 4264, 6496, 9304)),
]


@pytest.mark.parametrize(
    "n_cores, rank, count",
    [
        (d, rank, n)
        for d, counts in THESIS_MNIST_COUNTS
        for rank, n in zip((1, 2, 4, 6, 8, 10), counts, strict=True)
    ],
)
def test_row_mnist_counts_of_the_thesis(n_cores: int, rank: int, count: int) -> None:
    lstm = TTLSTM(28, 256, n_cores=n_cores, rank=rank, factoring="thesis")
    assert lstm.counts.total == count == sum(p.numel() for p in lstm.parameters())
    assert lstm.counts.bias == 1024 and lstm.counts.dense == 291_840


def test_gru_keeps_four_biases_a_unit() -> None:
    gru = TTGRU(40, 32, num_layers=2, bidirectional=True)
    assert gru.counts.bias == 4 * 4 * 32
    assert gru.counts.total == sum(p.numel() for p in gru.parameters())
    assert TTGRU(40, 32, bias=False).counts.bias == 0


# equality with torch at full rank


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_full_rank_equals_torch_gradients_too(cell: str, layout: Layout, compute: Compute) -> None:
    # 7 and 13 are primes: every matrix is padded
    dense, tt = full_rank(cell, 13, 7, 2, layout=layout, compute=compute, bidirectional=True)
    x, hx = torch.randn(5, 3, 13, requires_grad=True), initial_states(cell, 4, 3, 7)
    (y, s), (y_tt, s_tt) = dense(x, hx), tt(x, hx)
    torch.testing.assert_close(y_tt, y, atol=1e-5, rtol=1e-5)
    for own, torchs in zip(as_tuple(s_tt), as_tuple(s), strict=True):
        torch.testing.assert_close(own, torchs, atol=1e-5, rtol=1e-5)
    leaves = [x, *as_tuple(hx)]
    expected = torch.autograd.grad(scalar(y, s), [*leaves, *dense.parameters()])
    found = torch.autograd.grad(
        scalar(y_tt, s_tt), [*leaves, *(getattr(tt, f"bias_{k}") for k in tt._suffixes())]
    )
    for own, torchs in zip(found, expected[: len(leaves)], strict=False):
        torch.testing.assert_close(own, torchs, atol=1e-5, rtol=1e-5)
    n_biases = 4
    for k, own in enumerate(found[len(leaves) :]):
        b_ih, b_hh = expected[len(leaves) + n_biases * k + 2 : len(leaves) + n_biases * (k + 1)]
        merged = b_ih if cell == "lstm" else torch.cat([b_ih, b_hh[14:]])
        torch.testing.assert_close(own, merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("cell", sorted(KINDS))
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"bias": False},
        {"num_layers": 3},
        {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
        {"num_layers": 2, "dropout": 1.0},  # everything dropped between the layers: both are certain
    ],
    ids=str,
)
def test_options_mean_what_they_mean_in_torch(cell: str, compute: Compute, options: dict[str, Any]) -> None:
    dense, tt = full_rank(cell, 6, 8, compute=compute, dtype=torch.float64, **options)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    (y, s), (y_tt, s_tt) = dense(x), tt(x)
    torch.testing.assert_close(y_tt, y)
    for own, torchs in zip(as_tuple(s_tt), as_tuple(s), strict=True):
        torch.testing.assert_close(own, torchs)
    with torch.no_grad():
        torch.testing.assert_close(tt(x)[0], y)
    assert y_tt.is_contiguous() or compute == "rebuild"


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_one_sequence_without_a_batch(cell: str, compute: Compute) -> None:
    dense, tt = full_rank(cell, 6, 8, batch_first=True, compute=compute)
    x, hx = torch.randn(4, 6), initial_states(cell, 1, 8)
    (y, s), (y_tt, s_tt) = dense(x, hx), tt(x, hx)
    torch.testing.assert_close(y_tt, y, atol=1e-5, rtol=1e-5)
    assert [t.shape for t in as_tuple(s_tt)] == [t.shape for t in as_tuple(s)]


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("cell", sorted(KINDS))
@pytest.mark.parametrize("lengths", [(5, 5, 3, 1), (2, 5, 1, 4)], ids=["sorted", "unsorted"])
def test_packed_sequences_equal_torch_gradients_too(
    cell: str, compute: Compute, lengths: tuple[int, ...]
) -> None:
    dense, tt = full_rank(cell, 6, 7, 2, bidirectional=True, dtype=torch.float64, compute=compute)
    x = [torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in lengths]
    hx = initial_states(cell, 4, 4, 7, dtype=torch.float64)
    (y, s), (y_tt, s_tt) = (run(pack_sequence(x, enforce_sorted=False), hx) for run in (dense, tt))
    torch.testing.assert_close(y_tt.data, y.data)
    assert torch.equal(y_tt.batch_sizes, y.batch_sizes)
    assert torch.equal(y_tt.unsorted_indices, y.unsorted_indices)
    for own, torchs in zip(as_tuple(s_tt), as_tuple(s), strict=True):
        torch.testing.assert_close(own, torchs)
    leaves = [*x, *as_tuple(hx)]
    expected = torch.autograd.grad(scalar(y.data, s), leaves)
    for own, torchs in zip(torch.autograd.grad(scalar(y_tt.data, s_tt), leaves), expected, strict=True):
        torch.testing.assert_close(own, torchs)


@pytest.mark.parametrize("cell", sorted(KINDS))
def test_rebuilding_draws_the_same_dropout_as_torch(cell: str) -> None:
    dense, tt = full_rank(cell, 6, 8, 2, dropout=0.5, compute="rebuild")
    x = torch.randn(4, 3, 6)
    torch.manual_seed(1)
    y = dense(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(tt(x)[0], y, atol=1e-5, rtol=1e-5)


def test_contraction_drops_between_layers_only_while_training() -> None:
    layer = TTLSTM(6, 8, 2, dropout=0.5, compute="contract")
    x = torch.randn(4, 3, 6)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0])


# the two ways to compute


@pytest.mark.parametrize(
    "chunk_numbers", [1, 3 * 4 * 12 * 5, 1 << 18], ids=["one step", "three steps", "all"]
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_contracting_equals_rebuilding_whatever_the_chunks(
    cell: str, layout: Layout, reverse: bool, chunk_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "CHUNK_NUMBERS", chunk_numbers)
    layer = KINDS[cell][0](70, 12, layout=layout, rank=2, bidirectional=reverse).double()
    nn.init.normal_(layer.bias_l0)
    lengths = torch.tensor([8, 8, 5, 4, 1])  # 8 steps: chunks of 3, 3 and 2
    x = torch.randn(8, 5, 70, dtype=torch.float64, requires_grad=True)
    hx = initial_states(cell, 1 + reverse, 5, 12, dtype=torch.float64)
    results = []
    for compute in COMPUTES:
        layer.compute = compute
        y, s = layer(pack_padded_sequence(x, lengths), hx)
        leaves = [x, *as_tuple(hx), *layer.parameters()]
        results.append([y.data, *as_tuple(s), *torch.autograd.grad(scalar(y.data, s), leaves)])
    for rebuilt, contracted in zip(*results, strict=True):
        torch.testing.assert_close(contracted, rebuilt)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_low_rank_contracts_to_what_it_rebuilds_and_to_torch_at_full_rank(cell: str, layout: Layout) -> None:
    kind, dense_kind = KINDS[cell]
    dense = dense_kind(70, 12).double()  # 70 inputs: W_ih is contracted too
    x = torch.randn(5, 3, 70, dtype=torch.float64)
    full = kind.from_dense(dense, layout=layout, compute="contract", factoring="low_rank")
    torch.testing.assert_close(full(x)[0], dense(x)[0])
    low = kind.from_dense(dense, rank=2, layout=layout, factoring="low_rank")
    results = []
    for low.compute in COMPUTES:
        y, s = low(x)
        results.append([y, *as_tuple(s), *torch.autograd.grad(scalar(y, s), list(low.parameters()))])
    for rebuilt, contracted in zip(*results, strict=True):
        torch.testing.assert_close(contracted, rebuilt)


def test_from_dense_takes_a_rank_for_every_matrix() -> None:
    ranks: dict[str, Ranks] = {"weight_ih_l0": (3, 2), "weight_hh_l0": 5}
    layer = TTLSTM.from_dense(nn.LSTM(16, 32), rank=ranks)
    assert layer.ranks == {"weight_ih_l0": (3, 2), "weight_hh_l0": (5, 5)}
    with pytest.raises(ValueError, match="for weight_ih_l0, weight_hh_l0, got weight_hh_l0"):
        TTLSTM.from_dense(nn.LSTM(16, 32), rank={"weight_hh_l0": 5})


@pytest.mark.parametrize("lengths", [None, (7, 7, 5, 5, 2)], ids=["whole", "packed"])
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_blocks_of_a_large_batch_change_nothing(
    cell: str, lengths: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = KINDS[cell][0](9, 8, 2, bidirectional=True, batch_first=True, compute="contract").double()
    x = torch.randn(5, 7, 9, dtype=torch.float64, requires_grad=True)
    hx = initial_states(cell, 4, 5, 8, dtype=torch.float64)
    results = []
    for numbers in (1 << 17, 2 * 8 * layer.n_gates):  # one block, then blocks of 2, 2 and 1
        monkeypatch.setattr(recurrent, "BLOCK_NUMBERS", numbers)
        given = x if lengths is None else pack_padded_sequence(x, torch.tensor(lengths), batch_first=True)
        y, s = layer(given, hx)
        y = y if lengths is None else y.data
        leaves = [x, *as_tuple(hx), *layer.parameters()]
        results.append([y, *as_tuple(s), *torch.autograd.grad(scalar(y, s), leaves)])
    for one, several in zip(*results, strict=True):
        torch.testing.assert_close(several, one)


@pytest.mark.parametrize("compute", COMPUTES)
def test_a_batch_of_none_gives_none(compute: Compute) -> None:
    y, (h_n, c_n) = TTLSTM(5, 6, compute=compute)(torch.zeros(4, 0, 5))
    assert y.shape == (4, 0, 6) and h_n.shape == c_n.shape == (1, 0, 6)


def test_auto_takes_the_way_that_its_model_says_is_faster() -> None:
    small, large = TTLSTM(40, 256), TTLSTM(40, 1024)
    x = torch.empty(100, 1, 40)
    for layer, way in ((small, "rebuild"), (large, "contract")):
        predicted = layer.predicted_ns(100, 1, training=True)
        assert min(predicted, key=lambda name: predicted[name]) == way == layer.choose_compute(x)
    packed_sequences = pack_padded_sequence(x, torch.tensor([100]))
    assert large.choose_compute(packed_sequences.data, packed_sequences.batch_sizes) == "contract"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert large.choose_compute(x) == "rebuild"
    assert large.choose_compute(x.to("meta")) == "rebuild"
    assert vmap(lambda x: x + (small.choose_compute(x) == "contract"))(torch.zeros(2, 3, 1, 40)).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_predicted_time_grows_with_everything_and_contraction_gains_with_size(
    cell: str, training: bool
) -> None:
    def predicted(hidden: int, rank: int, n_steps: int, batch: int) -> dict[str, float]:
        layer = KINDS[cell][0](40, hidden, rank=rank)
        times: dict[str, float] = layer.predicted_ns(n_steps, batch, training=training)
        return times

    here = predicted(512, 4, 100, 32)
    for larger in (predicted(512, 4, 200, 32), predicted(512, 4, 100, 64), predicted(1024, 4, 100, 32)):
        assert all(larger[way] > here[way] for way in COMPUTES)
    assert predicted(512, 8, 100, 32)["contract"] > here["contract"]
    gain = [predicted(h, 4, 100, 32) for h in (256, 512, 1024)]
    ratios = [times["contract"] / times["rebuild"] for times in gain]
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("input_size", [5, 128])  # W_ih as one core, and contracted
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_gradcheck_of_the_contraction(cell: str, input_size: int, batch: int) -> None:
    layer = KINDS[cell][0](input_size, 6, rank=2, compute="contract", bidirectional=True).double()
    x = torch.randn(3, batch, input_size, dtype=torch.float64, requires_grad=True)
    hx = as_tuple(initial_states(cell, 2, batch, 6, dtype=torch.float64))
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        states = rest[: len(hx)] if cell == "lstm" else rest[0]
        parameters = dict(zip(names, rest[len(hx) :], strict=True))
        y, s = functional_call(layer, parameters, (x, states))
        return (y, *as_tuple(s))

    assert torch.autograd.gradcheck(run, (x, *hx, *layer.parameters()), fast_mode=True)


def test_gradcheck_of_rebuilding() -> None:
    layer = TTLSTM(5, 6, rank=2, compute="rebuild").double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))[0]
        return y

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_contraction_in_float32_is_within_1e_5_of_torch_after_200_steps() -> None:
    dense, tt = full_rank("lstm", 16, 32, compute="contract")
    x = torch.randn(200, 2, 16) * 3  # far into the flat ends of the gates
    torch.testing.assert_close(tt(x)[0], dense(x)[0], atol=1e-5, rtol=0)


def test_contraction_is_differentiable_once_and_says_so() -> None:
    layer = TTLSTM(5, 6, compute="contract")
    x = torch.randn(3, 2, 5, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(first.sum(), x)


def test_backward_twice_over_one_graph_gives_the_same_gradient() -> None:
    layer = TTGRU(5, 6, compute="contract")
    loss = layer(torch.randn(3, 2, 5))[0].square().sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("compute", COMPUTES)
def test_rows_of_a_batch_do_not_see_each_other(compute: Compute) -> None:
    layer = TTLSTM(5, 6, compute=compute)
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(layer(x)[0][:, 1:2], layer(x[:, 1:2])[0])


# what else it must work with


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("cell", sorted(KINDS))
def test_autocast_stays_near_float32(cell: str, compute: Compute) -> None:
    layer = KINDS[cell][0](6, 16, compute=compute)
    x = torch.randn(5, 3, 6)
    expected = layer(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)[0]
    assert (y.float() - expected).abs().max() < 0.02
    y.float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x.bfloat16())[0].shape == y.shape  # what an earlier layer hands over


@pytest.mark.parametrize("compute", COMPUTES)
def test_torch_compile_gives_the_same_numbers_and_gradients(compute: Compute) -> None:
    layer = TTLSTM(6, 8, bidirectional=True, compute=compute)
    x = torch.randn(4, 3, 6)
    # A contraction is one operator in the graph; torch's own LSTM always breaks it.
    compiled = torch.compile(layer, fullgraph=compute == "contract", backend="aot_eager")
    parameters = list(layer.parameters())
    expected = torch.autograd.grad(layer(x)[0].square().sum(), parameters)
    y = compiled(x)[0]
    torch.testing.assert_close(y, layer(x)[0])
    for own, eager in zip(torch.autograd.grad(y.square().sum(), parameters), expected, strict=True):
        torch.testing.assert_close(own, eager)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], y)


@pytest.mark.parametrize("cell", sorted(KINDS))
def test_torch_func_sees_through_the_contraction(cell: str) -> None:
    layers = [KINDS[cell][0](6, 8, compute="contract") for _ in range(3)]
    layer, parameters = layers[0], dict(layers[0].named_parameters())

    def loss(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, dict(parameters), (x,))[0]
        return y.square().sum()

    x = torch.randn(5, 4, 2, 6)  # five batches
    expected = [torch.autograd.grad(loss(parameters, own), list(parameters.values())) for own in x]
    together = vmap(grad(loss), (None, 0))(parameters, x)  # a gradient for every batch
    for k, own in enumerate(together.values()):
        torch.testing.assert_close(own, torch.stack([each[k] for each in expected]))
    stacked, _ = stack_module_state(layers)  # an ensemble
    ensemble = vmap(lambda p: functional_call(layer, p, (x[0],))[0])(stacked)
    torch.testing.assert_close(ensemble, torch.stack([own(x[0])[0] for own in layers]))


@pytest.mark.parametrize("compute", COMPUTES)
def test_functional_call_takes_other_parameters(compute: Compute) -> None:
    layer, other = TTLSTM(6, 8, compute=compute), TTLSTM(6, 8)
    x = torch.randn(3, 2, 6)
    torch.testing.assert_close(functional_call(layer, other.state_dict(), (x,))[0], other(x)[0])


def test_deepcopy_is_independent() -> None:
    layer = TTLSTM(6, 8)
    twin = copy.deepcopy(layer)
    x = torch.randn(3, 2, 6)
    torch.testing.assert_close(twin(x)[0], layer(x)[0])
    with torch.no_grad():
        twin.get_parameter("weight_hh_l0.cores.0").zero_()
    assert not torch.equal(twin(x)[0], layer(x)[0])


def test_safetensors_round_trip_with_ranks_of_its_own(tmp_path: Path) -> None:
    dense = nn.LSTM(12, 8, 2)
    layer = TTLSTM.from_dense(dense, tolerance=0.4)
    assert len(set(layer.ranks.values())) > 1
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    again = TTLSTM(12, 8, 2, rank=layer.ranks)
    again.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    x = torch.randn(3, 2, 12)
    assert torch.equal(again(x)[0], layer(x)[0])


def gradient_of_half(rank: int, store: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = TTLSTM(6, 8, compute="contract")
    x = torch.randn(4, 6, 6)
    parallel = nn.parallel.DistributedDataParallel(layer)
    parallel(x[:, 3 * rank : 3 * rank + 3])[0].square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in layer.parameters()], Path(folder) / "gradients.pt")
    torch.distributed.barrier()
    # gloo's threads sometimes abort a process that leaves in the ordinary way (SIGABRT in their destructor).
    os._exit(0)


def test_two_processes_average_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(gradient_of_half, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    layer = TTLSTM(6, 8, compute="contract")
    layer(torch.randn(4, 6, 6))[0].square().mean().backward()
    for own, shared in zip(layer.parameters(), torch.load(tmp_path / "gradients.pt"), strict=True):
        torch.testing.assert_close(shared, own.grad)


@pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")  # torch's own exporter
def test_onnx_keeps_the_cores_and_gives_the_same_output(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer = TTLSTM(40, 256, batch_first=True).eval()
    x = torch.randn(1, 20, 40)
    program = torch.onnx.export(layer, (x,), dynamo=True, optimize=False, verbose=False)
    assert program is not None
    program.save(tmp_path / "layer.onnx")
    dense_bytes = 4 * layer.counts.dense
    assert (tmp_path / "layer.onnx").stat().st_size < dense_bytes / 4  # most of it stack traces, not numbers
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    y = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(y, layer(x)[0].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("cell", sorted(KINDS))
def test_to_dense_and_back(cell: str) -> None:
    kind, dense_kind = KINDS[cell]
    layer = kind(9, 10, 2, bidirectional=True, batch_first=True)
    nn.init.normal_(layer.bias_l1_reverse)
    dense = layer.to_dense()
    assert type(dense) is dense_kind
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(dense(x)[0], layer(x)[0])
    torch.testing.assert_close(kind.from_dense(dense)(x)[0], layer(x)[0], atol=1e-5, rtol=1e-5)


def test_from_dense_at_a_rank_is_nearer_the_higher_the_rank() -> None:
    dense = nn.LSTM(16, 32)
    x = torch.randn(6, 2, 16)
    errors = [(TTLSTM.from_dense(dense, rank=r)(x)[0] - dense(x)[0]).norm().item() for r in (1, 8, 64)]
    assert errors[0] > errors[1] > errors[2]


def test_it_learns_to_remember_the_first_of_eight_numbers() -> None:
    layer, head = TTLSTM(1, 16, rank=2), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    losses = []
    for _ in range(150):
        x = torch.randn(8, 64, 1)
        loss = (head(layer(x)[1][0][0]) - x[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])


# what is refused


def forward(*arguments: Any, **options: Any) -> Callable[[], Any]:
    return lambda: TTLSTM(6, 8, **options)(*arguments)


def packed(batch_sizes: list[int], n_rows: int | None = None) -> PackedSequence:
    n_rows = sum(batch_sizes) if n_rows is None else n_rows
    return PackedSequence(torch.randn(n_rows, 6), torch.tensor(batch_sizes, dtype=torch.int64))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TTLSTM(0, 8), "input_size must be 1 or more, got 0"),
        (lambda: TTLSTM(6, 8, num_layers=0), "num_layers must be 1 or more, got 0"),
        (lambda: TTLSTM(6, 8, dropout=1.5), r"probability in \[0, 1\], got 1.5"),
        (lambda: TTLSTM(6, 8, rank=0), "rank must be 1 or more, got 0"),
        (lambda: TTLSTM(6, 8, rank=(99, 2)), "above the possible maximum"),
        (lambda: TTLSTM(6, 8, rank={"weight_ih_l0": 2}), "weight_ih_l0, weight_hh_l0, got weight_ih_l0"),
        (lambda: TTLSTM(6, 8, layout="shared"), "layout must be one of joint, .*, got 'shared'"),  # type: ignore[arg-type]
        (lambda: TTLSTM(6, 8, compute="fast"), "compute must be one of auto, rebuild, contract, got 'fast'"),  # type: ignore[arg-type]
        (forward(torch.zeros(3, 2, 5)), r"input_size 6 .*got \(3, 2, 5\)"),
        (forward(torch.zeros(6)), r"3-D, or 2-D for one sequence, got \(6,\)"),
        (forward(torch.zeros(0, 2, 6)), r"one step at least, got input \(0, 2, 6\)"),
        (forward(torch.zeros(2, 0, 6), batch_first=True), r"one step at least, got input \(2, 0, 6\)"),
        (
            forward(torch.zeros(3, 2, 6).double()),
            "input is torch.float64 and the parameters are torch.float32",
        ),
        (
            forward(torch.zeros(3, 2, 6), (torch.zeros(1, 2, 8), torch.zeros(1, 3, 8))),
            r"must be \(1, 2, 8\) .*got \(1, 2, 8\), \(1, 3, 8\)",
        ),
        (forward(torch.zeros(3, 2, 6), (torch.zeros(1, 2, 8),)), r"must be \(1, 2, 8\) .*got \(1, 2, 8\)$"),
        (
            forward(torch.zeros(3, 6), (torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))),
            r"must be \(1, 8\) .*got \(1, 1, 8\)",
        ),
        (forward(packed([])), r"packed sequence is empty: data \(0, 6\), batch sizes \[\]"),
        (forward(packed([1, 3])), r"not sorted by falling length: batch sizes \[1, 3\]"),
        (forward(packed([3, 0])), r"not sorted by falling length: batch sizes \[3, 0\]"),
        (forward(packed([3, 1], n_rows=5)), r"\(5, 6\) and batch sizes \[3, 1\] \(sum 4\)"),
        (
            forward(PackedSequence(torch.zeros(4, 5), torch.tensor([3, 1]))),
            r"packed data must end in input_size 6 .*got \(4, 5\)",
        ),
        (
            forward(packed([3, 1]), (torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))),
            r"must be \(1, 3, 8\) .*got \(1, 4, 8\)",
        ),
        (lambda: TTLSTM.from_dense(nn.LSTM(6, 8, proj_size=4)), "no TT form here, got proj_size=4"),
        (
            lambda: TTLSTM.from_dense(nn.LSTM(6, 8), tolerance=2.0),
            r"tolerance is a relative error in \[0, 1\)",
        ),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_reset_parameters_starts_over() -> None:
    layer = TTLSTM(64, 64)
    nn.init.ones_(layer.bias_l0)  # type: ignore[arg-type]
    layer.reset_parameters(torch.Generator().manual_seed(5))
    assert not layer.bias_l0.any()  # type: ignore[operator]
    weight = layer.matrices()["weight_hh_l0"].dense()
    again = TTLSTM(64, 64)
    again.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(weight, again.matrices()["weight_hh_l0"].dense())
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 256)), rel=0.5)
