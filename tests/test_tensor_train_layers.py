import copy
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from vagitus.tensor_train import TTConv1d, TTConv2d, TTEmbedding, TTLinear, TTMultiheadAttention
from vagitus.tensor_train.layers import Compute
from vagitus.tensor_train.shape import Layout

COMPUTES: tuple[Compute, ...] = ("rebuild", "contract")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_same_function(layer: nn.Module, dense: nn.Module, x: Tensor) -> None:
    """The same output, and the same gradients of the input and of the bias."""
    x = x.clone().requires_grad_(x.is_floating_point())
    results = []
    for module in (layer, dense):
        y = module(x)
        weighed = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()
        leaves = [t for t in (x, getattr(module, "bias", None)) if t is not None and t.requires_grad]
        results.append([y, *torch.autograd.grad(weighed, leaves)] if leaves else [y])
    for own, torchs in zip(*results, strict=True):
        torch.testing.assert_close(own, torchs, atol=1e-5, rtol=1e-5)


# linear


@pytest.mark.parametrize("compute", ["auto", *COMPUTES])
@pytest.mark.parametrize("n_in, n_out, n_cores", [(12, 20, 3), (7, 11, 2), (40, 1, 3), (6, 6, 1)])
@pytest.mark.parametrize("rows", [(1,), (4,), (2, 5), ()])
def test_linear_at_full_rank_equals_torch(
    n_in: int, n_out: int, n_cores: int, rows: tuple[int, ...], compute: Compute
) -> None:
    dense = nn.Linear(n_in, n_out)
    layer = TTLinear.from_dense(dense, n_cores=n_cores, compute=compute)
    assert_same_function(layer, dense, torch.randn(*rows, n_in))
    assert_same_function(layer.to_dense(), dense, torch.randn(3, n_in))


@pytest.mark.parametrize("compute", COMPUTES)
def test_linear_gradcheck_twice(compute: Compute) -> None:
    layer = TTLinear(11, 6, n_cores=2, rank=2, compute=compute).double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 11, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        return y.sin()

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_linear_chooses_by_operations_and_rows() -> None:
    few_operations, many_operations = TTLinear(1024, 1024), TTLinear(256, 256, rank=8)
    one, many = torch.empty(1, 1024), torch.empty(4096, 1024)
    assert few_operations._choose(one) == few_operations._choose(many) == "contract"
    assert many_operations._choose(one[:, :256]) == "contract"
    assert many_operations._choose(many[:, :256]) == "rebuild"
    assert TTLinear(1024, 1024, compute="rebuild")._choose(one) == "rebuild"


@pytest.mark.parametrize("compute", COMPUTES)
def test_linear_of_low_rank_equals_its_two_factors(compute: Compute) -> None:
    u, v = torch.randn(20, 3), torch.randn(3, 12)
    dense = nn.Linear(12, 20)
    with torch.no_grad():
        dense.weight.copy_(u @ v)
    layer = TTLinear.from_dense(dense, rank=3, compute=compute, factoring="low_rank")
    assert layer.counts.cores == 3 * (12 + 20)
    assert_same_function(layer, dense, torch.randn(4, 12))


def test_linear_of_low_rank_contracts_wherever_that_takes_fewer_operations() -> None:
    layer = TTLinear(256, 256, rank=8, factoring="low_rank")  # 16 times fewer
    assert layer._choose(torch.empty(4096, 256)) == "contract"


def test_linear_takes_explicit_factors_and_shows_them() -> None:
    layer = TTLinear(28, 12, in_factors=(1, 2, 14), out_factors=(2, 2, 3), rank=2)
    assert layer.weight.shape.in_factors == (1, 2, 14)
    assert "28=1x2x14 -> 12=2x2x3" in repr(layer)
    assert f"{layer.counts.total} parameters ({layer.counts.cores} in cores, 12 bias" in repr(layer)


# convolution


