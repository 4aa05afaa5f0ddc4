"""Sequence: a request's tokens, where its keys live, and what it holds while it runs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from engine.core import BlockRef, Request
from engine.memory.blocks import root_of
from engine.scheduler.timeline import Timeline

NOWHERE = BlockRef(-1, 0)
"""stands in the table for a leaf whose keys are in no block: a hole not yet begun"""


class State(Enum):
    WAITING = "waiting"
    """no memory yet, or not all it needs"""
    PLACING = "placing"
    """a reservation is under way"""
    RUNNING = "running"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request while the engine works on it.

    ``[0, num_computed)``               keys and values are in the table's blocks, but for holes
    ``[num_computed, len(token_ids))``  tokens whose keys are still to be computed; one, in decode

    A *hole* is a range of positions whose keys are lost, or were never here: it is computed before
    anything behind it; the keys on both sides stay valid.
    """

    number: int
    request: Request
    token_ids: list[int]
    state: State = State.WAITING
    num_computed: int = 0
    table: list[BlockRef] = field(default_factory=list)
    table_version: int = 0
    spare: list[int] = field(default_factory=list)
    """own blocks held for leaves to come"""
    targets: dict[int, BlockRef] = field(default_factory=dict)
    """leaf -> the lent slot it shall move to"""
    moving: set[int] = field(default_factory=set)
    """leaves on their way to their target"""
    hashes: list[bytes] = field(default_factory=list)
    """chain hash of each sealed leaf"""
    home: list[int] = field(default_factory=list)
    """sealed leaves in own blocks that have no target, ascending"""
    loans: dict[tuple[int, int], int] = field(default_factory=dict)
    """(instance, loan) -> slots of it that are not given back"""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """token ranges [first, end), ascending, apart, each ending with a leaf"""
    returning: dict[int, float] = field(default_factory=dict)
    """lent leaves on their way home -> when they are dropped if they are not here (inf: never)"""
    arrived: float | None = None
    paused_until: float = 0.0
    """a holder is busy: no step before this time"""
    num_tries: int = 0
    on_host: bool = False
    """nobody could lend: the next draw may take host memory"""
    hopeless_since: float | None = None
    """all pools together have been too small for it since then"""
    not_before: float = 0.0
    """do not try to place it again before this time"""
    may_be_passed: bool = False
    """it waits for memory of others that is not held for it: those behind it need not wait too"""
    recomputed_tokens: int = 0
    counted: bool = False
    """its tenant has had this turn"""
    num_scored: int = 0
    """prompt tokens behind the first whose Score the client was told"""
    chain: list[bytes] = field(default_factory=list)
    """hashes of the leaves that it looked for before it was placed, whether found or not"""
    is_reused: bool = False
    """its table is what was found, and it has not run with it yet"""
    is_plain: bool = False
    """with what was found it was not placed: the next time it is tried without"""
    num_reused: int = 0
    """tokens whose keys were found when it began to run"""
    timeline: Timeline = field(default_factory=Timeline)
    num_prompt: int = field(init=False)
    seniority: tuple[int, float, int] = field(init=False)
    """smaller for more urgent, then older requests: they come first, and give way last"""
    _seen: tuple[int, tuple[BlockRef, ...]] = (-1, ())
    """a version of the table, and the part of it that was looked at last"""

    def __post_init__(self) -> None:
        self.num_prompt = len(self.request.prompt_ids)
        self.came(self.arrived)

    def came(self, at: float | None) -> None:
        """None: nobody has looked when."""
        self.arrived = at
        arrived = float("inf") if at is None else at
        self.seniority = (self.request.priority, arrived, self.number)

    @property
    def root(self) -> bytes:
        """Parent of its first block's hash."""
        return root_of(self.request.cache_salt)

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_prefill(self) -> bool:
        return len(self.token_ids) - self.num_computed > 1 or bool(self.holes)

    @property
    def has_own(self) -> bool:
        """Something of it lies at home; all that it has may be at others."""
        return bool(self.spare or self.num_own)

    @property
    def num_own(self) -> int:
        """Leaves that lie at home."""
        return sum(1 for ref in self.table if not ref.loan and ref is not NOWHERE)

    @property
    def is_wounded(self) -> bool:
        """It holds memory and lacks some that it had."""
        return bool(self.holes)

    @property
    def most_steps(self) -> int:
        """Tokens that its answer may have yet."""
        return self.request.sampling.max_tokens - self.num_output

    @property
    def num_left(self) -> int:
        """Tokens whose keys are still to be computed, holes included."""
        lost = sum(end - first for first, end in self.holes)
        return lost + len(self.token_ids) - self.num_computed

    @property
    def next_range(self) -> tuple[int, int]:
        """Positions [first, end) to compute next; all keys before ``first`` are there."""
        return self.holes[0] if self.holes else (self.num_computed, len(self.token_ids))

    def advance(self, num_rows: int) -> None:
        """The next range's first rows are computed."""
        if not self.holes:
            self.num_computed += num_rows
            return
        first, end = self.holes.pop(0)
        if first + num_rows < end:
            self.holes.insert(0, (first + num_rows, end))

    def leaves(self, num_leaves: int) -> tuple[BlockRef, ...]:
        """Where the first so many lie, which must all be somewhere.

        The same tuple as long as none of them moves: tables of long sequences have thousands.
        """
        version, known = self._seen
        if version != self.table_version or len(known) != num_leaves:
            known = tuple(self.table[:num_leaves])
            self._seen = (self.table_version, known)
        return known

    def content(self, leaf: int, tokens: int) -> tuple[bytes, list[int]]:
        """What a full leaf is named by: the hash of the one before, and its own tokens."""
        parent = self.hashes[leaf - 1] if leaf else self.root
        return parent, self.token_ids[leaf * tokens : (leaf + 1) * tokens]

    def has(self, leaf: int) -> bool:
        """Whether the leaf has a block."""
        return leaf < len(self.table) and self.table[leaf] is not NOWHERE

    def reuse(self, found: Mapping[int, BlockRef], tokens: int) -> None:
        """These leaves of ``chain`` are found; what is missing before the last one is a hole."""
        if not found:
            return
        here = {leaf: ref for leaf, ref in enumerate(self.table) if ref is not NOWHERE} | {**found}
        num_leaves = max(here) + 1
        self.table = [here.get(leaf, NOWHERE) for leaf in range(num_leaves)]
        self.table_version += 1
        self.hashes = self.chain[:num_leaves]
        self.num_computed = num_leaves * tokens
        self.holes = []
        self.open_holes(set(range(num_leaves)) - here.keys(), tokens)
        self.is_reused = True

    def let_go(self) -> None:
        """It holds nothing any more, and no key of it is anywhere."""
        self.loans.clear()
        self.table.clear()
        self.spare.clear()
        self.targets.clear()
        self.moving.clear()
        self.hashes.clear()
        self.home.clear()
        self.holes.clear()
        self.returning.clear()
        self.num_computed = 0
        self.table_version += 1
        self.is_reused = False

    def open_holes(self, leaves: Collection[int], tokens: int) -> None:
        """These leaves' keys are nowhere; ``tokens`` to a leaf."""
        for leaf in leaves:
            self.table[leaf] = NOWHERE
        self.table_version += bool(leaves)
        lost = [(leaf * tokens, (leaf + 1) * tokens) for leaf in leaves]
        merged: list[tuple[int, int]] = []
        for first, end in sorted([*self.holes, *lost]):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((first, end))
        self.holes = merged

    def to_place(self, tokens: int) -> list[int]:
        """Leaves that have no block and no target yet, ascending: holes, then those to come."""
        missing = [leaf for leaf, ref in enumerate(self.table) if ref is NOWHERE]
        behind = range(len(self.table), -(-(len(self.token_ids) + 1) // tokens))
        return [leaf for leaf in (*missing, *behind) if leaf not in self.targets]

    def num_to_place(self, tokens: int) -> int:
        """How many these are."""
        if self.holes or self.targets:
            return len(self.to_place(tokens))
        return max(0, -(-(len(self.token_ids) + 1) // tokens) - len(self.table))

    def holders(self) -> tuple[int, ...]:
        """The instance that holds each leaf that is anywhere."""
        return tuple(ref.instance for ref in self.table if ref is not NOWHERE)
