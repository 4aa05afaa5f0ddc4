"""Protects promises 1, 2, 5, 7 and 8 of whole schedulers under any order of messages and losses.

Real schedulers, pools' books and planner; a fake model that notices a wrong key (see
scheduler_harness.py). However it went before: in the end all is answered, and nothing is held.
"""

import random

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from scheduler_checks import LAYOUT, check_cluster
from scheduler_cluster import Cluster

from engine import protocol as p
from engine.scheduler.base import MIN_WORKING

MAX_ROUNDS = 400
"""without a token or an end for anybody; a prefill of one token a step takes some"""
MAX_REQUESTS = 16


class SchedulerMachine(RuleBasedStateMachine):
    cluster = None

    @initialize(
        num_blocks=st.lists(st.integers(3, 12), min_size=1, max_size=4),
        placement=st.sampled_from(["ledger", "ledger", "ledger", "local_only"]),
        keep_blocks=st.integers(0, 1),
        max_step_tokens=st.integers(1, 6),
        max_num_seqs=st.integers(1, 4),
        grow_blocks=st.integers(1, 4),
        lease_s=st.sampled_from([3.0, 30.0]),
        num_long=st.integers(0, 3),
        trip_s=st.sampled_from([0.0, 10.0]),
        max_borrowed=st.sampled_from([None, None, 0, 2, 5]),
    )
    def start(self, num_blocks, num_long, trip_s, max_borrowed, **options):
        """With ``num_long`` prompts that fit no pool, so that much is lent from the beginning.

        ``max_borrowed``: of the tenant ``a``.
        """
        self.cluster = Cluster(num_blocks, **options)
        self.limits = {"": None, "a": max_borrowed}
        self.cluster.trip_s = trip_s
        for number in range(num_long):
            first = 100 + len(self.cluster.answers)
            owner = number % len(num_blocks)
            self.cluster.submit(owner, [first, *range(2 * num_blocks[owner] + 3)], 20)
        for _ in range(12 * bool(num_long)):
            self.cluster.round()
            self.cluster.now += 0.05

    def instance(self, data):
        return data.draw(st.sampled_from(range(len(self.cluster.instances))), label="instance")

    @precondition(lambda self: len(self.cluster.answers) < MAX_REQUESTS)
    @rule(
        data=st.data(),
        lengths=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 30)), min_size=1, max_size=4),
        num_common=st.sampled_from([0, 4, 11, 24]),
        salt=st.sampled_from(["", "", "a", "b"]),
        seed=st.integers(0, 99),
        tenant=st.sampled_from(["", "a"]),
        priority=st.sampled_from([0, 0, -1, 5]),
    )
    def submit(self, data, lengths, num_common, salt, seed, tenant, priority):
        """Requests of (prompt tokens, answer tokens); some begin with the same tokens."""
        draw, instance = random.Random(seed), self.instance(data)
        for num_prompt, max_tokens in lengths:
            own = [100 + len(self.cluster.answers)]
            own += [draw.randrange(1, 50) for _ in range(num_prompt - 1)]
            prompt = [*range(1, num_common + 1), *own][:num_prompt]
            who = {"tenant": tenant, "priority": priority, "cache_salt": salt}
            who["max_borrowed"] = self.limits[tenant]
            self.cluster.submit(instance, prompt, max_tokens, **who)

    @precondition(lambda self: any(not one.done for one in self.cluster.answers.values()))
    @rule(data=st.data())
    def abort(self, data):
        names = [name for name, answer in self.cluster.answers.items() if not answer.done]
        self.cluster.abort(data.draw(st.sampled_from(names)))

    @rule(data=st.data(), spoil=st.booleans(), misses=st.sets(st.integers(0, 3), max_size=1))
    def step(self, data, spoil, misses):
        self.cluster.instances[self.instance(data)].step(misses, spoil)

    @rule(num_rounds=st.integers(1, 5))
    def rounds(self, num_rounds):
        for _ in range(num_rounds):
            self.cluster.round()

    # --- one thing at a time --------------------------------------------------------------------

    @rule(data=st.data(), up=st.booleans(), num_messages=st.sampled_from([1, 1, 9]))
    def deliver(self, data, up, num_messages):
        channels = self.cluster.channels
        busy = [key for key, one in channels.items() if (one.up if up else one.down)]
        if not busy:
            return
        key = data.draw(st.sampled_from(busy))
        for _ in range(num_messages):
            if channels[key].up if up else channels[key].down:
                (self.cluster.deliver_up if up else self.cluster.deliver_down)(*key)
                self.promises()

    @rule(answer=st.booleans())
    def ask_planner(self, answer):
        if answer and self.cluster.offers:
            self.cluster.deliver_offer()
        elif self.cluster.queries:
            self.cluster.deliver_query()

    @rule()
    def heartbeats(self):
        self.cluster.heartbeats()

    @rule(data=st.data())
    def push_move(self, data):
        instance = self.cluster.instances[self.instance(data)]
        if instance.moves:
            instance.push_move()

    # --- what others want -----------------------------------------------------------------------

    @rule(data=st.data(), within_s=st.sampled_from([0.0, 0.5, 5.0]))
    def recall(self, data, within_s):
        """A creditor wants some slots of a loan back."""
        cluster = self.cluster
        loans = [
            (instance, loan)
            for instance in cluster.instances
            for loan in instance.rmanager._lending.loans
            if (loan.debtor.instance, instance.number) in cluster.channels
        ]
        if loans:
            instance, loan = data.draw(st.sampled_from(loans))
            slots = data.draw(st.sets(st.sampled_from(loan.standing_slots), min_size=1))
            channel = cluster.channels[loan.debtor.instance, instance.number]
            channel.down.append(p.Recall(loan.number, sorted(slots), within_s))

    @rule(data=st.data(), num_blocks=st.integers(1, 6), home=st.booleans())
    def advise(self, data, num_blocks, home):
        """The planner's advice may come at any time, and be wrong."""
        cluster, instance = self.cluster, self.cluster.instances[self.instance(data)]
        other = self.instance(data)
        if home:
            advice = p.Settle(other, num_blocks, 1.0)
        else:
            number = data.draw(st.integers(1, 6))
            to = p.Creditor(other, 1, str(other), "host", num_blocks)
            advice = p.Move(number, num_blocks, to)
        if other != instance.number:
            instance.scheduler.on_advice(advice, cluster.now)
            instance.perform()

    @rule(data=st.data(), for_s=st.sampled_from([0.1, 1.0]))
    def busy(self, data, for_s):
        instance = self.cluster.instances[self.instance(data)]
        instance.scheduler.on_message(self.instance(data), p.Busy(0, for_s), self.cluster.now)

    # --- what goes wrong ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 0.5, 0.9, 2.0, 40.0]))
    def advance(self, seconds):
        self.cluster.now += seconds

    @precondition(lambda self: len(self.cluster.instances) > 1)
    @rule(data=st.data(), rarely=st.sampled_from([False] * 3 + [True]))
    def lose_an_instance(self, data, rarely):
        if rarely:
            self.cluster.restart(self.instance(data))

    @rule(data=st.data())
    def break_a_channel(self, data):
        pairs = [key for key in self.cluster.channels if key[0] != key[1]]
        if pairs:
            self.cluster.break_channel(*data.draw(st.sampled_from(pairs)))

    # --- promises -------------------------------------------------------------------------------

    @invariant()
    def promises(self):
        if self.cluster:
            check_cluster(self.cluster)

    def teardown(self):
        if self.cluster:
            self.run_to_the_end()
            self.all_is_answered()
            self.nothing_is_held()

    def run_to_the_end(self):
        got, since = None, 0
        while since < MAX_ROUNDS:
            answers = self.cluster.answers.values()
            if all(answer.done for answer in answers):
                return
            before, got = got, [(len(answer.tokens), answer.done) for answer in answers]
            since = since + 1 if got == before else 0
            ran = self.cluster.round()
            check_cluster(self.cluster)
            self.cluster.now += 0.05 if ran else 0.5
        raise AssertionError(f"no progress: {self.cluster.describe()}")

    def all_is_answered(self):
        for answer in self.cluster.answers.values():
            if answer.aborted:
                continue
            if answer.error:
                wanted = LAYOUT.blocks_for(len(answer.request.prompt_ids) + len(answer.tokens) + 1)
                limit = answer.request.max_borrowed
                assert not self.fits(answer.instance, wanted, limit), answer.error
                assert str(wanted) in answer.error
                continue
            assert (answer.tokens, answer.finish_reason) == answer.expected()
            assert answer.num_reports == 1

    def fits(self, owner, wanted, max_borrowed):
        sizes = [one.memory.num_blocks for one in self.cluster.instances]
        if wanted <= sizes[owner]:
            return True
        if self.cluster.placement_name == "local_only":
            return False
        lent = sum(sizes) - sizes[owner] - self.cluster.lending["keep_blocks"] * (len(sizes) - 1)
        keepable = max(0, sizes[owner] - MIN_WORKING)
        if not keepable or wanted > keepable + lent:
            return False
        working = LAYOUT.blocks_for(self.cluster.config.max_step_tokens) + 1
        return max_borrowed is None or wanted <= max(1, sizes[owner] - working) + max_borrowed

    def nothing_is_held(self):
        if self.cluster.any_lost:  # loans of the lost end with their lease
            self.cluster.now += 100
        for _ in range(3):
            self.cluster.round()
        check_cluster(self.cluster)
        for instance in self.cluster.instances:
            instance.rmanager.tick(self.cluster.now)
            books = instance.rmanager.books
            assert books.num_available == books.num_blocks, "a block is neither free nor cached"
            assert not instance.moves
            assert not instance.sent
            assert not instance.attached
            assert not instance.scheduler.negotiator._deals


TestScheduler = SchedulerMachine.TestCase