@pytest.mark.parametrize(
    "kind, channels, kernel, options",
    [
        (nn.Conv1d, (7, 10), 5, {"stride": 2, "padding": 3, "dilation": 2}),
        (nn.Conv1d, (6, 9), 4, {"padding": "same", "padding_mode": "reflect", "groups": 3}),
        (nn.Conv1d, (8, 12), 1, {"bias": False}),
        (nn.Conv2d, (1, 45), 3, {"padding": 1}),  # the first layer of res8
        (nn.Conv2d, (6, 10), (3, 2), {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "groups": 2}),
        (nn.Conv2d, (6, 10), 3, {"padding": "same", "padding_mode": "circular", "dilation": (2, 1)}),
        (nn.Conv2d, (6, 10), 3, {"padding": "valid", "padding_mode": "replicate"}),
        (nn.Conv2d, (6, 10), 3, {"padding": (0, 2), "padding_mode": "replicate"}),
    ],
    ids=str,
)
def test_convolution_at_full_rank_equals_torch(
    kind: type[nn.Conv1d | nn.Conv2d], channels: tuple[int, int], kernel: Any, options: dict[str, Any]
) -> None:
    dense = kind(*channels, kernel, **options)
    tt_kind: Any = TTConv1d if kind is nn.Conv1d else TTConv2d
    layer = tt_kind.from_dense(dense)
    x = torch.randn(2, channels[0], *((15,) if kind is nn.Conv1d else (11, 13)))
    assert_same_function(layer, dense, x)
    torch.testing.assert_close(layer(x[0]), dense(x[0]), atol=1e-5, rtol=1e-5)  # without a batch
    assert type(layer.to_dense()) is kind
    assert_same_function(layer.to_dense(), dense, x)


def test_convolution_and_embedding_of_low_rank_equal_torch_at_full_rank() -> None:
    convolution = nn.Conv2d(6, 10, (3, 2), groups=2)
    layer = TTConv2d.from_dense(convolution, factoring="low_rank")
    assert layer.weight.shape.core_shapes == ((1, 1, 18, 10), (10, 10, 1, 1))
    assert_same_function(layer, convolution, torch.randn(2, 6, 7, 8))
    table = nn.Embedding(30, 8)
    assert_same_function(
        TTEmbedding.from_dense(table, factoring="low_rank"), table, torch.tensor([[4, 29], [0, 4]])
    )


def test_convolution_gradcheck() -> None:
    layer = TTConv2d(3, 4, 3, n_cores=2, rank=2).double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_convolution_starts_with_the_variance_of_a_dense_glorot_kernel() -> None:
    draws = [TTConv2d(16, 24, 3).kernel().detach() for _ in range(200)]
    dense = torch.empty(24, 16, 3, 3)
    nn.init.xavier_normal_(dense)
    assert torch.stack(draws).square().mean().item() == pytest.approx(2 / (9 * (16 + 24)), rel=0.15)
    assert dense.square().mean().item() == pytest.approx(2 / (9 * (16 + 24)), rel=0.1)


# embedding


@pytest.mark.parametrize("n_rows, dim", [(50, 17), (8, 12), (97, 3)])
def test_embedding_at_full_rank_equals_torch(n_rows: int, dim: int) -> None:
    dense = nn.Embedding(n_rows, dim, padding_idx=3)
    layer = TTEmbedding.from_dense(dense)
    every_row = torch.arange(n_rows)
    torch.testing.assert_close(layer(every_row), dense(every_row), atol=1e-5, rtol=1e-5)
    assert layer(every_row.view(1, n_rows, 1)).shape == (1, n_rows, 1, dim)
    assert layer(torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2, dim)
    torch.testing.assert_close(layer.to_dense()(every_row), dense(every_row), atol=1e-5, rtol=1e-5)


def test_embedding_rows_are_those_of_the_rebuilt_table_with_their_gradient() -> None:
    layer = TTEmbedding(30, 8, rank=3).double()
    indices = torch.tensor([[4, 29, 4], [0, 7, 11]])
    table = layer.weight.dense()
    torch.testing.assert_close(layer(indices), table[indices])
    cores = list(layer.parameters())
    expected = torch.autograd.grad(table[indices].sin().sum(), cores)
    for own, through_table in zip(
        torch.autograd.grad(layer(indices).sin().sum(), cores), expected, strict=True
    ):
        torch.testing.assert_close(own, through_table)


