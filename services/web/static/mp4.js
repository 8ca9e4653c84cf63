// @ts-check
/** As much of MP4 as a recording needs: its fragments' times, moved so that the file begins at 0. */

const TIMESCALE = 90_000;

/**
 * @param {Uint8Array} fragment moof and mdat @param {number} from seconds that become 0
 * @returns {Uint8Array} a copy with other decode times
 */
export function shifted(fragment, from) {
  const copy = fragment.slice();
  const view = new DataView(copy.buffer);
  for (const moof of boxes(view, 0, copy.length, "moof")) {
    for (const traf of boxes(view, moof.start, moof.end, "traf")) {
      for (const tfdt of boxes(view, traf.start, traf.end, "tfdt")) shiftTime(view, tfdt.start, from);
    }
  }
  return copy;
}

/** @param {DataView} view @param {number} at version and flags, then the time @param {number} from seconds */
function shiftTime(view, at, from) {
  const shift = Math.round(from * TIMESCALE);
  if (view.getUint8(at) === 1) {
    const time = view.getBigUint64(at + 4) - BigInt(shift);
    view.setBigUint64(at + 4, time > 0n ? time : 0n);
  } else {
    view.setUint32(at + 4, Math.max(0, view.getUint32(at + 4) - shift));
  }
}

/** @param {DataView} view @param {number} start @param {number} end @param {string} kind
 * @returns {Generator<{start: number, end: number}>} the insides of boxes of that kind */
function* boxes(view, start, end, kind) {
  for (let at = start; at + 8 <= end;) {
    const size = view.getUint32(at);
    const name = String.fromCharCode(...[4, 5, 6, 7].map((i) => view.getUint8(at + i)));
    if (size < 8 || at + size > end) return;
    if (name === kind) yield { start: at + 8, end: at + size };
    at += size;
  }
}
