// @ts-check
/** Keys: Space pauses, `f` fills the screen, `/` goes to the prompt, `?` tells them. Fields and buttons keep the keys
 * that are theirs, and whoever speaks or types by accident can switch all of them off. */

import { byId } from "./dom.js";
import { longMemory } from "./memory.js";

const FIELDS = "input, textarea, select, dialog";
const PRESSED_BY_SPACE = `${FIELDS}, button, a, summary`;
const ARE_OFF = "shortcuts_off";

/** @param {{pause(): void, prompt(): void, fullScreen(): void}} actions */
export function listen(actions) {
  const help = byId("help");
  const choice = byId("shortcuts");
  choice.checked = !longMemory.get(ARE_OFF);
  choice.addEventListener("change", () => longMemory.set(ARE_OFF, choice.checked ? null : true));
  byId("help-button").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());
  addEventListener("keydown", (event) => {
    const target = /** @type {Element} */ (event.target);
    const theirs = event.key === " " ? PRESSED_BY_SPACE : FIELDS;
    if (!choice.checked || event.ctrlKey || event.metaKey || event.altKey || target.closest?.(theirs)) return;
    const { pause, prompt, fullScreen } = actions;
    const action = { " ": pause, "/": prompt, f: fullScreen, "?": () => help.showModal() }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
