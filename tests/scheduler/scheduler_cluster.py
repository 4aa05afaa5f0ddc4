"""Several instances of scheduler_harness.py, the planner and the clients, with queues between."""

from collections import deque

from scheduler_checks import LAYOUT
from scheduler_harness import Answered, Channel, Instance

from engine import protocol as p
from engine.core import Request, SamplingParams
from engine.memory.effects import CopyIn, CopyOut, Reply
from engine.scheduler import PLACEMENTS
from engine.scheduler.gmanager import GManager
from engine.scheduler.scheduler import Scheduler


class Cluster:
    """Instances, the planner and the clients, with queues between them."""

    def __init__(
        self, num_blocks, *, placement="ledger", keep_blocks=0, min_residence_s=0.5, **config
    ):
        self.now = 1000.0
        self.lending = {"keep_blocks": keep_blocks, "min_residence_s": min_residence_s}
        self.trip_s = 0.0
        """what a step is said to take longer when it asks others"""
        self.placement_name = placement
        self.placement = PLACEMENTS.load(placement)(PLACEMENTS.load(placement).Config())
        self.config = Scheduler.Config(**config)
        self.planner = GManager(GManager.Config(stale_s=1e9))
        self.queries, self.offers = deque(), deque()
        self.channels, self.answers = {}, {}
        self.next_peer = 1
        self.instances = []
        for number, size in enumerate(num_blocks):
            self.instances.append(Instance(self, number, 1, size))
            self.connect(self.instances[number], number)
        self.any_lost = False
        self.heartbeats()

    def connect(self, step, instance):
        if (step.number, instance) not in self.channels:
            hello = p.Hello(p.VERSION, "test", step.number, step.epoch, LAYOUT.fingerprint)
            self.channels[step.number, instance] = Channel(self.next_peer)
            self.channels[step.number, instance].up.append((hello, None))
            self.next_peer += 1
        return True

    def submit(self, instance, prompt_ids, max_tokens, **fields):
        name = str(len(self.answers))
        sampling = SamplingParams(max_tokens=max_tokens)
        ids = tuple(prompt_ids)
        request = Request(request_id=name, prompt_ids=ids, sampling=sampling, **fields)
        self.answers[name] = Answered(instance, request)
        self.instances[instance].scheduler.add(request)
        self.instances[instance].perform()
        return self.answers[name]

    def abort(self, name):
        answer = self.answers[name]
        answer.aborted = True
        self.instances[answer.instance].scheduler.abort(name)
        self.instances[answer.instance].perform()

    def to_client(self, name, message):
        answer = self.answers[name]
        assert not answer.done, f"{message} after the end"
        match message:
            case p.Tokens():
                assert message.index == len(answer.tokens), "a token is lost or comes twice"
                answer.tokens += message.token_ids
                answer.num_reused += message.num_reused
                answer.finish_reason = message.finish_reason
                wanted, _ = answer.expected()
                assert answer.tokens == wanted[: len(answer.tokens)]
            case p.Failed():
                answer.error = message.reason

    # --- what arrives when ----------------------------------------------------------------------

    def deliver_up(self, debtor, instance):
        channel = self.channels[debtor, instance]
        message, payload = channel.up.popleft()
        pool = self.instances[instance]
        size = LAYOUT.block_bytes if payload else 0
        for out in pool.rmanager.handle(channel.peer, message, self.now, size):
            self.carry_out(pool, out, payload)

    def carry_out(self, pool, out, payload=None):
        match out:
            case CopyIn():
                pool.memory.keys[out.block] = list(payload)
            case CopyOut():
                keys = list(pool.memory.keys[out.block])
                self.channel_of(out.peer).down.append((out.message, keys))
            case Reply():
                assert not isinstance(out.message, p.Rejected), out
                self.channel_of(out.peer).down.append(out.message)
            case _:
                raise AssertionError(out)

    def channel_of(self, peer):
        return next(one for one in self.channels.values() if one.peer == peer)

    def deliver_down(self, debtor, instance):
        message = self.channels[debtor, instance].down.popleft()
        self.instances[debtor].on_down(instance, message)

    def deliver_query(self):
        step, query = self.queries.popleft()
        self.offers.append((step, self.planner.handle(query, self.now)))

    def deliver_offer(self):
        step, offer = self.offers.popleft()
        if step in self.instances:
            step.scheduler.on_offer(offer, self.now)
            step.perform()

    def heartbeats(self):
        for instance in self.instances:
            for out in instance.rmanager.tick(self.now):
                self.carry_out(instance, out)
            address = str(instance.number)
            beat = instance.rmanager.heartbeat(address=address, host="host", now=self.now)
            self.planner.handle(beat, self.now)
        self.tell_members()

    def tell_members(self):
        members = self.planner.handle(p.MembersQuery(), self.now)
        for instance in self.instances:
            instance.scheduler.on_advice(members, self.now)
            instance.perform()

    # --- what goes wrong ------------------------------------------------------------------------

    def break_channel(self, debtor, instance):
        self.any_lost = True
        channel = self.channels.pop((debtor, instance))
        self.instances[instance].rmanager.peer_lost(channel.peer, self.now)
        self.instances[debtor].lost.add(instance)

    def restart(self, number):
        """The instance dies with its pool, and comes back empty, in a new epoch."""
        for debtor, instance in list(self.channels):
            if number in (debtor, instance):
                self.break_channel(debtor, instance)
        old = self.instances[number]
        for answer in self.answers.values():
            if answer.instance == number:
                answer.aborted = True
        new = Instance(self, number, old.epoch + 1, old.memory.num_blocks)
        self.instances[number] = new
        self.connect(new, number)

    # --- all at once ----------------------------------------------------------------------------

    def deliver_all(self):
        busy = True
        while busy:
            busy = bool(self.queries or self.offers)
            while self.queries:
                self.deliver_query()
            while self.offers:
                self.deliver_offer()
            for instance in self.instances:
                instance.notice_lost()
                while instance.moves:
                    instance.push_move()
            for (debtor, instance), channel in list(self.channels.items()):
                while channel.up:
                    self.deliver_up(debtor, instance)
                while channel.down:
                    busy = True
                    self.deliver_down(debtor, instance)

    def round(self):
        """Everything arrives and each instance runs a step; True when one had something to run."""
        self.heartbeats()
        self.deliver_all()
        ran = [instance.step() for instance in self.instances]
        self.deliver_all()
        return any(ran)

    def describe(self):
        """Who runs and who waits, for a failed test."""
        lines = []
        for instance in self.instances:
            scheduler = instance.scheduler
            running = [
                (one.number, len(one.token_ids), one.num_computed, len(one.table), len(one.spare))
                for one in scheduler.running
            ]
            waiting = [
                (one.number, len(one.token_ids), one.num_tries, one.not_before - self.now)
                for one in scheduler.roster.all()
                if one not in scheduler.running
            ]
            books = instance.rmanager.books
            lines.append(f"{books.num_blocks} blocks {running=} {waiting=}")
        return "; ".join(lines)
