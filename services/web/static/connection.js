// @ts-check
/** A session over as many WebSockets as it takes: it attaches again by itself, without a loss and without a repeat. */

import { freshId } from "./api.js";
import { ConnectStream, PROBLEM_CODES } from "./connect_stream.js";
import { Granted } from "./granted.js";

const CONTROLLER = "CONNECT_ROLE_CONTROLLER";
const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 10_000;
const SILENCE_MS = 10_000;
const DOUBT_MS = 2000;
const MOST_DOUBTS = 5;
const MAX_OUTBOX = 16;
const MAX_FAILURES = 3;
const RETRYABLE = [408, 429, 500, 502, 503, 504];

/**
 * @typedef {{name: string, token: string, role: string, after: number, credit: number}} Place
 *   after: highest sequence that this page has; 0: none; credit: segments made beyond what has begun to play
 * @typedef {{
 *   event(kind: string, content: any, media: Uint8Array | null): void,
 *   connected(isConnected: boolean): void,
 *   token(token: string): void,
 *   isDue(): boolean,
 *   playback(): Record<string, unknown>,
 *   renew(): Promise<string | null>,
 *   waits(problem: import("./problem.js").Problem): void,
 *   rejected(requestIds: string[], problem: import("./problem.js").Problem): void,
 *   finished(problem: import("./problem.js").Problem): void,
 * }} Listener
 *   playback: what the player has, as ConnectRequest.Playback;
 *   isDue: whether a segment should have come by now; renew: another token, or null;
 *   waits: why it is not attached yet; rejected: messages that can never be taken; finished: it cannot go on
 */

export class Connection {
  /** @param {Place} place @param {Listener} listener */
  constructor(place, listener) {
    this.place = place;
    this.listener = listener;
    /** @type {ConnectStream | null} */
    this.current = null;
    /** @type {ConnectStream | null} The one that takes over as soon as it is attached. */
    this.coming = null;
    /** @type {Map<string, Record<string, unknown>>} What the session has not answered yet, by request id. */
    this.outbox = new Map();
    this.granted = new Granted();
    this.wasAttached = false;
    /** Whether the gateway wants to know what the player has. */
    this.isJustInTime = false;
    this.acked = 0;
    this.attempts = 0;
    this.failures = 0;
    this.isOver = false;
    this.heardAt = performance.now();
    /** Streams that were doubted since the last segment. */
    this.doubts = 0;
    this.watch = setInterval(() => this.probe(), 1000);
    this.hurry = () => this.retryNow();
    addEventListener("online", this.hurry);
    document.addEventListener("visibilitychange", this.hurry);
    this.open();
  }

  get isConnected() {
    return Boolean(this.current);
  }

