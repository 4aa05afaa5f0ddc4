"""The live page in a browser, over a true cluster in which instances borrow from each other."""

import contextlib
import os
import signal

import pytest
from browser import PIXELS, Look, chromium
from load import load
from served import Server, make_chatting_checkpoint

REQUESTS = [(400, 500), (60, 300), (30, 200)]
"""tokens of prompts and answers; a pool holds 512"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("page") / "model")
    with Server(model, 3, "pool.num_blocks=64", "scheduler.lease_s=30") as server:
        yield server
    assert "Traceback" not in server.said


@pytest.fixture
def look(browser, server):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    look = Look(context.new_page())
    look.open(server.url)
    yield look
    context.close()
    assert {url.split("/")[2] for url in look.asked} == {server.url.split("/")[2]}


def number(value):
    return f"{value:,}"


def rblocks(value):
    return f"{value:,} rBlock{'' if value == 1 else 's'}"


def pool_of(one):
    """How a pool should be told."""
    lent = [(f"lent to {debtor}", blocks) for debtor, blocks in one["lent_to"].items()]
    named = sum(blocks for _, blocks in lent)
    cached = one["blocks"] - one["used"] - max(one["lent"], named) - one["empty"]
    parts = [("own", one["used"]), *lent, ("lent", one["lent"] - named), ("cached", cached)]
    parts.append(("empty", one["empty"]))
    told = [f"{number(blocks)} {what}" for what, blocks in parts if blocks > 0]
    borrowed = one["borrowed_from"]
    return {
        "state": "leaving" if one["draining"] else "ready" if one["ready"] else "starting",
        "counts": [f"{number(one['blocks'])} rBlocks", *told],
        "borrowed": [
            f"+ {number(sum(borrowed.values()))} borrowed",
            *(f"{number(blocks)} at {holder}" for holder, blocks in borrowed.items()),
        ]
        if borrowed
        else [],
    }


def check(seen):
    """Each figure on the page is one of the last picture that the gateway sent."""
    assert not seen["complaints"]
    cluster = seen["heard"]["cluster"]
    instances = {str(one["id"]): one for one in cluster["instances"]}
    for key, one in instances.items():
        shown = seen["pools"][key]
        assert {name: shown[name] for name in ("state", "counts", "borrowed")} == pool_of(one)
        assert sum(cells for _, cells in shown["cells"]) == one["blocks"], "a cell for each rBlock"
        assert shown["said"].startswith(f"The pool of instance {key}, {one['blocks']} rBlocks: ")
    debts = [one for one in cluster["ledger"]["loans"] if one["lent"]]
    assert sorted(seen["owed"]) == sorted(
        f"{one['debtor']} owes {one['creditor']}{rblocks(one['lent'])}" for one in debts
    )
    assert sorted(seen["arrows"]) == sorted(number(one["lent"]) for one in debts)
    taken = sum(one["used"] + one["lent"] for one in instances.values())
    blocks = sum(one["blocks"] for one in instances.values())
    figures = seen["figures"]
    assert figures["Memory"][1:] == ["% taken", f"{number(taken)} of {number(blocks)} rBlocks"]
    assert float(figures["Memory"][0]) == pytest.approx(100 * taken / blocks, abs=0.1)
    assert figures["Lent"][0] == number(cluster["ledger"]["lent"])
    assert figures["Requests"][0] == number(len(cluster["requests"]))
    assert [row[0] for row in seen["requests"]] == [one["id"] for one in cluster["requests"]]
    for row, one in zip(seen["requests"], cluster["requests"], strict=True):
        assert row[1].startswith(one["state"])
        assert row[3] == f"{number(one['prompt_tokens'])} + {number(one['output_tokens'])}"
        at = {holder: blocks for holder, blocks in one["blocks"].items() if blocks}
        assert sorted(filter(None, row[4].split(", "))) == sorted(
            f"{number(blocks)} at {holder}" for holder, blocks in at.items()
        )


def test_every_figure_is_of_the_last_picture_that_came(look, server):
    with load(server, REQUESTS):
        look.wait_for("document.querySelectorAll('#owed .dot').length > 0")
        for _ in range(5):
            check(look.see())
            for name, found, wanted in look.page.evaluate(PIXELS):
                assert found == wanted, name
            look.page.wait_for_timeout(700)
        look.wait_for("document.querySelector('#figures').textContent.includes('99 %')")
        seen = look.see()
        last = seen["heard"]["history"][-1]
        assert seen["legend"][0].startswith(f"all {number(sum(last['tokens'].values()))}")
    assert look.complaints == []


def test_the_page_the_routes_and_the_metrics_agree_on_a_cluster_that_stands_still(look, server):
    steps = [server.pid_of(f"step {rank}") for rank in range(3)]
    with load(server, REQUESTS):
        for _ in range(30):
            look.wait_for("document.querySelectorAll('#owed .dot').length > 0")
            with stopped(steps):
                look.page.wait_for_timeout(1500)  # for the last words of all to be heard
                seen, cluster = look.see(), server.http.get("/cluster").json()
                metrics = {
                    name: {i: metric_of(server, name, i) for i in range(3)}
                    for name in ("lendkv:pool_blocks", "lendkv:lent_blocks")
                }
            if same(seen["heard"]["cluster"], cluster) and cluster["ledger"]["lent"]:
                break
        else:
            pytest.fail(f"never the same: {seen['heard']['cluster']} and {cluster}")
    check(seen)
    for one in cluster["instances"]:
        assert metrics["lendkv:pool_blocks"][one["id"]] == one["blocks"]
        assert metrics["lendkv:lent_blocks"][one["id"]] == one["lent"]


def test_who_is_frozen_or_killed_is_seen_and_overcome(look, server):
    with load(server, REQUESTS):
        with stopped([server.pid_of("gateway")]):
            look.wait_for("document.body.dataset.feed === 'lost'")
        look.wait_for("document.body.dataset.feed === 'live'")
        server.kill(server.pid_of("pool 1"))
        look.wait_for("document.getElementById('changes').textContent.includes('began anew')")
        look.wait_for("document.getElementById('health').textContent === '3 ready'")
        assert look.complaints == []
        server.kill(server.pid_of("gateway"))
        look.wait_for("document.getElementById('changes').textContent.includes('is back')")
        look.wait_for("window.heard.cluster.instances.length === 3")
        lost = "Failed to load resource: net::"  # the browser's own words of a lost connection
        look.complaints[:] = [one for one in look.complaints if not one.startswith(lost)]
        check(look.see())
    changes = " ".join(look.see()["changes"])
    assert "instance 1: began anew with an empty pool" in changes
    assert "the gateway is not reached" in changes


def test_a_request_is_explained_when_its_id_is_pressed(look, server):
    with load(server, REQUESTS):
        look.wait_for("document.querySelector('#request-rows .dot:not([hidden])')")
        while not look.page.evaluate("() => document.querySelectorAll('#life td').length > 6"):
            # One that ends at once has too short a life: the next one may be longer.
            look.page.evaluate("() => document.querySelector('#request-rows .link')?.click()")
            look.page.wait_for_timeout(2000)
        name = look.page.text_content("#explained h2")
        told = server.http.get(f"/cluster/requests/{name}").json()
        assert f"{told['prompt_tokens']} prompt tokens" in look.page.text_content("#life p")
        what = look.page.locator("#life tbody tr td:nth-child(3)").all_text_contents()
        moments = [one["what"] for attempt in told["attempts"] for one in attempt["moments"]]
        assert set(what) <= set(moments)
        look.page.click("#explained button")
        assert not look.page.is_visible("#explained")
    assert look.complaints == []


def test_without_a_stream_the_page_asks_again_and_again(browser, server):
    context = browser.new_context()
    look = Look(context.new_page())
    look.page.route("**/cluster/events*", lambda route: None)  # something holds it back
    look.open(server.url)
    polls = (
        "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/cluster'))"
    )
    look.wait_for(f"{polls}.length > 2")
    assert look.see()["pools"].keys() == {"0", "1", "2"}
    assert look.complaints == []
    context.close()


def test_a_paused_page_keeps_its_picture(look, server):
    look.wait_for("window.heard.history?.length > 0")
    look.page.keyboard.press("p")
    before = look.see()
    assert before["feed"] == "paused"
    look.wait_for(f"window.heard.history.length > {len(before['heard']['history']) + 2}")
    assert look.see()["legend"] == before["legend"]
    look.page.keyboard.press("p")
    assert look.see()["feed"] == "live"


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def metric_of(server, name, instance):
    lines = server.http.get("/metrics").text.splitlines()
    start, label = f"{name}{{", f'engine="{instance}"'
    (line,) = (line for line in lines if line.startswith(start) and label in line)
    return float(line.rpartition(" ")[2])


def same(one, other):
    """But for ages and rates, which go on."""

    def still(cluster):
        requests = [{**request, "age_s": 0} for request in cluster["requests"]]
        return {**cluster, "requests": requests, "rates": {}}

    return still(one) == still(other)
