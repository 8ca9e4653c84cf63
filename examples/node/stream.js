// A session's stream that outlives its connections.

import { ConnectError, Code } from "@connectrpc/connect";
import { Backoff } from "./backoff.js";
import { describe, explain, mayReconnect } from "./errors.js";
import { ConnectRole, SwitchState } from "./generated/cascade/v1/session_pb.js";
import { Outbox } from "./outbox.js";

const attachWithinMs = 30_000;
const giveUpMs = 300_000;

/** Attached as controller; iterate `events()`, acknowledge each segment, switch prompts at any time. */
export class Stream {
  #client;
  #token;
  #outbox = new Outbox();
  #unanswered = new Map(); // switches by request id: said again on the next stream, and still made once
  #last = 0n; // the newest segment that the caller has
  #acked = 0n;
  #onLoss;

  /** `token`: of CreateSession. `onLoss`: told why, when a connection is lost and attached again. */
  constructor(client, token, onLoss = () => {}) {
    this.#client = client;
    this.#token = token;
    this.#onLoss = onLoss;
  }

  /** The segment is stored, and the credit for it free. */
  ack(sequence) {
    this.#acked = sequence;
    this.#outbox.ack(sequence);
  }

  switchPrompt(requestId, text) {
    const value = { requestId, promptSwitch: { text } };
    this.#unanswered.set(requestId, value);
    this.#outbox.send("switchPrompt", value);
  }

  /** Messages of ConnectResponse until the session has ended; segments each once and without a gap. */
  async *events() {
    const backoff = new Backoff(giveUpMs);
    for (;;) {
      try {
        for await (const message of this.#leg()) {
          backoff.reset();
          yield message;
          if (message.case === "ended") return;
        }
      } catch (failure) {
        const error = ConnectError.from(failure);
        if (!mayReconnect(error)) throw error;
        this.#onLoss(explain(error));
        await backoff.wait(error, describe(error).retryAfterMs);
      }
    }
  }

  /** One connection. */
  async *#leg() {
    const outbox = (this.#outbox = new Outbox());
    outbox.send("attach", this.#attach());
    for (const value of this.#unanswered.values()) outbox.send("switchPrompt", value);
    if (this.#acked) outbox.ack(this.#acked); // the connection before may have lost it
    const abort = new AbortController();
    const late = () => abort.abort(new ConnectError("nobody answered", Code.Unavailable));
    const timer = setTimeout(late, attachWithinMs);
    try {
      for await (const { message } of this.#client.connect(outbox, { signal: abort.signal })) {
        clearTimeout(timer);
        if (message.case === "reconnect") throw new ConnectError("asked to attach again", Code.Unavailable);
        if (this.#isNews(message)) yield message;
      }
      throw new ConnectError("the stream ended without an end of the session", Code.Unavailable);
    } finally {
      clearTimeout(timer);
      outbox.close();
      abort.abort();
    }
  }

  #attach() {
    const role = ConnectRole.CONTROLLER;
    return { role, resumeToken: this.#token, afterSequence: this.#last, client: "cascade-example/1" };
  }

  /** Keeps what the next connection needs; false for what the caller has already, or cannot know. */
  #isNews({ case: kind, value }) {
    switch (kind) {
      case undefined: // of a later version of the contract
        return false;
      case "attached":
      case "tokenRenewed":
        this.#token = value.resumeToken;
        return kind === "attached";
      case "promptReceipt":
        if (value.state !== SwitchState.UNSPECIFIED) this.#unanswered.delete(value.requestId);
        return true;
      case "requestFailed":
        this.#unanswered.delete(value.requestId);
        return true;
      case "segment":
        return this.#isNext(value.sequence);
      default:
        return true;
    }
  }

  #isNext(sequence) {
    if (sequence <= this.#last) return false;
    if (sequence > this.#last + 1n) throw new ConnectError(`segments after ${this.#last} are missing`, Code.DataLoss);
    this.#last = sequence;
    return true;
  }
}
