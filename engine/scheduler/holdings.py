"""Holdings: the blocks and loans that sequences hold, and how they change hands. No I/O.

A leaf is always written to an own block first. When it is sealed and has a target, it moves there,
and the own block is free for the next leaf.
"""

from bisect import insort
from collections.abc import Iterable, Mapping

from engine.core import BlockLayout, BlockRef
from engine.memory.blocks import BlockStore
from engine.protocol import Draw, Drawn, Give, Granted, Release
from engine.scheduler.chronicle import Chronicle
from engine.scheduler.debts import Debts
from engine.scheduler.effects import Cancel, Effect, Finish, Move, ToPool
from engine.scheduler.sequence import Sequence

MAX_GIVEN = 2048
"""sealed blocks that one message gives back"""


class Holdings:
    """All that this instance's sequences hold."""

    def __init__(
        self,
        *,
        instance: int,
        layout: BlockLayout,
        model: str = "",
        debts: Debts,
        chronicle: Chronicle,
        effects: list[Effect],
    ) -> None:
        self._instance = instance
        self._layout = layout
        self._debts = debts
        self.chronicle = chronicle
        self.store = BlockStore(block_tokens=layout.tokens, salt=model.encode())
        self.drawing = False
        """a draw is under way"""
        self.draw_for: Sequence | None = None
        """the sequence that it is for, if that still wants it"""
        self.found_none = False
        """the last draw brought nothing"""
        self.num_left = 0
        """blocks that it left in the pool for others to take"""
        self._asked: tuple[Sequence, Mapping[int, bytes]] | None = None
        """whose leaves the draw under way looks for"""
        self.effects = effects

    def draw(
        self,
        num_blocks: int,
        *,
        whom: Sequence | None = None,
        recall: bool = False,
        host: bool = False,
        wanted: Mapping[int, bytes] | None = None,
    ) -> None:
        """Ask the own pool for blocks, one draw at a time; what comes next is for ``whom``.

        With ``recall`` it calls back what it has lent; with ``host`` it gives host memory as well.
        ``wanted``: leaves of ``whom`` that may be cached there, and their hashes.
        """
        self.draw_for = whom or self.draw_for
        if not self.drawing:
            self.drawing = True
            self._asked = (whom, wanted) if whom and wanted else None
            contents = [*wanted.values()] if self._asked and wanted else []
            draw = Draw(num_blocks, recall=recall, host=host, contents=contents)
            self.effects.append(ToPool(self._instance, draw))

    def on_drawn(self, message: Drawn) -> Sequence | None:
        """Blocks came; returns the sequence that they are for."""
        self.drawing = False
        self.found_none = not message.blocks and not message.cached
        self.num_left = message.num_free
        self.store.add(message.blocks)
        sequence, self.draw_for = self.draw_for, None
        if sequence is not None and message.num_host:
            self.chronicle.note(sequence, "host", amount=message.num_host)
        if self._asked is not None:
            self._on_found(message, sequence, *self._asked)
            self._asked = None
        return sequence

    def share(self, sequence: Sequence, leaves: Iterable[int]) -> None:
        """Use those of the leaves of its chain that other sequences have in own blocks."""
        blocks = {leaf: self.store.find(sequence.chain[leaf]) for leaf in leaves}
        found = {leaf: block for leaf, block in blocks.items() if block is not None}
        self.store.share(found.values())
        self._reuse(sequence, found)

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
        if extra := sequence.spare[num_spare:]:
            del sequence.spare[num_spare:]
            self.free(extra)

    def free(self, blocks: Iterable[int], *, keep: bool = False) -> None:
        """Give up a use of each. What nobody uses then is free, or cached at the pool: those that
        came from its cache, with ``keep`` all sealed ones.
        """
        left = [*self.store.release(blocks, keep=keep).items()]
        for first in range(0, len(left), MAX_GIVEN):
            some = dict(left[first : first + MAX_GIVEN])
            self.effects.append(ToPool(self._instance, Give([*some], [*some.values()])))

    def adopt(self, sequence: Sequence, grants: dict[int, Granted], leaves: dict[int, int]) -> None:
        """Give lent slots to ``leaves`` (leaf -> instance); slots left over go back."""
        free: dict[int, list[BlockRef]] = {}
        for instance, grant in grants.items():
            sequence.loans[instance, grant.loan] = len(grant.blocks)
            self.chronicle.note(sequence, "borrowed", instance, len(grant.blocks))
            free[instance] = [
                BlockRef(instance, block, grant.loan, slot, generation)
                for slot, (block, generation) in enumerate(
                    zip(grant.blocks, grant.generations, strict=True)
                )
            ]
        for leaf, instance in leaves.items():
            sequence.targets[leaf] = free[instance].pop(0)
        sequence.home = [leaf for leaf in sequence.home if leaf not in leaves]
        for instance, refs in free.items():
            if refs:
                loan, slots = refs[0].loan, [ref.slot for ref in refs]
                sequence.loans[instance, loan] -= len(slots)
                self._release(sequence, instance, loan, slots)

    def open_leaf(self, sequence: Sequence, leaf: int) -> None:
        """A block for the leaf's keys, from what was put aside."""
        ref = BlockRef(self._instance, sequence.spare.pop(0))
        if leaf < len(sequence.table):  # a hole
            sequence.table[leaf] = ref
            sequence.table_version += 1
        else:
            sequence.table.append(ref)

    def seal(self, sequence: Sequence, first: int, end: int) -> None:
        """Positions [first, end) are computed: hash the leaves that are full now, start moves."""
        tokens = self._layout.tokens
        for leaf in range(first // tokens, end // tokens):
            of, known = sequence.content(leaf, tokens), sequence.chain[leaf : leaf + 1]
            content = self.store.seal(sequence.table[leaf].block, *of, *known)
            if leaf == len(sequence.hashes):
                sequence.hashes.append(content)
            if leaf not in sequence.targets:
                insort(sequence.home, leaf)
        self.move_sealed(sequence)

    def move_sealed(self, sequence: Sequence) -> None:
        """Start the moves of sealed leaves that have a target."""
        for leaf, to in sequence.targets.items():
            if leaf in sequence.moving or not self._is_sealed(sequence, leaf):
                continue
            sequence.moving.add(leaf)
            block, content = sequence.table[leaf].block, sequence.hashes[leaf]
            self.effects.append(Move(sequence.number, leaf, block, to, content))

    def own_sealed(self, sequence: Sequence) -> list[int]:
        """Leaves at home whose lending frees a block, the oldest first."""
        if not self.store.num_shared:
            return sequence.home
        table, is_shared = sequence.table, self.store.is_shared
        return [leaf for leaf in sequence.home if not is_shared(table[leaf].block)]

    def moved(self, sequence: Sequence, leaf: int) -> None:
        """The holder has committed the block: use it there, and reuse the own one."""
        sequence.moving.discard(leaf)
        block = sequence.table[leaf].block
        sequence.table[leaf] = to = sequence.targets.pop(leaf)
        self._note_moved(sequence, leaf, to)
        sequence.table_version += 1
        self.free([block])
        # A block that others use, or that the pool has cached, is not free here now.
        if (sequence.is_prefill or not sequence.spare) and self.store.num_free:
            self.reserve(sequence, 1)

    def fetched(self, sequence: Sequence, leaf: int, block: int) -> None:
        """A lent leaf is home again: use it here, give its slot back."""
        self.store.seal(block, *sequence.content(leaf, self._layout.tokens))
        lent, sequence.table[leaf] = sequence.table[leaf], BlockRef(self._instance, block)
        sequence.table_version += 1
        insort(sequence.home, leaf)
        self.chronicle.note(sequence, "returned", lent.instance, 1)
        self.release_slot(sequence, lent)

    def untarget(self, sequence: Sequence, leaf: int, *, release: bool) -> None:
        """The leaf stays at home; ``release``: its slot still stands, and goes back."""
        ref = sequence.targets.pop(leaf)
        if self._is_sealed(sequence, leaf):
            insort(sequence.home, leaf)
        if leaf in sequence.moving:
            sequence.moving.discard(leaf)
            self.effects.append(Cancel(sequence.number, leaf))
        if release:
            self.release_slot(sequence, ref)

    def release_slot(self, sequence: Sequence, ref: BlockRef) -> None:
        sequence.loans[ref.instance, ref.loan] -= 1
        self._release(sequence, ref.instance, ref.loan, [ref.slot])

    def drop(
        self,
        sequence: Sequence,
        *,
        final: bool,
        keep_own: bool = False,
        keep_lent: bool = False,
    ) -> None:
        """Give everything back; when it is ``final`` the client gets its report.

        What is kept stays cached where it lies, for whoever goes on with the sequence.
        """
        if final:
            self.chronicle.note(sequence, "ended")
        name, again = sequence.request.request_id, sequence.recomputed_tokens
        holders, life = sequence.holders(), sequence.timeline.life()
        self.effects.append(Finish(sequence.number, name, final, holders, again, life))
        own = [ref.block for ref in sequence.table if self._is_own(ref)]
        # What is cached first goes first, and a head is of use without its tail.
        self.free([*reversed(own), *sequence.spare], keep=keep_own)
        for instance, loan in list(sequence.loans):
            self._release(sequence, instance, loan, [], keep=keep_lent)
        sequence.let_go()

    def can_shorten(self, sequence: Sequence) -> bool:
        """Its last leaf lies at home, and is not all that it has."""
        has_more = len(sequence.table) > 1 and not sequence.holes
        return has_more and self._is_own(sequence.table[-1])

    def shorten(self, sequence: Sequence) -> int:
        """Free the last leaf's block; returns how many tokens are to be computed again."""
        leaf = len(sequence.table) - 1
        if leaf in sequence.targets:
            self.untarget(sequence, leaf, release=True)
        self.free([sequence.table.pop().block])
        sequence.table_version += 1
        del sequence.hashes[leaf:]
        if sequence.home[-1:] == [leaf]:
            sequence.home.pop()
        lost = max(0, sequence.num_computed - leaf * self._layout.tokens)
        sequence.num_computed -= lost
        return lost

    def _on_found(
        self, message: Drawn, whom: Sequence | None, asker: Sequence, wanted: Mapping[int, bytes]
    ) -> None:
        """Cached blocks came for the asker; it may have lost interest meanwhile."""
        leaves = [*wanted]
        found = dict(zip((leaves[at] for at in message.found), message.cached, strict=True))
        self.store.recover({block: wanted[leaf] for leaf, block in found.items()})
        if whom is asker:
            self._reuse(asker, found)
        else:
            self.free(found.values())

    def _reuse(self, sequence: Sequence, found: Mapping[int, int]) -> None:
        refs = {leaf: BlockRef(self._instance, block) for leaf, block in found.items()}
        sequence.reuse(refs, self._layout.tokens)
        sequence.home = self.home_of(sequence)

    def home_of(self, sequence: Sequence) -> list[int]:
        """What ``Sequence.home`` must be, looked up leaf by leaf."""
        num_sealed, targets = len(sequence.hashes), sequence.targets
        return [n for n in range(num_sealed) if n not in targets and self._is_sealed(sequence, n)]

    def _is_sealed(self, sequence: Sequence, leaf: int) -> bool:
        """The leaf is full and lies in an own block."""
        if leaf >= len(sequence.hashes) or not self._is_own(sequence.table[leaf]):
            return False
        return self.store.hash_of(sequence.table[leaf].block) is not None

    def _note_moved(self, sequence: Sequence, leaf: int, to: BlockRef) -> None:
        self.chronicle.note(sequence, "moved", to.instance, 1)
        at, of = (to.instance, to.loan, to.slot), sequence.content(leaf, self._layout.tokens)
        self.store.contents.moved(at, sequence.hashes[leaf], *of)

    def _is_own(self, ref: BlockRef) -> bool:
        return ref.instance == self._instance and not ref.loan

    def _release(
        self, sequence: Sequence, instance: int, loan: int, slots: list[int], *, keep: bool = False
    ) -> None:
        self.effects.append(ToPool(instance, Release(loan, slots, keep)))
        self.store.contents.ended(instance, loan, slots)
        if not slots or not sequence.loans[instance, loan]:
            sequence.loans.pop((instance, loan), None)
            self._debts.remove(instance, loan)
