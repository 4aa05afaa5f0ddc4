"""Protects promises 8 and 10, the last step: who gives way gives up no more than is wanted.

It keeps the rest and goes on from there; and what it keeps while it waits stops nobody.
"""

import pytest
from scheduler_checks import TOKENS, check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.memory.books import BlockState
from engine.scheduler.effects import Cancel, Finish, ToPool
from engine.scheduler.sequence import State

OPTIONS = {"max_step_tokens": 4, "max_num_seqs": 4, "grow_blocks": 1, "placement": "local_only"}


def cluster_of(num_blocks, lengths, **options):
    """One instance with requests of (prompt tokens, answer tokens), the elder first."""
    cluster = Cluster([num_blocks], **(OPTIONS | options))
    for number, (num_prompt, max_tokens) in enumerate(lengths):
        cluster.submit(0, [100 + number, *range(1, num_prompt)], max_tokens)
    return cluster, cluster.instances[0].scheduler


def finish(cluster):
    """Run to the end; the tokens that were computed again, for each request."""
    scheduler, again = cluster.instances[0].scheduler, {}
    take = scheduler.take_effects

    def noted():
        effects = take()
        ended = [effect for effect in effects if isinstance(effect, Finish) and effect.final]
        again.update({effect.request_id: effect.recomputed_tokens for effect in ended})
        return effects

    scheduler.take_effects = noted
    for _ in range(500):
        if all(answer.done for answer in cluster.answers.values()):
            break
        cluster.now += 0.05 if cluster.round() else 0.5
        check_cluster(cluster)
    for answer in cluster.answers.values():
        if not answer.aborted:
            assert (answer.tokens, answer.finish_reason) == answer.expected()
    return again


def until_one_waits(cluster):
    """The younger of two, as soon as it has given way; and what it had before."""
    scheduler = cluster.instances[0].scheduler
    table = []
    while True:
        cluster.round()
        [younger] = [one for one in scheduler.roster.all() if one.number == 2]
        if scheduler.loads.relief["preemptions"]:
            return younger, table
        table = list(younger.table)


def test_the_younger_gives_up_one_block_and_keeps_the_rest():
    cluster, scheduler = cluster_of(8, [(4, 9), (5, 9)])
    younger, before = until_one_waits(cluster)
    [elder] = scheduler.running
    assert younger.state is State.WAITING
    assert younger.table == before[:-1]
    assert len(younger.table) > 1
    assert younger.recomputed_tokens <= TOKENS
    version, kept = younger.table_version, list(younger.table)
    while younger not in scheduler.running:
        kept = kept[: len(younger.table)]
        cluster.round()
        cluster.now += 0.05
    assert younger.table[: len(kept)] == kept
    assert younger.table_version > version
    assert not elder.recomputed_tokens
    assert finish(cluster)["1"] < len(before) * TOKENS


def test_the_youngest_that_finds_nothing_itself_waits_with_all_it_has():
    cluster, scheduler = cluster_of(8, [(6, 9), (4, 9)])
    younger, before = until_one_waits(cluster)
    assert [one.number for one in scheduler.running] == [1]
    assert younger.table == before
    assert not younger.recomputed_tokens


def test_who_waits_gives_one_more_for_each_that_is_wanted():
    cluster, scheduler = cluster_of(10, [(6, 12), (4, 12)])
    younger, _ = until_one_waits(cluster)
    sizes = [len(younger.table)]
    while any(one.number == 1 for one in scheduler.running):
        cluster.round()
        sizes.append(len(younger.table))
    assert sizes == sorted(sizes, reverse=True)
    assert {before - after for before, after in zip(sizes, sizes[1:], strict=False)} <= {0, 1}
    assert sizes[-1] < sizes[0]
    finish(cluster)


@pytest.mark.parametrize("max_step_tokens", [1, 4])
@pytest.mark.parametrize("grow_blocks", [1, 3])
@pytest.mark.parametrize("placement", ["local_only", "ledger"])
def test_all_finish_in_a_pool_that_holds_one_and_a_half_of_them(
    placement, grow_blocks, max_step_tokens
):
    options = {"grow_blocks": grow_blocks, "max_step_tokens": max_step_tokens}
    lengths = [(4 + number % 3, 12 - number % 3) for number in range(6)]
    cluster, _ = cluster_of(12, lengths, placement=placement, **options)
    finish(cluster)


def test_when_nobody_runs_the_younger_gives_way_to_the_elder():
    """Each holds what the other wants: nobody ends, so nobody would free anything."""
    cluster, scheduler = cluster_of(8, [(4, 11), (6, 9)])
    while [len(one.table) for one in scheduler.running] != [4, 4]:
        cluster.round()
    elder, younger = scheduler.running
    kept = list(elder.table)
    scheduler.roster.suspend(elder)
    scheduler.roster.suspend(younger)
    for _ in range(20):
        cluster.round()
        cluster.now += 0.05
    assert elder.state is State.RUNNING or cluster.answers["0"].done
    assert elder.table[:4] in (kept, [])
    again = finish(cluster)
    assert not elder.recomputed_tokens
    assert again["1"] > 0


