"""The verb ``doctor``: what of this machine and recipe is fine, what is not, and what to do."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from engine import doctor_devices, sizing
from engine.build import build_transport, check_parts, layout_of
from engine.comm.auth import KEY_VARIABLE, read_key
from engine.config import Config
from engine.errors import ConfigError, LendKVError
from engine.finding import Finding
from engine.memory.base import region_bytes
from engine.memory.room import available_bytes
from engine.model.checkpoint import describe
from engine.model.shard import require_shards
from engine.native import library
from engine.picture import human
from engine.printed import Printed
from engine.serve import listen
from engine.server.api_keys import ApiKeys


def examine(config: Config) -> Iterator[Finding]:
    """All findings, cheap ones first."""
    for look in (
        _machine,
        _compiler,
        _packages,
        doctor_devices.gpu,
        doctor_devices.attention,
        doctor_devices.device,
        _model,
        _memory,
        _parts,
        _transport,
        _cluster,
        _keys,
        _port,
    ):
        yield from look(config)


def doctor(config: Config) -> int:
    """Print the report; status 1 when something is wrong."""
    console = Printed()
    styles = {"fine": "green", "note": "yellow", "wrong": "bold red"}
    findings = []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in examine(config):
        findings.append(finding)
        state = f"[{styles[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.what, escape(finding.found), escape(finding.advice))
    console.print(table)
    wrong = sum(finding.state == "wrong" for finding in findings)
    console.print("all fine" if not wrong else f"{wrong} of {len(findings)} must be mended")
    return 1 if wrong else 0


def _machine(config: Config) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    busy = config.instances * config.tp * config.threads
    found = f"{cores} cores, {platform.machine()}, Linux {platform.release()}"
    if busy > cores:
        advice = "steps share cores: lower threads, or set transport.options.spin_s=0"
        yield Finding("processor", "note", f"{found}; {busy} step threads wanted", advice)
    else:
        yield Finding("processor", "fine", found)
    flags = library.processor_flags()
    names = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")
    known = [name for name in names if name in flags]
    yield Finding(
        "instruction sets", "fine", ", ".join(known) or "none of AMX, AVX-512, AVX2, NEON"
    )


def _compiler(config: Config) -> Iterator[Finding]:
    path = next((shutil.which(name) for name in library.COMPILERS if shutil.which(name)), None)
    try:
        library.load()
        yield Finding("native helper", "fine", f"compiled by {path}" if path else "compiled")
    except LendKVError as error:
        yield Finding("native helper", "wrong", "not available", str(error))


def _packages(config: Config) -> Iterator[Finding]:
    nixl = config.transport.name == "nixl"
    for name, needed, purpose in (
        ("torch", True, ""),
        ("nixl-cu12", nixl, "only needed for transport.name=nixl: pip install 'lendkv[nixl]'"),
    ):
        try:
            yield Finding(f"package {name}", "fine", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if needed:
                yield Finding(f"package {name}", "wrong", "missing", f"pip install {name}")
            else:
                yield Finding(f"package {name}", "note", "missing", purpose)


def _model(config: Config) -> Iterator[Finding]:
    try:
        model = describe(config.model.path, library=config.model.library)
        shape = model.shape
    except LendKVError as error:
        yield Finding("model", "wrong", config.model.path, str(error))
        return
    try:
        require_shards(model, config.tp)
    except ConfigError as error:
        yield Finding("tensor parallelism", "wrong", f"tp={config.tp}", str(error))
    yield Finding(
        "model",
        "fine",
        f"{config.model.path}: {shape.num_layers} layers, {shape.num_heads} query and "
        f"{shape.num_kv_heads} KV heads of {shape.head_dim}, {shape.max_positions} positions",
    )


def _memory(config: Config) -> Iterator[Finding]:
    with contextlib.suppress(LendKVError):  # a missing model was told already
        shape = describe(config.model.path, library=config.model.library).shape
        try:
            config = sizing.sized(config, shape, config.instances)
        except ConfigError as error:
            yield Finding("memory", "wrong", f"pool.memory={config.pool.memory}", str(error))
            return
        layout = layout_of(config, shape)
        yield Finding("pools", "fine", sizing.advice(config, shape))
        wanted = config.instances * region_bytes(layout, config.pool.num_blocks)
        there = available_bytes()
        tokens = config.pool.num_blocks * config.pool.block_tokens
        found = f"pools of all instances {human(wanted)}, {tokens} tokens each; "
        found += f"available {human(there)}" if there is not None else "available: unknown"
        if there is not None and wanted > 0.9 * there:
            advice = "lower pool.num_blocks or instances, or free memory"
            yield Finding("memory", "wrong", found, advice)
        else:
            yield Finding("memory", "fine", found)


def _parts(config: Config) -> Iterator[Finding]:
    problems = check_parts(config)
    if problems:
        yield Finding("recipe's parts", "wrong", f"{len(problems)} mistakes", "\n".join(problems))
    else:
        yield Finding("recipe's parts", "fine", "names and options are known")


def _transport(config: Config) -> Iterator[Finding]:
    if config.transport.name == "loopback":
        return  # told among the parts
    try:
        transport = build_transport(config)
        address = transport.listen()
        transport.close()
        yield Finding("transport", "fine", f"{config.transport.name} can listen at {address}")
    except LendKVError as error:
        yield Finding("transport", "wrong", config.transport.name, str(error))


def _cluster(config: Config) -> Iterator[Finding]:
    cluster = config.cluster
    where = f"{cluster.advertise or cluster.host}:{cluster.port or '(a free port)'}"
    found = f"the planner listens at cluster.join={where}"
    try:
        if read_key(cluster.key_file):
            yield Finding("cluster", "fine", f"{found}; a key is given")
        else:
            advice = f"set cluster.key_file or {KEY_VARIABLE} to let more instances join"
            yield Finding("cluster", "note", f"{found}; the key is made at the start", advice)
    except LendKVError as error:
        yield Finding("cluster", "wrong", found, str(error))


def _keys(config: Config) -> Iterator[Finding]:
    try:
        keys = ApiKeys.read(config.serve.api_keys, config.serve.api_key_file)
    except LendKVError as error:
        yield Finding("API keys", "wrong", "not as they must be", str(error))
        return
    if keys:
        yield Finding("API keys", "fine", f"{len(keys)} are given")
    else:
        yield Finding("API keys", "note", "none: everybody may", "see docs/operations.md")


def _port(config: Config) -> Iterator[Finding]:
    host, first = config.serve.host, config.serve.instance_port
    ports = [(config.serve.port, "serve.port")]
    more = range(first, first + config.instances) if first else ()
    ports += [(port, "serve.instance_port") for port in more]
    for port, key in ports:
        try:
            listen(host, port, key).close()
            yield Finding("HTTP port", "fine", f"{host}:{port} is free")
        except LendKVError as error:
            yield Finding("HTTP port", "wrong", f"{host}:{port}", str(error))
