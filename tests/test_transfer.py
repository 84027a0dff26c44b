"""Transfer: what is kept, what is frozen and stays frozen, and how fast each layer may learn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vagitus.checkpoint import ModelCard, load_model, save_model
from vagitus.features import FeatureConfig
from vagitus.models import MODELS, build_model
from vagitus.training import LabelledBatch, Supervised, TrainConfig, fit
from vagitus.transfer import (
    estimate_norms,
    freeze_up_to,
    layer_rates,
    layers,
    linear_probe,
    load_source,
    new_task,
    random_frozen,
)

N_MELS = 12
FRONT_END = FeatureConfig(sample_rate_hz=8000, f_max_hz=4000, n_bands=N_MELS, normalisation="mean")
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=1e-2, warmup_epochs=0, precision="32-true")
NARROW = {"cnn14": {"width": 4}, "ecapa": {"width": 16, "bottleneck": 8}}
RES8_ORDER = ["stem", *(f"{kind}.{i}" for i in range(6) for kind in ("convs", "norms")), "head"]


def res8(n_classes: int = 5, seed: int = 0) -> nn.Module:
    """With statistics that a training would have left, so that losing them is seen."""
    torch.manual_seed(seed)
    model = build_model("res8", n_mels=N_MELS, n_classes=n_classes, width=6)
    estimate_norms(model, [3 + 2 * torch.randn(16, N_MELS, 20)])
    return model


def source_file(folder: Path, **changes: Any) -> Path:
    card = ModelCard(
        model="res8",
        options={"n_mels": N_MELS, "n_classes": 5, "width": 6},
        features=FRONT_END,
        window_s=1.0,
        class_names=tuple("abcde"),
    )
    path = folder / "source.safetensors"
    save_model(path, res8(), card if not changes else ModelCard(**{**vars(card), **changes}))
    return path


def train(model: nn.Module, **how: Any) -> None:
    def batches(epoch: int) -> Iterator[LabelledBatch]:
        generator = torch.Generator().manual_seed(epoch)
        y = torch.arange(8) % 2
        yield LabelledBatch(torch.randn(8, N_MELS, 20, generator=generator) + y[:, None, None], y)

    fit(model, Supervised("cross_entropy"), batches, CONFIG, steps_per_epoch=1, seed=0, **how)


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_source_of_the_same_front_end_is_loaded(tmp_path: Path) -> None:
    path = source_file(tmp_path)
    model, card = load_source(path, FRONT_END.vary())
    assert card.class_names == tuple("abcde")
    assert changed(copied(load_model(path)[0]), model) == set()


def test_another_front_end_is_refused_field_by_field(tmp_path: Path) -> None:
    match = r"hop_ms 10\.0 \(target 20\.0\), normalisation 'mean' \(target 'none'\); give"
    with pytest.raises(ValueError, match=match):
        load_source(source_file(tmp_path), FRONT_END.vary(normalisation="none", hop_ms=20.0))


def test_a_compressed_source_is_refused(tmp_path: Path) -> None:
    path = source_file(tmp_path, compression={"plan": None, "bits": 16, "sparse": False})
    with pytest.raises(ValueError, match="is compressed; transfer from"):
        load_source(path, FRONT_END)


def test_a_new_task_keeps_everything_but_the_head_and_leaves_the_source_alone() -> None:
    source = res8()
    before = copied(source)
    model = new_task(source, 3, seed=4)
    assert changed(before, source) == set()
    state = model.state_dict()
    assert {n for n in state if not n.startswith("head") and not torch.equal(before[n], state[n])} == set()
    assert state["head.weight"].shape == (3, 6)
    assert torch.equal(new_task(source, 3, seed=4).state_dict()["head.weight"], state["head.weight"])
    assert not torch.equal(new_task(source, 3, seed=5).state_dict()["head.weight"], state["head.weight"])


def test_by_default_nothing_is_frozen() -> None:
    model = new_task(res8(), 2, seed=0)
    before = copied(model)
    train(model)
    assert changed(before, model) == set(before)


def test_layers_come_in_the_order_of_the_sound_and_finding_them_changes_nothing() -> None:
    model = res8().train()
    before = copied(model)
    assert list(layers(model, N_MELS)) == RES8_ORDER
    assert changed(before, model) == set()
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_layers_that_end_with_the_head(name: str) -> None:
    model = build_model(name, n_mels=40, n_classes=2, **NARROW.get(name, {}))
    order = layers(model, 40)
    assert order[-1] == "head" and len(order) > 2
    rates = layer_rates(model, 0.5, n_mels=40)
    assert set(rates) == {n for n, _ in model.named_parameters()}
    assert max(rates.values()) == rates["head.weight"] == 1 and min(rates.values()) > 0
    freeze_up_to(model, order[-2], n_mels=40)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_what_is_frozen_stays_bit_for_bit_in_training_and_the_rest_learns() -> None:
    model = new_task(res8(), 2, seed=0)
    freeze_up_to(model, "norms.2", n_mels=N_MELS)
    before = copied(model)
    train(model)
    frozen = set(RES8_ORDER[: RES8_ORDER.index("norms.2") + 1])
    assert changed(before, model) == {name for name in before if name.rpartition(".")[0] not in frozen}


def test_a_frozen_batch_norm_uses_its_own_statistics_in_training_mode() -> None:
    model = res8()
    linear_probe(model)
    x = torch.randn(4, N_MELS, 20)
    expected = model.eval()(x)
    assert torch.equal(model.train()(x), expected)


def test_a_part_that_holds_layers_freezes_up_to_its_last() -> None:
    model = build_model("transformer", n_mels=16, n_classes=2)
    freeze_up_to(model, "blocks.1", n_mels=16)
    free = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    blocks = {name[:8] for name, p in model.named_parameters() if p.requires_grad and "blocks" in name}
    assert free == {"blocks", "norm_out", "head"}
    assert blocks == {"blocks.2", "blocks.3"}


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (
            "norm.1",
            "no layer 'norm.1'; did you mean 'norms.1'.* in forward order: stem, convs.0, norms.0, convs.1",
        ),
        ("head", "freezing up to 'head' leaves nothing to train"),
    ],
)
def test_freezing_refuses_unknown_layers_and_everything(layer: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        freeze_up_to(res8(), layer, n_mels=N_MELS)


def test_a_linear_probe_trains_the_head_alone() -> None:
    model = new_task(res8(), 2, seed=0)
    linear_probe(model)
    before = copied(model)
    train(model)
    assert changed(before, model) == {"head.weight", "head.bias"}


def test_a_frozen_model_that_is_saved_and_loaded_is_free_again(tmp_path: Path) -> None:
    path = source_file(tmp_path)
    model, card = load_model(path)
    linear_probe(model)
    save_model(path, model, card)
    loaded = load_model(path)[0]
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    before = copied(loaded)
    loaded.train()(torch.randn(4, N_MELS, 20))
    assert "norms.0.running_mean" in changed(before, loaded)


def test_layer_rates_fall_by_one_factor_a_layer_that_has_parameters() -> None:
    rates = layer_rates(res8(), 0.5, n_mels=N_MELS)
    expected = {"head.weight": 1.0, "head.bias": 1.0, "stem.weight": 0.5**7}
    expected |= {f"convs.{i}.weight": 0.5 ** (6 - i) for i in range(6)}
    assert rates == expected


def test_layer_rates_train_with_fit() -> None:
    steps = []
    for rates in ({}, layer_rates(res8(), 0.1, n_mels=N_MELS)):
        model = new_task(res8(), 2, seed=0)
        before = copied(model)
        train(model, rates=rates)
        steps.append((model.state_dict()["stem.weight"] - before["stem.weight"]).abs().max().item())
    assert 0 < steps[1] < 1e-3 * steps[0]


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_layer_rates_refuse_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must lie in \(0, 1\], got {decay}"):
        layer_rates(res8(), decay, n_mels=N_MELS)


def test_estimated_norms_are_the_mean_over_batches() -> None:
    model = build_model("lstm", n_mels=N_MELS, n_classes=2, hidden_size=4)
    batches = [torch.randn(5, N_MELS, 7) + shift for shift in (1.0, 4.0, -2.0)]
    estimate_norms(model, batches)
    mean = torch.stack([x.mean(dim=(0, 2)) for x in batches]).mean(dim=0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(dim=1) for x in batches]).mean(dim=0)
    torch.testing.assert_close(model.get_buffer("norm.running_mean"), mean)
    torch.testing.assert_close(model.get_buffer("norm.running_var"), variance)
    norm = model.get_submodule("norm")
    assert norm.momentum == 0.1 and not norm.training  # as before


def test_the_random_control_has_other_filters_and_learns_in_its_head_alone(tmp_path: Path) -> None:
    source, card = load_model(source_file(tmp_path))
    x = 3 + 2 * torch.randn(16, N_MELS, 20, generator=torch.Generator().manual_seed(0))
    model = random_frozen(card, 2, [x], seed=7)
    again = random_frozen(card, 2, [x], seed=7)
    assert changed(copied(model), again) == set()
    assert not np.allclose(
        model.get_parameter("stem.weight").detach(), source.get_parameter("stem.weight").detach()
    )
    before = copied(model)
    train(model)
    assert changed(before, model) == {"head.weight", "head.bias"}


def test_the_random_control_needs_batches(tmp_path: Path) -> None:
    _, card = load_model(source_file(tmp_path))
    with pytest.raises(ValueError, match="no batch to estimate"):
        random_frozen(card, 2, [], seed=0)
