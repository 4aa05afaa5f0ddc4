"""Protects the lender's own tokens (Strain, Busy), and blocks from damage on their way."""

from pathlib import Path
from typing import Any

from cluster_harness import TickingClock, cluster, greedy, prompt
from tiny_models import reference_tokens

from engine.core import Request
from engine.model.checkpoint import Checkpoint
from engine.protocol import Strain, Write, encode

LENT = ("placement.name=placements_for_tests:Drawn", "placement.options.instances=[1]")


def lent_request(tiny: Checkpoint, *options: str) -> tuple[Any, Any, Any]:
    llm = cluster(tiny, "instances=2", *LENT, *options, clock=TickingClock())
    ids = prompt(40, 1)
    done = llm.submit(Request(request_id="long", prompt_ids=tuple(ids), sampling=greedy(10)))
    rounds = llm.run()
    while len(done.token_ids) < 3:
        next(rounds)
    return llm, done, rounds


def test_a_strained_pool_says_busy_and_nothing_is_computed_again(
    tiny: Checkpoint, tiny_path: Path
) -> None:
    llm, done, rounds = lent_request(tiny)
    told = len(done.token_ids)
    llm.loops[1].lenders.send(1, Strain(0.5))
    next(rounds)
    paused = [s.paused_until for s in llm.loops[0].scheduler.running]
    for _ in range(5):
        next(rounds)
        paused += [s.paused_until for s in llm.loops[0].scheduler.running]
    assert max(paused) > 0
    assert len(done.token_ids) <= told + 1
    for _ in rounds:
        pass
    assert done.token_ids == reference_tokens(tiny_path, prompt(40, 1), 10)
    assert done.report.recomputed_tokens == 0
    llm.close()


def test_a_block_that_was_damaged_on_its_way_loses_its_sender(tiny: Checkpoint) -> None:
    llm, done, rounds = lent_request(tiny, "pool.lending.checksums=true")
    assert done.report is None
    server = llm.servers[1]
    (number,) = [n for n, peer in server._peers.items() if n != 1] or [1]
    granted = server._rmanager._lending
    loan = next(iter(granted.loans))
    size = llm.pools[1].layout.block_bytes
    for slot in range(len(loan.slots)):
        assert loan.contents[slot] or loan.filled[slot] < size
    before = set(server._peers)
    loan.slots[0] = type(loan.slots[0]).OPEN
    loan.filled[0] = 0
    write = Write(loan.number, 0, 0, True, b"", 12345)
    llm.loops[0].lenders.send(1, write, bytes(size))
    llm.network.pump()
    assert set(server._peers) < before, number
    assert encode(write)
    for _ in rounds:
        pass
    llm.close()
