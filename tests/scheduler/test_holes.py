"""Protects promise 6 in a sequence and its steps: exactly what is lost is computed again, in order.

A hole is a range of positions whose keys are nowhere. Whatever is lost, and whenever: nothing runs
before the keys it reads are there, and nothing is computed whose keys are there.
"""

from hypothesis import given
from hypothesis import strategies as st
from scheduler_checks import LAYOUT, TOKENS
from scheduler_harness import EOS, MAX_POSITIONS

from engine.core import NO_SCORES, BlockRef, Request, SamplingParams
from engine.protocol import Drawn
from engine.scheduler import PLACEMENTS
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.sequence import NOWHERE, Sequence, State

LENDER, LOAN = 1, 7


def lent(leaf):
    return BlockRef(LENDER, 50 + leaf, LOAN, leaf)


def sequence_of(num_leaves, num_behind=1):
    """All its leaves are lent; so many tokens behind them are not computed yet."""
    ids = [100, *range(1, num_leaves * TOKENS + num_behind)]
    request = Request(request_id="a", prompt_ids=tuple(ids), sampling=SamplingParams(max_tokens=99))
    sequence = Sequence(1, request, ids, num_computed=num_leaves * TOKENS)
    sequence.table = [lent(leaf) for leaf in range(num_leaves)]
    sequence.hashes = [bytes([leaf]) for leaf in range(num_leaves)]
    sequence.loans = {(LENDER, LOAN): num_leaves}
    return sequence


def positions(ranges):
    return [position for first, end in ranges for position in range(first, end)]


def positions_of(leaves):
    return {leaf * TOKENS + offset for leaf in leaves for offset in range(TOKENS)}


# --- the ranges themselves ----------------------------------------------------------------------

EVENTS = st.one_of(
    st.sets(st.integers(0, 7)).map(lambda leaves: ("lose", leaves)),
    st.integers(1, 5).map(lambda num_rows: ("compute", num_rows)),
)


@given(num_leaves=st.integers(1, 8), events=st.lists(EVENTS, max_size=12))
def test_what_is_to_be_computed_is_what_is_missing_in_order(num_leaves, events):
    sequence = sequence_of(num_leaves)
    missing = set()
    for what, how in events:
        if what == "lose":
            leaves = {leaf for leaf in how if leaf < num_leaves}
            sequence.open_holes(leaves, TOKENS)
            missing |= positions_of(leaves)
            assert all(sequence.table[leaf] is NOWHERE for leaf in leaves)
        elif missing:
            first, end = sequence.next_range
            num_rows = min(how, end - first)
            assert set(range(first, first + num_rows)) <= missing, "what is there is not lost"
            assert first == min(missing), "all before it is there"
            sequence.advance(num_rows)
            missing -= set(range(first, first + num_rows))
        assert positions(sequence.holes) == sorted(missing)
        ends = [bound for hole in sequence.holes for bound in hole]
        assert ends == sorted(set(ends)), "adjacent holes are one"
        assert sequence.is_wounded == bool(missing)
    whole = num_leaves * TOKENS
    assert sequence.num_computed == whole, "holes lie before the end of what is computed"
    if not missing:
        assert sequence.next_range == (whole, whole + 1)


@given(
    num_leaves=st.integers(1, 8),
    lost=st.sets(st.integers(0, 7)),
    targets=st.sets(st.integers(0, 12)),
    num_behind=st.integers(1, 5),
)
def test_places_are_wanted_for_holes_and_what_is_to_come_and_nothing_else(
    num_leaves, lost, targets, num_behind
):
    sequence = sequence_of(num_leaves, num_behind)
    lost = {leaf for leaf in lost if leaf < num_leaves}
    sequence.open_holes(lost, TOKENS)
    sequence.targets = {leaf: lent(leaf) for leaf in targets}
    to_come = range(num_leaves, LAYOUT.blocks_for(len(sequence.token_ids) + 1))
    assert sequence.to_place(TOKENS) == sorted((lost | {*to_come}) - targets)
    assert sequence.holders() == (LENDER,) * (num_leaves - len(lost))


# --- steps over them ----------------------------------------------------------------------------


