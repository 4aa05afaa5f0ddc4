"""A gateway writes down what it takes, and ends what nobody listens to. No steps are running."""

import asyncio
import time

from engine.core import Request, SamplingParams
from engine.protocol import Failed, Member, Tokens
from engine.server import gateway as gateways
from engine.server import journal as journals
from engine.server.gateway import Gateway
from engine.server.journal import Terms

NOWHERE = "tcp://127.0.0.1:9"
NUM_ANSWERS = 1500


def request(name):
    return Request(request_id=name, prompt_ids=(1, 2), sampling=SamplingParams(max_tokens=3))


def opened(path, on_end=lambda *_: None):
    gateway = Gateway(NOWHERE, journal=path, block_tokens=4, on_end=on_end)
    gateway.table.on_members([Member(0, 1, NOWHERE, 9, 9, 0, 0)], time.monotonic())
    return gateway


def say(gateway, entry, message):
    gateway.table.on_message(message, time.monotonic())
    gateway._write(time.monotonic())


def test_a_successor_knows_answers_under_way_complete_and_failed(tmp_path):
    ended = []
    first = opened(tmp_path / "log", lambda entry, _: ended.append(entry))
    entries = {name: first.submit(request(name), Terms(usage=True)) for name in "abcd"}
    for name in "abc":
        say(first, entries[name], Tokens(entries[name].attempt_id, 0, [5, 6]))
    say(first, entries["b"], Tokens(entries["b"].attempt_id, 2, [7], "length"))
    say(first, entries["c"], Failed(entries["c"].attempt_id, "no memory", "too_large"))
    assert [entry.request.request_id for entry in ended] == ["b", "c"]
    first._journal.close()  # it is killed
    again = opened(tmp_path / "log", lambda entry, _: ended.append(entry))
    found = again.table.entries
    assert {name: entry.token_ids for name, entry in found.items()} == {
        "a": [5, 6],
        "b": [5, 6, 7],
        "c": [5, 6],
        "d": [],
    }
    assert found["b"].finish_reason == "length"
    assert (found["c"].error, found["c"].error_code) == ("no memory", "too_large")
    assert sorted(entry.request.request_id for entry in again.table.running) == ["a", "d"]
    assert again.terms["b"].usage
    again.table.on_members([Member(0, 1, NOWHERE, 9, 9, 0, 0)], time.monotonic())
    assert found["a"].attempt_id != entries["a"].attempt_id, "a step may still run the first"
    assert len(ended) == 2, "ends are counted once"
    for gateway in (first, again):
        gateway.close()


def test_the_last_listener_who_leaves_ends_the_request(tmp_path):
    gateway = opened(tmp_path / "log")
    entry = gateway.submit(request("a"), Terms())
    old = gateway.attend("a")
    new = gateway.attend("a")
    old.__enter__()
    new.__enter__()
    old.__exit__(None, None, None)
    assert not entry.done
    new.__exit__(None, None, None)
    assert entry.finish_reason == "abort"
    gateway.close()


def test_who_does_not_come_back_in_time_is_not_answered(tmp_path, monkeypatch):
    first = opened(tmp_path / "log")
    for name in "ab":
        first.submit(request(name), Terms())
    first.close()
    monkeypatch.setattr(gateways, "COME_BACK_S", 0.0)
    again = opened(tmp_path / "log")
    with again.attend("a"):
        again._forget(time.monotonic() + 1)
        assert not again.table.entries["a"].done
        assert again.table.entries["b"].finish_reason == "abort"
    again.close()


def test_a_journal_stays_short_and_a_successor_knows_as_much(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "LONG_BYTES", 2000)
    path = tmp_path / "log"
    first = opened(path)
    first.members = [Member(0, 1, NOWHERE, 9, 9, 0, 0)]
    running = first.submit(request("under way"), Terms(usage=True))
    say(first, running, Tokens(running.attempt_id, 0, [5]))
    sizes = []
    for number in range(NUM_ANSWERS):
        entry = first.submit(request(str(number)), Terms())
        say(first, entry, Tokens(entry.attempt_id, 0, [5, 6, 7], "length"))
        if number == 300:
            say(first, running, Tokens(running.attempt_id, 1, [6]))
        first._forget(time.monotonic())
        sizes.append(path.stat().st_size)
    assert max(sizes) < 4 * sizes[journals.KEEP_ENDED]
    first._journal.close()  # it is killed
    again = opened(path)
    found = again.table.entries
    assert found["under way"].token_ids == [5, 6]
    assert again.terms["under way"].usage
    assert not found["under way"].done
    kept = [str(number) for number in range(NUM_ANSWERS - journals.KEEP_ENDED, NUM_ANSWERS)]
    assert set(kept) | {"under way"} <= found.keys()
    assert len(found) < NUM_ANSWERS
    assert all(found[name].token_ids == [5, 6, 7] for name in kept)
    assert {found[name].finish_reason for name in kept} == {"length"}
    for gateway in (first, again):
        gateway.close()


def test_a_step_that_is_gone_is_closed_when_nobody_listens_to_it(tmp_path):
    """Its descriptor may be given to a client's connection, which is not to be disturbed."""

    async def go():
        gateway = opened(tmp_path / "log")
        gateway.submit(request("a"), Terms())
        (step,) = gateway._steps.values()
        pump = asyncio.create_task(gateway.run())
        await asyncio.sleep(0)  # it listens now
        gateway.members = []
        gateway._forget(time.monotonic())
        assert not gateway._steps
        assert step.fileno() >= 0, "closed while it is listened to"
        while gateway._gone:
            await asyncio.sleep(0.01)
        pump.cancel()
        await asyncio.wait([pump])
        gateway.close()

    asyncio.run(go())
