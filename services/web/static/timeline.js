// @ts-check
/**
 * Prompt switches on the session's clock, under the video.
 *
 * The playhead stands still at two thirds; the last 40 s and the next 20 s pass under it. Each switch shows where
 * it was asked for, from which picture on it shows (touched), and from which on it rules alone (full).
 */

import { byId, make, setAttribute, setText } from "./dom.js";
import { clock, readable, seconds, word } from "./times.js";

const WINDOW_S = 60;
const BEHIND_S = 40;
const LABEL_EVERY_S = 10;
const MAX_MARKS = 32;
const NUM_LANES = 3;

/**
 * @typedef {{id: string, text: string, state: string, asked: number, askedAt: number, touched?: number, full?: number,
 *   lane: number, wasSeen: boolean, element: HTMLElement}} Mark asked: seconds of the session; askedAt: ms of the page
 */

export class Timeline {
  /** @type {Map<string, Mark>} */
  marks = new Map();
  /** @type {Map<number, HTMLElement>} */
  ticks = new Map();
  numMarks = 0;

  /** @param {(seconds: number) => void} seen called with the time from asking to the first changed picture */
  constructor(seen) {
    this.seen = seen;
    this.track = byId("timeline");
    this.layer = make("div", { class: "layer", role: "list", "aria-label": "Prompt switches" });
    this.ahead = make("div", { class: "ahead" });
    this.labels = make("div", { class: "labels", "aria-hidden": "true" });
    this.present = make("p", { class: "present", hidden: true });
    this.track.append(this.ahead, this.labels, this.layer, this.present, make("div", { class: "playhead" }));
    this.clear();
  }

  clear() {
    this.marks.clear();
    this.ticks.clear();
    this.numMarks = 0;
    this.layer.replaceChildren();
    this.labels.replaceChildren();
    this.move(0, 0);
  }

  /** @param {string} id @param {string} text @param {number} time seconds of the session */
  ask(id, text, time) {
    const mark = this.mark(id, text, time);
    mark.askedAt = performance.now();
    this.draw(mark);
  }

  /** The prompts that it was made with. @param {any} session */
  plan({ spec = {}, blockFrames = 0, numGivenBlocks = 0 }) {
    const missing = numGivenBlocks ? 0 : 3; // Pictures that block 0 has less than the others.
    for (const [block, text] of Object.entries(spec.prompts ?? {})) {
      if (block !== "0" && !(blockFrames && spec.fps)) continue;
      const time = block === "0" ? 0 : (4 * blockFrames * Number(block) - missing) / spec.fps;
      const mark = this.mark(`plan/${block}`, text, time);
      Object.assign(mark, { state: "planned", touched: time, full: time });
      this.draw(mark);
    }
  }

  /** @param {any} receipt PromptReceipt @param {string} text @param {number} time when it was asked for */
  receive(receipt, text, time) {
    const touched = seconds(receipt.touchedPresentationTime) ?? undefined;
    const mark = this.mark(receipt.requestId, text, Math.min(time, touched ?? time));
    mark.state = word(receipt.state, "SWITCH_STATE_") || mark.state;
    mark.touched = touched;
    mark.full = seconds(receipt.fullPresentationTime) ?? undefined;
    this.draw(mark);
  }

  /** @param {string} id @returns {boolean} whether what becomes of it is still to be heard */
  isOpen(id) {
    return ["asked", "accepted"].includes(this.marks.get(id)?.state ?? "");
  }

  /** @param {string} id The session did not take it. */
  refuse(id) {
    const mark = this.marks.get(id);
    if (!mark) return;
    mark.state = "refused";
    this.draw(mark);
  }

  /** @param {string} id @param {string} text @param {number} asked @returns {Mark} */
  mark(id, text, asked) {
    const known = this.marks.get(id);
    if (known) return known;
    const parts = ["asked", "wait", "turn"].map((name) => make("i", { class: name }));
    const element = make(
      "div",
      { class: "switch", role: "listitem", "data-request-id": id },
      ...parts,
      make("b", {}, text),
    );
    const mark = {
      id,
      text,
      state: "asked",
      asked,
      askedAt: 0,
      lane: this.numMarks % NUM_LANES,
      wasSeen: false,
      element,
    };
    this.numMarks += 1;
    this.marks.set(id, mark);
    this.layer.append(element);
    this.dropOldest();
    return mark;
  }

