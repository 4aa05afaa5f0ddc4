"""Copies: blocks under way between instances, beside the steps, one after another on each port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import protocol as p
from engine.memory.effects import CopyOut, Reply
from engine.scheduler.effects import Fetch, Move
from engine.sim.serving.ports import Ports

if TYPE_CHECKING:
    from engine.sim.serving.cluster import Cluster
    from engine.sim.serving.instance import Instance


class Copies:
    def __init__(self, cluster: Cluster, block_bytes: int) -> None:
        self._cluster = cluster
        self._ports = Ports(cluster.times)
        self._block_bytes = block_bytes
        self.num_blocks = 0

    def move(self, debtor: Instance, move: Move, is_there: bool) -> None:
        """To its lent slot; the holder commits it, and its Ack goes back.

        ``is_there``: it need not be copied, only said.
        """
        clock, holder = self._cluster.clock, move.to.instance
        if is_there:
            arrives = clock.now + self._cluster.times.message_s(debtor.number, holder)
        else:
            arrives = self._ports.copy(debtor.number, holder, self._block_bytes, clock.now)
            self.num_blocks += 1

        def commit() -> None:
            pool = self._cluster.instances[holder].pool
            write = p.Write(move.to.loan, move.to.slot, 0, True, move.content)
            for out in pool.handle(debtor.number, write, clock.now, self._block_bytes):
                if isinstance(out, Reply) and isinstance(out.message, p.Ack):
                    back_s = self._cluster.times.message_s(holder, debtor.number)
                    clock.after(back_s, lambda: debtor.arrived(move))
                else:
                    self._cluster.instances[holder].obey([out] if isinstance(out, Reply) else [])

        clock.at(arrives, commit)

    def fetch(self, debtor: Instance, fetch: Fetch) -> None:
        """Home again: the holder reads it out, unless its slot has ended."""
        clock, ref = self._cluster.clock, fetch.ref
        holder = self._cluster.instances[ref.instance]

        def read() -> None:
            wanted = p.Read(ref.loan, ref.slot, 0, self._block_bytes)
            for out in holder.pool.handle(debtor.number, wanted, clock.now):
                if isinstance(out, CopyOut):
                    self.num_blocks += 1
                    here = self._ports.copy(
                        holder.number, debtor.number, self._block_bytes, clock.now
                    )
                    clock.at(here, lambda: debtor.arrived(fetch))
                else:
                    holder.obey([out])

        clock.after(self._cluster.times.message_s(debtor.number, ref.instance), read)
