"""A holder is fair between debtors: nobody waits for more than one piece of each other's work."""

from hypothesis import given
from hypothesis import strategies as st

from engine.attention.turns import Turns

work = st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4)


@given(work=work)
def test_all_is_done_in_each_peers_order_and_nobody_is_overtaken_twice(work):
    turns = Turns()
    for peer, sizes in enumerate(work):
        for number, size in enumerate(sizes):
            turns.append(peer, [number, size])
    left = [sum(sizes) for sizes in work]
    done = [[] for _ in work]
    since = [0] * len(work)
    while turns:
        peer, job = turns.take()
        job[1] -= 1
        left[peer] -= 1
        done[peer].append(job[0])
        since[peer] = 0
        for other in range(len(work)):
            if other != peer and left[other]:
                since[other] += 1
                assert since[other] < len(work), "a peer waits longer than a round"
        if job[1]:
            turns.put_back(peer, job)
    assert left == [0] * len(work)
    for numbers, sizes in zip(done, work, strict=True):
        assert numbers == [n for n, size in enumerate(sizes) for _ in range(size)]


def test_a_lost_peers_work_is_gone():
    turns = Turns()
    turns.append(1, "a")
    turns.append(2, "b")
    turns.forget(1)
    assert turns.take() == (2, "b")
    assert not turns