def test_padding_index_gives_zeros_and_no_gradient() -> None:
    layer = TTEmbedding(30, 8, padding_idx=5)
    y = layer(torch.tensor([5, 5]))
    y.sum().backward()
    assert not y.any()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_embedding_starts_with_unit_variance() -> None:
    draws = torch.stack([TTEmbedding(64, 32).weight.dense().detach() for _ in range(300)])
    assert draws.square().mean().item() == pytest.approx(1, rel=0.15)


# attention

LAYOUTS: tuple[Layout, ...] = ("joint", "per_gate", "gate_first", "gate_last")


def attention_pair(**options: Any) -> tuple[TTMultiheadAttention, nn.MultiheadAttention]:
    """An attention layer at full rank and the dense one, which has biases that are not zero."""
    layout = options.pop("layout", "joint")
    dense = nn.MultiheadAttention(14, 2, **options)
    for name, parameter in dense.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return TTMultiheadAttention.from_dense(dense, layout=layout), dense


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
        *({"layout": layout} for layout in LAYOUTS[1:]),
    ],
    ids=str,
)
def test_attention_at_full_rank_equals_torch_gradients_too(options: dict[str, Any]) -> None:
    layer, dense = attention_pair(**options)
    query = torch.randn(3, 5, 14, requires_grad=True)
    memory = torch.randn(3, 5, 14, requires_grad=True)
    for inputs in ((query, query, query), (query, memory, memory), (query, memory, memory.flip(0))):
        (y, weights), (expected, expected_weights) = layer(*inputs), dense(*inputs)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=1e-5)
        grads, expected_grads = (
            torch.autograd.grad(out.sin().sum(), [query, memory], allow_unused=True, retain_graph=True)
            for out in (y, expected)
        )
        for own, torchs in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(own, torchs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.to_dense()(query, query, query)[0], dense(query, query, query)[0])


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("evaluation", [True, False])
def test_attention_masks_mean_what_they_mean_in_torch(need_weights: bool, evaluation: bool) -> None:
    layer, dense = attention_pair(batch_first=True)
    layer.train(not evaluation)
    dense.train(not evaluation)
    x = torch.randn(3, 5, 14)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    for masks in (
        {"key_padding_mask": padding},
        {"attn_mask": causal, "is_causal": True},
        {"attn_mask": causal.isinf(), "key_padding_mask": padding, "average_attn_weights": False},
    ):
        (y, weights), (expected, expected_weights) = (
            attend(x, x, x, need_weights=need_weights, **masks) for attend in (layer, dense)
        )
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
        assert (weights is None) == (expected_weights is None) == (not need_weights)
        if need_weights:
            torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=1e-5)


def test_attention_without_a_batch_equals_its_row_in_one() -> None:
    layer, _ = attention_pair(batch_first=True)
    x = torch.randn(3, 5, 14)
    torch.testing.assert_close(layer(x[1], x[1], x[1])[0], layer(x, x, x)[0][1])


def test_the_causal_hint_needs_the_mask_it_hints_at_as_in_torch() -> None:
    layer, _ = attention_pair()
    x = torch.randn(5, 3, 14)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        layer(x, x, x, is_causal=True)


def test_attention_put_into_torchs_encoder_layer_runs_in_evaluation_as_in_training() -> None:
    encoder: Any = nn.TransformerEncoderLayer(14, 2, 20, dropout=0.0, batch_first=True)
    encoder.self_attn = TTMultiheadAttention.from_dense(encoder.self_attn)
    x = torch.randn(3, 5, 14)
    expected = encoder(x)
    with torch.no_grad():  # torch's own fused kernel would run here
        torch.testing.assert_close(encoder.eval()(x), expected, atol=1e-5, rtol=1e-5)


