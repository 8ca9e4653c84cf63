// @ts-check
/** LoRAs of the model: which of them the next prompt is made with, and how strongly. */

import { byId, make, setText } from "./dom.js";

/** That a prompt may have at once. */
const MAX_CHOSEN = 3;

export class Loras {
  constructor() {
    this.box = byId("lora-box");
    this.list = byId("loras");
    this.list.addEventListener("input", () => this.count());
    /** @type {{name: string, scale?: number}[]} Of the session, perhaps before the model's are known. */
    this.told = [];
  }

  /** What was chosen stays, where it is still there. @param {any[]} listed LoraInfo of the model */
  show(listed) {
    const before = this.list.children.length ? this.chosen : this.told;
    this.list.replaceChildren(...listed.map(row));
    this.set(before);
    this.box.hidden = !listed.length;
  }

  /** @returns {{name: string, scale: number}[]} LoraChoice */
  get chosen() {
    return [...this.list.children].flatMap((each) => {
      const [check, scale] = each.querySelectorAll("input");
      return check.checked ? [{ name: check.value, scale: Number(scale.value) }] : [];
    });
  }

  /** @param {{name: string, scale?: number}[]} choices LoraChoice; an unset scale is 1 */
  set(choices) {
    this.told = choices;
    for (const each of this.list.children) {
      const [check, scale] = each.querySelectorAll("input");
      const choice = choices.find(({ name }) => name === check.value);
      check.checked = Boolean(choice);
      if (choice) scale.value = String(choice.scale ?? 1);
    }
    this.count();
  }

  /** For SessionSpec: empty where there is nothing to choose. */
  get wish() {
    return this.box.hidden ? {} : { loras: this.chosen };
  }

  /** For PromptSwitch: what is not chosen ends with it. */
  get change() {
    return this.box.hidden ? {} : { loras: { loras: this.chosen } };
  }

  count() {
    const number = this.chosen.length;
    setText(byId("lora-count"), number ? ` (${number})` : "");
    for (const check of this.list.querySelectorAll("input[type=checkbox]"))
      check.disabled = number >= MAX_CHOSEN && !check.checked;
  }
}

/** @param {any} lora LoraInfo */
function row(lora) {
  const { name, licence } = lora;
  const use = lora.commercialUse ? "" : " · not for commercial use";
  const scale = { type: "number", min: -4, max: 4, step: 0.1, value: 1, "aria-label": `Scale of ${name}` };
  const label = make("label", {}, make("input", { type: "checkbox", value: name }), ` ${name}`);
  return make("div", { class: "lora" }, label, make("input", scale), make("small", {}, licence + use));
}
