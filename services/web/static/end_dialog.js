// @ts-check
/** Asks before a session ends: nobody can start it again. */

import { byId } from "./dom.js";

/** @param {() => void} end */
export function askBeforeEnd(end) {
  const dialog = byId("end-dialog");
  byId("end").addEventListener("click", () => dialog.showModal());
  byId("end-cancel").addEventListener("click", () => dialog.close());
  byId("end-sure").addEventListener("click", () => {
    dialog.close();
    end();
  });
}
