// @ts-check
/**
 * Plays segments as they come, and parts of them: when to start, to wait, to skip. An output shows the pictures.
 *
 * Times are those of the session's clock. What has been received and not played is bounded: for the controller by the
 * segments it has not acknowledged, for a viewer by dropping what it is too late for.
 */

import { waysFor } from "./output.js";
import { Pieces } from "./pieces.js";
import { nextStart, secondsAfter } from "./ranges.js";
import { duration } from "./times.js";

const START_SEGMENTS = 2;
const START_WAIT_MS = 1500;
const DRY_S = 0.03;
const SOON_S = 0.5;
const LEFT_S = 0.1;
const EARLY_S = 0.02;
const BEHIND_S = { gently: 4, far: 10, target: 1.5, returning: 2.5 };
const RETURN_MS = 5000;
const CATCH_UP_RATE = 1.06;
const OFTEN_MS = 30_000;

/**
 * @typedef {import("./pieces.js").Piece} Piece
 * @typedef {{began(piece: Piece): void, stalled(): void, holds(): void, moved(): void, resized(): void, blocked(): void,
 *   broken(after: number): void, unplayable(type: string): void}} Listener
 *   began: a segment's playing begins; holds: it has some of one more segment, or goes on after it stood still; moved:
 *   called a few times per second; blocked: the browser plays only when somebody clicks; broken: it gave up on the media after
 *   that segment; unplayable: it never takes media of this type
 */

export class Player {
  pieces = new Pieces();
  /** @type {import("./output.js").Output | null} */
  output = null;
  /** What else could show them, should this one fail. @type {import("./output.js").Way[]} */
  ways = [];
  /** @type {Uint8Array | null} */
  newestInit = null;
  isViewer = false;
  from = 0;
  credit = 4;
  toldNewest = 0;
  begun = 0;
  numStalls = 0;
  isWanted = true;
  isDry = true;
  dryAt = Infinity;
  hasStarted = false;
  hasEnded = false;
  isBlocked = false;
  returnedAt = -Infinity;
  fullSince = 0;
  /** @type {number[]} ms of the page */
  stalledAt = [];

  /** @param {import("./output.js").Elements} elements @param {Listener} listener */
  constructor(elements, listener) {
    this.elements = elements;
    this.listener = listener;
    for (const name of ["visibilitychange", "click"]) document.addEventListener(name, () => this.tick());
    setInterval(() => this.tick(), 250);
  }

  /** Forget the session and its media.
   * @param {{isViewer?: boolean, from?: number, credit?: number}} [options] from: seconds, play from there on */
  reset({ isViewer = false, from = 0, credit = 4 } = {}) {
    this.output?.close();
    this.output = null;
    this.newestInit = null;
    this.isViewer = isViewer;
    this.from = from;
    this.credit = credit;
    this.pieces = new Pieces();
    this.toldNewest = 0;
    this.begun = 0;
    this.numStalls = 0;
    this.stalledAt = [];
    this.isWanted = true;
    this.isDry = true;
    this.hasStarted = false;
    this.hasEnded = false;
    this.isBlocked = false;
    this.fullSince = 0;
    this.dryAt = Infinity;
    clearTimeout(this.dryTimer);
  }

  /** Each line brings it again; another one comes only after another encoder.
   * @param {string} type @param {Uint8Array} data what comes before the segments that follow */
  init(type, data) {
    if (this.newestInit && isSame(this.newestInit, data)) return;
    this.newestInit = data;
    if (!this.output) {
      this.ways = waysFor(this.elements, type);
      this.open();
    }
    if (this.output) this.output.init(type, data);
    else this.listener.unplayable(type);
  }

  /** The best way that is left. */
  open() {
    const way = this.ways.shift();
    if (!way) return;
    const output = way({
      changed: () => this.changed(),
      moved: () => this.tick(),
      flows: () => this.flow(),
      resized: () => this.listener.resized(),
      failed: () => output === this.output && this.fail(output),
    });
    this.output = output;
    for (const element of Object.values(this.elements)) element.hidden = element !== output.element;
  }

