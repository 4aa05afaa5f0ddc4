"""What a configuration's values cannot be together, though each is of the right type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.bounds import PORT, unbounded
from engine.devices import fault_of
from engine.memory import OF_THE_STEP
from engine.memory.room import size_fault

if TYPE_CHECKING:
    from engine.config import Config

ANY_INTERFACE = ("0.0.0.0", "::", "*")


def check(config: Config) -> list[str]:
    """Values that are of the right type and still cannot be."""
    problems = unbounded(config)
    if not problems:
        problems += _check_passing(config)
    problems += _check_cluster(config)
    problems += _check_ranks(config)
    if config.model.bits == "schedule" and config.model.library != "lendkv":
        problems.append("model.bits=schedule is for model.library=lendkv only")
    if config.model.quantization != "none":
        for name, needed in (("library", "lendkv"), ("dtype", "bfloat16")):
            if getattr(config.model, name) != needed:
                problems.append(
                    f"model.quantization={config.model.quantization} is for "
                    f"model.{name}={needed} only"
                )
    problems += _check_device(config)
    last = config.serve.instance_port + config.instances - 1
    if 0 < config.serve.instance_port <= PORT[1] < last:
        problems.append(
            f"serve.instance_port={config.serve.instance_port} and {config.instances} instances "
            f"want ports up to {last}, and the last one is {PORT[1]}: lower serve.instance_port"
        )
    if config.serve.instance_port <= config.serve.port <= last and config.serve.instance_port:
        problems.append(
            f"serve.port={config.serve.port} is the cluster's, and serve.instance_port="
            f"{config.serve.instance_port} gives it to an instance too: choose others"
        )
    if config.generate.prompt and config.generate.prompt_file:
        problems.append("generate.prompt and generate.prompt_file are both set; choose one")
    return problems


def _check_passing(config: Config) -> list[str]:
    """Whether a chunk of a prompt fits on its way to creditors."""
    passing = -(-config.scheduler.max_step_tokens // config.pool.block_tokens) + 1
    if config.instances == 1 or passing <= config.pool.num_blocks // 2:
        return []
    most = (config.pool.num_blocks // 2 - 1) * config.pool.block_tokens
    return [
        f"scheduler.max_step_tokens={config.scheduler.max_step_tokens} lets {passing} blocks "
        f"of {config.pool.block_tokens} tokens pass through a pool of "
        f"{config.pool.num_blocks} on their way to creditors, and at most half of it may: "
        f"lower it to {max(most, 0)}, or raise pool.num_blocks"
    ]


def _check_cluster(config: Config) -> list[str]:
    cluster, problems = config.cluster, []
    hosts = (("cluster.host", cluster.host), ("transport.options.host", _listens_on(config)))
    problems += [
        f"{name}={host} listens on all interfaces, and no other host can dial that: set "
        "cluster.advertise to this host's name or address"
        for name, host in hosts
        if host in ANY_INTERFACE and not cluster.advertise
    ]
    if cluster.advertise in ANY_INTERFACE:
        problems.append(f"cluster.advertise={cluster.advertise} is nowhere that one could dial")
    if cluster.donor and not cluster.join:
        problems.append("cluster.donor lends to a running cluster: set cluster.join=HOST:PORT")
    if cluster.join and not _is_address(cluster.join):
        problems.append(f"cluster.join={cluster.join} is not of the form HOST:PORT")
    if config.pool.memory and config.pool.sizes:
        problems.append("pool.memory and pool.sizes are both set; choose one")
    if config.pool.memory and (fault := size_fault(config.pool.memory)):
        problems.append(f"pool.memory: {fault}")
    sizes = config.pool.sizes
    if sizes and (len(sizes) != config.instances or min(sizes) < 2):
        problems.append(
            f"pool.sizes={sizes} must name a size of at least 2 for each of the "
            f"{config.instances} instances"
        )
    return problems


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) <= PORT[1]


def _listens_on(config: Config) -> str:
    return str(config.transport.options.get("host", ""))


def _check_device(config: Config) -> list[str]:
    """What a GPU cannot be together with; the GPU itself is looked for later."""
    model, problems = config.model, []
    if config.pool.name in OF_THE_STEP:
        problems = [
            f"pool.name={config.pool.name} is memory of the step's process, and {reason}"
            for wrong, reason in (
                (config.cluster.donor, "a donor runs no step: use pool.name=paged"),
                (config.pool.memory, "pool.memory counts the host's: set pool.num_blocks"),
            )
            if wrong
        ]
    if config.pool.name == "device" and config.pool.options.get("mapped"):
        problems += [f"pool.options.mapped=true: {reason}" for reason in unmappable(config)]
    if fault := fault_of(model.device):
        return [*problems, f"model.device={fault}"]
    named = (
        ("model.device", model.device),
        ("pool.options.device", str(config.pool.options.get("device", ""))),
    )
    problems += [
        f"{name}={device} is one GPU, and each of tp={config.tp} ranks needs its own: use "
        f"{name}=cuda"
        for name, device in named
        if config.tp > 1 and ":" in device
    ]
    if model.device in ("auto", "cpu"):
        return problems
    return problems + [
        f"{name}={value} runs on the CPU only, and model.device is {model.device}: {advice}"
        for name, value, allowed, advice in (
            ("model.library", model.library, "lendkv", "use model.library=lendkv"),
            ("model.quantization", model.quantization, "none", "use model.quantization=none"),
        )
        if value != allowed
    ]


def unmappable(config: Config) -> list[str]:
    """Why instances with this recipe cannot read each other's pools in place."""
    return [
        reason
        for wrong, reason in (
            (
                config.transport.name != "shm",
                f"transport.name={config.transport.name} maps no memory: use transport.name=shm",
            ),
            (config.tp > 1, f"tp={config.tp} ranks have a part of a pool each: use tp=1"),
        )
        if wrong
    ]


def _check_ranks(config: Config) -> list[str]:
    """What tensor parallelism cannot be together with."""
    if config.tp < 2:
        return []
    model, options = config.model, config.attention.options
    return [
        f"{name}={value} is for tp=1 only (it is {config.tp}): {reason}"
        for name, value, allowed, reason in (
            ("model.library", model.library, "lendkv", "that library's models are not split"),
            ("model.quantization", model.quantization, "none", "8-bit matrices are not split"),
            ("model.bits", model.bits, "any", "sums over ranks depend on the rows of a step"),
            ("model.cuda_graphs", model.cuda_graphs, False, "sums over ranks are not recorded"),
            ("attention.options.way", options.get("way", ""), None, "ranks have no staging blocks"),
            ("cluster.donor", config.cluster.donor, False, "a donor runs no steps"),
        )
        if (value == "copy" if allowed is None else value != allowed)
    ]
