"""Tables from a recipe's names to classes, imported on first use."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from engine.errors import ConfigError


class Registry:
    """Maps a name to ``"module:Class"``. A name with a colon is a user's own class."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self.entries = dict(entries)

    def names(self) -> list[str]:
        return sorted(self.entries)

    def load(self, name: str) -> type[Any]:
        """The class behind ``name``; raises ConfigError listing the known names."""
        target = name if ":" in name else self.entries.get(name)
        if target is None:
            known = "".join(f"{one}, " for one in self.names()) + ("or " if self.entries else "")
            raise ConfigError(
                f'unknown {self.kind} {name!r}; known: {known}"package.module:Class" of your own'
            )
        module_name, _, class_name = target.partition(":")
        try:
            loaded = getattr(import_module(module_name), class_name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{self.kind} {name!r} needs the module {error.name!r}, which is not installed"
            ) from error
        except (
            ImportError,
            TypeError,
            ValueError,
        ) as error:  # such as ":Class", or ".module:Class"
            raise ConfigError(f"{self.kind} {name!r} cannot be imported: {error}") from error
        except AttributeError as error:
            raise ConfigError(
                f"{self.kind} {name!r}: module {module_name!r} has no class {class_name!r}"
            ) from error
        if not isinstance(loaded, type):
            raise ConfigError(f"{self.kind} {name!r} is not a class")
        return loaded


def own_config(cls: type[Any]) -> Any:
    """A part's default options. Raises ConfigError where it is no part."""
    if not hasattr(cls, "Config"):
        raise ConfigError(f"{cls.__name__} is no part: it has no nested Config dataclass")
    return cls.Config()


def construct(cls: type[Any], options: Any, **runtime: Any) -> Any:
    """A plugin from its options and the runtime objects of its interface."""
    return cls(options, **runtime)
