// @ts-check
/**
 * Draws pictures onto a canvas when they are due, decoded by WebCodecs.
 *
 * Where nobody looks nothing is decoded, and the time goes on; whoever looks again sees the picture of that moment first.
 */

import { MediaClock } from "./media_clock.js";
import { isDecodable, PictureDecoder } from "./picture_decoder.js";
import { PictureGroups } from "./picture_groups.js";

const DECODE_AHEAD_S = 0.75;
const MAX_DECODED = 12;
const EARLY_S = 0.008;
const LATE_S = 0.25;
const SAME_S = 1e-4;
const STUCK_MS = 5000;

/** @implements {Output} @typedef {import("./output.js").Output} Output */
export class CanvasOutput {
  clock = new MediaClock();
  groups = new PictureGroups();
  /** @type {import("./output.js").Media | null} */
  newestInit = null;
  /** @type {VideoFrame[]} Decoded and not shown yet, in order. */
  frames = [];
  /** @type {import("./mp4.js").Sample | null} What went to the decoder last. */
  fed = null;
  /** Time of the picture that shows. */
  shown = -Infinity;
  numShown = 0;
  isPaused = true;
  /** Whether the time waits for its picture. */
  isSeeking = false;
  isWaiting = false;
  hasEnded = false;
  asked = 0;
  numSeen = 0;
  stuckSince = 0;
  gone = new AbortController();

  /** @param {HTMLCanvasElement} canvas @param {import("./output.js").Listener} listener */
  constructor(canvas, listener) {
    this.element = canvas;
    this.listener = listener;
    this.context = canvas.getContext("2d", { alpha: false });
    this.decoder = new PictureDecoder({
      picture: (frame) => this.take(frame),
      ready: () => this.feed(),
      lost: () => this.restart(),
      failed: () => listener.failed(),
    });
    const { signal } = this.gone;
    document.addEventListener("visibilitychange", () => this.look(), { signal });
  }

  /** @param {string} type */
  static plays(type) {
    return isDecodable(type);
  }

  close() {
    this.gone.abort();
    this.decoder.close();
    this.dropFrames();
    this.element.hidden = true;
  }

  /** @param {string} type @param {Uint8Array} data */
  init(type, data) {
    this.newestInit = { type, data };
    if (!this.fed) this.decoder.prepare(this.newestInit);
  }

  /** @param {Uint8Array} data */
  add(data) {
    if (!this.newestInit) return;
    const from = this.groups.add(data, this.newestInit);
    if (this.fed && this.fed.time > from - SAME_S) this.restart();
    this.limit();
    this.listener.changed();
  }

  end() {
    this.hasEnded = true;
    this.feed();
  }

  get kept() {
    const media = this.groups.all.flatMap(({ init, fragments }) => [
      init,
      ...fragments.map((data) => ({ data })),
    ]);
    return this.newestInit ? [...media, this.newestInit] : media;
  }

  get ranges() {
    return this.groups.ranges;
  }

  get hasPicture() {
    return this.numShown > 0;
  }

  get isOver() {
    return this.hasEnded && this.time >= (this.ranges.at(-1)?.end ?? 0) - SAME_S;
  }

  get size() {
    return { width: this.element.width, height: this.element.height };
  }

  get rate() {
    return this.clock.rate;
  }

  set rate(rate) {
    this.clock.rate = rate;
  }

  get time() {
    return this.clock.time;
  }

  set time(seconds) {
    this.clock.time = seconds;
    this.limit();
    this.seek();
  }

  async play() {
    this.isPaused = false;
    this.run();
  }

  pause() {
    this.isPaused = true;
    this.run();
  }

  pump() {
    this.groups.forget(this.time);
    this.limit();
    this.awaitLate();
    this.feed();
    this.schedule();
    this.watchDecoder();
  }

  /** On a machine that decodes too slowly the time waits, as it does for a `<video>`. */
  awaitLate() {
    const due = this.groups.at(this.time - LATE_S);
    if (this.clock.runs && due && due.time > this.shown + SAME_S) this.seek();
  }

  /** The time ends where the next picture has not come. */
  limit() {
    const { time } = this;
    const range = this.ranges.find(({ end }) => time <= end + SAME_S);
    this.clock.end = range && range.start <= time + SAME_S ? range.end : time;
  }

