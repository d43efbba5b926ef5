"""Recipes: Hydra's compose API picks the groups; values are set as they are typed.

A value never goes through Hydra's override grammar, so quotes, commas, brackets and equals signs in paths mean nothing
special. It takes the type of the value that it replaces.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

import recipes
from datamodules.schema import DataError, near

GROUPS = ("data", "trainer", "backbone")
PATHS = ("data_dir", "path", "policy", "revision", "base")  # keys that are null until they name a file or a version
MAPS = ("experts",)  # keys that are null until they hold a mapping
LISTS = ("modalities", "held_out", "categories")  # keys that are null until they hold a list


def recipes_folder() -> Path:
    return Path(next(iter(recipes.__path__)))


def recipe_names() -> list[str]:
    return sorted(p.stem for p in recipes_folder().glob("*.yaml"))


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (recipes_folder() / group).glob("*.yaml"))


def split_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """`key=value` words as a mapping. Raises `DataError` for a word without `=` and for a key given twice."""
    out: dict[str, str] = {}
    for word in arguments:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise DataError(f"{word!r}: expected key=value")
        if key in out:
            raise DataError(f"{key} is given twice")
        out[key] = value
    return out


def compose(arguments: Sequence[str]) -> DictConfig:
    """The configuration of `recipe=<name> [key=value …]`. Raises `DataError` with near matches for unknown names."""
    given = split_arguments(arguments)
    name = given.pop("recipe", None)
    if name is None:
        raise DataError(f"give recipe=NAME; known: {', '.join(recipe_names())}")
    if name not in recipe_names():
        raise DataError(f"unknown recipe {name!r}{near(name, recipe_names())}")
    chosen = []
    own = _groups(name)
    for group in GROUPS:
        if group in given and not isinstance(_page(name).get(group), str):  # else a plain key
            if group not in own:
                raise DataError(f"recipe {name!r} has no {group} to choose; its groups: {', '.join(own)}")
            value = given.pop(group)
            if value not in options(group):
                raise DataError(f"unknown {group} {value!r}{near(value, options(group))}")
            chosen.append(f"{group}={value}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
        config = hydra_compose(name, overrides=chosen)
    OmegaConf.set_struct(config, True)
    for key, value in given.items():
        _set(config, key, value, name)
    config.recipe = name
    return config


def _groups(recipe: str) -> list[str]:
    """The groups that a recipe's defaults list names."""
    return [g for d in _page(recipe)["defaults"] if isinstance(d, dict) for g in d]


def _page(recipe: str) -> dict[str, Any]:
    return yaml.safe_load((recipes_folder() / f"{recipe}.yaml").read_text(encoding="utf-8"))


def _set(config: DictConfig, key: str, text: str, recipe: str) -> None:
    known = _keys(config)
    if key not in known:
        raise DataError(f"recipe {recipe!r} has no key {key!r}{near(key, known)}")
    if text == "???":  # OmegaConf's mark for a value that is missing
        raise DataError(f"{key}=???: give a value")
    old = OmegaConf.select(config, key, throw_on_missing=False)
    OmegaConf.update(config, key, _literal(_typed(text, old, key)))


def _literal(value: Any) -> Any:
    """`value` with its `${` escaped: a person's text is never an interpolation."""
    if isinstance(value, list):
        return [_literal(v) for v in value]
    if isinstance(value, dict):
        return {k: _literal(v) for k, v in value.items()}
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _typed(text: str, old: Any, key: str) -> Any:
    """`text` in the type of the value that it replaces."""
    if isinstance(old, str):
        return text
    try:
        value = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-99
        value = text
    if old is None:
        name = key.split(".")[-1]
        if name in PATHS:
            return None if text in ("", "null") else text  # a folder may be called 2024, or no
        if name in LISTS and value is not None and not isinstance(value, list):
            raise DataError(f"{key}={text}: expected a list such as [image, joint]")
        if name in MAPS and value is not None and not isinstance(value, dict):
            raise DataError(f"{key}={text}: expected a mapping such as {{heat: [S1, S2]}}")
        kept = (bool, int, float, list, *((dict,) if name in MAPS else ()))
        return value if isinstance(value, kept) or value is None else text
    if isinstance(old, bool):
        ok = isinstance(value, bool)
    elif isinstance(old, (int, float)):
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        if ok and isinstance(old, int) and not float(value).is_integer():
            ok = False
        elif ok:
            value = type(old)(value) if isinstance(old, float) else int(value)
        ok = ok or value is None
    elif isinstance(old, ListConfig):
        ok = isinstance(value, list)
        if ok and len(old):
            value = [_typed(str(v), old[0], key) for v in value]  # 1e-3 in a list too
    elif isinstance(old, DictConfig):
        raise DataError(f"{key} is a group: set one of {', '.join(f'{key}.{k}' for k in old)}")
    else:
        ok = True
    if not ok:
        raise DataError(f"{key}={text}: expected a value like {old!r}")
    return value


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    out = []
    for key in config:
        path = f"{prefix}{key}"
        out.append(path)
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            out += _keys(node, f"{path}.")
    return out


def check_trains(config: Mapping[str, Any]) -> None:
    """Raises `DataError` for a recipe that only tests models: it has no data of samples to train on, and no trainer."""
    if "trainer" not in config:
        name = config["recipe"]
        raise DataError(f"recipe {name!r} trains nothing: use python -m zoo.test recipe={name} model=NAME")


def plain(config: Any) -> Any:
    """The configuration as plain JSON types, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
