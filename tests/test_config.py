from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from vagitus.config import read_toml, to_toml


class Innermost(BaseModel):
    depth: int = 2


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    epochs: int = Field(3, ge=1)
    rate: float = 1e-5
    deep: Innermost = Innermost()


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = "cry"
    arms: tuple[str, ...] = ("svm", "scratch")
    quick: bool = False
    target: str | None = None
    train: Inner = Inner()
    later: Inner | None = None

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 15:
            raise ValueError("a name has 15 letters at most")
        return name


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = Outer(name='a "quoted" \\ né', quick=True, train=Inner(rate=0.1, deep=Innermost(depth=3)))
    path = tmp_path / "r.toml"
    path.write_text(to_toml(settings))
    assert read_toml(path, Outer) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", r"r\.toml: unknown key 'nmae'; did you mean 'name'\?"),
        ("[train]\nepoch = 3", r"unknown key 'train\.epoch'; did you mean 'epochs'\?"),
        ("[later]\nepoch = 3", r"unknown key 'later\.epoch'; did you mean 'epochs'\?"),
        (
            "name = 'inconsolable cries'",
            r"r\.toml: name: a name has 15 letters at most, got 'inconsolable cries'",
        ),
        ("[train]\nepochs = 0", r"train\.epochs: .*greater than or equal to 1, got 0"),
        ("quick = [", r"r\.toml: not a TOML file"),
        ("zzzz = 1", "known are name, arms, quick, target, train, later"),
    ],
)
def test_a_bad_recipe_says_which_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_toml(path, Outer)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        read_toml(tmp_path / "none.toml", Outer)
