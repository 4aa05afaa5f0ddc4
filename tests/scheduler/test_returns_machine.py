"""Protects what returns owe in any order of recalls, wishes, room, arrivals, losses and ends.

An own block has one user at any time, a slot goes back once and is not used after it, nothing is
late, and nothing is dropped that nobody called back.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from returns_harness import HOME, Home
from scheduler_checks import TOKENS

from engine.scheduler.returns import DRAW_S, DROP_SHARE, MAX_FETCHES, NEVER
from engine.scheduler.sequence import NOWHERE

HOLDERS = st.lists(st.sampled_from([1, 1, 2, HOME]), min_size=1, max_size=7)


class ReturnsMachine(RuleBasedStateMachine):
    home = None

    @initialize(
        sequences=st.lists(HOLDERS, min_size=1, max_size=3),
        num_blocks=st.sampled_from([0, 2, 9]),
        data=st.data(),
    )
    def start(self, sequences, num_blocks, data):
        self.home = Home(num_blocks)
        self.due = {}
        """(sequence, slot's place) -> when it is dropped at the latest"""
        for holders in sequences:
            own = [leaf for leaf, instance in enumerate(holders) if instance == HOME]
            targets = data.draw(st.sets(st.sampled_from(own))) if own else ()
            self.home.sequence(*holders, targets=dict.fromkeys(targets, 1))

    def one(self, data):
        return data.draw(st.sampled_from(self.home.sequences), label="sequence")

    @rule(
        data=st.data(), instance=st.integers(1, 2), within_s=st.sampled_from([0.0, 0.5, 4.0, 4.0])
    )
    def recall(self, data, instance, within_s):
        one = self.one(data)
        refs = [ref for ref in (*one.table, *one.targets.values()) if ref.instance == instance]
        if not refs:
            return
        slots = data.draw(st.sets(st.sampled_from(refs).map(lambda ref: ref.slot), min_size=1))
        drop_at = self.home.now + within_s * (1 - DROP_SHARE)
        self.home.recall(one, instance, slots, within_s)
        for leaf, ref in enumerate(one.table):
            if ref.instance == instance and ref.slot in slots:
                key = (one.number, leaf)
                self.due[key] = min(self.due.get(key, NEVER), drop_at)
        assert not [ref for ref in one.targets.values() if instance == 1 and ref.slot in slots]

    @rule(instance=st.integers(1, 2), num_blocks=st.integers(0, 9))
    def settle(self, instance, num_blocks):
        self.home.settle(instance, num_blocks)

    @rule(num_blocks=st.integers(0, 4))
    def give(self, num_blocks):
        if self.home.holdings.drawing:
            self.home.give(num_blocks)

    @rule(
        data=st.data(),
        seconds=st.sampled_from([0.0, 0.0, DRAW_S, 0.4, 3.0]),
        arrives=st.sampled_from(["one", "nothing", "for nobody"]),
    )
    def tick(self, data, seconds, arrives):
        self.run(seconds)
        if self.home.fetches and arrives != "nothing":
            self.arrive(data, known=arrives == "one")

    def run(self, seconds):
        home = self.home
        before = {one.number: {*one.returning} for one in home.sequences}
        home.tick(seconds)
        for one in home.sequences:
            holes = {first // TOKENS for first, end in one.holes}
            for leaf in before[one.number]:
                is_late = self.due.get((one.number, leaf), NEVER) <= home.now
                lost = one.table[leaf] is NOWHERE
                assert lost == is_late, f"leaf {leaf} {lost=} {is_late=} {holes=}"
            assert all(drop_at > home.now for drop_at in one.returning.values())
        assert len(home.fetches) <= MAX_FETCHES

    def arrive(self, data, *, known):
        home = self.home
        number, leaf = data.draw(st.sampled_from(sorted(home.fetches)), label="arrives")
        num_free, fetch = home.store.num_free, home.fetches[number, leaf]
        home.arrive(number, leaf, known=known)
        if not known:
            assert home.store.num_free == num_free + 1
            return
        one = next(one for one in home.sequences if one.number == number)
        assert one.table[leaf] == (HOME, fetch.block, 0, 0, 0)
        assert home.store.hash_of(fetch.block) == one.hashes[leaf]
        self.due.pop((number, leaf), None)

    @rule(data=st.data(), what=st.sampled_from(["late", "late", "loss", "loss", "end"]))
    def trouble(self, data, what):
        """A cancelled fetch arrives after all, a loan ends by itself, a sequence ends."""
        home, one = self.home, self.one(data)
        late = sorted(set(home.cancelled) - home.fetches.keys())
        if what == "late" and late:
            home.arrive(*data.draw(st.sampled_from(late), label="late"))
        elif what == "loss":
            self.lose(one, data.draw(st.integers(1, 2), label="instance"))
        elif what == "end" and len(home.sequences) > 1:
            home.drop(one)

    def lose(self, one, instance):
        if one.loans.pop((instance, one.number), None) is None:
            return
        home = self.home
        home.debts.remove(instance, one.number)
        if instance == 1:
            for leaf in list(one.targets):
                home.holdings.untarget(one, leaf, release=False)
        lost = [leaf for leaf, ref in enumerate(one.table) if ref.instance == instance]
        home.lose(one, lost)
        home.perform()
        for leaf in lost:
            self.due.pop((one.number, leaf), None)

    @invariant()
    def promises(self):
        if self.home:
            self.home.check()

    def teardown(self):
        """With room, all that is called home arrives."""
        if not self.home:
            return
        called = [(one, leaf) for one in self.home.sequences for leaf in one.returning]
        for _ in range(len(called) + 2):
            self.home.give(9)
            self.home.tick()
            for number, leaf in list(self.home.fetches):
                self.home.arrive(number, leaf)
        self.home.check()
        assert not any(one.returning for one in self.home.sequences)


TestReturns = ReturnsMachine.TestCase
