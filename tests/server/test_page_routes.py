"""The page's files, its routes' bodies and who may have them; pictures are made for who looks."""

import asyncio
import json
import re
from types import SimpleNamespace

import pytest
from instant import InstantGateway, build, send

from engine.server.api_keys import ApiKeys
from engine.server.history import History
from engine.server.page import FOLDER, TYPES
from engine.server.rates import Rates
from engine.server.watch import Watch

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in TYPES)


class SeenGateway(InstantGateway):
    """With what a picture is made of."""

    def __init__(self):
        super().__init__()
        self.rates, self.history = Rates(), History(0.0, 0.0)


def build_seen(**options):
    return build(SeenGateway(), **options)


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_the_page_needs_no_key_and_may_ask_nobody_else(path):
    app = build_seen(keys=ApiKeys([("here", "secret-key")]))
    answer = send(app, "GET", path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_origin(name):
    text = (FOLDER / name).read_text()
    assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", ["/cluster", "/cluster/history", "/cluster/events"])
def test_the_data_need_the_key(path):
    app = build_seen(keys=ApiKeys([("here", "secret-key")]))
    assert send(app, "GET", path).status_code == 401


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2fapp.py", "%2e%2e/app.py", ""])
def test_nothing_else_is_told_as_a_file(name):
    assert send(build_seen(), "GET", f"/page/{name}").status_code == 404


@pytest.mark.parametrize("since", ["x", "1e400", "-" * 9])
def test_a_since_that_is_no_number_is_refused(since):
    answer = send(build_seen(), "GET", f"/cluster/history?since={since}")
    assert answer.status_code == 400
    assert "since" in answer.json()["error"]["message"]


def test_all_who_look_share_a_picture_and_nobody_who_does_not_makes_one(monkeypatch):
    clock, made = SimpleNamespace(time=lambda: 100.97), []
    monkeypatch.setattr("engine.server.watch.time", clock)

    async def cluster():
        made.append(1)
        return {"picture": len(made)}

    async def look(all_events):
        histories = await asyncio.gather(*(anext(events) for events in all_events))
        pictures = await asyncio.gather(*(anext(events) for events in all_events))
        (history,), (picture,) = {*histories}, {*pictures}
        return event_of(history), event_of(picture)

    async def all_look():
        watch = Watch(cluster, lambda since: {"seconds": [{"second": since + 1}]})
        assert not made
        all_events = [watch.events(0) for _ in range(20)]
        first = await look(all_events)
        clock.time = lambda: 101.06
        second = await look(all_events)
        for events in all_events:
            await events.aclose()
        return first, second

    for number, (history, picture) in enumerate(asyncio.run(all_look()), start=1):
        assert history == ("history", {"seconds": [{"second": number}]})
        assert picture == ("cluster", {"picture": number})
    assert len(made) == 2


def event_of(text):
    name, data = text.removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
