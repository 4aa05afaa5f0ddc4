// Bars of rBlocks: cells that fill columns from top to bottom, columns from left to right.
// Large pools are drawn with several blocks to a cell; a part that is there always has a cell.

import { paper } from "./elements.js";

const GAP = 1;
const NARROWEST = [9, 9, 6]; // pixels of a cell, in bars of 1, 2 and 3 rows
const WIDEST = 26;

// How to draw bars of up to `most` blocks on `width` pixels: {blocks to a cell, rows, pitch}.
export function scaleOf(most, width, rows = NARROWEST.length) {
  for (let few = 1; few <= rows; few++) {
    const pitch = Math.min(width / Math.ceil(Math.max(most, 1) / few), WIDEST);
    if (pitch >= NARROWEST[few - 1]) return { unit: 1, rows: few, pitch };
  }
  const columns = Math.max(Math.floor(width / NARROWEST[rows - 1]), 1);
  return { unit: Math.ceil(most / (rows * columns)), rows, pitch: width / columns };
}

// Cells for each part, their sum what the whole needs.
export function share(counts, unit) {
  if (unit === 1) return counts;
  const total = counts.reduce((sum, one) => sum + one, 0);
  const cells = counts.map((one) => (one ? Math.max(Math.round(one / unit), 1) : 0));
  let left = Math.ceil(total / unit) - cells.reduce((sum, one) => sum + one, 0);
  while (left) {
    const step = Math.sign(left);
    const fit = (index) => step * (counts[index] / unit - cells[index]);
    const able = cells.map((_, index) => index).filter((i) => counts[i] && cells[i] + step > 0);
    if (!able.length) break;
    cells[able.reduce((best, i) => (fit(i) > fit(best) ? i : best))] += step;
    left -= step;
  }
  return cells;
}

// parts: [{count, fill?, line?}] in order. Returns where each lies: [{part, cells, from, to}] pixels.
export function drawCells(canvas, parts, scale, width, height) {
  const context = paper(canvas, width, height);
  const cells = share(parts.map((part) => part.count), scale.unit);
  const edges = [];
  let at = 0;
  for (const [index, part] of parts.entries()) {
    const first = at;
    for (; at < first + cells[index]; at++) drawCell(context, part, scale, at, height);
    const column = (cell) => Math.floor(cell / scale.rows) * scale.pitch;
    if (at > first) edges.push({ part, cells: at - first, from: column(first), to: column(at - 1) + scale.pitch });
  }
  return edges;
}

function drawCell(context, part, scale, at, height) {
  const column = Math.floor(at / scale.rows);
  const row = at % scale.rows;
  const left = Math.round(column * scale.pitch);
  const wide = Math.round((column + 1) * scale.pitch) - left - GAP;
  const top = Math.round((row * height) / scale.rows);
  const high = Math.round(((row + 1) * height) / scale.rows) - top - (row + 1 < scale.rows ? GAP : 0);
  if (wide < 1 || high < 1) return;
  const round = Math.min(2.5, wide / 3, high / 3);
  context.beginPath();
  if (part.fill) {
    context.fillStyle = part.fill;
    context.roundRect(left, top, wide, high, round);
    context.fill();
  }
  if (part.line) {
    context.beginPath();
    context.strokeStyle = part.line;
    context.lineWidth = 1;
    context.roundRect(left + 0.5, top + 0.5, wide - 1, high - 1, round);
    context.stroke();
  }
}
