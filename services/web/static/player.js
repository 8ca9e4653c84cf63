// @ts-check
/**
 * Plays segments as they come, and parts of them, with Media Source Extensions.
 *
 * Times are those of the session's clock. What has been received and not played is bounded: for the controller by the
 * segments it has not acknowledged, for a viewer by dropping what it is too late for.
 */

import { isPlayable, MediaQueue } from "./media_queue.js";
import { duration, seconds } from "./times.js";

const START_SEGMENTS = 2;
const START_WAIT_MS = 1500;
const DRY_S = 0.03;
const SOON_S = 0.5;
const LEFT_S = 0.1;
const EARLY_S = 0.02;
const BEHIND_S = { gently: 4, far: 10, target: 1.5, returning: 2.5 };
const RETURN_MS = 5000;
const CATCH_UP_RATE = 1.06;
const MAX_KNOWN = 256;
const PACED = 8;
const SLOW = 0.9;
const OFTEN_MS = 30_000;

/**
 * @typedef {{sequence: number, epoch: number, start: number, end: number, frames: number, created: string,
 *   receivedAt: number, isWhole: boolean}} Piece one segment, as far as it has come; start, end: seconds on the
 *   session's clock; receivedAt: ms of the page
 * @typedef {{began(piece: Piece): void, stalled(): void, holds(): void, moved(): void, blocked(): void, broken(after: number): void,
 *   unplayable(type: string): void}} Listener
 *   began: a segment's playing begins; holds: it has more than before, or goes on after it stood still; moved: called a few times per second; blocked: the browser plays only when
 *   somebody clicks; broken: it gave up on the media after that segment; unplayable: it never takes media of this type
 */

export class Player {
  /** @type {Piece[]} */
  pieces = [];
  isViewer = false;
  from = 0;
  credit = 4;
  begun = 0;
  numStalls = 0;
  isWanted = true;
  isDry = true;
  dryAt = Infinity;
  /** A segment that another decoder makes again, of which there are parts. */
  anew = 0;
  hasStarted = false;
  hasEnded = false;
  isBlocked = false;
  returnedAt = -Infinity;
  fullSince = 0;
  /** @type {number[]} ms of the page */
  stalledAt = [];

  /** @param {HTMLVideoElement} video @param {Listener} listener */
  constructor(video, listener) {
    this.video = video;
    this.listener = listener;
    /** @type {MediaQueue | null} */
    this.queue = null;
    this.reset();
    for (const name of ["timeupdate", "playing", "seeked"]) video.addEventListener(name, () => this.tick());
    video.addEventListener("playing", () => this.flow());
    video.addEventListener("waiting", () => this.tick());
    video.addEventListener(
      "error",
      () => this.queue && this.listener.broken(Math.min(this.begun, this.newest)),
    );
    for (const name of ["visibilitychange", "click"]) document.addEventListener(name, () => this.tick());
    setInterval(() => this.tick(), 250);
  }

  /** Forget the session and its media.
   * @param {{isViewer?: boolean, from?: number, credit?: number}} [options] from: seconds, play from there on */
  reset({ isViewer = false, from = 0, credit = 4 } = {}) {
    this.queue?.close();
    this.isViewer = isViewer;
    this.from = from;
    this.credit = credit;
    this.pieces = [];
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
    this.anew = 0;
    clearTimeout(this.dryTimer);
    this.video.playbackRate = 1;
    this.queue = null;
  }

  /** @param {string} type @param {Uint8Array} data what comes before the segments that follow */
  init(type, data) {
    if (!isPlayable(type)) return this.listener.unplayable(type);
    if (!this.queue) this.queue = new MediaQueue(this.video, () => this.appended());
    this.queue.init(type, data);
  }

  /** @param {any} content ConnectResponse.Segment @param {Uint8Array} data */
  segment(content, data) {
    const piece = pieceOf(content, true);
    this.note(piece);
    if (content.numParts && piece.sequence !== this.anew) this.listener.holds();
    else this.queue?.segment(data); // Also where parts of it are there: they were another decoder's, or not all.
    this.tick();
  }

  /** Some pictures of the next segment. @param {any} content ConnectResponse.Part @param {Uint8Array} data */
  part(content, data) {
    const piece = pieceOf(content, false);
    const former = this.pieces.at(-1);
    const isKnown = former?.sequence === piece.sequence;
    if (isKnown && !content.index) this.anew = piece.sequence; // Its pictures stay until all of the others are there.
    if (piece.sequence === this.anew) return;
    const goesOn = content.index && isKnown;
    this.note(goesOn ? { ...piece, start: former.start, frames: former.frames + piece.frames } : piece);
    this.queue?.segment(data);
    this.tick();
  }

  /** It takes the place of what was known of the same segment. @param {Piece} piece */
  note(piece) {
    if (this.pieces.at(-1)?.sequence === piece.sequence) this.pieces.pop();
    this.pieces.push(piece);
    if (this.pieces.length > MAX_KNOWN) this.pieces.shift();
  }

  /** No more will come: play what is there. */
  end() {
    this.hasEnded = true;
    this.queue?.end();
    this.tick();
  }

  /** @param {boolean} isWanted */
  want(isWanted) {
    this.isWanted = isWanted;
    this.stalledAt = []; // What comes after a pause says nothing of the pace.
    if (!isWanted) this.video.pause();
    else if (this.isViewer) this.jumpIfFar(BEHIND_S.target);
    this.tick();
  }

  /** Somebody looks again, who wants to see what the others see. */
  wake() {
    this.returnedAt = performance.now();
    this.tick();
  }

