"""Instances without tensors or channels: real pools' books, real schedulers, a fake model.

The fake model writes, for each position, the tokens up to it, where keys would be written, and
reads them through the plan's tables as attention would: reading somebody else's keys is seen at
once. Messages wait in queues until the test delivers them, in order per channel.
"""

from collections import deque
from dataclasses import dataclass, field

from fake_memory import FakeMemory
from scheduler_checks import LAYOUT, TOKENS, check_plan

from engine import protocol as p
from engine.core import NO_SCORES, Request
from engine.errors import Fenced
from engine.memory.rmanager import RManager
from engine.scheduler.effects import (
    Cancel,
    Connect,
    Fetch,
    Finish,
    Move,
    ToClient,
    ToPlanner,
    ToPool,
)
from engine.scheduler.scheduler import Scheduler

EOS = 0
MAX_POSITIONS = 64


def next_token(prefix):
    """What the fake model says after these tokens."""
    return (sum(prefix) * 7 + len(prefix) * 13) % 97


@dataclass
class Channel:
    """One step's channel to one pool."""

    peer: int
    up: deque = field(default_factory=deque)
    down: deque = field(default_factory=deque)


@dataclass
class Answered:
    """What a client has got, and what it must get."""

    instance: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    error: str = ""
    aborted: bool = False
    num_reports: int = 0
    num_reused: int = 0

    @property
    def done(self):
        return bool(self.finish_reason or self.error or self.aborted)

    def expected(self):
        tokens, answer = list(self.request.prompt_ids), []
        while True:
            tokens.append(next_token(tokens))
            answer.append(tokens[-1])
            if tokens[-1] == EOS:
                return answer, "stop"
            if len(answer) == self.request.sampling.max_tokens or len(tokens) >= MAX_POSITIONS:
                return answer, "length"


