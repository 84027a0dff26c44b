"""The recipes that are published: each is what its verb reads."""

from pathlib import Path

import pytest
from in_process import Command

from vagitus.config import load_toml, read_toml
from vagitus.corpora.simulated import generate
from vagitus.plan import StudyConfig
from vagitus.pretrain import SELF_SUPERVISED, SUPERVISED, PretrainConfig
from vagitus.training import TrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_holds_what_its_verb_knows(path: Path) -> None:
    # A study has one data set, a pretraining a list of them.
    verb = PretrainConfig if isinstance(load_toml(path)["data"], list) else StudyConfig
    assert read_toml(path, verb)


def test_a_recipe_of_pretrain_keeps_what_it_does_not_name_as_the_task_asks() -> None:
    words = PretrainConfig(data=("a.csv",), train={"epochs": 3})
    assert words.train == SUPERVISED.model_copy(update={"epochs": 3})
    views = PretrainConfig(data=("a.csv",), task="vicreg", train={"epochs": 3})
    assert views.train == SELF_SUPERVISED.model_copy(update={"epochs": 3})
    with pytest.raises(ValueError, match="task"):
        PretrainConfig.model_validate({"data": ["a.csv"], "task": ["simclr"]})
    assert SUPERVISED != SELF_SUPERVISED != TrainConfig()


def test_an_option_beside_a_recipe_of_pretrain_wins(vagitus: Command, tmp_path: Path) -> None:
    generate(tmp_path / "a", n_subjects=4, n_recordings_per_subject=2, duration_s=1.2, sample_rate_hz=8000)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'data = ["nowhere.csv"]\ntask = "speakers"\n[train]\nepochs = 400\nbatch_size = 4\nwindow_s = 1.0\n'
    )
    out = tmp_path / "m.safetensors"
    others = ("--epochs", "1", "--out", out, "--cache", tmp_path / "cache", "--workers", "1", "--json")
    run = vagitus("pretrain", tmp_path / "a" / "manifest.csv", "--recipe", recipe, *others)
    assert run.status == 0, run.err
    assert '"measured_on": "held-out utterances' in run.out


def test_a_recipe_of_pretrain_that_cannot_be_is_refused(vagitus: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('data = ["speech_commands"]\n[train]\nepoch = 3\n')
    run = vagitus("pretrain", "--recipe", recipe)
    assert run.status == 2
    assert run.err == f"vagitus: {recipe}: unknown key 'train.epoch'; did you mean 'epochs'?\n"
