// The page: what came last, and when it is drawn.

import { byId, cssColour, setText } from "./elements.js";
import { noteChange, noteChanges } from "./changes.js";
import { colourOf, onScheme } from "./colours.js";
import { debtsOf, drawDebts } from "./debts.js";
import { explain } from "./explained.js";
import { Feed } from "./feed.js";
import { drawFigures } from "./figures.js";
import { Lines } from "./lines.js";
import { drawMemory } from "./memory.js";
import { clock, count, duration } from "./numbers.js";
import { drawRequests, onRequest } from "./requests.js";

const KEEP_S = 300;

const look = { cluster: null, history: [], now: 0, gone: [], at: 0 };
let kept = null; // the picture while the page is paused; news go on to be taken
let state = "loading";

const quantiles = (name) => (point) =>
  point[name] && [
    { name: "99 %", value: point[name][1], colour: cssColour("late"), dash: [5, 3] },
    { name: "median", value: point[name][0], colour: cssColour("accent") },
  ];

const lines = [
  new Lines(byId("tokens"), {
    title: "Output tokens/s",
    tell: (value) => count(value),
    stacked: true,
    read: ({ tokens }) =>
      Object.entries(tokens).map(([instance, value]) => ({ name: instance, value, colour: colourOf(Number(instance), 0.75) })),
  }),
  new Lines(byId("first"), { title: "To the first token", tell: (value) => duration(value).join(" "), read: quantiles("ttft_s") }),
  new Lines(byId("between"), { title: "Between two tokens", tell: (value) => duration(value).join(" "), read: quantiles("gap_s") }),
];

function take(name, body) {
  const now = Date.now() / 1000;
  if (name === "cluster") takeCluster(body, now);
  else if (name === "history") takeHistory(body);
  else setText(byId("model"), body.data[0].id);
  if (!kept) draw();
}

function takeCluster(body, now) {
  const shown = look.cluster ? [...look.cluster.instances, ...look.gone] : body.instances;
  look.gone = noteChanges(shown, body.instances, now);
  look.cluster = body;
  look.at = now;
}

function takeHistory({ now, seconds }) {
  const known = new Map(look.history.map((point) => [point.second, point]));
  for (const point of seconds) known.set(point.second, point);
  look.now = now;
  look.history = [...known.values()]
    .filter((point) => point.second > now - KEEP_S && point.second <= now)
    .sort((a, b) => a.second - b.second);
}

function draw() {
  const { cluster, history, gone, now } = kept ?? look;
  if (!cluster) return;
  const instances = [...cluster.instances, ...gone].sort((a, b) => a.id - b.id);
  const tokens = history.at(-1)?.tokens ?? {};
  drawHealth(instances);
  drawFigures(cluster, history);
  drawMemory(instances, new Map(Object.entries(tokens).map(([id, rate]) => [Number(id), rate])));
  drawDebts(instances, debtsOf(cluster));
  for (const one of lines) one.show(history, now);
  drawRequests(cluster.requests);
  drawFeed();
}

function drawHealth(instances) {
  const ready = instances.filter((one) => one.ready && !one.draining).length;
  const all = instances.length;
  document.body.dataset.health = ready === all && all ? "good" : ready ? "partly" : "bad";
  const said = !all ? "No instance is there yet" : ready === all ? `${count(all)} ready` : `${count(ready)} of ${count(all)} ready`;
  setText(byId("health"), said);
  document.title = `LendKV: ${said}`;
}

function drawFeed() {
  const shown = kept ? "paused" : state;
  const since = clock((kept ?? look).at);
  document.body.dataset.feed = shown;
  const said = {
    loading: "connecting ...",
    live: since,
    paused: `as it was at ${since}`,
    lost: look.at ? `The gateway is not reached: this is as it was at ${since}` : "The gateway is not reached",
    locked: "locked",
  };
  setText(byId("clock"), said[shown]);
  byId("key").hidden = state !== "locked";
  setText(byId("key-label"), feed.key ? "This key is not one of the gateway's." : "This gateway asks for an API key. It stays in this tab.");
}

const feed = new Feed(take, (heard) => {
  if (heard === "lost" && state === "live") noteChange(Date.now() / 1000, "the gateway is not reached");
  if (heard === "live" && state === "lost") noteChange(Date.now() / 1000, "the gateway is back");
  state = heard;
  drawFeed();
});

function pause() {
  kept = kept ? null : { ...look };
  byId("pause").setAttribute("aria-pressed", String(Boolean(kept)));
  setText(byId("pause"), kept ? "Go on" : "Pause");
  draw();
  drawFeed();
}

byId("pause").addEventListener("click", pause);
document.addEventListener("keydown", (event) => {
  if (event.key === "p" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input")) pause();
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  feed.unlock(byId("key-field").value);
});
onRequest((id) => explain(id, (path) => feed.ask(path)));
onScheme(draw);
new ResizeObserver(draw).observe(document.body);
feed.run();
