"""Exact attention over keys that may lie anywhere: backends, the merge tree, DistAttention."""

from engine.registry import Registry

BACKENDS = Registry(
    "attention backend",
    {
        "reference": "engine.attention.reference:ReferenceBackend",
        "sdpa": "engine.attention.sdpa:SdpaBackend",
        "numpy": "engine.attention.kernel_backend:NumpyBackend",
        "native": "engine.attention.kernel_backend:NativeBackend",
        "triton": "engine.attention.triton.backend:TritonBackend",
        "flash": "engine.attention.flash:FlashBackend",
        "tiered": "engine.attention.tiered:TieredBackend",
        "dist": "engine.attention.dist:DistAttention",
    },
)

KERNELS = Registry(
    "pool kernel",
    {
        "numpy": "engine.attention.kernel_numpy:NumpyKernel",
        "native": "engine.attention.kernel_native:NativeKernel",
    },
)
