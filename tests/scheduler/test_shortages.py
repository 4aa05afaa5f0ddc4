"""Who wants much is not kept waiting by those who want little, and no memory is held for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_checks import LAYOUT
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.scheduler import PLACEMENTS, shortages
from engine.scheduler.base import Advice
from engine.scheduler.gmanager import GManager
from engine.scheduler.performance import Performance
from engine.scheduler.shortages import FORGET_S, HOLD_S, PATIENCE_S, Shortages

T = LAYOUT.tokens
OPTIONS = {"max_step_tokens": 4, "grow_blocks": 1}


def beats(*lendable):
    return [
        p.Heartbeat(
            instance=number,
            epoch=1,
            address=str(number),
            host="host",
            num_blocks=20,
            num_free=num_blocks,
            num_lendable=num_blocks,
            num_lent=0,
            num_lend_cap=20,
        )
        for number, num_blocks in enumerate(lendable)
    ]


def query(instance, num_blocks, age_s, priority=0):
    return p.BorrowQuery(1, instance, "host", num_blocks, age_s, priority)


def short_for(seconds, *, num_blocks=12, instance=0):
    """Instance 0 has asked again and again, and never found enough."""
    shortages = Shortages()
    for now in range(100, 101 + seconds):
        asking = query(instance, num_blocks, now - 90)
        assert offered(shortages, now, asking) == 8
    return shortages, now


def offered(shortages, now, asking, lendable=(0, 4, 4)):
    return sum(shortages.left_for(asking, beats(*lendable), now)[0].values())


def test_later_requests_are_offered_what_the_earlier_one_leaves():
    shortages, now = short_for(PATIENCE_S + 1)
    assert offered(shortages, now, query(3, 2, 3.0)) == 0
    assert offered(shortages, now, query(0, 2, 3.0)) == 0, "of the same instance as well"
    assert offered(shortages, now, query(3, 2, 3.0), (0, 4, 10)) == 2


def test_earlier_and_more_urgent_ones_are_offered_all():
    shortages, now = short_for(PATIENCE_S + 1)
    assert offered(shortages, now, query(3, 2, now - 50.0)) == 8
    assert offered(shortages, now, query(3, 2, 0.0, priority=-1)) == 8


def test_it_is_held_after_a_while_and_for_a_while():
    assert offered(*short_for(PATIENCE_S - 1), query(3, 2, 0.0)) == 8
    assert offered(*short_for(PATIENCE_S + HOLD_S - 1), query(3, 2, 0.0)) == 0
    assert offered(*short_for(PATIENCE_S + HOLD_S + 1), query(3, 2, 0.0)) == 8
    assert offered(*short_for(PATIENCE_S + 2 * HOLD_S + 1), query(3, 2, 0.0)) == 0


def test_who_found_enough_or_asks_no_more_is_not_short():
    shortages, now = short_for(PATIENCE_S + 1)
    assert offered(shortages, now + FORGET_S, query(3, 2, 0.0)) == 8
    shortages, now = short_for(PATIENCE_S + 1)
    assert offered(shortages, now, query(0, 12, now - 90.0), (0, 8, 8)) == 16
    assert offered(shortages, now, query(3, 2, 0.0)) == 8


def test_the_memory_at_home_of_who_is_short_is_held_too():
    shortages, now = short_for(PATIENCE_S + 1, instance=1)
    left, _ = shortages.left_for(query(0, 2, 0.0), beats(0, 4, 20), now)
    assert left.get(1, 0) == 0
    assert left[2] == 8


def test_memory_is_held_for_the_earliest_of_all_only():
    shortages, now = short_for(PATIENCE_S + 1)
    at = now - PATIENCE_S
    assert offered(shortages, at, query(1, 40, at - 95), (0, 4, 4, 9)) == 17, "nothing yet"
    left, is_held = shortages.left_for(query(0, 12, now - 90), beats(0, 4, 4), now)
    assert is_held
    assert sum(left.values()) == 8
    _, is_held = shortages.left_for(query(1, 40, now - 95), beats(0, 4, 4), now)
    assert not is_held
    assert offered(shortages, now, query(2, 2, 0.0), (0, 8, 8, 6)) == 10, "12 are held, not 52"


def test_who_runs_and_takes_what_there_is_is_not_short():
    shortages = Shortages()
    growing = p.BorrowQuery(1, 0, "host", 12, 90.0, 0, 0, True)
    for now in range(100, 102 + PATIENCE_S):
        assert offered(shortages, now, growing) == 8
    assert offered(shortages, now, query(3, 2, 3.0)) == 8


@given(
    wants=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)), min_size=1, max_size=5),
    rooms=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=6, max_size=6),
)
def test_who_is_told_finds_enough_if_those_before_take_theirs(wants, rooms):
    shortages = Shortages()
    for instance, (num_blocks, num_own) in enumerate(wants):
        asking = p.BorrowQuery(1, instance, "host", num_blocks, 50.0 - instance, 0, num_own)
        shortages.left_for(asking, beats(*[0] * 6), 0.0)
    lendable = {instance: min(room) for instance, room in enumerate(rooms)}
    free = {instance: max(room) for instance, room in enumerate(rooms)}
    told = shortages.relieved(lendable, free, 1.0)
    taken = 0
    for instance in told:
        others = sum(lendable.values()) - lendable[instance] + free[instance]
        taken += sum(wants[instance])
        assert taken <= others
    if not told:
        assert all(
            sum(lendable.values()) - lendable[i] + free[i] < sum(want)
            for i, want in enumerate(wants)
        )
    assert shortages.relieved(lendable, free, 2.0) == [], "each is told once"
    assert shortages.relieved(lendable, free, FORGET_S + 1) == []


def test_the_planner_tells_who_was_short_and_he_asks_again():
    balanced = PLACEMENTS.load("balanced")
    planner = GManager(GManager.Config(), placement=balanced(balanced.Config()), cost=Performance())
    for beat in beats(0, 4, 4):
        planner.handle(beat, 0.0)
    planner.handle(query(0, 9, 3.0), 0.1)
    assert planner.tick(0.2) == []
    for beat in beats(0, 4, 8):
        planner.handle(beat, 0.8)
    assert planner.tick(0.9) == [Advice(0, p.BorrowOffer(0, [], 0))]
    assert planner.tick(1.9) == []


def test_an_offer_that_nobody_asked_for_ends_a_pause():
    cluster = Cluster((6, 6), **OPTIONS)
    cluster.submit(1, range(5 * T), 3 * T)
    long = cluster.submit(0, range(50, 50 + 10 * T), 3)
    rounds(cluster, 10)
    scheduler = cluster.instances[0].scheduler
    [waiting] = scheduler.admission.waiting
    waiting.not_before = cluster.now + 1000.0
    rounds(cluster, 60)
    assert not long.tokens
    scheduler.on_offer(p.BorrowOffer(0, [], 0), cluster.now)
    rounds(cluster, 60)
    assert long.done


def test_short_requests_pass_a_long_one_that_waits_for_others_memory():
    cluster = Cluster((6, 6), **OPTIONS)
    cluster.submit(1, range(5 * T), 30 * T)
    long = cluster.submit(0, range(50, 50 + 10 * T), 3)
    rounds(cluster, 5)
    short = cluster.submit(0, range(30, 30 + 2 * T), 3)
    rounds(cluster, 30)
    assert short.done
    assert not long.tokens


def test_they_do_not_while_memory_is_held_for_it():
    cluster = Cluster((6, 6), **OPTIONS)
    cluster.submit(1, range(5 * T), 90 * T)
    cluster.submit(0, range(50, 50 + 10 * T), 3)
    rounds(cluster, 10 * (PATIENCE_S + 2))
    short = cluster.submit(0, range(30, 30 + 2 * T), 3)
    [long] = [one for one in cluster.instances[0].scheduler.roster.all() if one.num_prompt > 9 * T]
    long.not_before = 0.0  # it asks, and hears that memory is held for it
    rounds(cluster, 10)
    assert not long.may_be_passed
    assert not short.tokens


def test_nor_pass_one_that_only_waits_for_memory_at_home():
    cluster = Cluster((6, 6), placement="local_only", **OPTIONS)
    cluster.submit(0, range(3 * T), 30 * T)
    cluster.submit(0, range(50, 50 + 5 * T), 3)
    rounds(cluster, 10)
    short = cluster.submit(0, range(30, 30 + T), 3)
    rounds(cluster, 20)
    assert not short.tokens


def rounds(cluster, number):
    for _ in range(number):
        cluster.now += 0.1
        cluster.round()


def streams(cluster, long_blocks, *, num_rounds):
    """Rounds until instance 0 has answered a long request, which comes when two instances already
    get a short one whenever one ends; None if it has not by then.
    """
    long, flows = None, dict.fromkeys([(1, 5), (1, 7), (2, 10), (2, 12)])
    for number in range(num_rounds):
        cluster.now += 0.1
        for (instance, first), answer in flows.items():
            if number >= first and (answer is None or answer.done):
                start = (13 * number) % 50
                prompt = range(start, start + 5 * T)
                flows[instance, first] = cluster.submit(instance, prompt, 2 * T)
        if number == 20:
            long = cluster.submit(0, range(long_blocks * T - 2), 3)
        cluster.round()
        if long and long.done:
            return number
    return None


@pytest.mark.parametrize("placement", ["ledger", "greedy", "balanced"])
@pytest.mark.parametrize("sizes", [(6, 4, 4, 10), (6, 6, 6, 6)])
def test_a_long_request_is_served_however_many_short_ones_keep_coming(sizes, placement):
    cluster = Cluster(sizes, placement=placement, **OPTIONS)
    assert streams(cluster, 14, num_rounds=300) is not None, cluster.describe()


def test_it_would_starve_if_nothing_were_held(monkeypatch):
    monkeypatch.setattr(shortages, "PATIENCE_S", 1e9)
    assert streams(Cluster((6, 6, 6, 6), **OPTIONS), 14, num_rounds=800) is None
