"""The typed configuration tree: defaults < recipe < ``key=value``, all mistakes reported at once.

Plugins own their options: ``attention: {name: dist, options: {...}}`` is checked against that
class's ``Config``. From ``load`` on everything is plain frozen dataclasses.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.combinations import check
from engine.comm.kv_publisher import KvPublisher
from engine.errors import ConfigError
from engine.memory.lending import Lending
from engine.recipe import apply, as_yaml, leaves, one_line, typed
from engine.registry import Registry
from engine.scheduler.gmanager import GManager
from engine.scheduler.scheduler import Scheduler
from engine.serve_config import MASK, ServeConfig


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
    quantization: Literal["none", "int8"] = "none"
    """int8: matrices become 8-bit integers with a scale for each 64; faster, bfloat16 only"""
    device: str = "auto"
    """where it runs: auto (where the pool's blocks lie), cpu, cuda (each step process of a host has
    its own GPU), or one GPU as cuda:1"""
    cuda_graphs: bool = False
    """on a GPU, with the backend triton: steps of decodes are recorded once and replayed; not yet
    tried on one"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    name: str = "paged"
    options: dict[str, Any] = field(default_factory=dict)
    num_blocks: int = 256
    """rBlocks of each instance's pool"""
    memory: str = ""
    """instead of num_blocks: 60% of this host's memory, or 4GiB, for pools, weights and processes
    of all instances here"""
    sizes: list[int] = field(default_factory=list)
    """rBlocks by rank, where pools are to differ; empty: all have num_blocks"""
    block_tokens: int = 64
    """tokens in an rBlock; the same in the whole cluster"""
    dtype: Literal["model", "int8", "fp8"] = "model"
    """of keys and values: the model's, or 8 bits with a float32 scale for each token and head"""
    kernel: str = "native"
    """what computes partials for others: native or numpy"""
    lending: Lending.Config = field(default_factory=Lending.Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    host: str = "127.0.0.1"
    """address that control sockets listen on"""
    port: int = 0
    """the planner's, to which others join; 0 takes a free one"""
    advertise: str = ""
    """host name or address under which other hosts reach this one; needed to listen on all"""
    key_file: str = ""
    """the cluster's key; else LENDKV_KEY, else rank 0 makes one for those it starts with"""
    join: str = ""
    """HOST:PORT of a running cluster's planner: add these instances to it"""
    donor: bool = False
    """with join: lend memory and run no requests"""
    heartbeat_s: float = 0.2
    event_log: str = ""
    """folder for logs of what steps, pools and planner heard: lendkv simulate replay=FILE"""
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
    """run the prompt again on one big instance and compare the tokens; with tp in float32 only"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosConfig:
    seconds: float = 300.0
    """how long faults are injected, after all instances are ready"""
    every_s: float = 7.0
    """from one fault to the next; at least 5, so that restarts stay below their limit"""
    seed: int = 0
    kinds: list[str] = field(
        default_factory=lambda: ["kill", "freeze", "slow", "partition", "restart", "join", "leave"]
    )
    """partition needs transport.name=tcp"""
    prompt_file: str = "prompts/time_machine.txt"
    """contexts are cut from it; relative to the working folder, then to the recipe"""
    contexts: int = 3
    """different contexts of each length; clients take them in turn"""
    long_tokens: int = 176
    short_tokens: int = 24
    max_tokens: int = 48
    """of each answer"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole tree; ``lendkv generate --print-config`` shows it."""

    instances: int = 1
    """independent instances; under torchrun its number of processes"""
    tp: int = 1
    """tensor parallelism: step processes of each instance, which share its model and one pool"""
    threads: int = 1
    """processor threads of each step process"""
    model: ModelConfig = field(default_factory=ModelConfig)
    attention: Component = field(default_factory=lambda: Component(name="dist"))
    pool: PoolConfig = field(default_factory=PoolConfig)
    placement: Component = field(default_factory=lambda: Component(name="ledger"))
    transport: Component = field(default_factory=lambda: Component(name="shm"))
    scheduler: Scheduler.Config = field(default_factory=Scheduler.Config)
    planner: GManager.Config = field(default_factory=GManager.Config)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    kv_events: KvPublisher.Config = field(default_factory=KvPublisher.Config)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    chaos: ChaosConfig = field(default_factory=ChaosConfig)
    callbacks: list[str] = field(default_factory=list)
    """"package.module:Class" of your own callbacks, run in each step process"""


def load(recipe: str | None, overrides: Sequence[str] = ()) -> Config:
    """Merge defaults, a recipe file and ``key=value`` overrides.

    Raises ConfigError with every unknown key and wrong value found.
    """
    config = typed(Config, recipe, overrides)
    if problems := check(config):
        raise ConfigError(*dict.fromkeys(problems))
    return config


def of_rank(config: Config, rank: int) -> Config:
    """The configuration as that rank's instance has it: with its own pool's size."""
    if not config.pool.sizes:
        return config
    pool = dataclasses.replace(config.pool, num_blocks=config.pool.sizes[rank])
    return dataclasses.replace(config, pool=pool)


def options_of(kind: Registry, key: str, part: Component | PoolConfig) -> tuple[type[Any], Any]:
    """The class behind a component and its checked ``Config``; raises ConfigError."""
    cls = kind.load(part.name)
    if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        raise ConfigError(f"{key}.name={part.name}: {cls.__name__} has no Config dataclass")
    problems: list[str] = []
    tree = OmegaConf.structured(cls.Config)
    for path, value in leaves(part.options):
        tree = apply(tree, path, value, f"{key}.options of {part.name!r}", problems)
    if problems:
        raise ConfigError(*problems)
    try:
        return cls, OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{key}.options of {part.name!r}: {one_line(error)}") from error


def to_yaml(config: Config) -> str:
    """The tree as a recipe, but for what is secret in it."""
    masked = dataclasses.replace(config.serve, api_keys=[MASK] * len(config.serve.api_keys))
    return as_yaml(dataclasses.replace(config, serve=masked))


def recipe_path(recipe: str | None, name: str) -> Path:
    """A file that a recipe names: relative to the working folder, else to the recipe's folder."""
    path = Path(name).expanduser()
    if not path.exists() and recipe and not path.is_absolute():
        beside = Path(recipe).parent / path
        return beside if beside.exists() else path
    return path
