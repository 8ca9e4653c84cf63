// @ts-check
/**
 * Two videos on one clock: at every moment both show the same time of their sessions.
 *
 * The one that is ahead stands still for as long as it is ahead, so nothing is skipped. Who has nothing to play is
 * waited for, unless it is over.
 */

const EVERY_MS = 100;
/** A frame or so: what nobody sees. */
const APART_S = 0.08;
const LONGEST_S = 1;

export class OneClock {
  /** @param {import("./side.js").Side[]} sides two */
  constructor(sides) {
    this.sides = sides;
    this.releaseAt = 0;
    setInterval(() => this.tick(), EVERY_MS);
  }

  /** Seconds that the first is ahead of the second; null: one of them shows nothing. */
  get difference() {
    const [one, other] = this.sides;
    return one.isReady && other.isReady ? one.player.time - other.player.time : null;
  }

  tick() {
    const now = performance.now();
    const { difference } = this;
    if (difference === null) {
      const isAwaited = this.sides.some((side) => side.isAwaited && !side.isReady);
      return this.sides.forEach((side) => side.hold(isAwaited));
    }
    if (now < this.releaseAt) return;
    const isApart = Math.abs(difference) > APART_S;
    const ahead = isApart ? this.sides[difference > 0 ? 0 : 1] : null;
    for (const side of this.sides) side.hold(side === ahead);
    if (!ahead) return;
    const wait = Math.min(LONGEST_S, Math.abs(difference)) * 1000;
    this.releaseAt = now + wait;
    setTimeout(() => this.release(), wait);
  }

  /** To the moment, which a tick would miss. */
  release() {
    this.releaseAt = 0;
    if (Math.abs(this.difference ?? 0) < APART_S) this.sides.forEach((side) => side.hold(false));
    else this.tick();
  }
}
