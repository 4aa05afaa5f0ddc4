// Each instance's pool as cells, coloured by who uses them, and what it borrows elsewhere.

import { byId, cssColour, el, keepRows, setText } from "./elements.js";
import { drawCells, scaleOf } from "./cells.js";
import { colourOf, paintDot } from "./colours.js";
import { count, plural } from "./numbers.js";
import { hint } from "./hint.js";

const CROWD = 9; // from so many instances on, rows are narrow

// What the pool's cells are, in the order in which they are drawn.
export function partsOf(one) {
  const lent = Object.entries(one.lent_to).map(([debtor, blocks]) => [Number(debtor), blocks]);
  const named = lent.reduce((sum, [, blocks]) => sum + blocks, 0);
  const rest = Math.max(one.blocks - one.used - Math.max(one.lent, named), 0);
  const empty = Math.min(one.empty, rest); // what is neither is kept for its content
  return [
    { count: one.used, name: "used by its own requests", short: "own", instance: one.id, fill: colourOf(one.id) },
    ...lent.map(([debtor, blocks]) => ({
      count: blocks, name: `lent to instance ${debtor}`, short: `lent to ${debtor}`,
      instance: debtor, fill: colourOf(debtor),
    })),
    { count: Math.max(one.lent - named, 0), name: "lent, on their way", short: "lent", fill: cssColour("faint") },
    { count: rest - empty, name: "cached: kept for their content", short: "cached", instance: one.id,
      fill: colourOf(one.id, 0.28) },
    { count: empty, name: "empty", short: "empty", line: cssColour("line") },
  ];
}

export function borrowedOf(one) {
  return Object.entries(one.borrowed_from).map(([holder, blocks]) => ({
    count: blocks, name: `borrowed from instance ${holder}`, short: `at ${holder}`,
    instance: Number(holder), line: colourOf(Number(holder)), fill: colourOf(Number(holder), 0.22),
  }));
}

export function stateOf(one) {
  if (one.gone) return "gone";
  if (one.draining) return "leaving";
  return one.ready ? "ready" : "starting";
}

export function drawMemory(instances, rates) {
  const list = byId("pools");
  document.body.classList.toggle("crowd", instances.length >= CROWD);
  keepRows(list, instances, (one) => one.id, makePool, () => {});
  if (!instances.length) return setText(byId("unit"), "no pool was heard of yet");
  const width = list.querySelector(".bar").clientWidth;
  const scale = scaleOf(Math.max(...instances.map((one) => one.blocks), 1), width);
  setText(byId("unit"), `1 cell: ${plural(scale.unit, "rBlock")}`);
  for (const [index, one] of instances.entries()) fillPool(list.children[index], one, scale, rates);
}

const borrowedCount = (one) => Object.values(one.borrowed_from).reduce((sum, blocks) => sum + blocks, 0);

function makePool(one) {
  const bar = (kind) => {
    const canvas = el("canvas", { role: "img", class: kind });
    canvas.addEventListener("pointermove", (event) => {
      const edge = canvas.edges?.find(({ from, to }) => event.offsetX >= from && event.offsetX < to);
      hint(event, edge && `${plural(edge.part.count, "rBlock")} ${edge.part.name}`);
    });
    canvas.addEventListener("pointerleave", () => hint());
    return el("div", { class: "bar" }, canvas);
  };
  return el("li", {},
    el("p", { class: "who" }, el("b", { class: "dot" }), el("span", { class: "name" }, `instance ${one.id}`),
      el("span", { class: "state" }), el("span", { class: "rate" })),
    bar("pool"), el("p", { class: "counts" }),
    el("div", { class: "borrowed" }, el("p", { class: "counts" }), bar("elsewhere")));
}

function fillPool(row, one, scale, rates) {
  const state = stateOf(one);
  row.dataset.state = state;
  paintDot(row.querySelector(".dot"), one.id);
  setText(row.querySelector(".state"), state === "ready" ? "" : state === "gone" ? `gone since ${one.gone}` : state);
  const rate = rates.get(one.id);
  setText(row.querySelector(".rate"), rate === undefined ? "" : `${count(rate)} tokens/s`);
  const [inPool, elsewhere] = row.querySelectorAll(".counts");
  fillBar(row.querySelector(".pool"), partsOf(one), scale, `The pool of instance ${one.id}, ${plural(one.blocks, "rBlock")}: `);
  fillCounts(inPool, partsOf(one), `${count(one.blocks)} rBlocks`);
  const borrowed = borrowedOf(one);
  row.querySelector(".borrowed").hidden = !borrowed.length;
  fillCounts(elsewhere, borrowed, `+ ${count(borrowedCount(one))} borrowed`);
  const canvas = row.querySelector(".elsewhere");
  const own = scaleOf(borrowedCount(one), canvas.parentElement.clientWidth, 1);
  fillBar(canvas, borrowed, { ...own, pitch: Math.min(own.pitch, scale.pitch) }, `Instance ${one.id} borrows: `);
}

function fillBar(canvas, parts, scale, about) {
  const height = canvas.classList.contains("pool") ? 26 : 14;
  canvas.edges = drawCells(canvas, parts, scale, canvas.parentElement.clientWidth, height);
  const said = parts.filter((part) => part.count).map((part) => `${count(part.count)} ${part.name}`);
  canvas.setAttribute("aria-label", about + said.join(", "));
}

function fillCounts(paragraph, parts, first) {
  const shown = [{ short: first, key: "all" }, ...parts.filter((part) => part.count)];
  keepRows(paragraph, shown, (part) => part.key ?? part.short, makeCount, (item, part) => {
    setText(item.lastElementChild, part.key ? part.short : `${count(part.count)} ${part.short}`);
    const swatch = item.firstElementChild;
    swatch.hidden = Boolean(part.key);
    swatch.style.background = part.fill ?? "";
    swatch.style.borderColor = part.line ?? "transparent";
  });
}

const makeCount = () => el("span", {}, el("i", { class: "swatch" }), el("span"));
