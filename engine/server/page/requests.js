// Requests under way, oldest first, each with where its context lies.

import { byId, el, keepRows, setText } from "./elements.js";
import { drawCells, scaleOf } from "./cells.js";
import { colourOf, paintDot } from "./colours.js";
import { age, count, plural } from "./numbers.js";
import { hint } from "./hint.js";

const SHOWN = 16;
const HEIGHT = 14;

let showAll = false;
let again = () => {};
let open = () => {};

// Who is told the id of a request that somebody wants to know more of.
export const onRequest = (told) => (open = told);

byId("more").addEventListener("click", () => {
  showAll = !showAll;
  again();
});

export function drawRequests(requests) {
  again = () => drawRequests(requests);
  const shown = showAll ? requests : requests.slice(0, SHOWN);
  const rows = byId("request-rows");
  byId("requests").classList.toggle("none", !requests.length);
  keepRows(rows, shown, (one) => one.id, makeRow, fillRow);
  const most = Math.max(...requests.map(blocksOf), 1);
  const width = rows.querySelector(".strip")?.clientWidth ?? 0;
  const scale = scaleOf(most, width, 1);
  for (const [index, one] of shown.entries()) drawStrip(rows.children[index], one, scale, width);
  setText(byId("requests-note"), noteOf(requests, shown));
  const more = byId("more");
  more.hidden = requests.length <= SHOWN;
  setText(more, showAll ? `Show the ${SHOWN} oldest` : `Show all ${count(requests.length)}`);
}

const blocksOf = (one) => Object.values(one.blocks).reduce((sum, blocks) => sum + blocks, 0);

function noteOf(requests, shown) {
  if (!requests.length) return "No request is under way.";
  const number = (state) => requests.filter((one) => one.state === state).length;
  const states = [["decode", "decoding"], ["prefill", "prefilling"], ["waiting", "waiting"]]
    .filter(([state]) => number(state))
    .map(([state, name]) => `${count(number(state))} ${name}`);
  const split = requests.filter((one) => Object.keys(one.blocks).length > 1).length;
  const rest = requests.length - shown.length;
  return [
    `${plural(requests.length, "request")}: ${states.join(", ")}`,
    split ? `; ${count(split)} of them with a context that lies at more than one instance` : "",
    rest ? `. The ${shown.length} oldest are shown.` : ".",
  ].join("");
}

function makeRow(one) {
  const canvas = el("canvas", { role: "img" });
  const strip = el("div", { class: "strip" }, canvas);
  canvas.addEventListener("pointermove", (event) => {
    const edge = canvas.edges?.find(({ from, to }) => event.offsetX >= from && event.offsetX < to);
    hint(event, edge && `${plural(edge.part.count, "rBlock")} at instance ${edge.part.instance}`);
  });
  canvas.addEventListener("pointerleave", () => hint());
  const where = el("td", { class: "where" }, el("b", { class: "dot" }));
  const id = el("button", { type: "button", class: "link", title: one.id });
  id.addEventListener("click", () => open(one.id));
  return el("tr", {}, el("th", { scope: "row" }, id), el("td", { class: "state" }), where,
    el("td", { class: "number" }), el("td", { class: "number" }), el("td", {}, el("div", { class: "context" }, strip, el("span", { class: "share" }))));
}

function fillRow(row, one) {
  const [id, state, where, old, tokens] = row.children;
  setText(id.firstElementChild, one.id.length > 12 ? `...${one.id.slice(-8)}` : one.id);
  row.dataset.state = one.state;
  const todo = one.prompt_tokens + one.output_tokens;
  const done = Math.floor((100 * one.computed_tokens) / Math.max(todo, 1));
  const again = one.attempt > 1 ? `, attempt ${one.attempt}` : "";
  setText(state, (one.state === "prefill" ? `prefill ${done} %` : one.state) + again);
  const dot = where.firstElementChild;
  dot.hidden = one.instance === null;
  if (one.instance !== null) paintDot(dot, one.instance);
  setText(old, age(one.age_s));
  setText(tokens, `${count(one.prompt_tokens)} + ${count(one.output_tokens)}`);
}

function drawStrip(row, one, scale, width) {
  const cell = row.lastElementChild;
  const canvas = cell.querySelector("canvas");
  const owner = ([instance]) => (instance === one.instance ? 0 : 1);
  const parts = Object.entries(one.blocks)
    .map(([instance, blocks]) => [Number(instance), blocks])
    .sort((a, b) => owner(a) - owner(b) || a[0] - b[0])
    .map(([instance, blocks]) => ({ instance, count: blocks, fill: colourOf(instance) }));
  const said = parts.map((part) => `${count(part.count)} at ${part.instance}`).join(", ");
  canvas.edges = drawCells(canvas, parts, scale, width, HEIGHT);
  canvas.setAttribute("aria-label", said ? `rBlocks: ${said}` : "no rBlocks");
  setText(cell.querySelector(".share"), said);
}
