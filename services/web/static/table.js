// @ts-check
/** A table with one row per item. It stands still while something in it is selected, such as a name to be copied. */

import { make } from "./dom.js";

/** @typedef {Node | string} Cell */

export class Table {
  /** @param {HTMLTableElement} element @param {string} mark attribute of each row, such as "data-address"
   * @param {string} empty what to say when there is no row */
  constructor(element, mark, empty) {
    this.body = element.tBodies[0];
    this.width = element.tHead?.rows[0].cells.length ?? 1;
    this.mark = mark;
    this.heads = Array.from(element.tHead?.rows[0].cells ?? [], (cell) => cell.textContent ?? "");
    this.empty = empty;
  }

  /** @param {{key: string, level: string, cells: Cell[][]}[]} rows The first cell is the row's head. */
  show(rows) {
    const elements = rows.map((row) => this.row(row));
    if (!elements.length)
      elements.push(make("tr", {}, make("td", { class: "empty", colspan: this.width }, this.empty)));
    const selection = getSelection();
    if (selection && !selection.isCollapsed && this.body.contains(selection.anchorNode)) return;
    this.body.replaceChildren(...elements);
  }

  /** @param {{key: string, level: string, cells: Cell[][]}} row */
  row({ key, level, cells }) {
    const [head, ...rest] = cells;
    const parts = [make("th", { scope: "row" }, ...head), ...rest.map((cell, i) => this.cell(cell, i + 1))];
    return make("tr", { [this.mark]: key, "data-level": level }, ...parts);
  }

  /** With its column's name, which stands before it where the page is narrow.
   * @param {Cell[]} content @param {number} column */
  cell(content, column) {
    return make("td", { "data-head": this.heads[column] }, ...content);
  }
}
