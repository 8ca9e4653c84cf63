// @ts-check
/** What happened, newest last, as a log that screen readers announce. */

import { make } from "./dom.js";
import { clock, readable, seconds, word } from "./times.js";

const MAX_NOTICES = 40;

/** @type {Record<string, string>} */
const MEANING = {
  unaffected: "the pictures are those that would have come anyway",
  rebuilt: "the scene goes on, details may differ",
  restarted: "the scene begins afresh",
};

export class Notices {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
  }

  clear() {
    this.element.replaceChildren();
  }

  /** @param {string} kind for style and tests @param {string} text @param {number} time seconds of the session
   * @param {Record<string, string>} [data] */
  add(kind, text, time, data = {}) {
    const marks = Object.fromEntries(Object.entries(data).map(([name, value]) => [`data-${name}`, value]));
    const line = make(
      "p",
      { "data-kind": kind, ...marks },
      make("time", {}, clock(time)),
      make("span", {}, text),
    );
    this.element.append(line);
    while (this.element.childElementCount > MAX_NOTICES) this.element.firstElementChild?.remove();
    this.element.scrollTop = this.element.scrollHeight;
  }

  /** @param {any} content RecoveryStarted @param {number} time */
  recoveryStarted(content, time) {
    const cause = word(content.cause, "RECOVERY_CAUSE_");
    const lost = `Lost: ${cause.replace(" lost", "")}. Rebuilding it from what is kept.`;
    this.add("recovery", cause === "migration" ? "Moving to another machine." : lost, time, {
      step: "started",
    });
  }

  /** @param {any} content RecoveryDone @param {number} time */
  recoveryDone(content, time) {
    const kind = word(content.recoveryClass, "RECOVERY_CLASS_");
    const gap = readable(seconds(content.gap));
    const cause = word(content.cause, "RECOVERY_CAUSE_");
    const meaning = `${kind} (${MEANING[kind] ?? "goes on"})`;
    const text = `Recovered after ${cause}: ${meaning}, gap ${gap}, epoch ${content.epoch}.`;
    this.add("recovery", text, time, { step: "done", class: kind });
  }

  /** @param {any} content Skipped @param {number} time */
  skipped(content, time) {
    const count = Number(content.nextSequence) - Number(content.firstSequence);
    this.add("skipped", `Too slow: ${count} segments were skipped, now at the live edge.`, time);
  }
}
