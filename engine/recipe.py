"""Recipe files and ``key=value`` overrides as trees, laid over a typed one."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.errors import ConfigError
from engine.yaml_tree import parse

T = TypeVar("T")
Tree = dict[Any, Any]


def typed(kind: type[T], recipe: str | None, overrides: Sequence[str]) -> T:
    """Defaults < a recipe file < ``key=value``, as this dataclass.

    Raises ConfigError with every unknown key and wrong value found.
    """
    problems: list[str] = []
    tree = OmegaConf.structured(kind)
    layers = [] if recipe is None else [(recipe, read(recipe))]
    layers += [(f"override {text!r}", dotted(text, problems)) for text in overrides]
    for source, layer in layers:
        for path, value in leaves(layer):
            tree = apply(tree, path, value, str(source), problems)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    try:
        found = OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(found, kind)
    return found


def read(recipe: str) -> Tree:
    """A recipe file's tree. Raises ConfigError."""
    try:
        tree = parse(Path(recipe).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = sorted(str(p) for p in Path(os.path.dirname(recipe) or ".").glob("*.yaml"))
        there = f"; here are: {', '.join(near)}" if near else ""
        raise ConfigError(f"recipe {recipe!r} does not exist{there}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"recipe {recipe!r} cannot be read: {reason}") from error
    except ValueError as error:
        raise ConfigError(f"recipe {recipe!r} is not YAML: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"recipe {recipe!r} must hold 'key: value' lines at the top")
    return tree or {}


def dotted(text: str, problems: list[str]) -> Tree:
    """The tree of one ``key=value``; a mistake is noted in ``problems``."""
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        hint = "; there is one recipe only" if text.endswith((".yaml", ".yml")) else ""
        problems.append(f"override {text!r} is not key=value, such as transport.name=tcp{hint}")
        return {}
    try:
        tree: Any = parse(value) if value else ""
    except ValueError as error:
        problems.append(f"override {text!r}: {error}")
        return {}
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)


def leaves(layer: Tree, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths and values; a plugin's ``options`` are walked like any other keys."""
    found: list[tuple[str, Any]] = []
    for key, value in layer.items():
        path = f"{prefix}{key!s}"
        if isinstance(value, dict) and value:
            found += leaves(value, f"{path}.")
        else:
            found.append((path, value))
    return found


def apply(tree: Any, path: str, value: Any, source: str, problems: list[str]) -> Any:
    """The tree with one value set; a key or value that cannot be is noted in ``problems``."""
    node, parts = tree, path.split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.get_type(node) is dict:
            break  # options: checked later, against the plugin's own Config
        if part not in node:
            known = sorted(node)
            close = _sections_with(part, node) or difflib.get_close_matches(part, known, n=1)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            inside = ".".join(parts[:depth]) or "the top"
            problems.append(
                f"{source}: unknown key {path!r}{hint}; allowed at {inside}: {', '.join(known)}"
            )
            return tree
        node = node[part]
        if not isinstance(node, DictConfig) and depth < len(parts) - 1:
            problems.append(f"{source}: {'.'.join(parts[: depth + 1])!r} is a value, not a section")
            return tree
    else:
        if wanted := _wanted(tree, parts, value):
            problems.append(f"{source}: {path}={value!r}: {wanted} is wanted")
            return tree
    if value == MISSING:
        problems.append(f"{source}: {path}={MISSING}: a value is missing")
        return tree
    literal = _literal(value)
    layer: Any = literal
    for part in reversed(parts):
        layer = {part: layer}
    try:
        merged = OmegaConf.merge(tree, layer)
        if literal != value:  # a number's place refuses text here, and ``${`` only when it is read
            OmegaConf.select(merged, path)
        return merged
    except (OmegaConfBaseException, ValueError) as error:
        problems.append(f"{source}: {path}={value!r}: {_why(value, error)}")
        return tree


def _why(value: Any, error: Exception) -> str:
    """What of a value OmegaConf refuses, in the words of a recipe."""
    if value in (None, ""):
        return "a value is wanted"
    said = one_line(error)
    for its, ours in (
        ("Integer", "a whole number"),
        ("Float", "a number"),
        ("bool", "true or false"),
    ):
        if f"converted to {its}" in said or f"valid {its}" in said:
            return f"{ours} is wanted"
    return said


def _sections_with(key: str, node: Any) -> list[str]:
    """Where this key is, one level below."""
    inner = {name: node[name] for name in sorted(node) if isinstance(node[name], DictConfig)}
    return [f"{name}.{key}" for name, section in inner.items() if key in section]


def _wanted(tree: Any, parts: list[str], value: Any) -> str:
    """What this place needs instead of this value; OmegaConf has its own words, or none, where a
    list or a section stands in the place of something else."""
    owner, place = tree, tree
    for part in parts:
        owner, place = place, place[part]
    if isinstance(place, DictConfig):
        keys = ", ".join(sorted(place)) or "key: value"
        return "" if isinstance(value, dict) else f"a section ({keys})"
    if not isinstance(place, ListConfig):
        return "one value" if isinstance(value, list | dict) else ""
    if not isinstance(value, list):
        return "a list, such as [a, b],"
    owner = (
        OmegaConf.get_type(tree, ".".join(parts[:-1])) if parts[1:] else OmegaConf.get_type(tree)
    )
    (item,) = get_args(get_type_hints(owner)[parts[-1]])
    nested = item is not Any and any(isinstance(one, list | dict) for one in value)
    return "a list of single values" if nested else ""


def _literal(value: Any) -> Any:
    """What OmegaConf reads as this value, whatever ``${`` is in its texts."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return [_literal(one) for one in value] if isinstance(value, list) else value


def as_yaml(config: Any) -> str:
    """A tree of dataclasses as a recipe."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
