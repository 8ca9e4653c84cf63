// @ts-check
/** Small lines of what a figure was like lately; kept in the page alone. */

import { makeSvg } from "./dom.js";

const MAX_POINTS = 60;
const [WIDTH, HEIGHT] = [120, 26];

export class Sparks {
  constructor() {
    /** @type {Map<string, number[]>} */
    this.values = new Map();
  }

  /** @param {string} key @param {number | null} value @param {string} label @returns {Node | string} */
  draw(key, value, label) {
    const values = this.values.get(key) ?? [];
    if (value !== null) values.push(value);
    this.values.set(key, values.slice(-MAX_POINTS));
    if (values.length < 2) return "";
    const top = Math.max(...values) || 1;
    const step = WIDTH / (MAX_POINTS - 1);
    const from = WIDTH - (Math.min(values.length, MAX_POINTS) - 1) * step;
    const shown = values.slice(-MAX_POINTS);
    const points = shown.map(
      (each, i) => `${(from + i * step).toFixed(1)},${(HEIGHT - 2 - (each / top) * (HEIGHT - 4)).toFixed(1)}`,
    );
    const view = {
      class: "spark",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": label,
      preserveAspectRatio: "none",
    };
    return makeSvg("svg", view, makeSvg("polyline", { points: points.join(" ") }));
  }

  /** @param {string[]} keys of those that are still there */
  keepOnly(keys) {
    for (const key of this.values.keys()) if (!keys.includes(key)) this.values.delete(key);
  }
}
