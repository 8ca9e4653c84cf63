// @ts-check
/** A table with one row per item, kept in place from one reading to the next, so that nothing jumps under a finger. */

import { make } from "./dom.js";

/** @typedef {Node | string} Cell */

export class Table {
  /** @param {HTMLTableElement} element @param {string} mark attribute of each row, such as "data-address"
   * @param {string} empty what to say when there is no row */
  constructor(element, mark, empty) {
    this.body = element.tBodies[0];
    this.width = element.tHead?.rows[0].cells.length ?? 1;
    this.mark = mark;
    this.empty = empty;
  }

  /** @param {{key: string, level: string, cells: Cell[][]}[]} rows The first cell is the row's head. */
  show(rows) {
    const elements = rows.map((row) => this.row(row));
    if (!elements.length)
      elements.push(make("tr", {}, make("td", { class: "empty", colspan: this.width }, this.empty)));
    const { activeElement } = document;
    if (activeElement && this.body.contains(activeElement)) return; // Somebody reads it.
    this.body.replaceChildren(...elements);
  }

  /** @param {{key: string, level: string, cells: Cell[][]}} row */
  row({ key, level, cells }) {
    const [head, ...rest] = cells;
    const parts = [make("th", { scope: "row" }, ...head), ...rest.map((cell) => make("td", {}, ...cell))];
    return make("tr", { [this.mark]: key, "data-level": level }, ...parts);
  }
}
