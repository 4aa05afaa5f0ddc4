"""Pool: a real RManager over memory that is not there."""

from collections.abc import Callable

from engine import protocol as p
from engine.core import BlockLayout
from engine.memory.books import BlockState
from engine.memory.effects import Output
from engine.memory.lending import Lending
from engine.memory.rmanager import RManager
from engine.scheduler.reports import Series

CLUSTER = "paper"


class Nothing:
    """Blocks without bytes: nobody reads them, so nobody need notice that they are others'."""

    def __init__(self, layout: BlockLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks

    def generation(self, block: int) -> int:
        return 0

    def bump(self, block: int) -> None:
        pass


class Pool:
    """Its peers are the steps of instances, known by their numbers."""

    def __init__(
        self, config: Lending.Config, instance: int, layout: BlockLayout, num_blocks: int, host: str
    ) -> None:
        self.instance = instance
        self.num_blocks = num_blocks
        self._host = host
        self._layout = layout.fingerprint
        self.rmanager = RManager(
            config,
            instance=instance,
            epoch=1,
            cluster=CLUSTER,
            kernel_fingerprint="none",
            pool=Nothing(layout, num_blocks),
        )
        self.beats = Series[p.Heartbeat]()
        self.on_heard: Callable[[], None] = lambda: None
        """something was said to it, and done"""
        self._known: set[int] = set()
        self.hello(instance, 0.0)

    def hello(self, peer: int, now: float) -> None:
        """A step opens its channel; once is enough."""
        if peer not in self._known:
            self._known.add(peer)
            self.rmanager.handle(peer, p.Hello(p.VERSION, CLUSTER, peer, 1, self._layout), now)

    def handle(self, peer: int, message: p.Message, now: float, num_bytes: int = 0) -> list[Output]:
        if isinstance(message, p.Strain):
            return []  # who computes less for others is not modelled
        outputs = self.rmanager.handle(peer, message, now, num_bytes)
        self.on_heard()
        return outputs

    def tick(self, now: float) -> list[Output]:
        return self.rmanager.tick(now)

    def heartbeat(self, now: float) -> p.Heartbeat:
        return self.rmanager.heartbeat(address=str(self.instance), host=self._host, now=now)

    @property
    def num_lent(self) -> int:
        return self.rmanager.books.count(BlockState.LENT)

    @property
    def num_free(self) -> int:
        return self.rmanager.books.num_available
