"""Who wants much is not kept waiting by those who want little, and no memory is held for ever."""

import pytest
from scheduler_checks import LAYOUT
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.scheduler import shortages
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
        left = shortages.left_for(query(instance, num_blocks, now - 90), beats(0, 4, 4), now)
        assert sum(left.values()) == 8
    return shortages, now


def offered(shortages, now, asking):
    return sum(shortages.left_for(asking, beats(0, 4, 4), now).values())


def test_later_requests_are_offered_what_the_earlier_one_leaves():
    shortages, now = short_for(PATIENCE_S + 1)
    assert offered(shortages, now, query(3, 2, 3.0)) == 0
    assert offered(shortages, now, query(0, 2, 3.0)) == 0, "of the same instance as well"
    assert sum(shortages.left_for(query(3, 2, 3.0), beats(0, 4, 10), now).values()) == 2


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
    shortages.left_for(query(0, 12, now - 90.0), beats(0, 8, 8), now)
    assert offered(shortages, now, query(3, 2, 0.0)) == 8


def test_the_memory_at_home_of_who_is_short_is_held_too():
    shortages, now = short_for(PATIENCE_S + 1, instance=1)
    left = shortages.left_for(query(0, 2, 0.0), beats(0, 4, 20), now)
    assert left.get(1, 0) == 0
    assert left[2] == 8


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
