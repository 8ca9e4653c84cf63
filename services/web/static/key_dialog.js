// @ts-check
/** Asks for the API key or token that the gateway wants. It lives in this tab alone, and only JSON calls carry it. */

import { byId, make, setText } from "./dom.js";
import { memory } from "./memory.js";

const NAME = "key";

/** @returns {HTMLDialogElement} */
function makeDialog() {
  return make(
    "dialog",
    { id: "key-dialog", "aria-labelledby": "key-title" },
    make(
      "form",
      { id: "key-form" },
      make("h2", { id: "key-title" }, "API key or token"),
      make("p", { id: "key-why" }, "This service asks who you are."),
      make("label", { for: "key" }, "Key"),
      make("input", {
        id: "key",
        type: "password",
        autocomplete: "off",
        spellcheck: "false",
        required: true,
      }),
      make("p", { class: "note" }, "It stays in this tab and goes to this service only."),
      make(
        "div",
        { class: "buttons" },
        make("button", { type: "submit", class: "main" }, "Continue"),
        make("button", { type: "button", id: "key-cancel" }, "Cancel"),
      ),
    ),
  );
}

export class KeyDialog {
  constructor() {
    this.dialog = makeDialog();
    document.body.append(this.dialog);
    this.input = byId("key");
    /** @type {((given: boolean) => void)[]} */
    this.waiting = [];
    byId("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.take();
    });
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.finish(false));
  }

  get() {
    return memory.get(NAME) ?? "";
  }

  /** @param {string} why what the gateway said @returns {Promise<boolean>} whether one was given */
  ask(why) {
    setText(
      byId("key-why"),
      this.get() ? `That key was not taken: ${why}` : "This service asks who you are.",
    );
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  take() {
    const key = this.input.value.trim().replace(/^Bearer\s+/i, "");
    if (!/^[\x21-\x7e]+$/.test(key)) return this.input.focus();
    memory.set(NAME, key);
    this.input.value = "";
    this.finish(true);
    this.dialog.close();
  }

  /** @param {boolean} given */
  finish(given) {
    for (const resolve of this.waiting.splice(0)) resolve(given);
  }
}
