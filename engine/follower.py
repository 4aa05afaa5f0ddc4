"""Follower: a tp rank of a step other than rank 0, which tells it what to do."""

from multiprocessing.connection import Connection

from engine.attention.dist import DistAttention
from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.errors import PeerLost, WontFit
from engine.model.runner import ModelRunner
from engine.protocol import Busy, FencedOff, Message, encode
from engine.protocol.ranks import (
    TO_RANK,
    Dial,
    Drop,
    End,
    ForgetSequence,
    ForgetTables,
    Heard,
    Run,
)
from engine.ranks import completed

IDLE_S = 1.0
CONNECT_S = 2.0


class Follower:
    """Runs plans until rank 0 ends it. Raises PeerLost where another rank is gone."""

    def __init__(
        self, leader: Connection, runner: ModelRunner, backend: DistAttention, lenders: Lenders
    ) -> None:
        self._leader = leader
        self._runner = runner
        self._backend = backend
        self._lenders = lenders
        self._tables: dict[int, tuple[BlockRef, ...]] = {}
        self._lost: dict[int, str] = {}
        """since rank 0 was told last"""

    def serve(self) -> None:
        while True:
            self._lenders.wait(IDLE_S, [self._leader.fileno()])
            self._note_lost()
            while self._leader.poll():
                try:
                    message = TO_RANK(self._leader.recv_bytes())
                except (EOFError, OSError) as error:
                    raise PeerLost(f"rank 0 is gone: {error!r}") from error
                if isinstance(message, End):
                    self._lenders.close()
                    return
                self._do(message)

    def _do(self, message: Message) -> None:
        match message:
            case Run():
                self._run(message)
            case Dial():
                try:
                    self._lenders.connect(message.instance, message.address, CONNECT_S)
                except PeerLost as error:
                    self._lenders.lost[message.instance] = str(error)
            case Drop():
                self._lenders.drop(message.instance, "it is lost to rank 0")
                self._note_lost()
                self._lost.pop(message.instance, None)
                self._backend.forget_tables(message.instance)  # told to nobody since it was lost
            case ForgetTables():
                self._backend.forget_tables(message.instance)
            case ForgetSequence():
                self._backend.forget_sequence(message.sequence)

    def _run(self, message: Run) -> None:
        plan = completed(message.plan, self._tables)
        self._tables = {span.sequence: span.table for span in plan.spans}
        try:
            _, poisoned = self._runner.run(plan)
        except WontFit:
            return  # rank 0 knows it as well
        if poisoned:
            self._leader.send_bytes(encode(self._heard()))
        else:  # what holders have said counts for a step that needed it
            self._lenders.inbox.clear()
        self._backend.travels.of.clear()

    def _heard(self) -> Heard:
        """Rank 0 acts on it, and drops who is lost for all."""
        declined = [
            (instance, said)
            for instance, said in self._lenders.inbox
            if isinstance(said, FencedOff | Busy)
        ]
        self._lenders.inbox.clear()
        missed = list(self._backend.missed)
        self._backend.missed.clear()
        self._note_lost()
        lost, self._lost = self._lost, {}
        return Heard(lost, missed, declined)

    def _note_lost(self) -> None:
        """Whoever is lost and comes back is told all anew."""
        while self._lenders.lost:
            instance, reason = self._lenders.lost.popitem()
            self._backend.forget_tables(instance)
            self._lost[instance] = reason
