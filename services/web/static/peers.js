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
  const fast = stagePace(view);
  return row(view, fast, [
    [model?.model ?? "–", ...small(model?.licence), ...small(loras(model))],
    [status ? `${status.worldSize} · ${status.device}` : "–"],
    [status ? median : "–", ...small(last === null ? "" : `last ${readable(last)}`), ...small(enough(fast))],
    [spark],
    [status?.numBlocks ?? "–"],
    [text(status?.numRestarts)],
    accelerators(status),
  ]);
}

/** @param {any} model ModelInfo */
function loras(model) {
  const names = (model?.loras ?? []).map((/** @type {any} */ lora) => lora.name);
  return names.length ? `LoRA: ${names.join(", ")}` : "";
}

/** Sessions that a decoder keeps up with, going by its last block; null: not known.
 * @param {any} view DecoderView @param {any[]} stages of its installation @returns {number | null} */
export function decoderPace({ status }, stages) {
  const model = stages.map((view) => view.status?.model).find((each) => each?.fps && each.blockFrames);
  return pace(model, seconds(status?.lastBlockTime));
}

/** As decoderPace, going by its ticks, of which a block takes as many as the stagger.
 * @param {any} view StageView @returns {number | null} */
export function stagePace({ status }) {
  return pace(status?.model, (seconds(status?.medianTickTime) ?? 0) * (status?.model?.defaultStagger || 1));
}

/** @param {any} model ModelInfo @param {number | null} blockSeconds that a block takes */
function pace(model, blockSeconds) {
  if (!model?.fps || !model.blockFrames || !blockSeconds) return null;
  return Math.floor((4 * model.blockFrames) / model.fps / blockSeconds);
}

/** Places that can be had: no more than it keeps up with.
 * @param {any} peer PeerView @param {number | null} fast */
export function numFree({ numUsed, numFree }, fast) {
  return Math.max(0, Math.min(numFree, (fast ?? Infinity) - numUsed));
}

/** @param {number} free @param {boolean} isKnown whether its speed is: else it may not keep up with them */
export function freeText(free, isKnown) {
  return `${free} free${isKnown ? "" : ", speed unknown"}`;
}

/** @param {any} view @param {any[]} stages */
export function decoderRow(view, stages) {
  const { status } = view;
  const fast = decoderPace(view, stages);
  const models = (status?.models ?? []).join(", ");
  return row(view, fast, [
    [models || "–"],
    [readable(seconds(status?.lastBlockTime)), ...small(enough(fast))],
    [text(status?.numPendingBlocks)],
    [text(status?.numRestarts)],
    accelerators(status),
  ]);
}

/** @param {number | null} fast */
function enough(fast) {
  return fast === null ? "" : `fast enough for ${fast}`;
}

/** @param {any} view @param {number | null} fast @param {(Node | string)[][]} rest */
function row(view, fast, rest) {
  const { peer } = view;
  const { level, state, why } = condition(view);
  const name = [peer.pod || peer.address, ...small(peer.pod ? peer.address : "")];
  const mark = [make("span", { class: "mark", "data-level": level }, state), ...small(why)];
  return { key: peer.address, level, cells: [name, mark, [slots(peer, fast)], ...rest] };
}

/** @param {any} peer @param {number | null} fast */
function slots(peer, fast) {
  const free = numFree(peer, fast);
  const total = peer.numUsed + free;
  const label = `${peer.numUsed} used, ${freeText(free, fast !== null)}`;
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