def test_attention_counts_and_state_are_its_own(tmp_path: Path) -> None:
    dense = nn.MultiheadAttention(14, 2, add_bias_kv=True)
    layer = TTMultiheadAttention.from_dense(dense, tolerance=0.4)
    assert layer.counts.total == sum(p.numel() for p in layer.parameters())
    assert layer.counts.dense == sum(p.numel() for p in dense.parameters())
    for matrix, weight in ((layer.in_proj, dense.in_proj_weight), (layer.out_proj, dense.out_proj.weight)):
        assert (matrix.dense() - weight).norm() <= 0.4 * weight.norm()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    again = TTMultiheadAttention(14, 2, add_bias_kv=True, rank=layer.ranks)
    again.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    x = torch.randn(5, 3, 14)
    assert torch.equal(again(x, x, x)[0], layer(x, x, x)[0])


# what else all of them must work with


def every_layer() -> list[tuple[nn.Module, Tensor]]:
    return [
        (TTLinear(12, 20, compute="contract"), torch.randn(4, 12)),
        (TTLinear(12, 20, compute="rebuild"), torch.randn(4, 12)),
        (TTConv1d(6, 9, 3), torch.randn(2, 6, 15)),
        (TTConv2d(6, 9, 3), torch.randn(2, 6, 7, 8)),
        (TTEmbedding(50, 12), torch.randint(0, 50, (2, 5))),
    ]


LAYER_NUMBERS = range(len(every_layer()))


@pytest.mark.parametrize("number", LAYER_NUMBERS)
def test_counts_are_the_parameters_there_are(number: int) -> None:
    layer, _ = every_layer()[number]
    assert layer.counts.total == sum(p.numel() for p in layer.parameters())  # type: ignore[union-attr]
    dense: nn.Module = layer.to_dense()  # type: ignore[operator]
    assert layer.counts.dense == sum(p.numel() for p in dense.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("number", LAYER_NUMBERS)
def test_safetensors_and_deepcopy(number: int, tmp_path: Path) -> None:
    layer, x = every_layer()[number]
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other, _ = every_layer()[number]
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("number", LAYER_NUMBERS)
def test_autocast_stays_near_float32(number: int) -> None:
    layer, x = every_layer()[number]
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("number", LAYER_NUMBERS)
def test_torch_compile_in_one_graph(number: int) -> None:
    layer, x = every_layer()[number]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("number", LAYER_NUMBERS)
def test_torch_func_gives_a_gradient_for_every_example(number: int) -> None:
    layer, x = every_layer()[number]
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, dict(parameters), (x[None],))
        return y.sin().sum()

    together = vmap(grad(loss), (None, 0))(parameters, x)
    one_by_one = [grad(loss)(parameters, own) for own in x]
    for name, own in together.items():
        torch.testing.assert_close(own, torch.stack([each[name] for each in one_by_one]))


