// @ts-check
/** Where the session stands, in a word beside the title, a place in the queue, and a sentence over the picture. */

import { byId, setAttribute, setText } from "./dom.js";
import { readable, seconds, word } from "./times.js";

/** @type {Record<string, string>} */
export const WORDS = {
  none: "Ready",
  connecting: "Connecting",
  queued: "Waiting",
  starting: "Starting",
  active: "Live",
  buffering: "Buffering",
  behind: "Falling behind",
  paused: "Paused",
  recovering: "Recovering",
  ended: "Ended",
  offline: "Offline",
};

/** @type {Record<string, [string, string]>} Over the picture while there is none: what it is, what to do. */
const COVER = {
  none: [
    "Say what to show.",
    "Type a prompt or pick one. The video starts at once and goes on until you end it; change it while it plays.",
  ],
  connecting: ["Connecting…", ""],
  queued: ["All places are taken.", "Your video starts by itself as soon as one is free."],
  starting: ["Starting…", "The first picture is on its way."],
  buffering: ["Buffering…", "The next pictures are on their way."],
  behind: [
    "Falling behind.",
    "Pictures are made more slowly than they play, so it stands still now and then.",
  ],
  paused: ["Paused.", "The video goes on when it is resumed."],
  recovering: ["Rebuilding…", "The video goes on from where it was."],
  offline: ["Not connected.", "Trying again."],
  ended: ["This session is over.", "Type a prompt to start another."],
};
/** Told over the picture as well. */
const TOLD = ["queued", "ended", "offline", "recovering", "buffering", "behind"];
/** @type {[string, string]} */
const BLOCKED = ["Tap or click to play.", "This browser does not play by itself now."];

export class StateView {
  constructor() {
    this.state = byId("state");
    this.queue = byId("queue");
    this.cover = byId("cover");
    this.place = "";
  }

  /** @param {string} state @param {{hasPicture: boolean, isViewer: boolean, isLive: boolean, isBlocked: boolean}} scene
   *   isBlocked: the browser does not play by itself */
  show(state, { hasPicture, isViewer, isLive, isBlocked }) {
    setAttribute(this.state, "data-state", state);
    setText(this.state, WORDS[state] ?? state);
    const [title, text] = isBlocked ? BLOCKED : (COVER[state] ?? ["", ""]);
    setText(byId("cover-title"), title);
    const isOver = state === "offline" && !isLive;
    const own = isOver
      ? "This page does not try again."
      : isViewer && state === "ended"
        ? "Thank you for watching."
        : "";
    setText(byId("cover-text"), own || (state === "queued" && this.place) || text);
    const isTold = !hasPicture || isBlocked || TOLD.includes(state);
    this.cover.hidden = !isTold || !title;
    setAttribute(this.cover, "data-state", state);
    this.cover.classList.toggle("strip", hasPicture);
    if (state !== "queued") this.showQueue(null);
  }

  /** @param {any} status QueueStatus, or null while it does not wait */
  showQueue(status) {
    this.queue.hidden = !status;
    setAttribute(this.queue, "data-position", status ? String(status.position) : null);
    this.place = "";
    if (!status) return setText(this.queue, "");
    const eta = seconds(status.eta);
    const wait = eta === null ? "" : `, about ${readable(Math.max(1, eta))}`;
    const place = `${status.position} of ${status.queueLength} in the queue`;
    const lacks = status.message ? ` (${status.message})` : "";
    setText(this.queue, place + wait + lacks); // Read aloud with every change.
    this.place = `You are number ${status.position} of ${status.queueLength}${wait}${lacks}. It starts by itself.`;
    setText(byId("cover-text"), this.place);
  }
}

/** @param {any} end SessionEnd @returns {string} */
export function endText(end) {
  /** @type {Record<string, string>} */
  const reasons = {
    deleted: "It was ended.",
    complete: "All its blocks were made.",
    "positions exhausted": "The model has no positions left.",
    idle: "Nobody steered it for too long.",
    evicted: "An operator or a limit ended it.",
    failed: `It could not go on${end.status?.message ? `: ${end.status.message}` : "."}`,
  };
  const reason = word(end.reason, "END_REASON_");
  return reasons[reason] ?? reason;
}
