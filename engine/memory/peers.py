"""Who is at the other end of each channel of a pool, and who may not be."""

from engine import protocol as p
from engine.memory.effects import Violation
from engine.memory.loans import Debtor


class Peers:
    """Channels by number: those that said Hello, and those that are lost but not closed yet."""

    def __init__(self, own: Debtor, *, cluster: str, layout: str) -> None:
        self._own = own
        self._cluster = cluster
        self._layout = layout
        self._debtors: dict[int, Debtor] = {}
        self._ranks: dict[int, int] = {}
        """tp ranks by channel, where they are not 0"""
        self._condemned: set[int] = set()
        self._step: int | None = None
        self._newest: dict[int, int] = {own.instance: own.epoch}
        """the newest epoch seen of each instance"""

    def debtor(self, peer: int, message: p.Message) -> Debtor:
        """Who says this. Its loans are the business of rank 0, whatever other ranks read."""
        if peer not in self._debtors:
            raise Violation("the first message was not Hello")
        if peer in self._ranks and not isinstance(message, p.Attach | p.Detach):
            raise Violation(f"{type(message).__name__} from tp rank {self._ranks[peer]}")
        return self._debtors[peer]

    def peer_of(self, debtor: Debtor) -> int | None:
        """The channel of this debtor, if it has one."""
        deaf = self._condemned | self._ranks.keys()
        return next((p for p, of in self._debtors.items() if of == debtor and p not in deaf), None)

    def is_step(self, peer: int) -> bool:
        return peer == self._step

    def require_step(self, peer: int, what: str) -> None:
        if peer != self._step:
            raise Violation(f"{what} is for the pool's own step only")

    def is_condemned(self, peer: int) -> bool:
        return peer in self._condemned

    def condemn(self, peer: int) -> None:
        """Nothing it says counts from now on; the own step keeps its blocks until it is dead."""
        self._condemned.add(peer)

    def forget(self, peer: int) -> None:
        self._condemned.discard(peer)
        self._debtors.pop(peer, None)
        self._ranks.pop(peer, None)
        if peer == self._step:
            self._step = None

    def register(self, peer: int, hello: p.Hello) -> list[int]:
        """Takes the peer in; returns its instance's peers of older epochs, which are over."""
        debtor = Debtor(hello.instance, hello.epoch)
        outdated = [
            other
            for other, of in self._debtors.items()
            if of.instance == debtor.instance and of.epoch < debtor.epoch
        ]
        self._debtors[peer] = debtor
        if hello.rank:
            self._ranks[peer] = hello.rank
        self._newest[debtor.instance] = debtor.epoch
        if debtor.instance == self._own.instance:  # its other ranks share the memory
            self._step = peer
        return [other for other in outdated if other not in self._condemned]

    def refusal(self, peer: int, hello: p.Hello) -> str:
        """Why this peer is not taken in, with both values; empty when it is."""
        if peer in self._debtors:
            raise Violation("a second Hello on one channel")
        newest = self._newest.get(hello.instance, hello.epoch)
        own = hello.instance == self._own.instance
        if fault := p.version_fault(hello.protocol):
            return f"instance {hello.instance} {fault}"
        if hello.cluster != self._cluster:
            return f"you are of cluster {hello.cluster!r}, this pool of {self._cluster!r}"
        if hello.layout != self._layout:
            return (
                f"your block layout is {hello.layout}, this pool's {self._layout}: "
                "use one model, dtype and block size in the whole cluster"
            )
        if hello.epoch < newest or (own and hello.epoch != newest):
            return f"you are epoch {hello.epoch} of instance {hello.instance}, now it is {newest}"
        if own and hello.rank:
            return f"tp rank {hello.rank} has its own pool's memory at hand"
        if own and self._step is not None:
            return f"instance {hello.instance} has a step here already; its channel must end first"
        return ""
