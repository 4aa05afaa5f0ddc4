"""The ledger: lenders and borrowers count the same loans, each in books of their own."""

from hypothesis import given
from hypothesis import strategies as st
from scheduler_cluster import Cluster

from engine.protocol import View
from engine.scheduler.reports import tokens_of
from engine.server.overview import ledger


def ledger_of(cluster):
    beats = [
        one.rmanager.heartbeat(address="", host="", now=cluster.now) for one in cluster.instances
    ]
    return ledger(View(beats, [one.scheduler.load(cluster.now) for one in cluster.instances]))


requests = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=6
)


@given(sizes=st.tuples(*[st.integers(6, 24)] * 3), wanted=requests)
def test_both_sides_of_every_loan_agree_once_all_is_said(sizes, wanted):
    cluster = Cluster(sizes, max_step_tokens=4, grow_blocks=1)
    for instance, num_prompt, max_tokens in wanted:
        cluster.submit(instance, range(num_prompt), max_tokens)
    for _ in range(60):
        cluster.round()
        cluster.now += 0.1
        found = ledger_of(cluster)
        assert all(loan["lent"] == loan["borrowed"] for loan in found["loans"]), found
        assert found["lent"] == found["borrowed"]


def test_who_owes_whom_is_named():
    cluster = Cluster([12, 40, 4], max_step_tokens=4, grow_blocks=1)
    answer = cluster.submit(0, range(50), 4)
    seen = set()
    for _ in range(60):
        cluster.round()
        cluster.now += 0.1
        seen |= {(loan["debtor"], loan["creditor"]) for loan in ledger_of(cluster)["loans"]}
    assert answer.done
    assert (0, 1) in seen
    assert {debtor for debtor, _ in seen} == {0}
    assert ledger_of(cluster) == {"lent": 0, "borrowed": 0, "loans": []}


def test_a_request_says_where_its_blocks_lie():
    cluster = Cluster([12, 30], max_step_tokens=4, grow_blocks=1)
    cluster.submit(0, range(50), 26)
    cluster.submit(0, range(50), 4)  # waits
    for _ in range(20):
        cluster.round()
        cluster.now += 0.1
    load = cluster.instances[0].scheduler.load(cluster.now)
    running, waiting = load.requests.values()
    sequence = cluster.instances[0].scheduler.running[0]
    assert (running.state, waiting.state) == ("decode", "waiting")
    assert [one.num_prompt for one in load.origins.values()] == [50, 50]
    assert tokens_of(load, running) == (sequence.num_output, sequence.num_computed)
    assert sum(share.num_blocks for share in running.holders) == len(sequence.table)
    assert {share.instance for share in running.holders} == {0, 1}
    assert waiting.holders == []
