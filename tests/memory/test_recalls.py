"""Protects promise 4, the lender comes first, and what stays cached for whoever comes back."""

import pytest
from rmanager_harness import BLOCK_BYTES, Talk, hello

from engine import protocol as p
from engine.errors import Fenced
from engine.memory.books import BlockState
from engine.memory.effects import Reply

STEP = 3
RECALL_S, RESIDENCE_S = 2.0, 0.5


@pytest.fixture
def talk():
    """A pool of 8 blocks with its own step; instances 1 and 2 on channels 1 and 2."""
    made = Talk(recall_s=RECALL_S, min_residence_s=RESIDENCE_S, max_lease_s=100.0)
    made.ask(1, hello(1))
    made.ask(2, hello(2))
    made.step(STEP)
    return made


def recalls(outputs):
    return [
        (out.peer, out.message.loan, out.message.slots)
        for out in outputs
        if isinstance(out, Reply) and isinstance(out.message, p.Recall)
    ]


def lend(talk, peer, num_blocks, reservation=1, age_s=0.0, content=b""):
    granted = talk.ask(peer, p.Reserve(reservation, num_blocks, 100.0, age_s))
    for slot in range(num_blocks):
        name = content + bytes([slot]) if content else b""
        talk.ask(peer, p.Write(granted.loan, slot, 0, True, name), BLOCK_BYTES)
    return granted


def test_a_draw_that_finds_too_little_calls_the_youngest_loans_back(talk):
    lend(talk, 1, 4, age_s=50.0)
    young = lend(talk, 2, 4, age_s=1.0)
    talk.now += 1.0
    outputs = talk.say(STEP, p.Draw(3, recall=True))
    drawn = next(out.message for out in outputs if out.peer == STEP)
    assert (drawn.blocks, drawn.num_recalled) == ([], 3)
    assert drawn.recall_s == RECALL_S + RESIDENCE_S
    assert recalls(outputs) == [(2, young.loan, [1, 2, 3])]


def test_what_comes_back_is_for_the_own_step(talk):
    granted = lend(talk, 1, 8)
    talk.now += 1.0
    talk.say(STEP, p.Draw(3, recall=True))
    talk.ask(1, p.Release(granted.loan, [5, 6, 7]))
    assert isinstance(talk.ask(2, p.Reserve(1, 1, 9.0)), p.Refused)
    assert len(talk.ask(STEP, p.Draw(3, recall=True)).blocks) == 3
    assert talk.rmanager.books.count(BlockState.LENT) == 5


def test_after_the_deadline_the_slots_end_and_are_answered_no_more(talk):
    granted = lend(talk, 1, 8)
    talk.ask(STEP, p.Draw(0))
    talk.rmanager.handle(1, p.Attach(7, 1, [(0, granted.loan, 0), (1, granted.loan, 7)]), talk.now)
    talk.now += 1.0
    talk.say(STEP, p.Draw(2, recall=True))
    assert talk.rmanager.resolve(1, 7, 1, talk.now)
    talk.now += RECALL_S
    outputs = talk.rmanager.tick(talk.now)
    assert [out.message for out in outputs if out.peer == 1][0].loans == [granted.loan]
    with pytest.raises(Fenced):
        talk.rmanager.resolve(1, 7, 1, talk.now)
    assert len(talk.ask(STEP, p.Draw(2, recall=True)).blocks) == 2


def test_a_table_that_names_an_ended_slot_is_never_answered(talk):
    granted = lend(talk, 1, 8)
    talk.now += 1.0
    talk.say(STEP, p.Draw(2, recall=True))
    talk.now += RECALL_S
    talk.rmanager.tick(talk.now)
    assert talk.say(1, p.Attach(7, 1, [(0, granted.loan, 0), (1, granted.loan, 7)])) == []
    with pytest.raises(Fenced):
        talk.rmanager.resolve(1, 7, 1, talk.now)


def test_a_loan_stays_for_a_while_and_each_debtor_has_one_round_at_a_time(talk):
    lend(talk, 1, 8)
    assert recalls(talk.say(2, p.Reserve(1, 1, 9.0, 50.0))) == []
    talk.now += RESIDENCE_S
    assert len(recalls(talk.say(2, p.Reserve(2, 1, 9.0, 50.0)))) == 1
    assert recalls(talk.say(2, p.Reserve(3, 5, 9.0, 60.0))) == []


