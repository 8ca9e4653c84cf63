// @ts-check
/** Keys: Space pauses, `/` goes to the prompt, `?` tells them. Fields and buttons keep the keys that are theirs. */

import { byId } from "./dom.js";

const FIELDS = "input, textarea, select, dialog";
const PRESSED_BY_SPACE = `${FIELDS}, button, a, summary`;

/** @param {{pause(): void, prompt(): void}} actions */
export function listen(actions) {
  const help = byId("help");
  byId("help-button").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());
  addEventListener("keydown", (event) => {
    const target = /** @type {Element} */ (event.target);
    const theirs = event.key === " " ? PRESSED_BY_SPACE : FIELDS;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.(theirs)) return;
    const action = { " ": actions.pause, "/": actions.prompt, "?": () => help.showModal() }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
