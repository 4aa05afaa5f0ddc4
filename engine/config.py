"""The typed configuration tree: defaults < recipe < ``key=value``, all mistakes reported at once.

Plugins own their options: ``attention: {name: dist, options: {...}}`` is checked against that
class's ``Config``. From ``load`` on everything is plain frozen dataclasses.
"""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from engine.errors import ConfigError
from engine.memory.lending import Lending
from engine.registry import Registry
from engine.scheduler.gmanager import GManager
from engine.scheduler.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A part chosen by name, or by ``"package.module:Class"``, and its own options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    path: str = "smollm2"
    """a Hugging Face folder, a .gguf file, or smollm2 (the embedded model)"""
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    library: Literal["lendkv", "transformers"] = "lendkv"
    """what runs it; transformers: any causal decoder with full attention, but slower"""
    bits: Literal["any", "schedule"] = "any"
    """schedule: a sequence's bits do not depend on batch, chunks or recompute; slower"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    name: str = "paged"
    options: dict[str, Any] = field(default_factory=dict)
    num_blocks: int = 256
    """rBlocks of this instance's pool"""
    block_tokens: int = 64
    """tokens in an rBlock; the same in the whole cluster"""
    kernel: str = "native"
    """what computes partials for others: native or numpy"""
    lending: Lending.Config = field(default_factory=Lending.Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    host: str = "127.0.0.1"
    """address that control sockets listen on"""
    heartbeat_s: float = 0.2
    start_s: float = 120.0
    """longest wait for all instances to be ready"""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    prompt: str = ""
    prompt_file: str = ""
    """read the prompt from this file, relative to the working folder, then to the recipe"""
    chat: bool = True
    """put the prompt through the model's chat template, if it has one"""
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    ignore_eos: bool = False
    compare: bool = True
    """run the prompt again on one big instance and compare the tokens"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    host: str = "127.0.0.1"
    port: int = 8000
    """of the cluster's gateway, on rank 0"""
    instance_port: int = 0
    """when set, instance i also serves HTTP by itself on this port + i"""
    model_name: str = ""
    """what clients call the model; its path where empty"""
    max_body_bytes: int = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole tree; ``lendkv generate --print-config`` shows it."""

    instances: int = 1
    """independent instances; under torchrun its number of processes"""
    threads: int = 1
    """processor threads of each step"""
    model: ModelConfig = field(default_factory=ModelConfig)
    attention: Component = field(default_factory=lambda: Component(name="dist"))
    pool: PoolConfig = field(default_factory=PoolConfig)
    placement: Component = field(default_factory=lambda: Component(name="ledger"))
    transport: Component = field(default_factory=lambda: Component(name="shm"))
    scheduler: Scheduler.Config = field(default_factory=Scheduler.Config)
    planner: GManager.Config = field(default_factory=GManager.Config)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    callbacks: list[str] = field(default_factory=list)
    """"package.module:Class" of your own callbacks, run in each step process"""


def load(recipe: str | None, overrides: Sequence[str] = ()) -> Config:
    """Merge defaults, a recipe file and ``key=value`` overrides.

    Raises ConfigError with every unknown key and wrong value found.
    """
    problems: list[str] = []
    tree = OmegaConf.structured(Config())
    layers = [(recipe, _read(recipe))] if recipe else []
    layers += [(f"override {text!r}", _dotted(text, problems)) for text in overrides]
    for source, layer in layers:
        for path, value in _leaves(layer):
            tree = _apply(tree, path, value, str(source), problems)
    config = None
    if not problems:
        try:
            config = OmegaConf.to_object(tree)
        except (OmegaConfBaseException, ValueError) as error:
            problems.append(_one_line(error))
    if isinstance(config, Config):
        problems += check(config)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    assert isinstance(config, Config)
    return config


def check(config: Config) -> list[str]:
    """Values that are of the right type and still cannot be."""
    problems = []
    for name, low in (
        ("instances", 1),
        ("threads", 1),
        ("pool.num_blocks", 2),
        ("pool.block_tokens", 1),
        ("scheduler.max_step_tokens", 1),
        ("scheduler.max_num_seqs", 1),
        ("scheduler.grow_blocks", 1),
        ("generate.max_tokens", 1),
    ):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if value < low:
            problems.append(f"{name} is {value}; at least {low} is needed")
    passing = -(-config.scheduler.max_step_tokens // config.pool.block_tokens) + 1
    if config.instances > 1 and passing > config.pool.num_blocks // 2:
        most = (config.pool.num_blocks // 2 - 1) * config.pool.block_tokens
        problems.append(
            f"scheduler.max_step_tokens={config.scheduler.max_step_tokens} lets {passing} blocks "
            f"of {config.pool.block_tokens} tokens pass through a pool of "
            f"{config.pool.num_blocks} on their way to creditors, and at most half of it may: "
            f"lower it to {max(most, 0)}, or raise pool.num_blocks"
        )
    if config.model.bits == "schedule" and config.model.library != "lendkv":
        problems.append("model.bits=schedule is for model.library=lendkv only")
    if config.pool.block_tokens > 256:
        problems.append(f"pool.block_tokens is {config.pool.block_tokens}; at most 256 is possible")
    if config.generate.prompt and config.generate.prompt_file:
        problems.append("generate.prompt and generate.prompt_file are both set; choose one")
    return problems


def options_of(kind: Registry, key: str, part: Component | PoolConfig) -> tuple[type[Any], Any]:
    """The class behind a component and its checked ``Config``; raises ConfigError."""
    cls = kind.load(part.name)
    if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        raise ConfigError(f"{key}.name={part.name}: {cls.__name__} has no Config dataclass")
    problems: list[str] = []
    tree = OmegaConf.structured(cls.Config)
    for path, value in _leaves(OmegaConf.create(part.options)):
        tree = _apply(tree, path, value, f"{key}.options of {part.name!r}", problems)
    if problems:
        raise ConfigError(*problems)
    try:
        return cls, OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{key}.options of {part.name!r}: {_one_line(error)}") from error


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def recipe_path(recipe: str | None, name: str) -> Path:
    """A file that a recipe names: relative to the working folder, else to the recipe's folder."""
    path = Path(name).expanduser()
    if not path.exists() and recipe and not path.is_absolute():
        beside = Path(recipe).parent / path
        return beside if beside.exists() else path
    return path


def _read(recipe: str) -> DictConfig:
    try:
        layer = OmegaConf.load(recipe)
    except FileNotFoundError as error:
        near = sorted(str(p) for p in Path(os.path.dirname(recipe) or ".").glob("*.yaml"))
        there = f"; here are: {', '.join(near)}" if near else ""
        raise ConfigError(f"recipe {recipe!r} does not exist{there}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {recipe!r} cannot be read: {error}") from error
    except YAMLError as error:
        raise ConfigError(f"recipe {recipe!r} is not YAML: {_one_line(error)}") from error
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"recipe {recipe!r} must hold 'key: value' lines at the top")
    return layer


def _dotted(text: str, problems: list[str]) -> DictConfig:
    key, equals, _ = text.partition("=")
    if not equals or not key or key.startswith("-"):
        problems.append(f"override {text!r} is not key=value, such as transport.name=tcp")
        return OmegaConf.create({})
    try:
        layer = OmegaConf.from_dotlist([text])
    except (OmegaConfBaseException, YAMLError) as error:
        problems.append(f"override {text!r}: {_one_line(error)}")
        return OmegaConf.create({})
    assert isinstance(layer, DictConfig)
    return layer


def _leaves(layer: DictConfig, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted paths and values; a plugin's ``options`` are walked like any other keys."""
    found: list[tuple[str, Any]] = []
    for key in layer:
        path = f"{prefix}{key!s}"
        value = layer._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and len(value):
            found += _leaves(value, f"{path}.")
        else:
            found.append((path, layer[key]))
    return found


def _apply(tree: Any, path: str, value: Any, source: str, problems: list[str]) -> Any:
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
        problems.append(f"{source}: {path}={value!r}: {_one_line(error)}")
        return tree


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
