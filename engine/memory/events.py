"""The event log of a pool: what an RManager hears. Counts of bytes, never the bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.core import BlockLayout
from engine.events import Header
from engine.memory.lending import Lending, Memory
from engine.memory.rmanager import RManager
from engine.protocol import Message


class PoolHeader(Header, frozen=True, kw_only=True, tag="pool"):
    INPUTS: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "handle": (int, Message, float, int),
        "tick": (float,),
        "freeze": (int, float, float),
        "lend": (bool, float),
        "peer_lost": (int, float),
        "resolve": (int, int, int, float),
    }
    QUESTIONS: ClassVar[frozenset[str]] = frozenset({"resolve"})

    lending: Lending.Config
    epoch: int
    cluster: str
    kernel_fingerprint: str
    layout: BlockLayout
    num_blocks: int
    generations: dict[int, int]
    """of the blocks that had another than 0 at the start"""

    @classmethod
    def of(cls, lending: Lending.Config, *, pool: Memory, **parts: Any) -> "PoolHeader":
        """For an RManager of these parts."""
        generations = {block: pool.generation(block) for block in range(pool.num_blocks)}
        return cls(
            lending=lending,
            layout=pool.layout,
            num_blocks=pool.num_blocks,
            generations={block: number for block, number in generations.items() if number},
            **parts,
        )

    def make(self) -> RManager:
        return RManager(
            self.lending,
            instance=self.instance,
            epoch=self.epoch,
            cluster=self.cluster,
            kernel_fingerprint=self.kernel_fingerprint,
            pool=_Generations(self.layout, self.num_blocks, self.generations),
        )

    def state_of(self, machine: RManager) -> Any:
        return machine.state

    def matters(self, machine: RManager, name: str, arguments: Sequence[Any]) -> bool:
        if name != "tick":
            return True
        now: float = arguments[0]
        return machine.next_due(now) <= now  # ticks are by far the most


class _Generations:
    """A memory that keeps nothing but generations."""

    def __init__(self, layout: BlockLayout, num_blocks: int, generations: dict[int, int]) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self._generations = dict(generations)

    def generation(self, block: int) -> int:
        return self._generations.get(block, 0)

    def bump(self, block: int) -> None:
        self._generations[block] = self.generation(block) + 1
