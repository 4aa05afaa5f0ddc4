"""Protects promise 5 on the debtor's side: leases are durations, counted from when it asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.protocol import Renew, Renewed
from engine.scheduler.debts import Debts
from engine.scheduler.effects import ToPool

LEASE_S = 30.0
BELIEVED_S = LEASE_S * 0.95


@pytest.fixture
def debts():
    debts = Debts()
    debts.add(1, 7, lease_s=LEASE_S, asked_at=100.0)
    return debts


def test_a_lease_counts_from_when_it_was_asked_for_with_a_margin(debts):
    assert not debts.expired(100 + BELIEVED_S - 0.01)
    assert debts.expired(100 + BELIEVED_S) == {(1, 7)}


def test_a_long_pause_ends_all(debts):
    debts.add(2, 7, lease_s=LEASE_S, asked_at=100.0)
    debts.add(2, 8, lease_s=LEASE_S * 9, asked_at=100.0)
    assert debts.expired(160.0) == {(1, 7), (2, 7)}


def test_renewal_is_due_after_a_third(debts):
    assert debts.tick(100 + BELIEVED_S / 3 - 0.01) == []
    assert debts.tick(100 + BELIEVED_S / 3 + 0.01) == [ToPool(1, Renew([7]))]


def test_one_renewal_names_all_loans_of_an_instance(debts):
    debts.add(1, 3, lease_s=LEASE_S, asked_at=119.0)
    debts.add(2, 3, lease_s=LEASE_S, asked_at=119.0)
    assert debts.tick(120.0) == [ToPool(1, Renew([3, 7]))]


def test_no_second_renewal_before_the_first_is_answered(debts):
    assert debts.tick(120.0)
    assert debts.tick(125.0) == debts.renew(1, 126.0) == []
    debts.on_renewed(1, Renewed([7]))
    assert debts.renew(1, 127.0) == [ToPool(1, Renew([7]))]


def test_renewed_extends_from_when_renew_was_sent_not_from_when_it_is_answered(debts):
    debts.tick(120.0)
    assert debts.on_renewed(1, Renewed([7])) == set()
    assert not debts.expired(120 + BELIEVED_S - 0.01)
    assert debts.expired(120 + BELIEVED_S) == {(1, 7)}


def test_a_repeated_answer_extends_nothing(debts):
    debts.tick(120.0)
    debts.on_renewed(1, Renewed([7]))
    assert debts.on_renewed(1, Renewed([7])) == debts.on_renewed(1, Renewed([])) == set()
    assert debts.expired(120 + BELIEVED_S) == {(1, 7)}


def test_what_does_not_stand_is_gone(debts):
    debts.add(1, 8, lease_s=LEASE_S, asked_at=100.0)
    debts.tick(120.0)
    assert debts.on_renewed(1, Renewed([8])) == {(1, 7)}


def test_an_old_renewed_never_revives(debts):
    debts.tick(120.0)
    debts.remove(1, 7)
    assert debts.on_renewed(1, Renewed([7])) == set()
    assert (1, 7) not in debts
    assert len(debts) == 0


def test_a_loan_granted_meanwhile_is_not_gone(debts):
    """It was asked for before the Renew was sent, and granted after."""
    debts.tick(120.0)
    debts.add(1, 8, lease_s=LEASE_S, asked_at=119.0)
    assert debts.on_renewed(1, Renewed([7])) == set()
    assert (1, 8) in debts
    assert debts.expired(119 + BELIEVED_S) == {(1, 8)}


def test_another_instance_answers_for_itself_only(debts):
    debts.add(2, 7, lease_s=LEASE_S, asked_at=100.0)
    debts.tick(120.0)
    assert debts.on_renewed(2, Renewed([])) == {(2, 7)}
    assert (1, 7) in debts


def test_a_lost_channel_takes_its_answers_along(debts):
    debts.tick(120.0)
    assert debts.forget(1) == {(1, 7)}
    assert debts.renew(1, 121.0) == [ToPool(1, Renew([7]))]


def test_nothing_to_renew():
    assert Debts().renew(1, 100.0) == Debts().tick(100.0) == []


@given(steps=st.lists(st.tuples(st.sampled_from(["tick", "answer", "fenced"]), st.floats(0, 12))))
def test_no_lease_is_believed_longer_than_the_creditor_grants_it(steps):
    """The creditor counts from when it receives, here as early as it can: when it was sent."""
    debts, now, sent = Debts(), 100.0, []
    debts.add(1, 7, lease_s=LEASE_S, asked_at=now)
    stands_until = now + LEASE_S
    for kind, seconds in steps:
        now += seconds
        if kind == "answer" and sent:
            at = sent.pop(0)
            stands_until = max(stands_until, at + LEASE_S)
            debts.on_renewed(1, Renewed([7]))
        elif kind != "answer":
            sent += [now for _ in (debts.renew(1, now) if kind == "fenced" else debts.tick(now))]
        for at in (now, stands_until, stands_until + 1):
            if not debts.expired(at):
                assert at < stands_until


INSTANCES, LOANS = st.integers(1, 3), st.integers(1, 4)


class Accounts(RuleBasedStateMachine):
    """What is remembered of all debts is what looking at each would give, whatever befalls them."""

    def __init__(self):
        super().__init__()
        self.debts, self.now = Debts(), 100.0

    @rule(instance=INSTANCES, loan=LOANS, lease_s=st.floats(1, 60), since=st.floats(0, 5))
    def add(self, instance, loan, lease_s, since):
        self.debts.add(instance, loan, lease_s=lease_s, asked_at=self.now - since)

    @rule(instance=INSTANCES, loan=LOANS)
    def remove(self, instance, loan):
        self.debts.remove(instance, loan)

    @rule(instance=INSTANCES, standing=st.sets(LOANS))
    def renewed(self, instance, standing):
        for key in self.debts.on_renewed(instance, Renewed(sorted(standing))):
            self.debts.remove(*key)

    @rule(instance=INSTANCES)
    def lose(self, instance):
        for key in self.debts.forget(instance):
            self.debts.remove(*key)

    @rule(seconds=st.floats(0, 30))
    def tick(self, seconds):
        self.now += seconds
        due = {key[0] for key, one in self.debts._debts.items() if one.renewal <= self.now}
        due -= self.debts._renewing.keys()
        assert [said.instance for said in self.debts.tick(self.now)] == sorted(due)

    @invariant()
    def nothing_is_overlooked(self):
        renewals = [one.renewal for one in self.debts._debts.values()]
        assert self.debts.next_renewal == min(renewals, default=math.inf)
        ended = {key for key, one in self.debts._debts.items() if one.ends <= self.now}
        assert self.debts.expired(self.now) == ended


TestAccounts = Accounts.TestCase
