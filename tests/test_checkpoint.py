import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vagitus.checkpoint import ModelCard, load_model, read_tensors, save_model, write_tensors
from vagitus.features import PRESETS
from vagitus.models import build_model

CARD = ModelCard(
    model="res8",
    options={"n_mels": 40, "n_classes": 3, "width": 5},
    features=PRESETS["mfcc40"],
    window_s=1.5,
    class_names=("a", "b", "né"),
    calibration={"name": "temperature", "temperature": 1.5, "note": ""},
    provenance={"seed": 3},
)


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("res8", **CARD.options)
    model(torch.randn(8, 40, 60))  # moves the batch-norm statistics
    save_model(tmp_path / "m.safetensors", model, CARD)
    again, card = load_model(tmp_path / "m.safetensors")
    assert card == CARD
    x = torch.randn(2, 40, 80)
    assert torch.equal(again(x), model.eval()(x))


def test_the_file_says_research_use_only(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", build_model("res8", **CARD.options), CARD)
    _, header = read_tensors(tmp_path / "m.safetensors")
    assert header["notice"] == "Research use only, not a diagnosis."


@pytest.mark.parametrize("content", [pickle.dumps({"w": 1}), b"PK\x03\x04 a torch zip"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.pt: a pickled checkpoint can run code.*save_file"):
        load_model(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, build_model("res8", **CARD.options), CARD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(path)


def test_other_peoples_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="without a vagitus header"):
        load_model(path)
    write_tensors(path, {"w": torch.zeros(2)}, {"identity": "x"})
    with pytest.raises(ValueError, match="no vagitus model"):
        load_model(path)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = build_model("res8", **CARD.options)
    write_tensors(path, dict(model.state_dict()), CARD.to_json() | {"format": 99})
    with pytest.raises(ValueError, match="model format 99, this version reads 1"):
        load_model(path)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = dict(build_model("res8", **CARD.options).state_dict())
    del state["head.bias"]
    write_tensors(path, {**state, "head.extra": torch.zeros(2)}, CARD.to_json())
    with pytest.raises(ValueError, match=r"missing \['head.bias'\], unexpected \['head.extra'\]"):
        load_model(path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such file"):
        load_model(tmp_path / "none.safetensors")


def test_the_card_is_plain_json() -> None:
    assert json.loads(json.dumps(CARD.to_json()))["class_names"] == ["a", "b", "né"]
