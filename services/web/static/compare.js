// @ts-check
/** Two sessions side by side: the same seed, one clock, and what the one does sooner than the other. */

import { Api } from "./api.js";
import { byId, make, setAttribute, setText } from "./dom.js";
import { KeyDialog } from "./key_dialog.js";
import { OneClock } from "./one_clock.js";
import { ProblemBox } from "./problem.js";
import { faultOf } from "./prompts.js";
import { copy, linkTo, parseLinks } from "./share.js";
import { Side } from "./side.js";
import { readable } from "./times.js";

const AGAIN_MS = 3000;
const MAX_TRIES = 20;
const MAX_SEED = 2 ** 31;
const SAME_S = 0.1;

class Page {
  constructor() {
    this.problem = new ProblemBox(byId("problem"));
    this.api = new Api(new KeyDialog());
    /** @type {any[]} */
    this.models = [];
    this.isStarting = false;
    const listener = {
      changed: () => this.show(),
      moved: () => this.compare(),
      failed: (/** @type {unknown} */ problem) => this.problem.show(problem),
    };
    this.sides = /** @type {const} */ (["left", "right"]).map((name) => {
      const root = byId("side").content.cloneNode(true).firstElementChild;
      setAttribute(root, "id", name);
      byId("sides").append(root);
      return new Side(name, root, this.api, listener);
    });
    this.clock = new OneClock(this.sides);
    this.listen();
  }

  listen() {
    byId("form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.send();
    });
    byId("two").addEventListener("change", () => this.show());
    byId("model").addEventListener("change", () => this.offer());
    byId("pause").addEventListener("click", () => this.pause());
    byId("share").addEventListener("click", () => this.share());
    byId("copy").addEventListener("click", () => copy(byId("share-link"), byId("copy")));
    byId("end").addEventListener("click", () => this.live.forEach((side) => side.session.end()));
    addEventListener("pagehide", () => this.sides.forEach((side) => side.session.keep()));
    addEventListener("hashchange", () => location.hash.startsWith("#view") && location.reload());
  }

  /** A link to watch, the sessions of before a reload, or a page that invites to start. */
  open() {
    const links = parseLinks(location.hash);
    const isViewer = links.length === this.sides.length;
    document.body.classList.toggle("viewer", isViewer);
    if (isViewer)
      this.sides.forEach((side, place) => side.session.watch(links[place].name, links[place].token));
    else {
      if (location.hash.startsWith("#view")) this.problem.show("This link is incomplete. Ask for it again.");
      this.load();
      for (const side of this.sides) side.session.resume();
    }
    this.show();
  }

  /** @param {number} [attempt] Until some stage has reported a model. */
  async load(attempt = 1) {
    try {
      this.models = (await this.api.get("/v1/models")).models ?? [];
    } catch (error) {
      return this.problem.show(error);
    }
    const options = this.models.map(({ name, isDefault }) =>
      make("option", { value: name, selected: isDefault }, name),
    );
    byId("model").replaceChildren(...options);
    byId("model-field").hidden = this.models.length < 2;
    this.offer();
    if (!this.models.length && attempt < MAX_TRIES) setTimeout(() => this.load(attempt + 1), AGAIN_MS);
  }

  get model() {
    return this.models.find(({ name }) => name === byId("model").value);
  }

  /** The slowest cascade beside the full one. */
  offer() {
    const staggers = (this.model?.staggers ?? []).map(Number);
    const [left, right] = this.sides;
    left.offer(this.model, Math.max(...staggers));
    right.offer(this.model, Math.min(...staggers));
    if (!byId("prompt").value) byId("prompt").value = this.model?.examplePrompts?.[0] ?? "";
    this.show();
  }

  /** @returns {import("./side.js").Side[]} */
  get live() {
    return this.sides.filter((side) => side.session.isLive);
  }

  get isViewer() {
    return this.sides.some((side) => side.session.isViewer);
  }

  /** By place: the prompts that are asked for. */
  get prompts() {
    const [one, other] = [byId("prompt").value, byId("other-prompt").value];
    return [one, byId("two").checked ? other : one];
  }

  async send() {
    this.problem.clear();
    const fault = this.prompts.map(faultOf).find(Boolean);
    if (fault) return this.problem.show(`Prompt: ${fault}.`);
    if (this.live.length) this.switchBoth();
    else await this.start();
  }

  switchBoth() {
    for (const side of this.live) side.switchTo(this.prompts[this.sides.indexOf(side)], byId("mode").value);
    setText(byId("difference"), "");
  }

  /** Both or none: what stands alone compares with nothing. */
  async start() {
    if (this.isStarting) return;
    this.isStarting = true;
    byId("share-box").hidden = true;
    setText(byId("difference"), "");
    const seed = byId("seed").value.trim() || String(Math.floor(Math.random() * MAX_SEED));
    const model = this.model ? { model: this.model.name } : {};
    const prompts = this.prompts;
    const begun = await Promise.allSettled(
      this.sides.map((side, place) => side.start({ prompts: { 0: prompts[place] }, seed, ...model })),
    );
    const failed = begun.find((each) => each.status === "rejected");
    if (failed) {
      for (const side of this.live) side.session.remove();
      this.problem.show(failed.reason);
    }
    this.isStarting = false;
    this.show();
  }

  pause() {
    const isPaused = !this.sides.some((side) => side.session.isPaused);
    for (const side of this.live) side.session.setPaused(isPaused);
  }

  async share() {
    try {
      const links = await Promise.all(this.sides.map((side) => linkTo(this.api, side.session.name)));
      byId("share-link").value = `${location.origin}${location.pathname}#${links.join("&")}`;
      byId("share-box").hidden = false;
      byId("share-link").select();
    } catch (error) {
      this.problem.show(error);
    }
  }

  /** Once both have shown the last switch. */
  compare() {
    const [left, right] = this.sides;
    if (left.seen === null || right.seen === null) return;
    const sooner = Math.abs(left.seen - right.seen);
    const which = left.seen < right.seen ? "The left" : "The right";
    const who = sooner < SAME_S ? "Neither was sooner" : `${which} was ${readable(sooner)} sooner`;
    const times = `left ${readable(left.seen)}, right ${readable(right.seen)}`;
    setText(byId("difference"), `New prompt seen in: ${times}. ${who}.`);
  }

  show() {
    const { live } = this;
    const isTwo = byId("two").checked;
    byId("other-prompt").hidden = !isTwo;
    setText(byId("prompt-label"), isTwo ? "Prompts, left and right" : "Prompt of both");
    setText(byId("send"), live.length ? "Switch" : "Start");
    byId("send").disabled = this.isStarting;
    byId("options").disabled = live.length > 0;
    byId("share").disabled = live.length < this.sides.length;
    for (const id of ["pause", "end"]) byId(id).disabled = !live.length;
    const isPaused = live.some((side) => side.session.isPaused);
    setAttribute(byId("pause"), "aria-pressed", String(isPaused));
    setText(byId("pause"), isPaused ? "Resume" : "Pause");
    for (const side of this.sides) {
      for (const field of ["stagger", "inflightAttention"]) side.select(field).disabled = live.length > 0;
      const stagger = side.wish.stagger ? `, stagger ${side.wish.stagger}` : "";
      side.setTitle(`${side.name === "left" ? "Left" : "Right"}${this.isViewer ? "" : stagger}`);
    }
  }
}

new Page().open();
