// @ts-check
/** The session that this page controls or watches: what it asks of the gateway, and what it hears. */

import { freshId } from "./api.js";
import { Connection } from "./connection.js";
import { Credit } from "./credit.js";
import { memory } from "./memory.js";
import { ProblemError } from "./problem.js";
import { onWake } from "./wake.js";

const HELD = "session";
/** A picture or clip is encoded before the answer comes. */
const START_DEADLINE_MS = 60_000;
const MAX_ASKED = 64;
const AMPLE_S = 5;
const MAX_BROKEN = 3;
const CALM_MS = 120_000;
const MAX_ASKED_CHARS = 200;
const CONTROLLER = "CONNECT_ROLE_CONTROLLER";
export const VIEWER = "CONNECT_ROLE_VIEWER";

/** @typedef {import("./problem.js").Problem} Problem */
/**
 * @typedef {{name: string, token: string, sequence: number, time: number, asked: Record<string, Asked>}} Held
 *   what a reload goes on from; asked: switches by request id
 * @typedef {{text: string, time: number}} Asked time: seconds of the session
 * @typedef {{changed(): void, heard(kind: string, content: any, media: Uint8Array | null): void,
 *   waits(problem: Problem): void, rejected(requestIds: string[], problem: Problem): void,
 *   finished(problem: Problem): void}} Listener
 */

export class Session {
  /** @type {Connection | null} */
  connection = null;
  name = "";
  token = "";
  role = CONTROLLER;
  state = "none";
  epoch = 0;
  isPaused = false;
  isConnected = false;
  wasConnected = false;
  isLost = false;
  received = 0;
  numBroken = 0;
  /** Whether the gateway knows neither its token nor its name any more. */
  isForgotten = false;
  /** Segments ahead that it asks for, and those that the gateway allows. */
  wishes = new Credit(performance.now());
  credit = this.wishes.wish;
  stalledAt = performance.now();
  /** Of a viewer: the token of its link, good for longer than those that follow. */
  link = "";
  /** @type {Record<string, Asked>} */
  asked = {};

  /** @param {import("./api.js").Api} api @param {import("./player.js").Player} player @param {Listener} listener
   * @param {string} held under which name a reload finds it */
  constructor(api, player, listener, held = HELD) {
    this.api = api;
    this.held = held;
    this.player = player;
    this.listener = listener;
    onWake((hasSlept) => this.wake(hasSlept));
  }

  forget() {
    this.connection?.close();
    this.connection = null;
    this.name = "";
    this.token = "";
    this.role = CONTROLLER;
    this.state = "none";
    this.epoch = 0;
    this.isPaused = false;
    this.wasConnected = false;
    this.isConnected = false;
    this.isLost = false;
    this.received = 0;
    this.numBroken = 0;
    this.isForgotten = false;
    this.wishes = new Credit(performance.now());
    this.credit = this.wishes.wish;
    this.stalledAt = performance.now();
    this.link = "";
    this.asked = {};
  }

  get isLive() {
    return Boolean(this.connection && !this.connection.isOver);
  }

  get isViewer() {
    return this.role === VIEWER;
  }

  /** One of those of `#state`. */
  get shownState() {
    if (!this.isLive) return this.state;
    if (!this.isConnected) return this.wasConnected ? "offline" : "connecting";
    if (this.isViewer && this.isPaused) return "paused";
    if (this.state !== "active") return this.state;
    if (!this.player.begun) return "starting";
    return this.player.isBehind ? "behind" : this.player.isStarved ? "buffering" : "active";
  }

  /** @param {Record<string, unknown>} spec SessionSpec as JSON. Raises ProblemError. */
  async create(spec) {
    this.forget();
    this.state = "connecting";
    this.listener.changed();
    try {
      const deadlineMs = spec.start ? START_DEADLINE_MS : undefined;
      const made = await this.api.post("/v1/sessions", { requestId: freshId(), spec }, deadlineMs);
      this.attach({ name: made.session.name, token: made.resumeToken, sequence: 0, time: 0, asked: {} });
    } catch (error) {
      this.state = "none";
      this.listener.changed();
      throw error;
    }
  }

  /** The session of before a reload. @returns {boolean} whether there is one */
  resume() {
    const held = memory.get(this.held);
    if (!held?.name || !held.token) return false;
    this.forget();
    this.attach(held);
    return true;
  }

  /** @param {string} name @param {string} token */
  watch(name, token) {
    this.forget();
    this.role = VIEWER;
    this.link = token;
    this.attach({ name, token, sequence: 0, time: 0, asked: {} });
  }

