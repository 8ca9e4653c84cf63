// @ts-check
/** What went wrong, in words: problem+json of the paths, google.rpc.Status inside events. */

import { setText } from "./dom.js";

/**
 * @typedef {{title?: string, status?: number, detail?: string, reason?: string, retryAfterSeconds?: number,
 *   fieldViolations?: {field: string, description: string}[], requestId?: string}} Problem
 */

/** An answer that is a problem, or none at all. */
export class ProblemError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(readableProblem(problem));
    this.problem = problem;
  }
}

/** @type {Record<string, string>} What helps, by reason, where the message alone does not say. */
const HELP = {
  CONTROLLER_REPLACED: "Another page steers this session now. Reload this one to take over.",
  EXPIRED_CREDENTIAL: "This link or token has expired. Ask for a new one.",
  UNAUTHENTICATED: "This needs a key or a token that is good here.",
  BAD_LINK: "This link is damaged, or older than the server’s last start. Ask for a new one.",
  SERVER_RESTARTED: "The server restarted and does not know this session any more. Start again.",
  SESSION_NOT_FOUND: "There is no such session, or it has been over for a long time.",
  SESSION_CLOSED: "This session is over.",
  QUEUE_FULL: "Too many people are waiting already. Try again in a moment.",
  RATE_LIMITED: "That was too often in a short time. Try again in a moment.",
  OUT_OF_CAPACITY: "There is no place left here now. Trying again.",
  NOT_READY: "The service is starting. Try again in a moment.",
};

const SAYS_ALL = ["BAD_LINK", "SERVER_RESTARTED"];

/** @type {Record<string, string>} Fields of a session as the page calls them. */
const FIELDS = {
  seed: "Seed",
  width: "Width",
  height: "Height",
  fps: "Pictures per second",
  num_blocks: "Length in blocks",
  numBlocks: "Length in blocks",
  "start.image": "Picture to begin from",
  "start.video": "Clip to begin from",
  "start.last": "Only its last seconds",
};

/** @param {Problem} problem @returns {string} one or two sentences, with the field and its range */
export function readableProblem(problem) {
  const fields = problem.fieldViolations ?? [];
  if (fields.length) return fields.map((each) => `${fieldName(each.field)}: ${each.description}.`).join(" ");
  const help = HELP[problem.reason ?? ""];
  const detail = sentence(problem.detail || problem.title || "Something went wrong.");
  if (SAYS_ALL.includes(problem.reason ?? "")) return help;
  return help ? `${help} (${problem.detail || problem.reason})` : detail;
}

/** @param {any} status google.rpc.Status as JSON @returns {Problem} */
export function fromStatus(status) {
  const details = status?.details ?? [];
  const info = details.find((/** @type {any} */ each) => each["@type"]?.endsWith("google.rpc.ErrorInfo"));
  const fields = details.flatMap((/** @type {any} */ each) => each.fieldViolations ?? []);
  return { detail: status?.message, reason: info?.reason, fieldViolations: fields };
}

/** @param {string} path such as `spec.prompts[0]` @returns {string} what the page calls it */
function fieldName(path) {
  if (/prompts|prompt_switch\.text|promptSwitch\.text|^text$/.test(path)) return "Prompt";
  const name = path.replace(/^spec\./, "");
  return FIELDS[name] ?? name;
}

/** @param {string} text */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** @param {unknown} error */
function toText(error) {
  return typeof error === "string" ? error : readableProblem(/** @type {Problem} */ (error));
}

/** The box that tells it; empty and hidden while all is well. */
export class ProblemBox {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.clear();
  }

  /** @param {unknown} error a ProblemError, a Problem, or text */
  show(error) {
    this.element.hidden = false;
    setText(this.element, error instanceof Error ? error.message : toText(error));
  }

  clear() {
    this.element.hidden = true;
    this.element.textContent = "";
  }
}
