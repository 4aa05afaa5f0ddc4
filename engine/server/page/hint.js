// A small note beside the pointer; without a text it goes away.

import { byId, setText } from "./elements.js";

export function hint(event, text) {
  const note = byId("hint");
  note.hidden = !text;
  if (!text) return;
  setText(note, text);
  const right = event.clientX + note.offsetWidth + 16 > window.innerWidth;
  note.style.left = `${event.clientX + (right ? -note.offsetWidth - 12 : 12)}px`;
  note.style.top = `${event.clientY + 14}px`;
}
