"""Where rBlocks lie and who may use them: pools, the books of each pool, block tables."""

from engine.registry import Registry

POOLS = Registry(
    "memory pool",
    {
        "reference": "engine.memory.reference:ReferencePool",
        "paged": "engine.memory.paged:PagedPool",
        "device": "engine.memory.device:DevicePool",
        "tiered": "engine.memory.tiered:TieredPool",
    },
)
