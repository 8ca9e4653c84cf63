// @ts-check
/** The prompt box: what is typed, what the model suggests, what was asked before. */

import { byId, make, setText } from "./dom.js";
import { longMemory } from "./memory.js";

const HISTORY = "history";
const MAX_HISTORY = 50;
const SHOWN_HISTORY = 8;
const MAX_CHARACTERS = 32768;

/** @param {string} text @returns {string} what the contract forbids about it, said before it is sent; empty: nothing */
export function faultOf(text) {
  if (!text.trim()) return "must have a character that is not a space";
  return [...text].length > MAX_CHARACTERS ? `must be at most ${MAX_CHARACTERS} characters` : "";
}

export class Prompts {
  /** @param {(text: string) => void} send */
  constructor(send) {
    this.send = send;
    this.box = byId("prompt");
    this.history = byId("history");
    this.suggestions = byId("suggestions");
    this.isTouched = false;
    byId("send").addEventListener("click", () => this.submit());
    this.box.addEventListener("input", () => (this.isTouched = true));
    this.box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.press(event));
    this.suggestions.addEventListener("scroll", () => this.hintScroll());
    addEventListener("resize", () => this.hintScroll());
    this.drawHistory();
  }

  /** The last suggestion in sight fades where more follow. */
  hintScroll() {
    const { scrollWidth, scrollLeft, clientWidth, classList } = this.suggestions;
    classList.toggle("more", scrollWidth - scrollLeft - clientWidth > 4);
  }

  /** @param {KeyboardEvent} event Shift+Enter breaks the line; Enter while an input method composes is its own. */
  press(event) {
    const isComposing = event.isComposing || event.keyCode === 229; // The latter in Safari, as composing ends.
    if (event.key !== "Enter" || event.shiftKey || isComposing) return;
    event.preventDefault();
    this.submit();
  }

  submit() {
    this.send(this.box.value);
  }

  /** @param {string[]} texts of the model */
  suggest(texts) {
    const buttons = texts.map((text) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => this.choose(text));
      return button;
    });
    this.suggestions.replaceChildren(...buttons);
    this.suggestions.parentElement.hidden = texts.length === 0;
    this.hintScroll();
    if (!this.isTouched && !this.box.value && texts.length) this.box.value = texts[0];
  }

  /** @param {string} text One click is all it takes. */
  choose(text) {
    this.box.value = text;
    this.isTouched = true;
    this.submit();
  }

  /** @param {string} text that was taken */
  remember(text) {
    const known = this.read().filter((each) => each !== text);
    longMemory.set(HISTORY, [text, ...known].slice(0, MAX_HISTORY));
    this.drawHistory();
  }

  /** @returns {string[]} newest first */
  read() {
    const found = longMemory.get(HISTORY);
    return Array.isArray(found) ? found.filter((each) => typeof each === "string") : [];
  }

  drawHistory() {
    const texts = this.read();
    const buttons = texts.map((text) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => this.recall(text));
      return button;
    });
    this.history.replaceChildren(...buttons);
    byId("history-box").hidden = texts.length === 0;
    byId("history-box").open ||= false;
    setText(byId("history-count"), texts.length > SHOWN_HISTORY ? ` (${texts.length})` : "");
  }

  /** @param {string} text To be changed before it is sent. */
  recall(text) {
    this.box.value = text;
    this.isTouched = true;
    this.box.focus();
  }
}
