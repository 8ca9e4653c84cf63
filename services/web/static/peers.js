// @ts-check
/** Stages and decoders as rows: what they are, how they are, what is wrong with them. */

import { make } from "./dom.js";
import { readable, seconds, word } from "./times.js";

const GIB = 2 ** 30;
const BEHIND_S = 5;
/** @type {Record<string, string>} */
const LEVELS = {
  ready: "good",
  starting: "warn",
  restarting: "warn",
  draining: "warn",
  unhealthy: "bad",
  quarantined: "bad",
};

/** @typedef {{level: string, state: string, why: string}} Condition */

/** @param {any} view StageView or DecoderView @returns {Condition} */
export function condition({ peer, status }) {
  if (!status) return { level: "bad", state: "lost", why: peer.lost || "nothing was heard of it" };
  const state = word(status.state, "SERVING_STATE_");
  const fault = (status.accelerators ?? []).find((/** @type {any} */ each) => each.fault);
  const why = [status.message, fault && `GPU ${fault.index}: ${fault.fault}`, drainText(status.drain)]
    .filter(Boolean)
    .join(". ");
  if (peer.lost) return { level: "bad", state: "stale", why: peer.lost };
  if (fault) return { level: "bad", state, why };
  if (peer.isTerminating && !status.drain) return { level: "warn", state: "terminating", why };
  if (state === "ready" && waitOf(status) > BEHIND_S) {
    const each = readable(seconds(status.lastBlockTime));
    return {
      level: "warn",
      state: "falling behind",
      why: `${status.numPendingBlocks} blocks wait, the last took ${each}`,
    };
  }
  return { level: LEVELS[state] ?? "warn", state, why };
}

/** @param {any} status DecoderStatus @returns {number} seconds that what waits there will take */
function waitOf({ numPendingBlocks = 0, lastBlockTime }) {
  return numPendingBlocks * (seconds(lastBlockTime) ?? 0);
}

/** @param {any} drain DrainStatus */
function drainText(drain) {
  if (!drain) return "";
  if (drain.safeToDelete) return "empty: safe to delete";
  const left = seconds(drain.timeLeft);
  const rest = left === null ? "" : `, ${readable(left)} left`;
  return `${drain.numSessions} sessions to move${rest}${drain.reason ? ` (${drain.reason})` : ""}`;
}

/** @param {any} view @param {import("./spark.js").Sparks} sparks */
export function stageRow(view, sparks) {
  const { peer, status } = view;
  const last = seconds(status?.lastTickTime);
  const median = readable(seconds(status?.medianTickTime));
  const spark = sparks.draw(peer.address, last, `Last ticks, the newest ${readable(last)}`);
  const model = status?.model;
  return row(view, [
    [model?.model ?? "–", ...small(model?.licence)],
    [status ? `${status.worldSize} · ${status.device}` : "–"],
    [status ? median : "–", ...small(last === null ? "" : `last ${readable(last)}`)],
    [spark],
    [status?.numBlocks ?? "–"],
    [text(status?.numRestarts)],
    accelerators(status),
  ]);
}

/** Sessions that a decoder keeps up with, going by its last block; null: not known.
 * @param {any} status DecoderStatus @param {any[]} stages of its installation @returns {number | null} */
export function pace(status, stages) {
  const model = stages.map((view) => view.status?.model).find((each) => each?.fps && each.blockFrames);
  const last = seconds(status?.lastBlockTime);
  return model && last ? Math.floor((4 * model.blockFrames) / model.fps / last) : null;
}

/** @param {any} view @param {any[]} stages */
export function decoderRow(view, stages) {
  const { status } = view;
  const fast = pace(status, stages);
  const models = (status?.models ?? []).join(", ");
  return row(view, [
    [models || "–"],
    [readable(seconds(status?.lastBlockTime)), ...small(fast === null ? "" : `fast enough for ${fast}`)],
    [text(status?.numPendingBlocks)],
    [text(status?.numRestarts)],
    accelerators(status),
  ]);
}

/** @param {any} view @param {(Node | string)[][]} rest */
function row(view, rest) {
  const { peer } = view;
  const { level, state, why } = condition(view);
  const name = [peer.pod || peer.address, ...small(peer.pod ? peer.address : "")];
  const mark = [make("span", { class: "mark", "data-level": level }, state), ...small(why)];
  return { key: peer.address, level, cells: [name, mark, [slots(peer)], ...rest] };
}

/** @param {any} peer */
function slots(peer) {
  const total = peer.numUsed + peer.numFree;
  const label = `${peer.numUsed} used, ${peer.numFree} free`;
  const meter = make("meter", { min: 0, max: Math.max(1, total), value: peer.numUsed, "aria-label": label });
  return make("span", { class: "slots" }, meter, label);
}

/** @param {any} status @returns {(Node | string)[]} */
function accelerators(status) {
  const list = status?.accelerators ?? [];
  if (!list.length) return ["–"];
  return list.map((/** @type {any} */ each) => {
    const used = (Number(each.memoryUsedBytes) / GIB).toFixed(0);
    const all = (Number(each.memoryTotalBytes) / GIB).toFixed(0);
    const fault = each.fault ? make("span", { class: "mark", "data-level": "bad" }, each.fault) : "";
    return make(
      "small",
      { title: each.product },
      `${each.index}: ${used} of ${all} GiB, ${each.temperatureCelsius} °C `,
      fault,
    );
  });
}

/** @param {string | undefined} value @returns {Node[]} */
function small(value) {
  return value ? [make("small", {}, value)] : [];
}

/** @param {number | undefined} value */
function text(value) {
  return value === undefined ? "–" : String(value);
}
