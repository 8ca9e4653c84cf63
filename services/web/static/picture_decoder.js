// @ts-check
/** A WebCodecs decoder that is made when it is needed, and again when the browser has taken it back. */

import { avcRecordOf } from "./mp4.js";

const MICROSECONDS = 1e6;

/** @param {string} type of the media @returns {string | undefined} its codec, where it is H.264 */
function codecOf(type) {
  return /codecs="(avc1\.[0-9a-f]+)"/i.exec(type)?.[1];
}

/** @param {string} type @returns {boolean} whether it is worth a try: pages over plain HTTP have no decoder */
export function isDecodable(type) {
  return "VideoDecoder" in globalThis && Boolean(codecOf(type));
}

/**
 * @typedef {{picture(frame: VideoFrame): void, ready(): void, lost(): void, failed(): void}} Listener
 *   ready: it takes more; lost: what was under way never comes; failed: this browser does not decode it
 */

export class PictureDecoder {
  /** @type {VideoDecoder | null} */
  decoder = null;
  /** @type {import("./output.js").Media | null} What it is configured for. */
  init = null;
  /** Whether it has given a picture since it was made. */
  isProven = false;
  hasFinished = false;

  /** @param {Listener} listener */
  constructor(listener) {
    this.listener = listener;
  }

  /** Pictures that it has yet to begin with. */
  get numWaiting() {
    return this.decoder?.decodeQueueSize ?? 0;
  }

  /** Ready before the first picture comes. @param {import("./output.js").Media} init */
  prepare(init) {
    try {
      this.decoder ??= this.make();
      if (init !== this.init) this.configure(init);
    } catch (error) {
      this.fail(/** @type {Error} */ (error));
    }
  }

  /** @param {import("./mp4.js").Sample} sample a key picture, or the next one
   * @param {import("./output.js").Media} init of it */
  decode(sample, init) {
    this.prepare(init);
    try {
      this.decoder?.decode(
        new EncodedVideoChunk({
          type: sample.isKey ? "key" : "delta",
          timestamp: Math.round(sample.time * MICROSECONDS),
          duration: Math.round(sample.duration * MICROSECONDS),
          data: /** @type {BufferSource} */ (sample.data),
        }),
      );
    } catch (error) {
      this.fail(/** @type {Error} */ (error));
    }
  }

  make() {
    this.isProven = false;
    const made = new VideoDecoder({
      output: (frame) => this.take(frame),
      error: (error) => made === this.decoder && this.fail(error),
    });
    made.addEventListener("dequeue", () => made === this.decoder && this.listener.ready());
    return made;
  }

  /** @param {import("./output.js").Media} init */
  configure(init) {
    this.init = init;
    this.hasFinished = false;
    const codec = codecOf(init.type ?? "") ?? "";
    const description = /** @type {BufferSource | undefined} */ (avcRecordOf(init.data));
    this.decoder?.configure({ codec, description, optimizeForLatency: true });
  }

  /** @param {VideoFrame} frame */
  take(frame) {
    this.isProven = true;
    this.listener.picture(frame);
  }

  /** Browsers take a decoder back that did nothing for long. @param {Error} error */
  fail(error) {
    const isReclaimed = error.name === "QuotaExceededError" && this.isProven;
    this.close();
    if (isReclaimed) this.listener.lost();
    else this.listener.failed();
  }

  /** No more comes: give what is held back. */
  finish() {
    if (this.hasFinished || !this.init) return;
    this.hasFinished = true;
    this.decoder?.flush().catch(() => {}); // It was reset or closed meanwhile.
  }

  /** Nothing is heard any more of what is under way. */
  reset() {
    if (this.decoder?.state === "configured") this.decoder.reset();
    this.init = null;
  }

  close() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.init = null;
  }
}
