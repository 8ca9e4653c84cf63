// The unary calls, each answered, refused for good, or out of time.

import { randomUUID } from "node:crypto";
import { createClient, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Backoff } from "./backoff.js";
import { describe, mayRepeat } from "./errors.js";
import { SessionService } from "./generated/cascade/v1/session_pb.js";

const deadlineMs = 10_000;
const retryForMs = 30_000;

/** `url`: http:// for plain text, https:// for TLS. `key`: an API key or a JWT of the tenant; empty: none. */
export function open(url, key = "") {
  const authorize = (next) => (request) => {
    if (key) request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
  const transport = createGrpcTransport({
    baseUrl: url,
    interceptors: [authorize],
    pingIntervalMs: 20_000,
    pingTimeoutMs: 20_000,
    readMaxBytes: 9 * 2 ** 20,
  });
  return createClient(SessionService, transport);
}

/** Makes up a request_id, repeats with the same one, and so takes effect once. */
export async function call(method, request) {
  const once = { requestId: randomUUID(), ...request };
  const backoff = new Backoff(retryForMs);
  for (;;) {
    try {
      return await method(once, { timeoutMs: deadlineMs });
    } catch (failure) {
      const error = ConnectError.from(failure);
      if (!mayRepeat(error)) throw error;
      await backoff.wait(error, describe(error).retryAfterMs);
    }
  }
}
