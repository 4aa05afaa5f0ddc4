// Lines of the last minutes. The pointer, or the arrow keys, read values off them.

import { cssColour, el, paper } from "./elements.js";
import { clock, roundStep } from "./numbers.js";

const SPAN_S = 300;
const HEIGHT = 150;
const LEFT = 54;
const BOTTOM = 20;
const TOP = 10;
const RIGHT = 6;
const NAMED = 8; // instances told in the legend of a stack

export class Lines {
  // read(point) -> [{name, value, colour}] or null where there is nothing; tell(value) -> text.
  constructor(figure, { title, tell, read, stacked = false }) {
    Object.assign(this, { tell, read, stacked, points: [], now: 0, cursor: null });
    this.legend = el("p", { class: "legend" });
    this.canvas = el("canvas", { tabindex: "0", role: "img" });
    this.title = title;
    figure.append(el("figcaption", {}, el("h2", {}, title), this.legend), el("div", { class: "chart" }, this.canvas));
    this.canvas.addEventListener("pointermove", (event) => this.point(this.secondAt(event.offsetX)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Escape: null }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.point(step === null ? null : Math.min((this.cursor ?? this.now + 1) + step, this.now));
    });
  }

  show(points, now) {
    this.points = points.filter((point) => point.second > now - SPAN_S);
    this.now = now;
    this.draw();
  }

  point(second) {
    this.cursor = second;
    this.draw();
  }

  secondAt(x) {
    const share = (x - LEFT) / Math.max(this.width - LEFT - RIGHT, 1);
    return Math.round(this.now - SPAN_S * (1 - Math.min(Math.max(share, 0), 1)));
  }

  draw() {
    this.width = this.canvas.parentElement.clientWidth;
    const context = paper(this.canvas, this.width, HEIGHT);
    const rows = this.points.map((point) => ({ second: point.second, values: this.read(point) }));
    const tops = rows.flatMap(({ values }) => (values ? [this.topOf(values)] : []));
    const step = roundStep(Math.max(...tops, 0) || 1, 4);
    if (!tops.length) return this.drawNothing(context);
    const most = Math.max(Math.ceil(Math.max(...tops, 0) / step), 1) * step;
    const x = (second) => LEFT + ((second - this.now + SPAN_S) / SPAN_S) * (this.width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    this.drawGrid(context, step, most, x, y);
    if (this.stacked) this.drawStack(context, rows, x, y);
    else this.drawPlain(context, rows, x, y);
    const at = this.cursor === null ? rows.at(-1) : rows.findLast((row) => row.second <= this.cursor);
    if (this.cursor !== null && at) this.drawCursor(context, x(at.second));
    this.tellLegend(at);
  }

  drawNothing(context) {
    context.font = `13px ${getComputedStyle(document.body).fontFamily}`;
    context.fillStyle = cssColour("quiet");
    context.textAlign = "center";
    context.fillText("nothing in the last minutes", this.width / 2, HEIGHT / 2);
    this.tellLegend();
  }

  topOf(values) {
    const numbers = values.map((one) => one.value);
    return this.stacked ? numbers.reduce((sum, one) => sum + one, 0) : Math.max(...numbers);
  }

  drawGrid(context, step, most, x, y) {
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.fillStyle = cssColour("quiet");
    context.strokeStyle = cssColour("line");
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let value = 0; value <= most * 1.001; value += step) {
      context.fillText(value ? this.tell(value) : "0", LEFT - 8, y(value));
      rule(context, LEFT, Math.round(y(value)) + 0.5, this.width - RIGHT, Math.round(y(value)) + 0.5);
    }
    context.textBaseline = "alphabetic";
    const every = this.width < 420 ? 2 : 1;
    for (let minutes = 0; minutes <= SPAN_S / 60; minutes += every) {
      const text = minutes ? `${minutes} min` : "now";
      context.textAlign = minutes === SPAN_S / 60 ? "left" : minutes ? "center" : "right";
      context.fillText(minutes ? `-${text}` : text, x(this.now - 60 * minutes), HEIGHT - 4);
    }
  }

  drawPlain(context, rows, x, y) {
    for (const { name, colour, dash } of namesOf(rows)) {
      context.beginPath();
      let before = null;
      for (const { second, values } of rows) {
        const value = values?.find((one) => one.name === name)?.value;
        if (value === undefined) continue;
        if (before !== null && second - before <= 2) context.lineTo(x(second), y(value));
        else context.moveTo(x(second), y(value));
        before = second;
      }
      context.strokeStyle = colour;
      context.lineWidth = 1.75;
      context.lineJoin = "round";
      context.setLineDash(dash ?? []);
      context.stroke();
      context.setLineDash([]);
    }
  }

  // Each instance's area on top of those before it; the uppermost edge is the total.
  drawStack(context, rows, x, y) {
    const below = new Map(rows.map(({ second }) => [second, 0]));
    const inOrder = namesOf(rows).sort((a, b) => a.name - b.name);
    for (const { name, colour } of inOrder) {
      const lower = rows.map(({ second }) => [second, below.get(second)]);
      for (const { second, values } of rows) {
        const value = values?.find((one) => one.name === name)?.value ?? 0;
        below.set(second, below.get(second) + value);
      }
      context.beginPath();
      for (const { second } of rows) context.lineTo(x(second), y(below.get(second)));
      for (const [second, value] of lower.reverse()) context.lineTo(x(second), y(value));
      context.fillStyle = colour;
      context.fill();
    }
    context.beginPath();
    for (const { second } of rows) context.lineTo(x(second), y(below.get(second)));
    context.strokeStyle = cssColour("quiet");
    context.lineWidth = 1;
    context.stroke();
  }

  drawCursor(context, at) {
    context.strokeStyle = cssColour("quiet");
    rule(context, Math.round(at) + 0.5, TOP, Math.round(at) + 0.5, HEIGHT - BOTTOM);
  }

  tellLegend(row) {
    const values = row?.values ?? [];
    const total = values.reduce((sum, one) => sum + one.value, 0);
    const shown = this.stacked ? [{ name: "all", value: total }, ...values.slice(0, NAMED)] : values;
    const when = this.cursor === null || !row ? "" : clock(row.second);
    this.legend.replaceChildren(...(when ? [el("span", { class: "note" }, when)] : []), ...shown.map((one) => {
      const key = el("i", { class: "swatch" });
      key.style.background = one.colour ?? "none";
      key.hidden = !one.colour;
      return el("span", {}, key, `${one.name} `, el("b", {}, this.tell(one.value)));
    }));
    const said = shown.map((one) => `${one.name} ${this.tell(one.value)}`).join(", ");
    this.canvas.setAttribute("aria-label", `${this.title}${when ? ` at ${when}` : ""}: ${said || "nothing yet"}`);
  }
}

// What has a line anywhere, once each.
function namesOf(rows) {
  return [...new Map(rows.flatMap(({ values }) => (values ?? []).map((one) => [one.name, one]))).values()];
}

function rule(context, x1, y1, x2, y2) {
  context.beginPath();
  context.lineWidth = 1;
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