class Alone:
    """A real scheduler whose one sequence runs; blocks come from nowhere, losses at any time."""

    def __init__(self, num_leaves, max_step_tokens, num_behind=1):
        placement = PLACEMENTS.load("ledger")
        self.scheduler = Scheduler(
            Scheduler.Config(max_step_tokens=max_step_tokens),
            instance=0,
            host="host",
            layout=LAYOUT,
            placement=placement(placement.Config()),
            num_blocks=40,
            max_positions=MAX_POSITIONS,
            eos_ids=frozenset({EOS}),
        )
        self.sequence = sequence_of(num_leaves, num_behind)
        self.sequence.state = State.RUNNING
        self.scheduler.running.append(self.sequence)
        self.there = set(range(self.sequence.num_computed))
        self.num_given = 0
        self.computed = []

    def give(self, num_blocks):
        blocks = list(range(self.num_given, self.num_given + num_blocks))
        self.num_given += num_blocks
        self.scheduler.holdings.on_drawn(Drawn(blocks, 0))

    def lose(self, leaves):
        """Those that are still lent; own blocks are not lost."""
        gone = {leaf for leaf in leaves if self.sequence.table[leaf : leaf + 1] == [lent(leaf)]}
        self.sequence.open_holes(gone, TOKENS)
        self.there -= positions_of(gone)

    def step(self, *, poisoned=False):
        """Run one; the positions it computed."""
        batch, holdings = self.scheduler.batch, self.scheduler.holdings
        plan = batch.plan(self.scheduler.running, holdings, 0.0)
        if plan is None:
            return []
        [span] = plan.spans
        end = span.first_position + span.num_rows
        rows = list(range(span.first_position, end))
        assert {*range(span.first_position)} <= self.there, "it reads keys that are nowhere"
        assert not self.there & {*rows}, "it computes what is there"
        assert len(span.table) == LAYOUT.blocks_for(end)
        assert NOWHERE not in span.table
        written = span.table[span.first_position // TOKENS :]
        assert not any(ref.loan for ref in written), "keys are written to a lent block"
        assert plan.token_ids == tuple(self.sequence.token_ids[rows[0] : end])
        assert bool(plan.sampled) == (end == len(self.sequence.token_ids))
        next_ids = dict.fromkeys(plan.sampled, 5)
        poison = frozenset({1} if poisoned else ())
        self.scheduler.commit(plan, next_ids, NO_SCORES, frozenset(), poison, 0.0)
        self.scheduler.roster.check()
        if poisoned:
            return []
        self.there |= {*rows}
        self.computed += rows
        return rows


@given(
    num_leaves=st.integers(1, 8),
    max_step_tokens=st.integers(1, 7),
    events=st.lists(
        st.tuples(st.sets(st.integers(0, 7)), st.integers(0, 3), st.booleans()), max_size=8
    ),
)
def test_steps_compute_what_is_lost_once_and_never_ahead_of_it(num_leaves, max_step_tokens, events):
    """(leaves lost, blocks that come, is poisoned) before each step; then all can run."""
    alone = Alone(num_leaves, max_step_tokens)
    lost = set()
    for leaves, num_blocks, poisoned in events:
        before = set(alone.there)
        alone.lose(leaves)
        lost |= before - alone.there
        alone.give(num_blocks)
        alone.step(poisoned=poisoned)
    alone.give(20)
    while alone.sequence.is_wounded:
        assert alone.step(), "blocks are there, and nothing runs"
    old = [position for position in alone.computed if position < num_leaves * TOKENS]
    assert sorted(old) == sorted(lost), "each lost position once, and no other"
    assert alone.sequence.recomputed_tokens == len(lost)


def test_adjacent_holes_are_computed_as_one_and_others_in_their_order():
    alone = Alone(6, max_step_tokens=99)
    alone.lose({5, 1, 2})
    alone.give(8)
    assert alone.sequence.holes == [(2, 6), (10, 12)]
    assert [alone.step(), alone.step(), alone.step()] == [[2, 3, 4, 5], [10, 11], [12]]


def test_a_hole_that_grows_at_its_front_while_it_is_computed_begins_there():
    """Its later leaves have blocks already, and keep them."""
    alone = Alone(6, max_step_tokens=3)
    alone.lose({2, 3})
    alone.give(2)
    alone.step(poisoned=True)
    opened = alone.sequence.table[2:4]
    assert NOWHERE not in opened
    alone.lose({1})
    assert alone.sequence.next_range == (2, 8)
    assert alone.step() == [], "nothing behind a leaf without a block runs"
    assert alone.scheduler.batch.short == [alone.sequence]
    alone.give(1)
    assert [alone.step(), alone.step()] == [[2, 3, 4], [5, 6, 7]]
    assert alone.sequence.table[2:4] == opened


def test_what_is_behind_a_hole_waits_though_it_has_blocks():
    alone = Alone(3, max_step_tokens=4, num_behind=3)
    alone.give(3)
    assert alone.step() == [6, 7, 8]
    alone.lose({0, 2})
    assert alone.step() == [0, 1], "it has one block, and computes one of the two leaves"
    assert alone.step() == [], "the next token waits"
    alone.give(2)
    assert [alone.step(), alone.step()] == [[4, 5], [9]]


def test_a_wounded_sequence_keeps_what_it_has_and_queues_for_the_rest():
    alone = Alone(4, max_step_tokens=4)
    alone.give(3)
    scheduler, sequence = alone.scheduler, alone.sequence
    kept = sequence.table[1:3]
    for leaf in (0, 3):  # these two are in another loan
        sequence.table[leaf] = lent(leaf)._replace(loan=LOAN + 1)
    sequence.loans = {(LENDER, LOAN): 2, (LENDER, LOAN + 1): 2}
    scheduler.holdings.reserve(sequence, 3)
    scheduler.roster.lose({(LENDER, LOAN + 1)}, 0.0)
    assert not scheduler.running
    assert scheduler.admission.waiting == [sequence]
    assert sequence.state is State.WAITING
    assert sequence.is_wounded
    assert sequence.table == [NOWHERE, *kept, NOWHERE]
    assert sequence.to_place(TOKENS) == [0, 3, 4]
    assert sequence.loans == {(LENDER, LOAN): 2}
    assert len(sequence.spare) == 1, "what was put aside for more goes to who can run"
    scheduler.roster.check()
