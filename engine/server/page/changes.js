// What changed between two pictures: instances that came, went, began anew, or were told to leave.

import { byId, el, keepRows } from "./elements.js";
import { clock } from "./numbers.js";

const KEPT = 8;
const GRACE_S = 3; // a gateway that has just begun has not heard of all yet
const FORGET_S = 60;
const changes = [];

// `shown`: the instances of the picture before, `heard`: those of this one. Returns those that are
// missing, to be shown as they were for a moment, then as gone, and then no more.
export function noteChanges(shown, heard, now) {
  const before = new Map(shown.map((one) => [one.id, one]));
  const here = new Set(heard.map((one) => one.id));
  const news = new Map();
  const note = (one, what) => news.set(what, [...(news.get(what) ?? []), one.id]);
  for (const one of heard) {
    const was = before.get(one.id);
    if (!was) note(one, "joined");
    else if (was.gone) note(one, "back");
    else if (was.epoch !== one.epoch) note(one, "began anew with an empty pool");
    else if (was.ready && !one.ready) note(one, "does not serve");
    else if (!was.ready && one.ready) note(one, "serves");
    if (was && !was.draining && one.draining) note(one, "was told to leave");
  }
  const missing = shown
    .filter((one) => !here.has(one.id))
    .map((one) => ({ ...one, missingSince: one.missingSince ?? now }))
    .map((one) => {
      if (one.gone || now - one.missingSince < GRACE_S) return one;
      note(one, one.draining ? "left" : "not heard of");
      return { ...one, ready: false, gone: clock(one.missingSince) };
    });
  for (const [what, ids] of news) noteChange(now, `instance${ids.length > 1 ? "s" : ""} ${ids.join(", ")}: ${what}`);
  return missing.filter((one) => now - one.missingSince < FORGET_S);
}

export function noteChange(now, text) {
  changes.unshift({ key: `${now} ${text}`, now, text });
  changes.length = Math.min(changes.length, KEPT);
  keepRows(byId("change-rows"), changes, (one) => one.key, makeRow, () => {});
  byId("changes").hidden = false;
}

const makeRow = (one) => el("li", {}, el("time", {}, clock(one.now)), one.text);
