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

export class Share {
  /** @param {import("./api.js").Api} api @param {(error: unknown) => void} failed */
  constructor(api, failed) {
    this.api = api;
    this.failed = failed;
    this.input = byId("share-link");
    this.box = byId("share-box");
    this.copyButton = byId("copy");
    this.copyButton.addEventListener("click", () => this.copy());
  }

  clear() {
    this.box.hidden = true;
    this.input.value = "";
  }

  /** @param {string} name of the session */
  async show(name) {
    try {
      const answer = await this.api.post(`/v1/${name}:issueResumeToken`, { role: VIEWER, ttl: TTL });
      const values = new URLSearchParams({ view: name.replace("sessions/", ""), token: answer.resumeToken });
      this.input.value = `${location.origin}${location.pathname}#${values}`;
      this.box.hidden = false;
      this.input.select();
    } catch (error) {
      this.failed(error);
    }
  }

  async copy() {
    this.input.select();
    try {
      await navigator.clipboard.writeText(this.input.value);
    } catch {
      document.execCommand("copy"); // Pages over plain HTTP have no clipboard of their own.
    }
    setText(this.copyButton, "Copied");
    setTimeout(() => setText(this.copyButton, "Copy"), SHOWN_MS);
  }
}
