// @ts-check
/** Stretches of media time without a gap, in order. */

const NEAR_S = 0.1;

/** @typedef {{start: number, end: number}} Range seconds */

/** @param {Range[]} ranges @param {number} time @returns {number} seconds of media from there on, gaps not counted */
export function secondsAfter(ranges, time) {
  return ranges.reduce((sum, { start, end }) => sum + Math.max(0, end - Math.max(time, start)), 0);
}

/** @param {Range[]} ranges @param {number} time
 * @returns {number | undefined} where to go on, when nothing is left here but later */
export function nextStart(ranges, time) {
  const next = ranges.find(({ start, end }) => time < end - NEAR_S || start > time + 1e-3);
  return next && next.start > time + 1e-3 ? next.start : undefined;
}
