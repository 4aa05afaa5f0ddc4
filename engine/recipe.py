"""Recipe files and ``key=value`` overrides as trees, laid over a typed one."""

import difflib
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from engine.errors import ConfigError


def read(recipe: str) -> DictConfig:
    """A recipe file's tree. Raises ConfigError."""
    try:
        layer = OmegaConf.load(recipe)
    except FileNotFoundError as error:
        near = sorted(str(p) for p in Path(os.path.dirname(recipe) or ".").glob("*.yaml"))
        there = f"; here are: {', '.join(near)}" if near else ""
        raise ConfigError(f"recipe {recipe!r} does not exist{there}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {recipe!r} cannot be read: {error}") from error
    except YAMLError as error:
        raise ConfigError(f"recipe {recipe!r} is not YAML: {one_line(error)}") from error
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"recipe {recipe!r} must hold 'key: value' lines at the top")
    return layer


def dotted(text: str, problems: list[str]) -> DictConfig:
    """The tree of one ``key=value``; a mistake is noted in ``problems``."""
    key, equals, _ = text.partition("=")
    if not equals or not key or key.startswith("-"):
        problems.append(f"override {text!r} is not key=value, such as transport.name=tcp")
        return OmegaConf.create({})
    try:
        layer = OmegaConf.from_dotlist([text])
    except (OmegaConfBaseException, YAMLError) as error:
        problems.append(f"override {text!r}: {one_line(error)}")
        return OmegaConf.create({})
    assert isinstance(layer, DictConfig)
    return layer


def leaves(layer: DictConfig, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths and values; a plugin's ``options`` are walked like any other keys."""
    found: list[tuple[str, Any]] = []
    for key in layer:
        path = f"{prefix}{key!s}"
        value = layer._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and len(value):
            found += leaves(value, f"{path}.")
        else:
            found.append((path, layer[key]))
    return found


def apply(tree: Any, path: str, value: Any, source: str, problems: list[str]) -> Any:
    """The tree with one value set; a key or value that cannot be is noted in ``problems``."""
    node, parts = tree, path.split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.get_type(node) is dict:
            break  # options: checked later, against the plugin's own Config
        if part not in node:
            known = sorted(node)
            close = difflib.get_close_matches(part, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            inside = ".".join(parts[:depth]) or "the top"
            problems.append(
                f"{source}: unknown key {path!r}{hint}; allowed at {inside}: {', '.join(known)}"
            )
            return tree
        node = node[part]
        if not isinstance(node, DictConfig) and depth < len(parts) - 1:
            problems.append(f"{source}: {'.'.join(parts[: depth + 1])!r} is a value, not a section")
            return tree
    layer: Any = value
    for part in reversed(parts):
        layer = {part: layer}
    try:
        return OmegaConf.merge(tree, layer)
    except (OmegaConfBaseException, ValueError) as error:
        problems.append(f"{source}: {path}={value!r}: {one_line(error)}")
        return tree


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
