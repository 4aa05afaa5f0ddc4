// The colour of an instance, the same wherever it appears. Its number always stands beside it.

import { setText } from "./elements.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

// Hues that most eyes tell apart come first; then those between them, lighter or darker.
const HUES = [258, 52, 155, 350, 205, 95, 305, 25];
const TIERS = [
  { onLight: 0.53, onDark: 0.7, chroma: 0.145, turn: 0 },
  { onLight: 0.74, onDark: 0.84, chroma: 0.11, turn: 22 },
  { onLight: 0.42, onDark: 0.54, chroma: 0.1, turn: 0 },
  { onLight: 0.66, onDark: 0.64, chroma: 0.06, turn: 11 },
];

function shadeOf(instance) {
  const tier = TIERS[Math.floor(instance / HUES.length) % TIERS.length];
  return { light: DARK.matches ? tier.onDark : tier.onLight, chroma: tier.chroma, hue: HUES[instance % HUES.length] + tier.turn };
}

export function colourOf(instance, alpha = 1) {
  const { light, chroma, hue } = shadeOf(instance);
  return `oklch(${light} ${chroma} ${hue} / ${alpha})`;
}

// What is read on that colour.
export const inkOn = (instance) => (shadeOf(instance).light > 0.62 ? "#101216" : "#ffffff");

// An instance's number on its colour.
export function paintDot(dot, instance) {
  setText(dot, String(instance));
  dot.style.background = colourOf(instance);
  dot.style.color = inkOn(instance);
}

export const onScheme = (redraw) => DARK.addEventListener("change", redraw);
