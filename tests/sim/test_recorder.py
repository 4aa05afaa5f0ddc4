"""Protects machines that are recorded: they answer, fail and go on as they would without."""

import pytest
from recordings import pool_header

from engine.events import HASH, read, record
from engine.memory.effects import Reply
from engine.memory.loans import LoanFenced
from engine.memory.rmanager import RManager
from engine.protocol import VERSION, Attach, Granted, Hello, MembersQuery, Reserve, Write
from engine.sim.replay import KINDS, replay
from engine.sim.truth import SimMemory, layout_of

DEBTOR = 5


@pytest.fixture
def memory():
    """It was used before: its generations are not those of a new one."""
    used = SimMemory(layout_of(4), 8)
    for block in (0, 3, 7, 7):
        used.bump(block)
    return used


@pytest.fixture
def pool(memory, tmp_path):
    header = pool_header(memory)
    machine = RManager(
        header.lending,
        instance=0,
        epoch=1,
        cluster="sim",
        kernel_fingerprint="sim",
        pool=memory,
    )
    log = record(machine, header, tmp_path / "log")
    machine.log = log
    yield machine
    log.close()


def lend(pool, num_blocks, now=0.0):
    """To an instance that is new here."""
    fingerprint = layout_of(4).fingerprint
    pool.handle(DEBTOR, Hello(VERSION, "sim", 1, 1, fingerprint), now, 0)
    [reply] = pool.handle(DEBTOR, Reserve(1, num_blocks, 10.0), now, 0)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Granted)
    return reply.message


def heard(pool):
    _, events = read(str(pool.log.path), KINDS)
    return [name for name, _ in events if name != HASH]


def attach(pool, loan):
    size = layout_of(4).block_bytes
    pool.handle(DEBTOR, Write(loan, 0, 0, True, b"content"), 1.0, size)
    pool.handle(DEBTOR, Attach(3, 1, [(0, loan, 0)]), 1.0, 0)


def test_the_same_question_is_written_once_until_something_changes(pool):
    granted = lend(pool, 2)
    attach(pool, granted.loan)
    before = heard(pool)
    for _ in range(5):
        assert pool.resolve(DEBTOR, 3, 1, 2.0) == [(0, granted.blocks[0])]
    assert heard(pool) == [*before, "resolve"]
    pool.freeze(1, 1.0, 2.0)
    pool.resolve(DEBTOR, 3, 1, 2.0)
    assert heard(pool) == [*before, "resolve", "freeze", "resolve"]


def test_ticks_are_written_when_something_may_end(pool):
    lend(pool, 2)
    pool.tick(0.5)  # looks when the lease ends
    before = heard(pool)
    for now in range(1, 9):
        assert pool.tick(float(now)) == []
    assert heard(pool) == before
    pool.tick(11.0)
    assert heard(pool) == [*before, "tick"]
    assert pool.books.num_available == 8


def test_a_refusal_is_an_answer_and_is_compared(pool, monkeypatch):
    for sequence in range(70):  # hashes after 1, 2, 4, 8, 16, 32, 64
        with pytest.raises(LoanFenced, match=f"sequence {sequence} has no table"):
            pool.resolve(DEBTOR, sequence, 1, 0.0)
    figures = replay(str(pool.log.path))
    assert (figures["inputs"], figures["hashes"], figures["differs_at"]) == (70, 7, None)

    def refuse(self, peer, sequence, version, now):
        raise LoanFenced("for another reason")

    monkeypatch.setattr(RManager, "resolve", refuse)
    assert replay(str(pool.log.path))["differs_at"] == 1


def test_a_memory_that_was_used_before_grants_the_same_generations(pool, memory):
    granted = lend(pool, 8)
    assert sorted(granted.generations) == [1, 1, 1, 1, 1, 2, 2, 3]
    figures = replay(str(pool.log.path))
    assert (figures["hashes"], figures["differs_at"]) == (2, None)


def test_the_input_that_ends_a_process_is_in_its_log(pool, monkeypatch):
    monkeypatch.setattr(type(pool._lending.recalls), "want", lambda self, num, now: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pool.lend(False, 1.0)
    figures = replay(str(pool.log.path))
    assert (figures["inputs"], figures["differs_at"]) == (1, 1)
    assert "ZeroDivisionError" in figures["error"]


def test_a_full_disk_ends_the_log_and_nothing_else(pool, caplog):
    pool.log._file.close()
    pool.log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for number in range(200):
        pool.freeze(1, 1.0, float(number))
    assert pool.log._file.closed
    assert len(lend(pool, 2, now=200.0).blocks) == 2
    [said] = caplog.messages
    assert "ends here: No space left on device" in said


def test_nothing_is_written_of_what_a_machine_says_to_itself(pool):
    pool.handle(DEBTOR, MembersQuery(), 1.0, 0)  # ticks, and then loses the peer
    assert heard(pool) == ["handle"]
