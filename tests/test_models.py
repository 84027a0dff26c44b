"""One contract for every model of the table, and what is particular to each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vagitus.models
from vagitus.models import MODELS, build_model
from vagitus.models.ecapa import AttentiveStatistics, SERes2Block, moments
from vagitus.models.heads import pool_windows, replace_head
from vagitus.models.transformer import sinusoids


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# What makes a large model small enough for the contract.
SMALL_OPTIONS: dict[str, dict[str, int]] = {"cnn14": {"width": 4}, "ecapa": {"width": 16, "bottleneck": 8}}


def count(name: str, **options: int) -> tuple[int, int]:
    """Parameters with and without the head; on the meta device nothing is allocated."""
    with torch.device("meta"):
        model: Any = build_model(name, **options)
    whole, head = (sum(p.numel() for p in part.parameters()) for part in (model, model.head))
    return whole, whole - head


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_contract(name: str) -> None:
    model: Any = build_model(name, n_mels=40, n_classes=3, **SMALL_OPTIONS.get(name, {}))
    x = torch.randn(4, 40, 101)
    assert model.features(x).shape == (4, model.feature_dim)
    assert model(x).shape == (4, 3)
    # Random weights: the plain sum of a batch has no gradient before a batch norm.
    (model(x) * torch.randn(4, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    torch.testing.assert_close(model(x), model.head(model.features(x)))
    torch.testing.assert_close(model(x)[:1], model(x[:1]))  # a batch of one is its row in a batch of four
    assert model(torch.randn(1, 40, 57)).shape == (1, 3)  # any length
    assert model(torch.randn(1, 40, model.least_frames)).isfinite().all()


def test_every_model_file_has_a_row() -> None:
    files = {path.stem for path in Path(vagitus.models.__file__).parent.glob("*.py")}
    rows = {getattr(row, "func", row).__module__.rsplit(".", 1)[1] for row in MODELS.values()}
    assert files - {"__init__", "heads", "pooled_convolution"} == rows


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no model 'res9'; choose from .*res8.*did you mean 'res8'"):
        build_model("res9", n_mels=40, n_classes=2)


def test_res8_has_the_published_number_of_parameters() -> None:
    assert count("res8", n_mels=40, n_classes=12)[0] == 110_307


def test_res8_equals_the_network_written_out_from_the_paper() -> None:
    """conv-relu-pool; then six conv-relu, shortcut added after each second, batch norm last."""
    model: Any = build_model("res8", n_mels=40, n_classes=5, width=7)
    model(torch.randn(16, 40, 50))  # moves the batch-norm statistics off their initial values
    model.eval()
    x = torch.randn(3, 40, 101)
    y = torch.relu(nn.functional.conv2d(x[:, None], model.stem.weight, padding=1))
    y = nn.functional.avg_pool2d(y, (3, 4))  # 40 rows to 13, 101 frames to 25
    assert y.shape == (3, 7, 13, 25)
    old = y
    for i in range(1, 7):
        y = torch.relu(nn.functional.conv2d(y, model.convs[i - 1].weight, padding=1))
        if i % 2 == 0:
            y = y + old
            old = y
        mean, var = model.norms[i - 1].running_mean, model.norms[i - 1].running_var
        y = (y - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    torch.testing.assert_close(model(x), model.head(y.mean((2, 3))), rtol=1e-4, atol=1e-5)


def test_res8_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="n_mels must be >= 3, got 2"):
        build_model("res8", n_mels=2, n_classes=2)


def test_a_new_head_leaves_the_rest_alone() -> None:
    model: Any = build_model("res8", n_mels=40, n_classes=12).eval()
    x = torch.randn(2, 40, 101)
    before = model.features(x)
    replace_head(model, 2)
    assert model(x).shape == (2, 2)
    torch.testing.assert_close(model.features(x), before)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        replace_head(model, 1)


def test_pooling_is_the_mean_per_recording() -> None:
    logits = torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]])
    pooled = pool_windows(logits, torch.tensor([1, 0, 1]), 2)
    assert pooled.tolist() == [[2.0, 4.0], [3.5, 1.0]]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_tensorized_network_of_full_rank_equals_the_dense_one(cell: str) -> None:
    dense: Any = build_model(cell, n_mels=12, n_classes=3, hidden_size=8).eval()
    tensorized: Any = build_model(f"tt-{cell}", n_mels=12, n_classes=3, hidden_size=8).eval()
    tensorized.recurrent = type(tensorized.recurrent).from_dense(dense.recurrent)
    tensorized.head = dense.head
    x = torch.randn(2, 12, 9)
    torch.testing.assert_close(tensorized(x), dense(x), rtol=1e-4, atol=1e-5)


def test_the_transformer_knows_where_a_patch_stands() -> None:
    model: Any = build_model("transformer", n_mels=16, n_classes=2).eval()
    x = torch.randn(1, 16, 40)
    later, higher = x.roll(10, dims=2), x.roll(8, dims=1)
    assert not torch.allclose(model(x), model(later), atol=1e-5)
    assert not torch.allclose(model(x), model(higher), atol=1e-5)


def test_sinusoids_of_one_pair_turn_once_in_two_pi_positions() -> None:
    positions = sinusoids(2, 4)
    angles = torch.arange(4.0)
    torch.testing.assert_close(positions, torch.stack([angles.sin(), angles.cos()]))


def test_the_transformer_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="n_mels must be as many, got 7"):
        build_model("transformer", n_mels=7, n_classes=2)


def products(name: str) -> int:
    """Products of all convolutions on one window of one second, counted from what each one puts out."""
    model = build_model(name, n_mels=40, n_classes=2).eval()
    counted = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, _, y: counted.append(y[0, 0].numel() * layer.weight.numel())
            )
    model(torch.randn(1, 40, 101))
    return sum(counted)


def test_small_costs_a_tenth_of_res8() -> None:
    assert products("small") == 3_704_256  # 20*51*144 + 10*26*4608 + 5*13*18432 + 3*7*55296
    assert products("res8") == 37_174_950
    assert count("small", n_mels=40, n_classes=2)[0] == 79_090


def test_cnn14_has_the_published_number_of_parameters() -> None:
    assert count("cnn14", n_mels=64, n_classes=527)[0] == 80_753_615


def test_cnn14_equals_the_network_written_out_from_the_paper() -> None:
    """Time along rows; conv-norm-relu twice and a pool, six times but for the last pool; mean plus maximum."""
    model: Any = build_model("cnn14", n_mels=33, n_classes=5, width=2)
    model(torch.randn(16, 33, 64))  # moves the batch-norm statistics off their initial values
    model.eval()
    x = torch.randn(3, 33, 100)

    def normed(y: torch.Tensor, norm: Any) -> torch.Tensor:
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        z: torch.Tensor = (y - mean) / torch.sqrt(var + 1e-5)
        return z

    y = normed(x[..., None], model.norm).permute(0, 3, 2, 1)
    assert y.shape == (3, 1, 100, 33)
    for block in range(6):
        for i in (2 * block, 2 * block + 1):
            y = torch.relu(normed(nn.functional.conv2d(y, model.convs[i].weight, padding=1), model.norms[i]))
        if block < 5:
            rows, columns = y.shape[2] // 2, y.shape[3] // 2
            y = y[:, :, : 2 * rows, : 2 * columns].reshape(3, -1, rows, 2, columns, 2).mean((3, 5))
    assert y.shape == (3, 64, 3, 1)
    y = y.mean(3)
    y = torch.relu((y.max(2).values + y.mean(2)) @ model.dense.weight.T + model.dense.bias)
    torch.testing.assert_close(model(x), model.head(y), rtol=1e-4, atol=1e-5)


def test_cnn14_drops_out_only_in_training() -> None:
    model: Any = build_model("cnn14", n_mels=32, n_classes=2, width=2)
    x = torch.randn(2, 32, 64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_cnn14_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="n_mels must be >= 32, got 31"):
        build_model("cnn14", n_mels=31, n_classes=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 763_568),
        ({"width": 512, "aggregated": 1536}, 6_194_048),  # the paper's 6.2 M
        ({"width": 1024, "aggregated": 1536}, 14_660_416),  # the paper's 14.7 M
        ({"width": 1024}, 20_767_552),  # SpeechBrain's 20.8 M
    ],
)
def test_ecapa_has_the_published_number_of_parameters(options: dict[str, int], expected: int) -> None:
    assert count("ecapa", n_mels=80, n_classes=2, **options)[1] == expected


def test_attentive_statistics_of_equal_weights_are_the_plain_ones() -> None:
    pool = AttentiveStatistics(3, 4)
    nn.init.zeros_(pool.weigh.weight)  # its bias is the same for all frames, and softmax leaves that out
    x = torch.randn(5, 3, 7)
    expected = torch.cat([x.mean(2), x.std(2, correction=0)], dim=1)
    torch.testing.assert_close(pool(x), expected)


def test_weighted_moments_by_hand() -> None:
    mean, std = moments(torch.tensor([[[1.0, 5.0, 9.0]]]), torch.tensor([[[0.5, 0.25, 0.25]]]))
    assert mean.item() == 4.0  # 1/2 + 5/4 + 9/4
    assert std.item() == pytest.approx(11**0.5)  # 9/2 + 1/4 + 25/4


def test_an_se_res2_block_equals_its_figure() -> None:
    block = SERes2Block(16, 3, dilation=2).eval()
    x = torch.randn(2, 16, 11)
    y = block.narrow(x)
    parts = [y[:, 0:2]]
    for i in range(1, 8):
        before = parts[-1] if i > 1 else 0
        conv: Any = block.groups[i - 1]
        z = nn.functional.conv1d(
            y[:, 2 * i : 2 * i + 2] + before, conv.conv.weight, conv.conv.bias, padding=2, dilation=2
        )
        parts.append(z.relu() / (1 + 1e-5) ** 0.5)  # a fresh batch norm
    y = block.widen(torch.cat(parts, 1))
    squeezed = (y.mean(2) @ block.squeeze.weight[..., 0].T + block.squeeze.bias).relu()
    scale = (squeezed @ block.excite.weight[..., 0].T + block.excite.bias).sigmoid()
    torch.testing.assert_close(block(x), x + scale[..., None] * y)


def test_ecapa_blocks_see_the_sum_of_all_before() -> None:
    model: Any = build_model("ecapa", n_mels=8, n_classes=2, width=16, bottleneck=4).eval()
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    x = torch.randn(2, 8, 20)
    model(x)
    stem = model.stem(x)
    torch.testing.assert_close(seen[0][0], stem)
    torch.testing.assert_close(seen[1][0], stem + seen[0][1])
    torch.testing.assert_close(seen[2][0], stem + seen[0][1] + seen[1][1])


def test_ecapa_trains_on_a_batch_of_one() -> None:
    model: Any = build_model("ecapa", n_mels=8, n_classes=2, width=16, bottleneck=4)
    model(torch.randn(1, 8, 20)).sum().backward()
    assert model.stem.conv.weight.grad.isfinite().all()


def test_ecapa_refuses_a_width_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="width must be a multiple, got 20"):
        build_model("ecapa", n_mels=40, n_classes=2, width=20)


def test_ge2e_has_the_published_number_of_parameters() -> None:
    # 1024 (40 + 256) + 2 * 1024 (256 + 256), six biases of 1024, and 256 * 256 + 256
    assert count("ge2e", n_mels=40, n_classes=2)[1] == 1_423_616


def test_a_ge2e_embedding_has_unit_length_and_no_negative_part() -> None:
    model: Any = build_model("ge2e", n_mels=6, n_classes=2, hidden_size=8, n_layers=2, embedding=5)
    features = model.features(torch.randn(7, 6, 9))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))
    assert (features >= 0).all()
    assert (features == 0).any()
