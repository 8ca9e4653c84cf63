// @ts-check
/** Records what arrives from now on, in this page's memory, and saves it as MP4. */

import { make } from "./dom.js";
import { shifted } from "./mp4.js";
import { seconds } from "./times.js";

const MAX_BYTES = 512 * 2 ** 20;
const REVOKE_MS = 60_000;

export class Recorder {
  /** @param {(text: string) => void} tell why it stopped by itself */
  constructor(tell) {
    this.tell = tell;
    /** @type {Uint8Array | null} */
    this.init = null;
    /** @type {Uint8Array[] | null} null: it does not record */
    this.parts = null;
    this.numBytes = 0;
    this.from = 0;
    this.until = 0;
    this.newest = 0;
    this.name = "";
  }

  get isRecording() {
    return this.parts !== null;
  }

  /** Seconds of video so far. */
  get length() {
    return this.parts?.length ? this.until - this.from : 0;
  }

  /** @param {string} name of the file, without its ending */
  start(name) {
    this.parts = [];
    this.numBytes = 0;
    this.newest = 0;
    this.name = name;
  }

  /** @param {Uint8Array} data the newest initialisation segment; one file cannot hold two */
  takeInit(data) {
    const isOther =
      this.init && (this.init.length !== data.length || this.init.some((byte, i) => byte !== data[i]));
    if (isOther && this.parts?.length) {
      this.stop();
      this.tell("The recording was saved: what follows is encoded otherwise.");
    }
    this.init = data;
  }

  /** Each once, also where the player needs it again.
   * @param {any} content ConnectResponse.Segment @param {Uint8Array} data */
  take(content, data) {
    const sequence = Number(content.sequence);
    if (!this.parts || sequence <= this.newest) return;
    this.newest = sequence;
    const start = seconds(content.media.presentationTime) ?? 0;
    if (!this.parts.length) this.from = start;
    this.until = start + (seconds(content.media.duration) ?? 0);
    this.parts.push(shifted(data, this.from));
    this.numBytes += data.length;
    if (this.numBytes < MAX_BYTES) return;
    this.stop();
    this.tell("The recording was saved: 512 MiB is all that a page can hold.");
  }

  /** Save what there is. @returns {boolean} whether there was anything */
  stop() {
    const { parts, init } = this;
    this.parts = null;
    if (!parts?.length || !init) return false;
    save(new Blob(/** @type {BlobPart[]} */ ([init, ...parts]), { type: "video/mp4" }), `${this.name}.mp4`);
    return true;
  }
}

/** @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS);
}
