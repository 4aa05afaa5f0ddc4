"""Holders that die, stop, fence, change a mapped block or answer nonsense: tokens stay right.

Whatever needed them is redone or recomputed, other sequences go on, and all memory comes back.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from cluster_harness import (
    Ran,
    TickingClock,
    assert_all_returned,
    cluster,
    greedy,
    prompt,
    record,
)

from engine.core import Request
from engine.llm import LLM, Completion
from engine.loop import MAX_MISSED_STEPS
from engine.memory.books import BlockState
from engine.model.checkpoint import Checkpoint
from engine.protocol import VERSION, Answer, Hello, encode

PROMPT, SHORT = prompt(60, 1), prompt(9, 2)
NUM_TOKENS = 12
LENT = "placement.name=placements_for_tests:Drawn"
ON_1_AND_2 = "placement.options.instances=[1,1,2]"
ON_1 = "placement.options.instances=[1]"
WAYS = ("query", "mapped", "copy")


class Scene:
    """Request "long" of instance 0 lies on others; "short" of instance 0 lies at home."""

    def __init__(self, checkpoint: Checkpoint, path: Path, *options: str, instances: int = 3):
        self.clock = TickingClock()
        # A step that waits in vain lets the pools look at the clock very often.
        leases = ["scheduler.lease_s=3000", "pool.lending.max_lease_s=3000"]
        options = (f"instances={instances}", LENT, *leases, *options)
        self.llm = cluster(checkpoint, *options, clock=self.clock)
        self._path, self.steps = path, record(self.llm.loops[0])
        self.long = self.submit("long", PROMPT)
        self.short: Completion | None = None

    def submit(self, name: str, ids: list[int]) -> Completion:
        request = Request(request_id=name, prompt_ids=tuple(ids), sampling=greedy(NUM_TOKENS))
        return self.llm.submit(request)

    def decode(self, num_tokens: int = 3) -> Iterator[None]:
        """Run until the long request has this many tokens; the rest can be run on."""
        rounds = self.llm.run()
        while len(self.long.token_ids) < num_tokens or self.llm.loops[0]._mover.busy:
            next(rounds)
        return rounds

    def finish(self, rounds: Iterator[None], each: Callable[[], Any] | None = None) -> None:
        for count, _ in enumerate(rounds):
            assert count < 4_000, "nothing ends"
            if each:
                each()
        for done, ids in ((self.long, PROMPT), (self.short, SHORT)):
            if done:
                assert not done.error
                want = tiny_models.reference_tokens(self._path, ids, NUM_TOKENS)
                assert done.token_ids == want

    @property
    def recomputed(self) -> int:
        assert self.long.report
        return self.long.report.recomputed_tokens

    def held_by(self, instance: int) -> int:
        """Tokens of the long request whose keys lie there."""
        loop = self.llm.loops[0]
        (sequence,) = [s for s in loop.scheduler.roster.all() if s.request.request_id == "long"]
        return sequence.holders().count(instance) * self.llm.pools[0].layout.tokens

    def poisoned_since(self, start: int) -> list[Ran]:
        return [step for step in self.steps[start:] if step.poisoned]


def drop_loans(llm: LLM, instance: int, debtor: int = 0) -> None:
    """Its loans end behind the debtor's back, and the blocks are given away."""
    manager = llm.rmanagers[instance]
    loans = [loan for loan in manager._lending.loans if loan.debtor.instance == debtor]
    assert loans
    for loan in loans:
        llm.servers[instance]._perform(manager._lending.release(loan, loan.standing_slots)[1])


@pytest.mark.parametrize("way", WAYS)
def test_a_holder_that_dies_while_decoding_costs_the_recompute_of_what_it_held(
    tiny: Checkpoint, tiny_path: Path, way: str
) -> None:
    options = [ON_1_AND_2, f"attention.options.way={way}", "attention.options.staging_blocks=30"]
    scene = Scene(tiny, tiny_path, *options)
    rounds = scene.decode()
    lost = scene.held_by(2)
    assert 0 < lost < len(PROMPT)
    scene.llm.kill(2)
    scene.finish(rounds)
    assert scene.recomputed == lost
    assert scene.llm.loops[0].lenders.get(2) is None
    assert scene.long.report
    assert 2 not in scene.long.report.holders
    assert_all_returned(scene.llm, [0, 1])
    scene.llm.close()


