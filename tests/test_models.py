"""One contract for every model of the table, and what is particular to each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vagitus.models
from vagitus.models import MODELS, build_model
from vagitus.models.heads import pool_windows, replace_head
from vagitus.models.transformer import sinusoids


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_contract(name: str) -> None:
    model: Any = build_model(name, n_mels=40, n_classes=3)
    x = torch.randn(2, 40, 101)
    assert model.features(x).shape == (2, model.feature_dim)
    assert model(x).shape == (2, 3)
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    torch.testing.assert_close(model(x), model.head(model.features(x)))
    torch.testing.assert_close(model(x)[:1], model(x[:1]))  # a batch of one is its row in a batch of two
    assert model(torch.randn(1, 40, 57)).shape == (1, 3)  # any length
    assert model(torch.randn(1, 40, model.least_frames)).isfinite().all()


def test_every_model_file_has_a_row() -> None:
    files = {path.stem for path in Path(vagitus.models.__file__).parent.glob("*.py")}
    rows = {getattr(row, "func", row).__module__.rsplit(".", 1)[1] for row in MODELS.values()}
    assert files - {"__init__", "heads"} == rows


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no model 'res9'; choose from .*res8.*did you mean 'res8'"):
        build_model("res9", n_mels=40, n_classes=2)


def test_res8_has_the_published_number_of_parameters() -> None:
    model = build_model("res8", n_mels=40, n_classes=12)
    assert sum(p.numel() for p in model.parameters()) == 110_307


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