def test_who_is_alone_and_finds_nothing_starts_over_and_is_refused_in_the_end():
    cluster, _ = cluster_of(6, [(4, 30)])
    answer = cluster.answers["0"]
    for _ in range(200):
        cluster.now += 0.05 if cluster.round() else 0.5
        check_cluster(cluster)
    assert "this instance has 6" in answer.error


def test_who_ends_while_it_waits_leaves_nothing_behind():
    cluster, scheduler = cluster_of(8, [(4, 9), (5, 9)])
    until_one_waits(cluster)
    cluster.abort("1")
    assert [one.number for one in scheduler.roster.all()] == [1]
    scheduler.roster.check()
    assert finish(cluster)["0"] == 0


def test_an_instance_that_leaves_hands_over_who_waits_and_its_sealed_blocks_stay_cached():
    cluster, scheduler = cluster_of(8, [(4, 9), (5, 9)])
    handed, to_client = [], cluster.to_client

    def note(name, message):
        if isinstance(message, p.HandedOver):
            handed.append(name)
        else:
            to_client(name, message)

    cluster.to_client = note
    younger, _ = until_one_waits(cluster)
    num_sealed = len(younger.hashes)
    scheduler.on_advice(p.Evacuate(0), cluster.now)
    cluster.instances[0].perform()
    cluster.deliver_all()
    assert handed == ["0", "1"]
    assert scheduler.evacuated
    books = cluster.instances[0].rmanager.books
    assert books.count(BlockState.USED) == 0
    assert books.count(BlockState.CACHED) > num_sealed > 0


def test_a_block_on_its_way_to_a_creditor_stays_at_home_and_its_slot_goes_back():
    """What is given up is the last leaf, wherever that was to go."""
    two = Cluster([8, 20], **(OPTIONS | {"placement": "ledger"}))
    two.submit(0, [100, *range(1, 6)], 9)
    scheduler, sequence = two.instances[0].scheduler, None
    while not (sequence and len(sequence.hashes) == len(sequence.table) == 4):
        two.round()
        sequence = scheduler.running[0] if scheduler.running else None
    scheduler.growth.lend_out(sequence, 4, two.now)
    two.instances[0].perform()
    while not sequence.moving:  # all but the copies arrives
        for queue, deliver in ((two.queries, two.deliver_query), (two.offers, two.deliver_offer)):
            while queue:
                deliver()
        for key, channel in two.channels.items():
            while channel.up:
                two.deliver_up(*key)
            while channel.down:
                two.deliver_down(*key)
    [to] = [ref for leaf, ref in sequence.targets.items() if leaf == 3]
    scheduler.roster.shorten(sequence)
    effects = scheduler.take_effects()
    assert Cancel(sequence.number, 3) in effects
    assert ToPool(1, p.Release(to.loan, [to.slot], False)) in effects
    for effect in effects:
        two.instances[0].carry_out(effect)
    check_cluster(two)
    assert len(sequence.table) == len(sequence.hashes) == 3
    assert sequence.moving == {0, 1, 2}
    for _ in range(60):
        two.now += 0.05 if two.round() else 0.5
        check_cluster(two)
    answer = two.answers["0"]
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_who_stops_in_the_middle_of_its_prompt_is_placed_anew_for_the_rest_of_it():
    """It has no block any more that what is still to be lent could pass through."""
    two = Cluster([8, 30], **(OPTIONS | {"placement": "ledger"}))
    answer = two.submit(0, [100, *range(1, 40)], 8)
    scheduler = two.instances[0].scheduler
    while not (scheduler.running and len(scheduler.running[0].table) > 4):
        two.round()
    [sequence] = scheduler.running
    assert max(sequence.targets) >= len(sequence.table)
    scheduler.roster.suspend(sequence)
    two.instances[0].perform()
    assert all(leaf < len(sequence.table) for leaf in sequence.targets)
    assert not sequence.spare
    check_cluster(two)
    for _ in range(100):
        two.now += 0.05 if two.round() else 0.5
        check_cluster(two)
    assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_who_has_nothing_at_home_does_not_start_over_for_a_block_at_home():
    """All that it has lies at a lender: the elder that is short waits instead, as the youngest."""
    two = Cluster([12, 20], **(OPTIONS | {"placement": "ledger"}))
    for first in (100, 101):
        two.submit(0, [first, *range(1, 6)], 12)
    scheduler = two.instances[0].scheduler
    while len(scheduler.running) < 2 or any(one.is_prefill for one in scheduler.running):
        two.round()
    elder, younger = scheduler.running
    scheduler.growth.lend_out(younger, len(younger.home), two.now)
    two.instances[0].perform()
    while not younger.loans or younger.targets or younger.moving:
        two.deliver_all()
    scheduler.roster.suspend(younger)
    while younger.has_own:
        scheduler.roster.shorten(younger)
    kept = list(younger.table)
    scheduler.holdings.trim(elder, 0)
    scheduler.batch.short = [elder]
    scheduler._preemption.make_room(elder)
    assert younger.table == kept != []
    assert elder.state is State.WAITING
    assert elder.table
    assert not elder.recomputed_tokens
