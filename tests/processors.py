"""What tests of the C++ decoder need of the processor."""

import pytest

from engine.model.native_llama import PROCESSOR, PROCESSOR_INT8
from engine.native.library import processor_flags

needs_decoder = pytest.mark.skipif(not processor_flags() >= PROCESSOR, reason="needs AVX2")
needs_int8 = pytest.mark.skipif(
    not processor_flags() >= PROCESSOR_INT8, reason="needs AVX-512 with 8-bit products"
)
