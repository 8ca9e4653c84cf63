// What a call failed with, and whether asking again helps.

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

const lost = new Set([Code.Unavailable, Code.Canceled, Code.Internal, Code.Unknown]);
const passing = new Set([Code.Unavailable, Code.DeadlineExceeded]);
const waits = new Set(["OVERLOADED", "RATE_LIMITED", "FIRST_MESSAGE_LATE"]);

/** Whether attaching again can help after a stream ended so. */
export function mayReconnect(error) {
  return lost.has(error.code) || isReset(error) || waits.has(describe(error).reason);
}

/** Whether a unary call may be sent again, with the same request_id. */
export function mayRepeat(error) {
  return passing.has(error.code) || isReset(error) || waits.has(describe(error).reason);
}

// This library says ABORTED where the connection was reset. The gateway's own ABORTED has a reason: do not come back.
function isReset(error) {
  return error.code === Code.Aborted && !describe(error).reason;
}

/** For people: code, reason, text, and the id that finds the call in the servers' logs. */
export function explain(failure) {
  const error = ConnectError.from(failure);
  const { reason, requestId } = describe(error);
  const id = requestId && ` (request ${requestId})`;
  return `${Code[error.code]} ${reason || "without a reason"}: ${error.rawMessage}${id}`;
}

/** The google.rpc details that Cascade's errors carry; empty where no gateway answered. */
export function describe(error) {
  const found = { reason: "", requestId: "", retryAfterMs: 0 };
  for (const { type, value } of error.details) {
    if (!(value instanceof Uint8Array)) continue;
    const fields = fieldsOf(value);
    if (type === "google.rpc.ErrorInfo" && text(fields.get(2)) === "cascade") found.reason = text(fields.get(1));
    if (type === "google.rpc.RequestInfo") found.requestId = text(fields.get(1));
    if (type === "google.rpc.RetryInfo" && fields.has(1)) found.retryAfterMs = milliseconds(fields.get(1));
  }
  return found;
}

// Three fields are read, so the rest of google/rpc/error_details.proto need not be generated.
function fieldsOf(bytes) {
  const reader = new BinaryReader(bytes);
  const fields = new Map();
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    const start = reader.pos;
    reader.skip(wireType, number);
    fields.set(number, bytes.subarray(start, reader.pos));
  }
  return fields;
}

function text(field) {
  return field ? new BinaryReader(field).string() : "";
}

function milliseconds(field) {
  const duration = fieldsOf(new BinaryReader(field).bytes());
  const value = (number) => (duration.has(number) ? Number(new BinaryReader(duration.get(number)).int64()) : 0);
  return value(1) * 1000 + value(2) / 1e6;
}