  /** @param {Held} held */
  attach({ name, token, sequence, time, asked }) {
    Object.assign(this, { name, token, asked, state: "connecting" });
    const after = Math.max(0, sequence - 1); // The segment that was on the screen is needed once more.
    this.player.reset({ isViewer: this.isViewer, from: time, credit: this.credit });
    if (this.isPaused) this.player.want(false);
    this.connection = new Connection(
      { name, token, role: this.role, after, credit: this.wishes.wish },
      {
        event: (kind, content, media) => this.hear(kind, content, media),
        connected: (isConnected) => this.setConnected(isConnected),
        token: (newest) => this.keep(newest),
        isDue: () => this.isDue(),
        playback: () => this.player.playback,
        renew: () => this.renew(),
        waits: (problem) => {
          if (!this.wasConnected) this.listener.waits(problem);
        },
        rejected: (requestIds, problem) => this.listener.rejected(requestIds, problem),
        finished: (problem) => this.finish(problem),
      },
    );
    this.keep(token);
    this.listener.changed();
  }

  /** Begin afresh, after what has been played. @param {number} sequence */
  reattach(sequence) {
    if (!this.isLive) return;
    this.numBroken += 1;
    if (this.numBroken > MAX_BROKEN) return this.giveUp();
    const { name, token, asked } = this;
    this.connection?.close();
    this.attach({ name, token, asked, sequence: sequence + 1, time: 0 });
  }

  giveUp() {
    this.connection?.close();
    this.finish({ detail: "This browser cannot play the video any more. Reload the page." });
  }

  /** @param {string} [token] the newest. What a reload needs; a viewer's link is in its address. */
  keep(token = this.token) {
    this.token = token;
    if (this.isViewer || !this.isLive) return;
    const sequence = this.player.begun || memory.get(this.held)?.sequence || 0;
    const time = this.player.hasStarted ? this.player.time : (memory.get(this.held)?.time ?? 0);
    const isSame = memory.get(this.held)?.name === this.name;
    memory.set(this.held, {
      name: this.name,
      token,
      sequence: isSame ? sequence : 0,
      time: isSame ? time : 0,
      asked: this.asked,
    });
  }

  /** @param {string} text @param {string} mode "immediate", "boundary", "recache" or "cut"
   * @param {Record<string, unknown>} more fields of PromptSwitch @returns {string} request id */
  switchPrompt(text, mode, more) {
    const promptSwitch = { text, mode: `SWITCH_MODE_${mode.toUpperCase()}`, ...more };
    const asked = { text: text.slice(0, MAX_ASKED_CHARS), time: this.player.time };
    const requestId = this.connection?.request("switchPrompt", { promptSwitch }) ?? "";
    this.asked = Object.fromEntries([...Object.entries(this.asked), [requestId, asked]].slice(-MAX_ASKED));
    this.keep();
    return requestId;
  }

  /** @param {boolean} isPaused A viewer's pause is its own. */
  setPaused(isPaused) {
    this.isPaused = isPaused;
    this.player.want(!isPaused);
    if (!this.isViewer) this.connection?.request("setPaused", { paused: isPaused });
    this.listener.changed();
  }

  /** End it for everybody. */
  end() {
    if (this.isConnected) this.connection?.request("end", {});
    else this.remove();
  }

  async remove() {
    const path = `/v1/${this.name}?requestId=${freshId()}`;
    await this.api.call("DELETE", path).catch((error) => this.listener.finished(error.problem));
  }

  /** @param {import("./pieces.js").Piece} piece It plays: that is what pays for further ones. */
  began(piece) {
    if (!this.isViewer) this.connection?.ack(piece.sequence);
    if (this.isLive && performance.now() - this.stalledAt > CALM_MS) this.calmDown();
    this.allow(() => this.wishes.played(performance.now()));
    this.keep();
  }

  /** Somebody looks at the page again. @param {boolean} hasSlept */
  wake(hasSlept) {
    this.connection?.wake(hasSlept);
    this.player.wake();
  }

  /** The player has more than before, or goes on. */
  holds() {
    if (!this.isViewer) this.connection?.tellPlayback();
  }

  /** The picture stood still. */
  stalled() {
    this.holds();
    this.stalledAt = performance.now();
    if (this.state === "active") this.allow(() => this.wishes.stalled(this.player.begun, performance.now()));
  }

