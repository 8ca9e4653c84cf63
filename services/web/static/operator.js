// @ts-check
/** The operator's view: reads the gateway's overview again and again, and changes nothing. */

import { Api } from "./api.js";
import { byId, make, setAttribute, setText } from "./dom.js";
import { KeyDialog } from "./key_dialog.js";
import { condition, decoderPace, decoderRow, freeText, numFree, stagePace, stageRow } from "./peers.js";
import { ProblemBox, ProblemError } from "./problem.js";
import { Sparks } from "./spark.js";
import { summarize } from "./summary.js";
import { Table } from "./table.js";
import { milliseconds, readable, seconds, word } from "./times.js";

const EVERY_MS = 1000;
const LATER_MS = 5000;
/** @type {Record<string, string>} */
const LEVELS = { active: "good", paused: "", queued: "warn", starting: "warn", recovering: "bad" };

class OperatorPage {
  constructor() {
    this.api = new Api(new KeyDialog());
    this.problem = new ProblemBox(byId("problem"));
    this.sparks = new Sparks();
    this.readAt = 0;
    this.stages = new Table(byId("stages"), "data-address", "The gateway knows of no stage.");
    this.decoders = new Table(byId("decoders"), "data-address", "The gateway knows of no decoder.");
    this.sessions = new Table(byId("sessions"), "data-name", "Nobody is here.");
    document.addEventListener("visibilitychange", () => this.restart());
  }

  restart() {
    clearTimeout(this.timer);
    if (!document.hidden) this.read();
  }

  /** Then again, later where it failed; not while nobody looks, nor where nobody has a key. */
  async read() {
    let delay = EVERY_MS;
    let isRefused = false;
    try {
      this.show(await this.api.get("/v1/overview"));
      this.problem.clear();
    } catch (error) {
      this.problem.show(error);
      this.showOld();
      delay = LATER_MS;
      isRefused = error instanceof ProblemError && error.problem.status === 401;
    }
    document.body.classList.toggle("stale", delay === LATER_MS);
    clearTimeout(this.timer);
    if (!document.hidden && !isRefused) this.timer = setTimeout(() => this.read(), delay);
  }

  /** Say that what the page shows is out of date. */
  showOld() {
    setAttribute(byId("summary"), "data-level", "bad");
    const old = this.readAt ? ` What is shown is of ${new Date(this.readAt).toLocaleTimeString()}.` : "";
    setText(byId("summary"), `No overview.${old}`);
  }

  /** @param {any} overview GetOverviewResponse */
  show(overview) {
    this.readAt = Date.now();
    const { stages = [], decoders = [], sessions = [], queue = {} } = overview;
    const summary = summarize(overview, condition);
    setText(byId("summary"), summary.text);
    setAttribute(byId("summary"), "data-level", summary.level);
    this.showGateway(overview);
    this.showQueue(queue);
    setText(byId("num-sessions"), String(overview.numSessions ?? sessions.length));
    showSlots("stage-slots", stages, stagePace);
    showSlots("decoder-slots", decoders, (/** @type {any} */ view) => decoderPace(view, stages));
    this.stages.show(stages.map((/** @type {any} */ view) => stageRow(view, this.sparks)));
    this.sparks.keepOnly(stages.map((/** @type {any} */ view) => view.peer.address));
    this.decoders.show(decoders.map((/** @type {any} */ view) => decoderRow(view, stages)));
    const now = milliseconds(overview.readTime) ?? Date.now();
    this.sessions.show(sessions.map((/** @type {any} */ view) => sessionRow(view, now)));
    const isCut = sessions.length < overview.numSessions;
    setText(byId("sessions-note"), isCut ? `The newest ${sessions.length} of ${overview.numSessions}.` : "");
  }

  /** @param {any} overview */
  showGateway({ gateway = {}, gatewayAddress, isLeaving, readTime }) {
    const started = milliseconds(gateway.startTime);
    const up =
      started === null ? "" : `, up ${readable(((milliseconds(readTime) ?? started) - started) / 1000)}`;
    const leaving = isLeaving ? ", going away" : "";
    setText(
      byId("gateway"),
      `Gateway ${gatewayAddress || "here"}, version ${gateway.version || "unknown"}${up}${leaving}`,
    );
  }

  /** @param {any} queue QueueView */
  showQueue({ length = 0, maxLength = 0, numUrgent = 0, lastEta }) {
    setAttribute(byId("queue"), "data-length", String(length));
    setText(byId("queue-length"), String(length));
    const eta = seconds(lastEta);
    const notes = [
      `of ${maxLength}`,
      eta !== null && `the last for ${readable(eta)}`,
      numUrgent && `${numUrgent} urgent`,
    ];
    setText(byId("queue-note"), notes.filter(Boolean).join(", "));
  }
}

/** @param {string} id @param {any[]} views
 * @param {(view: any) => number | null} pace sessions that one keeps up with, however many fit into its memory */
function showSlots(id, views, pace) {
  const used = views.reduce((sum, { peer }) => sum + peer.numUsed, 0);
  const free = views.reduce((sum, view) => sum + numFree(view.peer, pace(view)), 0);
  const isKnown = views.every((view) => pace(view) !== null);
  setText(byId(id), isKnown ? `${used} / ${used + free}` : `${used}`);
  setText(byId(`${id}-note`), freeText(free, isKnown));
}

/** @param {any} view SessionView @param {number} now ms */
function sessionRow(view, now) {
  const state = word(view.state, "SESSION_STATE_");
  const level = LEVELS[state] ?? "warn";
  const place = view.queue ? ` ${view.queue.position}` : "";
  const created = milliseconds(view.createTime);
  const cells = [
    [view.name.replace("sessions/", "")],
    [view.tenant || "–"],
    [make("span", { class: "mark", "data-level": level }, state + place)],
    [view.epoch],
    [view.model, ...schedule(view), ...loras(view)],
    [view.stage || "–"],
    [view.decoder || "–"],
    [`${view.lastSequence} / ${view.ackedSequence}`, ...playing(view)],
    [view.hasController ? "yes" : "no"],
    [String(view.numViewers)],
    [created === null ? "–" : readable((now - created) / 1000)],
  ];
  return { key: view.name, level, cells };
}

/** What its controller tells of its player, if it does. @param {any} view SessionView @returns {Node[]} */
function playing({ madeAhead, lead, numStalls = 0 }) {
  const ahead = seconds(madeAhead);
  if (ahead === null) return [];
  const asked = lead ? `, asked for ${readable(seconds(lead))} before` : "";
  const stalls = numStalls === 1 ? "1 stall" : `${numStalls} stalls`;
  return [make("small", {}, `${readable(ahead)} ahead${asked}, ${stalls}`)];
}

/** @param {any} view SessionView @returns {Node[]} */
function schedule({ stagger, inflightAttention }) {
  if (!stagger) return [];
  const attention = word(inflightAttention, "INFLIGHT_ATTENTION_");
  return [make("small", {}, `stagger ${stagger}, ${attention}`)];
}

/** @param {any} view SessionView @returns {Node[]} */
function loras({ loras = [] }) {
  const listed = loras.map((/** @type {any} */ { name, scale }) => `${name} ${scale ?? 1}`);
  return listed.length ? [make("small", {}, listed.join(", "))] : [];
}

new OperatorPage().read();