  dropOldest() {
    for (const [id, mark] of this.marks) {
      if (this.marks.size <= MAX_MARKS) return;
      mark.element.remove();
      this.marks.delete(id);
    }
  }

  /** @param {Mark} mark */
  draw({ element, text, state, asked, touched, full, lane }) {
    const { style } = element;
    setAttribute(element, "data-state", state);
    setAttribute(element, "data-touched-s", touched === undefined ? null : touched.toFixed(3));
    setAttribute(element, "data-full-s", full === undefined ? null : full.toFixed(3));
    style.setProperty("--asked", String(asked));
    style.setProperty("--touched", String(Math.max(asked, touched ?? asked)));
    style.setProperty("--full", String(Math.max(asked, full ?? touched ?? asked)));
    style.setProperty("--lane", String(lane));
    element.title = describe(text, state, asked, touched, full);
    element.setAttribute("aria-label", element.title);
  }

  /** @param {number} time of the playhead @param {number} ahead seconds that are buffered */
  move(time, ahead) {
    const scale = this.track.clientWidth / WINDOW_S;
    this.track.style.setProperty("--scale", `${scale}px`);
    const shift = `translateX(${((BEHIND_S - time) * scale).toFixed(2)}px)`;
    this.layer.style.transform = this.labels.style.transform = shift;
    this.ahead.style.transform = `scaleX(${Math.min(1, ahead / (WINDOW_S - BEHIND_S)).toFixed(4)})`;
    this.label(time);
    for (const mark of this.marks.values()) this.look(mark, time);
    this.showPresent(time);
  }

  /** The prompt that rules stays in sight when its mark has passed. @param {number} time */
  showPresent(time) {
    const begun = [...this.marks.values()].filter((mark) => (mark.touched ?? Infinity) <= time);
    begun.sort((one, other) => (one.touched ?? 0) - (other.touched ?? 0));
    const mark = begun.at(-1);
    this.present.hidden = !mark || (mark.full ?? time) > time - BEHIND_S;
    setText(this.present, mark?.text ?? "");
  }

  /** @param {Mark} mark @param {number} time */
  look(mark, time) {
    if (mark.wasSeen || mark.touched === undefined || time < mark.touched) return;
    mark.wasSeen = true;
    if (mark.askedAt) this.seen((performance.now() - mark.askedAt) / 1000);
  }

  /** Times under the track, those in the window only. @param {number} time */
  label(time) {
    const first = Math.max(0, Math.floor((time - BEHIND_S) / LABEL_EVERY_S));
    const last = Math.ceil((time + WINDOW_S - BEHIND_S) / LABEL_EVERY_S);
    for (const [tick, element] of this.ticks) {
      if (tick >= first && tick <= last) continue;
      element.remove();
      this.ticks.delete(tick);
    }
    for (let tick = first; tick <= last; tick += 1) {
      if (this.ticks.has(tick)) continue;
      const element = make("span", {}, clock(tick * LABEL_EVERY_S));
      element.style.setProperty("--at", String(tick * LABEL_EVERY_S));
      this.ticks.set(tick, element);
      this.labels.append(element);
    }
  }
}

/** @param {string} text @param {string} state @param {number} asked @param {number} [touched] @param {number} [full] */
function describe(text, state, asked, touched, full) {
  if (state === "planned") return `“${text}”: from ${asked.toFixed(2)} s on`;
  if (touched === undefined) return `“${text}”: ${state} at ${readable(asked)}`;
  const alone = full === undefined ? "" : `, alone from ${full.toFixed(2)} s`;
  return `“${text}”: asked at ${asked.toFixed(2)} s, shows from ${touched.toFixed(2)} s${alone}`;
}
