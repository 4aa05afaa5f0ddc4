"""The page in a browser in states that are hard to come by: none, many, large, leaving, locked."""

import contextlib
import threading
import time

import pytest
import uvicorn
from browser import Look, chromium
from instant import build
from served import free_ports
from test_history import entry_of
from test_page_routes import SeenGateway

from engine.server.api_keys import ApiKeys
from engine.server.history import History

CONTRAST = """() => {
  const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (colour) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map((one) => {
      const part = one / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? under(one.parentElement) : colour;
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || one.closest("svg, canvas, noscript") || !one.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(under(one))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), one.textContent]);
  }
  return found;
}"""

PRESS_LEFT = """() => {
  const canvas = document.querySelector("#tokens canvas");
  const legend = document.querySelector("#tokens .legend");
  const told = new Set();
  for (let presses = 0; presses < 300; presses++) {
    canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
    told.add(legend.textContent);
  }
  return [...told];
}"""


def instance(number, **other):
    one = {"id": number, "epoch": 1, "ready": True, "draining": False, "blocks": 10_000}
    one |= {"used": 3000, "lent": 0, "lent_to": {}, "borrowed_from": {}} | other
    return {"empty": one["blocks"] - one["used"] - one["lent"] - 1, **one}


def request(number, instances):
    one = {"id": f"cmpl-{number:024d}", "state": "decode", "instance": number % instances}
    one |= {"attempt": 1, "prompt_tokens": 900, "output_tokens": 5, "computed_tokens": 905}
    return one | {"blocks": {str(number % instances): 40, "0": 7}, "age_s": 400.0 - number}


def cluster(instances, requests=(), loans=()):
    lent = sum(one["lent"] for one in loans)
    ledger = {"lent": lent, "borrowed": lent, "loans": list(loans)}
    rates = {"output_tokens_per_s": 0.0, "ttft_s": None}
    return {"instances": instances, "requests": list(requests), "ledger": ledger, "rates": rates}


def crowd():
    """32 pools of 10,000 blocks in which each owes the next one 1,234, and 400 requests."""
    instances = [
        instance(
            n,
            lent=1234,
            lent_to={str((n - 1) % 32): 1234},
            borrowed_from={str((n + 1) % 32): 1234},
        )
        for n in range(32)
    ]
    loans = [
        {"debtor": n, "creditor": (n + 1) % 32, "lent": 1234, "borrowed": 1234} for n in range(32)
    ]
    return cluster(instances, [request(n, 32) for n in range(400)], loans)


class DrawnGateway(SeenGateway):
    """Shows whatever cluster the test gives it."""

    picture = cluster([])

    async def overview(self):
        return self.picture