  /** Attach, beside the present stream if there is one. */
  open() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.isOver || this.coming) return;
    const { name, token, role, after, credit } = this.place;
    const withParts = role === CONTROLLER; // Viewers are further behind than a segment lasts.
    const attach = { resumeToken: token, role, maxUnackedSegments: credit, withTicks: true, withParts };
    const more = after ? { afterSequence: String(after) } : {};
    this.coming = new ConnectStream(name, { ...attach, ...more, client: "cascade-page/1" }, this);
  }

  /** @param {number} credit from now on */
  allow(credit) {
    this.place.credit = credit;
    this.open();
  }

  /** All has been well for a while. */
  calmDown() {
    this.failures = 0;
  }

  /** Nothing is heard of it any more; the session goes on. */
  close() {
    this.isOver = true;
    clearTimeout(this.timer);
    clearInterval(this.watch);
    removeEventListener("online", this.hurry);
    document.removeEventListener("visibilitychange", this.hurry);
    this.current?.retire();
    this.coming?.retire();
    this.current = this.coming = null;
  }

  /** @param {number} sequence Everything up to it has begun to play. */
  ack(sequence) {
    if (sequence <= this.acked) return;
    this.acked = sequence;
    this.sendAck();
  }

  /** As far as this stream has brought the segments: an ack of one that it has not sent yet would end it. */
  sendAck() {
    const sequence = Math.min(this.acked, this.current?.newest ?? 0);
    const more = this.isJustInTime ? { playback: this.listener.playback() } : {};
    if (sequence) this.current?.send({ ack: { sequence: String(sequence), ...more } });
  }

  /** What the player has is another, without a segment that begins to play. */
  tellPlayback() {
    if (this.isJustInTime) this.sendAck();
  }

  /** Sent now or when attached again, until it is settled.
   * @param {"switchPrompt" | "setPaused" | "end"} kind @param {Record<string, unknown>} content
   * @returns {string} its request id */
  request(kind, content) {
    const requestId = freshId();
    const message = { [kind]: { requestId, ...content } };
    if (kind === "setPaused") this.settleAll(kind, false);
    if (!this.outbox.size) this.heardAt = performance.now(); // From now on silence counts.
    if (this.outbox.size >= MAX_OUTBOX) {
      const detail = "Too much waits for the connection already.";
      queueMicrotask(() => this.listener.rejected([requestId], { detail }));
      return requestId;
    }
    this.outbox.set(requestId, message);
    this.current?.send(message);
    return requestId;
  }

  /** The session has answered. @param {string} requestId @param {boolean} isGranted */
  settle(requestId, isGranted = true) {
    const message = this.outbox.get(requestId);
    if (message && isGranted) this.granted.note(requestId, message);
    this.outbox.delete(requestId);
  }

  /** @param {string} kind @param {boolean} isGranted */
  settleAll(kind, isGranted = true) {
    for (const [requestId, message] of this.outbox) if (kind in message) this.settle(requestId, isGranted);
  }

  /** @param {ConnectStream} stream @param {string} kind @param {any} content @param {Uint8Array | null} media */
  event(stream, kind, content, media) {
    this.heardAt = performance.now();
    if (kind === "attached") this.takeOver(stream, content);
    if (kind === "attached" || kind === "tokenRenewed") this.renewed(content.resumeToken);
    if (kind === "segment" && !this.isNew(stream, Number(content.sequence))) return;
    if (kind === "part" && Number(content.sequence) <= this.place.after) return;
    if (kind === "reconnect") this.open();
    if (kind === "ended") this.close();
    this.listener.event(kind, content, media);
    const isAccepted = kind === "promptReceipt" && content.state === "SWITCH_STATE_ACCEPTED";
    if (isAccepted) this.granted.heardAccepted(content.requestId);
    const asks = [...this.outbox.values()].some((message) => "setPaused" in message);
    if (kind === "stateChanged" && !asks) this.granted.heardPaused(Boolean(content.paused));
  }

  /** Whether this segment has not come before, over another stream. @param {ConnectStream} stream @param {number} sequence */
  isNew(stream, sequence) {
    stream.newest = sequence;
    if (sequence <= this.place.after) {
      this.sendAck();
      return false;
    }
    this.place.after = sequence;
    this.attempts = 0;
    this.doubts = 0;
    if (sequence <= this.acked) this.sendAck(); // Its first parts play already.
    return true;
  }

  /** @param {ConnectStream} stream @param {any} attached */
  takeOver(stream, { nextSequence, receipts = [], session, justInTime }) {
    this.current?.retire();
    this.current = stream;
    this.isJustInTime = Boolean(justInTime);
    stream.newest = Number(nextSequence) - 1; // It takes what came before for known.
    const known = receipts.map((/** @type {any} */ receipt) => receipt.requestId);
    const forgotten = this.wasAttached ? this.granted.takeUnknown(known, Boolean(session.paused)) : [];
    this.outbox = new Map([...forgotten, ...this.outbox]);
    this.wasAttached = true;
    this.coming = null;
    this.listener.connected(true);
    this.sendAck();
    for (const message of this.outbox.values()) stream.send(message);
  }

  /** @param {string} token */
  renewed(token) {
    this.place.token = token;
    this.listener.token(token);
  }

  /** @param {ConnectStream} stream @param {number} code of the close */
  lost(stream, code) {
    const problem = stream.problem ?? { status: code > PROBLEM_CODES ? code - PROBLEM_CODES : 0 };
    const isComing = stream === this.coming;
    if (isComing) this.coming = null;
    else this.current = null;
    if (this.coming) return; // It is being replaced.
    this.listener.connected(Boolean(this.current));
    if (problem.status === 400 && this.outbox.size) this.reject(problem);
    else if (code >= PROBLEM_CODES && !this.isPassing(problem)) this.refused(problem);
    else {
      if (stream.problem && !this.current) this.listener.waits(stream.problem);
      this.retryLater(problem.retryAfterSeconds ?? 0);
    }
  }

  /** A message that breaks the contract ends the stream: go on without it.
   * @param {import("./problem.js").Problem} problem */
  reject(problem) {
    const requestIds = [...this.outbox.keys()];
    this.outbox.clear();
    this.listener.rejected(requestIds, problem);
    this.retryLater(0);
  }

  /** Whether time may heal it. An internal error might, a few times.
   * @param {import("./problem.js").Problem} problem */
  isPassing(problem) {
    if (problem.status === 500) this.failures += 1;
    return RETRYABLE.includes(problem.status ?? 0) && this.failures <= MAX_FAILURES;
  }

  /** @param {import("./problem.js").Problem} problem */
  async refused(problem) {
    const token = problem.status === 401 ? await this.listener.renew() : null;
    if (this.isOver) return;
    if (token) {
      this.renewed(token);
      this.retryLater(0);
    } else {
      this.close();
      this.listener.finished(problem);
    }
  }

  /** @param {number} least seconds that the gateway asked to wait */
  retryLater(least) {
    const longest = Math.min(LAST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.attempts);
    this.attempts += 1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), Math.max(least * 1000, Math.random() * longest));
  }

  /** The network or the tab is back: no need to wait. */
  retryNow() {
    if (this.timer === undefined || document.visibilityState === "hidden") return;
    this.attempts = 0;
    this.open();
  }

  /** Nobody looked at the page for a while: a stream that is silent now may be dead. @param {boolean} hasSlept */
  wake(hasSlept) {
    if (this.current && (hasSlept || performance.now() - this.heardAt > DOUBT_MS)) this.open();
  }

  /** A stream can be dead without a close: when segments or answers should come and none does, attach beside it; each
   * time in vain, later, since the session may have nothing to send. */
  probe() {
    const isDue = this.outbox.size > 0 || this.listener.isDue();
    if (!this.current || this.coming || !isDue) return;
    if (performance.now() - this.heardAt < SILENCE_MS * 2 ** this.doubts) return;
    this.doubts = Math.min(MOST_DOUBTS, this.doubts + 1);
    this.heardAt = performance.now();
    this.open();
  }
}
