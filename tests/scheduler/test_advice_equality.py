"""Protects the planner's short cuts: on drawn clusters they advise what the plain versions do."""

from hypothesis import given, settings
from hypothesis import strategies as st
from loads_harness import load_of
from plain_advice import PlainBalanced, PlainGreedy, plain_settlements

from engine import protocol as p
from engine.scheduler.balanced import BalancedPlacement
from engine.scheduler.base import ClusterView, InstanceView
from engine.scheduler.dgfm import MAX_CIRCLE, settlements
from engine.scheduler.greedy import MAX_CREDITORS, GreedyPlacement
from engine.scheduler.performance import Performance


@st.composite
def instances(draw, number: int) -> InstanceView:
    num_blocks = draw(st.integers(8, 200))
    free = draw(st.integers(0, num_blocks))
    lendable = draw(st.integers(0, free))
    host = draw(st.sampled_from("ab"))
    owed = draw(st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=3))
    load = None
    if draw(st.integers(0, 9)):
        sequences = [
            (draw(st.integers(1, 90)), draw(st.integers(0, 80)), 70 * n)
            for n in range(draw(st.integers(0, 6)))
        ]
        waiting = draw(st.sampled_from([0, 0, 1, 3, 20]))
        blocks = waiting * draw(st.integers(1, 30))
        load = load_of(number, sequences, waiting=waiting, waiting_blocks=blocks)
    return InstanceView(
        creditor=p.Creditor(number, 1, f"at-{number}", host, lendable),
        num_blocks=num_blocks,
        num_free=free,
        owed={debtor: num for debtor, num in owed.items() if debtor != number},
        load=load,
        is_draining=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def clusters(draw) -> ClusterView:
    number = draw(st.integers(1, 10))
    pair = st.tuples(st.integers(0, 9), st.integers(0, 9))
    return ClusterView(
        instances={n: draw(instances(n)) for n in range(number)},
        block_tokens=draw(st.sampled_from([16, 64])),
        round=100,
        advised=draw(st.dictionaries(pair, st.integers(80, 100), max_size=4)),
    )


@st.composite
def costs(draw) -> Performance:
    """Learned from steps of some machine."""
    cost = Performance()
    step_s, row_s = draw(st.sampled_from([0.001, 0.01, 0.1])), draw(st.sampled_from([1e-5, 1e-3]))
    key_s = draw(st.sampled_from([0.0, 1e-8, 1e-6]))
    for rows in (1, 4, 16):
        for keys in (64, 4096):
            seconds = step_s + row_s * rows + key_s * rows * keys
            cost.learn([p.StepSample(rows, rows * keys, 0, seconds)] * 2)
    return cost


@settings(max_examples=300)
@given(view=clusters(), cost=costs())
def test_greedy_and_balanced_advise_what_they_would_after_looking_at_all(view, cost):
    for kind, plain in ((GreedyPlacement, PlainGreedy), (BalancedPlacement, PlainBalanced)):
        assert kind(kind.Config()).advise(view, cost) == plain(kind.Config()).advise(view, cost)


EDGES = st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda edge: edge[0] != edge[1])


@settings(max_examples=300)
@given(st.dictionaries(EDGES, st.integers(0, 9)), st.integers(0, 9), st.integers(0, 4))
def test_circles_are_those_of_the_plain_search(debts, start, min_swap):
    assert settlements(debts, min_swap, start) == plain_settlements(debts, min_swap, start)


def test_a_circle_of_too_many_is_left():
    for num, is_settled in ((MAX_CIRCLE, True), (MAX_CIRCLE + 1, False)):
        ring = {(one, (one + 1) % num): 5 for one in range(num)}
        assert [found.num_blocks for found in settlements(ring, 2, 0)] == [5] * is_settled


def test_in_a_large_cluster_the_roomiest_are_looked_at():
    """One crowded instance and more lenders than are looked at: the roomiest gets the blocks."""
    crowded = load_of(0, [(90, 80, 500)], waiting=5, waiting_blocks=20)
    num = MAX_CREDITORS + 20
    view = ClusterView(
        instances={
            n: InstanceView(
                creditor=p.Creditor(n, 1, f"at-{n}", "a", n),
                num_blocks=100,
                num_free=n if n else 0,
                owed={},
                load=None if n else crowded,
            )
            for n in range(num)
        },
        block_tokens=64,
        round=1,
        advised={},
    )
    [advice] = GreedyPlacement(GreedyPlacement.Config(max_creditor_utilisation=1.0)).advise(
        view, Performance()
    )
    assert advice.message.to.instance >= num - MAX_CREDITORS
