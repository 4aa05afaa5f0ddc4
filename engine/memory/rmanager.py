"""RManager: the authority of one pool over its own blocks. No I/O, no clock, no threads.

The caller hands in each message with the time it was received, carries out the outputs in their
order before it calls again, and asks ``resolve`` in the same turn in which it computes: so "check,
then compute" is atomic. A peer that breaks the protocol is lost; nothing it sends can raise here.

* A loan stands until all its slots are released, its lease is over, or a newer epoch of its debtor
  says Hello. A lost channel ends no loan: the debtor may come back with the same epoch.
* Messages about a loan or slot that has ended are answered, not punished: the debtor cannot have
  known, since leases run out and what is called back ends at its deadline.
  Released names no slots, Renewed leaves the loan out, a Read and the last part of a Write get
  FencedOff with step 0. Messages about another debtor's loan lose the peer (Renew leaves it out).
* Reserve may be repeated while its loan is whole, and extends the lease then like Renew.
* Borrowed blocks are in their creditor's books only, and the own step may draw but not reserve:
  so no loan is ever longer than one hop.
"""

from typing import Any

from engine import protocol as p
from engine.memory.books import BlockState, Books
from engine.memory.effects import CopyIn, CopyOut, LosePeer, Output, Reply, Violation, fenced
from engine.memory.heart import Heart
from engine.memory.lending import Lending, Memory
from engine.memory.loans import Debtor, Loan, Slot
from engine.memory.peers import Peers
from engine.memory.tables import Tables


