// @ts-check
/** WebSocket messages: text is JSON; binary is 4 bytes of length, a JSON header, media. */

const LENGTH_BYTES = 4;
const decoder = new TextDecoder();

/**
 * @param {string | ArrayBuffer} data
 * @returns {{kind: string, content: any, media: Uint8Array | null}} kind: which message, such as "segment"
 */
export function parseFrame(data) {
  if (typeof data === "string") return { ...single(JSON.parse(data)), media: null };
  const length = new DataView(data).getUint32(0);
  if (length > data.byteLength - LENGTH_BYTES) throw new Error("a message is shorter than it says");
  const header = JSON.parse(decoder.decode(new Uint8Array(data, LENGTH_BYTES, length)));
  return { ...single(header), media: new Uint8Array(data, LENGTH_BYTES + length) };
}

/** @param {Record<string, unknown>} message */
function single(message) {
  const kind = Object.keys(message)[0] ?? "";
  return { kind, content: message[kind] };
}
