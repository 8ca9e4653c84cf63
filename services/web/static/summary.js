// @ts-check
/** One line: what needs attention. */

/**
 * @param {any} overview GetOverviewResponse
 * @param {(view: any) => import("./peers.js").Condition} condition
 * @returns {{level: "good" | "warn" | "bad", text: string}}
 */
export function summarize(overview, condition) {
  const { stages = [], decoders = [], sessions = [], queue = {} } = overview;
  const bad = [...faults(stages, "stage", condition), ...faults(decoders, "decoder", condition)];
  if (!stages.length) bad.push("no stage");
  if (!decoders.length) bad.push("no decoder");
  const recovering = count(sessions, (session) => session.state === "SESSION_STATE_RECOVERING");
  if (recovering) bad.push(`${number(recovering, "session")} recovering`);
  const warn = [];
  if (overview.isLeaving) warn.push("this gateway goes away");
  if (queue.length) warn.push(`${queue.length} waiting for a place`);
  for (const [views, kind] of [
    [stages, "stage"],
    [decoders, "decoder"],
  ]) {
    const states = /** @type {any[]} */ (views).map((view) => condition(view)).filter(isWarning);
    const behind = count(states, ({ state }) => state === "falling behind");
    if (behind) warn.push(`${number(behind, kind)} falling behind`);
    if (states.length > behind) warn.push(`${number(states.length - behind, kind)} not ready`);
  }
  const parts = [...bad, ...warn];
  const text = parts.length ? `Needs attention: ${parts.join(", ")}.` : "All is well.";
  return { level: bad.length ? "bad" : warn.length ? "warn" : "good", text };
}

/** @param {any[]} views @param {string} kind @param {(view: any) => import("./peers.js").Condition} condition */
function faults(views, kind, condition) {
  /** @type {Map<string, number>} */
  const states = new Map();
  for (const view of views) {
    const { level, state } = condition(view);
    if (level === "bad") states.set(state, (states.get(state) ?? 0) + 1);
  }
  return [...states].map(([state, num]) => `${number(num, kind)} ${state}`);
}

/** @template T @param {T[]} items @param {(item: T) => boolean} isCounted */
function count(items, isCounted) {
  return items.filter(isCounted).length;
}

/** @param {number} num @param {string} noun */
function number(num, noun) {
  return `${num} ${noun}${num === 1 ? "" : "s"}`;
}

/** @param {import("./peers.js").Condition} condition */
function isWarning({ level }) {
  return level === "warn";
}
