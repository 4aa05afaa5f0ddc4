"""The part of the composition root that makes a step's attention and what runs over it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine import devices
from engine.attention import BACKENDS, KERNELS
from engine.attention.base import Kernel
from engine.config import Component, Config, options_of
from engine.core import BlockLayout, ModelShape
from engine.errors import ConfigError
from engine.memory import OF_THE_STEP, POOLS
from engine.memory.base import MemoryPool
from engine.model import checkpoint as checkpoints
from engine.model.checkpoint import Checkpoint
from engine.registry import construct, own_config

if TYPE_CHECKING:
    from engine.attention.backend_kernel import Make
    from engine.attention.dist import DistAttention
    from engine.attention.lenders import Lenders
    from engine.attention.local import LocalBackend
    from engine.comm.collective import Collective
    from engine.model.runner import ModelRunner
    from engine.model.transformers_checkpoint import TransformersCheckpoint


def model_device(config: Config) -> str:
    """Where the model runs: where the pool's blocks lie, unless the recipe says it."""
    wanted = config.model.device
    if wanted != "auto":
        return devices.pick(wanted)
    if config.model.library != "lendkv" or config.model.quantization != "none":
        return "cpu"
    _, options = options_of(POOLS, "pool", config.pool)
    return devices.pick(getattr(options, "device", "cpu"))


def seated(config: Config, rank: int, *, number_here: int, num_here: int) -> Config:
    """The configuration as tp rank ``rank`` has it, of instance ``number_here`` of ``num_here`` on
    this host: where ``cuda`` stood, or ``auto`` means it, there is the GPU that is its own."""
    seat, seats = number_here * config.tp + rank, num_here * config.tp

    def own(name: str) -> str:
        return devices.own(name, seat, seats, tp=config.tp)

    model, pool = config.model, config.pool
    if model.device != "auto":  # else it is where the pool's blocks lie
        model = replace(model, device=own(model.device))
    if pool.name in OF_THE_STEP:
        device = own(str(pool.options.get("device", "auto")))
        pool = replace(pool, options=pool.options | {"device": device})
    return replace(config, model=model, pool=pool)


def load_model(config: Config) -> Checkpoint | TransformersCheckpoint:
    """The recipe's model, cut for its ranks; see ``checkpoint.load``."""
    wanted = config.model
    return checkpoints.load(
        wanted.path,
        wanted.dtype,
        library=wanted.library,
        bits=wanted.bits,
        quantization=wanted.quantization,
        ranks=config.tp,
        device=model_device(config),
    )


def attention_parts(
    config: Config, given: type[LocalBackend] | None = None
) -> tuple[type[Any], Any, type[LocalBackend], Any]:
    """The attention class and its options, then its local backend (perhaps ``given``) and its."""
    from engine.attention.dist import DistAttention
    from engine.attention.local import LocalBackend

    if given is not None:
        return DistAttention, DistAttention.Config(), given, own_config(given)
    cls, options = options_of(BACKENDS, "attention", config.attention)
    if issubclass(cls, LocalBackend):
        return DistAttention, DistAttention.Config(), cls, options
    if not issubclass(cls, DistAttention):
        raise ConfigError(
            f"attention.name={config.attention.name}: {cls.__name__} is neither a DistAttention "
            "nor a LocalBackend"
        )
    part = Component(name=options.local, options=options.local_options)
    local_cls, local_options = options_of(BACKENDS, "attention.options.local", part)
    if not issubclass(local_cls, LocalBackend):
        raise ConfigError(
            f"attention.options.local={options.local}: not a backend for local memory; "
            "known: native, numpy, reference, sdpa, triton, flash, or a LocalBackend of your own"
        )
    return cls, options, local_cls, local_options


