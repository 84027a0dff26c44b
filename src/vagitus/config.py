"""TOML files to frozen, typed settings and back. A misspelt key is an error that names the nearest."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


def read_toml(path: Path, settings: type[Settings]) -> Settings:
    """Read a TOML file into ``settings``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML, an unknown key, or a value out of range; names the file and the key.
    """
    return checked(settings, load_toml(path), str(path))


def load_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, unchecked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from error


def checked(settings: type[Settings], values: dict[str, Any], source: str) -> Settings:
    """``settings(**values)`` with pydantic's errors turned into one line.

    Raises:
        ValueError: an unknown key or a value out of range; names ``source``, the key and the nearest known one.
    """
    try:
        return settings(**values)
    except ValidationError as error:
        raise ValueError(
            f"{source}: {'; '.join(_explain(settings, problem) for problem in error.errors())}"
        ) from None


def to_toml(settings: BaseModel, table: str = "") -> str:
    """What ``read_toml`` reads back to the same settings; one table per nested model.

    Only what settings hold is written: texts, numbers, booleans, lists of these and nested
    models. TOML's basic strings and JSON's are written alike.

    Args:
        table: name of the table that these settings stand in, "" for the top.
    """
    top, tables = [], []
    for name, value in settings:
        if isinstance(value, BaseModel):
            inner = f"{table}.{name}" if table else name
            tables.append(f"\n[{inner}]\n{to_toml(value, inner)}")
        elif value is not None:
            top.append(f"{name} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(top) + "".join(tables)


def _explain(settings: type[BaseModel], problem: Any) -> str:
    if not problem["loc"]:  # a rule between several keys says all itself
        return str(problem["msg"]).removeprefix("Value error, ")
    *parents, key = (str(part) for part in problem["loc"])
    name = ".".join([*parents, key])
    if problem["type"] != "extra_forbidden":
        said = str(problem["msg"]).removeprefix("Value error, ")
        return f"{name}: {said}, got {problem['input']!r}"
    for parent in parents:
        annotation = settings.model_fields[parent].annotation
        for nested in (annotation, *get_args(annotation)):  # a table that may be left out is MODEL | None
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                settings = nested
    known = list(settings.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
    return f"unknown key {name!r}; {hint}"
