"""Where rBlocks lie and who may use them: pools, the books of each pool, block tables."""

from engine.registry import Registry

OF_THE_STEP = frozenset({"device", "tiered"})
"""pools whose memory is the step process's own: it serves them as well"""

POOLS = Registry(
    "memory pool",
    {
        "reference": "engine.memory.reference:ReferencePool",
        "paged": "engine.memory.paged:PagedPool",
        "device": "engine.memory.device:DevicePool",
        "tiered": "engine.memory.tiered:TieredPool",
    },
)
