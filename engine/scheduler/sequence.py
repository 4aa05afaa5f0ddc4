"""Sequence: a request's tokens, where its keys live, and what it holds while it runs."""

from dataclasses import dataclass, field
from enum import Enum

from engine.core import BlockRef, Request


class State(Enum):
    WAITING = "waiting"
    """no memory yet"""
    PLACING = "placing"
    """a reservation is under way"""
    RUNNING = "running"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request while the engine works on it.

    ``[0, num_computed)``               keys and values are in the table's blocks
    ``[num_computed, len(token_ids))``  tokens whose keys are still to be computed; one, in decode
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
    loans: dict[tuple[int, int], int] = field(default_factory=dict)
    """(instance, loan) -> slots of it that are not given back"""
    num_tries: int = 0
    not_before: float = 0.0
    """do not try to place it again before this time"""
    recomputed_tokens: int = 0

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_prefill(self) -> bool:
        return len(self.token_ids) - self.num_computed > 1

    def holders(self) -> tuple[int, ...]:
        """The instance that holds each leaf."""
        return tuple(ref.instance for ref in self.table)
