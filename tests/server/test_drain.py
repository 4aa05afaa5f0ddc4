"""A gateway that is drained refuses what is new, ends what it has, and says so to balancers."""

import asyncio
import json
from multiprocessing import Pipe

import pytest
from instant import InstantGateway, build, send

from engine.core import Request
from engine.protocol import Abort, Load, Tokens, View
from engine.server.drain import Drain

BODY = json.dumps({"model": "tiny", "prompt": "hi"}).encode()


class Slow(InstantGateway):
    """Its steps answer when the test says so."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def _pump(self, now):
        self.sent += [effect.message for effect in self.table.take_effects()]


def waiting(gateway, name="r"):
    return gateway.table.add(Request(request_id=name, prompt_ids=(1, 2)), 0.0)


async def drained(gateway, drain_s, *, of_all=False, meanwhile=lambda: None):
    """The drain from the supervisor's word to its end."""
    ours, theirs = Pipe()
    stopped = []
    drain = asyncio.create_task(
        Drain(gateway, theirs, lambda: stopped.append(1), of_all=of_all).run()
    )
    await asyncio.sleep(0)
    assert gateway.closes_at is None
    ours.send({"drain": drain_s})
    while gateway.closes_at is None:
        await asyncio.sleep(0.001)
    meanwhile()
    await asyncio.wait_for(drain, 60)
    assert stopped == [1]


def test_what_runs_is_ended_and_then_the_server_stops():
    gateway = Slow()
    entry = waiting(gateway)

    def meanwhile():
        gateway.table.on_message(Tokens(entry.attempt_id, 0, [7], "stop"), 1.0)

    asyncio.run(drained(gateway, 1000.0, meanwhile=meanwhile))
    assert (entry.token_ids, entry.finish_reason, entry.error) == ([7], "stop", "")


def test_what_runs_too_long_is_ended_with_a_reason_and_its_step_is_told():
    gateway = Slow()
    entry = waiting(gateway)
    asyncio.run(drained(gateway, 0.0))
    assert entry.error_code == "shutting_down"
    assert "time is up" in entry.error
    assert Abort(entry.attempt_id) in gateway.sent


@pytest.mark.parametrize("of_all", [True, False])
def test_the_clusters_gateway_waits_for_requests_of_others(of_all):
    gateway = Slow()
    gateway.views.view = View([], [Load(1, 1, 1, 0, 0)])
    seen = []

    async def run():
        drain = asyncio.create_task(drained(gateway, 1000.0, of_all=of_all))
        for _ in range(3):
            await asyncio.sleep(0.1)
        seen.append(drain.done())
        gateway.views.view = View([], [])
        await drain

    asyncio.run(run())
    assert seen == [not of_all]


def test_while_it_drains_nothing_new_is_taken_and_probes_can_tell():
    gateway = Slow()
    app = build(gateway)
    assert send(app, "GET", "/ready").status_code == 200
    gateway.closes_at = 1e18
    refused = send(app, "POST", "/v1/completions", BODY)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert int(refused.headers["retry-after"]) >= 1
    assert send(app, "GET", "/ready").status_code == 503
    assert send(app, "GET", "/health").status_code == 200