class Instance:
    """A pool and its step, of one epoch."""

    def __init__(self, cluster, number, epoch, num_blocks):
        self.cluster, self.number, self.epoch = cluster, number, epoch
        self.memory = FakeMemory(num_blocks)
        self.rmanager = RManager(
            RManager.Config(lend_fraction=1.0, **cluster.lending),
            instance=number,
            epoch=epoch,
            cluster="test",
            kernel_fingerprint="fake",
            pool=self.memory,
        )
        self.scheduler = Scheduler(
            cluster.config,
            instance=number,
            host="host",
            layout=LAYOUT,
            placement=cluster.placement,
            num_blocks=num_blocks,
            max_positions=MAX_POSITIONS,
            eos_ids=frozenset({EOS}),
        )
        self.moves = deque()
        self.sent = {}
        self.fetches = {}
        self.attached = {}
        self.lost = set()

    # --- effects and messages -------------------------------------------------------------------

    def perform(self):
        while effects := self.scheduler.take_effects():
            for effect in effects:
                self.carry_out(effect)

    def carry_out(self, effect):
        match effect:
            case ToPool():
                self.send(effect.instance, effect.message)
            case ToPlanner():
                self.cluster.queries.append((self, effect.message))
            case ToClient():
                self.cluster.to_client(effect.request_id, effect.message)
            case Connect():
                if not self.cluster.connect(self, effect.instance):
                    self.lost.add(effect.instance)
            case Move():
                self.moves.append(effect)
                self.sent[effect.to.instance, effect.to.loan, effect.to.slot] = effect
            case Fetch():
                key = (effect.ref.instance, effect.ref.loan, effect.ref.slot)
                self.fetches[key] = effect
                read = p.Read(effect.ref.loan, effect.ref.slot, 0, LAYOUT.block_bytes)
                self.send(effect.ref.instance, read)
            case Cancel():
                self.forget_moves(
                    lambda move: (move.sequence, move.leaf) == (effect.sequence, effect.leaf)
                )
                self.forget_fetches(
                    lambda one: (one.sequence, one.leaf) == (effect.sequence, effect.leaf)
                )
            case Finish():
                self.forget_moves(lambda move: move.sequence == effect.sequence)
                self.forget_fetches(lambda fetch: fetch.sequence == effect.sequence)
                for instance, sequence in list(self.attached):
                    if sequence == effect.sequence:
                        del self.attached[instance, sequence]
                        self.send(instance, p.Detach(sequence))
                if effect.final:
                    self.cluster.answers[effect.request_id].num_reports += 1

    def send(self, instance, message, payload=None):
        channel = self.cluster.channels.get((self.number, instance))
        if channel:
            channel.up.append((message, payload))

    def forget_moves(self, unwanted):
        self.moves = deque(move for move in self.moves if not unwanted(move))
        self.sent = {key: move for key, move in self.sent.items() if not unwanted(move)}

    def forget_fetches(self, unwanted):
        self.fetches = {key: one for key, one in self.fetches.items() if not unwanted(one)}

    def push_move(self):
        move = self.moves.popleft()
        keys = list(self.memory.keys[move.block])
        sequence = self.sequence(move.sequence)
        wanted = self.keys_of(sequence, move.leaf * TOKENS, TOKENS)
        assert keys == wanted, "a move copies other keys"
        self.send(
            move.to.instance, p.Write(move.to.loan, move.to.slot, 0, True, move.content), keys
        )

    def on_down(self, instance, message):
        now = self.cluster.now
        if isinstance(message, tuple):
            message, keys = message
            fetch = self.fetches.pop((instance, message.loan, message.slot), None)
            if fetch:
                self.memory.keys[fetch.block] = list(keys)
                self.scheduler.on_fetched(fetch.sequence, fetch.leaf, now)
            self.perform()
            return
        match message:
            case p.Welcome() | p.Released():
                return
            case p.Ack():
                move = self.sent.pop((instance, message.loan, message.slot), None)
                if move:
                    self.scheduler.on_moved(move.sequence, move.leaf)
            case p.FencedOff():
                self.forget_tables(instance)
                self.scheduler.on_message(instance, message, now)
            case _:
                self.scheduler.on_message(instance, message, now)
        self.perform()

    def forget_tables(self, instance):
        self.attached = {key: t for key, t in self.attached.items() if key[0] != instance}

    def notice_lost(self):
        while self.lost:
            instance = self.lost.pop()
            self.forget_tables(instance)
            self.forget_moves(lambda move, gone=instance: move.to.instance == gone)
            self.forget_fetches(lambda fetch, gone=instance: fetch.ref.instance == gone)
            self.scheduler.on_lost(instance, self.cluster.now)
            self.perform()

    # --- the step -------------------------------------------------------------------------------

    def step(self, misses=(), spoil=False):
        """``misses``: holders that do not answer now; ``spoil``: the first span is poisoned."""
        self.notice_lost()
        plan = self.scheduler.schedule(self.cluster.now)
        self.perform()
        if plan is None:
            return False
        check_plan(self, plan)
        poisoned, next_ids = set(), {}
        for index, span in enumerate(plan.spans):
            sequence = self.sequence(span.sequence)
            read = self.read(span, sequence, misses, plan.step)
            if not read or (spoil and not index):
                poisoned.add(span.sequence)
            end = span.first_position + span.num_rows
            keys = self.keys_of(sequence, span.first_position, span.num_rows)
            for position, key in zip(range(span.first_position, end), keys, strict=True):
                ref = span.table[position // TOKENS]
                wrong = span.sequence in poisoned
                self.memory.keys[ref.block][position % TOKENS] = "nonsense" if wrong else key
            if index in plan.sampled:
                is_wrong = span.sequence in poisoned
                next_ids[index] = EOS if is_wrong else next_token(sequence.token_ids)
        poison, now = frozenset(poisoned), self.cluster.now
        self.scheduler.commit(plan, next_ids, NO_SCORES, frozenset(), poison, now)
        self.scheduler.timed(plan, [0.1 * plan.num_rows], now, self.cluster.trip_s)
        self.perform()
        return True

    def read(self, span, sequence, misses, step):
        """True when all keys before the span were read; asserts that they are the right ones."""
        remote, complete = {}, True
        for leaf, ref in enumerate(span.table):
            if ref.loan:
                remote.setdefault(ref.instance, []).append((leaf, ref.loan, ref.slot))
            else:
                self.compare(self.memory.keys[ref.block], sequence, leaf, span.first_position)
        for instance, leaves in remote.items():
            channel = self.cluster.channels.get((self.number, instance))
            if channel is None or instance in misses:
                complete = False
                continue
            version, known = self.attached.get((instance, span.sequence), (0, None))
            if known != leaves:
                version += 1
                self.attached[instance, span.sequence] = (version, leaves)
                channel.up.append((p.Attach(span.sequence, version, leaves), None))
            while channel.up:
                self.cluster.deliver_up(self.number, instance)
            holder = self.cluster.instances[instance]
            try:
                found = holder.rmanager.resolve(
                    channel.peer, span.sequence, version, self.cluster.now
                )
            except Fenced:
                channel.down.append(p.FencedOff(step, [loan for _, loan, _ in leaves], "fenced"))
                complete = False
                continue
            assert [leaf for leaf, _ in found] == [leaf for leaf, _, _ in leaves]
            for leaf, block in found:
                assert span.table[leaf].block == block
                self.compare(holder.memory.keys[block], sequence, leaf, span.first_position)
        return complete

    def compare(self, keys, sequence, leaf, end):
        wanted = self.keys_of(sequence, leaf * TOKENS, TOKENS)
        for offset in range(min(TOKENS, end - leaf * TOKENS)):
            assert keys[offset] == wanted[offset], f"leaf {leaf} is read from other keys"

    def sequence(self, number):
        return next(one for one in self.scheduler.roster.all() if one.number == number)

    @staticmethod
    def keys_of(sequence, first, num):
        salt, tokens = sequence.request.cache_salt, sequence.token_ids
        return [(salt, *tokens[: at + 1]) for at in range(first, first + num)]
