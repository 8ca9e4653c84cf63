// @ts-check
/** Media on its way into a SourceBuffer: one append at a time, in order, and never more than fits. */

const KEEP_BEHIND_S = 20;
const TRIM_AFTER_S = 25;
const KEEP_LITTLE_S = 2;
const MAX_AHEAD_S = 60;
const MAX_QUEUED = 128;
const NEAR_S = 0.1;

/** Phones have another one, with the same interface. @type {typeof MediaSource | undefined} */
const Source = globalThis.MediaSource ?? /** @type {any} */ (globalThis).ManagedMediaSource;

/** @param {string} type @returns {boolean} whether this browser plays it */
export function isPlayable(type) {
  return Boolean(Source?.isTypeSupported(type));
}

/** @typedef {{type?: string, data: Uint8Array}} Job with a type: an initialisation segment */

export class MediaQueue {
  /** @param {HTMLVideoElement} video @param {() => void} changed called after each append */
  constructor(video, changed) {
    this.video = video;
    this.changed = changed;
    /** @type {Job[]} */
    this.jobs = [];
    /** @type {SourceBuffer | null} */
    this.buffer = null;
    /** @type {Uint8Array | null} */
    this.newestInit = null;
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

  /** Each line brings it again; another one comes only after another encoder.
   * @param {string} type @param {Uint8Array} data */
  init(type, data) {
    if (this.newestInit && isSame(this.newestInit, data)) return;
    this.newestInit = data;
    this.jobs.push({ type, data });
    this.pump();
  }

  /** @param {Uint8Array} data */
  segment(data) {
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

  get hasMedia() {
    return Boolean(this.buffer && this.ranges.length);
  }

  get ranges() {
    return this.buffer && this.source.readyState !== "closed" ? this.buffer.buffered : this.video.buffered;
  }

  get firstTime() {
    return this.ranges.start(0);
  }

  get lastTime() {
    return this.ranges.end(this.ranges.length - 1);
  }

  /** @param {number} time @returns {number} seconds of media from there on, gaps not counted */
  secondsAfter(time) {
    const { ranges } = this;
    let sum = 0;
    for (let i = 0; i < ranges.length; i += 1)
      sum += Math.max(0, ranges.end(i) - Math.max(time, ranges.start(i)));
    return sum;
  }

  /** @param {number} time @returns {number | undefined} where to go on, when nothing is left here but later */
  nextRange(time) {
    const { ranges } = this;
    for (let i = 0; i < ranges.length; i += 1) {
      if (ranges.start(i) <= time && time < ranges.end(i) - NEAR_S) return undefined;
      if (ranges.start(i) > time + 1e-3) return ranges.start(i);
    }
    return undefined;
  }

  /** Drop what was played long ago. @param {number} [keep] seconds behind */
  trim(keep = KEEP_BEHIND_S) {
    const { buffer, video } = this;
    if (!buffer || buffer.updating || !this.hasMedia || this.source.readyState !== "open") return false;
    const isDue = video.currentTime - this.firstTime > (keep === KEEP_BEHIND_S ? TRIM_AFTER_S : keep);
    if (isDue) buffer.remove(0, video.currentTime - keep);
    return isDue;
  }

  pump() {
    if (this.source.readyState !== "open" || this.buffer?.updating || this.video.error) return;
    const [job] = this.jobs;
    if (!job) {
      if (this.hasEnded && this.buffer) this.source.endOfStream();
    } else if (this.secondsAfter(this.video.currentTime) < MAX_AHEAD_S) {
      this.append(job); // However far ahead it begins: a viewer may have missed what lies between.
    }
  }

  /** @param {Job} job */
  append(job) {
    try {
      this.prepare(job)?.appendBuffer(/** @type {BufferSource} */ (job.data));
      this.jobs.shift();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== "QuotaExceededError") throw error;
      this.trim(KEEP_LITTLE_S); // The player's next tick tries again.
    }
  }

  /** @param {Job} job @returns {SourceBuffer | null} */
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

/** @param {Uint8Array} one @param {Uint8Array} other */
function isSame(one, other) {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}
