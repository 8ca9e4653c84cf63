// @ts-check
/**
 * How many segments are made ahead, at the price of slower switches.
 *
 * More of them bridge what comes unevenly, not what is made too slowly: after a stall the credit rises, and only
 * where it then plays for longer it may rise again; otherwise it was in vain and is given back. It comes back as well
 * when nothing has stood still for a while.
 */

const FIRST = 2;
const MOST = 8;
const CALM_MS = 60_000;
const LONGER = 1.5;

export class Credit {
  /** Segments ahead to ask for. */
  wish = FIRST;
  /** When it last changed, or the picture last stood still. */
  changedAt = 0;
  /** Segments that played between the last two stalls, and the last of them. */
  run = 0;
  begun = 0;
  isInVain = false;

  /** @param {number} now ms */
  constructor(now) {
    this.changedAt = now;
  }

  /** The picture stood still. @param {number} begun the segment that played @param {number} now ms */
  stalled(begun, now) {
    const run = begun - this.begun;
    this.changedAt = now;
    this.begun = begun;
    if (this.wish > FIRST && run < LONGER * this.run) this.isInVain = true;
    this.run = run;
    if (this.isInVain) this.wish = FIRST;
    else this.wish = Math.min(MOST, this.wish * 2);
  }

  /** It plays. @param {number} now ms */
  played(now) {
    if (now - this.changedAt < CALM_MS) return;
    this.changedAt = now;
    this.isInVain = false;
    this.wish = Math.max(FIRST, this.wish / 2);
  }
}
