// The few numbers that say how the cluster is.

import { byId, el, keepRows, setText } from "./elements.js";
import { count, duration, figure, plural } from "./numbers.js";

const sum = (items, of) => items.reduce((total, one) => total + of(one), 0);

// [{name, number, unit, note}]
export function figuresOf(cluster, history) {
  const { instances, requests, ledger } = cluster;
  const blocks = sum(instances, (one) => one.blocks);
  const taken = sum(instances, (one) => one.used + one.lent);
  const waiting = requests.filter((one) => one.state === "waiting").length;
  const output = cluster.rates.output_tokens_per_s;
  const [first, between] = ["ttft_s", "gap_s"].map((name) => history.at(-1)?.[name]);
  const debts = ledger.loans.filter((one) => one.lent).length;
  return [
    { name: "Output", number: figure(output), unit: "tokens/s", note: "over the last 10 s" },
    { name: "Requests", number: count(requests.length), unit: "under way",
      note: waiting ? `${count(waiting)} of them wait` : "none waits" },
    { name: "Memory", number: blocks ? figure(Math.floor((1000 * taken) / blocks) / 10) : "-", unit: blocks ? "% taken" : "",
      note: `${count(taken)} of ${plural(blocks, "rBlock")}` },
    { name: "Lent", number: count(ledger.lent), unit: ledger.lent === 1 ? "rBlock" : "rBlocks",
      note: debts ? `in ${plural(debts, "debt")}` : "no debts" },
    latency("First token", first),
    latency("Between tokens", between),
  ];
}

function latency(name, quantiles) {
  if (!quantiles) return { name, number: "-", unit: "", note: "nothing lately" };
  const [number, unit] = duration(quantiles[0]);
  return { name, number, unit: `${unit} median`, note: `99 %: ${duration(quantiles[1]).join(" ")}` };
}

export function drawFigures(cluster, history) {
  keepRows(byId("figures"), figuresOf(cluster, history), (one) => one.name, makeFigure, (item, one) => {
    const [number, unit] = item.querySelector(".value").children;
    setText(number, one.number);
    setText(unit, one.unit);
    setText(item.lastElementChild, one.note);
  });
}

const makeFigure = (one) => el("div", {},
  el("dt", {}, one.name),
  el("dd", { class: "value" }, el("b"), el("span")),
  el("dd", { class: "note" }));
