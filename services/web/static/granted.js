// @ts-check
/** What a session has granted: told again if its gateway died while Redis was away and forgot it. */

const MAX_SWITCHES = 16;

export class Granted {
  constructor() {
    /** @type {Map<string, Record<string, any>>} The newest switches, by request id, in their order. */
    this.switches = new Map();
    /** @type {[string, Record<string, any>] | null} The last pause or resumption. */
    this.paused = null;
  }

  /** @param {string} requestId @param {Record<string, any>} message */
  note(requestId, message) {
    if ("setPaused" in message) this.paused = [requestId, message];
    if (!("switchPrompt" in message)) return;
    this.switches.set(requestId, message);
    if (this.switches.size > MAX_SWITCHES) this.switches.delete([...this.switches.keys()][0]);
  }

  /** Of a switch, as it happens: somebody else's takes the place of ours. @param {string} requestId */
  heardAccepted(requestId) {
    if (requestId && !this.switches.has(requestId)) this.switches.clear();
  }

  /** As it happens: somebody else wants it otherwise. @param {boolean} isPaused */
  heardPaused(isPaused) {
    if (this.paused && this.paused[1].setPaused.paused !== isPaused) this.paused = null;
  }

  /** Switches after the newest that it knows, which took the place of those before, and a pause;
   * each once, until it is granted again.
   * @param {string[]} known request ids of its receipts @param {boolean} isPaused
   * @returns {[string, Record<string, any>][]} what a session that says so does not know */
  takeUnknown(known, isPaused) {
    /** @type {[string, Record<string, any>][]} */
    let lost = [];
    for (const granted of this.switches) lost = known.includes(granted[0]) ? [] : [...lost, granted];
    for (const [requestId] of lost) this.switches.delete(requestId);
    if (this.paused && this.paused[1].setPaused.paused !== isPaused) {
      lost.push(this.paused);
      this.paused = null;
    }
    return lost;
  }
}