  run() {
    const did = this.clock.runs;
    this.clock.runs = !this.isPaused && !this.isSeeking;
    this.schedule();
    if (this.clock.runs && !did) this.listener.flows();
  }

  /** To the picture of this moment, before the time goes on. */
  seek() {
    const target = this.groups.at(this.time);
    if (!target || document.hidden) return;
    if (target.time < this.shown - SAME_S) {
      this.shown = -Infinity;
      this.restart();
    }
    this.isSeeking = Math.abs(target.time - this.shown) > SAME_S;
    while (this.frames.length && timeOf(this.frames[0]) < target.time - SAME_S) this.frames.shift()?.close();
    this.run();
    this.feed();
  }

  /** Somebody looks, or nobody does. */
  look() {
    this.restart();
    this.isSeeking = false;
    this.shown = -Infinity;
    this.run();
    this.seek();
  }

  /** Decode again, from the last IDR picture before the one that shows. */
  restart() {
    this.fed = null;
    this.decoder.reset();
    this.dropFrames();
  }

  dropFrames() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.asked);
    this.asked = 0;
    for (const frame of this.frames) frame.close();
    this.frames = [];
  }

  feed() {
    while (!document.hidden && !this.gone.signal.aborted) {
      if (this.frames.length + this.decoder.numWaiting >= MAX_DECODED) return;
      const next = this.groups.next(this.fed, this.time);
      if (!next && this.hasEnded) this.decoder.finish();
      if (!next || next.sample.time > this.time + DECODE_AHEAD_S) return;
      this.fed = next.sample;
      this.decoder.decode(next.sample, next.init);
    }
  }

  /** @param {VideoFrame} frame */
  take(frame) {
    const time = timeOf(frame);
    const target = this.isSeeking ? (this.groups.at(this.time)?.time ?? 0) : 0;
    if (document.hidden || time < this.shown + SAME_S || time < target - SAME_S) frame.close();
    else this.frames.push(frame);
    this.schedule();
    this.feed();
  }

  /** Draw the next picture when it is due. */
  schedule() {
    clearTimeout(this.timer);
    const [next] = this.frames;
    if (!next || this.asked) return;
    const wait = this.isSeeking ? 0 : this.clock.until(timeOf(next) - EARLY_S);
    if (wait <= 0) this.asked = requestAnimationFrame(() => this.draw());
    else if (this.clock.runs) this.timer = setTimeout(() => this.schedule(), wait);
  }

  /** The newest that is due; others are too late. */
  draw() {
    this.asked = 0;
    const due = this.frames.findLastIndex((frame) => timeOf(frame) <= this.time + EARLY_S);
    const [frame, ...late] = this.frames.splice(0, Math.max(1, due + 1)).reverse();
    for (const each of late) each.close();
    if (frame) this.paint(frame);
  }

  /** @param {VideoFrame} frame */
  paint(frame) {
    const { displayWidth: width, displayHeight: height } = frame;
    const isResized = this.element.width !== width || this.element.height !== height;
    if (isResized) Object.assign(this.element, { width, height });
    this.context?.drawImage(frame, 0, 0);
    this.shown = timeOf(frame);
    this.numShown += 1;
    frame.close();
    if (isResized) this.listener.resized();
    const isAwaited = this.isSeeking;
    this.isSeeking = false;
    this.run();
    this.feed();
    if (isAwaited || this.groups.at(this.shown)?.isKey) this.listener.moved(); // A segment's first one.
  }

  /** One that takes pictures and gives none will not begin to. */
  watchDecoder() {
    const due = this.groups.at(this.time)?.time ?? -Infinity;
    const isOwed = due > this.shown + SAME_S && (this.fed?.time ?? -Infinity) >= due && !this.frames.length;
    const isStuck = isOwed && !document.hidden && this.numShown === this.numSeen;
    this.numSeen = this.numShown;
    this.stuckSince = isStuck ? this.stuckSince || performance.now() : 0;
    if (isStuck && performance.now() - this.stuckSince > STUCK_MS) this.listener.failed();
  }
}

/** @param {VideoFrame} frame @returns {number} seconds of the session */
function timeOf(frame) {
  return frame.timestamp / 1e6;
}
