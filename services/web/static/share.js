// @ts-check
/** A link for viewers. Its secret is behind the `#`, which browsers keep to themselves. */

import { byId, setText } from "./dom.js";
import { VIEWER } from "./session.js";

const TTL = "86400s";
const SHOWN_MS = 2000;

/** @param {string} hash such as `#view=abc&token=…` @returns {{name: string, token: string} | null} */
export function parseLink(hash) {
  const values = new URLSearchParams(hash.slice(1));
  const [session, token] = [values.get("view") ?? "", values.get("token") ?? ""];
  return /^[a-z0-9-]{1,63}$/.test(session) && token ? { name: `sessions/${session}`, token } : null;
}

/** @param {string} hash such as `#view=abc&token=…&view=def&token=…` @returns {{name: string, token: string}[]} */
export function parseLinks(hash) {
  const values = new URLSearchParams(hash.slice(1));
  const tokens = values.getAll("token");
  const links = values.getAll("view").map((view, place) => {
    return parseLink(`#${new URLSearchParams({ view, token: tokens[place] ?? "" })}`);
  });
  return links.every((link) => link !== null) ? links : [];
}

/** @param {import("./api.js").Api} api @param {string} name of the session
 * @returns {Promise<string>} what stands behind the `#`. Raises ProblemError. */
export async function linkTo(api, name) {
  const answer = await api.post(`/v1/${name}:issueResumeToken`, { role: VIEWER, ttl: TTL });
  return String(new URLSearchParams({ view: name.replace("sessions/", ""), token: answer.resumeToken }));
}

/** @param {HTMLInputElement} input @param {HTMLElement} button */
export async function copy(input, button) {
  input.select();
  try {
    await navigator.clipboard.writeText(input.value);
  } catch {
    document.execCommand("copy"); // Pages over plain HTTP have no clipboard of their own.
  }
  setText(button, "Copied");
  setTimeout(() => setText(button, "Copy"), SHOWN_MS);
}

export class Share {
  /** @param {import("./api.js").Api} api @param {(error: unknown) => void} failed */
  constructor(api, failed) {
    this.api = api;
    this.failed = failed;
    this.input = byId("share-link");
    this.box = byId("share-box");
    const button = byId("copy");
    button.addEventListener("click", () => copy(this.input, button));
  }

  clear() {
    this.box.hidden = true;
    this.input.value = "";
  }

  /** @param {string} name of the session */
  async show(name) {
    try {
      const link = await linkTo(this.api, name);
      this.input.value = `${location.origin}${location.pathname}#${link}`;
      this.box.hidden = false;
      this.input.select();
    } catch (error) {
      this.failed(error);
    }
  }
}