def test_the_own_step_waits_for_no_other_round_and_nothing_is_called_back_twice(talk):
    granted = lend(talk, 1, 8)
    talk.now += RESIDENCE_S
    assert recalls(talk.say(STEP, p.Draw(1, recall=True))) == [(1, granted.loan, [7])]
    assert recalls(talk.say(STEP, p.Draw(5, recall=True))) == [(1, granted.loan, [3, 4, 5, 6])]
    assert recalls(talk.say(STEP, p.Draw(5, recall=True))) == []


def test_what_may_not_be_called_back_yet_is_as_soon_as_it_may(talk):
    """The step need not ask again: it was told a time, and it is kept."""
    granted = lend(talk, 1, 8)
    drawn = next(out.message for out in talk.say(STEP, p.Draw(2, recall=True)) if out.peer == STEP)
    assert drawn.num_recalled == 2
    talk.now += RESIDENCE_S
    assert recalls(talk.rmanager.tick(talk.now)) == [(1, granted.loan, [6, 7])]
    talk.now += RECALL_S
    talk.rmanager.tick(talk.now)
    assert talk.rmanager.books.num_available == 2
    assert recalls(talk.rmanager.tick(talk.now)) == []


def test_what_the_step_has_drawn_meanwhile_is_not_called_back_once_more(talk):
    granted = lend(talk, 1, 8)
    talk.say(STEP, p.Draw(2, recall=True))
    talk.ask(1, p.Release(granted.loan, [0, 1]))
    assert len(talk.ask(STEP, p.Draw(2)).blocks) == 2
    talk.now += RESIDENCE_S
    assert recalls(talk.rmanager.tick(talk.now)) == []


def test_a_block_that_two_have_pinned_comes_back_once_with_the_last_of_them(talk):
    granted = lend(talk, 1, 8, content=b"x")
    talk.ask(1, p.Release(granted.loan, [0], True))
    for reservation, peer in ((7, 1), (7, 2)):
        talk.ask(peer, p.Pin(reservation, [b"x\x00"], 50.0))
    talk.ask(1, p.Release(granted.loan))
    talk.ask(STEP, p.Draw(7))
    talk.now += RESIDENCE_S
    outputs = talk.say(STEP, p.Draw(3, recall=True))
    assert next(out.message for out in outputs if out.peer == STEP).num_recalled == 1
    assert sorted(peer for peer, _, _ in recalls(outputs)) == [1, 2]


def test_nothing_is_pinned_that_the_own_step_waits_for_or_that_is_kept(talk):
    granted = lend(talk, 1, 8, content=b"x")
    talk.now += 1.0
    talk.say(STEP, p.Draw(1, recall=True))
    talk.ask(1, p.Release(granted.loan, [], True))
    assert talk.ask(2, p.Pin(1, [b"x\x00"], 9.0)).found == []
    talk.say(STEP, p.Draw(0, recall=True))
    talk.rmanager.freeze(7, 5.0, talk.now)
    assert talk.ask(2, p.Pin(2, [b"x\x00", b"x\x01"], 9.0)).found == [0]


def test_an_older_request_calls_back_from_a_younger_one_but_not_the_other_way(talk):
    lend(talk, 1, 8, age_s=10.0)
    talk.now += 1.0
    assert recalls(talk.say(2, p.Reserve(1, 3, 9.0, 5.0))) == []
    outputs = talk.say(2, p.Reserve(2, 3, 9.0, 50.0))
    assert [(peer, len(slots)) for peer, _, slots in recalls(outputs)] == [(1, 3)]


def test_contents_outlive_a_lease_and_a_pin_lends_them_for_reading(talk):
    lend(talk, 1, 3, content=b"chain")
    talk.now += 200.0
    talk.rmanager.tick(talk.now)
    assert talk.rmanager.books.count(BlockState.CACHED) == 3
    names = [b"chain" + bytes([slot]) for slot in (2, 9, 0)]
    pinned = talk.ask(2, p.Pin(1, names, 50.0))
    assert pinned.found == [0, 2]
    assert talk.ask(2, p.Pin(1, names, 50.0)) == pinned
    assert len(talk.ask(STEP, p.Draw(8)).blocks) == 6, "a pinned block was given away"
    assert "committed" in talk.lost(2, p.Write(pinned.loan, 0, 0, True), BLOCK_BYTES)


