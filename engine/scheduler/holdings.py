"""Holdings: the blocks and loans that sequences hold, and how they change hands. No I/O.

A leaf is always written to an own block first. When it is sealed and has a target, it moves there,
and the own block is free for the next leaf.
"""

from engine.core import BlockLayout, BlockRef
from engine.memory.blocks import ROOT, BlockStore
from engine.protocol import Draw, Drawn, Give, Granted, Release
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Effect, Finish, Move, ToPool
from engine.scheduler.sequence import Sequence


class Holdings:
    """All that this instance's sequences hold."""

    def __init__(
        self, *, instance: int, layout: BlockLayout, debts: Debts, effects: list[Effect]
    ) -> None:
        self._instance = instance
        self._layout = layout
        self._debts = debts
        self.store = BlockStore(block_tokens=layout.tokens)
        self.drawing = False
        """a draw is under way"""
        self.effects = effects

    def draw(self, num_blocks: int) -> None:
        """Ask the own pool for blocks, one draw at a time."""
        if not self.drawing:
            self.drawing = True
            self.effects.append(ToPool(self._instance, Draw(num_blocks)))

    def on_drawn(self, message: Drawn) -> None:
        self.drawing = False
        self.store.add(message.blocks)

    def give_surplus(self, keep: int) -> None:
        """Return free blocks beyond ``keep`` to the pool, where others can borrow them."""
        blocks = self.store.surplus(keep)
        if blocks:
            self.effects.append(ToPool(self._instance, Give(blocks)))

    def reserve(self, sequence: Sequence, num_blocks: int) -> None:
        """Put free own blocks aside for the sequence's leaves to come."""
        sequence.spare += self.store.allocate(num_blocks)

    def trim(self, sequence: Sequence, num_spare: int) -> None:
        """Free what was put aside beyond ``num_spare``."""
        extra = sequence.spare[num_spare:]
        del sequence.spare[num_spare:]
        self.store.release(extra)

    def adopt(self, sequence: Sequence, grants: dict[int, Granted], leaves: dict[int, int]) -> None:
        """Give lent slots to ``leaves`` (leaf -> instance); slots left over go back."""
        free: dict[int, list[BlockRef]] = {}
        for instance, grant in grants.items():
            sequence.loans[instance, grant.loan] = len(grant.blocks)
            free[instance] = [
                BlockRef(instance, block, grant.loan, slot, generation)
                for slot, (block, generation) in enumerate(
                    zip(grant.blocks, grant.generations, strict=True)
                )
            ]
        for leaf, instance in leaves.items():
            sequence.targets[leaf] = free[instance].pop(0)
        for instance, refs in free.items():
            if refs:
                loan, slots = refs[0].loan, [ref.slot for ref in refs]
                sequence.loans[instance, loan] -= len(slots)
                self._release(sequence, instance, loan, slots)

    def grow_table(self, sequence: Sequence) -> None:
        """The next leaf's block, from what was put aside."""
        sequence.table.append(BlockRef(self._instance, sequence.spare.pop(0)))

    def seal(self, sequence: Sequence, first: int) -> None:
        """Leaves from ``first`` on that are full are immutable now: hash them, start moves."""
        tokens = self._layout.tokens
        for leaf in range(first, sequence.num_computed // tokens):
            ref = sequence.table[leaf]
            parent = sequence.hashes[leaf - 1] if leaf else ROOT
            chunk = sequence.token_ids[leaf * tokens : (leaf + 1) * tokens]
            sequence.hashes.append(self.store.seal(ref.block, parent, chunk))
        self.move_sealed(sequence)

    def move_sealed(self, sequence: Sequence) -> None:
        """Start the moves of sealed leaves that have a target."""
        num_sealed = sequence.num_computed // self._layout.tokens
        for leaf, to in sequence.targets.items():
            if leaf < num_sealed and leaf not in sequence.moving:
                sequence.moving.add(leaf)
                block = sequence.table[leaf].block
                self.effects.append(Move(sequence.number, leaf, block, to))

    def moved(self, sequence: Sequence, leaf: int) -> None:
        """The holder has committed the block: use it there, and reuse the own one."""
        sequence.moving.discard(leaf)
        block = sequence.table[leaf].block
        sequence.table[leaf] = sequence.targets.pop(leaf)
        sequence.table_version += 1
        self.store.release([block])
        if sequence.is_prefill or not sequence.spare:
            self.reserve(sequence, 1)

    def drop(self, sequence: Sequence, *, final: bool) -> None:
        """Give everything back; when it is ``final`` the client gets its report."""
        self.effects.append(
            Finish(
                sequence.number,
                sequence.request.request_id,
                final,
                sequence.holders(),
                sequence.recomputed_tokens,
            )
        )
        own = [ref.block for ref in sequence.table if not ref.loan]
        self.store.release(own + sequence.spare)
        for instance, loan in list(sequence.loans):
            self._release(sequence, instance, loan, [])
        sequence.loans.clear()
        sequence.table.clear()
        sequence.spare.clear()
        sequence.targets.clear()
        sequence.moving.clear()
        sequence.hashes.clear()
        sequence.num_computed = 0
        sequence.table_version += 1

    def _release(self, sequence: Sequence, instance: int, loan: int, slots: list[int]) -> None:
        self.effects.append(ToPool(instance, Release(loan, slots)))
        if not slots or not sequence.loans[instance, loan]:
            sequence.loans.pop((instance, loan), None)
            self._debts.remove(instance, loan)