  get time() {
    return this.video.currentTime;
  }

  /** Seconds that can be played without receiving more. */
  get ahead() {
    const last = this.pieces.at(-1);
    return last && this.hasStarted ? Math.max(0, last.end - Math.max(this.time, this.pieces[0].start)) : 0;
  }

  /** Whether the picture stands still because nothing is left to play. */
  get isStarved() {
    return this.isDry && this.isWanted && this.begun > 0 && !this.hasEnded;
  }

  /** Whether it stood still lately, again and again, because segments come more slowly than they play. */
  get isBehind() {
    const [before] = this.stalledAt.slice(-2);
    if (this.stalledAt.length < 2 || this.hasEnded || performance.now() - before > OFTEN_MS) return false;
    const [first, ...rest] = this.pieces.filter((piece) => piece.isWhole).slice(-PACED);
    const made = rest.reduce((sum, piece) => sum + piece.end - piece.start, 0);
    const newest = this.isStarved ? performance.now() : (rest.at(-1)?.receivedAt ?? first.receivedAt);
    return made < (SLOW * (newest - first.receivedAt)) / 1000;
  }

  /** As acks tell it: ConnectRequest.Playback. */
  get playback() {
    return {
      playhead: duration(this.time),
      buffered: duration(this.queue?.hasMedia ? this.queue.secondsAfter(this.time) : 0),
      numStalls: this.numStalls,
      waiting: this.isDry,
    };
  }

  /** The newest segment that is there as a whole. */
  get newest() {
    return this.pieces.findLast((piece) => piece.isWhole)?.sequence ?? 0;
  }

  /** The segment that plays now. @returns {Piece | undefined} */
  get present() {
    return this.pieces.findLast((piece) => piece.start <= this.time + EARLY_S);
  }

  tick() {
    if (!this.queue?.hasMedia) return;
    if (!this.hasStarted) this.goToStart();
    this.hopGap();
    this.watchDry();
    this.playOrWait();
    if (this.isViewer) this.catchUp();
    this.queue.trim();
    this.queue.pump();
    this.tellBegun();
    this.listener.moved();
  }

  appended() {
    if (this.pieces.at(-1)?.isWhole) this.listener.holds();
    this.tick();
  }

  goToStart() {
    const first = this.queue?.firstTime ?? 0;
    this.hasStarted = true;
    const last = this.pieces.at(-1)?.end ?? first;
    this.video.currentTime = Math.max(first, this.from < last ? this.from : first);
  }

  /** Play as soon as there is enough for the next second or two, so that it does not stop again at once. */
  playOrWait() {
    if (!this.isWanted || !this.video.paused || this.video.ended) return;
    const enough = Math.min(START_SEGMENTS, this.credit);
    const from = Math.min(this.time, this.dryAt);
    const num = this.pieces.filter((piece) => piece.isWhole && piece.end > from + LEFT_S).length;
    if (num === 0) this.fullSince = 0;
    else this.fullSince ||= performance.now();
    const isLong = num > 0 && performance.now() - this.fullSince > START_WAIT_MS;
    if (this.isDry && num < enough && !isLong && !this.hasEnded) return;
    if (this.isDry && this.time > this.dryAt) this.video.currentTime = this.dryAt;
    this.video.play().catch((error) => this.refused(error));
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
   * wait at that picture by themselves, until there is one more. */
  watchDry() {
    clearTimeout(this.dryTimer);
    if (this.video.paused || this.video.seeking || this.hasEnded) return;
    const left = this.queue?.secondsAfter(this.time) ?? 0;
    const waits = left < SOON_S && this.video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA;
    if (waits || left <= DRY_S) this.runDry();
    else if (left < SOON_S) this.dryTimer = setTimeout(() => this.tick(), left * 1000);
  }

  runDry() {
    if (this.isDry || !this.isWanted || this.hasEnded || this.begun === 0) return;
    this.isDry = true;
    this.dryAt = this.queue?.lastTime ?? this.time;
    this.fullSince = 0;
    this.numStalls += 1;
    this.stalledAt = [...this.stalledAt.slice(-1), performance.now()];
    this.video.pause();
    this.listener.stalled();
  }

  /** What a viewer missed is not waited for, not even on the way there: a seek into a gap would last for ever. */
  hopGap() {
    const next = this.queue?.nextRange(this.time);
    if (next !== undefined) this.video.currentTime = next + 0.001;
  }

  /** A viewer is where the others are: a little faster, or at once. */
  catchUp() {
    const isReturning = performance.now() - this.returnedAt < RETURN_MS;
    this.jumpIfFar(isReturning ? BEHIND_S.returning : BEHIND_S.far);
    const behind = this.queue?.secondsAfter(this.time) ?? 0;
    const isFast = this.video.playbackRate > 1;
    if (behind > BEHIND_S.gently) this.video.playbackRate = CATCH_UP_RATE;
    else if (isFast && behind < BEHIND_S.target + 1) this.video.playbackRate = 1;
  }

  /** @param {number} limit seconds */
  jumpIfFar(limit) {
    const behind = this.queue?.secondsAfter(this.time) ?? 0;
    if (behind > limit && this.isWanted && !this.video.seeking) {
      this.video.currentTime += behind - BEHIND_S.target;
    }
  }

  tellBegun() {
    if (this.video.paused || this.video.seeking) return;
    for (const piece of this.pieces) {
      if (piece.sequence <= this.begun || piece.start > this.time + EARLY_S) continue;
      this.begun = piece.sequence;
      this.listener.began(piece);
    }
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
