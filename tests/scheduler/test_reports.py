"""Reports as changes: what the planner knows is always some report of the sender, exactly."""

import random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from engine import protocol as p
from engine.protocol import TO_PLANNER, encode
from engine.scheduler.gmanager import RESENDS_PER_S, GManager
from engine.scheduler.reports import Series, follow, is_old

small = st.integers(0, 3)
amounts = st.dictionaries(small, small, max_size=3)
counts = st.dictionaries(st.sampled_from("abc"), small, max_size=3)
shares = st.lists(st.builds(p.Share, small, small), max_size=2)
states = st.sampled_from(["waiting", "prefill", "decode"])
requests = st.builds(p.RequestLoad, states, st.integers(-3, 3), small, small, small, shares)
origins = st.builds(p.Origin, st.sampled_from("rs"), small, st.just(-1.0))
bounds = st.sampled_from([[1.0], [1.0, 2.0]])
histograms = st.builds(p.Histogram, bounds, st.lists(small, max_size=2), st.just(0.5))
loads = st.builds(
    p.Load,
    st.just(1),
    st.just(1),
    small,
    small,
    small,
    requests=st.dictionaries(small, requests, max_size=3),
    samples=st.lists(st.builds(p.StepSample, small, small, small, st.just(0.1)), max_size=1),
    relief=counts,
    borrowed=amounts,
    counts=counts,
    histograms=st.dictionaries(st.sampled_from("xy"), histograms),
    origins=st.dictionaries(
        small, st.builds(p.Origin, st.sampled_from("rs"), small, st.just(-1.0))
    ),
    num_steps=small,
)
beats = st.builds(
    p.Heartbeat,
    st.just(1),
    st.just(1),
    st.just("at"),
    st.just("host"),
    *[small] * 5,
    lent=amounts,
    sketch=st.sampled_from([b"", b"\0\1", b"\0\2"]),
    counts=counts,
)


def plain(report):
    return replace(report, number=0)


class Talk(RuleBasedStateMachine):
    """One sender, one planner, and a way between them that loses, doubles and reorders."""

    @initialize(reports=st.sampled_from([beats, loads]))
    def begin(self, reports):
        self.reports = reports
        self.epoch, self.series = 1, Series()
        self.said = {}
        """(epoch, number) -> the whole report"""
        self.on_the_way, self.known, self.latest = [], None, None

    @rule(data=st.data())
    def report(self, data):
        whole = replace(data.draw(self.reports, label="report"), epoch=self.epoch)
        message = self.series.next(whole)
        self.latest = self.said[self.epoch, message.number] = whole
        self.on_the_way.append(TO_PLANNER(encode(message)))

    @rule(data=st.data())
    def arrives(self, data):
        """Any of what was ever sent, once or again; what stays away for good is lost."""
        if self.on_the_way:
            at = data.draw(st.integers(0, len(self.on_the_way) - 1), label="which")
            self.hear(self.on_the_way[at])

    @rule(data=st.data())
    def arrives_in_order(self, data):
        """So that long chains of changes occur."""
        for message in self.on_the_way[-data.draw(st.integers(1, 4), label="last") :]:
            self.hear(message)

    def hear(self, message):
        if is_old(self.known, message):
            return
        found = follow(self.known, message)
        if found is None:
            self.series.resend()
            return
        if self.known is not None:
            was, is_now = ((one.epoch, one.number) for one in (self.known, found))
            assert is_now > was, "what was known is later than this"
        self.known = found

    @rule()
    def the_sender_is_restarted(self):
        self.epoch += 1
        self.series = Series()

    @rule()
    def the_planner_is_restarted(self):
        self.known = None

    @rule(data=st.data())
    def the_way_is_clear_for_a_while(self, data):
        """Two reports: the first may be asked for whole, the second is understood."""
        for _ in range(2):
            self.report(data)
            self.hear(self.on_the_way[-1])
        assert plain(self.known) == self.latest

    @invariant()
    def what_is_known_was_said(self):
        if getattr(self, "known", None) is not None:
            assert plain(self.known) == self.said[self.known.epoch, self.known.number]


def test_what_the_planner_knows_is_a_report_of_the_sender_and_soon_the_last_one():
    run_state_machine_as_test(Talk)


@given(before=loads, after=loads)
def test_what_did_not_change_is_not_said(before, after):
    series = Series()
    series.next(before)
    said = series.next(after)
    if said.whole:  # something that lasts is gone
        return
    for name in ("requests", "origins", "borrowed", "relief", "counts"):
        was, is_now = getattr(before, name), getattr(after, name)
        changed = {key: value for key, value in is_now.items() if was.get(key) != value}
        assert getattr(said, name) == changed
    again = series.next(after)
    assert not any((again.requests, again.origins, again.histograms, again.gone))


def decoding(num_steps, num_requests=100, block_tokens=64, first=3000):
    """Of an instance whose requests all had a token in each step."""
    made = {
        n: p.RequestLoad("decode", 10 + n, first + n, blocks, blocks - 1, [p.Share(1, blocks)])
        for n in range(num_requests)
        for blocks in [1 + (first + n + num_steps) // block_tokens]
    }
    origins = {n: p.Origin(f"cmpl-{n:032}#1.1", 3000, -1.0 * n) for n in made}
    return p.Load(1, 1, num_requests, 0, 0, made, origins=origins, num_steps=num_steps)


def test_steady_decoding_costs_what_crosses_into_a_new_block():
    series = Series()
    first = len(encode(series.next(decoding(0))))
    later = [series.next(decoding(8 * beat)) for beat in range(1, 33)]
    assert sum(len(one.requests) for one in later) == 100 * 8 * 32 // 64
    assert sum(map(len, map(encode, later))) / len(later) < first / 10


def beat(instance):
    return p.Heartbeat(instance, 1, "", "", 8, 8, 8, 0, 8)


def test_a_planner_that_begins_asks_all_for_whole_reports_but_not_all_at_once():
    planner = GManager(GManager.Config())
    senders = [Series() for _ in range(3 * RESENDS_PER_S)]
    for sender in senders:
        sender.next(beat(0))
    now, asked = 100.0, []
    while sum(asked) < len(senders):
        before = sum(asked)
        asked.append(0)
        for instance, sender in enumerate(senders):
            said = sender.next(beat(instance))
            if planner.handle(said, now) is not None:
                sender.resend()
                asked[-1] += 1
        assert sum(asked) > before
        now += 0.25
    assert max(asked) <= RESENDS_PER_S + 1
    for instance, sender in enumerate(senders):
        assert planner.handle(sender.next(beat(instance)), now) is None


def test_a_lost_change_is_not_guessed():
    """The planner knows what it knew until it has heard everything again."""
    planner, series, chance = GManager(GManager.Config()), Series(), random.Random(1)
    planner.handle(series.next(p.Load(1, 1, 1, 0, 0, borrowed={7: 3})), 0.0)
    planner.handle(beat(1), 0.0)
    series.next(p.Load(1, 1, 2, 0, 0, borrowed={7: 4, 8: chance.randint(1, 9)}))
    change = series.next(p.Load(1, 1, 3, 0, 0, borrowed={7: 4}))
    assert planner.handle(change, 0.1) == p.Resend()
    [known] = planner.handle(p.ViewQuery(), 0.1).steps
    assert (known.num_running, known.borrowed) == (1, {7: 3})
    series.resend()
    assert planner.handle(series.next(p.Load(1, 1, 4, 0, 0, borrowed={7: 4})), 0.2) is None
    [known] = planner.handle(p.ViewQuery(), 0.2).steps
    assert (known.num_running, known.borrowed) == (4, {7: 4})
