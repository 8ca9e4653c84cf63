// @ts-check
/** The models that this service has: the choice, its licence, its suggestions. */

import { byId, make, setText } from "./dom.js";
import { ProblemError } from "./problem.js";
import { word } from "./times.js";

const AGAIN_MS = 3000;
const MAX_TRIES = 20;

/** @param {string} value InflightAttention */
const attention = (value) => word(value, "INFLIGHT_ATTENTION_");

/** What a session may choose from, hidden where that is nothing; what was chosen stays if it can.
 * @param {string} id @param {any[]} values @param {any} usual the stage's default
 * @param {(value: any) => string} name */
function offer(id, values, usual, name) {
  const select = byId(id);
  const { value } = select;
  const own = make("option", { value: "" }, `stage’s (${usual ? name(usual) : "unknown"})`);
  select.replaceChildren(own, ...values.map((each) => make("option", { value: each }, name(each))));
  select.value = values.map(String).includes(value) ? value : "";
  select.parentElement.hidden = values.length < 2;
}

export class Models {
  /** @param {import("./api.js").Api} api @param {import("./loras.js").Loras} loras
   * @param {(texts: string[]) => void} suggest @param {(error: unknown) => void} failed */
  constructor(api, loras, suggest, failed) {
    this.api = api;
    this.loras = loras;
    this.suggest = suggest;
    this.failed = failed;
    /** @type {any[]} */
    this.models = [];
    /** Name of the model that the page's session has; empty: none that is known. */
    this.followed = "";
    this.select = byId("model");
    this.select.addEventListener("change", () => this.show());
  }

  /** Until some stage has reported one. @param {number} [attempt] */
  async load(attempt = 1) {
    try {
      const answer = await this.api.get("/v1/models");
      this.models = answer.models ?? [];
    } catch (error) {
      const status = error instanceof ProblemError ? error.problem.status : 0;
      if (status === 404) return this.show();
      this.failed(error);
      if (status === 401 || status === 403) return this.show(); // No key: not asked for it again and again.
    }
    this.fill();
    if (!this.models.length && attempt < MAX_TRIES) setTimeout(() => this.load(attempt + 1), AGAIN_MS);
  }

  get chosen() {
    return this.models.find((model) => model.name === this.select.value);
  }

  /** Show what a session's model offers, also after a reload. @param {string} name */
  follow(name) {
    this.followed = name;
    if (this.select.value !== name) this.fill();
  }

  fill() {
    const isKnown = this.models.some((model) => model.name === this.followed);
    const options = this.models.map((model) => {
      const selected = isKnown ? model.name === this.followed : model.isDefault;
      const shape = model.width ? ` · ${model.width}×${model.height}` : "";
      return make("option", { value: model.name, selected }, `${model.name}${shape}`);
    });
    this.select.replaceChildren(...options);
    this.show();
  }

  show() {
    const model = this.chosen;
    offer("stagger", model?.staggers ?? [], model?.defaultStagger, String);
    offer("attention", model?.inflightAttentions ?? [], model?.defaultInflightAttention, attention);
    this.loras.show(model?.loras ?? []);
    this.offerCut(Boolean(model?.sceneCuts));
    byId("model-field").hidden = !model;
    byId("start-pick").hidden = !model?.imageStart || model.imageStart === "IMAGE_START_UNSPECIFIED";
    setText(byId("start-note"), model?.startNote ?? "");
    if (!model) return setText(byId("licence"), "");
    const use = model.commercialUse ? "" : " · not for commercial use";
    setText(byId("licence"), model.licence ? `Licence: ${model.licence}${use}` : "");
    this.suggest(model.examplePrompts ?? []);
  }

  /** @param {boolean} canCut */
  offerCut(canCut) {
    const [mode, cut] = [byId("mode"), byId("cut")];
    cut.hidden = cut.disabled = !canCut;
    if (!canCut && mode.value === "cut") mode.value = "immediate";
  }
}
