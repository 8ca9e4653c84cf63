// What the client says on one Connect stream.

const maxWaiting = 64;

/** An async iterable of messages that are yet to be sent. Acks are cumulative, so only the newest one waits. */
export class Outbox {
  #messages = [];
  #ack = null;
  #wake = null;
  #closed = false;

  /** `kind`: a field of ConnectRequest, in camel case. */
  send(kind, value) {
    if (this.#messages.length >= maxWaiting) throw new Error(`more than ${maxWaiting} messages wait to be sent`);
    this.#messages.push({ message: { case: kind, value } });
    this.#wake?.();
  }

  /** Everything up to this segment is stored. */
  ack(sequence) {
    this.#ack = { message: { case: "ack", value: { sequence } } };
    this.#wake?.();
  }

  close() {
    this.#closed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator]() {
    while (!this.#closed) {
      const next = this.#messages.shift() ?? this.#ack;
      if (next) {
        if (next === this.#ack) this.#ack = null;
        yield next;
      } else {
        await new Promise((resolve) => (this.#wake = resolve));
      }
    }
  }
}
