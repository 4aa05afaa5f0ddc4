"""Recipes of the simulator: defaults < recipe < ``key=value``; and which mode they are of."""

from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.errors import ConfigError

T = TypeVar("T")
MODES = ("faults", "performance")


def mode_of(recipe: str | None, overrides: Sequence[str]) -> str:
    """One of MODES, faults where nothing is said. Raises ConfigError."""
    mode = str(_merged([], recipe, overrides).get("mode", MODES[0]))
    if mode not in MODES:
        raise ConfigError(f"simulate: mode {mode!r} is none of {', '.join(MODES)}")
    return mode


def load_as(
    kind: type[T], recipe: str | None, overrides: Sequence[str], verb: str = "simulate"
) -> T:
    """The recipe as this dataclass. Raises ConfigError."""
    try:
        layers = [OmegaConf.structured(kind)]
        config = OmegaConf.to_object(_merged(layers, recipe, overrides, verb))
    except (OmegaConfBaseException, ValueError) as error:
        raise _wrong(error, verb) from error
    assert isinstance(config, kind)
    return config


def _merged(
    layers: list[Any], recipe: str | None, overrides: Sequence[str], verb: str = "simulate"
) -> Any:
    try:
        if recipe:
            layers = [*layers, OmegaConf.load(recipe)]
        return OmegaConf.merge(*layers, OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise _wrong(error, verb) from error


def _wrong(error: Exception, verb: str) -> ConfigError:
    key = getattr(error, "full_key", None) or "the recipe"
    return ConfigError(f"{verb}: {key}: {str(error).strip().splitlines()[0]}")