@contextlib.contextmanager
def serving(gateway, port=0, **options):
    port = port or free_ports(1)
    server = uvicorn.Server(uvicorn.Config(build(gateway, **options), port=port, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture
def gateway():
    return DrawnGateway()


@pytest.fixture
def url(gateway):
    with serving(gateway) as one:
        yield one


@contextlib.contextmanager
def looking(browser, url, width=1440, **options):
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    look = Look(context.new_page())
    try:
        look.page.goto(url)
        yield look
        assert not [one for one in look.complaints if "401" not in one]
    finally:
        context.close()


def is_narrow(look):
    return look.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_an_empty_cluster_says_so(browser, gateway, url):
    with looking(browser, url) as look:
        look.wait_for("document.getElementById('health').textContent !== ''")
        seen = look.see()
    assert seen["health"] == "No instance is there yet"
    assert seen["figures"]["Memory"] == ["-", "", "0 of 0 rBlocks"]
    assert not seen["pools"]


@pytest.mark.parametrize("width", [390, 1440, 3840])
def test_many_large_pools_and_hundreds_of_requests(browser, gateway, url, width):
    gateway.picture = crowd()
    with looking(browser, url, width) as look:
        look.wait_for("document.querySelectorAll('#pools li').length === 32")
        seen = look.see()
        assert is_narrow(look), "the page scrolls sideways"
        look.page.click("#more")
        assert len(look.see()["requests"]) == 400
        look.page.click("#more")
    assert len(seen["requests"]) < 20
    assert seen["figures"]["Memory"][2] == "135,488 of 320,000 rBlocks"
    for shown in seen["pools"].values():
        assert shown["counts"][0] == "10,000 rBlocks"
        cells = dict(shown["cells"])
        whole = sum(cells.values())
        assert whole < 2000, "drawn with several rBlocks to a cell"
        assert cells.pop("cached: kept for their content") == 1, "what is there has a cell"
        (lent,) = (number for name, number in cells.items() if name.startswith("lent"))
        assert abs(lent / whole - 0.1234) < 2 / whole
    assert not seen["arrows"], "numbers of so many debts would hide each other"
    assert seen["owed"][0].endswith("1,234 rBlocks")


def test_who_leaves_and_who_is_gone(browser, gateway, url):
    gateway.picture = cluster([instance(0), instance(1, draining=True), instance(2, ready=False)])
    with looking(browser, url) as look:
        look.wait_for("document.querySelectorAll('#pools li').length === 3")
        seen = look.see()
        assert [one["state"] for one in seen["pools"].values()] == ["ready", "leaving", "starting"]
        assert seen["health"] == "1 of 3 ready"
        gateway.picture = cluster([instance(0), instance(2)])
        look.wait_for("document.querySelector('#pools [data-key=\"1\"]').dataset.state === 'gone'")
        seen = look.see()
    assert seen["health"] == "2 of 3 ready"
    assert "instance 2: serves" in " ".join(seen["changes"])
    assert "instance 1: left" in " ".join(seen["changes"])


def test_requests_of_the_same_name_leave_no_rows_behind(browser, gateway, url):
    """A step still has an attempt of an earlier gateway."""
    twice = [request(0, 1), {**request(0, 1), "attempt": None}]
    with looking(browser, url) as look:
        for requests in (twice, twice, [request(1, 1)]):
            gateway.picture = cluster([instance(0)], requests)
            look.wait_for(f"window.heard.cluster?.requests.length === {len(requests)}")
            look.page.wait_for_timeout(1500)
            assert len(look.see()["requests"]) == len(requests)


def test_a_gateway_that_is_lost_leaves_its_last_picture(browser, gateway):
    gateway.picture = cluster([instance(0)])
    port = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with looking(browser, "about:blank") as look:
        with serving(gateway, port):
            look.open(url)
            look.wait_for("document.querySelectorAll('#pools li').length === 1")
        look.wait_for("document.body.dataset.feed === 'lost'")
        counts = ["10,000 rBlocks", "3,000 own", "1 cached", "6,999 empty"]
        assert look.see()["pools"]["0"]["counts"] == counts
        said = look.page.text_content("#clock")
        assert said.startswith("The gateway is not reached: this is as it was at ")
        with serving(gateway, port):
            look.wait_for("document.body.dataset.feed === 'live'")
        look.complaints.clear()  # the browser's own, of lost connections


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, gateway):
    gateway.picture = cluster([instance(0)])
    with serving(gateway, keys=ApiKeys([("here", "secret")])) as url, looking(browser, url) as look:
        look.wait_for("!document.getElementById('key').hidden")
        assert "asks for an API key" in look.page.text_content("#key")
        look.page.fill("#key-field", "wrong")
        look.page.press("#key-field", "Enter")
        look.wait_for("document.getElementById('key').textContent.includes('not one of')")
        look.page.fill("#key-field", "secret")
        look.page.press("#key-field", "Enter")
        look.wait_for("document.querySelectorAll('#pools li').length === 1")
        assert look.page.is_hidden("#key")
        look.page.reload()
        look.wait_for("document.body.dataset.feed === 'live'")
        assert not [one for one in look.asked if "secret" in one]


def test_the_arrow_keys_read_values_off_the_lines(browser, gateway, url):
    gateway.picture = cluster([instance(0)])
    now, entry = time.monotonic(), entry_of(instance=0)
    entry.token_ids += [7] * 42
    gateway.history = History(now, now)  # its seconds are those of 1970
    gateway.history.note(entry, 42, now)
    with looking(browser, url) as look:
        look.wait_for("window.heard.history?.length > 1")
        told = look.page.evaluate(PRESS_LEFT)
        clock = look.page.evaluate(f"() => new Date({int(now)} * 1000).toLocaleTimeString('en-GB')")
    assert [one for one in told if "all 42" in one] == [f"{clock}all 420 42"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_that_is_written_can_be_read(browser, gateway, url, scheme):
    gateway.picture = crowd()
    with looking(browser, url, color_scheme=scheme) as look:
        look.wait_for("document.querySelectorAll('#pools li').length === 32")
        found = look.page.evaluate(CONTRAST)
    assert len(found) > 300
    assert min(found)[0] >= 4.5, min(found)
