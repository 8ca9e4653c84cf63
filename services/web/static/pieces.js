// @ts-check
/** Which segments the player has had, and how far each has come. */

import { seconds } from "./times.js";

const MAX_KNOWN = 256;
const PACED = 8;
const SLOW = 0.9;

/**
 * @typedef {{sequence: number, epoch: number, start: number, end: number, frames: number, created: string,
 *   receivedAt: number, isWhole: boolean}} Piece one segment, as far as it has come; start, end: seconds on the
 *   session's clock; receivedAt: ms of the page
 */

export class Pieces {
  /** @type {Piece[]} */
  all = [];
  /** A segment that another decoder makes again, of which there are parts. */
  anew = 0;

  get last() {
    return this.all.at(-1);
  }

  /** The newest segment that is there as a whole. */
  get newest() {
    return this.all.findLast((piece) => piece.isWhole)?.sequence ?? 0;
  }

  /** @param {any} content ConnectResponse.Segment @returns {boolean} whether the player needs its media */
  segment(content) {
    const piece = pieceOf(content, true);
    this.note(piece);
    return !content.numParts || piece.sequence === this.anew; // Parts that are there were another decoder's, or not all.
  }

  /** @param {any} content ConnectResponse.Part @returns {boolean} whether the player needs its media */
  part(content) {
    const piece = pieceOf(content, false);
    const { last } = this;
    const isKnown = last?.sequence === piece.sequence;
    if (isKnown && !content.index) this.anew = piece.sequence; // Its pictures stay until all of the others are there.
    if (piece.sequence === this.anew) return false;
    const goesOn = content.index && isKnown;
    this.note(goesOn ? { ...piece, start: last.start, frames: last.frames + piece.frames } : piece);
    return true;
  }

  /** It takes the place of what was known of the same segment. @param {Piece} piece */
  note(piece) {
    if (this.last?.sequence === piece.sequence) this.all.pop();
    this.all.push(piece);
    if (this.all.length > MAX_KNOWN) this.all.shift();
  }

  /** @param {number} time @returns {number} whole segments that end after it */
  numAfter(time) {
    return this.all.filter((piece) => piece.isWhole && piece.end > time).length;
  }

  /** Whether the last ones came more slowly than they play. @param {number} [until] ms of the page */
  areSlow(until) {
    const [first, ...rest] = this.all.filter((piece) => piece.isWhole).slice(-PACED);
    const made = rest.reduce((sum, piece) => sum + piece.end - piece.start, 0);
    const newest = until ?? rest.at(-1)?.receivedAt ?? first.receivedAt;
    return made < (SLOW * (newest - first.receivedAt)) / 1000;
  }
}

/** @param {any} content ConnectResponse.Segment or Part @param {boolean} isWhole @returns {Piece} */
function pieceOf({ sequence, epoch, createTime, media }, isWhole) {
  const start = seconds(media.presentationTime) ?? 0;
  return {
    sequence: Number(sequence),
    epoch: Number(epoch),
    start,
    end: start + (seconds(media.duration) ?? 0),
    frames: media.numFrames,
    created: createTime,
    receivedAt: performance.now(),
    isWhole,
  };
}