  /** A controller asks for what it wishes now, if that is another credit. @param {() => void} change */
  allow(change) {
    const before = this.wishes.wish;
    change();
    const { wish } = this.wishes;
    if (!this.isViewer && wish !== before) this.connection?.allow(wish);
  }

  /** It has played for a while without standing still: what went wrong is long ago. */
  calmDown() {
    this.stalledAt = performance.now();
    this.numBroken = 0;
    this.connection?.calmDown();
  }

  isDue() {
    if (this.state !== "active" || this.isPaused || document.hidden) return false;
    if (this.isViewer) return this.player.isStarved;
    const isAmple = this.connection?.isJustInTime && this.player.ahead > AMPLE_S; // More comes when it is needed.
    return !isAmple && this.received - this.player.begun < this.credit;
  }

  /** @returns {Promise<string | null>} another token, where a link, a key or an open gateway gives one */
  async renew() {
    if (this.isViewer) return this.token === this.link ? null : this.link;
    try {
      const answer = await this.api.post(`/v1/${this.name}:issueResumeToken`, { role: this.role });
      return answer.resumeToken;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.isForgotten = error.problem.reason === "SESSION_NOT_FOUND";
      return null;
    }
  }

  /** @param {boolean} isConnected */
  setConnected(isConnected) {
    if (isConnected && this.isLost) this.listener.heard("resumed", {}, null);
    this.isLost = !isConnected && this.wasConnected;
    this.isConnected = isConnected;
    this.wasConnected ||= isConnected;
    this.listener.changed();
  }

  /** @param {string} kind @param {any} content @param {Uint8Array | null} media */
  hear(kind, content, media) {
    if (kind === "attached") this.hearAttached(content);
    if (kind === "stateChanged") this.hearState(content);
    if (kind === "mediaInit" && media) this.player.init(content.mimeType, media);
    if (kind === "segment" && media) this.hearSegment(content, media);
    if (kind === "part" && media) this.player.part(content, media);
    if (kind === "promptReceipt") this.connection?.settle(content.requestId);
    if (kind === "requestFailed") this.connection?.settle(content.requestId, false);
    if (kind === "ended") this.hearEnded(content);
    this.listener.heard(kind, content, media);
    if (kind !== "segment" && kind !== "part") this.listener.changed();
  }

  /** @param {any} content */
  hearAttached(content) {
    const { session } = content;
    this.credit = content.maxUnackedSegments || this.credit;
    this.player.credit = this.credit;
    for (const receipt of content.receipts ?? []) this.connection?.settle(receipt.requestId);
    this.hearState(session);
  }

  /** @param {{state: string, epoch: string, paused: boolean}} content */
  hearState(content) {
    this.state = content.state.replace("SESSION_STATE_", "").toLowerCase();
    this.epoch = Number(content.epoch);
    if (this.isViewer) return;
    const asked = [...(this.connection?.outbox.values() ?? [])].some((message) => "setPaused" in message);
    if (asked && content.paused !== this.isPaused) return; // Our own wish is on its way.
    this.connection?.settleAll("setPaused");
    if (this.isPaused !== content.paused) this.player.want(!content.paused);
    this.isPaused = content.paused;
  }

  /** @param {any} content @param {Uint8Array} media */
  hearSegment(content, media) {
    this.received = Number(content.sequence);
    this.epoch = Number(content.epoch);
    this.player.segment(content, media);
  }

  /** @param {any} content SessionEnd. What was made is played to its end, unless somebody wanted it to stop. */
  hearEnded(content) {
    this.state = "ended";
    this.player.end();
    if (content.reason === "END_REASON_DELETED") this.player.want(false);
    if (!this.isViewer) memory.set(this.held, null);
  }

  /** @param {Problem} problem It cannot go on here. */
  finish(problem) {
    const reason = this.reasonOf(problem);
    const isGone = ["SESSION_NOT_FOUND", "SERVER_RESTARTED", "SESSION_CLOSED"].includes(reason);
    if (isGone && !this.isViewer) memory.set(this.held, null);
    this.state = isGone ? "ended" : "offline";
    this.player.end();
    this.listener.finished({ ...problem, reason });
    this.listener.changed();
  }

  /** What it means for whoever is here. @param {Problem} problem @returns {string} */
  reasonOf({ reason = "" }) {
    if (this.isViewer) return reason === "UNAUTHENTICATED" ? "BAD_LINK" : reason;
    if (this.isForgotten) return "SERVER_RESTARTED";
    return reason === "SESSION_NOT_FOUND" && this.wasConnected ? "SERVER_RESTARTED" : reason;
  }
}
