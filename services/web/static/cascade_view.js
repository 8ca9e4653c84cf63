// @ts-check
/**
 * The cascade as it runs: a row per block in flight, a column per tick as wide as the tick took.
 *
 * A cell is a block, coloured by its number, the stronger the cleaner it is; its last pass, which later blocks
 * attend to, is outlined. The rows of one rank lie together, and a block keeps its row.
 */

import { byId, makeSvg, setText } from "./dom.js";
import { readable, seconds } from "./times.js";

const MAX_TICKS = 24;
const WIDTH = 320;
const HEIGHT = 150;
const GAP = 1.5;
const LEAST_WIDTH = 0.35;
const HUES = [12, 48, 140, 190, 220, 265, 320];

/** @typedef {{block: number, pass: number, rank: number}} Pass */
/** @typedef {{time: number, passes: Pass[]}} Tick time: seconds of compute */

export class CascadeView {
  /** @type {Tick[]} */
  ticks = [];
  numRanks = 1;
  numPasses = 5;

  constructor() {
    this.svg = byId("cascade");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.clear();
  }

  clear() {
    this.ticks = [];
    this.numRanks = 1;
    this.numPasses = 5;
    this.svg.replaceChildren();
    this.svg.setAttribute("aria-label", "The cascade: nothing has been made yet");
    byId("cascade-empty").hidden = false;
    setText(byId("cascade-text"), "");
  }

  /** @param {any} made ConnectResponse.BlockMade */
  add(made) {
    this.numRanks = Math.max(1, made.numRanks ?? 1);
    this.numPasses = Math.max(1, made.numPasses ?? 1);
    for (const tick of made.ticks ?? []) this.ticks.push(parseTick(tick));
    this.ticks = this.ticks.slice(-MAX_TICKS);
    if (this.ticks.length) this.draw();
  }

  draw() {
    const mean = this.ticks.reduce((sum, tick) => sum + tick.time, 0) / this.ticks.length || 1;
    const shares = this.ticks.map((tick) => Math.max(LEAST_WIDTH, Math.min(3, tick.time / mean)));
    const scale =
      WIDTH /
      Math.max(
        MAX_TICKS,
        shares.reduce((sum, share) => sum + share, 0),
      );
    let right = WIDTH;
    const columns = [];
    for (let i = this.ticks.length - 1; i >= 0; i -= 1) {
      const width = shares[i] * scale;
      right -= width;
      columns.push(this.column(this.ticks[i], right, width));
    }
    this.svg.replaceChildren(...this.rows(), ...columns);
    this.describe(mean);
  }

  rows() {
    const height = HEIGHT / this.numRanks;
    return Array.from({ length: this.numRanks }, (_, rank) =>
      makeSvg("rect", {
        class: "rank",
        x: 0,
        y: rank * height + GAP / 2,
        width: WIDTH,
        height: height - GAP,
        rx: 3,
      }),
    );
  }

  /** @param {Tick} tick @param {number} x @param {number} width */
  column(tick, x, width) {
    const title = makeSvg("title", {}, `tick of ${readable(tick.time)}`);
    return makeSvg("g", {}, title, ...tick.passes.map((pass) => this.cell(pass, x, width)));
  }

  /** @param {Pass} pass @param {number} x @param {number} width */
  cell({ block, pass, rank }, x, width) {
    const perRank = Math.ceil(this.numPasses / this.numRanks);
    const height = HEIGHT / this.numRanks / perRank;
    const place = Math.floor(block / this.numRanks) % perRank;
    const y = rank * (HEIGHT / this.numRanks) + place * height + GAP / 2;
    const isContext = pass === this.numPasses - 1;
    const box = { x: x + GAP / 2, y: y + GAP / 4, width: Math.max(1, width - GAP), height: height - GAP };
    const fill = `hsl(${HUES[block % HUES.length]} 70% 55%)`;
    const strength = (0.2 + (0.8 * (pass + 1)) / this.numPasses).toFixed(2);
    const kind = isContext ? "context" : "denoising";
    const marks = { class: kind, "data-block": block, "data-pass": pass };
    return makeSvg("rect", { ...box, ...marks, rx: 2, fill, "fill-opacity": strength });
  }

  /** @param {number} mean seconds */
  describe(mean) {
    const newest = this.ticks[this.ticks.length - 1];
    const blocks = newest.passes.map((pass) => pass.block).sort((one, other) => one - other);
    const ranks = `${this.numRanks} ${this.numRanks === 1 ? "rank" : "ranks"}`;
    const span =
      blocks.length > 1 ? `blocks ${blocks[0]} to ${blocks[blocks.length - 1]}` : `block ${blocks[0] ?? "–"}`;
    const text = `${ranks}, ${span} in flight, ${readable(mean)} per tick`;
    this.svg.setAttribute("aria-label", `The cascade: ${text}`);
    setText(byId("cascade-text"), text);
    byId("cascade-empty").hidden = true;
  }
}

/** @param {any} tick @returns {Tick} */
function parseTick(tick) {
  const passes = (tick.passes ?? []).map((/** @type {any} */ each) => ({
    block: Number(each.block),
    pass: each.passIndex ?? 0,
    rank: each.rank ?? 0,
  }));
  return { time: seconds(tick.computeTime) ?? 0, passes };
}
