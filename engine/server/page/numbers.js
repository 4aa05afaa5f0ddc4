// Numbers as people read them, with their units.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (number) => whole.format(number);

// 3 digits: 1,234 / 56.7 / 0.12
export const figure = (number) => (number >= 100 ? whole : short).format(number);

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// [number, unit] of a duration
export function duration(seconds) {
  if (seconds < 1) return [figure(seconds * 1000), "ms"];
  if (seconds < 600) return [short.format(seconds), "s"];
  if (seconds < 7200) return [whole.format(Math.floor(seconds / 60)), "min"];
  return [short.format(seconds / 3600), "h"];
}

export const age = (seconds) => (seconds < 1 ? "< 1 s" : duration(Math.floor(seconds)).join(" "));

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

// The smallest of 1, 2, 5, 10, 20, ... (and tenths of them) that fits into a range at most so often.
export function roundStep(range, most) {
  const rough = Math.max(range, 1e-9) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
}
