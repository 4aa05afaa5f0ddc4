"""The composition root: turns a config into objects. Nothing else constructs a plugin.

Roles: a *pool* (``build_pool``, ``build_pool_server``), a *step* (``build_loop``), the *planner*
(``build_planner``). Each process builds only its own; the pool's part needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from engine.attention import KERNELS
from engine.build_attention import build_kernel, build_runner
from engine.comm import TRANSPORTS
from engine.comm.base import Transport
from engine.comm.collective import Collective
from engine.config import Config, options_of
from engine.core import BlockLayout, ModelShape
from engine.errors import ConfigError
from engine.memory import POOLS
from engine.memory.base import MemoryPool
from engine.memory.rmanager import RManager
from engine.protocol import VERSION, Hello, Message
from engine.recording import record_planner, record_pool, record_step
from engine.registry import Registry, construct, own_config
from engine.scheduler import PLACEMENTS
from engine.scheduler.base import Placement
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner
from engine.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    from engine.attention.answer import PoolServer
    from engine.attention.local import LocalBackend
    from engine.callbacks import Callback
    from engine.follower import Follower
    from engine.loop import Loop
    from engine.model.checkpoint import Checkpoint
    from engine.model.runner import Runner
    from engine.model.tokenizer import Tokenizer
    from engine.model.transformers_checkpoint import TransformersCheckpoint

CONNECT_OWN_S = 10.0


def layout_of(config: Config, shape: ModelShape) -> BlockLayout:
    return BlockLayout(
        layers=shape.num_layers,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tokens=config.pool.block_tokens,
        dtype=config.model.dtype if config.pool.dtype == "model" else config.pool.dtype,
        queries=config.model.dtype,
        quantization=config.model.quantization,
    )


def check_parts(config: Config) -> list[str]:
    """What is wrong with the parts' names and options, attention's apart; imports no torch."""
    problems: list[str] = []
    for look in (
        lambda: options_of(POOLS, "pool", config.pool),
        lambda: KERNELS.load(config.pool.kernel),
        lambda: options_of(PLACEMENTS, "placement", config.placement),
        lambda: options_of(TRANSPORTS, "transport", config.transport),
        lambda: callback_classes(config),
    ):
        try:
            look()
        except ConfigError as error:
            problems += error.problems
    if config.transport.name == "loopback":
        problems.append("transport.name=loopback joins instances of one process; use shm or tcp")
    return problems


def build_pool(
    config: Config, layout: BlockLayout, given: type[MemoryPool] | None = None, **how: Any
) -> MemoryPool:
    """The pool that the recipe names, or one of the ``given`` class; ``how``: shared or shown."""
    cls, options = (given, own_config(given)) if given else options_of(POOLS, "pool", config.pool)
    host_blocks = config.pool.lending.host_blocks
    runtime = how | {"layout": layout, "num_blocks": config.pool.num_blocks + host_blocks}
    if cls.takes_host_blocks:
        runtime["host_blocks"] = host_blocks
    pool: MemoryPool = construct(cls, options, **runtime)
    return pool


def build_shared_pool(config: Config, layout: BlockLayout) -> MemoryPool:
    """The recipe's pool, for processes that are forked from this one."""
    memory = build_pool(config, layout)
    if memory.fd is None:
        raise ConfigError(
            f"pool.name={config.pool.name}: its memory belongs to one process, and an instance has "
            "two that share it; use pool.name=paged"
        )
    return memory


def build_placement(config: Config, given: type[Placement] | Placement | None = None) -> Placement:
    """The placement that the recipe names, or the ``given`` one."""
    if isinstance(given, Placement):
        return given
    part = config.placement
    cls, options = (
        (given, own_config(given)) if given else options_of(PLACEMENTS, "placement", part)
    )
    placement: Placement = construct(cls, options)
    return placement


def build_transport(config: Config, pool: MemoryPool | None = None, **runtime: Any) -> Transport:
    """A transport; with ``pool`` one that knows its memory, and shows it to peers on this host
    where it listens.

    ``runtime``: the cluster's ``key``, without which only its like are met.
    """
    cls, options = options_of(TRANSPORTS, "transport", config.transport)
    if pool is not None:
        runtime |= {"region": pool.visible, "region_fd": pool.fd}
    transport: Transport = cls(options, **runtime)
    return transport


