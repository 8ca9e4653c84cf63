// @ts-check
/** Where the service is: beside this page, also where a proxy serves both under a path of its own. */

const ROOT = new URL("..", import.meta.url);

/** @param {string} path such as `/v1/models` @returns {URL} */
export function addressOf(path) {
  return new URL(path.slice(1), ROOT);
}

/** @param {string} path @returns {URL} of a WebSocket */
export function socketOf(path) {
  const address = addressOf(path);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address;
}
