"""A step on a GPU that is not there: PyTorch's fake tensors have devices and shapes, no memory.

An operation over tensors of two devices, a numpy view of one on the GPU, or a look at a number of
it raises here as it would on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from engine.attention import flash
from engine.attention.dist import DistAttention
from engine.attention.flash import FlashBackend, Library
from engine.core import BlockLayout, BlockRef, Plan, Span
from engine.memory.base import MemoryPool
from engine.model import runner as runners
from engine.model.checkpoint import Checkpoint
from engine.model.llama import Llama

BLOCKS = 12
DTYPES = {1: torch.float32, 2: torch.bfloat16}
"""of weights, by their dimensions"""


class FakePool(MemoryPool):
    device = "cuda:0"
    region = fd = None
    address = 1 << 20

    def __init__(self, layout: BlockLayout) -> None:
        self.layout, self.num_blocks = layout, BLOCKS
        self.bytes_PB = torch.empty(BLOCKS, layout.block_bytes, dtype=torch.uint8, device="cuda:0")

    def block_address(self, block: int) -> int:
        return self.address + block * self.layout.block_bytes

    def generation(self, block: int) -> int:
        return 0

    def bump(self, block: int) -> None: ...

    def close(self) -> None: ...


class NoLenders:
    """Nobody else."""

    required_kernel = ""
    max_body_bytes = 1 << 20

    def __getattr__(self, name: str) -> Any:
        return None


@dataclass
class FakeStream:
    waited: int = 0

    def synchronize(self) -> None:
        self.waited += 1


def attend(q: Tensor, k: Tensor, v: Tensor, query_ends: Tensor, key_ends: Tensor, *_: Any) -> Any:
    assert {x.device.type for x in (q, k, v, query_ends, key_ends)} == {"cuda"}
    return torch.empty_like(q), q.new_empty(q.shape[1], len(q), dtype=torch.float32)


def test_a_step_stays_on_its_device_and_ends_by_waiting_for_it(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = FakeStream()
    monkeypatch.setattr(flash, "why_not", lambda: "")
    monkeypatch.setattr(flash, "pick", lambda: Library("none", attend, torch.device("cuda:0")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    config = tiny.config
    shape = config.shape
    layout = BlockLayout(shape.num_layers, shape.num_kv_heads, shape.head_dim, 4, "bfloat16")
    # Three prompts' chunks, then decodes that go on with the same tables.
    tables = [tuple(BlockRef(0, 4 * n + leaf) for leaf in range(3)) for n in range(2)]
    chunks = (Span(0, 0, 9, 0, tables[0], 1), Span(1, 9, 11, 0, tables[1], 1))
    decodes = [
        (Span(0, 0, 1, 9 + n, tables[0], 1), Span(1, 1, 1, 10 + n, tables[1], 1)) for n in (0, 1)
    ]
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = {
            name: torch.empty(weight.shape, dtype=DTYPES[weight.ndim], device="cuda:0")
            for name, weight in tiny.weights.items()
        }
        local = FlashBackend(
            FlashBackend.Config(), shape=shape, layout=layout, pool=FakePool(layout)
        )
        lenders: Any = NoLenders()
        backend = DistAttention(DistAttention.Config(), local=local, lenders=lenders)
        runner = runners.ModelRunner(Llama(config, weights), backend, device="cuda:0")
        for number, spans in enumerate((chunks, *decodes)):
            rows = sum(span.num_rows for span in spans)
            plan = Plan(number, (1,) * rows, spans, sampled=(0, 1))
            logits, poisoned = runner.run(plan)
            assert isinstance(logits, FakeTensor)
            assert logits.device.type == "cpu"
            assert logits.shape == (2, shape.vocab_size)
            assert not poisoned
            assert stream.waited == number + 1
