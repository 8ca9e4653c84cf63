// @ts-check
/** Encoded pictures in order of time, in groups: from an IDR picture to the next. No more are kept than can be needed. */

import { samplesOf } from "./mp4.js";

/** Neighbours that are no further apart follow one another. */
const APART_S = 0.05;
const SAME_S = 1e-4;
const MAX_AHEAD_S = 60;

/**
 * @typedef {import("./mp4.js").Sample} Sample
 * @typedef {import("./output.js").Media} Media
 * @typedef {{start: number, end: number, samples: Sample[], fragments: Uint8Array[], init: Media}} Group
 */

export class PictureGroups {
  /** @type {Group[]} */
  all = [];
  /** @type {import("./ranges.js").Range[]} */
  ranges = [];

  /** @param {Uint8Array} data moof and mdat, again and again @param {Media} init what comes before it
   * @returns {number} from when on it takes the place of what was there; Infinity: of nothing */
  add(data, init) {
    const samples = samplesOf(data);
    const [first, final] = [samples[0], samples.at(-1)];
    if (!first || !final) return Infinity;
    const end = final.time + final.duration;
    if (!first.isKey) return this.goOn(samples, data, end);
    const same = this.all.filter((group) => group.start < end - SAME_S && group.start > first.time - SAME_S);
    this.all = this.all.filter((group) => !same.includes(group));
    this.all.push({ start: first.time, end, samples, fragments: [data], init });
    this.all.sort((one, other) => one.start - other.start);
    this.know();
    return same[0]?.start ?? Infinity;
  }

  /** Without what comes before it, it is of no use. @param {Sample[]} samples @param {Uint8Array} data
   * @param {number} end */
  goOn(samples, data, end) {
    const group = this.all.find((each) => Math.abs(each.end - samples[0].time) < APART_S);
    if (group) {
      group.samples.push(...samples);
      group.fragments.push(data);
      group.end = end;
      this.know();
    }
    return Infinity;
  }

  know() {
    this.ranges = [];
    for (const { start, end } of this.all) {
      const last = this.ranges.at(-1);
      if (last && start - last.end < APART_S) last.end = end;
      else this.ranges.push({ start, end });
    }
  }

  /** What was shown, and where somebody has paused for long, what would be shown first.
   * @param {number} time of the picture that shows */
  forget(time) {
    const before = this.all.length;
    this.all.splice(0, this.placeAt(time));
    while (this.all.length > 2 && this.all[this.all.length - 1].end - time > MAX_AHEAD_S)
      this.all.splice(1, 1);
    if (this.all.length !== before) this.know();
  }

  /** @param {number} time */
  placeAt(time) {
    return Math.max(
      0,
      this.all.findLastIndex((group) => group.start <= time + SAME_S),
    );
  }

  /** @param {number} time @returns {Sample | undefined} the picture of that moment */
  at(time) {
    const group = this.all[this.placeAt(time)];
    return group?.samples.findLast((sample) => sample.time <= time + SAME_S) ?? group?.samples[0];
  }

  /** What to decode next: at the latest from the last IDR picture before the one that shows.
   * @param {Sample | null} former decoded last @param {number} time of the picture that shows
   * @returns {{sample: Sample, init: Media} | undefined} */
  next(former, time) {
    for (const { samples, init } of this.all.slice(this.placeAt(time))) {
      const sample = samples.find((each) => each.time > (former?.time ?? -Infinity) + SAME_S);
      if (sample) return { sample, init };
    }
    return undefined;
  }
}
