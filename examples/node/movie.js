// An MP4 that grows by whole segments.

import { open, rename, rm } from "node:fs/promises";

/** Under another name until it is closed. The media init and all segments in order are a file that plays. */
export class Movie {
  #path;
  #partial;
  #file;
  #init = null;
  seconds = 0;
  frames = 0;

  static async create(path) {
    const movie = new Movie();
    movie.#path = path;
    movie.#partial = `${path}.part`;
    movie.#file = await open(movie.#partial, "w");
    return movie;
  }

  /** It comes again when it changes, which one file cannot hold. */
  async begin({ data }) {
    if (this.#init && !this.#init.equals(data)) throw new Error("the form of the video has changed");
    if (!this.#init) await this.#file.appendFile(data);
    this.#init = Buffer.from(data);
  }

  async add({ data, numFrames, duration }) {
    await this.#file.appendFile(data);
    this.frames += numFrames;
    this.seconds += seconds(duration);
  }

  /** Keeps the file where it has pictures. */
  async close() {
    await this.#file.sync();
    await this.#file.close();
    await (this.frames ? rename(this.#partial, this.#path) : rm(this.#partial));
  }
}

/** Of a google.protobuf.Duration. */
export function seconds(duration) {
  return Number(duration.seconds) + duration.nanos / 1e9;
}
