"""YAML as recipes have it: plain values, each key once, 1e3 a number, and no dates."""

import re
from typing import Any

import yaml

FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|\.[0-9_]+([eE][-+]?[0-9]+)?"
    r"|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
)
MAX_DEPTH = 100


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                text = f"the key {key.value} is there twice"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":float", ":timestamp"))]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def parse(text: str) -> Any:
    """The value of a YAML text. Raises ValueError, which says what is wrong and where."""
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(_fault(error)) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    _require_depth(value, MAX_DEPTH)
    return value


TOO_DEEP = f"its lists and tables lie in each other more than {MAX_DEPTH} deep"


def _require_depth(value: Any, depth: int) -> None:
    """A value may be an alias of what it lies in."""
    if not depth:
        raise ValueError(TOO_DEEP)
    inner = value.values() if isinstance(value, dict) else value
    for one in inner if isinstance(value, dict | list) else ():
        _require_depth(one, depth - 1)


def _fault(error: yaml.YAMLError) -> str:
    """What the parser met, and where."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{problem}, in line {mark.line + 1}, column {mark.column + 1}"