def test_a_pin_ends_with_its_release_and_the_block_may_be_used_again(talk):
    granted = lend(talk, 1, 2, content=b"x")
    talk.ask(1, p.Release(granted.loan, [], True))
    pinned = talk.ask(2, p.Pin(1, [b"x\x00"], 50.0))
    talk.ask(2, p.Release(pinned.loan))
    assert len(talk.ask(STEP, p.Draw(8)).blocks) == 8
    assert talk.ask(2, p.Pin(2, [b"x\x00"], 50.0)).loan == 0


def test_own_blocks_that_are_given_with_a_content_stay_cached(talk):
    blocks = talk.ask(STEP, p.Draw(2)).blocks
    talk.say(STEP, p.Give(blocks, [b"one"]))
    assert talk.rmanager.books.count(BlockState.CACHED) == 1
    assert talk.ask(1, p.Pin(1, [b"one"], 9.0)).blocks == [blocks[0]]


def test_frozen_blocks_are_for_the_own_step(talk):
    talk.rmanager.freeze(6, 5.0, talk.now)
    assert talk.ask(1, p.Reserve(1, 3, 9.0)).num_lendable == 2
    talk.now += 5.0
    assert isinstance(talk.ask(1, p.Reserve(2, 3, 9.0)), p.Granted)


def test_host_memory_is_never_lent_and_drawn_last():
    talk = Talk(num_blocks=8, host_blocks=3)
    talk.ask(1, hello(1))
    talk.step(STEP)
    assert talk.ask(1, p.Reserve(1, 8, 9.0)).num_lendable == 5
    assert len(talk.ask(STEP, p.Draw(8)).blocks) == 5
    assert len(talk.ask(STEP, p.Draw(8, host=True)).blocks) == 3


def test_what_is_cached_gives_way_before_a_sequence_goes_to_host_memory():
    talk = Talk(num_blocks=5, host_blocks=2)
    talk.step(STEP)
    blocks = talk.ask(STEP, p.Draw(3)).blocks
    talk.say(STEP, p.Give(blocks, [b"a", b"b", b"c"]))
    drawn = talk.ask(STEP, p.Draw(4, host=True))
    assert (sorted(drawn.blocks), drawn.num_host) == ([0, 1, 2, 3], 1)
    talk.say(STEP, p.Give([0, 1]))
    assert sorted(talk.ask(STEP, p.Draw(4)).blocks) == [0, 1], "host memory in use counts twice"


def test_the_share_that_is_lent_is_of_what_is_no_host_memory():
    talk = Talk(num_blocks=8, host_blocks=4, lend_fraction=0.5)
    talk.ask(1, hello(1))
    assert talk.ask(1, p.Reserve(1, 8, 9.0)).num_lendable == 2


def test_who_leaves_calls_everything_home_and_lends_no_more(talk):
    granted = lend(talk, 1, 3)
    talk.now += 1.0
    assert recalls(talk.rmanager.lend(False, talk.now)) == [(1, granted.loan, [0, 1, 2])]
    assert isinstance(talk.ask(2, p.Reserve(1, 1, 9.0)), p.Refused)


def test_who_is_told_to_lend_nothing_lends_again_when_it_may(talk):
    granted = lend(talk, 1, 3, content=b"x")
    talk.ask(1, p.Release(granted.loan, [2], True))
    talk.now += 1.0
    talk.rmanager.lend(False, talk.now)
    for later in (0.0, 100.0):  # however long ago it was said
        talk.now += later
        assert talk.ask(2, p.Reserve(1, 1, 9.0)).num_lendable == 0
        assert talk.ask(2, p.Pin(2, [b"x\x02"], 9.0)).loan == 0
        beat = talk.rmanager.heartbeat(address="", host="", now=talk.now)
        assert (beat.lends, beat.num_lendable, beat.num_lend_cap) == (False, 0, 0)
    talk.rmanager.lend(True, talk.now)
    assert talk.rmanager.heartbeat(address="", host="", now=talk.now).lends
    assert isinstance(talk.ask(2, p.Reserve(3, 5, 9.0)), p.Granted)
