// Elements of the page: made, filled and kept. Text is always text, never markup.

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

// el("p", {class: "note"}, "text", child, ...); names of SVG with the prefix "svg:".
export function el(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Writes only what differs, so that selections, focus and screen readers are left in peace.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// One child for each item, kept while its key stays, in the items' order. Of items with the same
// key one child is kept.
export function keepRows(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  const rows = new Set();
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let row = old.get(key);
    if (row) old.delete(key);
    else {
      row = make(item);
      row.dataset.key = key;
    }
    if (row === before) before = before.nextElementSibling;
    else parent.insertBefore(row, before);
    rows.add(row);
    update(row, item);
  }
  for (const row of [...parent.children]) if (!rows.has(row)) row.remove();
}

// A canvas as large as its place in the page, sharp on every screen. Returns its 2D context.
export function paper(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const wide = Math.round(width * ratio);
  const high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