  /** Another one goes on with what there is. @param {import("./output.js").Output} output */
  fail(output) {
    if (!this.ways.length) return this.listener.broken(Math.min(this.begun, this.pieces.newest));
    this.from = Math.min(output.time, (output.ranges.at(-1)?.end ?? 0) - EARLY_S);
    this.hasStarted = false;
    output.close();
    this.open();
    for (const { type, data } of output.kept) {
      if (type) this.output?.init(type, data);
      else this.output?.add(data);
    }
    if (this.hasEnded) this.output?.end();
    this.tick();
  }

  /** @param {any} content ConnectResponse.Segment @param {Uint8Array} data */
  segment(content, data) {
    if (this.pieces.segment(content)) this.output?.add(data);
    this.tick();
  }

  /** Some pictures of the next segment. @param {any} content ConnectResponse.Part @param {Uint8Array} data */
  part(content, data) {
    if (this.pieces.part(content)) this.output?.add(data);
    this.tick();
  }

  /** No more will come: play what is there. */
  end() {
    this.hasEnded = true;
    this.output?.end();
    this.tick();
  }

  /** @param {boolean} isWanted */
  want(isWanted) {
    this.isWanted = isWanted;
    this.stalledAt = []; // What comes after a pause says nothing of the pace.
    if (!isWanted) this.output?.pause();
    else if (this.isViewer) this.jumpIfFar(BEHIND_S.target);
    this.tick();
  }

  /** Somebody looks again, who wants to see what the others see. */
  wake() {
    this.returnedAt = performance.now();
    this.tick();
  }

  get time() {
    return this.output?.time ?? 0;
  }

  get ranges() {
    return this.output?.ranges ?? [];
  }

  /** Seconds of media that the output has yet to show. */
  get left() {
    return secondsAfter(this.ranges, this.time);
  }

  /** Seconds that can be played without receiving more. */
  get ahead() {
    const [first] = this.pieces.all;
    const end = this.pieces.last?.end ?? 0;
    return first && this.hasStarted ? Math.max(0, end - Math.max(this.time, first.start)) : 0;
  }

  /** Whether there is a picture to look at, be it a still one. */
  get hasPicture() {
    return Boolean(this.hasStarted && this.output?.hasPicture);
  }

  /** Whether the picture stands still because nothing is left to play. */
  get isStarved() {
    return this.isDry && this.isWanted && this.begun > 0 && !this.hasEnded;
  }

  /** Whether it stood still lately, again and again, because segments come more slowly than they play. */
  get isBehind() {
    const [before] = this.stalledAt.slice(-2);
    if (this.stalledAt.length < 2 || this.hasEnded || performance.now() - before > OFTEN_MS) return false;
    return this.pieces.areSlow(this.isStarved ? performance.now() : undefined);
  }

  /** As acks tell it: ConnectRequest.Playback. */
  get playback() {
    return {
      playhead: duration(this.time),
      buffered: duration(this.left),
      numStalls: this.numStalls,
      waiting: this.isDry,
    };
  }

  tick() {
    if (!this.output || !this.ranges.length) return;
    if (!this.hasStarted) this.goToStart(this.output);
    this.hopGap(this.output);
    this.watchDry(this.output);
    this.playOrWait(this.output);
    if (this.isViewer) this.catchUp(this.output);
    this.output.pump();
    this.tellBegun(this.output);
    this.listener.moved();
  }

  /** Told once a segment, as soon as some of it can be played: the rest comes faster than it plays. */
  changed() {
    const newest = this.pieces.last?.sequence ?? 0;
    if (newest > this.toldNewest) this.listener.holds();
    this.toldNewest = newest;
    this.tick();
  }