class RManager:
    Config = Lending.Config

    def __init__(
        self,
        config: Lending.Config,
        *,
        instance: int,
        epoch: int,
        cluster: str,
        kernel_fingerprint: str,
        pool: Memory,
        gpu: p.GpuMemory | None = None,
    ) -> None:
        """``gpu``: where others may read the pool's blocks, if that is a GPU's memory."""
        self.books = Books(pool.num_blocks, num_last=config.host_blocks)
        self._lending = Lending(config, pool=pool, books=self.books)
        self._tables = Tables(self._lending.loans)
        self._own = Debtor(instance, epoch)
        self._heart = Heart(self._own, books=self.books, lending=self._lending)
        self._peers = Peers(self._own, cluster=cluster, layout=pool.layout.fingerprint)
        self._config = config
        self._block_bytes = pool.layout.block_bytes
        self._welcome = p.Welcome(instance, epoch, kernel_fingerprint, pool.num_blocks, gpu)

    def handle(self, peer: int, message: p.Message, now: float, num_bytes: int = 0) -> list[Output]:
        """Outputs for any message of TO_POOL but Begin and Ask; ``num_bytes``: of its body."""
        outputs = self.tick(now)
        if self._peers.is_condemned(peer):
            return outputs
        try:
            return outputs + self._answer(peer, message, now, num_bytes)
        except Violation as violation:
            return outputs + [self._lose(peer, str(violation))]

    def tick(self, now: float) -> list[Output]:
        """Ends the loans whose lease is over, and the slots that were called back in vain; calls
        back what the own step waits for as soon as that may be.
        """
        outputs = self._lending.end(self._lending.loans.overdue(now))
        for loan, slot in self._lending.recalls.overdue(now):
            outputs += self._lending.release(loan, [slot], keep=True)[1]
            peer = self._peers.peer_of(loan.debtor)
            if peer is not None:
                outputs.append(fenced(peer, loan.number))
        free = self._lending.num_drawable(host=False)
        return outputs + self._recall(self._lending.recalls.go_on(free, now))

    def freeze(self, num_blocks: int, for_s: float, now: float) -> None:
        """The planner's Freeze: for so long, so many blocks are for the own step only."""
        self._lending.recalls.freeze(num_blocks, for_s, now)

    def lend(self, on: bool, now: float) -> list[Output]:
        """Whether it lends; if not, what is lent is called back, each time this is said."""
        self._lending.is_on = on
        _, recalled = self._lending.recalls.want(0 if on else self.books.num_blocks, now)
        return self._recall(recalled)

    @property
    def is_recalling(self) -> bool:
        return self._lending.recalls.is_waiting

    @property
    def state(self) -> list[Any]:
        """What it decides by, in short; to be compared with another's."""
        counts = [self._lending.is_on, *(self.books.count(state) for state in BlockState)]
        loans = [(one.number, one.version, one.expires) for one in self._lending.loans]
        return [counts, loans, self._lending.recalls.state, self._tables.state]

    def next_due(self, now: float) -> float:
        """Before then a tick finds nothing to do, unless something is heard meanwhile."""
        return min(self._lending.loans.next_expiry, self._lending.recalls.next_due(now))

    def is_step(self, peer: int) -> bool:
        return self._peers.is_step(peer)

    def peer_lost(self, peer: int, now: float) -> list[Output]:
        """A channel is closed. If it was the own step's, the caller has made sure that the process
        is dead: what it drew is free from now on."""
        if self._peers.is_step(peer):
            self._lending.take_back()
        self._peers.forget(peer)
        self._tables.forget(peer)
        return self.tick(now)

    def resolve(self, peer: int, sequence: int, version: int, now: float) -> list[tuple[int, int]]:
        """(leaf, block) of an attached table, ascending; LoanFenced when it must not be used."""
        return self._tables.resolve(peer, sequence, version, now)

    def heartbeat(self, *, address: str, host: str, now: float) -> p.Heartbeat:
        return self._heart.beat(address=address, host=host, now=now)

    def check(self) -> None:
        self.books.check()
        self._lending.check()
        self._tables.check()
        self._heart.check()

    # --- messages -------------------------------------------------------------------------------

    def _answer(self, peer: int, message: p.Message, now: float, num_bytes: int) -> list[Output]:
        if isinstance(message, p.Hello):
            return self._hello(peer, message)
        debtor = self._peers.debtor(peer, message)
        match message:
            case p.Draw():
                return self._draw(peer, message, now)
            case p.Give():
                return self._give(peer, message)
            case p.Reserve():
                if debtor == self._own:
                    raise Violation("a step draws from its own pool, it does not reserve there")
                answer, recalled = self._lending.reserve(debtor, message, now)
                return [Reply(peer, answer), *self._recall(recalled)]
            case p.Pin():
                if debtor == self._own:
                    raise Violation("a step has its own pool's blocks at hand, it does not pin")
                return [Reply(peer, self._lending.pin(debtor, message, now))]
            case p.Renew():
                return [Reply(peer, p.Renewed(self._lending.renew(debtor, message.loans, now)))]
            case p.Release():
                return self._release(peer, debtor, message)
            case p.Write():
                return self._write(peer, debtor, message, num_bytes)
            case p.Read():
                return self._read(peer, debtor, message)
            case p.Attach():
                return self._attach(peer, debtor, message)
            case p.Detach():
                self._tables.detach(peer, message.sequence)
                return []
        raise Violation(f"{type(message).__name__} is no message for the books of a pool")

    def _hello(self, peer: int, hello: p.Hello) -> list[Output]:
        if reason := self._peers.refusal(peer, hello):
            return [Reply(peer, p.Rejected(reason)), self._lose(peer, reason)]
        outdated = self._peers.register(peer, hello)
        older = self._lending.loans.older(Debtor(hello.instance, hello.epoch))
        return [
            *self._lending.end(older),
            *(self._lose(other, f"epoch {hello.epoch} has begun") for other in outdated),
            Reply(peer, self._welcome),
        ]

    def _draw(self, peer: int, draw: p.Draw, now: float) -> list[Output]:
        self._peers.require_step(peer, "Draw")
        state = BlockState.STAGING if draw.staging else BlockState.USED
        found = self._lending.recover(draw.contents)
        wanted = max(0, draw.num_blocks - len(found))
        drawable = self._lending.num_drawable(host=draw.host)
        device = self._lending.num_drawable(host=False)
        blocks = self._lending.take(min(wanted, drawable), state)
        num_host = max(0, len(blocks) - device)
        recalls, coming = self._lending.recalls, 0
        recalled: dict[Loan, list[int]] = {}
        if draw.recall:
            coming, recalled = recalls.want(wanted - len(blocks), now)
        else:
            recalls.drew(len(blocks) + len(found))
        left, within_s = self.books.num_available, recalls.longest_s if coming else 0.0
        drawn = p.Drawn(
            blocks, left, draw.staging, coming, within_s, num_host, [*found], [*found.values()]
        )
        return [Reply(peer, drawn), *self._recall(recalled)]

    def _recall(self, recalled: dict[Loan, list[int]]) -> list[Output]:
        """Tell the debtors; who has no channel now finds its slots ended when it comes back."""
        return [
            Reply(peer, p.Recall(loan.number, slots, self._config.recall_s))
            for loan, slots in recalled.items()
            if (peer := self._peers.peer_of(loan.debtor)) is not None
        ]

    def _give(self, peer: int, give: p.Give) -> list[Output]:
        self._peers.require_step(peer, "Give")
        if len(set(give.blocks)) != len(give.blocks) or not all(
            block < self.books.num_blocks and self._lending.is_given(block) for block in give.blocks
        ):
            raise Violation("Give names blocks that the step does not have")
        if len(give.contents) > len(give.blocks):
            raise Violation("Give names more contents than blocks")
        self._lending.give(give.blocks, give.contents)
        return []

    def _release(self, peer: int, debtor: Debtor, release: p.Release) -> list[Output]:
        loan = self._lending.find(debtor, release.loan)
        if loan is None:
            return [Reply(peer, p.Released(release.loan, []))]
        for slot in release.slots:
            _require_slot(loan, slot)
        slots = release.slots or loan.standing_slots
        keep = release.keep and not self._config.zero_on_return
        ended, effects = self._lending.release(loan, slots, keep=keep)
        return [*effects, Reply(peer, p.Released(release.loan, ended))]

    def _write(self, peer: int, debtor: Debtor, write: p.Write, num_bytes: int) -> list[Output]:
        loan = self._lending.find(debtor, write.loan)
        if loan is None:
            return [fenced(peer, write.loan)] if write.last else []
        _require_slot(loan, write.slot)
        if loan.slots[write.slot] is Slot.RELEASED:
            return [fenced(peer, write.loan)] if write.last else []
        if loan.slots[write.slot] is Slot.COMMITTED:
            raise Violation("Write to a committed slot")
        if write.offset not in (0, loan.filled[write.slot]):
            raise Violation(f"Write at {write.offset}, filled to {loan.filled[write.slot]}")
        end = write.offset + num_bytes
        if end > self._block_bytes or write.last != (end == self._block_bytes):
            raise Violation(f"Write up to {end} of {self._block_bytes} bytes, last={write.last}")
        loan.filled[write.slot] = end
        outputs: list[Output] = [CopyIn(loan.blocks[write.slot], write.offset)]
        if write.last:
            loan.slots[write.slot] = Slot.COMMITTED
            loan.contents[write.slot] = write.content
            outputs.append(Reply(peer, p.Ack(write.loan, write.slot)))
        return outputs

    def _read(self, peer: int, debtor: Debtor, read: p.Read) -> list[Output]:
        loan = self._lending.find(debtor, read.loan)
        if loan is None:
            return [fenced(peer, read.loan)]
        _require_slot(loan, read.slot)
        if loan.slots[read.slot] is Slot.RELEASED:
            return [fenced(peer, read.loan)]
        if loan.slots[read.slot] is Slot.OPEN:
            raise Violation(f"Read of slot {read.slot}, which is open")
        end = read.offset + read.num_bytes
        if end > self._block_bytes:
            raise Violation(f"Read up to {end} of {self._block_bytes} bytes")
        data = p.Data(read.loan, read.slot, read.offset)
        return [CopyOut(peer, data, loan.blocks[read.slot], read.offset, read.num_bytes)]

    def _attach(self, peer: int, debtor: Debtor, attach: p.Attach) -> list[Output]:
        last = -1
        for leaf, number, slot in attach.leaves:
            if leaf <= last:
                raise Violation(f"Attach names leaf {leaf} after leaf {last}")
            last = leaf
            loan = self._lending.find(debtor, number)
            if loan is None:
                continue  # it may have ended on the way; resolve says so
            _require_slot(loan, slot)
            if loan.slots[slot] is Slot.OPEN:
                raise Violation(f"Attach of slot {slot}, which is open")
        self._tables.attach(peer, attach.sequence, attach.version, attach.leaves)
        return []

    def _lose(self, peer: int, reason: str) -> LosePeer:
        self._peers.condemn(peer)
        self._tables.forget(peer)
        return LosePeer(peer, reason)


def _require_slot(loan: Loan, slot: int) -> None:
    if slot >= len(loan.slots):
        raise Violation(f"slot {slot} of loan {loan.number}, which has {len(loan.slots)}")
