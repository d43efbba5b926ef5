"""Recipes: Hydra's compose API picks the groups; values are set as they are typed.

A value never goes through Hydra's override grammar, so quotes, commas, brackets and equals signs in paths mean nothing
special. It takes the type of the value that it replaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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
    for group in GROUPS:
        if group in given:
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


def _set(config: DictConfig, key: str, text: str, recipe: str) -> None:
    known = _keys(config)
    if key not in known:
        raise DataError(f"recipe {recipe!r} has no key {key!r}{near(key, known)}")
    old = OmegaConf.select(config, key, throw_on_missing=False)
    OmegaConf.update(config, key, _typed(text, old, key))


def _typed(text: str, old: Any, key: str) -> Any:
    """`text` in the type of the value that it replaces."""
    if isinstance(old, str):
        return text
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    if old is None:
        return value if isinstance(value, (bool, int, float, list)) or value is None else text
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


def plain(config: Any) -> Any:
    """The configuration as plain JSON types, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