def test_a_holder_that_stops_poisons_only_rows_that_needed_it_and_is_given_up(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    scene = Scene(tiny, tiny_path, ON_1_AND_2, "attention.options.wait_s=0.2")
    rounds = scene.decode()
    scene.short = scene.submit("short", SHORT)
    while not any(len(step.plan.spans) == 2 for step in scene.steps):
        next(rounds)  # both decode, and the short one lies at instance 2, too
    llm, start, told = scene.llm, len(scene.steps), len(scene.long.token_ids)
    lost = scene.held_by(2)
    llm.network.freeze(llm.addresses[2])
    published = []

    def watch() -> None:
        if llm.loops[0].lenders.get(2):
            published.append(len(scene.long.token_ids))

    scene.finish(rounds, watch)
    poisoned = scene.poisoned_since(start)
    assert len(poisoned) == MAX_MISSED_STEPS
    assert set(published) <= {told, told + 1}
    assert scene.recomputed == lost
    # The holder has its blocks back when the lease is over, though nobody can tell it.
    llm.network.thaw(llm.addresses[2])
    assert llm.rmanagers[2].books.count(BlockState.LENT)
    scene.clock.leap(4000.0)
    assert_all_returned(llm)
    llm.close()


def test_others_go_on_while_a_holder_is_silent(tiny: Checkpoint, tiny_path: Path) -> None:
    scene = Scene(tiny, tiny_path, ON_1, "attention.options.wait_s=0.2", instances=2)
    rounds = scene.decode()
    llm = scene.llm
    llm.loops[0].scheduler.admission._placement.config.instances[:] = [0]
    scene.short = scene.submit("short", SHORT)
    while not scene.short.token_ids:
        next(rounds)
    start, told, lost = len(scene.steps), len(scene.short.token_ids), scene.held_by(1)
    llm.network.freeze(llm.addresses[1])
    told_long = len(scene.long.token_ids)
    next(rounds)
    next(rounds)
    (long,) = scene.steps[start].poisoned
    assert {span.sequence for span in scene.steps[start].plan.spans} > {long}
    assert len(scene.short.token_ids) == told + 2
    assert len(scene.long.token_ids) == told_long
    llm.network.thaw(llm.addresses[1])  # answers to steps given up come now
    scene.finish(rounds)
    assert scene.recomputed == lost
    scene.clock.leap(4000.0)
    assert_all_returned(llm)
    llm.close()


@pytest.mark.parametrize("way", WAYS)
def test_loans_that_end_behind_the_debtors_back_are_noticed_before_a_token_is_wrong(
    tiny: Checkpoint, tiny_path: Path, way: str
) -> None:
    scene = Scene(tiny, tiny_path, ON_1_AND_2, f"attention.options.way={way}")
    rounds = scene.decode()
    llm, start, lost = scene.llm, len(scene.steps), scene.held_by(1)
    drop_loans(llm, 1)
    for block in range(llm.pools[1].num_blocks):  # whoever reads there reads NaN
        llm.pools[1].block(block)[:] = b"\xff" * llm.pools[1].layout.block_bytes
    scene.finish(rounds)
    assert scene.poisoned_since(start)
    assert scene.recomputed == lost
    assert_all_returned(llm)
    llm.close()


def test_a_new_epoch_of_the_debtor_ends_the_old_ones_loans(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    scene = Scene(tiny, tiny_path, ON_1)
    rounds = scene.decode()
    llm = scene.llm
    hello = Hello(VERSION, "local", 0, 2, llm.pools[0].layout.fingerprint)
    llm.servers[1]._perform(llm.rmanagers[1].handle(999, hello, scene.clock()))
    assert not llm.rmanagers[1].books.count(BlockState.LENT)
    scene.finish(rounds)  # instance 1 refuses the old epoch; another lends
    assert scene.recomputed
    assert scene.long.report
    assert 1 not in scene.long.report.holders
    assert_all_returned(llm)
    llm.close()


def change_in_the_middle_of_a_step(scene: Scene) -> None:
    """To the end; what was read and has changed meanwhile must not be published."""
    rounds = scene.decode()
    loop = scene.llm.loops[0]
    finish, told = loop._backend.finish, list(scene.long.token_ids)
    start = len(scene.steps)

    def changed_behind(pending: Any) -> Any:
        partial = finish(pending)
        if pending[1] == 1:  # all layers have read
            loop._backend.finish = finish
            drop_loans(scene.llm, 1)
        return partial

    loop._backend.finish = changed_behind
    next(rounds)
    assert scene.steps[start].poisoned
    assert scene.long.token_ids == told
    scene.finish(rounds)
    assert scene.recomputed
    assert_all_returned(scene.llm)
    scene.llm.close()


def test_a_mapped_block_that_changes_in_the_middle_of_a_step_is_not_published(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    change_in_the_middle_of_a_step(Scene(tiny, tiny_path, ON_1, "attention.options.way=mapped"))


@pytest.mark.parametrize("body", [b"", b"odd", bytes(4), bytes(1 << 16)])
def test_an_answer_of_the_wrong_size_loses_the_holder(
    tiny: Checkpoint, tiny_path: Path, body: bytes
) -> None:
    scene = Scene(tiny, tiny_path, ON_1_AND_2)
    rounds = scene.decode()
    server = scene.llm.servers[2]
    send = server._send

    def wrong(number: int, message: Any, *parts: Any) -> None:
        send(number, message, *([body] if isinstance(message, Answer) else parts))

    server._send = wrong  # type: ignore[method-assign]
    while scene.llm.loops[0].lenders.get(2):
        next(rounds)
    server._send = send  # type: ignore[method-assign]
    scene.finish(rounds)
    assert scene.recomputed
    scene.clock.leap(4000.0)  # a lost channel ends no loan, the lease does
    assert_all_returned(scene.llm)
    scene.llm.close()


def test_answers_of_other_steps_and_of_nobody_asked_are_ignored(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    scene = Scene(tiny, tiny_path, ON_1)
    rounds = scene.decode()
    server = scene.llm.servers[1]
    send = server._send

    def noisy(number: int, message: Any, *parts: Any) -> None:
        if isinstance(message, Answer):
            wrong = [b"\x11" * len(bytes(part)) for part in parts]
            for other in (
                Answer(message.step - 1, message.layer, message.slice),
                Answer(message.step + 1, message.layer, message.slice),
                Answer(message.step, message.layer + 1, message.slice),
                Answer(message.step, message.layer, message.slice + 1),
            ):
                server._peers[number].channel.send(encode(other), *wrong)
            send(number, message, *parts)
            server._peers[number].channel.send(encode(message), *wrong)
        else:
            send(number, message, *parts)

    server._send = noisy  # type: ignore[method-assign]
    scene.finish(rounds)
    assert not scene.poisoned_since(0)
    assert_all_returned(scene.llm)
    scene.llm.close()


def test_a_copy_is_forgotten_with_its_holder(tiny: Checkpoint, tiny_path: Path) -> None:
    """A pool that comes back counts its loans from 1: an old copy must not be taken for new."""
    options = ["attention.options.way=copy", "attention.options.staging_blocks=30"]
    scene = Scene(tiny, tiny_path, ON_1_AND_2, *options)
    rounds = scene.decode()
    staging = scene.llm.loops[0]._backend.staging
    assert {ref.instance for ref in staging._copies} == {1, 2}
    scene.llm.kill(2)
    scene.finish(rounds)
    assert {ref.instance for ref in staging._copies} == {1}
    assert len(staging._free) + len(staging._copies) == 30
    scene.llm.close()
