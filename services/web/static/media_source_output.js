// @ts-check
/** Shows pictures in a `<video>`, by Media Source Extensions. */

import { isPlayable, MediaQueue } from "./media_queue.js";

/** @implements {Output} @typedef {import("./output.js").Output} Output */
export class MediaSourceOutput {
  gone = new AbortController();
  hasPicture = false;

  /** @param {HTMLVideoElement} video @param {import("./output.js").Listener} listener */
  constructor(video, listener) {
    this.element = video;
    this.queue = new MediaQueue(video, () => listener.changed());
    /** @param {string} name @param {() => void} heard */
    const on = (name, heard) => video.addEventListener(name, heard, { signal: this.gone.signal });
    for (const name of ["timeupdate", "playing", "seeked", "waiting"]) on(name, () => listener.moved());
    on("playing", () => listener.flows());
    on("resize", () => listener.resized());
    on("error", () => listener.failed());
    for (const name of ["loadeddata", "seeked"])
      on(name, () => (this.hasPicture ||= video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA));
    video.playbackRate = 1;
  }

  /** @param {string} type */
  static plays(type) {
    return isPlayable(type);
  }

  close() {
    this.gone.abort();
    this.queue.close();
  }

  /** @param {string} type @param {Uint8Array} data */
  init(type, data) {
    this.queue.init(type, data);
  }

  /** @param {Uint8Array} data */
  add(data) {
    this.queue.add(data);
  }

  end() {
    this.queue.end();
  }

  /** A `<video>` cannot give back what it was given. */
  get kept() {
    return [];
  }

  get ranges() {
    return this.queue.ranges;
  }

  get time() {
    return this.element.currentTime;
  }

  set time(seconds) {
    this.element.currentTime = seconds;
  }

  get rate() {
    return this.element.playbackRate;
  }

  set rate(rate) {
    this.element.playbackRate = rate;
  }

  get isPaused() {
    return this.element.paused;
  }

  get isSeeking() {
    return this.element.seeking;
  }

  get isOver() {
    return this.element.ended;
  }

  get isWaiting() {
    return this.element.readyState < HTMLMediaElement.HAVE_FUTURE_DATA;
  }

  get size() {
    return { width: this.element.videoWidth, height: this.element.videoHeight };
  }

  get numShown() {
    const { totalVideoFrames, droppedVideoFrames } = this.element.getVideoPlaybackQuality();
    return totalVideoFrames - droppedVideoFrames;
  }

  play() {
    return this.element.play();
  }

  pause() {
    this.element.pause();
  }

  pump() {
    this.queue.trim();
    this.queue.pump();
  }
}
