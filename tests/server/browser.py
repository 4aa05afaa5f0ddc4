"""Debian's Chromium without a window, looking at the live page, and what it sees there."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
"""less than a test may take: what is seen by then is told"""

# What the page was told is kept beside it, so that each figure can be held against it. A body is
# drawn in the same turn in which it is parsed.
HEAR = """
window.heard = {};
const parse = JSON.parse;
JSON.parse = (text) => {
  const body = parse(text);
  if (body.ledger) window.heard.cluster = body;
  if (body.seconds) window.heard.history = [...(window.heard.history ?? []), ...body.seconds];
  return body;
};
"""

SEE = """() => {
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const texts = (root, selector) => all(root, selector).map((one) => one.textContent);
  return {
    heard: window.heard,
    feed: document.body.dataset.feed,
    health: document.getElementById("health").textContent,
    figures: Object.fromEntries(all(document, "#figures > div").map((one) =>
      [one.firstElementChild.textContent, texts(one, ".value > *, .note")])),
    pools: Object.fromEntries(all(document, "#pools > li").map((one) => [one.dataset.key, {
      state: one.dataset.state,
      counts: texts(one, ":scope > .counts > span"),
      borrowed: texts(one, ".borrowed:not([hidden]) .counts > span"),
      cells: all(one, "canvas.pool")[0].edges.map(({part, cells}) => [part.name, cells]),
      said: all(one, "canvas.pool")[0].getAttribute("aria-label"),
    }])),
    owed: texts(document, "#owed li:not(.note)"),
    arrows: texts(document, "#graph .blocks"),
    requests: all(document, "#request-rows tr").map((row) =>
      [row.dataset.key, ...texts(row, "td").filter((_, column) => column !== 2)]),
    legend: texts(document, "#lines .legend"),
    changes: texts(document, "#change-rows li"),
  };
}"""

# A pixel of each part in use, and the colour of the instance whose requests use it.
PIXELS = """() => [...document.querySelectorAll("#pools canvas.pool")].flatMap((canvas) => {
  const ratio = canvas.width / canvas.clientWidth;
  const probe = document.createElement("canvas").getContext("2d");
  const pixel = (context, x, y) => [...context.getImageData(x, y, 1, 1).data];
  return canvas.edges.filter(({part}) => /own|lent to/.test(part.short)).map(({part, from}) => {
    const dot = document.querySelector(`#pools [data-key="${part.instance}"] .dot`);
    probe.fillStyle = getComputedStyle(dot).backgroundColor;
    probe.fillRect(0, 0, 1, 1);
    const found = pixel(canvas.getContext("2d"), Math.round((from + 4) * ratio), 4);
    return [part.name, found, pixel(probe, 0, 0)];
  });
})"""


class Look:
    """A page that is looked at, with what it asked for and what it complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(HEAR)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self._complain(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _complain(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.wait_for("document.body.dataset.feed === 'live'")

    def wait_for(self, what: str) -> None:
        """An expression of JavaScript is true."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(f"() => {what}"):
            assert time.monotonic() < deadline, (what, self.see(), self.complaints)
            self.page.wait_for_timeout(100)

    def see(self) -> dict[str, Any]:
        return {**self.page.evaluate(SEE), "complaints": self.complaints}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none, and says what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as one:
        browser = one.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()
