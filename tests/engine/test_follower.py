"""Rank 0 and a follower over a pipe: what the one says the other does, what it learns is heard."""

import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_harness import tiny_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from native_step import decodes
from ranked_step import RankedStep
from tp.parts import part_of
from tp.thread_ranks import ThreadCollective, ThreadRanks

from engine.core import BlockRef, Plan, Span
from engine.errors import PeerLost
from engine.follower import Follower
from engine.model.checkpoint import Checkpoint
from engine.model.runner import ModelRunner
from engine.protocol import FencedOff, Release
from engine.protocol.ranks import Dial, Drop, ForgetSequence, ForgetTables, Heard
from engine.ranks import LedRunner, Ranks, completed, shortened


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path: Path = tmp_path_factory.mktemp("follower")
    return tiny_checkpoint(path)


class Led(RankedStep):
    """Two ranks; rank 1 is a Follower in a thread of its own."""

    def __init__(self, checkpoint: Checkpoint, **attention: Any) -> None:
        super().__init__(checkpoint, 2, wait_s=20.0, **attention)
        ours, theirs = Pipe()
        ranks = ThreadRanks(2)
        runners = []
        for rank in range(2):
            collective = ThreadCollective(ranks, rank)
            model = part_of(checkpoint, collective)
            runners.append(ModelRunner(model, self.backends[rank], collective))
        self.ranks = Ranks([ours])
        self.runner = LedRunner(runners[0], self.ranks)
        follower = Follower(theirs, runners[1], self.backends[1], self.every_lenders[1])
        self.thread = threading.Thread(target=self._serve, args=(follower,), daemon=True)
        self.ended_with: object = None
        self.thread.start()

    def _serve(self, follower: Follower) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            try:
                follower.serve()
            except PeerLost as error:
                self.ended_with = str(error)

    def run(self, rows: Any) -> tuple[torch.Tensor, frozenset[int]]:
        return self.runner.run(self.plan(rows))

    def close(self) -> None:
        self.ranks.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        super().close()


def test_a_lost_channel_is_heard_and_a_new_one_is_told_all_anew(tiny: Checkpoint) -> None:
    step = Led(tiny)
    step.prefill()
    truth, _ = step.run(decodes(0))
    step.lend(({0: 1, 3: 1}, {1: 2}))
    assert torch.equal(step.run(decodes(0))[0], truth)
    holder = step.holders[1]
    holder.rest()
    (channel,) = holder.rmanager._peers._ranks
    holder.server._lose(channel)
    holder.resting.clear()
    _, poisoned = step.run(decodes(0))
    assert poisoned == {0}
    (heard,) = step.ranks.heard
    assert heard == Heard({1: heard.lost[1]}, [], [])
    step.ranks.tell(Drop(1))
    step.ranks.tell(Dial(1, holder.address))
    for _ in range(1000):  # it dials beside its steps
        logits, poisoned = step.run(decodes(0))
        if not poisoned:
            break
    assert torch.equal(logits, truth)
    step.close()
    assert step.ended_with is None


def test_what_a_holder_declines_is_heard(tiny: Checkpoint) -> None:
    step = Led(tiny)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 2}))
    step.run(decodes(0))
    loan = step.tables[1][1].loan
    step.lenders.send(2, Release(loan))
    while step.holders[2].rmanager._lending.loans.get(loan) is not None:
        pass
    _, poisoned = step.run(decodes(1))
    assert poisoned == {1}
    (heard,) = step.ranks.heard
    ((instance, said),) = heard.declined
    assert isinstance(said, FencedOff)
    assert (instance, said.loans) == (2, [loan])
    step.close()


def test_sequences_and_tables_are_forgotten(tiny: Checkpoint) -> None:
    step = Led(tiny)
    step.prefill()
    step.lend(({0: 1, 3: 1}, {1: 1, 2: 2}))
    truth, _ = step.run(decodes(0))
    known = step.backends[1]._attached
    assert known.versions(1).keys() == {0, 1}
    step.ranks.tell(ForgetSequence(0))
    step.run([(1, 71, 1)])  # it has heard all that was said before
    assert known.versions(1).keys() == {1}
    step.ranks.tell(ForgetTables(1))
    assert torch.equal(step.run(decodes(0))[0], truth)
    assert known.versions(1) == {0: 1, 1: 1}
    step.close()


def test_who_loses_rank_0_ends(tiny: Checkpoint) -> None:
    step = Led(tiny)
    for pipe in step.ranks._pipes:
        pipe.close()
    step.thread.join(20)
    assert "rank 0 is gone" in str(step.ended_with)
    step.ranks = Ranks()
    step.close()


def test_who_loses_a_rank_ends() -> None:
    ours, theirs = Pipe()
    theirs.close()
    for act in (lambda: Ranks([ours]).tell(Drop(1)), lambda: Ranks([ours]).hear()):
        with pytest.raises(PeerLost, match="a tp rank of this instance is gone"):
            act()
    ours.close()


TABLES = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
    lambda blocks: tuple(BlockRef(0, block) for block in blocks)
)


@given(st.lists(st.dictionaries(st.integers(0, 3), TABLES, min_size=1), max_size=6))
def test_only_tables_that_changed_travel_and_all_arrive(
    steps: list[dict[int, tuple[BlockRef, ...]]],
) -> None:
    ours: dict[int, tuple[BlockRef, ...]] = {}
    theirs: dict[int, tuple[BlockRef, ...]] = {}
    for number, tables in enumerate(steps):
        spans = tuple(Span(n, n, 1, 0, table, 0) for n, table in tables.items())
        plan = Plan(number, (0,) * len(spans), spans)
        short = shortened(plan, ours)
        assert completed(short, theirs) == plan
        for span in short.spans:
            assert bool(span.table) == (ours.get(span.sequence) != tables[span.sequence])
        ours = theirs = tables
