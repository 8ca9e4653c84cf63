// @ts-check
/**
 * Live figures.
 *
 * Latency is the time from a segment's making to its playing. The clocks of gateway and browser need not agree: of all
 * segments the least difference between making (their clock) and arriving (ours) counts as none, so what it leaves out
 * is the quickest way through the network that was seen lately: after a machine has slept its clock may be another.
 */

import { byId, setText } from "./dom.js";
import { milliseconds, readable } from "./times.js";

const OVER_MS = 4000;
const NEWEST = 5;
const LATELY = 64;
const BREAK_MS = 10_000;

export class Figures {
  /** @type {{at: number, count: number}[]} */
  samples = [];
  /** @type {number[]} */
  latencies = [];
  /** @type {number[]} From the making of a segment to its arrival, each by its own clock, in ms. */
  ways = [];
  arrivedAt = 0;
  delivered = 0;

  /** @param {HTMLElement} root where they stand */
  constructor(root = byId("figures")) {
    this.elements = new Map();
    for (const element of /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll("[data-figure]"))) {
      this.elements.set(element.dataset.figure, element);
    }
    this.clear();
  }

  clear() {
    this.samples = [];
    this.latencies = [];
    this.ways = [];
    this.arrivedAt = 0;
    this.delivered = 0;
    for (const name of this.elements.keys()) this.show(name, "–");
  }

  /** @param {string} name @param {string} text */
  show(name, text) {
    const element = this.elements.get(name);
    if (element) setText(element, text);
  }

  /** @param {import("./pieces.js").Piece} piece that has arrived */
  arrived(piece) {
    this.delivered += 1;
    const created = milliseconds(piece.created);
    if (piece.receivedAt - this.arrivedAt > BREAK_MS) this.forget();
    this.arrivedAt = piece.receivedAt;
    if (created !== null) this.ways = [...this.ways.slice(1 - LATELY), piece.receivedAt - created];
    this.show("delivered", String(this.delivered));
  }

  /** After a pause or a sleep, what was measured before counts no more. */
  forget() {
    this.ways = [];
    this.latencies = [];
    this.show("latency", "–");
  }

  /** @param {import("./pieces.js").Piece} piece whose playing begins */
  began(piece) {
    const created = milliseconds(piece.created);
    if (created === null || performance.now() - piece.receivedAt > BREAK_MS) return;
    this.latencies.push((performance.now() - created - Math.min(...this.ways)) / 1000);
    if (this.latencies.length > NEWEST) this.latencies.shift();
    const sorted = [...this.latencies].sort((one, other) => one - other);
    this.show("latency", readable(sorted[Math.floor(sorted.length / 2)]));
  }

  /** @param {import("./player.js").Player} player @param {number} epoch */
  update(player, epoch) {
    this.show("fps", this.pictureRate(player.output?.numShown ?? 0));
    this.show("buffer", `${player.ahead.toFixed(1)} s`);
    this.show("epoch", epoch ? String(epoch) : "–");
    this.show("stalls", String(player.numStalls));
  }

  /** @param {number} count of pictures shown @returns {string} per second, lately */
  pictureRate(count) {
    const now = performance.now();
    if (count < (this.samples.at(-1)?.count ?? 0)) this.samples = [];
    this.samples.push({ at: now, count });
    while (this.samples.length > 2 && now - this.samples[1].at > OVER_MS) this.samples.shift();
    const [first] = this.samples;
    const span = (now - first.at) / 1000;
    return span < 0.5 ? "–" : ((count - first.count) / span).toFixed(1);
  }
}
