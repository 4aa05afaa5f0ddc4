"""The planner is asked for its view when somebody looks, once for all who look, and only then."""

import asyncio
from types import SimpleNamespace

import pytest

from engine.protocol import Load, View, ViewQuery
from engine.server.views import FRESH_S, Views


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(
        "engine.server.views.time", SimpleNamespace(monotonic=lambda: now.at), raising=True
    )
    return now


def view(num_running):
    return View([], [Load(0, 1, num_running, 0, 0)])


def test_all_who_look_at_once_share_a_question_and_who_comes_soon_asks_none(clock):
    asked = []

    async def look():
        views = Views(asked.append)
        looks = [asyncio.create_task(views.look()) for _ in range(3)]
        await asyncio.sleep(0)
        assert asked == [ViewQuery()]
        views.heard(view(1))
        assert await asyncio.gather(*looks) == [view(1)] * 3
        clock.at += FRESH_S / 2
        assert await views.look() == view(1)
        assert len(asked) == 1
        clock.at += FRESH_S
        again = asyncio.create_task(views.look())
        await asyncio.sleep(0)
        views.heard(view(2))
        assert await again == view(2)
        assert len(asked) == 2

    asyncio.run(look())


def test_a_planner_that_is_away_leaves_what_was_known(clock, monkeypatch):
    monkeypatch.setattr("engine.server.views.PATIENCE_S", 0.01)
    asked = []

    async def look():
        views = Views(asked.append)
        assert await views.look() == View([], [])
        views.heard(view(1))
        clock.at += 2 * FRESH_S
        assert await views.look() == view(1)
        assert await views.look() == view(1)
        assert len(asked) == 3

    asyncio.run(look())


def test_who_leaves_while_it_looks_takes_the_answer_from_nobody(clock):
    async def look():
        views = Views(lambda _: None)
        gone, stays = (asyncio.create_task(views.look()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        views.heard(view(3))
        assert await stays == view(3)

    asyncio.run(look())
