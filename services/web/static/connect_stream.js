// @ts-check
/** One WebSocket to a session, from its first message to its close. */

import { socketOf } from "./addresses.js";
import { parseFrame } from "./frames.js";

const PROTOCOL = "cascade.v1";
const ATTACH_DEADLINE_MS = 10_000;
export const PROBLEM_CODES = 4000;

export class ConnectStream {
  /**
   * @param {string} name `sessions/{id}`
   * @param {Record<string, unknown>} attach
   * @param {{event(stream: ConnectStream, kind: string, content: any, media: Uint8Array | null): void,
   *   lost(stream: ConnectStream, code: number): void}} owner
   */
  constructor(name, attach, owner) {
    this.owner = owner;
    this.isAttached = false;
    this.isRetired = false;
    /** Highest sequence that may be acknowledged over it. */
    this.newest = 0;
    /** @type {Uint8Array[]} What has come of the next segment. */
    this.parts = [];
    /** @type {import("./problem.js").Problem | null} Why the gateway closes it. */
    this.problem = null;
    this.socket = new WebSocket(socketOf(`/v1/${name}/connect`), PROTOCOL);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.send({ attach });
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = (event) => this.end(event.code);
    this.deadline = setTimeout(() => this.end(1006), ATTACH_DEADLINE_MS);
  }

  /** @param {Record<string, unknown>} message */
  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** Nothing more is heard of it. */
  retire() {
    this.isRetired = true;
    clearTimeout(this.deadline);
    this.socket.close(1000);
  }

  /** @param {string | ArrayBuffer} data */
  take(data) {
    if (this.isRetired) return;
    const { kind, content, media } = parseFrame(data);
    if (kind === "problem") {
      this.problem = content;
      return;
    }
    if (kind === "attached") {
      this.isAttached = true;
      clearTimeout(this.deadline);
    }
    this.owner.event(this, kind, content, this.joined(kind, content, media));
  }

  /** A segment that came in parts has its media again. @param {string} kind @param {any} content
   * @param {Uint8Array | null} media */
  joined(kind, content, media) {
    if (kind === "part" && media) this.parts = content.index ? [...this.parts, media] : [media];
    return kind === "segment" && content.numParts ? joinedOf(this.parts) : media;
  }

  /** @param {number} code */
  end(code) {
    if (this.isRetired) return;
    this.retire();
    this.owner.lost(this, code);
  }
}

/** @param {Uint8Array[]} parts */
function joinedOf(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
