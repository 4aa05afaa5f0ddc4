"""Protects the planner's answers: what it keeps in order is what sorting all anew would give."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine import protocol as p
from engine.scheduler.gmanager import GManager

INSTANCES, BLOCKS = st.integers(0, 5), st.integers(0, 4)
MOST, STALE_S = 3, 3.0


class Asked(RuleBasedStateMachine):
    """Pools speak, fall silent, come again, move to another host, leave; all ask all the time."""

    def __init__(self):
        super().__init__()
        self.planner, self.now = GManager(GManager.Config(max_offers=MOST, stale_s=STALE_S)), 50.0
        self.said = {}
        """instance -> its last beat, and when it was heard"""
        self.told_to_leave = {}
        self.leaves = {}

    @rule(
        instance=INSTANCES,
        epoch=st.integers(1, 2),
        host=st.sampled_from("ab"),
        num_lendable=BLOCKS,
        cap=BLOCKS,
    )
    def beat(self, instance, epoch, host, num_lendable, cap):
        at = f"at-{instance}"
        beat = p.Heartbeat(instance, epoch, at, host, 9, num_lendable, num_lendable, 0, cap)
        self.planner.handle(beat, self.now)
        if instance not in self.said or epoch >= self.said[instance][0].epoch:
            self.said[instance] = beat, self.now

    @rule(instance=INSTANCES, is_leaving=st.booleans())
    def load(self, instance, is_leaving):
        self.planner.handle(p.Load(instance, 1, 0, 0, 0, num_draining=int(is_leaving)), self.now)
        self.leaves[instance] = is_leaving

    @rule(instance=INSTANCES)
    def evacuate(self, instance):
        self.planner.handle(p.Evacuate(instance), self.now)
        known = self.said.get(instance)
        self.told_to_leave[instance] = known[0].epoch if known else 0

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def each_is_offered_the_best(self):
        alive = [one for one, at in self.said.values() if at >= self.now - STALE_S]
        for asker, host in ((0, "a"), (1, "b"), (9, "c")):
            others = [
                one
                for one in alive
                if one.instance != asker
                and not self.leaves.get(one.instance)
                and self.told_to_leave.get(one.instance, -1) < one.epoch
            ]
            others.sort(key=lambda one: (one.host != host, -one.num_lendable, one.instance))
            offer = self.planner.handle(p.BorrowQuery(1, asker, host, 0), self.now)
            assert [c.instance for c in offer.creditors] == [o.instance for o in others[:MOST]]
            assert [c.num_lendable for c in offer.creditors] == [
                one.num_lendable for one in others[:MOST]
            ]
            assert offer.num_lend_cap == sum(one.num_lend_cap for one in others)


TestAsked = Asked.TestCase