  /** The first picture shows at once. @param {import("./output.js").Output} output */
  goToStart(output) {
    const [{ start: first }] = this.ranges;
    this.hasStarted = true;
    const last = this.pieces.last?.end ?? first;
    output.time = Math.max(first, this.from < last ? this.from : first);
  }

  /** Play as soon as there is enough for the next second or two, so that it does not stop again at once.
   * @param {import("./output.js").Output} output */
  playOrWait(output) {
    if (!this.isWanted || !output.isPaused || output.isOver) return;
    const enough = Math.min(START_SEGMENTS, this.credit);
    const num = this.pieces.numAfter(Math.min(this.time, this.dryAt) + LEFT_S);
    if (num === 0) this.fullSince = 0;
    else this.fullSince ||= performance.now();
    const isLong = num > 0 && performance.now() - this.fullSince > START_WAIT_MS;
    if (this.isDry && num < enough && !isLong && !this.hasEnded) return;
    if (this.isDry && this.time > this.dryAt) output.time = this.dryAt;
    output.play().catch((error) => this.refused(error));
  }

  /** Phones that save power refuse it; otherwise it was paused again meanwhile. The next tick or click tries again.
   * @param {Error} error */
  refused(error) {
    if (error.name !== "NotAllowedError" || this.isBlocked) return;
    this.isBlocked = true;
    this.listener.blocked();
  }

  flow() {
    const wasDry = this.isDry;
    this.isDry = this.isBlocked = false;
    this.dryAt = Infinity;
    if (wasDry) this.listener.holds();
  }

  /** Browsers let the time of a video without sound run on for seconds after its last picture: stop it there. Others
   * wait at that picture by themselves, until there is one more. @param {import("./output.js").Output} output */
  watchDry(output) {
    clearTimeout(this.dryTimer);
    if (output.isPaused || output.isSeeking || this.hasEnded) return;
    const { left } = this;
    if ((left < SOON_S && output.isWaiting) || left <= DRY_S) this.runDry(output);
    else if (left < SOON_S) this.dryTimer = setTimeout(() => this.tick(), left * 1000);
  }

  /** @param {import("./output.js").Output} output */
  runDry(output) {
    if (this.isDry || !this.isWanted || this.hasEnded || this.begun === 0) return;
    this.isDry = true;
    this.dryAt = this.ranges.at(-1)?.end ?? this.time;
    this.fullSince = 0;
    this.numStalls += 1;
    this.stalledAt = [...this.stalledAt.slice(-1), performance.now()];
    output.pause();
    this.listener.stalled();
  }

  /** What a viewer missed is not waited for, not even on the way there: a seek into a gap would last for ever.
   * @param {import("./output.js").Output} output */
  hopGap(output) {
    const next = nextStart(this.ranges, this.time);
    if (next !== undefined) output.time = next + 0.001;
  }

  /** A viewer is where the others are: a little faster, or at once. @param {import("./output.js").Output} output */
  catchUp(output) {
    const isReturning = performance.now() - this.returnedAt < RETURN_MS;
    this.jumpIfFar(isReturning ? BEHIND_S.returning : BEHIND_S.far);
    const behind = this.left;
    if (behind > BEHIND_S.gently) output.rate = CATCH_UP_RATE;
    else if (output.rate > 1 && behind < BEHIND_S.target + 1) output.rate = 1;
  }

  /** @param {number} limit seconds */
  jumpIfFar(limit) {
    const { output, left } = this;
    if (output && left > limit && this.isWanted && !output.isSeeking) output.time += left - BEHIND_S.target;
  }

  /** @param {import("./output.js").Output} output */
  tellBegun(output) {
    if (output.isPaused || output.isSeeking) return;
    for (const piece of this.pieces.all) {
      if (piece.sequence <= this.begun || piece.start > this.time + EARLY_S) continue;
      this.begun = piece.sequence;
      this.listener.began(piece);
    }
  }
}

/** @param {Uint8Array} one @param {Uint8Array} other */
function isSame(one, other) {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}
