// @ts-check
/** What a new session is to be like, beside its prompt. */

import { byId } from "./dom.js";

/** @type {[string, string][]} Fields of SessionSpec, by the ids of their inputs; an empty one is left to the server. */
const FIELDS = [
  ["seed", "seed"],
  ["width", "width"],
  ["height", "height"],
  ["fps", "fps"],
  ["blocks", "numBlocks"],
  ["stagger", "stagger"],
  ["attention", "inflightAttention"],
];

/** Checked by the server. @param {{name: string} | undefined} model
 * @returns {Record<string, unknown>} SessionSpec as JSON, without its prompts */
export function wishes(model) {
  const texts = FIELDS.map(([id, field]) => [field, byId(id).value.trim()]);
  const given = Object.fromEntries(texts.filter(([, text]) => text !== ""));
  const mode = `SWITCH_MODE_${byId("mode").value.toUpperCase()}`;
  return { ...given, switchMode: mode, ...(model ? { model: model.name } : {}) };
}
