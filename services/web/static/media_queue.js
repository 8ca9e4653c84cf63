// @ts-check
/** Media on its way into a SourceBuffer: one append at a time, in order, and never more than fits. */

import { secondsAfter } from "./ranges.js";

const KEEP_BEHIND_S = 20;
const TRIM_AFTER_S = 25;
const KEEP_LITTLE_S = 2;
const MAX_AHEAD_S = 60;
const MAX_QUEUED = 128;

/** Phones have another one, with the same interface. @type {typeof MediaSource | undefined} */
const Source = globalThis.MediaSource ?? /** @type {any} */ (globalThis).ManagedMediaSource;

/** @param {string} type @returns {boolean} whether this browser plays it */
export function isPlayable(type) {
  return Boolean(Source?.isTypeSupported(type));
}

export class MediaQueue {
  /** @param {HTMLVideoElement} video @param {() => void} changed called after each append */
  constructor(video, changed) {
    this.video = video;
    this.changed = changed;
    /** @type {import("./output.js").Media[]} */
    this.jobs = [];
    /** @type {SourceBuffer | null} */
    this.buffer = null;
    this.hasEnded = false;
    if (!Source) throw new Error("isPlayable was not asked");
    this.source = new Source();
    this.url = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => this.pump());
    video.src = this.url;
  }

  close() {
    this.jobs = [];
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.url);
    this.buffer = null;
  }

  /** @param {string} type @param {Uint8Array} data */
  init(type, data) {
    this.jobs.push({ type, data });
    this.pump();
  }

  /** @param {Uint8Array} data */
  add(data) {
    this.jobs.push({ data });
    if (this.jobs.length > MAX_QUEUED)
      this.jobs.splice(
        this.jobs.findIndex((job) => !job.type),
        1,
      );
    this.pump();
  }

  end() {
    this.hasEnded = true;
    this.pump();
  }

  /** @returns {import("./ranges.js").Range[]} */
  get ranges() {
    if (!this.buffer) return [];
    const { buffered } = this.source.readyState === "closed" ? this.video : this.buffer;
    return Array.from({ length: buffered.length }, (_, i) => ({
      start: buffered.start(i),
      end: buffered.end(i),
    }));
  }

  /** Drop what was played long ago. @param {number} [keep] seconds behind */
  trim(keep = KEEP_BEHIND_S) {
    const { buffer, video } = this;
    const [first] = this.ranges;
    if (!buffer || buffer.updating || !first || this.source.readyState !== "open") return false;
    const isDue = video.currentTime - first.start > (keep === KEEP_BEHIND_S ? TRIM_AFTER_S : keep);
    if (isDue) buffer.remove(0, video.currentTime - keep);
    return isDue;
  }

  pump() {
    if (this.source.readyState !== "open" || this.buffer?.updating || this.video.error) return;
    const [job] = this.jobs;
    if (!job) {
      if (this.hasEnded && this.buffer) this.source.endOfStream();
    } else if (secondsAfter(this.ranges, this.video.currentTime) < MAX_AHEAD_S) {
      this.append(job); // However far ahead it begins: a viewer may have missed what lies between.
    }
  }

  /** @param {import("./output.js").Media} job */
  append(job) {
    try {
      this.prepare(job)?.appendBuffer(/** @type {BufferSource} */ (job.data));
      this.jobs.shift();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== "QuotaExceededError") throw error;
      this.trim(KEEP_LITTLE_S); // The player's next tick tries again.
    }
  }

  /** @param {import("./output.js").Media} job @returns {SourceBuffer | null} */
  prepare(job) {
    if (!this.buffer) {
      this.buffer = this.source.addSourceBuffer(job.type ?? "video/mp4");
      this.buffer.mode = "segments";
      this.buffer.addEventListener("updateend", () => {
        this.pump();
        this.changed();
      });
    } else if (job.type) {
      this.buffer.changeType(job.type);
    }
    return this.buffer;
  }
}