def build_attention(
    config: Config,
    *,
    shape: ModelShape,
    layout: BlockLayout,
    pool: MemoryPool,
    lenders: Lenders,
    given: type[LocalBackend] | None = None,
) -> DistAttention:
    """Over ``pool``; ``shape`` and ``layout`` name the heads that are attended to, all or some."""
    cls, options, local_cls, local_options = attention_parts(config, given)
    local = construct(
        local_cls,
        local_options,
        shape=shape,
        layout=layout,
        pool=pool,
        num_threads=config.threads,
    )
    if config.model.bits == "schedule" and not local.fingerprint:
        raise ConfigError(
            f"model.bits=schedule: the backend {local_cls.__name__} gives a query other bits in "
            "another chunk; use attention.options.local=native, numpy or reference"
        )
    backend: DistAttention = cls(options, local=local, lenders=lenders)
    return backend


def build_kernel(
    config: Config, pool: MemoryPool, shape: ModelShape, given: type[LocalBackend] | None = None
) -> Kernel:
    """What a pool answers others with: where the host reads no blocks, what its step uses."""
    if pool.region is not None:
        kernel: Kernel = KERNELS.load(config.pool.kernel)()
        return kernel
    from engine.attention.backend_kernel import BackendKernel
    from engine.attention.parted_kernel import PartedKernel

    _, _, cls, options = attention_parts(config, given)

    def over(part: MemoryPool) -> Make:
        def make(heads: int, layout: BlockLayout) -> LocalBackend:
            of_heads = replace(shape, num_heads=heads, num_kv_heads=layout.kv_heads)
            made: LocalBackend = construct(
                cls, options, shape=of_heads, layout=layout, pool=part, num_threads=config.threads
            )
            return made

        return make

    if pool.parts:
        return PartedKernel(over, shape.num_heads, pool)
    return BackendKernel(over(pool), shape.num_heads, pool.layout)


def build_runner(
    config: Config,
    *,
    checkpoint: Checkpoint | TransformersCheckpoint,
    pool: MemoryPool,
    lenders: Lenders,
    collective: Collective | None = None,
    given: type[LocalBackend] | None = None,
) -> tuple[ModelRunner, DistAttention]:
    """The model over ``pool``, or with ``collective`` one tp rank's part of it.

    Then ``pool`` is all of the instance's, or that rank's part, where they lie apart.
    """
    from engine.attention.block_reads import BlockReads
    from engine.attention.slices import asked_heads
    from engine.attention.travel import Travels
    from engine.model.cuda_graphs import CudaRecorder
    from engine.model.graphed import GraphedLlama
    from engine.model.llama import Llama
    from engine.model.runner import ModelRunner
    from engine.model.shard import Shard

    shape = checkpoint.config.shape
    layout = whole_layout = replace(pool.layout, kv_heads=shape.num_kv_heads)
    if collective is None:
        model: Any = checkpoint.model
        if config.model.cuda_graphs and checkpoint.device != "cpu" and isinstance(model, Llama):
            model = GraphedLlama(model, CudaRecorder(checkpoint.device))
    else:
        assert isinstance(checkpoint, Checkpoint), "checked with the configuration"
        whole = checkpoint.config
        shard = Shard.of(whole, collective.rank, collective.size)
        shape, layout = shard.config(whole).shape, layout.part(shard.kv_heads)
        model = checkpoint.part(collective)
    own = pool.parts[0][1] if pool.parts else pool
    lies_apart = bool(pool.parts) or own.layout != whole_layout
    backend = build_attention(
        config,
        shape=shape,
        layout=own.layout if lies_apart else layout,
        pool=own,
        lenders=lenders,
        given=given,
    )
    if lies_apart:  # others know whole blocks: they are told the heads, fetched from, never mapped
        backend.heads = asked_heads(shape, layout)
        backend.reads = BlockReads(lenders, pool)
        lenders.maps = ""
    if collective is not None:  # what is told is of all ranks: each asks for its heads
        backend.travels = Travels(checkpoint.config.shape, whole_layout)
    return ModelRunner(model, backend, collective, device=checkpoint.device), backend
