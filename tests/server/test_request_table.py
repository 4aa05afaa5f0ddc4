"""The request table: exactly once, whatever attempts, restarts and duplicates there are."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core import Request, SamplingParams
from engine.protocol import Abort, Failed, Member, Submit, Tokens
from engine.scheduler.census import LATELY_S, MINUTE_S, num_tokens
from engine.scheduler.entry import Entry
from engine.scheduler.kept import Kept, bytes_of
from engine.scheduler.request_table import RequestTable

KEEP_S, MAX_KEPT = 40.0, 3


def token_at(name: str, index: int) -> int:
    """What any step would answer: a function of request and position."""
    return (sum(name.encode()) * 31 + index * 7) % 1000


def member(instance: int, address: str, blocks: int = 100) -> Member:
    return Member(instance, 1, address, blocks, blocks, 0, 0)


def request(name: str) -> Request:
    return Request(request_id=name, prompt_ids=(1,), sampling=SamplingParams(max_tokens=3))


class Machine(RuleBasedStateMachine):
    """Steps that answer, repeat old answers, die and come back under new addresses."""

    @initialize(num_instances=st.integers(1, 3))
    def start(self, num_instances):
        self.table = RequestTable(block_tokens=4, kept=Kept(KEEP_S, MAX_KEPT))
        self.known: list[Entry] = []
        self.now = 0.0
        self.life = dict.fromkeys(range(num_instances), 0)
        self.down: set[int] = set()
        self.inboxes: dict[str, list[object]] = {}
        self.sent: list[object] = []
        self.names: list[str] = []
        self.cancelled: set[str] = set()
        self.look()

    def address(self, instance: int) -> str:
        return f"step{instance}.{self.life[instance]}"

    @rule(seconds=st.sampled_from([1, 1, 1, 25]))
    def look(self, seconds=1):
        self.now += seconds
        up = [i for i in self.life if i not in self.down]
        self.table.on_members([member(i, self.address(i)) for i in up], self.now)
        self.collect()

    def collect(self):
        for effect in self.table.take_effects():
            self.inboxes.setdefault(effect.address, []).append(effect.message)
        self.table.changed.clear()
        self.table.forget(self.now)

    @rule(prompt=st.integers(1, 9), wanted=st.integers(1, 6), tenant=st.sampled_from(["", "a"]))
    def submit(self, prompt, wanted, tenant):
        name = f"r{len(self.names)}"
        self.names.append(name)
        sampling = SamplingParams(max_tokens=wanted)
        prompt_ids = tuple(range(prompt))
        fields = {"prompt_ids": prompt_ids, "sampling": sampling, "tenant": tenant}
        self.known.append(self.table.add(Request(request_id=name, **fields), self.now))
        self.collect()

    @precondition(lambda self: any(self.inboxes.values()))
    @rule(data=st.data())
    def answer(self, data):
        """A step answers some tokens of a submit it has got, even if it is given up since."""
        address = data.draw(st.sampled_from(sorted(a for a, box in self.inboxes.items() if box)))
        message = data.draw(st.sampled_from(self.inboxes[address]))
        if isinstance(message, Abort):
            return
        assert isinstance(message, Submit)
        attempt = message.request
        name = attempt.request_id.partition("#")[0]
        request = self.known[self.names.index(name)].request
        base = len(attempt.answer_ids)
        assert attempt.prompt_ids == request.prompt_ids
        assert attempt.answer_ids == tuple(token_at(name, index) for index in range(base)), (
            "an attempt goes on behind exactly what was taken"
        )
        assert attempt.sampling == request.sampling
        last = request.sampling.max_tokens - 1
        index = data.draw(st.integers(base, last))
        reason = "length" if index == last else ""
        said = Tokens(attempt.request_id, index, [token_at(name, index)], reason)
        self.sent.append(said)
        self.table.on_message(said, self.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data):
        self.table.on_message(data.draw(st.sampled_from(self.sent)), self.now)

    @rule(data=st.data())
    def restart(self, data):
        instance = data.draw(st.sampled_from(sorted(self.life)))
        self.life[instance] += 1
        self.down ^= {instance}

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(self.names))
        if not self.known[self.names.index(name)].done:
            self.cancelled.add(name)
        self.table.cancel(name, self.now)
        self.collect()

    @invariant()
    def each_token_once_and_in_order(self):
        for name, entry in getattr(self, "table", RequestTable(block_tokens=4)).entries.items():
            wanted = [token_at(name, index) for index in range(len(entry.token_ids))]
            assert entry.token_ids == wanted
            if entry.finish_reason == "length":
                assert len(entry.token_ids) == entry.request.sampling.max_tokens
            if name in self.cancelled:
                assert entry.done

    @invariant()
    def the_load_of_each_instance_is_what_runs_there(self):
        if hasattr(self, "table"):
            there = Counter()
            for entry in self.table.running:
                if entry.instance is not None:
                    there[entry.instance] += entry.num_tokens
            assert self.table.loads.tokens == there

    @invariant()
    def the_census_is_right(self):
        """What the table counts as it goes is what a look at all that ever came gives."""
        if not hasattr(self, "table"):
            return
        for tenant in ("", "a", None):
            known = [one for one in self.known if tenant in (one.request.tenant, None)]
            tally = self.table.census.all if tenant is None else self.table.census.of(tenant)
            under_way = [one for one in known if not one.done]
            waiting = [one for one in under_way if one.started_at is None]
            running = [one for one in under_way if one.started_at is not None]
            assert [*tally.waiting.values()] == waiting
            assert {one.life for one in tally.running.values()} == {one.life for one in running}
            assert tally.num_waiting_tokens == sum(len(one.request.prompt_ids) for one in waiting)
            recent = [e for e in known if e.done and e.ended_at + MINUTE_S > self.now]
            used = sum(num_tokens(one) for one in under_way + recent)
            assert tally.num_minute_tokens(self.now) == used
            begun = [one for one in known if one.started_at is not None]
            lately = [e for e in begun if not e.done or e.ended_at + LATELY_S >= self.now]
            took = [(self.now if e.ended_at is None else e.ended_at) - e.started_at for e in lately]
            assert tally.longest_s(self.now) == max(took, default=None)
            assert tally.patience_s(self.now) == max(
                (self.now - one.arrived for one in waiting), default=0.0
            )

    @invariant()
    def what_is_kept_is_bounded(self):
        if not hasattr(self, "table"):
            return
        ended = [one for one in self.known if one.done]
        kept = [one for one in self.table.entries.values() if one.done]
        assert self.table.running == [one for one in self.known if not one.done]
        assert len(self.table._kept) == len(kept)
        assert self.table._kept.num_bytes == sum(bytes_of(one) for one in kept)
        if not self.table.changed:
            latest = sorted(ended, key=lambda one: one.ended_at)[-MAX_KEPT:]
            assert len(kept) == sum(self.now - one.ended_at <= KEEP_S for one in latest)

    def teardown(self):
        """Once all steps are up and answer, everything that was promised is complete."""
        if not hasattr(self, "table"):
            return
        self.down = set()
        self.look()
        for entry in self.table.running:
            assert entry.address, "a request waits although a step is ready"
            for index in range(entry.request.sampling.max_tokens):
                last = index == entry.request.sampling.max_tokens - 1
                token = token_at(entry.request.request_id, index)
                said = Tokens(entry.attempt_id, index, [token], "length" if last else "")
                self.table.on_message(said, self.now)
            assert entry.finish_reason == "length"
        self.each_token_once_and_in_order()


TestRequestTable = Machine.TestCase


def test_refusal_ends_the_request_with_its_reason():
    table = RequestTable(block_tokens=4)
    table.on_members([member(0, "s")], 0.0)
    entry = table.add(Request(request_id="a", prompt_ids=(1,)), 0.0)
    table.on_message(Failed(entry.attempt_id, "310 blocks wanted", "too_large"), 0.0)
    assert entry.done
    assert (entry.error, entry.error_code) == ("310 blocks wanted", "too_large")


def test_a_token_that_comes_when_its_instance_is_gone_is_taken():
    table = RequestTable(block_tokens=4)
    table.on_members([member(0, "s")], 0.0)
    entry = table.add(Request(request_id="a", prompt_ids=(1,)), 0.0)
    table.on_members([], 1.0)
    assert entry.instance is None
    table.on_message(Tokens(entry.attempt_id, 0, [5]), 1.0)
    assert entry.token_ids == [5]


@pytest.mark.parametrize("stays", [True, False])
def test_a_request_that_is_sent_again_keeps_its_age(stays):
    table = RequestTable(block_tokens=4, stays=stays)
    table.on_members([member(0, "s"), member(1, "t")], 10.0)
    table.add(request("a"), 10.0)
    table.on_members([member(1, "t")], 17.5)
    sent = [effect.message for effect in table.take_effects()]
    first, again = [one.request for one in sent if isinstance(one, Submit)]
    assert (first.age_s, again.age_s) == (0.0, 7.5)
    assert first.stays == again.stays == stays


def test_an_attempt_at_a_step_that_only_seems_gone_is_called_off():
    table = RequestTable(block_tokens=4)
    table.on_members([member(0, "s")], 0.0)
    entry = table.add(request("a"), 0.0)
    first = entry.attempt_id
    table.take_effects()
    table.on_members([], 1.0)  # the planner has restarted, and the step runs on
    table.on_members([member(0, "s")], 2.0)
    abort, submit = table.take_effects()
    assert (abort.address, abort.message) == ("s", Abort(first))
    assert submit.message.request.request_id == entry.attempt_id != first


def test_tokens_for_a_dead_gateways_attempt_are_not_taken_by_its_successor():
    names = []
    for life in ("one", "two"):
        table = RequestTable(block_tokens=4, life=life)
        table.on_members([member(0, "s")], 0.0)
        entry = table.add(request("a"), 0.0)
        names.append(entry.attempt_id)
    assert len(set(names)) == 2
    table.on_message(Tokens(names[0], 0, [9]), 0.0)
    assert entry.token_ids == []
    table.on_message(Tokens(names[1], 0, [8]), 0.0)
    assert entry.token_ids == [8]
