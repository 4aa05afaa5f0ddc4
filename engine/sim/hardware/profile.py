"""Profile: the constants of a kind of machine, read from a YAML file that names their sources."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from engine.bounds import endless
from engine.errors import ConfigError
from engine.recipe import one_line

FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One accelerator, or one core that runs an instance. Seconds, bytes, operations a second."""

    memory_bytes: float
    bandwidth: float
    """of its memory, as the vendor says"""
    flops: float
    """dense 16-bit matrix rate, as the vendor says"""
    bandwidth_share: float = 1.0
    """of it, what kernels reach when they read weights and keys in long runs"""
    flops_share: float = 1.0
    """of it, what large matrix products reach"""
    half_rows: float = 0.0
    """a product of so many rows reaches half of that: the efficiency curve of small batches"""
    attention_flops_share: float = 1.0
    """of the matrix rate, what attention of many rows reaches"""
    layer_s: float = 0.0
    """each layer's launches, norms and elementwise kernels, which no batch makes cheaper"""
    step_s: float = 0.0
    """each step's scheduling, sampling and launch"""

    def __post_init__(self) -> None:
        if min(self.memory_bytes, self.bandwidth, self.flops) <= 0:
            raise ConfigError("device: memory_bytes, bandwidth and flops must be above 0")
        shares = (self.bandwidth_share, self.flops_share, self.attention_flops_share)
        if not all(0 < share <= 1 for share in shares):
            raise ConfigError("device: each share must be above 0 and at most 1")
        if min(self.half_rows, self.layer_s, self.step_s) < 0:
            raise ConfigError("device: half_rows, layer_s and step_s must not be below 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """From one device to another, each way."""

    bandwidth: float
    """bytes a second, of each device"""
    latency_s: float
    """one way, from a kernel that has its bytes to a kernel that reads them"""
    bandwidth_share: float = 1.0

    def __post_init__(self) -> None:
        if not (self.bandwidth > 0 and self.latency_s >= 0 and 0 < self.bandwidth_share <= 1):
            raise ConfigError("link: bandwidth above 0, latency_s not below 0, a share of 1")

    def seconds(self, num_bytes: float) -> float:
        return self.latency_s + num_bytes / (self.bandwidth * self.bandwidth_share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Steps timed on a machine with one model, in place of the roofline: see ``lendkv profile``."""

    rows: list[float]
    """query rows of a step, ascending"""
    rows_s: list[float]
    """seconds of a step of so many rows, one of them sampled, that attends to nothing else; linear
    in between"""
    read_key_s: float
    """seconds for each key that a step reads"""
    pair_s: float
    """seconds for each query row and key of prefills"""
    batches: list[float] = field(default_factory=lambda: [1.0])
    """sampled rows of a step, ascending"""
    batches_s: list[float] = field(default_factory=lambda: [0.0])
    """what so many sampled rows add, head and sampling; linear in between"""
    ask_s: float = 0.0
    """what one more holder adds to a step, beyond its link's latency"""
    answer_s: float = 0.0
    """what a step that asks takes of its holder's time, the reading of keys apart"""
    wait_s: float = 0.0
    """how much longer answers take while their holder is in a step, their share of it apart"""
    beside: float = 1.0
    """how many times as long a step takes while a neighbour on the host is in one"""
    front_s: float = 0.0
    """what a step takes longer on the cores that it shares with planner and frontend"""
    token_s: float = 0.0
    """and that for each token that it sends"""
    control_s: float = 0.0
    """way of a request to its step, and of its first token back; 0: not known"""
    maps: bool = False
    """instances on one host may read each other's memory in place"""
    sizes: list[int] = field(default_factory=list)
    """of the model, see Model.sizes; empty: of any"""

    def __post_init__(self) -> None:
        for ascending, seconds in ((self.rows, self.rows_s), (self.batches, self.batches_s)):
            if not ascending or len(ascending) != len(seconds) or ascending != sorted(ascending):
                raise ConfigError(
                    "measured: rows (and batches) must ascend and have as many rows_s (batches_s)"
                )
        if self.beside < 1:
            raise ConfigError("measured: beside must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A device, how many stand in a node, and what connects them in it and beyond it."""

    device: Device
    devices_per_node: int
    intra: Link
    inter: Link
    measured: Measured | None = None


def profile_of(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """One that comes with the engine, by name, or a YAML file. Raises ConfigError."""
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    path = FOLDER / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"hardware {name!r} is neither a YAML file nor one of {', '.join(known)}; "
            "lendkv profile writes one of this machine"
        )
    try:
        raw = OmegaConf.merge(
            OmegaConf.structured(Profile), OmegaConf.load(path), OmegaConf.create(overrides or {})
        )
        profile = OmegaConf.to_object(raw)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"hardware {name}: {one_line(error)}") from error
    assert isinstance(profile, Profile)
    if problems := endless(profile):
        raise ConfigError(*(f"hardware {name}: {problem}" for problem in problems))
    return profile
