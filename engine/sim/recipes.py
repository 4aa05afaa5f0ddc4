"""Recipes of the simulator: defaults < recipe < ``key=value``; and which mode they are of."""

from collections.abc import Sequence
from typing import TypeVar

from engine.bounds import endless
from engine.errors import ConfigError
from engine.recipe import dotted, read, typed

T = TypeVar("T")
MODES = ("faults", "performance")


def mode_of(recipe: str | None, overrides: Sequence[str]) -> str:
    """One of MODES, faults where nothing is said. Raises ConfigError."""
    problems: list[str] = []
    layers = [read(recipe)] if recipe else []
    layers += [dotted(text, problems) for text in overrides]
    if problems:
        raise ConfigError(*problems)
    mode = MODES[0]
    for layer in layers:
        mode = layer.get("mode", mode)
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} is none of {', '.join(MODES)}")
    return mode


def load_as(kind: type[T], recipe: str | None, overrides: Sequence[str]) -> T:
    """The recipe as this dataclass. Raises ConfigError."""
    config = typed(kind, recipe, overrides)
    if problems := endless(config):
        raise ConfigError(*problems)
    return config
