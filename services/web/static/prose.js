// @ts-check
/** Comments of the contract as elements: paragraphs, lists, headings, drawings, `code`, and no other Markdown. */

import { make } from "./dom.js";

/** @param {string} text @returns {Node[]} */
export function prose(text) {
  return text.split("\n\n").filter(Boolean).flatMap(block);
}

/** @param {string} text without an empty line @returns {Node[]} */
function block(text) {
  if (text.startsWith("    ")) return [make("pre", { tabindex: 0 }, text.replace(/^ {4}/gm, ""))];
  if (text.startsWith("# ")) return [make("h3", {}, text.slice(2))];
  const [first, ...points] = text.split(/^- /m);
  const items = points.map((point) => make("li", {}, ...inline(point)));
  return [
    ...(first ? [make("p", {}, ...inline(first))] : []),
    ...(items.length ? [make("ul", {}, ...items)] : []),
  ];
}

/** @param {string} text */
function inline(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", {}, part) : part));
}
