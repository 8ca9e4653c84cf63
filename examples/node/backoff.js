// How long to wait before the next attempt: the contract's rule for Connect, good for every call.

import { setTimeout as sleep } from "node:timers/promises";

const firstMs = 500;
const longestMs = 10_000;

/** 0 to 500 ms at random, doubled with each failure up to 10 s, until `giveUpMs` have passed without success. */
export class Backoff {
  #longestMs = firstMs;
  #giveUpMs;
  #since = performance.now();

  constructor(giveUpMs) {
    this.#giveUpMs = giveUpMs;
  }

  /** It worked. */
  reset() {
    this.#longestMs = firstMs;
    this.#since = performance.now();
  }

  /** Waits at least as long as the server asked for; throws `failure` where that would be too long. */
  async wait(failure, atLeastMs = 0) {
    const waitMs = atLeastMs + Math.random() * this.#longestMs;
    if (performance.now() - this.#since + waitMs > this.#giveUpMs) throw failure;
    this.#longestMs = Math.min(2 * this.#longestMs, longestMs);
    await sleep(waitMs);
  }
}