def build_pool_server(
    config: Config,
    *,
    instance: int,
    epoch: int,
    cluster: str,
    shape: ModelShape,
    pool: MemoryPool,
    transport: Transport,
    attention: type[LocalBackend] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[PoolServer, RManager]:
    """The pool role; ``attention``: what its step computes with, where not the recipe's."""
    from engine.attention.answer import PoolServer

    kernel = build_kernel(config, pool, shape, attention)
    parts: dict[str, Any] = {
        "instance": instance,
        "epoch": epoch,
        "cluster": cluster,
        "kernel_fingerprint": kernel.fingerprint,
        "pool": pool,
    }
    rmanager = RManager(config.pool.lending, **parts, gpu=pool.gpu)
    record_pool(config, rmanager, **parts)
    server = PoolServer(
        transport=transport,
        rmanager=rmanager,
        pool=pool,
        kernel=kernel,
        shape=shape,
        clock=clock,
        tells_evictions=bool(config.kv_events.endpoint),
    )
    return server, rmanager


def callback_classes(config: Config) -> list[type[Callback]]:
    """The classes that the recipe names; ConfigError when one cannot be found."""
    return [Registry("callback", {}).load(name) for name in config.callbacks]


def build_planner(
    config: Config, *, cluster: str, layout: BlockLayout, num_first: int, now: float
) -> Planner:
    parts: dict[str, Any] = {
        "block_tokens": config.pool.block_tokens,
        "cluster": cluster,
        "layout": layout.fingerprint,
        "num_first": num_first,
        "now": now,
    }
    placement, cost = build_placement(config), Performance()
    planner = Planner(config.planner, placement=placement, cost=cost, **parts)
    record_planner(config, planner, life=time.time_ns() // 1_000_000, **parts)
    return planner


def build_gmanager(config: Config) -> GManager:
    placement, tokens = build_placement(config), config.pool.block_tokens
    return GManager(config.planner, placement=placement, cost=Performance(), block_tokens=tokens)


def build_loop(
    config: Config,
    *,
    instance: int,
    pool_epoch: int,
    step_epoch: int,
    cluster: str,
    host: str,
    checkpoint: Checkpoint | TransformersCheckpoint,
    pool: MemoryPool,
    pool_address: str,
    transport: Transport,
    to_planner: Callable[[Message], None],
    to_client: Callable[[str, Message], None],
    attention: type[LocalBackend] | None = None,
    placement: type[Placement] | Placement | None = None,
    callbacks: Sequence[Callback] = (),
    clock: Callable[[], float] = time.monotonic,
    collective: Collective | None = None,
    ranks: Sequence[Connection] = (),
    tokenizer: Tokenizer | None = None,
) -> Loop:
    """The step role, connected to its own pool; parts not given are those the recipe names.

    With several tp ranks it is rank 0: ``collective`` is what they are together, and ``ranks`` are
    the pipes to the others. ``tokenizer``: the checkpoint's, where it is loaded already.
    """
    from engine.attention.lenders import Lenders
    from engine.constrained import Constrained
    from engine.loop import Loop
    from engine.model.grammar import Compiler
    from engine.mover import Mover
    from engine.ranks import LedRunner, Ranks

    shape, layout = checkpoint.config.shape, pool.layout
    hello = Hello(VERSION, cluster, instance, pool_epoch, layout.fingerprint)
    debtor = Hello(VERSION, cluster, instance, step_epoch, layout.fingerprint)
    lenders = Lenders(transport, own=hello, debtor=debtor)
    lenders.connect(instance, pool_address, CONNECT_OWN_S, patience_s=CONNECT_OWN_S)

    own, backend = build_runner(
        config,
        checkpoint=checkpoint,
        pool=pool,
        lenders=lenders,
        collective=collective,
        given=attention,
    )
    others = Ranks(ranks)
    runner: Runner = LedRunner(own, others) if ranks else own
    parts: dict[str, Any] = {
        "instance": instance,
        "host": host,
        "layout": layout,
        "num_blocks": pool.num_blocks,
        "max_positions": shape.max_positions,
        "eos_ids": frozenset(checkpoint.eos_ids),
        "epoch": step_epoch,
        "model": checkpoint.identity,
    }
    compiler = Compiler(
        lambda: tokenizer or checkpoint.tokenizer,
        vocab_size=shape.vocab_size,
        eos_ids=checkpoint.eos_ids,
    )
    chosen = build_placement(config, placement)
    scheduler = Scheduler(config.scheduler, placement=chosen, **parts)
    record_step(config, scheduler, **parts)
    return Loop(
        instance=instance,
        scheduler=scheduler,
        runner=runner,
        backend=backend,
        lenders=lenders,
        mover=Mover(lenders, pool, checksums=config.pool.lending.checksums),
        eos_ids=parts["eos_ids"],
        constrained=Constrained(compiler),
        to_planner=to_planner,
        to_client=to_client,
        ranks=others,
        callbacks=[*callbacks, *(kind() for kind in callback_classes(config))],
        clock=clock,
    )


def build_follower(
    config: Config,
    *,
    instance: int,
    step_epoch: int,
    cluster: str,
    checkpoint: Checkpoint,
    pool: MemoryPool,
    transport: Transport,
    collective: Collective,
    leader: Connection,
) -> Follower:
    """A tp rank other than rank 0, which it hears over the pipe ``leader``."""
    from engine.attention.lenders import Lenders
    from engine.follower import Follower

    whole = layout_of(config, checkpoint.config.shape)  # of the pool that it may have a part of
    hello = Hello(VERSION, cluster, instance, step_epoch, whole.fingerprint, collective.rank)
    lenders = Lenders(transport, own=hello, debtor=hello)
    runner, backend = build_runner(
        config, checkpoint=checkpoint, pool=pool, lenders=lenders, collective=collective
    )
    return Follower(leader, runner, backend, lenders)
