// @ts-check
/** Calls to the JSON side, with the key where one is needed. */

import { addressOf } from "./addresses.js";
import { ProblemError } from "./problem.js";

const DEADLINE_MS = 15_000;
const TRIES = 3;

export class Api {
  /** @param {{get(): string, ask(why: string): Promise<boolean>}} keys */
  constructor(keys) {
    this.keys = keys;
  }

  /** @param {string} path @param {{quiet?: boolean}} [options] */
  get(path, options = {}) {
    return this.call("GET", path, undefined, options);
  }

  /** Repeats the very same request where the answer was lost: nothing happens twice.
   * @param {string} path @param {Record<string, unknown>} body @param {number} [deadlineMs] */
  async post(path, body, deadlineMs) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.call("POST", path, body, { deadlineMs });
      } catch (error) {
        if (attempt >= TRIES || !isWorthRepeating(error)) throw error;
        await pause(250 * 2 ** attempt);
      }
    }
  }

  /**
   * @param {string} method @param {string} path @param {unknown} [body]
   * @param {{quiet?: boolean, headers?: Record<string, string>, deadlineMs?: number}} [options]
   *   quiet: never ask for a key
   * @returns {Promise<any>} Raises ProblemError.
   */
  async call(method, path, body, options = {}) {
    const answer = await this.fetch(method, path, body, options);
    if (answer.ok) return answer.json();
    const problem = await problemOf(answer);
    if (answer.status === 401 && !options.quiet && (await this.keys.ask(problem.detail ?? ""))) {
      return this.call(method, path, body, options);
    }
    throw new ProblemError(problem);
  }

  /** @param {string} method @param {string} path @param {unknown} body
   * @param {{headers?: Record<string, string>, deadlineMs?: number}} options */
  async fetch(method, path, body, options) {
    const headers = { ...options.headers };
    const key = this.keys.get();
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    try {
      return await fetch(addressOf(path), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(options.deadlineMs ?? DEADLINE_MS),
      });
    } catch {
      throw new ProblemError({ detail: "The service does not answer.", reason: "OFFLINE" });
    }
  }
}

/** @param {Response} answer @returns {Promise<import("./problem.js").Problem>} */
export async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return { status: answer.status, detail: `The service answered ${answer.status} ${answer.statusText}.` };
  }
}

/** @param {unknown} error */
function isWorthRepeating(error) {
  const problem = error instanceof ProblemError ? error.problem : {};
  return problem.reason === "OFFLINE" || problem.status === 503 || problem.status === 504;
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** An idempotency key. `crypto.randomUUID` is missing where the page came over plain HTTP from another machine. */
export function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