def test_a_linear_layer_of_low_rank_learns_a_kronecker_product() -> None:
    target = torch.kron(torch.randn(4, 3), torch.randn(3, 5))
    layer = TTLinear(15, 12, bias=False, n_cores=2, rank=1, in_factors=(3, 5), out_factors=(4, 3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(400):
        x = torch.randn(32, 15)
        loss = (layer(x) - x @ target.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.dense(), target, atol=1e-2, rtol=0)


def test_tolerance_bounds_the_error_of_every_kind() -> None:
    pairs: list[tuple[Any, nn.Module]] = [
        (TTLinear, nn.Linear(24, 30)),
        (TTConv1d, nn.Conv1d(8, 12, 3)),
        (TTConv2d, nn.Conv2d(8, 12, 3)),
        (TTEmbedding, nn.Embedding(40, 24)),
    ]
    for kind, dense in pairs:
        layer = kind.from_dense(dense, tolerance=0.4)
        weight = dense.get_parameter("weight").flatten(1)
        assert (layer.weight.dense() - weight).norm() <= 0.4 * weight.norm()
        assert layer.ranks == kind.from_dense(dense, rank=layer.ranks).ranks


# what is refused


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TTLinear(6, 8)(torch.zeros(3, 5)), r"TTLinear\(6, 8\).* in_features 6, got \(3, 5\)"),
        (lambda: TTLinear(6, 8)(torch.tensor(1.0)), r"in_features 6, got \(\)"),
        (lambda: TTLinear(6, 8, compute="fast"), "one of auto, rebuild, contract, got 'fast'"),  # type: ignore[arg-type]
        (lambda: TTLinear(6, 8, rank=0), "rank must be 1 or more, got 0"),
        (lambda: TTLinear(6, 8, in_factors=(2, 2)), r"\(2, 2\) multiply out to 4, but the size is 6"),
        (lambda: TTLinear(0, 8), r"sizes of 1 or more, got \(8, 0\)"),
        (lambda: TTConv2d(6, 9, 3)(torch.zeros(2, 5, 7, 7)), r"\(batch, 6, …\).*got \(2, 5, 7, 7\)"),
        (
            lambda: TTConv1d(6, 9, 3)(torch.zeros(2, 6, 7, 7)),
            r"1 axes behind the channels, got \(2, 6, 7, 7\)",
        ),
        (lambda: TTConv2d(6, 9, 3, groups=2), "6 -> 9 in 2 groups"),
        (lambda: TTConv2d(6, 9, 0), r"kernel_size must be 2 number\(s\) of 1 or more, got 0"),
        (lambda: TTConv2d(6, 9, (3, 3, 3)), r"kernel_size must be 2 number\(s\)"),
        (lambda: TTConv1d(6, 9, 3, padding="full"), "padding must be one of same, valid, got 'full'"),  # type: ignore[arg-type]
        (lambda: TTConv1d(6, 9, 3, stride=2, padding="same"), r"padding='same' needs stride 1, got \(2,\)"),
        (lambda: TTConv1d(6, 9, 3, padding_mode="mirror"), "padding_mode must be one of zeros"),  # type: ignore[arg-type]
        (lambda: TTEmbedding(30, 8, padding_idx=30), "a row of the 30, got 30"),
        (lambda: TTEmbedding(30, 8)(torch.tensor([0, 30])), r"in \[0, 30\), got 0 to 30"),
        (lambda: TTEmbedding(30, 8)(torch.tensor([-1])), r"in \[0, 30\), got -1 to -1"),
        (lambda: TTEmbedding(30, 8)(torch.tensor([0.5])), "indices must be integers, got torch.float32"),
        (lambda: TTEmbedding.from_dense(nn.Embedding(30, 8, max_norm=1.0)), "got max_norm=1.0"),
        (lambda: TTMultiheadAttention(14, 3), "got 3 heads and embed_dim 14"),
        (lambda: TTMultiheadAttention(14, 2, rank={"in_proj": 2}), "for in_proj, out_proj, got in_proj"),
        (lambda: TTMultiheadAttention(14, 2)(*torch.zeros(3, 5, 2, 13)), r"embed_dim 14, got \(5, 2, 13\)"),
        (
            lambda: TTMultiheadAttention.from_dense(nn.MultiheadAttention(14, 2, kdim=6)),
            "of embed_dim 14, got kdim=6 and vdim=14",
        ),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_kernel_core_is_the_position_core_of_garipov() -> None:
    """The kernel (C_out, C_in, kh, kw) from its definition: channel cores, then one over the positions."""
    layer = TTConv2d(4, 6, (2, 3), n_cores=2, rank=2)
    first, second, positions = (core.detach().numpy() for core in layer.weight.cores)
    (m1, m2, _), (n1, n2, _) = layer.weight.shape.out_factors, layer.weight.shape.in_factors
    kernel = np.empty((6, 4, 2, 3))
    for a, b, c, d, y, x in itertools.product(*map(range, (m1, m2, n1, n2, 2, 3))):
        product = first[:, a, c] @ second[:, b, d] @ positions[:, 0, 3 * y + x]
        kernel[a * m2 + b, c * n2 + d, y, x] = product[0, 0]
    np.testing.assert_allclose(layer.kernel().detach().numpy(), kernel, atol=1e-6)
