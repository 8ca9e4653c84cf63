// @ts-check
/** One of two videos: its session, its player, what is measured of it. */

import { make, setAttribute, setText } from "./dom.js";
import { Figures } from "./figures.js";
import { Player } from "./player.js";
import { fromStatus } from "./problem.js";
import { Session } from "./session.js";
import { endText, WORDS } from "./state_view.js";
import { readable, seconds, word } from "./times.js";

/** @typedef {{changed(): void, moved(): void, failed(problem: unknown): void}} Listener */

export class Side {
  /** @type {{requestId: string, at: number, shows: number | null} | null} The last switch; shows: where, seconds of the session. */
  asked = null;
  /** From asking for the last switch to its first picture, in seconds; null: not seen yet. @type {number | null} */
  seen = null;
  isHeld = false;
  text = "";

  /** @param {"left" | "right"} name @param {any} root its section @param {import("./api.js").Api} api
   * @param {Listener} listener */
  constructor(name, root, api, listener) {
    this.name = name;
    this.root = root;
    this.listener = listener;
    const [video, canvas] = root.querySelectorAll("video, canvas");
    for (const element of [video, canvas]) setAttribute(element, "aria-label", `The video on the ${name}`);
    this.figures = new Figures(root);
    this.player = new Player(
      { video, canvas },
      {
        began: (piece) => this.session.began(piece),
        stalled: () => this.session.stalled(),
        holds: () => this.session.holds(),
        moved: () => this.move(),
        resized: () => {},
        blocked: () => this.show(),
        broken: (after) => this.session.reattach(after),
        unplayable: (type) => listener.failed(`This browser does not play ${type} piece by piece.`),
      },
    );
    const tell = (/** @type {unknown} */ problem) => listener.failed(problem);
    this.session = new Session(
      api,
      this.player,
      {
        changed: () => this.show(),
        heard: (kind, content) => this.hear(kind, content),
        waits: tell,
        rejected: (_, problem) => tell(problem),
        finished: tell,
      },
      `compare.${name}`,
    );
  }

  /** @param {string} text */
  setTitle(text) {
    setText(this.root.querySelector("h2"), text);
  }

  /** What may be chosen for it. @param {any} model @param {number} usual its stagger */
  offer(model, usual) {
    const most = Math.max(0, ...(model?.staggers ?? []));
    this.fill("stagger", model?.staggers ?? [], String(usual), (each) =>
      each === 1 ? "1 (full cascade)" : each === most ? `${each} (least in flight)` : String(each),
    );
    const attentions = model?.inflightAttentions ?? [];
    this.fill("inflightAttention", attentions, model?.defaultInflightAttention, (each) =>
      word(each, "INFLIGHT_ATTENTION_"),
    );
  }

  /** @param {string} field @param {any[]} values @param {string} usual @param {(value: any) => string} name */
  fill(field, values, usual, name) {
    const select = this.select(field);
    const before = select.value || usual;
    select.replaceChildren(...values.map((each) => make("option", { value: each }, name(each))));
    select.value = values.map(String).includes(before) ? before : String(values[0] ?? "");
    select.parentElement.hidden = values.length < 2;
  }

  /** @param {string} field @returns {any} */
  select(field) {
    return this.root.querySelector(`[data-field=${field}]`);
  }

  /** Fields of SessionSpec that are its own. */
  get wish() {
    const given = ["stagger", "inflightAttention"].map((field) => [field, this.select(field).value]);
    return Object.fromEntries(given.filter(([, value]) => value));
  }

  /** @param {Record<string, unknown>} spec Raises ProblemError. */
  async start(spec) {
    this.clear();
    await this.session.create({ ...spec, ...this.wish });
  }

  clear() {
    this.asked = null;
    this.seen = null;
    this.text = "";
    this.figures.clear();
  }

  /** @param {string} text @param {string} mode */
  switchTo(text, mode) {
    const requestId = this.session.switchPrompt(text, mode, {});
    this.asked = { requestId, at: performance.now(), shows: null };
    this.seen = null;
    this.figures.show("switch", "…");
  }

  /** Whether it can play now, and should. */
  get isReady() {
    return this.session.isLive && this.player.hasStarted;
  }

  /** Whether the other one waits for it: it will have pictures. */
  get isAwaited() {
    return (
      this.session.isLive &&
      ["connecting", "queued", "starting", "active", "recovering"].includes(this.session.state)
    );
  }

  /** @param {boolean} isHeld The picture stands still until the other one is there, too. */
  hold(isHeld) {
    if (isHeld === this.isHeld) return;
    this.isHeld = isHeld;
    this.player.want(!isHeld && !this.session.isPaused);
  }

  /** @param {string} kind @param {any} content */
  hear(kind, content) {
    if (kind === "segment") this.figures.arrived(this.player.pieces.last ?? content);
    if (kind === "promptReceipt") this.hearReceipt(content);
    if (kind === "requestFailed") this.listener.failed(fromStatus(content.status));
    if (kind === "ended") this.text = endText(content);
    if (kind === "attached" && content.session.queue) this.hearQueue(content.session.queue);
    if (kind === "queueChanged") this.hearQueue(content);
    if (this.isHeld) this.player.want(false); // Attaching wants it to play.
  }

  /** @param {any} status QueueStatus */
  hearQueue({ position, queueLength }) {
    this.text = `Number ${position} of ${queueLength} in the queue.`;
  }

  /** @param {any} receipt PromptReceipt */
  hearReceipt(receipt) {
    if (receipt.state === "SWITCH_STATE_REFUSED") this.listener.failed(fromStatus(receipt.status));
    const { asked } = this;
    if (asked && receipt.state === "SWITCH_STATE_APPLIED" && receipt.requestId === asked.requestId)
      asked.shows = seconds(receipt.touchedPresentationTime);
  }

  move() {
    const { asked, player } = this;
    if (asked && asked.shows !== null && this.seen === null && player.time >= asked.shows) {
      this.seen = (performance.now() - asked.at) / 1000;
      this.figures.show("switch", readable(this.seen));
    }
    this.figures.update(player, this.session.epoch);
    this.show();
    this.listener.moved();
  }

  show() {
    const state = this.session.shownState;
    const shown = this.root.querySelector(".state");
    setAttribute(shown, "data-state", state);
    setText(shown, WORDS[state] ?? state);
    const cover = this.root.querySelector(".cover");
    const isLate = state === "ended" || state === "queued";
    cover.hidden = this.player.begun > 0 && !isLate && !this.player.isBlocked;
    const waits = this.player.hasStarted ? "Waiting for the other one." : `${WORDS[state] ?? state}…`;
    const text = state === "none" ? "Nothing yet." : (isLate && this.text) || waits;
    setText(cover, this.player.isBlocked ? "Click to play." : text);
    this.listener.changed();
  }
}
