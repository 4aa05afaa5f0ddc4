// Who owes whom how many rBlocks: arrows from debtors to creditors, and the same in words.

import { byId, el, keepRows, setText } from "./elements.js";
import { colourOf, inkOn, paintDot } from "./colours.js";
import { count, plural } from "./numbers.js";
import { hint } from "./hint.js";

const RADIUS = 130;
const NAMED = 6; // debts told in words
const LABELS = 12; // above, arrows carry no number

// [{debtor, creditor, blocks}], the largest first. The creditor's account is the one that counts.
export function debtsOf(cluster) {
  return cluster.ledger.loans
    .map(({ debtor, creditor, lent }) => ({ debtor, creditor, blocks: lent }))
    .filter((debt) => debt.blocks)
    .sort((a, b) => b.blocks - a.blocks || a.debtor - b.debtor || a.creditor - b.creditor);
}

export function drawDebts(instances, debts) {
  const graph = byId("graph");
  const places = placesOf(instances);
  const most = debts[0]?.blocks ?? 1;
  const radius = nodeRadius(instances.length);
  const arrows = debts
    .filter((debt) => places.has(debt.debtor) && places.has(debt.creditor))
    .map((debt) => arrow(debt, places, radius, most, debts.length <= LABELS));
  const nodes = instances.map((one) => node(one, places.get(one.id), radius));
  graph.toggleAttribute("hidden", !instances.length);
  graph.setAttribute("viewBox", frameOf([...places.values()], radius + 3));
  graph.replaceChildren(...arrows.flatMap(([line]) => line), ...nodes, ...arrows.flatMap(([, label]) => label));
  graph.setAttribute("aria-label", debts.length ? `${plural(debts.length, "debt")} between instances` : "no debts");
  const total = debts.reduce((sum, debt) => sum + debt.blocks, 0);
  const rest = debts.slice(NAMED).reduce((sum, debt) => sum + debt.blocks, 0);
  const words = debts.slice(0, NAMED).map((debt) => ({ key: `${debt.debtor}>${debt.creditor}`, ...debt }));
  if (rest) words.push({ key: "rest", text: `${debts.length - NAMED} smaller debts: ${plural(rest, "rBlock")}` });
  if (!total) words.push({ key: "none", text: "Nobody owes anybody. An instance borrows when its own pool is too small." });
  keepRows(byId("owed"), words, (one) => one.key, makeWords, fillWords);
}

function placesOf(instances) {
  const start = [0, 0, -Math.PI, -Math.PI / 2, (-3 * Math.PI) / 4][instances.length] ?? -Math.PI / 2;
  return new Map(instances.map((one, index) => {
    const turn = start + (2 * Math.PI * index) / instances.length;
    return [one.id, { x: RADIUS * Math.cos(turn), y: RADIUS * Math.sin(turn) }];
  }));
}

function frameOf(places, margin) {
  const range = (numbers) => [Math.min(...numbers, -RADIUS / 2) - margin, Math.max(...numbers, RADIUS / 2) + margin];
  const [[left, right], [top, bottom]] = [range(places.map(({ x }) => x)), range(places.map(({ y }) => y))];
  return `${left} ${top} ${right - left} ${bottom - top}`;
}

const nodeRadius = (number) => Math.max(Math.min(24, 300 / number), 9);

// The instance's number in its colour; the ring is the part of its pool that is taken.
function node(one, { x, y }, radius) {
  const taken = one.blocks ? (one.used + one.lent) / one.blocks : 0;
  const around = 2 * Math.PI * (radius - 1.5);
  const group = el("svg:g", { transform: `translate(${x} ${y})`, class: one.ready ? "node" : "node away" });
  const disc = el("svg:circle", { r: radius - 5, fill: colourOf(one.id) });
  const ring = el("svg:circle", { r: radius - 1.5, class: "track" });
  const arc = el("svg:circle", {
    r: radius - 1.5, class: "taken", stroke: colourOf(one.id), transform: "rotate(-90)",
    "stroke-dasharray": `${around * Math.min(taken, 1)} ${around}`,
  });
  const label = el("svg:text", { "font-size": Math.max(radius * 0.62, 8), fill: inkOn(one.id) }, String(one.id));
  group.append(ring, arc, disc, label);
  group.addEventListener("pointermove", (event) =>
    hint(event, `instance ${one.id}: ${Math.round(100 * taken)} % of ${plural(one.blocks, "rBlock")} taken`));
  group.addEventListener("pointerleave", () => hint());
  return group;
}

function arrow(debt, places, radius, most, labelled) {
  const [from, to] = [places.get(debt.debtor), places.get(debt.creditor)];
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const [ux, uy] = [dx / length, dy / length];
  const bend = Math.min(length * 0.16, 34);
  const bow = { x: (from.x + to.x) / 2 - uy * bend, y: (from.y + to.y) / 2 + ux * bend };
  const width = 1.5 + 6 * (debt.blocks / most);
  const head = 5 + width;
  const begin = toward(from, bow, radius + 2);
  const tip = toward(to, bow, radius + 3);
  const neck = toward(tip, bow, head);
  const [hx, hy] = [(tip.x - neck.x) / head, (tip.y - neck.y) / head];
  const half = head * 0.62;
  const line = el("svg:path", {
    d: `M${begin.x} ${begin.y}Q${bow.x} ${bow.y} ${neck.x} ${neck.y}`, class: "debt",
    stroke: colourOf(debt.debtor), "stroke-width": width,
  });
  const point = el("svg:path", {
    d: `M${tip.x} ${tip.y}L${neck.x - hy * half} ${neck.y + hx * half}L${neck.x + hy * half} ${neck.y - hx * half}Z`,
    fill: colourOf(debt.debtor),
  });
  line.addEventListener("pointermove", (event) => hint(event, sentence(debt)));
  line.addEventListener("pointerleave", () => hint());
  const middle = { x: (from.x + 2 * bow.x + to.x) / 4, y: (from.y + 2 * bow.y + to.y) / 4 };
  const label = el("svg:text", { x: middle.x, y: middle.y, class: "blocks" }, count(debt.blocks));
  return [[line, point], labelled ? [label] : []];
}

function toward(from, to, distance) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  return { x: from.x + ((to.x - from.x) * distance) / length, y: from.y + ((to.y - from.y) * distance) / length };
}

const sentence = (debt) => `instance ${debt.debtor} owes instance ${debt.creditor} ${plural(debt.blocks, "rBlock")}`;

function makeWords(one) {
  if (one.text) return el("li", { class: "note" });
  const dot = () => el("b", { class: "dot" });
  return el("li", {}, dot(), " owes ", dot(), el("span", { class: "number" }));
}

function fillWords(row, one) {
  if (one.text) return setText(row, one.text);
  const [debtor, creditor] = row.querySelectorAll(".dot");
  paintDot(debtor, one.debtor);
  paintDot(creditor, one.creditor);
  setText(row.querySelector(".number"), plural(one.blocks, "rBlock"));
}
