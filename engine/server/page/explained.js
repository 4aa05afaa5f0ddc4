// The life of one request, asked for when its id is pressed: what befell it, and when.

import { byId, el } from "./elements.js";
import { paintDot } from "./colours.js";
import { count, duration, plural } from "./numbers.js";

// ask(path) -> Promise of an answer, as Feed has it.
export async function explain(id, ask) {
  const dialog = byId("explained");
  dialog.querySelector("h2").textContent = id;
  show(el("p", { class: "note" }, "asking its instance ..."));
  dialog.showModal();
  try {
    const answer = await ask(`cluster/requests/${encodeURIComponent(id)}`);
    const life = await answer.json();
    show(el("p", {}, summary(life)), ...life.attempts.map(attempt));
  } catch {
    show(el("p", { class: "note" }, "The gateway knows no more of this request."));
  }
}

const show = (...children) => byId("life").replaceChildren(...children);

const time = (seconds) => duration(seconds).join(" ");

function summary(life) {
  const parts = [
    `${life.finish_reason ? `ended by ${life.finish_reason}` : life.state} after ${time(life.age_s)}`,
    `${plural(life.prompt_tokens, "prompt token")}, ${count(life.output_tokens)} of at most ${count(life.max_tokens)} answered`,
  ];
  if (life.ttft_s !== null) parts.push(`first token after ${time(life.ttft_s)}`);
  if (life.tpot_s !== null) parts.push(`then one every ${time(life.tpot_s)}`);
  return `${life.error ?? parts.join("; ")}.`;
}

function attempt(one) {
  const head = ["at", "until", "what", "instance", "amount", "times"].map((name) => el("th", { scope: "col" }, name));
  const told = one.is_known ? one.moments.map(moment) : [el("tr", {}, el("td", { colspan: "6" }, "not told yet"))];
  const title = el("h3", {}, `Attempt ${one.number} `, dotOf(one.instance));
  return el("section", {}, title, el("div", { class: "scroll" },
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...told))));
}

function moment({ what, at_s, until_s, instance, amount, times }) {
  const cells = [time(at_s), until_s > at_s ? time(until_s) : "", what,
    instance === null ? "" : dotOf(instance), amount ? count(amount) : "", times > 1 ? count(times) : ""];
  return el("tr", {}, ...cells.map((cell) => el("td", {}, cell)));
}

function dotOf(instance) {
  const dot = el("b", { class: "dot" });
  paintDot(dot, instance);
  return dot;
}
