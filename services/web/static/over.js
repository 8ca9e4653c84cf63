// @ts-check
/** Over how many blocks the next prompt takes over: a slider, which says it in seconds where these are known. */

import { byId, setText } from "./dom.js";

export class Over {
  blockS = 0;

  constructor() {
    this.input = byId("over");
    this.input.addEventListener("input", () => this.show());
    this.show();
  }

  /** @param {any} session as the gateway describes it */
  learn({ spec = {}, blockFrames = 0 }) {
    this.blockS = spec.fps && blockFrames ? (4 * blockFrames) / spec.fps : this.blockS;
    this.show();
  }

  /** @returns {{numBlocks: number} | undefined} Transition as JSON; undefined: at once */
  get transition() {
    const numBlocks = Number(this.input.value);
    return numBlocks ? { numBlocks } : undefined;
  }

  show() {
    const numBlocks = Number(this.input.value);
    const blocks = numBlocks === 1 ? "1 block" : `${numBlocks} blocks`;
    const time = this.blockS ? ` (${(numBlocks * this.blockS).toFixed(1)} s)` : "";
    const text = numBlocks ? `${blocks}${time}` : "at once";
    setText(byId("over-text"), text);
    this.input.setAttribute("aria-valuetext", text);
  }
}
