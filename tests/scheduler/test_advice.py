"""Protects the planner's advice: DGFM, greedy, balanced, and how often it is given."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loads_harness import load_of
from msgspec import structs

from engine import protocol as p
from engine.scheduler.balanced import BalancedPlacement
from engine.scheduler.base import ClusterView, InstanceView
from engine.scheduler.dgfm import settlements
from engine.scheduler.gmanager import GManager
from engine.scheduler.greedy import Candidate, GreedyPlacement
from engine.scheduler.ledger import LedgerPlacement
from engine.scheduler.performance import Performance

DEBTS = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda edge: edge[0] != edge[1]),
    st.integers(1, 9),
)


def step(instance, *, running=2, waiting=0, blocks=10, num_output=100):
    sequences = [(blocks, blocks - 1, num_output)] * running
    return load_of(instance, sequences, waiting=waiting, waiting_blocks=4 * waiting)


def view_of(instance, load, *, num_blocks=40, free=0, owed=None, host="a", draining=False):
    creditor = p.Creditor(instance, 1, f"at-{instance}", host, free)
    return InstanceView(
        creditor=creditor,
        num_blocks=num_blocks,
        num_free=free,
        owed=owed or {},
        load=load,
        is_draining=draining,
    )


def cluster(*views, round=100, advised=None):
    instances = {view.instance: view for view in views}
    return ClusterView(instances=instances, block_tokens=64, round=round, advised=advised or {})


CROWDED = view_of(0, step(0, waiting=6))
ROOMY = view_of(1, step(1, running=0), free=30)


@given(debts=DEBTS, start=st.integers(0, 9), min_swap=st.integers(1, 4))
def test_a_settlement_makes_every_debt_of_its_circle_smaller_and_none_larger(
    debts, start, min_swap
):
    seen = set()
    for settlement in settlements(debts, min_swap, start):
        assert settlement.num_blocks >= min_swap
        for edge in settlement.edges:
            assert debts[edge] >= settlement.num_blocks
        assert any(debts[edge] == settlement.num_blocks for edge in settlement.edges)
        assert not seen & set(settlement.cycle)
        seen |= set(settlement.cycle)


def test_ledger_settles_a_circle_and_keeps_the_room_for_its_members():
    ring = [view_of(n, step(n), owed={(n - 1) % 3: 5 + n}) for n in range(3)]
    advice = LedgerPlacement(LedgerPlacement.Config()).advise(cluster(*ring), Performance())
    settled = {(a.instance, a.message.creditor) for a in advice if isinstance(a.message, p.Settle)}
    assert settled == {(0, 1), (1, 2), (2, 0)}
    assert {a.message.num_blocks for a in advice} == {5}
    assert {a.instance for a in advice if isinstance(a.message, p.Freeze)} == {0, 1, 2}
    done = dict.fromkeys(settled, 99)
    again = LedgerPlacement(LedgerPlacement.Config())
    assert again.advise(cluster(*ring, advised=done), Performance()) == []


@pytest.mark.parametrize("kind", [GreedyPlacement, BalancedPlacement])
def test_a_crowded_instance_lends_blocks_of_its_longest_sequence_to_a_roomy_one(kind):
    placement = kind(kind.Config())
    advice = placement.advise(cluster(CROWDED, ROOMY), Performance())
    (move,) = [one.message for one in advice if one.instance == 0]
    assert move.to.instance == 1
    assert 0 < move.num_blocks < 9
    assert advice == placement.advise(cluster(CROWDED, ROOMY), Performance())
    nobody_waits = replace(CROWDED, load=step(0))
    assert not placement.advise(cluster(nobody_waits, ROOMY), Performance())
    leaving = replace(ROOMY, is_draining=True)
    assert not placement.advise(cluster(CROWDED, leaving), Performance())


@given(free=st.integers(0, 30), running=st.integers(0, 8), waiting=st.integers(0, 8))
def test_greedy_moves_no_more_than_is_lendable_and_only_at_a_gain(free, running, waiting):
    placement = GreedyPlacement(GreedyPlacement.Config())
    lender = view_of(1, step(1, running=running), free=free)
    view = cluster(view_of(0, step(0, waiting=waiting)), lender)
    for advice in placement.advise(view, Performance()):
        move = advice.message
        if advice.instance == 0:
            assert move.num_blocks <= min(free, 8)
            assert waiting
            debtor, creditor = view.instances[0], view.instances[1]
            candidate = Candidate(debtor, creditor, move.sequence, move.num_blocks)
            assert placement.gain(view, candidate, Performance()) > 0


def test_greedy_counts_what_the_lender_loses():
    placement = GreedyPlacement(GreedyPlacement.Config())
    busy = view_of(1, step(1, running=8), free=30)
    view = cluster(CROWDED, ROOMY, busy)
    candidates = [Candidate(CROWDED, to, 0, 4) for to in (ROOMY, busy)]
    alone, shared = (placement.gain(view, one, Performance()) for one in candidates)
    assert alone > shared


def test_balanced_leaves_a_pair_alone_for_a_while_and_brings_debts_home():
    placement = BalancedPlacement(BalancedPlacement.Config())
    just_now = cluster(CROWDED, ROOMY, round=100, advised={(0, 1): 95})
    assert not placement.advise(just_now, Performance())
    debtor = view_of(0, step(0), free=30)
    lender = view_of(1, step(1), free=3, owed={0: 4})
    (home,) = placement.advise(cluster(debtor, lender), Performance())
    assert (home.instance, home.message.creditor, home.message.num_blocks) == (0, 1, 4)


def test_the_model_learns_what_steps_cost():
    model = Performance()
    for n in range(400):
        rows, keys, away = 1 + n % 16, 500 * (n % 23), 0
        seconds = 0.02 + 0.003 * rows + 4e-7 * keys
        model.learn([p.StepSample(rows, keys, away, seconds)])
    step_s, row_s, key_s, _ = model.coefficients
    assert step_s == pytest.approx(0.02, rel=0.05)
    assert row_s == pytest.approx(0.003, rel=0.05)
    assert key_s == pytest.approx(4e-7, rel=0.05)


def beat(instance, free, owed=()):
    return p.Heartbeat(instance, 1, f"at-{instance}", "a", 40, free, free, 0, 36, 0, dict(owed))


def test_a_step_is_advised_once_on_each_of_its_reports():
    placement = GreedyPlacement(GreedyPlacement.Config())
    planner = GManager(GManager.Config(plan_s=0.5), placement=placement, cost=Performance())
    for message in (beat(0, 0), beat(1, 30), CROWDED.load, ROOMY.load):
        planner.handle(message, 0.0)
    assert len(planner.tick(0.1)) == 1
    assert planner.tick(0.2) == [], "it is not time"
    assert planner.tick(0.7) == [], "nothing new is known"
    planner.handle(CROWDED.load, 0.8)
    assert len(planner.tick(1.3)) == 1


def test_who_leaves_is_offered_to_nobody_until_it_comes_back():
    planner = GManager(GManager.Config())
    for message in (beat(1, 30), beat(2, 20), p.Evacuate(1)):
        planner.handle(message, 0.0)
    offer = planner.handle(p.BorrowQuery(1, 0, "a", 5), 0.1)
    assert [one.instance for one in offer.creditors] == [2]
    members = planner.handle(p.MembersQuery(), 0.1).members
    assert [one.draining for one in members] == [True, False]
    planner.handle(structs.replace(beat(1, 30), epoch=2), 0.2)
    offer = planner.handle(p.BorrowQuery(2, 0, "a", 5), 0.3)
    assert [one.instance for one in offer.creditors] == [1, 2]
