"""GenerationDefaults: how a checkpoint's authors would sample from it. No torch."""

from dataclasses import dataclass, fields
from pathlib import Path

from engine.errors import CheckpointError
from engine.model.config import MOST
from engine.model.huggingface import read_json

FILE = "generation_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDefaults:
    """What applies to a request that does not say it."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        is_right = self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0
        if not (is_right and 0 <= self.min_p <= 1 and self.repetition_penalty > 0):
            raise CheckpointError(f"{FILE} has values that nothing can be sampled with: {self}")


def generation_defaults(path_or_name: str) -> GenerationDefaults:
    """Of a folder's generation_config.json; a model without one has none of its own.

    Raises CheckpointError when a value cannot be.
    """
    path = Path(path_or_name).expanduser() / FILE
    given = read_json(path) if path.exists() else {}
    found: dict[str, float] = {}
    for name in (one.name for one in fields(GenerationDefaults)):
        value = given.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < MOST:  # nor is nan
            raise CheckpointError(f"{path}: {name} is {value!r}; a number is wanted")
        found[name] = value
    top_k = max(int(found.pop("top_k", 0)), 0)
    return GenerationDefaults(top_k=top_k, **found)
